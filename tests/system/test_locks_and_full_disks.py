"""Locks of other processes are waited for; if a disk is full, results wait in a journal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from pyexperimenter import PyExperimenterError, ResultProcessor
from pyexperimenter.exceptions import DatabaseFullError, ResultsInJournalError
from tests.support.mariadb import PrivateMariaDB
from tests.support.outages import (
    Signs,
    again,
    assert_each_done_once,
    configured,
    executing,
    filled,
    journals_of,
    measure,
)
from tests.support.postgresql import PrivatePostgreSQL
from tests.support.study import experimenter, isolations, outcomes, statuses, wait_until
from tests.support.target import Target


@isolations
def test_a_row_that_a_person_has_locked_is_waited_for(
    private_target: Target, private_mariadb: PrivateMariaDB, signs: Signs, isolation: str
) -> None:
    """The lock is held for longer than the server lets a statement wait."""
    private_target.query("SET GLOBAL innodb_lock_wait_timeout = 1")
    study_ = filled(private_target, signs, 10, isolation=isolation)
    with executing(study_, measure) as execution, closing(private_target.connect()) as person:
        signs.wait_for("started 9")
        cursor = person.cursor()
        cursor.execute("BEGIN")
        cursor.execute("SELECT * FROM study WHERE ID = 10 FOR UPDATE")
        waits = "SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_waits'"
        ((_, before),) = private_target.query(waits)
        signs.give("the outage began")
        # The second wait begins when the first has timed out.
        wait_until(lambda: int(private_target.query(waits)[0][1]) >= int(before) + 2)
        assert statuses(private_target) == {"running": 1, "done": 9}
        cursor.execute("ROLLBACK")
        assert execution.result() == 10
    assert_each_done_once(private_target, 10, 3)
    assert not journals_of(signs).exists()


@pytest.mark.parametrize("kill", ["KILL {}", "KILL QUERY {}"])
def test_a_connection_that_an_administrator_kills_costs_nothing(
    mariadb_target: Target, signs: Signs, kill: str
) -> None:
    study_ = filled(mariadb_target, signs, 10, isolation="none")
    with executing(study_, measure) as execution, closing(mariadb_target.connect()) as person:
        signs.wait_for("started 9")
        cursor = person.cursor()
        cursor.execute("BEGIN")
        cursor.execute("SELECT * FROM study WHERE ID = 10 FOR UPDATE")
        signs.give("the outage began")
        waiting = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND info LIKE '%FOR UPDATE'"
        ((waits,),) = wait_until(lambda: mariadb_target.query(waiting))
        cursor.execute(kill.format(waits))
        cursor.execute("ROLLBACK")
        assert execution.result() == 10
    assert_each_done_once(mariadb_target, 10, 3)
    assert not journals_of(signs).exists()


LOCKER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""


@isolations
def test_a_file_that_another_process_has_locked_is_waited_for(
    sqlite_target: Target, signs: Signs, isolation: str
) -> None:
    study_ = filled(sqlite_target, signs, 20, isolation=isolation, max_outage=60)
    command = [sys.executable, "-c", LOCKER, sqlite_target.database]
    with executing(study_, measure, n_jobs=2) as execution:
        signs.wait_for("started 9")
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as locker:
            assert locker.stdout is not None
            assert locker.stdout.readline() == "locked\n"
            before = statuses(sqlite_target)
            signs.give("the outage began")
            time.sleep(1)  # for which it is locked
            assert statuses(sqlite_target) == before
            locker.communicate()
        assert execution.result() == 20
    assert_each_done_once(sqlite_target, 20, 3)
    assert not journals_of(signs).exists()


def on_a_full_disk(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    """From now on, no file of this process may grow beyond the custom field `most`."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (custom["most"], hard))
    results.process_results({"model": "x" * 5000})
    results.process_logs({"epochs": [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.5}]})
    return {"accuracy": 0.5}


