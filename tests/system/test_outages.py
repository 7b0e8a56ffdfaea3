"""The database goes away and comes back in various ways: no result is lost or written twice, and nothing hangs."""

from __future__ import annotations

import logging
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter import ExperimentStatus, PyExperimenter, ResultProcessor
from pyexperimenter.exceptions import ResultsInJournalError, ServerUnreachableError
from pyexperimenter.execution.journaling_store import JournalingStore
from pyexperimenter.execution.stopping import active_stop
from tests.database.test_lost_answers import LAST_COMMIT
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
    script,
)
from tests.support.proxies import Proxy, through_port
from tests.support.study import experimenter, isolations, outcomes, statuses, wait_until
from tests.support.target import Target


@pytest.fixture
def proxy(mariadb_target: Target) -> Iterator[Proxy]:
    assert mariadb_target.server is not None
    way = Proxy(mariadb_target.server.host, mariadb_target.server.port)
    yield way
    way.close()


# Outages that are waited for


@isolations
@pytest.mark.parametrize("end", ["killed", "shut down"])
def test_a_server_that_goes_down_and_comes_back_costs_nothing(
    private_target: Target, private_mariadb: PrivateMariaDB, signs: Signs, isolation: str, end: str
) -> None:
    study_ = filled(private_target, signs, 40, isolation=isolation, max_outage=60)
    with executing(study_, measure, n_jobs=2) as execution:
        signs.wait_for("started 9")
        if end == "killed":
            private_mariadb.kill()
        else:
            private_mariadb.stop()
        signs.give("the outage began")
        time.sleep(1)  # for which it is away
        private_mariadb.start()
        assert execution.result() == 40
    assert_each_done_once(private_target, 40, 3)
    assert not journals_of(signs).exists()


@isolations
def test_connections_that_are_cut_at_random_cost_nothing(
    mariadb_target: Target, proxy: Proxy, signs: Signs, isolation: str
) -> None:
    filled(mariadb_target, signs, 120)
    target = through_port(mariadb_target, proxy.port)
    study_ = experimenter(target, configured(target, signs, 120, isolation=isolation, max_outage=60))
    with executing(study_, measure, n_jobs=2) as execution:
        signs.wait_for("started 9")
        proxy.cut_at_random(0.02, seed=1)
        signs.give("the outage began")
        assert execution.result() == 120
    assert proxy.cuts > 10
    assert_each_done_once(mariadb_target, 120, 3)
    assert not journals_of(signs).exists()


@isolations
@pytest.mark.parametrize("for_good", [False, True], ids=["goes on", "is forgotten"])
def test_a_silent_connection_costs_nothing(
    mariadb_target: Target, proxy: Proxy, signs: Signs, isolation: str, for_good: bool
) -> None:
    """If it stays silent, it is given up, and the writes go through another connection."""
    filled(mariadb_target, signs, 11)
    target = through_port(mariadb_target, proxy.port)
    study_ = experimenter(target, configured(target, signs, 11, isolation=isolation, max_outage=4))
    with executing(study_, measure) as execution:
        signs.wait_for("started 9")
        proxy.blackhole(for_good)
        signs.give("the outage began")
        assert proxy.holding.wait(60)
        proxy.heal()
        assert execution.result() == 11
    assert_each_done_once(mariadb_target, 11, 3)
    assert not journals_of(signs).exists()


# Outages that are longer than a worker waits


