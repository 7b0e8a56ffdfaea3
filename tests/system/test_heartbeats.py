"""What the thread that sends heartbeats renews, reports and repairs."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from pyexperimenter.config import load_config
from pyexperimenter.database.records import Attempt
from pyexperimenter.database.selection import Selection
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import ServerUnreachableError
from pyexperimenter.execution import heartbeat as heartbeat_module
from pyexperimenter.execution.heartbeat import Heartbeat, shared_heartbeat
from tests.support.outages import executing, seeds
from tests.support.proxies import Proxy, leading_nowhere, through_port
from tests.support.study import experimenter, outcomes, statuses, store, study, wait_until, worker
from tests.support.target import Target

FORMER = "2001-01-01 00:00:00"
LATER = "2999-01-01"


def claim(opened: ExperimentStore, name: str = "tester") -> Attempt:
    experiment = opened.claim(worker(name))
    assert experiment is not None
    return experiment.attempt


@contextmanager
def beating(target: Target, **execution: Any) -> Iterator[Heartbeat]:
    changes = {"isolation": "none", "heartbeat": 0.2, "lease": 60} | execution
    config = load_config(study(target, Execution=changes), credentials_path=target.credentials_file)
    with shared_heartbeat(config, logging.getLogger("heart")) as heartbeat:
        yield heartbeat


def was_renewed(target: Target, attempt: Attempt, before: str = FORMER) -> bool:
    ((lease,),) = target.query("SELECT lease_until FROM study__attempts WHERE ID = ?", attempt.id)
    return not str(lease).startswith(before)


def test_users_share_a_thread_that_ends_with_the_last_of_them(sqlite_target: Target) -> None:
    def threads() -> int:
        return [thread.name for thread in threading.enumerate()].count("heartbeat")

    store(sqlite_target)
    with beating(sqlite_target) as one:
        with beating(sqlite_target) as other:
            assert other is one
        assert threads() == 1
    assert threads() == 0
    with beating(sqlite_target) as another:
        assert another is not one
        assert threads() == 1
    assert threads() == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_leases_of_a_forked_process_are_renewed(sqlite_target: Target) -> None:
    """As in a function that forks, and executes experiments in the child. The thread of its parent is not in it."""
    attempt = claim(store(sqlite_target))
    # If it were over, the heartbeat of the parent could give the row away before the child has renewed it.
    sqlite_target.query("UPDATE study__attempts SET lease_until = ?", LATER)
    with beating(sqlite_target):
        if not (child := os.fork()):
            try:
                with beating(sqlite_target) as heartbeat:
                    heartbeat.keep(attempt)
                    wait_until(lambda: was_renewed(sqlite_target, attempt, LATER))
                    os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0


def test_a_lease_that_was_dropped_is_not_renewed(target: Target) -> None:
    """Such as that of an experiment whose end could not be written: others may take it over."""
    opened = store(target)
    kept, dropped = claim(opened), claim(opened)
    with beating(target) as heartbeat:
        heartbeat.keep(kept)
        heartbeat.drop(heartbeat.keep(dropped))
        for _ in range(3):
            target.query("UPDATE study__attempts SET lease_until = ?", FORMER)
            wait_until(lambda: was_renewed(target, kept))
            assert not was_renewed(target, dropped)


@pytest.mark.parametrize("idle", [False, True])
def test_rows_that_run_without_an_open_attempt_are_found_when_nothing_is_open(target: Target, idle: bool) -> None:
    """As the search reads all that runs, the beats of thousands of busy workers do without it."""
    opened = store(target)
    claim(opened)
    target.query("UPDATE study__attempts SET ended = heartbeat, outcome = 'reset'")
    with beating(target) as heartbeat:
        if not idle:
            assert heartbeat.reap() is None
            return
        seconds = heartbeat.look(opened.selection({"ID": 1}), waits=False)
        assert seconds == pytest.approx(1.25 * 0.2, abs=0.001)
        assert statuses(target)["running"] == 1, "it might belong to someone who is about to say so"
        wait_until(lambda: "running" not in statuses(target))
    assert outcomes(target) == {"reset": 1}


def test_what_is_taken_from_others_is_reported(target: Target, caplog: pytest.LogCaptureFixture) -> None:
    opened = store(target)
    silent, unheld = claim(opened), claim(opened)
    target.query("UPDATE study__attempts SET lease_until = ? WHERE ID = ?", FORMER, silent.id)
    target.query("UPDATE study__attempts SET ended = heartbeat, outcome = 'reset' WHERE ID = ?", unheld.id)
    with beating(target) as heartbeat:
        assert heartbeat.reap(idle=True) is not None
        wait_until(lambda: "running" not in statuses(target))
    taken, found = sorted(record.getMessage() for record in caplog.records)
    assert re.fullmatch(r"experiment 1 was taken from its worker, last heard from at \d{4}-[^;]+ UTC", taken)
    assert found == "experiment 2 was running without a worker; it is open again"


def test_execute_takes_over_what_runs_without_an_open_attempt(target: Target) -> None:
    config = study(target, Execution={"isolation": "none", "heartbeat": 0.2, "lease": 60})
    study_ = experimenter(target, config)
    study_.fill_table_from_config()
    opened = store(target, filled=False)
    claim(opened)
    target.query("UPDATE study__attempts SET ended = heartbeat, outcome = 'reset'")
    done_by_hand = claim(opened)
    target.query("UPDATE study SET status = 'done' WHERE ID = ?", done_by_hand.experiment_id)
    target.query("UPDATE study__attempts SET lease_until = ? WHERE ID = ?", FORMER, done_by_hand.id)
    assert study_.execute(lambda *_: None) == 5
    assert statuses(target) == {"done": 6}
    assert outcomes(target) == {"reset": 1, "superseded": 1, "done": 5}


def test_a_failure_that_no_waiting_mends_is_reported_once_and_at_once(
    target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    opened = store(target)
    with caplog.at_level("DEBUG", "heart"), beating(target, lease=600) as heartbeat:
        heartbeat.keep(claim(opened))
        target.query("ALTER TABLE study__attempts RENAME TO elsewhere")
        wait_until(lambda: len(caplog.messages) > 3)
        (reported,) = [record for record in caplog.records if record.levelno > logging.DEBUG]
        assert reported.levelno == logging.ERROR
        assert "heartbeats fail, and without them other workers take over" in reported.getMessage()
        assert "study__attempts" in reported.getMessage()
        # Once more when it has been well in between.
        target.query("ALTER TABLE elsewhere RENAME TO study__attempts")
        target.query("UPDATE study__attempts SET lease_until = ?", FORMER)
        wait_until(lambda: was_renewed(target, Attempt(1, 1)))
        wait_until(lambda: "heartbeats succeed again" in caplog.messages)
        target.query("ALTER TABLE study__attempts RENAME TO elsewhere")
        wait_until(lambda: len([record for record in caplog.records if record.levelno == logging.ERROR]) == 2)


def test_an_outage_is_reported_once_when_it_endangers_leases(
    mariadb_target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    assert mariadb_target.server is not None
    proxy = Proxy(mariadb_target.server.host, mariadb_target.server.port)
    target = through_port(mariadb_target, proxy.port)
    opened = store(mariadb_target)
    try:
        with caplog.at_level("DEBUG", "heart"), beating(target, lease=8) as heartbeat:
            attempt = claim(opened)
            heartbeat._renewed -= 100  # as if it were the time before this attempt
            heartbeat.keep(attempt)
            for _ in range(2):
                mariadb_target.query("UPDATE study__attempts SET lease_until = ?", FORMER)
                wait_until(lambda: was_renewed(mariadb_target, attempt))
            start = time.monotonic()
            proxy.refuse()
            wait_until(lambda: [record for record in caplog.records if record.levelno == logging.ERROR])
            assert time.monotonic() - start > 3
            failed = len(caplog.messages)
            assert failed > 1, "the first failures were not worth a message"
            wait_until(lambda: len(caplog.messages) > failed + 1)
            (reported,) = [record for record in caplog.records if record.levelno > logging.DEBUG]
            assert re.search(r"of this process in [0-7](\.\d+)?s:", reported.getMessage()), "less than the lease"
            proxy.heal()
            mariadb_target.query("UPDATE study__attempts SET lease_until = ?", FORMER)
            wait_until(lambda: was_renewed(mariadb_target, attempt))
    finally:
        proxy.close()


@pytest.fixture
def still(sqlite_target: Target, monkeypatch: pytest.MonkeyPatch) -> tuple[Heartbeat, Any]:
    """A heartbeat without its thread, and its clock. Two experiments run, one is open."""
    opened = store(sqlite_target, keyfields=seeds(3))
    for _ in range(2):
        claim(opened)
    execution = {"isolation": "none", "heartbeat": 60, "lease": 200}
    config = load_config(study(sqlite_target, keyfields=seeds(3), Execution=execution))
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(heartbeat_module, "time", clock)
    monkeypatch.setattr(Heartbeat, "_run", lambda self: None)
    heartbeat = Heartbeat(config, logging.getLogger("heart"))
    assert heartbeat._thread.daemon
    return heartbeat, clock


def test_an_outage_endangers_leases_when_half_of_their_time_has_passed(
    still: tuple[Heartbeat, Any], caplog: pytest.LogCaptureFixture
) -> None:
    heartbeat, clock = still
    outage = ServerUnreachableError("away")
    for now, reported in ((1099.9, []), (1100.0, ["in 1m40s: away"]), (1101.0, ["in 1m40s: away"])):
        clock.now = now
        heartbeat._complain(outage)
        assert [message.partition("process ")[2] for message in caplog.messages] == reported
    clock.now = 1300.0
    heartbeat._complain(RuntimeError("no outage"))
    assert caplog.messages[-1].endswith("in 0s: no outage")
    heartbeat._renew()
    heartbeat._complaints.clear()
    clock.now = 1399.0
    heartbeat._complain(outage)
    assert len(caplog.messages) == 2


# Waiting


def test_who_waits_looks_when_a_heartbeat_has_passed(still: tuple[Heartbeat, Any]) -> None:
    heartbeat, clock = still
    running, other = (heartbeat._observer.selection({"seed": seed}) for seed in (0, 2))
    assert heartbeat.look(running, waits=True) == 60
    clock.now += 20
    assert heartbeat.look(running, waits=True) == 40
    assert heartbeat.look(running, waits=False) is None
    assert heartbeat.look(other, waits=True) == 0
    assert heartbeat.look(other, waits=True) == 0
    clock.now += 60
    assert heartbeat.look(running, waits=True) == 60


def test_who_waits_looks_once_per_heartbeat_with_a_count(mariadb_target: Target) -> None:
    """Sixty that wait must not keep a server busy with claims."""
    execution = {"isolation": "none", "heartbeat": 0.3, "lease": 600}
    study_ = experimenter(mariadb_target, study(mariadb_target, keyfields=seeds(1), Execution=execution))
    study_.fill_table_from_config()
    opened = store(mariadb_target, filled=False, keyfields=seeds(1), Execution=execution)
    held = claim(opened)
    connection = mariadb_target.connect()
    cursor = connection.cursor()

    def asked(what: str) -> int:
        cursor.execute(f"SHOW GLOBAL STATUS LIKE '{what}'")
        return int(cursor.fetchone()[1])

    with executing(study_, lambda *_: None, wait=True) as waiting:
        selects = asked("Com_select")
        wait_until(lambda: asked("Com_select") > selects + 25)  # it has begun to wait
        start, selects, begun = time.monotonic(), asked("Com_select"), asked("Com_begin")
        wait_until(lambda: asked("Com_select") > selects + 20)
        heartbeats = (time.monotonic() - start) / 0.3
        selects, begun = asked("Com_select") - selects, asked("Com_begin") - begun
        opened.release(held)
        assert waiting.result(60) == 1
    connection.close()
    # A count, and every second time the heartbeat looks for silent workers.
    assert selects <= 1.5 * heartbeats + 3
    assert begun == 0


def test_many_who_wait_in_a_process_share_a_look(mariadb_target: Target) -> None:
    opened = store(mariadb_target)
    claim(opened)
    connection = mariadb_target.connect()
    cursor = connection.cursor()

    def selects() -> int:
        cursor.execute("SHOW GLOBAL STATUS LIKE 'Com_select'")
        return int(cursor.fetchone()[1])

    first, second = opened.selection({"seed": 0, "dataset": "iris"}), opened.selection({"seed": 1, "dataset": "iris"})
    with beating(mariadb_target, heartbeat=60, lease=600) as heartbeat:
        assert heartbeat.look(first, waits=True) == 60
        before = selects()
        for _ in range(50):
            assert 0 < heartbeat.look(first, waits=True) < 60
        assert selects() - before <= 1  # of the heartbeat's own first round
        # But not with those that may claim other rows, and one that would end looks for itself.
        assert heartbeat.look(second, waits=True) == 0
        before = selects()
        assert heartbeat.look(first, waits=False) is None
        assert selects() > before
    connection.close()


@pytest.mark.parametrize("waits", [True, False])
def test_looking_for_work_while_the_database_is_away_is_left_to_the_next_claim(target: Target, waits: bool) -> None:
    with beating(leading_nowhere(target)) as heartbeat:
        assert heartbeat.look(Selection(), waits) == 0.0
