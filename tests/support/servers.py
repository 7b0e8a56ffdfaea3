"""Real database servers for the tests: private ones, and one that a person names."""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import pymysql
from psycopg.types.string import TextLoader
from pymysql.connections import Connection

MYSQL_URL = "PYEXPERIMENTER_TEST_MYSQL_URL"
MYSQLD = "PYEXPERIMENTER_TEST_MYSQLD"
MARIADB_PATH = "PYEXPERIMENTER_TEST_MARIADB_PATH"
POSTGRESQL_PATH = "PYEXPERIMENTER_TEST_POSTGRESQL_PATH"
START_SECONDS = 60  # generous: a busy CI machine needs long, and a server that fails ends the wait at once
STOP_SECONDS = 30


class ServerUnavailable(Exception):
    """No such server can be had here; the message says why and what to do."""


class Server:
    """A running MySQL or MariaDB and a user of it who may do everything."""

    provider = "mysql"

    def __init__(self, name: str, host: str, port: int, user: str, password: str) -> None:
        self.name = name
        self.host = host
        self.port = port
        self.user = user
        self.password = password

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} at {self.host}:{self.port}>"

    def __reduce__(self) -> tuple[type[Server], tuple[str, str, int, str, str]]:
        # Another process may use a server that this one owns.
        return self.kind, (self.name, self.host, self.port, self.user, self.password)

    @property
    def kind(self) -> type[Server]:
        """The class of a server that another process owns."""
        return Server

    @functools.cached_property
    def version(self) -> str:
        return str(self._run("SELECT VERSION()")[0][0])

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
        self._run(f"CREATE DATABASE `{name}`")

    def drop_database(self, name: str) -> None:
        # A transaction that a test left open would block this for a day, the servers' default.
        self._run("SET lock_wait_timeout = 20", f"DROP DATABASE IF EXISTS `{name}`")

    def create_user(self, name: str, password: str, database: str) -> None:
        """Create a user who may do everything in a database."""
        for host in ("127.0.0.1", "localhost"):
            user = f"{name}@'{host}'"
            self._run(f"CREATE USER {user} IDENTIFIED BY '{password}'", f"GRANT ALL ON `{database}`.* TO {user}")

    def drop_user(self, name: str, database: str) -> None:
        """Drop the user, and with it, where it must be, the database."""
        self._run(f"DROP USER {name}@'127.0.0.1', {name}@localhost")

    def _run(self, *statements: str) -> list[tuple[Any, ...]]:
        with self.connect() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())


