"""PostgreSQL servers."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.string import TextLoader

from tests.support.private_server import PrivateServer, find_program, run
from tests.support.server import PASSWORD, USER, Server

with suppress(ImportError):  # Windows lacks it
    import pwd

POSTGRESQL_PATH = "PYEXPERIMENTER_TEST_POSTGRESQL_PATH"


class PostgreSQLServer(Server):
    """A running PostgreSQL."""

    provider = "postgresql"

    @property
    def kind(self) -> type[Server]:
        return PostgreSQLServer

    def connect(self, database: str | None = None) -> Any:
        connection = psycopg.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            dbname=database or "postgres",
            autocommit=True,
            connect_timeout=10,
        )
        connection.adapters.register_loader("json", TextLoader)
        return connection

    def create_database(self, name: str) -> None:
        self.run(f'CREATE DATABASE "{name}"')

    def drop_database(self, name: str) -> None:
        self.run(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def create_user(self, name: str, password: str, database: str) -> None:
        self.run(f"CREATE USER {name} PASSWORD '{password}'", f'ALTER DATABASE "{database}" OWNER TO {name}')

    def drop_user(self, name: str, database: str) -> None:
        self.drop_database(database)
        self.run(f"DROP USER {name}")


class PrivatePostgreSQL(PrivateServer, PostgreSQLServer):
    """A private PostgreSQL. It refuses to run as root, so root runs it as another user.

    `options` are the server's own (``name=value``), `files` texts of files in its data directory.
    """

    brand = "postgresql"
    stop_signal = signal.SIGINT  # does not wait for open connections
    not_ready = psycopg.Error

    def __init__(self, *options: str, files: Mapping[str, str] | None = None) -> None:
        self._program = _find("postgres")
        template = self.template()
        PrivateServer.__init__(self)
        PostgreSQLServer.__init__(self, self.brand, self.host, self.port, USER, PASSWORD)
        self._options = options
        data = shutil.copytree(template, self.home / "data")
        for name, text in (files or {}).items():
            (data / name).touch(0o600)
            (data / name).write_text(text)
        _hand_over(self.home)
        self.start()

    @classmethod
    def initialize(cls, home: Path) -> None:
        """Create the data directory, with the tests' user, who needs a password."""
        (home / "password").write_text(PASSWORD)
        _hand_over(home)
        run(
            _find("initdb"),
            *("-D", str(home / "data")),
            *("-U", USER),
            f"--pwfile={home / 'password'}",
            "--auth=scram-sha-256",
            "--locale=C",
            "--encoding=UTF8",
            "--no-sync",
            **_unprivileged(),
        )

    def command(self) -> list[str]:
        return [
            self._program,
            *("-D", str(self.home / "data")),
            *("-p", str(self.port)),
            *("-k", str(self.home)),
            *("-c", f"listen_addresses={self.host}"),
            *("-c", "max_connections=200"),
            *("-c", "fsync=off"),  # only a crash of the machine could lose data by it
            *(part for option in self._options for part in ("-c", option)),
        ]

    def process_options(self) -> dict[str, Any]:
        return _unprivileged()

    def probe(self) -> None:
        self.connect().close()

    def kill(self) -> None:
        super().kill()
        # Its own processes notice, and hold the data until they have.
        (self.home / "data" / "postmaster.pid").unlink(missing_ok=True)


def _find(program: str) -> str:
    """Look on PATH, and where Debian has it, newest version first."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    return find_program(program, "postgresql", [str(path) for path in debian], POSTGRESQL_PATH)


def _unprivileged() -> dict[str, Any]:
    """Return the options of subprocess that make root run a program as another user: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return {}
    user = _unprivileged_user()
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": "/"}


def _unprivileged_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _hand_over(directory: Path) -> None:
    """Give a directory and all in it to the user that the server runs as."""
    if os.geteuid() == 0:
        user = _unprivileged_user()
        for path in [directory, *directory.rglob("*")]:
            os.chown(path, user.pw_uid, user.pw_gid)