def away_in_the_middle(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    """Write some results and logs before the outage, the rest during it. The custom field `death` says when to die."""
    signs = Signs(Path(custom["signs"]))
    results.process_results({"model": "before"})
    results.process_logs({"epochs": {"epoch": 1, "loss": 0.5}})
    signs.give("started")
    signs.wait_for("the outage began")
    results.process_results({"model": "within"})
    results.process_logs({"epochs": [{"epoch": 2, "loss": 0.5}, {"epoch": 3, "loss": 0.5}]})
    print("printed within")
    if custom.get("death") == "back":
        signs.wait_for("the outage ended")
    if custom.get("death"):
        os.kill(os.getpid(), signal.SIGKILL)
    return {"accuracy": 0.5}


@contextmanager
def outage(proxy: Proxy, signs: Signs) -> Iterator[None]:
    """Make the database unavailable in the middle of a function; it is back when the block ends."""
    signs.wait_for("started")
    proxy.refuse()
    signs.give("the outage began")
    yield
    proxy.heal()


def journaled(
    target: Target, proxy: Proxy, signs: Signs, isolation: str, death: str | None = None, **options: Any
) -> tuple[PyExperimenter, ResultsInJournalError]:
    """Execute one of two rows, which ends when the database has been away for too long."""
    filled(target, signs, 2)
    config = configured(through_port(target, proxy.port), signs, 2, isolation=isolation, max_outage=2)
    config["PY_EXPERIMENTER"]["Custom"]["death"] = death
    study_ = experimenter(through_port(target, proxy.port), config)
    with executing(study_, away_in_the_middle, **options) as execution, outage(proxy, signs):
        with pytest.raises(ResultsInJournalError) as error:
            execution.result()
        assert statuses(target) == {"created": 1, "running": 1}
        assert outcomes(target) == {None: 1}
        assert target.query("SELECT accuracy, model, error FROM study WHERE ID = 1") == [(None, "before", None)]
        assert target.query("SELECT epoch FROM study__epochs") == [(1,)]
    return study_, error.value


def assert_synced(target: Target, signs: Signs) -> None:
    assert statuses(target) == {"created": 1, "done": 1}
    assert outcomes(target) == {"done": 1}
    assert target.query("SELECT accuracy, model, error FROM study WHERE ID = 1") == [(0.5, "within", None)]
    assert target.query("SELECT epoch, attempt_id FROM study__epochs ORDER BY ID") == [(1, 1), (2, 1), (3, 1)]
    assert target.query("SELECT late_results FROM study__attempts") == [(None,)]
    assert list(journals_of(signs).iterdir()) == []


# A script, below, is the fourth case.
@pytest.mark.parametrize(
    ("isolation", "options"), [("process", {"max_experiments": 1}), ("none", {"max_experiments": 1}), ("none", {})]
)
def test_results_wait_in_a_journal_for_the_database(
    mariadb_target: Target, proxy: Proxy, signs: Signs, isolation: str, options: dict[str, int]
) -> None:
    study_, error = journaled(mariadb_target, proxy, signs, isolation, **options)
    (journal,) = journals_of(signs).iterdir()
    assert str(journal) in str(error)
    assert "the next execute() in this directory writes it, or sync()" in str(error)
    assert study_.sync() == 1
    assert_synced(mariadb_target, signs)
    if isolation == "process":
        assert mariadb_target.query("SELECT output FROM study__attempts") == [("printed within\n",)]
    assert study_.sync() == 0


def test_an_execution_that_ended_in_a_journal_is_not_given_back(
    mariadb_target: Target, proxy: Proxy, signs: Signs
) -> None:
    """Although the database is back when the worker ends."""
    filled(mariadb_target, signs, 2)
    target = through_port(mariadb_target, proxy.port)
    study_ = experimenter(target, configured(target, signs, 2, isolation="none", max_outage=2))
    proxy.cut_on(b"outcome = 'done'", b"SELECT worker FROM")  # the end, and the query before a journal is written
    with pytest.raises(ResultsInJournalError):
        study_.execute(again)
    assert statuses(mariadb_target) == {"created": 1, "running": 1}
    assert outcomes(mariadb_target) == {None: 1}
    proxy.heal()
    assert study_.sync() == 1
    assert statuses(mariadb_target) == {"created": 1, "done": 1}
    assert outcomes(mariadb_target) == {"done": 1}


def test_a_death_during_an_outage_is_in_the_journal(mariadb_target: Target, proxy: Proxy, signs: Signs) -> None:
    study_, error = journaled(mariadb_target, proxy, signs, "process", death="away")
    (journal,) = journals_of(signs).iterdir()
    assert str(journal) in str(error)
    assert study_.sync() == 1
    assert_dead(mariadb_target, signs)
    assert study_.sync() == 0


def assert_dead(target: Target, signs: Signs) -> None:
    assert statuses(target) == {"created": 1, "error": 1}
    assert outcomes(target) == {"error": 1}
    ((accuracy, model, cause),) = target.query("SELECT accuracy, model, error FROM study WHERE ID = 1")
    assert (accuracy, model) == (None, "within")
    assert cause == "killed by SIGKILL (out of memory?)\nLast output:\nprinted within\n"
    assert target.query("SELECT epoch FROM study__epochs ORDER BY ID") == [(1,), (2,), (3,)]
    assert target.query("SELECT late_results, output FROM study__attempts") == [(None, "printed within\n")]
    assert list(journals_of(signs).iterdir()) == []


def test_a_death_after_an_outage_loses_nothing_that_was_reported(
    mariadb_target: Target, proxy: Proxy, signs: Signs
) -> None:
    filled(mariadb_target, signs, 2)
    target = through_port(mariadb_target, proxy.port)
    config = configured(target, signs, 2, isolation="process", max_outage=2)
    config["PY_EXPERIMENTER"]["Custom"]["death"] = "back"
    with executing(experimenter(target, config), away_in_the_middle, max_experiments=1) as execution:
        with outage(proxy, signs):
            wait_until(lambda: [file for file in journals_of(signs).glob("*") if file.read_text().count("\n") == 2])
        signs.give("the outage ended")
        assert execution.result() == 1
    assert_dead(mariadb_target, signs)


def test_a_script_whose_results_are_in_a_journal_says_so_and_fails(
    mariadb_target: Target, proxy: Proxy, signs: Signs
) -> None:
    study_ = filled(mariadb_target, signs, 2)
    target = through_port(mariadb_target, proxy.port)
    config = configured(target, signs, 2, isolation="process", max_outage=2)
    with script(target, config, "test_outages:away_in_the_middle") as process:
        with outage(proxy, signs):
            _, told = process.communicate(timeout=120)
        assert process.returncode == 1
    (journal,) = journals_of(signs).iterdir()
    last = told.splitlines()[-1]
    assert last.startswith("pyexperimenter.exceptions.ResultsInJournalError: Can't connect to MySQL server on")
    assert f"is kept in {journal}: the next execute() in this directory writes it, or sync()" in last
    assert study_.sync() == 1
    assert_synced(mariadb_target, signs)


@isolations
def test_what_cannot_be_released_keeps_its_lease(
    mariadb_target: Target, proxy: Proxy, signs: Signs, isolation: str
) -> None:
    filled(mariadb_target, signs, 1)
    target = through_port(mariadb_target, proxy.port)
    config = configured(target, signs, 1, isolation=isolation, max_outage=1, grace=0.1, lease=600, heartbeat=0.5)
    with script(target, config, "test_outages:wait_for_the_end") as process:
        signs.wait_for("started 0")
        proxy.refuse()
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
    assert re.search("could not (be released|release the experiments of worker .*): Can't connect", told), told
    assert statuses(mariadb_target) == {"running": 1}
    assert outcomes(mariadb_target) == {None: 1}


def test_a_claim_whose_answer_was_lost_is_released_by_a_worker_that_stops(
    mariadb_target: Target, proxy: Proxy, signs: Signs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made together with an end, which went to the journal as far as the worker knows."""
    filled(mariadb_target, signs, 2)
    config = configured(through_port(mariadb_target, proxy.port), signs, 2, isolation="none", max_outage=1)
    journal_note = JournalingStore._journal_note

    def end_the_outage(journaling: JournalingStore, *arguments: Any) -> None:
        journal_note(journaling, *arguments)
        assert statuses(mariadb_target) == {"done": 1, "running": 1}
        active_stop().request()
        proxy.heal()
        journaling._patience.restore()

    monkeypatch.setattr(JournalingStore, "_journal_note", end_the_outage)

    def work(*_: Any) -> dict[str, float]:
        proxy.swallow_next(LAST_COMMIT, then_refuse=True)
        return {"accuracy": 0.5}

    assert experimenter(through_port(mariadb_target, proxy.port), config).execute(work) == 1
    assert statuses(mariadb_target) == {"done": 1, "created": 1}
    assert outcomes(mariadb_target) == {"done": 1, "released": 1}


def test_an_experiment_of_its_own_that_ends_in_a_journal_is_not_released(
    mariadb_target: Target, proxy: Proxy, signs: Signs
) -> None:
    paused = filled(mariadb_target, signs, 2)
    paused.execute(lambda *_: ExperimentStatus.PAUSED, max_experiments=1)
    target = through_port(mariadb_target, proxy.port)
    study_ = experimenter(target, configured(target, signs, 2, isolation="none", max_outage=1))
    with ThreadPoolExecutor(1) as pool:
        execution = pool.submit(study_.unpause_experiment, 1, away_in_the_middle)
        with outage(proxy, signs), pytest.raises(ResultsInJournalError):
            execution.result()
    assert statuses(mariadb_target) == {"created": 1, "running": 1}
    assert study_.sync() == 1
    assert statuses(mariadb_target) == {"created": 1, "done": 1}
    assert outcomes(mariadb_target) == {"paused": 1, "done": 1}
    assert mariadb_target.query("SELECT accuracy, model FROM study WHERE ID = 1") == [(0.5, "within")]


@pytest.mark.timeout(60)
def test_a_server_that_is_away_from_the_start_is_not_waited_for(
    private_target: Target, private_mariadb: PrivateMariaDB, signs: Signs
) -> None:
    filled(private_target, signs, 2)
    private_mariadb.kill()
    study_ = experimenter(private_target, configured(private_target, signs, 2, isolation="process", max_outage=6000))
    with pytest.raises(ServerUnreachableError, match="check host, port and that the server is running"):
        study_.execute(measure)
    private_mariadb.start()
    assert statuses(private_target) == {"created": 2}
    assert outcomes(private_target) == {}


# Heartbeats


def wait_for_the_end(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    signs = Signs(Path(custom["signs"]))
    signs.give(f"started {keyfields['seed']}")
    signs.wait_for("end")
    return {"accuracy": keyfields["seed"] / 4}


@isolations
def test_an_outage_longer_than_the_lease_costs_no_row(
    mariadb_target: Target, proxy: Proxy, signs: Signs, isolation: str
) -> None:
    """Although another experimenter, unaffected by the outage, looks for silent workers in the middle of it."""
    heartbeat, lease = 4, 4.5
    execution = {"isolation": isolation, "heartbeat": heartbeat, "lease": lease}
    filled(mariadb_target, signs, 1)
    target = through_port(mariadb_target, proxy.port)
    study_ = experimenter(target, configured(target, signs, 1, **execution))
    looking = Proxy(*proxy.server)
    other = through_port(mariadb_target, looking.port)
    beaten = "SELECT heartbeat, lease_until > UTC_TIMESTAMP(6) FROM study__attempts"
    with closing(looking), executing(study_, wait_for_the_end) as execution_:
        signs.wait_for("started 0")
        proxy.refuse()
        ((last, _),) = wait_until(lambda: [row for row in mariadb_target.query(beaten) if not row[1]])
        looking.swallow_next(b"a.lease_until <")
        with script(other, configured(other, signs, 1, **execution), "test_outages:wait_for_the_end") as process:
            # It has looked, and looks again.
            assert looking.swallowed.wait(60)
            proxy.heal()
            # It ends when no worker is silent any more, as it has nothing to do.
            assert process.communicate(timeout=60) == ("", "")
            assert process.returncode == 0
        ((heartbeat_, holds),) = mariadb_target.query(beaten)
        assert heartbeat_ > last
        assert holds
        assert statuses(mariadb_target) == {"running": 1}
        assert outcomes(mariadb_target) == {None: 1}
        signs.give("end")
        assert execution_.result() == 1
    assert statuses(mariadb_target) == {"done": 1}
    assert outcomes(mariadb_target) == {"done": 1}


# The supervisor itself fails


def speak_and_wait(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    """Log something, which the supervisor handles, and wait to be killed."""
    logging.getLogger(custom["logger"]).error("spoken")
    Signs(Path(custom["signs"])).wait_for("nothing")


class RaisingHandler(logging.Handler):
    """A handler of the user that raises, after it has taken the database away if it has a proxy."""

    def __init__(self, proxy: Proxy | None) -> None:
        super().__init__()
        self._proxy = proxy

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "spoken":
            if self._proxy is not None:
                self._proxy.refuse()
            raise RuntimeError("of a handler")


@pytest.mark.parametrize("away", [False, True])
def test_what_a_worker_held_is_released_if_its_supervisor_fails(
    mariadb_target: Target, proxy: Proxy, signs: Signs, away: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """If the database is away at that moment, the experiment stays as it is until its lease ends."""
    filled(mariadb_target, signs, 2)
    target = through_port(mariadb_target, proxy.port)
    config = configured(target, signs, 2, isolation="process", max_outage=2)
    study_ = experimenter(target, config, logger_name=f"raising {away}")
    config["PY_EXPERIMENTER"]["Custom"]["logger"] = study_.logger.name
    study_ = experimenter(target, config, logger_name=study_.logger.name)
    study_.logger.addHandler(RaisingHandler(proxy if away else None))
    with pytest.raises(RuntimeError, match="of a handler"):
        study_.execute(speak_and_wait)
    assert statuses(mariadb_target) == ({"created": 1, "running": 1} if away else {"created": 2})
    assert outcomes(mariadb_target) == {None if away else "released": 1}
    assert ("experiment 1 could not be released: " in caplog.text) is away
    assert not journals_of(signs).exists()