def test_results_wait_in_a_journal_if_the_disk_is_full(sqlite_target: Target, signs: Signs) -> None:
    config = configured(sqlite_target, signs, 2, isolation="process", max_outage=2)
    config["PY_EXPERIMENTER"]["Custom"]["most"] = 16 * 1024  # less than the database, more than the journal
    study_ = experimenter(sqlite_target, config)
    study_.fill_table_from_config()
    with pytest.raises(ResultsInJournalError, match=r"disk .*nothing committed was lost"):
        study_.execute(on_a_full_disk)
    assert statuses(sqlite_target) == {"created": 1, "running": 1}
    assert outcomes(sqlite_target) == {None: 1}
    assert sqlite_target.query("SELECT accuracy, model FROM study WHERE ID = 1") == [(None, None)]
    assert sqlite_target.query("PRAGMA integrity_check") == [("ok",)]
    assert study_.sync() == 1
    assert statuses(sqlite_target) == {"created": 1, "done": 1}
    assert outcomes(sqlite_target) == {"done": 1}
    assert sqlite_target.query("SELECT accuracy, length(model) FROM study WHERE ID = 1") == [(0.5, 5000)]
    assert sqlite_target.query("SELECT epoch FROM study__epochs ORDER BY ID") == [(1,), (2,)]
    assert list(journals_of(signs).iterdir()) == []


def test_a_disk_too_full_for_a_journal_is_reported(sqlite_target: Target, signs: Signs) -> None:
    config = configured(sqlite_target, signs, 2, isolation="process", max_outage=2)
    config["PY_EXPERIMENTER"]["Custom"]["most"] = 1024
    study_ = experimenter(sqlite_target, config)
    study_.fill_table_from_config()
    with pytest.raises(PyExperimenterError, match=re.escape(str(journals_of(signs)))):
        study_.execute(on_a_full_disk)
    assert sqlite_target.query("PRAGMA integrity_check") == [("ok",)]
    assert sqlite_target.query("SELECT COUNT(accuracy), COUNT(model) FROM study") == [(0, 0)]
    assert sqlite_target.query("SELECT COUNT(*) FROM study__epochs") == [(0,)]
    study_.sync()
    study_.reset_experiments("all")
    assert study_.execute(again) == 2
    assert statuses(sqlite_target) == {"done": 2}


@contextmanager
def no_room(target: Target, table: str) -> Iterator[None]:
    """Make the disk of a PostgreSQL server look full when connections opened from now on write a table's first rows.

    Their file is /dev/full, which fails writes as a full disk does.
    """
    assert isinstance(target.server, PrivatePostgreSQL)
    ((place,),) = target.query("SELECT pg_relation_filepath(CAST(? AS regclass))", table)
    file = target.server.home / "data" / place
    assert file.stat().st_size == 0
    aside = file.rename(file.with_name(f"{file.name}.aside"))
    file.symlink_to("/dev/full")
    yield
    aside.rename(file)


needs_dev_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")


@needs_dev_full
def test_a_fill_that_finds_the_servers_disk_full_can_be_repeated(postgresql_target: Target, signs: Signs) -> None:
    config = configured(postgresql_target, signs, 20)
    experimenter(postgresql_target, config).create_table()
    with no_room(postgresql_target, "study"):
        filling = experimenter(postgresql_target, config)
        with pytest.raises(DatabaseFullError, match=r"No space left on device; free some space on the server; noth"):
            filling.fill_table_from_config()
        assert statuses(postgresql_target) == {}
    assert experimenter(postgresql_target, config).fill_table_from_config() == (20, 0)


def large_model(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    results.process_results({"accuracy": 0.5})
    results.process_logs({"epochs": {"epoch": 1, "loss": 0.5}})
    return {"model": os.urandom(5000).hex()}  # which cannot be compressed


@needs_dev_full
def test_results_wait_in_a_journal_if_the_servers_disk_is_full(postgresql_target: Target, signs: Signs) -> None:
    filled(postgresql_target, signs, 2)
    config = configured(postgresql_target, signs, 2, isolation="none", max_outage=2)
    # Large values are in a separate table.
    ((table,),) = postgresql_target.query(
        "SELECT CAST(reltoastrelid AS regclass) FROM pg_class WHERE relname = 'study'"
    )
    with no_room(postgresql_target, table):
        with pytest.raises(ResultsInJournalError, match=r"No space left on device; free some space on the server"):
            experimenter(postgresql_target, config).execute(large_model)
        assert statuses(postgresql_target) == {"created": 1, "running": 1}
        assert postgresql_target.query("SELECT accuracy, model FROM study WHERE ID = 1") == [(0.5, None)]
    study_ = experimenter(postgresql_target, config)
    assert study_.sync() == 1
    assert study_.execute(large_model) == 1
    assert statuses(postgresql_target) == outcomes(postgresql_target) == {"done": 2}
    assert postgresql_target.query("SELECT accuracy, length(model) FROM study") == [(0.5, 10_000)] * 2
    assert postgresql_target.query("SELECT experiment_id, epoch FROM study__epochs ORDER BY ID") == [(1, 1), (2, 1)]
    assert list(journals_of(signs).iterdir()) == []
