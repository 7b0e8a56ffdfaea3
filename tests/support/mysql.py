"""MySQL servers: private ones, and the one that an environment variable names."""

from __future__ import annotations

import os
import shutil
import subprocess
import urllib.parse
from pathlib import Path
from typing import Any

import pymysql
from pymysql.connections import Connection

from tests.support.private_server import PrivateServer, ServerUnavailable, run
from tests.support.server import PASSWORD, USER, Server

MYSQL_URL = "PYEXPERIMENTER_TEST_MYSQL_URL"
MYSQLD = "PYEXPERIMENTER_TEST_MYSQLD"


class MySQLServer(Server):
    """A running MySQL or MariaDB."""

    provider = "mysql"

    @property
    def kind(self) -> type[Server]:
        return MySQLServer

    def connect(self, database: str | None = None) -> Connection[Any]:
        return pymysql.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            database=database,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=10,
        )

    def create_database(self, name: str) -> None:
        """Create it with the server's own defaults, as its users do; MariaDB's is latin1 up to 11.5."""
        self.run(f"CREATE DATABASE `{name}`")

    def drop_database(self, name: str) -> None:
        # A transaction that a test left open would block this for a day, the servers' default.
        self.run("SET lock_wait_timeout = 20", f"DROP DATABASE IF EXISTS `{name}`")

    def create_user(self, name: str, password: str, database: str) -> None:
        for host in ("%", "localhost"):
            user = f"{name}@'{host}'"
            self.run(f"CREATE USER {user} IDENTIFIED BY '{password}'", f"GRANT ALL ON `{database}`.* TO {user}")

    def drop_user(self, name: str, database: str) -> None:
        self.run(f"DROP USER {name}@'%', {name}@localhost")


def server_from_url(url: str) -> MySQLServer:
    """Return the server at a URL such as ``mysql://user:p%40ss@host:3306``; it must answer."""
    try:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "mysql" or not parts.hostname or parts.username is None:
            raise ValueError("it is not of that form")
        server = MySQLServer(
            name="mysql",
            host=parts.hostname,
            port=parts.port or 3306,
            user=urllib.parse.unquote(parts.username),
            password=urllib.parse.unquote(parts.password or ""),
        )
    except ValueError as error:  # the URL stays out of the message: it holds a password
        raise ServerUnavailable(f"{MYSQL_URL} must be mysql://user:password@host:port: {error}") from error
    try:
        _ = server.version
    except pymysql.Error as error:
        raise ServerUnavailable(f"{server} named by {MYSQL_URL} does not answer: {error}") from error
    return server


class PrivateMySQL(PrivateServer, MySQLServer):
    """A private MySQL; `options` are the server's own."""

    brand = "mysql"
    not_ready = pymysql.Error
    # Debian's default for the second is a directory that only the package's installation makes.
    options = ("--innodb-redo-log-capacity=32M", "--secure-file-priv=NULL", "--mysqlx=OFF", "--disable-log-bin")

    def __init__(self, *options: str) -> None:
        self._program = self.find_program()
        template = self.template()
        PrivateServer.__init__(self)
        MySQLServer.__init__(self, self.brand, self.host, self.port, USER, PASSWORD)
        self.options = (*self.options, *options)
        shutil.copytree(template, self.home / "data")
        (self.home / "user.sql").write_text(self._user_sql())
        self.start()

    @staticmethod
    def find_program() -> str:
        """Return the path of a `mysqld`: the one named, or what is on PATH, if it is not MariaDB under another name."""
        found = os.environ.get(MYSQLD) or shutil.which("mysqld") or shutil.which("mysqld", path="/usr/sbin")
        hint = f"to test it, set {MYSQLD}=path/of/mysqld or {MYSQL_URL}=mysql://user:password@host:port"
        if found is None:
            raise ServerUnavailable(f"optional; {hint}")
        try:
            version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise ServerUnavailable(f"{found} does not report its version: {error}; {hint}") from error
        if "MariaDB" in version:
            raise ServerUnavailable(f"optional; {found} is MariaDB; {hint}")
        return found

    @classmethod
    def initialize(cls, home: Path) -> None:
        run(
            cls.find_program(),
            "--no-defaults",
            *as_root(),
            "--initialize-insecure",
            f"--datadir={home / 'data'}",
            *cls.options,
        )

    def command(self) -> list[str]:
        home = self.home
        return [
            self._program,
            "--no-defaults",
            *as_root(),
            f"--datadir={home / 'data'}",
            f"--socket={home / 's'}",
            f"--pid-file={home / 'p'}",
            f"--tmpdir={home}",
            f"--init-file={home / 'user.sql'}",  # runs before the first connection is accepted
            f"--port={self.port}",
            f"--bind-address={self.host}",
            "--skip-name-resolve",
            "--innodb-buffer-pool-size=64M",
            *self.options,
        ]

    def probe(self) -> None:
        self.connect().close()

    def _user_sql(self) -> str:
        """Return statements that create the tests' user: root has no password here, so it would not test ours."""
        password = self.password.replace("\\", "\\\\").replace("'", "''")
        return "".join(
            f"CREATE USER IF NOT EXISTS '{self.user}'@'{host}' IDENTIFIED BY '{password}';\n"
            f"GRANT ALL PRIVILEGES ON *.* TO '{self.user}'@'{host}' WITH GRANT OPTION;\n"
            for host in ("127.0.0.1", "localhost")
        )


def as_root() -> list[str]:
    """Return the option that root needs, and that others must not set."""
    return ["--user=root"] if os.geteuid() == 0 else []
