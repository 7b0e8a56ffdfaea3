"""Specific to PostgreSQL: errors while connecting, silent servers, transactions, and names with capital letters."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import yaml

from pyexperimenter.exceptions import (
    AccessDeniedError,
    MissingDatabaseError,
    ServerUnreachableError,
    TransientDatabaseError,
)
from tests.support.postgresql import PrivatePostgreSQL
from tests.support.study import experimenter, store, study, use_in_every_way, wait_until, worker
from tests.support.target import Target, write_credentials

SECRET = "s3cret-p@ss"


def changed(target: Target, path: Path, section: str, **changes: object) -> Target:
    """Return the target with other credentials."""
    assert target.credentials_file is not None
    content = yaml.safe_load(target.credentials_file.read_text())
    user, connection = content["CREDENTIALS"]["Database"], content["CREDENTIALS"]["Connection"]["Standard"]
    (user if section == "user" else connection).update(changes)
    path.write_text(yaml.safe_dump(content))
    return replace(target, credentials_file=path)


def one_line(error: pytest.ExceptionInfo[Exception], secret: str) -> None:
    assert "\n" not in str(error.value)
    assert secret not in str(error.getrepr(showlocals=True, style="long", chain=True))


def test_a_wrong_password(postgresql_target: Target, tmp_path: Path) -> None:
    target = changed(postgresql_target, tmp_path / "c.yml", "user", password=SECRET)
    with pytest.raises(AccessDeniedError, match=r"password authentication failed.* check user, password") as error:
        experimenter(target).create_table()
    one_line(error, SECRET)


@pytest.mark.parametrize("whom", ["DATABASE {0}", "ROLE {1} IN DATABASE {0}"])
def test_sessions_that_are_read_only_unless_told_otherwise(
    postgresql_target: Target, tmp_path: Path, whom: str, caplog: pytest.LogCaptureFixture
) -> None:
    target = postgresql_target
    assert target.server is not None
    target.query(f"ALTER {whom.format(target.database, target.server.user)} SET default_transaction_read_only = on")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        target.query("CREATE TABLE t (i INT)")
    use_in_every_way(target, tmp_path)
    assert "heartbeat" not in caplog.text


def test_a_database_is_created_by_a_role_that_is_read_only_unless_told_otherwise(postgresql_target: Target) -> None:
    server, name = postgresql_target.server, f"{postgresql_target.database}_new"
    assert server is not None
    server.run(f"ALTER ROLE {server.user} SET default_transaction_read_only = on")
    try:
        study_ = experimenter(replace(postgresql_target, database=name))
        study_.create_table(create_database=True)
        assert study_.counts()["created"] == 0
    finally:
        server.run("BEGIN READ WRITE", f"ALTER ROLE {server.user} RESET default_transaction_read_only", "COMMIT")
    server.drop_database(name)


def test_a_server_that_is_not_there(postgresql_target: Target, tmp_path: Path) -> None:
    target = changed(postgresql_target, tmp_path / "c.yml", "connection", port=1)
    with pytest.raises(
        ServerUnreachableError, match=r"check host, port .* connecting to postgresql pe_\w+ on"
    ) as error:
        experimenter(target).create_table()
    assert postgresql_target.server is not None
    one_line(error, postgresql_target.server.password)


def test_a_database_that_the_server_does_not_have(postgresql_target: Target) -> None:
    with pytest.raises(MissingDatabaseError, match=r"no_such_db.*; create it, or let create_table"):
        experimenter(replace(postgresql_target, database="no_such_db")).fill_table_from_config()


def test_several_may_create_a_database_at_the_same_time(postgresql_target: Target) -> None:
    assert postgresql_target.server is not None
    name = f"{postgresql_target.database}_new"
    stores = [experimenter(postgresql_target, database_name=name)._store for _ in range(4)]
    with ThreadPoolExecutor(len(stores)) as pool:
        created = [pool.submit(store_.database.create_if_missing) for store_ in stores]
    try:
        assert [future.result() for future in created] == [None] * len(stores)
        assert experimenter(postgresql_target, database_name=name).fill_table_from_config() == (6, 0)
    finally:
        postgresql_target.server.drop_database(name)


def test_a_socket(private_postgresql: PrivatePostgreSQL, tmp_path: Path) -> None:
    private_postgresql.create_database("pe")
    file = write_credentials(tmp_path / "c.yml", private_postgresql)
    target = Target("postgresql", "postgresql", "pe", private_postgresql, file)
    socket = private_postgresql.home / f".s.PGSQL.{private_postgresql.port}"
    through = changed(target, tmp_path / "s.yml", "connection", unix_socket=str(socket), server="not.reached", port=1)
    assert experimenter(through).fill_table_from_config() == (6, 0)
    port, directory = private_postgresql.port, str(private_postgresql.home)
    through = changed(target, tmp_path / "s.yml", "connection", unix_socket=directory, server="not.reached", port=port)
    assert experimenter(through).fill_table_from_config() == (0, 6)


def test_a_cut_connection_is_reopened(postgresql_target: Target) -> None:
    opened = store(postgresql_target)
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    assert postgresql_target.query(f"SELECT pg_terminate_backend(pid) {others}")
    assert opened.counts()["created"] == 6


def test_no_connection_is_left_open_while_user_code_runs(postgresql_target: Target) -> None:
    study_ = experimenter(postgresql_target)
    study_.fill_table_from_config()
    others = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"

    def function(keyfields: object, results: object, custom: object) -> None:
        wait_until(lambda: postgresql_target.query(others) == [(0,)])

    assert study_.execute(function, max_experiments=1) == 1


def test_a_silent_server_counts_as_away(private_postgresql: PrivatePostgreSQL, tmp_path: Path) -> None:
    private_postgresql.create_database("pe")
    file = write_credentials(tmp_path / "c.yml", private_postgresql)
    opened = store(Target("postgresql", "postgresql", "pe", private_postgresql, file))
    opened.database.close()
    opened.database.wait_out(0.2, silence=0.5)
    with opened.database.query() as cursor:
        ((pid,),) = cursor.all("SELECT pg_backend_pid()")
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(TransientDatabaseError, match=r"no answer for 0\.5 seconds"):
                cursor.all("SELECT 1")
        finally:
            os.kill(pid, signal.SIGCONT)
    assert opened.claim(worker()) is not None


def test_names_with_capitals_are_kept(postgresql_target: Target) -> None:
    keyfields = {"C": {"type": "DOUBLE", "values": [1, 2]}, "order": {"type": "INT", "values": [1]}}
    study_ = experimenter(postgresql_target, study(postgresql_target, name="My Study", keyfields=keyfields))
    assert study_.fill_table_from_config() == (2, 0)
    assert study_.fill_table_from_config() == (0, 2)
    assert list(study_.get_table().columns)[:3] == ["ID", "C", "order"]
    assert study_.execute_custom_query('SELECT ID, "C" FROM "My Study" WHERE ID = 2') == [(2, 2.0)]
    with pytest.raises(psycopg.errors.UniqueViolation):
        postgresql_target.query('UPDATE "My Study" SET "C" = 1')


def test_the_identity_depends_on_no_setting_of_a_session(postgresql_target: Target) -> None:
    keyfields = {"x": "DOUBLE", "price": "DECIMAL(20,2)", "day": "DATE", "time": "DATETIME"}
    study_ = experimenter(postgresql_target, study(postgresql_target, keyfields=keyfields))
    time = "2026-01-02 00:00:00"
    study_.fill_table_with_rows([{"x": 0.1 + 0.2, "price": 1.5, "day": "2026-01-02", "time": time}])
    with postgresql_target.connect() as connection:
        connection.execute("SET extra_float_digits = 0; SET datestyle = 'German'; SET timezone = 'Asia/Tokyo'")
        add = "INSERT INTO study (x, price, day, time) VALUES (%s, 1.5, '2026-01-02', '2026-01-02')"
        connection.execute(add, [0.3])
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute(add, [0.1 + 0.2])


def test_psycopg_is_imported_only_where_it_is_used(sqlite_target: Target) -> None:
    code = (
        f"import sys; sys.path.insert(0, {os.getcwd()!r}); sys.modules['psycopg'] = None\n"
        "from pyexperimenter import PyExperimenter\n"
        f"config = {study(sqlite_target)!r}\n"
        "print(PyExperimenter(config).fill_table_from_config())\n"
        "config['PY_EXPERIMENTER']['Database']['provider'] = 'postgres'\n"
        "try: PyExperimenter(config)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    environment = {**os.environ, "PYEXPERIMENTER_DB_USER": "me"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=Path.cwd()
    )
    assert re.search(
        r"FillCount\(added=6, skipped=0\)\nDatabaseConnectionError .*pyexperimenter\[postgresql\]", done.stdout
    )
