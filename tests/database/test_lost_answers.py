"""A commit that succeeded although its answer was lost: nothing is claimed twice, duplicated or forgotten."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from pyexperimenter import ExperimentStatus
from pyexperimenter.config import load_config
from pyexperimenter.database.records import NOT_MEASURED, Attempt, Note, Unheld
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import DatabaseError
from pyexperimenter.execution.journaling_store import JournalingStore, replay_journals
from tests.support.proxies import Proxy, through_port
from tests.support.study import store, study, wait_until, worker
from tests.support.target import Target

LOGGER = logging.getLogger("test")
COMMIT = b"\x03COMMIT"  # the statement, and not READ COMMITTED, which each connection begins with
LAST_COMMIT = b"; COMMIT"  # sent with the statement before it
LOGS = {"epochs": [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]}


@pytest.fixture
def proxy(mariadb_target: Target) -> Iterator[Proxy]:
    assert mariadb_target.server is not None
    way = Proxy(mariadb_target.server.host, mariadb_target.server.port)
    yield way
    way.close()


@pytest.fixture
def through_proxy(mariadb_target: Target, proxy: Proxy) -> ExperimentStore:
    store(mariadb_target)
    return store(through_port(mariadb_target, proxy.port), filled=False)


def test_a_claim_is_made_once(mariadb_target: Target, proxy: Proxy, through_proxy: ExperimentStore) -> None:
    through_proxy.counts()
    proxy.swallow_next(LAST_COMMIT)
    experiment = through_proxy.claim(worker())
    assert proxy.swallowed.is_set()
    assert experiment is not None
    assert mariadb_target.query("SELECT ID FROM study WHERE status = 'running'") == [(experiment.id,)]
    assert mariadb_target.query("SELECT outcome FROM study__attempts ORDER BY ID") == [("released",), (None,)]


ASKED: dict[str, Callable[[ExperimentStore, Attempt], object]] = {
    "what a worker holds": lambda opened, _: opened.held_by(worker().identity),
    "whose attempt it is": lambda opened, attempt: opened.worker_of(attempt),
    "its keyfields": lambda opened, attempt: opened.keyfields_of(attempt.experiment_id),
    "who is silent": lambda opened, _: opened.silent(),
    "what is unheld": lambda opened, _: opened.unheld(),
    "to open what is unheld": lambda opened, attempt: opened.open_unheld(Unheld(attempt.experiment_id, 1)),
    "what is unfinished": lambda opened, _: opened.unfinished(opened.selection()),
    "to attach": lambda opened, attempt: opened.attach(attempt.experiment_id, worker()),
    "to beat": lambda opened, attempt: opened.beat([attempt]),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_what_is_asked_when_the_connection_was_cut_is_asked_again(
    proxy: Proxy, through_proxy: ExperimentStore, ask: Callable[[ExperimentStore, Attempt], object]
) -> None:
    experiment = through_proxy.claim(worker())
    assert experiment is not None
    proxy.cut()
    ask(through_proxy, experiment.attempt)


def test_a_claim_in_doubt_costs_no_other_worker_its_experiment(
    mariadb_target: Target, proxy: Proxy, through_proxy: ExperimentStore
) -> None:
    """Also with a worker whose identity begins like that of the worker in doubt: the 2nd and the 11th of execute()."""
    for identity in ("session.10", "session.2"):
        through_proxy.claim(replace(worker(), identity=identity))
    proxy.swallow_next(LAST_COMMIT)
    through_proxy.claim(replace(worker(), identity="session.1"))
    assert proxy.swallowed.is_set()
    assert mariadb_target.query("SELECT status, COUNT(*) FROM study GROUP BY status ORDER BY status") == [
        ("created", 3),
        ("running", 3),
    ]
    attempts = mariadb_target.query("SELECT experiment_id, worker, outcome FROM study__attempts ORDER BY ID")
    assert attempts == [
        (1, "session.10", None),
        (2, "session.2", None),
        (3, "session.1", "released"),
        (3, "session.1", None),
    ]


def test_a_paused_experiment_is_taken_once(
    mariadb_target: Target, proxy: Proxy, through_proxy: ExperimentStore
) -> None:
    experiment = through_proxy.claim(worker())
    assert experiment is not None
    through_proxy.finish(experiment.attempt, ExperimentStatus.PAUSED, results={"accuracy": 0.5})
    proxy.swallow_next(LAST_COMMIT)
    assert through_proxy.resume(1, worker()).id == 1
    assert proxy.swallowed.is_set()
    assert mariadb_target.query("SELECT status, accuracy FROM study WHERE ID = 1") == [("running", 0.5)]
    open_attempts = mariadb_target.query("SELECT COUNT(*) FROM study__attempts WHERE ended IS NULL")
    assert open_attempts == [(1,)]


def test_an_experiment_is_added_and_taken_once(
    mariadb_target: Target, proxy: Proxy, through_proxy: ExperimentStore
) -> None:
    through_proxy.counts()
    proxy.swallow_next(LAST_COMMIT)
    assert through_proxy.add_and_claim(("new", 1), worker()).keyfields == {"dataset": "new", "seed": 1}
    assert proxy.swallowed.is_set()
    assert mariadb_target.query("SELECT dataset, COUNT(*) FROM study WHERE status = 'running'") == [("new", 1)]
    assert mariadb_target.query("SELECT COUNT(*) FROM study__attempts WHERE ended IS NULL") == [(1,)]


def test_what_was_attached_is_detached(mariadb_target: Target, proxy: Proxy, through_proxy: ExperimentStore) -> None:
    experiment = through_proxy.claim(worker())
    assert experiment is not None
    through_proxy.finish(experiment.attempt, ExperimentStatus.DONE)
    proxy.swallow_next(COMMIT)
    attempt, opened = through_proxy.attach(1, worker("guest"))
    assert proxy.swallowed.is_set()
    assert opened
    through_proxy.write_results(attempt, {"accuracy": 0.75})
    proxy.swallow_next(COMMIT)
    through_proxy.detach(attempt)
    assert proxy.swallowed.is_set()
    assert mariadb_target.query("SELECT status, accuracy FROM study WHERE ID = 1") == [("done", 0.75)]
    assert mariadb_target.query("SELECT COUNT(*) FROM study__attempts WHERE ended IS NULL") == [(0,)]


def test_results_are_written(mariadb_target: Target, proxy: Proxy, through_proxy: ExperimentStore) -> None:
    experiment = through_proxy.claim(worker())
    assert experiment is not None
    proxy.swallow_next(LAST_COMMIT)
    through_proxy.write_results(experiment.attempt, {"accuracy": 0.5})
    assert proxy.swallowed.is_set()
    assert mariadb_target.query("SELECT status, accuracy FROM study WHERE ID = 1") == [("running", 0.5)]
    assert mariadb_target.query("SELECT outcome, late_results FROM study__attempts") == [(None, None)]


@pytest.mark.parametrize("statement", [LAST_COMMIT, b"INSERT INTO `study__epochs`"])
def test_logs_are_appended_once(
    mariadb_target: Target, proxy: Proxy, through_proxy: ExperimentStore, statement: bytes
) -> None:
    experiment = through_proxy.claim(worker())
    assert experiment is not None
    for written in (1, 2):  # the second time, other logs come first
        proxy.swallow_next(statement)
        through_proxy.write_logs(experiment.attempt, LOGS)
        assert proxy.swallowed.is_set()
        counts = mariadb_target.query("SELECT epoch, loss, COUNT(*) FROM study__epochs GROUP BY epoch, loss")
        assert sorted(counts) == [(1, 0.5, written), (2, 0.25, written)]


def test_an_end_is_written_once(mariadb_target: Target, proxy: Proxy, through_proxy: ExperimentStore) -> None:
    experiment = through_proxy.claim(worker())
    assert experiment is not None
    proxy.swallow_next(COMMIT)
    through_proxy.finish(experiment.attempt, ExperimentStatus.DONE, None, NOT_MEASURED, {"accuracy": 0.5})
    assert proxy.swallowed.is_set()
    assert mariadb_target.query("SELECT status, accuracy FROM study WHERE ID = 1") == [("done", 0.5)]
    attempts = mariadb_target.query("SELECT outcome, late_results FROM study__attempts")
    assert attempts == [("done", None)]


def test_a_failure_uses_up_one_retry(mariadb_target: Target, proxy: Proxy, through_proxy: ExperimentStore) -> None:
    for retried in (1, 2):
        experiment = through_proxy.claim(worker())
        assert experiment is not None
        proxy.swallow_next(COMMIT)
        through_proxy.finish(experiment.attempt, ExperimentStatus.ERROR, "no", retries=2)
        assert proxy.swallowed.is_set()
        assert mariadb_target.query("SELECT status, error FROM study WHERE ID = 1") == [("created", None)]
        attempts = mariadb_target.query("SELECT outcome, error, COUNT(*) FROM study__attempts GROUP BY outcome, error")
        assert attempts == [("retried", "no", retried)]


def test_a_release_is_made_once(mariadb_target: Target, proxy: Proxy, through_proxy: ExperimentStore) -> None:
    experiment = through_proxy.claim(worker())
    assert experiment is not None
    proxy.swallow_next(COMMIT)
    through_proxy.release(experiment.attempt)
    assert proxy.swallowed.is_set()
    assert mariadb_target.query("SELECT status, COUNT(*) FROM study GROUP BY status") == [("created", 6)]
    assert mariadb_target.query("SELECT outcome FROM study__attempts") == [("released",)]


def test_all_of_a_worker_is_released(mariadb_target: Target, proxy: Proxy, through_proxy: ExperimentStore) -> None:
    for _ in range(3):
        through_proxy.claim(worker())
    proxy.swallow_next(COMMIT)
    through_proxy.release_worker(worker().identity)
    assert proxy.swallowed.is_set()
    assert mariadb_target.query("SELECT status, COUNT(*) FROM study GROUP BY status") == [("created", 6)]
    assert mariadb_target.query("SELECT outcome, COUNT(*) FROM study__attempts GROUP BY outcome") == [("released", 3)]


def test_a_fill_doubles_nothing(mariadb_target: Target, proxy: Proxy, through_proxy: ExperimentStore) -> None:
    through_proxy.counts()
    proxy.swallow_next(COMMIT)
    through_proxy.fill([("new", seed) for seed in range(10)])
    assert proxy.swallowed.is_set()
    assert mariadb_target.query("SELECT COUNT(*) FROM study") == [(16,)]


def test_a_configuration_is_kept_once(mariadb_target: Target, proxy: Proxy, through_proxy: ExperimentStore) -> None:
    proxy.swallow_next(COMMIT)
    through_proxy.keep_config("1")
    assert proxy.swallowed.is_set()
    assert mariadb_target.query("SELECT COUNT(*) FROM study__meta") == [(1,)]


def test_logs_are_appended_once_although_another_process_writes_meanwhile(
    mariadb_target: Target, proxy: Proxy, through_proxy: ExperimentStore
) -> None:
    experiment = through_proxy.claim(worker())
    assert experiment is not None
    directly = store(mariadb_target, filled=False)
    with ThreadPoolExecutor(1) as pool:
        proxy.swallow_next(LAST_COMMIT, then_refuse=True)
        through_proxy.database.wait_out(60)
        writing = pool.submit(through_proxy.write_logs, experiment.attempt, LOGS)
        assert proxy.swallowed.wait(60)
        attempt, opened = directly.attach(1, worker("guest"))
        assert not opened
        directly.write_logs(attempt, {"epochs": {"epoch": 3, "loss": 0.125}})
        assert not writing.done()
        proxy.heal()
        writing.result()
    assert mariadb_target.query("SELECT epoch FROM study__epochs ORDER BY ID") == [(1,), (2,), (3,)]


@pytest.mark.parametrize("statement", [LAST_COMMIT, b"INSERT INTO `study_codecarbon`"])
def test_emissions_are_written_once(
    mariadb_target: Target, proxy: Proxy, through_proxy: ExperimentStore, statement: bytes
) -> None:
    through_proxy.tables.create(codecarbon=True)
    experiment = through_proxy.claim(worker())
    assert experiment is not None
    proxy.swallow_next(statement)
    through_proxy.write_emissions(experiment.attempt, {"emissions_kg": 0.5, "unknown": 1})
    assert proxy.swallowed.is_set()
    assert mariadb_target.query("SELECT experiment_id, emissions_kg FROM study_codecarbon") == [(1, 0.5)]


# The answer is lost because the server goes away at that moment, and stays away: the journal is used.


@pytest.fixture
def journaling(
    mariadb_target: Target, proxy: Proxy, through_proxy: ExperimentStore, tmp_path: Path
) -> Iterator[JournalingStore]:
    target = through_port(mariadb_target, proxy.port)
    execution = {"isolation": "none", "max_outage": 0.3}
    config = load_config(study(target, Execution=execution), credentials_path=target.credentials_file)
    worker_s = JournalingStore(config, tmp_path / "journal", worker().identity)
    # A healthy server may take its time; only the outage has to end soon.
    worker_s.database.wait_out(60)
    worker_s.counts()
    worker_s.database.patience = 0.3
    yield worker_s
    proxy.heal()


def test_logs_that_arrived_are_not_written_from_the_journal(
    mariadb_target: Target, proxy: Proxy, journaling: JournalingStore, tmp_path: Path
) -> None:
    experiment = journaling.claim(worker())
    assert experiment is not None
    proxy.swallow_next(LAST_COMMIT, then_refuse=True)
    journaling.write_logs(experiment.attempt, LOGS)
    assert proxy.swallowed.is_set()
    journaling.write_logs(experiment.attempt, {"epochs": {"epoch": 3, "loss": 0.125}})
    journaling.finish(experiment.attempt, ExperimentStatus.DONE, results={"accuracy": 0.5})
    (journal,) = (tmp_path / "journal").iterdir()
    assert len(journal.read_text().splitlines()) == 3
    assert mariadb_target.query("SELECT epoch, loss FROM study__epochs ORDER BY ID") == [(1, 0.5), (2, 0.25)]
    assert mariadb_target.query("SELECT status FROM study WHERE ID = 1") == [("running",)]
    proxy.heal()
    journaling.raise_if_journaled()
    assert not journal.exists()
    logs = mariadb_target.query("SELECT epoch, loss FROM study__epochs ORDER BY ID")
    assert logs == [(1, 0.5), (2, 0.25), (3, 0.125)]
    assert mariadb_target.query("SELECT status, accuracy, error FROM study WHERE ID = 1") == [("done", 0.5, None)]
    assert mariadb_target.query("SELECT outcome, late_results FROM study__attempts") == [("done", None)]


def test_logs_that_arrived_are_not_written_from_the_journal_although_another_process_has_written_since(
    mariadb_target: Target, proxy: Proxy, journaling: JournalingStore
) -> None:
    experiment = journaling.claim(worker())
    assert experiment is not None
    proxy.swallow_next(COMMIT, then_refuse=True)
    journaling.write_logs(experiment.attempt, LOGS)
    directly = store(mariadb_target, filled=False)
    directly.write_logs(experiment.attempt, {"epochs": {"epoch": 3, "loss": 0.125}})
    proxy.heal()
    journaling.raise_if_journaled()
    assert mariadb_target.query("SELECT epoch FROM study__epochs ORDER BY ID") == [(1,), (2,), (3,)]


def test_emissions_wait_in_the_journal(
    mariadb_target: Target, proxy: Proxy, journaling: JournalingStore, tmp_path: Path
) -> None:
    journaling.tables.create(codecarbon=True)
    experiment = journaling.claim(worker())
    assert experiment is not None
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    proxy.swallow_next(LAST_COMMIT, then_refuse=True)
    for kg in (0.5, 0.25):  # the first arrives
        journaling.write_emissions(experiment.attempt, {"emissions_kg": kg, "codecarbon_timestamp": now})
    journaling.finish(experiment.attempt, ExperimentStatus.DONE)
    (journal,) = (tmp_path / "journal").iterdir()
    assert len(journal.read_text().splitlines()) == 3
    proxy.heal()
    journaling.raise_if_journaled()
    times = [(0.5, now.replace(tzinfo=None)), (0.25, now.replace(tzinfo=None))]
    assert mariadb_target.query("SELECT emissions_kg, codecarbon_timestamp FROM study_codecarbon ORDER BY ID") == times
    assert mariadb_target.query("SELECT status FROM study WHERE ID = 1") == [("done",)]


def test_an_end_that_arrived_is_not_late_in_the_journal(
    mariadb_target: Target, proxy: Proxy, journaling: JournalingStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = journaling.claim(worker())
    assert experiment is not None
    proxy.swallow_next(COMMIT, then_refuse=True)
    journaling.finish(experiment.attempt, ExperimentStatus.DONE, results={"accuracy": 0.5})
    assert proxy.swallowed.is_set()
    (journal,) = (tmp_path / "journal").iterdir()
    assert len(journal.read_text().splitlines()) == 1
    assert mariadb_target.query("SELECT status, accuracy FROM study WHERE ID = 1") == [("done", 0.5)]
    proxy.heal()
    with caplog.at_level(logging.WARNING):
        journaling.raise_if_journaled()
    assert not journal.exists()
    assert mariadb_target.query("SELECT status, accuracy, error FROM study WHERE ID = 1") == [("done", 0.5, None)]
    assert mariadb_target.query("SELECT outcome, late_results FROM study__attempts") == [("done", None)]
    assert caplog.messages == []  # nothing was lost, so none is reported


@pytest.mark.parametrize("answered", [True, False])
def test_what_was_noted_in_a_hurry_is_not_written_twice(
    mariadb_target: Target, proxy: Proxy, journaling: JournalingStore, tmp_path: Path, answered: bool
) -> None:
    """A worker is asked to stop while the server is silent: its writes go to the journal, and then to the database."""
    experiment = journaling.claim(worker())
    assert experiment is not None
    proxy.blackhole()
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(journaling.write_logs, experiment.attempt, LOGS)
        wait_until(lambda: journaling.hurry() or (tmp_path / "journal").exists())
        assert not writing.done()
        if not answered:
            proxy.refuse()
            writing.result()
        proxy.heal()
    journaling.finish(experiment.attempt, ExperimentStatus.DONE, results={"accuracy": 0.5})
    journaling.raise_if_journaled()
    assert list((tmp_path / "journal").iterdir()) == []
    assert mariadb_target.query("SELECT epoch, loss FROM study__epochs ORDER BY ID") == [(1, 0.5), (2, 0.25)]
    assert mariadb_target.query("SELECT status, accuracy FROM study WHERE ID = 1") == [("done", 0.5)]
    assert mariadb_target.query("SELECT outcome, late_results FROM study__attempts") == [("done", None)]


@pytest.mark.parametrize("statement", [COMMIT, b"outcome = 'done'", b"INSERT INTO `study__epochs`"])
def test_a_journal_is_written_to_the_database_once(
    mariadb_target: Target, proxy: Proxy, journaling: JournalingStore, tmp_path: Path, statement: bytes
) -> None:
    experiment = journaling.claim(worker())
    assert experiment is not None
    proxy.refuse()
    journaling.write_logs(experiment.attempt, LOGS)
    journaling.finish(experiment.attempt, ExperimentStatus.DONE, results={"accuracy": 0.5})
    journaling.close()  # as the end of its process does
    proxy.heal()
    assert mariadb_target.query("SELECT COUNT(*) FROM study__epochs") == [(0,)]
    proxy.swallow_next(statement)
    syncing = store(through_port(mariadb_target, proxy.port), filled=False)
    assert replay_journals(syncing, tmp_path / "journal", LOGGER) == 1
    assert proxy.swallowed.is_set()
    assert mariadb_target.query("SELECT epoch, loss FROM study__epochs ORDER BY ID") == [(1, 0.5), (2, 0.25)]
    assert mariadb_target.query("SELECT status, accuracy FROM study WHERE ID = 1") == [("done", 0.5)]
    assert mariadb_target.query("SELECT outcome, late_results FROM study__attempts") == [("done", None)]
    assert list((tmp_path / "journal").iterdir()) == []


def test_a_journal_stays_as_it_is_if_the_database_goes_away_while_it_is_written(
    mariadb_target: Target, proxy: Proxy, journaling: JournalingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = journaling.claim(worker())
    assert experiment is not None
    proxy.refuse()
    journaling.write_logs(experiment.attempt, LOGS)
    journaling.close()
    proxy.heal()
    syncing = store(through_port(mariadb_target, proxy.port), filled=False)
    syncing.database.patience = 0.1
    before = {file: file.read_bytes() for file in (tmp_path / "journal").iterdir()}

    def replay(attempt: Attempt, *notes: Note) -> dict[str, Exception]:
        proxy.refuse()
        return ExperimentStore.replay(syncing, attempt, *notes)

    monkeypatch.setattr(syncing, "replay", replay)
    with pytest.raises(DatabaseError):
        replay_journals(syncing, tmp_path / "journal", LOGGER)
    assert {file: file.read_bytes() for file in (tmp_path / "journal").iterdir()} == before
