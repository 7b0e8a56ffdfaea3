"""The database of a test."""

from __future__ import annotations

import re
import sqlite3
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

    def query(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        """Run one statement on its own connection. Placeholders are ``?``; no other ``?`` is allowed.

        Tests write ``ID`` bare, which PostgreSQL takes for ``id``.
        """
        if self.provider == "postgresql":
            sql = re.sub(r'(?<!")\bID\b(?!")', '"ID"', sql)
        if self.server is not None:
            sql = sql.replace("%", "%%").replace("?", "%s")
        connection = self.connect()
        try:
            cursor = connection.cursor()
            cursor.execute(sql, params)
            return list(cursor.fetchall()) if cursor.description else []
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
