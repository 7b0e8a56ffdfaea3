"""The database of a test."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.server import Server

A_FILE_AND_A_SERVER = ["sqlite", "mariadb"]  # enough databases for tests of processes


@dataclass(frozen=True)
class Target:
    """A fresh database: what a config needs to name it, and queries that bypass the library."""

    name: str  # sqlite | mariadb | mysql | postgresql
    provider: str  # as in a config: sqlite | mysql | postgresql
    database: str  # the path of the file, or the name on the server
    server: Server | None = None
    credentials_file: Path | None = None

    def connect(self) -> Any:
        """Open a connection of the driver, in autocommit mode, as a person with a SQL client would."""
        if self.server is not None:
            return self.server.connect(self.database)
        connection = sqlite3.connect(self.database, timeout=30, isolation_level=None)
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def native(self, sql: str) -> str:
        """Return a statement as this database needs it: tests write ``ID`` bare, which PostgreSQL takes for ``id``."""
        return re.sub(r'(?<!")\bID\b(?!")', '"ID"', sql) if self.provider == "postgresql" else sql

    def sessions_waiting(self) -> int:
        """Return how many sessions of this database on a server wait for a lock on a row."""
        waiting = {
            "mysql": "SELECT COUNT(*) FROM information_schema.innodb_trx t JOIN information_schema.processlist p "
            "ON p.id = t.trx_mysql_thread_id WHERE t.trx_state = 'LOCK WAIT' AND p.db = DATABASE()",
            "postgresql": "SELECT COUNT(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'",
        }
        return int(self.query(waiting[self.provider])[0][0])

    @contextmanager
    def transaction(self) -> Iterator[Callable[..., None]]:
        """Yield a function that runs statements in a transaction of its own connection; without any, it commits."""
        connection = self.connect()
        try:
            cursor = connection.cursor()
            cursor.execute("BEGIN")

            def run(*statements: str) -> None:
                for statement in statements or ("COMMIT",):
                    cursor.execute(self.native(statement))

            yield run
        finally:
            connection.close()

    def query(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        """Run one statement on its own connection; see `session`."""
        with self.session() as run:
            return run(sql, *params)

    @contextmanager
    def session(self) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
        """Open a connection, and yield a function that runs a statement on it: ``run(sql, *params)``.

        Placeholders are ``?``; no other ``?`` is allowed.
        """
        connection = self.connect()

        def run(sql: str, *params: Any) -> list[tuple[Any, ...]]:
            sql = self.native(sql)
            if self.server is not None:
                sql = sql.replace("%", "%%").replace("?", "%s")
            cursor = connection.cursor()
            cursor.execute(sql, params)
            return list(cursor.fetchall()) if cursor.description else []

        try:
            yield run
        finally:
            connection.close()


def write_credentials(path: Path, server: Server) -> Path:
    """Write the credential file of a server's user, readable only by its owner."""
    path.touch(mode=0o600)
    credentials = {
        "CREDENTIALS": {
            "Database": {"user": server.user, "password": server.password},
            "Connection": {"Standard": {"server": server.host, "port": server.port}},
        }
    }
    path.write_text(yaml.safe_dump(credentials, sort_keys=False))
    return path