def server_from_url(url: str) -> Server:
    """Take a server that a person names, e.g. ``mysql://user:p%40ss@host:3306``; it must answer."""
    try:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "mysql" or not parts.hostname or parts.username is None:
            raise ValueError("it is not of that form")
        server = Server(
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


class PrivateMariaDB(Server):
    """A throw-away MariaDB: own directory, free port, a child of this process, which it does not outlive.

    Start it in the main thread, since Linux takes the end of the thread that started a child for the parent's end.
    `options` are the server's own.
    """

    brand = "mariadb"
    options = ("--innodb-log-file-size=8M", "--innodb-fast-shutdown=2")

    def __init__(self, *options: str) -> None:
        self.options = (*self.options, *options)
        self._program = self.find_program()
        template = self.new_data()
        super().__init__(self.brand, "127.0.0.1", free_port(), "experimenter", "p@ss'w\"ord%")
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        self._directory = Path(tempfile.mkdtemp(prefix=f"pe-{self.brand}-"))
        atexit.register(self.close)
        shutil.copytree(template, self._directory / "data")
        (self._directory / "user.sql").write_text(self._user_sql())
        self.start()

    @staticmethod
    def find_program() -> str:
        """Return the path of the server's program."""
        return _find("mariadbd")

    @staticmethod
    def new_data() -> Path:
        """Return a data directory to copy."""
        return _template()

    def start(self) -> None:
        """Start it, on the data it had before, and return when it answers."""
        if self._process is not None:
            raise RuntimeError(f"{self} is running already")
        home = self._directory
        # setpriv: if this process is killed, so that neither a fixture nor atexit runs, the kernel kills the server.
        guard = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        self._process = subprocess.Popen(
            [
                *guard,
                self._program,
                "--no-defaults",
                *_as_root(),
                f"--datadir={home / 'data'}",
                f"--socket={home / 's'}",
                f"--pid-file={home / 'p'}",
                f"--tmpdir={home}",
                f"--log-error={home / 'err'}",
                f"--init-file={home / 'user.sql'}",  # runs before the first connection is let in
                f"--port={self.port}",
                f"--bind-address={self.host}",
                "--skip-name-resolve",
                "--innodb-buffer-pool-size=64M",
                *self.options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # only what comes before --log-error is read
        )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.connect().close()
                return
            except pymysql.Error as error:
                exit_code = self._process.poll()
                if exit_code is None and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                self.kill()
                what = f"does not answer: {error}" if exit_code is None else f"ended with exit code {exit_code}"
                raise ServerUnavailable(f"{self._program} {what}; {self._last_words()}") from error

    def stop(self) -> None:
        """Shut it down in good order; nothing happens if it does not run."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def kill(self) -> None:
        """SIGKILL, as a crash would end it; ``start()`` recovers what was committed."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """Stop it and remove its data."""
        if os.getpid() == self._owner:  # a forked child inherits atexit's list, but not the server
            self.stop()
            shutil.rmtree(self._directory, ignore_errors=True)
            atexit.unregister(self.close)

    def _user_sql(self) -> str:
        """Make the user of the tests: root has no password here, which would not test ours."""
        password = self.password.replace("\\", "\\\\").replace("'", "''")
        return "".join(
            f"CREATE USER IF NOT EXISTS '{self.user}'@'{host}' IDENTIFIED BY '{password}';\n"
            f"GRANT ALL PRIVILEGES ON *.* TO '{self.user}'@'{host}' WITH GRANT OPTION;\n"
            for host in ("127.0.0.1", "localhost")
        )

    def _last_words(self) -> str:
        log = self._directory / "err"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        errors = [line for line in lines if "[ERROR]" in line] or lines
        return errors[-1] if errors else "it wrote no log"


class PrivateMySQL(PrivateMariaDB):
    """The same of MySQL."""

    brand = "mysql"
    # Debian's default for the second is a directory that only the package's installation makes.
    options = ("--innodb-redo-log-capacity=32M", "--secure-file-priv=NULL", "--mysqlx=OFF", "--disable-log-bin")

    @staticmethod
    def find_program() -> str:
        """Return the path of a `mysqld`: the one named, or what is on PATH, if it is not MariaDB under another name."""
        named = os.environ.get(MYSQLD)
        found = named or shutil.which("mysqld") or shutil.which("mysqld", path="/usr/sbin")
        hint = f"to test it, set {MYSQLD}=path/of/mysqld or {MYSQL_URL}=mysql://user:password@host:port"
        if found is None:
            raise ServerUnavailable(f"optional; {hint}")
        try:
            version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise ServerUnavailable(f"{found} does not tell its version: {error}; {hint}") from error
        if "MariaDB" in version:
            raise ServerUnavailable(f"optional; {found} is MariaDB; {hint}")
        return found

    @staticmethod
    def new_data() -> Path:
        """Return a data directory to copy."""
        return _mysql_template()


@functools.cache
def _mysql_template() -> Path:
    home = Path(tempfile.mkdtemp(prefix="pe-mysql-template-"))
    atexit.register(_remove, home, os.getpid())
    _initialise(
        PrivateMySQL.find_program(),
        "--no-defaults",
        *_as_root(),
        "--initialize-insecure",
        f"--datadir={home / 'data'}",
        *PrivateMySQL.options,
    )
    return home / "data"


class PostgreSQLServer(Server):
    """A running PostgreSQL and a user of it who may do everything."""

    provider = "postgresql"

    @property
    def kind(self) -> type[Server]:
        """The class of a server that another process owns."""
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
        self._run(f'CREATE DATABASE "{name}"')

    def drop_database(self, name: str) -> None:
        self._run(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def create_user(self, name: str, password: str, database: str) -> None:
        self._run(f"CREATE USER {name} PASSWORD '{password}'", f'ALTER DATABASE "{database}" OWNER TO {name}')

    def drop_user(self, name: str, database: str) -> None:
        self.drop_database(database)
        self._run(f"DROP USER {name}")

    def _run(self, *statements: str) -> list[tuple[Any, ...]]:
        with self.connect() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []


class PrivatePostgreSQL(PostgreSQLServer):
    """A throw-away PostgreSQL: own directory, free port, a child of this process, which it does not outlive.

    It refuses to run as root, so root runs it as another user. Start it in the main thread, as MariaDB. `options` are
    the server's own (``name=value``), `files` texts of files in its data directory.
    """

    def __init__(self, *options: str, files: Mapping[str, str] | None = None) -> None:
        self._options = options
        self._program = _find_postgresql("postgres")
        super().__init__("postgresql", "127.0.0.1", free_port(), "experimenter", "p@ss'w\"ord%")
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        self._directory = Path(tempfile.mkdtemp(prefix="pe-postgresql-"))
        atexit.register(self.close)
        data = shutil.copytree(_postgresql_template(), self._directory / "data")
        for name, text in (files or {}).items():
            (data / name).touch(0o600)
            (data / name).write_text(text)
        _hand_over(self._directory)
        self.start()

    def start(self) -> None:
        """Start it, on the data it had before, and return when it answers."""
        if self._process is not None:
            raise RuntimeError(f"{self} is running already")
        guard = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with (self._directory / "err").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *guard,
                    self._program,
                    *("-D", str(self._directory / "data")),
                    *("-p", str(self.port)),
                    *("-k", str(self._directory)),
                    *("-c", f"listen_addresses={self.host}"),
                    *("-c", "max_connections=200"),
                    *("-c", "fsync=off"),  # a process that is killed loses nothing by it, only a machine would
                    *(part for option in self._options for part in ("-c", option)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                **_unprivileged(),
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.connect().close()
                return
            except psycopg.Error as error:
                exit_code = self._process.poll()
                if exit_code is None and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                self.kill()
                what = f"does not answer: {error}" if exit_code is None else f"ended with exit code {exit_code}"
                words = (self._directory / "err").read_text(errors="replace").splitlines() or ["it wrote no log"]
                raise ServerUnavailable(f"{self._program} {what}; {words[-1]}") from error

    def stop(self) -> None:
        """Shut it down in good order, whoever is connected; nothing happens if it does not run."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def kill(self) -> None:
        """SIGKILL, as a crash would end it; ``start()`` recovers what was committed."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            # Its own processes notice, and hold the data until they have.
            lock = self._directory / "data" / "postmaster.pid"
            lock.unlink(missing_ok=True)
            self._process = None

    def close(self) -> None:
        """Stop it and remove its data."""
        if os.getpid() == self._owner:  # a forked child inherits atexit's list, but not the server
            self.stop()
            shutil.rmtree(self._directory, ignore_errors=True)
            atexit.unregister(self.close)


@functools.cache
def _postgresql_template() -> Path:
    """Initialise a data directory once in this process, with the tests' user and a password that is needed."""
    program = _find_postgresql("initdb")
    home = Path(tempfile.mkdtemp(prefix="pe-postgresql-template-"))
    atexit.register(_remove, home, os.getpid())
    (home / "password").write_text("p@ss'w\"ord%")
    _hand_over(home)
    done = subprocess.run(
        [
            program,
            *("-D", str(home / "data")),
            *("-U", "experimenter"),
            f"--pwfile={home / 'password'}",
            "--auth=scram-sha-256",
            "--locale=C",
            "--encoding=UTF8",
            "--no-sync",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **_unprivileged(),
    )
    if done.returncode != 0:
        raise ServerUnavailable(f"{program} failed: {' '.join(done.stdout.split())[:300]}")
    return home / "data"


def _find_postgresql(program: str) -> str:
    """Look on PATH, and where Debian keeps it; the newest version counts."""
    folders = os.environ.get(POSTGRESQL_PATH)
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    search = folders if folders is not None else os.pathsep.join([os.environ.get("PATH", ""), *map(str, debian)])
    found = shutil.which(program, path=search)
    if found is None:
        raise ServerUnavailable(
            f"there is no {program} on PATH or in /usr/lib/postgresql; apt-get install postgresql, "
            f"or list the folders that have it in {POSTGRESQL_PATH}"
        )
    return found


def _unprivileged() -> dict[str, Any]:
    """Return what has root run a child as somebody else, since PostgreSQL refuses root."""
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


@functools.cache
def _template() -> Path:
    """Initialise a data directory once in this process; to copy it is several times faster than to make it anew."""
    program = _find("mariadb-install-db")
    home = Path(tempfile.mkdtemp(prefix="pe-mariadb-template-"))
    atexit.register(_remove, home, os.getpid())
    data = home / "data"
    _initialise(
        program,
        "--no-defaults",
        *_as_root(),
        f"--datadir={data}",
        f"--tmpdir={home}",  # a server that starts removes all temporary tables there, those of others, too
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        "--skip-name-resolve",
        "--innodb-log-file-size=4M",
    )
    return data


def _initialise(*command: str) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise ServerUnavailable(f"{command[0]} failed: {' '.join(done.stdout.split())[:300]}")


def _remove(directory: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(directory, ignore_errors=True)


def _find(program: str) -> str:
    folders = os.environ.get(MARIADB_PATH)
    if folders is None:  # /usr/sbin is where Debian has it and a user's PATH does not look
        found, place = shutil.which(program) or shutil.which(program, path="/usr/sbin"), "on PATH or in /usr/sbin"
    else:
        found, place = shutil.which(program, path=folders), f"in {MARIADB_PATH}={folders}"
    if found is None:
        raise ServerUnavailable(
            f"there is no {program} {place}; apt-get install mariadb-server-core mariadb-client-core, "
            f"or list the folders that have it in {MARIADB_PATH}"
        )
    return found


def _as_root() -> list[str]:
    """MariaDB runs as root only when told to, and as others only when not told."""
    return ["--user=root"] if os.geteuid() == 0 else []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
