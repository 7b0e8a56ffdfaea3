"""The fixtures that all database tests rely on do what they promise."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile

import psycopg
import pymysql
import pytest
import yaml

from tests.support.mariadb import PrivateMariaDB
from tests.support.mysql import MySQLServer, server_from_url
from tests.support.private_server import ServerUnavailable
from tests.support.target import Target


@pytest.mark.parametrize("time", ["first", "second"])
def test_each_test_gets_a_fresh_database(target: Target, time: str) -> None:
    target.query("CREATE TABLE seen (note VARCHAR(20))")  # would fail the second time in the same database
    target.query("INSERT INTO seen VALUES (?)", "100% 'quoted'")
    target.query("INSERT INTO seen VALUES ('100%')")
    assert target.query("SELECT note FROM seen WHERE note LIKE '100%' AND note <> ?", "100%") == [("100% 'quoted'",)]


def test_foreign_keys_are_enforced(target: Target) -> None:
    target.query("CREATE TABLE parent (ID INTEGER PRIMARY KEY)")
    target.query("CREATE TABLE child (parent_id INTEGER, FOREIGN KEY (parent_id) REFERENCES parent (ID))")
    with pytest.raises((sqlite3.IntegrityError, pymysql.IntegrityError, psycopg.IntegrityError)):
        target.query("INSERT INTO child VALUES (1)")


def test_credentials_file_opens_the_database(target: Target) -> None:
    if target.credentials_file is None:
        assert target.name == "sqlite"
        return
    credentials = yaml.safe_load(target.credentials_file.read_text())["CREDENTIALS"]
    login, address = credentials["Database"], credentials["Connection"]["Standard"]
    assert target.server is not None
    server = target.server.kind("again", address["server"], address["port"], login["user"], login["password"])
    with server.connect(target.database) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_database()" if target.name == "postgresql" else "SELECT DATABASE()")
        assert cursor.fetchone() == (target.database,)
    assert stat.S_IMODE(target.credentials_file.stat().st_mode) == 0o600


def test_awkward_password_is_needed_and_works(mariadb_target: Target) -> None:
    server = mariadb_target.server
    assert server is not None
    assert set("@'\"%") <= set(server.password)
    assert "MariaDB" in server.version
    with pytest.raises(pymysql.OperationalError):
        MySQLServer("wrong", server.host, server.port, server.user, "wrong").connect()


def test_server_is_taken_from_a_url(mariadb_target: Target) -> None:
    server = mariadb_target.server
    assert server is not None
    named = server_from_url(f"mysql://{server.user}:p%40ss%27w%22ord%25@{server.host}:{server.port}")
    assert (named.name, named.version) == ("mysql", server.version)
    with pytest.raises(ServerUnavailable, match="does not answer"):
        server_from_url(f"mysql://{server.user}:wrong@{server.host}:{server.port}")
    with pytest.raises(ServerUnavailable, match="must be mysql://") as caught:
        server_from_url("postgres://me:secret@localhost")
    assert "secret" not in str(caught.value)


def test_killed_server_keeps_what_was_committed(private_mariadb: PrivateMariaDB) -> None:
    private_mariadb.create_database("kept")
    with private_mariadb.connect("kept") as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE numbers (n INT)")
        for n in range(50):
            cursor.execute("INSERT INTO numbers VALUES (%s)", (n,))
        private_mariadb.kill()
        with pytest.raises(pymysql.OperationalError):
            cursor.execute("SELECT 1")
    with pytest.raises(pymysql.OperationalError):
        private_mariadb.connect()
    private_mariadb.start()
    with private_mariadb.connect("kept") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*), SUM(n) FROM numbers")
        assert cursor.fetchone() == (50, sum(range(50)))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a child die with its parent")
def test_server_does_not_outlive_a_killed_owner(private_mariadb: PrivateMariaDB) -> None:
    """SIGKILL leaves the owner no time to stop its server."""
    code = (
        "import time; from tests.support.mariadb import PrivateMariaDB\n"
        "print(PrivateMariaDB().port, flush=True); time.sleep(600)"
    )
    with tempfile.TemporaryDirectory(prefix="pe-") as left_behind:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": left_behind}
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as owner:
            assert owner.stdout is not None
            port = int(owner.stdout.readline())
            orphan = MySQLServer("orphan", "127.0.0.1", port, private_mariadb.user, private_mariadb.password)
            orphan.connect().close()
            owner.kill()
        with pytest.raises(pymysql.OperationalError):
            for _ in range(500):
                orphan.connect().close()
