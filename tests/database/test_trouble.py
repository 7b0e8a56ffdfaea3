"""Databases that cannot be reached, read, written or filled: each error has its class, its place and a remedy."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pymysql
import pytest
import yaml

from pyexperimenter import ExperimentStatus, ResultProcessor
from pyexperimenter.config import load_config
from pyexperimenter.database.backends import sqlite
from pyexperimenter.database.backends.sqlite import network_file_system
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import (
    AccessDeniedError,
    DatabaseConnectionError,
    DatabaseFullError,
    InvalidValueError,
    MissingDatabaseError,
    ReadOnlyDatabaseError,
    ServerUnreachableError,
)
from tests.support.mariadb import PrivateMariaDB
from tests.support.study import experimenter, store, study, use_in_every_way, wait_until, worker
from tests.support.target import Target, write_credentials

SECRET = "s3cret-p@ss'word"


def credentials(path: Path, **changes: object) -> Path:
    standard = {"server": "127.0.0.1", "port": 1} | {k: v for k, v in changes.items() if k in ("server", "port")}
    user = {"user": "somebody", "password": SECRET} | {k: v for k, v in changes.items() if k in ("user", "password")}
    path.write_text(yaml.safe_dump({"CREDENTIALS": {"Database": user, "Connection": {"Standard": standard}}}))
    return path


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    target = Target("mariadb", "mysql", "d", None, credentials(tmp_path / "c.yml"))
    study_ = experimenter(target)
    with pytest.raises(
        ServerUnreachableError, match=r"check host, port .* connecting to mysql d on 127\.0\.0\.1:1"
    ) as e:
        study_.create_table()
    assert SECRET not in str(e.value) + repr(e.value) + repr(study_) + repr(study_.config)


def test_a_wrong_password(mariadb_target: Target, tmp_path: Path) -> None:
    server = mariadb_target.server
    assert server is not None
    file = credentials(tmp_path / "c.yml", port=server.port, user=server.user)
    study_ = experimenter(Target("mariadb", "mysql", "d", server, file))
    with pytest.raises(AccessDeniedError, match="check user, password and the user's grants") as error:
        study_.create_table()
    assert SECRET not in str(error.getrepr(showlocals=True, style="long", chain=True))


def test_a_password_command(mariadb_target: Target, tmp_path: Path) -> None:
    server = mariadb_target.server
    assert server is not None
    (tmp_path / "password").write_text(server.password + "\n")
    text = write_credentials(tmp_path / "c.yml", server).read_text()
    lines = [line for line in text.splitlines() if "password:" not in line]
    position = next(index for index, line in enumerate(lines) if "user:" in line)
    lines.insert(position, f"    password_command: cat {tmp_path / 'password'}")
    (tmp_path / "c.yml").write_text("\n".join(lines))
    target = Target("mariadb", "mysql", mariadb_target.database, server, tmp_path / "c.yml")
    assert experimenter(target).fill_table_from_config() == (6, 0)
    (tmp_path / "password").unlink()
    with pytest.raises(AccessDeniedError, match=r"password_command exited with 1: cat: .* run it by hand to see why"):
        experimenter(target).fill_table_from_config()


def test_a_socket(private_mariadb: PrivateMariaDB, tmp_path: Path) -> None:
    private_mariadb.create_database("pe")
    content = yaml.safe_load(write_credentials(tmp_path / "c.yml", private_mariadb).read_text())
    content["CREDENTIALS"]["Connection"]["Standard"] = {"unix_socket": str(private_mariadb.home / "s")}
    (tmp_path / "c.yml").write_text(yaml.safe_dump(content))
    study_ = experimenter(Target("mariadb", "mysql", "pe", private_mariadb, tmp_path / "c.yml"))
    assert study_.fill_table_from_config() == (6, 0)


def test_a_database_that_the_server_does_not_have(mariadb_target: Target) -> None:
    target = Target("mariadb", "mysql", "no_such_db", mariadb_target.server, mariadb_target.credentials_file)
    with pytest.raises(
        MissingDatabaseError, match=r"no_such_db.*; create it, or let create_table\(create_database=True\)"
    ):
        experimenter(target).fill_table_from_config()


def test_sessions_that_are_read_only_unless_told_otherwise(mariadb_target: Target, tmp_path: Path) -> None:
    server, name = mariadb_target.server, f"{mariadb_target.database}_new"
    assert server is not None
    server.run("SET GLOBAL TRANSACTION READ ONLY")
    try:
        with pytest.raises(pymysql.Error):
            mariadb_target.query("CREATE TABLE t (i INT)")
        use_in_every_way(mariadb_target, tmp_path)
        experimenter(replace(mariadb_target, database=name)).create_table(create_database=True)
    finally:
        server.run("SET GLOBAL TRANSACTION READ WRITE")
    server.drop_database(name)


def test_credentials_from_the_environment(mariadb_target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    server = mariadb_target.server
    assert server is not None
    values = {"USER": server.user, "PASSWORD": server.password, "HOST": server.host, "PORT": str(server.port)}
    for name, value in values.items():
        monkeypatch.setenv(f"PYEXPERIMENTER_DB_{name}", value)
    target = Target("mariadb", "mysql", mariadb_target.database)
    assert experimenter(target).fill_table_from_config() == (6, 0)


def test_a_connection_that_was_cut_while_idle_is_reopened(mariadb_target: Target) -> None:
    config = load_config(study(mariadb_target), credentials_path=mariadb_target.credentials_file)
    opened = ExperimentStore(config)
    opened.tables.create(codecarbon=False)
    others = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
    killed = [mariadb_target.query(f"KILL {thread}") for (thread,) in mariadb_target.query(others)]
    assert killed
    assert opened.counts()["created"] == 0


def test_an_interrupt_rolls_back_and_closes_the_connection(target: Target) -> None:
    """It may have come between a statement and its answer."""
    opened = store(target)
    with pytest.raises(KeyboardInterrupt), opened.database.transaction() as cursor:
        interrupted = cursor._cursor.connection
        cursor.run("UPDATE study SET status = 'done'")
        raise KeyboardInterrupt
    assert opened.counts()["created"] == 6
    with opened.database.query() as cursor:
        assert cursor._cursor.connection is not interrupted


def test_no_connection_is_left_open_while_user_code_runs(mariadb_target: Target) -> None:
    study_ = experimenter(mariadb_target)
    study_.fill_table_from_config()
    others = "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"

    def function(keyfields: object, results: object, custom: object) -> None:
        wait_until(lambda: mariadb_target.query(others) == [(0,)])

    assert study_.execute(function, max_experiments=2) == 2
    assert study_.counts()["done"] == 2


@pytest.mark.parametrize("way", ["reported", "returned"])
def test_a_value_too_large_for_the_server_is_refused_others_kept(mariadb_target: Target, way: str) -> None:
    study_ = experimenter(mariadb_target)
    study_.fill_table_from_config()
    ((most,),) = mariadb_target.query("SELECT @@max_allowed_packet")

    def function(keyfields: object, results: ResultProcessor, custom: object) -> dict[str, object]:
        values = {"model": "x" * (most + 1), "accuracy": 0.5}
        if way == "reported":
            results.process_results(values)
        return values

    assert study_.execute(function, max_experiments=1) == 1
    ((status, accuracy, model, error),) = mariadb_target.query(
        "SELECT status, accuracy, model, error FROM study WHERE ID = 1"
    )
    assert (status, accuracy, model) == ("error", 0.5, None)
    assert f"model: the values have {most + 2} bytes, but the server takes statements of {most}" in error


def test_an_error_that_the_encoding_of_the_table_lacks_is_refused(mariadb_target: Target) -> None:
    opened = store(mariadb_target)
    mariadb_target.query("ALTER TABLE study MODIFY error LONGTEXT CHARACTER SET latin1")
    claimed = opened.claim(worker())
    assert claimed is not None
    with pytest.raises(InvalidValueError):
        opened.finish(claimed.attempt, ExperimentStatus.ERROR, "\N{SNOWMAN}")
    assert opened.counts()["running"] == 1


def test_a_sqlite_file_where_none_can_be(tmp_path: Path) -> None:
    target = Target("sqlite", "sqlite", str(tmp_path / "no" / "where" / "study.db"))
    with pytest.raises(DatabaseConnectionError, match=r"check that the directory exists .*no/where/study\.db"):
        experimenter(target).fill_table_from_config()
    (tmp_path / "text.db").write_text("this is no database, but long enough to be looked at" * 10)
    with pytest.raises(DatabaseConnectionError, match="the file is something else; choose another path"):
        experimenter(Target("sqlite", "sqlite", str(tmp_path / "text.db"))).fill_table_from_config()


@pytest.fixture
def without_roots_rights() -> Iterator[Path]:
    """A directory for a test that runs with the rights of an ordinary user: file modes do not apply to root."""
    with tempfile.TemporaryDirectory() as directory:
        user = os.geteuid()
        os.chmod(directory, 0o777)
        if user == 0:
            os.seteuid(65534)
        try:
            yield Path(directory)
        finally:
            os.seteuid(user)


def test_a_read_only_file(without_roots_rights: Path) -> None:
    target = Target("sqlite", "sqlite", str(without_roots_rights / "study.db"))
    study_ = experimenter(target)
    study_.fill_table_from_config()
    study_._store.database.close()
    os.chmod(target.database, 0o444)
    with pytest.raises(ReadOnlyDatabaseError, match=r"make the file and its directory writable for you"):
        experimenter(target).fill_table_with_rows([{"dataset": "new"}])
    assert study_.counts()["created"] == 6
    study_._store.database.close()
    os.chmod(target.database, 0o644)
    assert target.query("SELECT COUNT(*) FROM study") == [(6,)]


def test_a_directory_that_one_may_not_enter(without_roots_rights: Path) -> None:
    (without_roots_rights / "closed").mkdir()
    study_ = experimenter(Target("sqlite", "sqlite", str(without_roots_rights / "closed" / "study.db")))
    (without_roots_rights / "closed").chmod(0)
    with pytest.raises(DatabaseConnectionError, match=r"check that .* you may read and write there"):
        study_.counts()
    (without_roots_rights / "closed").chmod(0o755)


def test_a_network_file_system_is_known_by_its_mount_point(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    (tmp_path / "my home" / "local").mkdir(parents=True)
    escaped = str(tmp_path / "my home").replace(" ", r"\040")
    mounts.write_text(
        f"/dev/sda / ext4 rw 0 0\nserver:/home {escaped} nfs4 rw 0 0\n/dev/sdb {escaped}/local xfs rw 0 0\n"
    )
    assert network_file_system(tmp_path / "my home" / "study.db", mounts) == "nfs4"
    assert network_file_system(tmp_path / "my home" / "local" / "study.db", mounts) is None
    assert network_file_system(tmp_path / "study.db", mounts) is None
    assert network_file_system(tmp_path / "my home" / "study.db", tmp_path / "no such file") is None


def test_sqlite_on_a_network_file_system_warns_and_uses_no_wal(
    sqlite_target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    experimenter(sqlite_target).create_table()
    assert sqlite_target.query("PRAGMA journal_mode") == [("wal",)]
    monkeypatch.setattr(sqlite, "network_file_system", lambda path: "nfs4")
    study_ = experimenter(sqlite_target)
    wait_until(lambda: not Path(f"{sqlite_target.database}-wal").exists())
    with pytest.warns(UserWarning, match=r"study\.db is on a network file system \(nfs4\).* from one machine only"):
        study_.fill_table_from_config()
    assert sqlite_target.query("PRAGMA journal_mode") == [("delete",)]


def test_a_full_database(sqlite_target: Target) -> None:
    opened = store(sqlite_target)
    with opened.database.query() as cursor:
        cursor.run("PRAGMA max_page_count = 60")
        with pytest.raises(DatabaseFullError, match=r"disk is full; free some space; nothing committed was lost"):
            opened.fill(("x" * 50, seed) for seed in range(20_000))
    assert opened.counts()["created"] == 6


FILL_UNTIL_FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.path.insert(0, {tests!r})
from tests.support.target import Target
from tests.support.study import experimenter, study
from pyexperimenter.exceptions import DatabaseFullError
target = Target("sqlite", "sqlite", {path!r})
keyfields = {{
    "seed": {{"type": "INT", "values": {{"start": 0, "stop": 100_000}}}},
    "text": {{"type": "TEXT", "values": ["x" * 50]}},
}}
filling = experimenter(target, study(target, keyfields=keyfields))
filling.create_table()
unlimited = resource.RLIM_INFINITY
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, unlimited))
try:
    filling.fill_table_from_config()
except DatabaseFullError as error:
    print(error)
print(target.query("PRAGMA integrity_check"), target.query("SELECT COUNT(*) FROM study"))
resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
print(filling.fill_table_from_config())
"""


def test_a_full_disk_leaves_the_database_intact_until_there_is_room(tmp_path: Path) -> None:
    path = str(tmp_path / "study.db")
    code = FILL_UNTIL_FULL.format(tests=str(Path(__file__).parent.parent), path=path, limit=8 * 2**20)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    error, looked, filled = done.stdout.splitlines() or [done.stderr, "", ""]
    assert "disk and its quota; nothing committed was lost" in error
    match = re.fullmatch(r"\[\('ok',\)\] \[\((\d+),\)\]", looked)
    assert match, looked
    kept = int(match[1])
    assert 0 < kept < 100_000
    assert kept % 10_000 == 0
    assert filled == f"FillCount(added={100_000 - kept}, skipped={kept})"
