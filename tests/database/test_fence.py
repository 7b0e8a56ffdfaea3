"""Only the attempt that holds a row writes to it: not after a reset that is under way, nor in other tables' rows."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter import ExperimentStatus, PyExperimenter, ResultProcessor
from pyexperimenter.database.records import Attempt, Ending, Note, Silent
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import ClaimLostError, NoPausedExperimentsException
from tests.support.outages import executing, seeds
from tests.support.study import experimenter, outcomes, statuses, store, study, wait_until, worker
from tests.support.target import Target

servers = pytest.mark.parametrize("target", ["mariadb", "postgresql"], indirect=True)
SIX = seeds(6)
LOGS = {"epochs": {"epoch": 1, "loss": 0.5}}


def claim(opened: ExperimentStore, name: str = "tester") -> Attempt:
    experiment = opened.claim(worker(name))
    assert experiment is not None
    return experiment.attempt


def contents(target: Target) -> list[list[tuple[Any, ...]]]:
    tables = ("study", "study__attempts", "study__epochs")
    return [target.query(f"SELECT * FROM {table} ORDER BY ID") for table in tables]


def made_again(target: Target, opened: ExperimentStore) -> tuple[Attempt, Attempt]:
    """Replace the table by a new one; return the holders of its first row, then and now."""
    old = claim(opened)
    opened.tables.drop()
    new = claim(store(target, keyfields=SIX))
    return old, new


def restored(target: Target, opened: ExperimentStore) -> tuple[Attempt, Attempt]:
    """Restore the tables from a dump made before an attempt; return that and the one that got its number."""
    old = claim(opened)
    target.query("DELETE FROM study__attempts")
    target.query("UPDATE study SET status = 'created', start_date = NULL, name = NULL, machine = NULL")
    target.query(
        {
            "sqlite": "DELETE FROM sqlite_sequence WHERE name = 'study__attempts'",
            "mysql": "ALTER TABLE study__attempts AUTO_INCREMENT = 1",
            "postgresql": "ALTER TABLE study__attempts ALTER COLUMN ID RESTART WITH 1",
        }[target.provider]
    )
    return old, claim(opened)


@pytest.mark.parametrize("how", [made_again, restored])
def test_an_attempt_is_not_mistaken_for_another_of_its_number(
    target: Target, how: Callable[[Target, ExperimentStore], tuple[Attempt, Attempt]]
) -> None:
    opened = store(target, keyfields=SIX, Execution={"lease": 600})
    old, new = how(target, opened)
    assert (old.id, old.experiment_id, old.row_status) == (new.id, new.experiment_id, new.row_status)
    opened.write_logs(new, LOGS)
    before = contents(target)
    ((heartbeat,),) = opened.query("SELECT heartbeat FROM study__attempts")[1]

    def refused(*writes: Callable[[], object]) -> None:
        for write in writes:
            with pytest.raises(ClaimLostError, match="attempt 1 no longer holds experiment 1"):
                write()
        assert contents(target) == before

    ends = (
        lambda: opened.finish(old, ExperimentStatus.DONE, results={"accuracy": 0.1}, output="old"),
        lambda: opened.finish(old, ExperimentStatus.ERROR, "old", output="old"),
        lambda: opened.finish(old, ExperimentStatus.ERROR, "old", output="old", retries=1),
        lambda: opened.release(old, output="old"),
        lambda: opened.replay(old, Note(logs={"epochs": (["epoch"], [(2,)])}, ending=Ending("done", output="old"))),
    )
    refused(
        lambda: opened.write_results(old, {"accuracy": 0.1}),
        lambda: opened.write_logs(old, LOGS),
        *ends,
    )
    opened.detach(old)
    assert not opened.reap(Silent(old, heartbeat, None), 1)
    assert opened.worker_of(old) is None
    assert opened.worker_of(new) == worker().identity
    assert opened.beat([old]) == {old}
    assert contents(target) == before
    assert opened.beat([old, new]) == {old}
    assert contents(target) != before

    # The holder's own end is not taken for the repetition of another's.
    opened.finish(new, ExperimentStatus.DONE, results={"accuracy": 0.9}, output="new")
    before = contents(target)
    refused(*ends)
    assert target.query("SELECT status, accuracy FROM study WHERE ID = 1") == [("done", 0.9)]
    assert target.query("SELECT outcome, output FROM study__attempts") == [("done", "new")]
    opened.finish(new, ExperimentStatus.DONE, results={"accuracy": 0.9}, output="new")  # as after a lost answer
    assert contents(target) == before


def test_a_worker_of_a_deleted_table_writes_nothing_into_the_next(target: Target, tmp_path: Path) -> None:
    execution = {"isolation": "none", "heartbeat": 0.2, "lease": 60, "journal": str(tmp_path)}
    config = study(target, keyfields=seeds(1), Execution=execution)
    first, second = experimenter(target, config), experimenter(target, config)
    first.fill_table_from_config()
    attempts: list[ResultProcessor] = []
    refused: list[ClaimLostError] = []
    claimed, done = threading.Event(), threading.Event()

    def old(keyfields: dict[str, Any], results: ResultProcessor, custom: Any) -> dict[str, float]:
        attempts.append(results)
        assert claimed.wait(60)
        wait_until(lambda: results.stop_requested)  # a heartbeat has found out
        for write in (
            lambda: results.process_results({"accuracy": 0.1}),
            lambda: results.process_logs(LOGS),
        ):
            try:
                write()
            except ClaimLostError as error:
                refused.append(error)
        return {"accuracy": 0.2}

    def new(keyfields: dict[str, Any], results: ResultProcessor, custom: Any) -> dict[str, float]:
        claimed.set()
        assert done.wait(60)
        assert not results.stop_requested
        results.process_logs({"epochs": {"epoch": 9}})
        return {"accuracy": 0.9}

    with executing(first, old, max_experiments=1) as ended:
        wait_until(lambda: attempts)
        second.delete_table()
        second.fill_table_from_config()
        with executing(second, new) as following:
            assert ended.result(60) == 1
            assert statuses(target) == {"running": 1}
            done.set()
            assert following.result(60) == 1
    assert len(refused) == 2
    assert target.query("SELECT ID, status, accuracy FROM study") == [(1, "done", 0.9)]
    assert target.query("SELECT ID, outcome, late_results FROM study__attempts") == [(1, "done", None)]
    assert target.query("SELECT epoch FROM study__epochs") == [(9,)]


def test_attempts_of_an_older_version_go_on(target: Target) -> None:
    """Its worker still runs, and knows no tokens; and so do its journal and its jobs."""
    opened = store(target, keyfields=SIX)
    tokened = [claim(opened, name) for name in ("a", "b", "c", "d")]
    target.query("UPDATE study__attempts SET token = NULL")
    first, second, third, fourth = (Attempt(one.id, one.experiment_id) for one in tokened)
    assert opened.held_by(worker("a").identity) == [first]
    assert opened.attach(1, worker("guest")) == (first, False)
    assert opened.beat([first, second, third]) == set()
    assert opened.beat(tokened) == set(tokened)
    with pytest.raises(ClaimLostError):
        opened.write_results(tokened[0], {"accuracy": 0.1})
    opened.write_results(first, {"accuracy": 0.5})
    opened.write_logs(first, LOGS)
    opened.finish(first, ExperimentStatus.DONE)
    opened.release(second)
    target.query("UPDATE study__attempts SET lease_until = '2001-01-01 00:00:00' WHERE ended IS NULL")
    assert [silent.attempt for silent in opened.silent()] == [third, fourth]
    assert opened.reap(opened.silent()[0], 3)
    opened.replay(fourth, Note(results={"accuracy": 0.25}, ending=Ending("done")))
    assert target.query("SELECT status, accuracy FROM study WHERE ID < 5 ORDER BY ID") == [
        ("done", 0.5),
        ("created", None),
        ("created", None),
        ("done", 0.25),
    ]
    ended = target.query("SELECT outcome FROM study__attempts ORDER BY ID")
    assert ended == [("done",), ("released",), ("lost",), ("done",)]


def test_an_attempt_of_an_older_version_that_has_ended_writes_no_more(target: Target) -> None:
    opened = store(target, keyfields=SIX)
    old = claim(opened)
    opened.reset(["running"], None, [1], dry_run=False)
    claim(opened)
    target.query("UPDATE study__attempts SET token = NULL")
    with pytest.raises(ClaimLostError):
        opened.write_results(Attempt(old.id, 1), {"accuracy": 0.5})
    with pytest.raises(ClaimLostError):
        opened.finish(Attempt(old.id, 1), ExperimentStatus.DONE)
    assert target.query("SELECT status, accuracy FROM study WHERE ID = 1") == [("running", None)]


# Other transactions that are under way


@servers
@pytest.mark.parametrize("what", ["results", "logs", "end", "release", "beat"])
def test_a_write_waits_for_a_reset_that_is_under_way(target: Target, what: str) -> None:
    opened = store(target, Execution={"lease": 600})
    attempt = claim(opened)
    writes: dict[str, Callable[[], Any]] = {
        "results": lambda: opened.write_results(attempt, {"accuracy": 0.1}),
        "logs": lambda: opened.write_logs(attempt, LOGS),
        "end": lambda: opened.finish(attempt, ExperimentStatus.DONE, results={"accuracy": 0.1}),
        "release": lambda: opened.release(attempt),
        "beat": lambda: opened.beat([attempt]),
    }
    with ThreadPoolExecutor(1) as pool, target.transaction() as run:
        run(
            "UPDATE study SET status = 'created' WHERE ID = 1",
            "UPDATE study__attempts SET ended = '2026-01-02 03:04:05', outcome = 'reset' WHERE experiment_id = 1",
        )
        writing = pool.submit(writes[what])
        wait_until(lambda: writing.done() or target.sessions_waiting())
        assert not writing.done()
        run()
        if what == "beat":
            assert writing.result(60) == {attempt}
        else:
            with pytest.raises(ClaimLostError):
                writing.result(60)
    assert target.query("SELECT status, accuracy FROM study WHERE ID = 1") == [("created", None)]
    assert target.query("SELECT COUNT(*) FROM study__epochs") == [(0,)]
    assert target.query("SELECT outcome, replayed FROM study__attempts") == [("reset", None)]


@servers
@pytest.mark.parametrize("what", ["end", "retry", "release"])
def test_an_end_does_not_reach_who_claims_the_row_meanwhile(target: Target, what: str) -> None:
    opened = store(target, keyfields=seeds(1))
    lost = claim(opened)
    writes: dict[str, Callable[[], Any]] = {
        "end": lambda: opened.finish(lost, ExperimentStatus.DONE, results={"accuracy": 0.1}),
        "retry": lambda: opened.finish(lost, ExperimentStatus.ERROR, "no", retries=1),
        "release": lambda: opened.release(lost),
    }
    with ThreadPoolExecutor(1) as pool, target.transaction() as run:
        run(  # a reset and a claim by others, as the writer sees them: at once
            "UPDATE study SET name = 'other' WHERE ID = 1",
            "UPDATE study__attempts SET ended = '2026-01-02 03:04:05', outcome = 'reset' WHERE experiment_id = 1",
            "INSERT INTO study__attempts (experiment_id, number, run, worker, token) VALUES (1, 2, 2, 'o', 'other')",
        )
        writing = pool.submit(writes[what])
        wait_until(lambda: writing.done() or target.sessions_waiting())
        run()
        with pytest.raises(ClaimLostError):
            writing.result(60)
    assert target.query("SELECT status, name, accuracy, error FROM study") == [("running", "other", None, None)]
    assert target.query("SELECT outcome FROM study__attempts ORDER BY ID") == [("reset",), (None,)]


@servers
def test_an_experiment_that_another_is_resuming_is_no_longer_paused(target: Target) -> None:
    opened = store(target, keyfields=seeds(1))
    opened.finish(claim(opened), ExperimentStatus.PAUSED)
    with ThreadPoolExecutor(1) as pool, target.transaction() as run:
        run("UPDATE study SET status = 'running' WHERE ID = 1")
        resuming = pool.submit(opened.resume, 1, worker())
        wait_until(lambda: resuming.done() or target.sessions_waiting())
        run()
        with pytest.raises(NoPausedExperimentsException, match="its status is running"):
            resuming.result(60)


@servers
@pytest.mark.parametrize("what", ["results", "logs", "end", "retry", "release", "reap", "replay", "attach", "reset"])
def test_a_row_is_locked_before_its_attempts(target: Target, what: str) -> None:
    """In the same order everywhere, or else transactions would wait for each other."""
    opened = store(target, keyfields=seeds(1))
    attempt = claim(opened)
    target.query("UPDATE study__attempts SET lease_until = '2001-01-01 00:00:00'")
    (silent,) = opened.silent()
    note = Note(results={"accuracy": 0.5})
    writes: dict[str, Callable[[], Any]] = {
        "results": lambda: opened.write_results(attempt, {"accuracy": 0.1}),
        "logs": lambda: opened.write_logs(attempt, LOGS),
        "end": lambda: opened.finish(attempt, ExperimentStatus.DONE),
        "retry": lambda: opened.finish(attempt, ExperimentStatus.ERROR, "no", retries=1),
        "release": lambda: opened.release(attempt),
        "reap": lambda: opened.reap(silent, 3),
        "replay": lambda: opened.replay(attempt, note),
        "attach": lambda: opened.attach(1, worker("guest")),
        "reset": lambda: opened.reset(["running"], None, None, dry_run=False),
    }
    with ThreadPoolExecutor(1) as pool, target.transaction() as run:
        run("UPDATE study SET name = 'locked' WHERE ID = 1")
        writing = pool.submit(writes[what])
        wait_until(lambda: writing.done() or target.sessions_waiting())
        assert not writing.done()
        run("SELECT ID FROM study__attempts FOR UPDATE NOWAIT")  # fails if the writer has it
        run()
        writing.result(60)


# One condition, evaluated once


def broken(target: Target) -> list[tuple[Any, ...]]:
    """Return the rows that are running without exactly one open attempt, or hold one although they are not running."""
    return target.query(
        "SELECT t.ID, t.status, COUNT(a.ID) - COUNT(a.ended) FROM study t "
        "LEFT JOIN study__attempts a ON a.experiment_id = t.ID GROUP BY t.ID, t.status "
        "HAVING COUNT(a.ID) - COUNT(a.ended) <> CASE t.status WHEN 'running' THEN 1 ELSE 0 END"
    )


@servers
@pytest.mark.parametrize("release", [False, True])
def test_a_result_that_comes_in_between_is_no_second_condition(target: Target, release: bool) -> None:
    study_ = experimenter(target)
    study_.fill_table_from_config()
    held = [claim(store(target, filled=False)) for _ in range(3)]

    def reset() -> int:
        if release:
            return study_.release_experiments("accuracy IS NULL")
        return study_.reset_experiments("running", where="accuracy IS NULL")

    with ThreadPoolExecutor(1) as pool, target.transaction() as run:
        run(
            f"SELECT ID FROM study__attempts WHERE ID = {held[0].id} FOR UPDATE",
            "UPDATE study SET accuracy = 0.5 WHERE ID = 1",
        )
        resetting = pool.submit(reset)
        wait_until(target.sessions_waiting)
        run()
        assert resetting.result(60) == 2
    assert broken(target) == []
    assert statuses(target) == {"running": 1, "created": 5}
    assert outcomes(target) == {None: 1, "released" if release else "reset": 2}


@pytest.mark.parametrize("release", [False, True])
def test_a_condition_that_is_never_the_same_is_evaluated_once(target: Target, release: bool) -> None:
    study_ = experimenter(target, study(target, keyfields=seeds(60)))
    study_.fill_table_from_config()
    opened = store(target, filled=False, keyfields=seeds(60))
    for _ in range(60):
        claim(opened)
    half = {"sqlite": "RANDOM() % 2 = 0", "mysql": "RAND() < 0.5", "postgresql": "random() < 0.5"}[target.provider]
    changed = study_.release_experiments(half) if release else study_.reset_experiments("running", where=half)
    assert broken(target) == []
    assert 0 < changed < 60
    assert statuses(target) == {"running": 60 - changed, "created": changed}
    assert outcomes(target) == {None: 60 - changed, "released" if release else "reset": changed}


def test_more_rows_are_reset_than_one_statement_names(target: Target) -> None:
    study_ = experimenter(target, study(target, keyfields=seeds(1201)))
    study_.fill_table_from_config()
    target.query("UPDATE study SET status = 'done', accuracy = 0.5 WHERE seed > 0")
    assert study_.reset_experiments("done") == 1200
    assert statuses(target) == {"created": 1201}
    assert target.query("SELECT COUNT(*) FROM study WHERE accuracy IS NOT NULL") == [(0,)]


def test_resets_by_results_under_load_leave_no_row_without_its_worker(target: Target) -> None:
    workers, rows = 4, 24
    store(target, keyfields=seeds(rows)).database.close()
    over = threading.Event()

    def work(number: int) -> int:
        opened, done = store(target, filled=False, keyfields=seeds(rows)), 0
        while not over.is_set():
            experiment = opened.claim(worker(f"w{number}"))
            if experiment is None:
                continue
            try:
                for step in range(3):
                    opened.write_results(experiment.attempt, {"accuracy": step / 4})
                opened.finish(experiment.attempt, ExperimentStatus.DONE)
                done += 1
            except ClaimLostError:
                pass
        opened.database.close()
        return done

    def reset(study_: PyExperimenter) -> int:
        count = 0
        for where in ("accuracy < 0.3", "accuracy IS NULL", "accuracy > 0.2") * 20:
            count += study_.reset_experiments("running", where=where)
            count += study_.reset_experiments("done", where=where)
        return count

    with ThreadPoolExecutor(workers) as pool:
        working = [pool.submit(work, number) for number in range(workers)]
        try:
            wait_until(lambda: statuses(target).get("done"))  # so that there is something to reset
            assert reset(experimenter(target, study(target, keyfields=seeds(rows)))) > 0
        finally:
            over.set()
        assert sum(one.result(60) for one in working) > 0
    assert broken(target) == []
    assert store(target, filled=False, keyfields=seeds(rows)).unheld() == []
    results = target.query("SELECT DISTINCT accuracy FROM study WHERE status = 'done'")
    assert results in ([], [(0.5,)])
    assert target.query("SELECT COUNT(*) FROM study WHERE status = 'created' AND accuracy IS NOT NULL") == [(0,)]


# Attaching


@servers
def test_who_attaches_waits_for_a_claim_that_is_under_way(target: Target) -> None:
    """Otherwise two attempts of one number would be open, and one of them for ever."""
    opened = store(target, keyfields=seeds(1))
    with ThreadPoolExecutor(1) as pool, target.transaction() as run:
        run(
            "UPDATE study SET status = 'running' WHERE ID = 1",
            "INSERT INTO study__attempts (experiment_id, number, run, worker, token) VALUES (1, 1, 1, 'o', 'other')",
        )
        attaching = pool.submit(opened.attach, 1, worker("guest"))
        wait_until(lambda: attaching.done() or target.sessions_waiting())
        run()
        attempt, is_new = attaching.result(60)
    assert (attempt.token, attempt.row_status, is_new) == ("other", "running", False)
    assert target.query("SELECT number FROM study__attempts") == [(1,)]


def test_attempts_are_numbered_once_however_many_attach_and_claim(target: Target) -> None:
    store(target, keyfields=seeds(1)).database.close()
    start = threading.Barrier(4)

    def attach(number: int) -> None:
        opened = store(target, filled=False, keyfields=seeds(1))
        start.wait(30)
        for _ in range(15):
            attempt, is_new = opened.attach(1, worker(f"guest {number}"))
            if is_new:
                opened.detach(attempt)
        opened.database.close()

    def work() -> None:
        opened = store(target, filled=False, keyfields=seeds(1))
        start.wait(30)
        for _ in range(15):
            opened.release(claim(opened))
        opened.database.close()

    with ThreadPoolExecutor(4) as pool:
        for ended in [pool.submit(work), *(pool.submit(attach, number) for number in range(3))]:
            ended.result(60)
    numbers = [number for (number,) in target.query("SELECT number FROM study__attempts ORDER BY number")]
    assert numbers == list(range(1, len(numbers) + 1))
    assert target.query("SELECT COUNT(*) FROM study__attempts WHERE ended IS NULL") == [(0,)]


@pytest.mark.parametrize("change", ["status = 'paused'", "status = 'created'"])
def test_who_detaches_leaves_no_open_attempt(target: Target, change: str) -> None:
    study_ = experimenter(target)
    study_.fill_table_from_config()
    study_.execute(lambda *_: None, max_experiments=1)

    def attached(results: ResultProcessor) -> None:
        target.query(f"UPDATE study SET {change} WHERE ID = 1")
        with pytest.raises(ClaimLostError):
            results.process_results({"accuracy": 0.5})

    study_.attach(attached, 1)
    assert target.query("SELECT outcome FROM study__attempts ORDER BY ID") == [("done",), ("attached",)]
    late = target.query("SELECT late_results FROM study__attempts WHERE ID = 2")
    assert json.loads(late[0][0]) == {"accuracy": 0.5}


def test_who_detaches_from_a_row_that_was_reset_changes_nothing(target: Target) -> None:
    opened = store(target)
    opened.finish(claim(opened), ExperimentStatus.DONE)
    attempt, _ = opened.attach(1, worker())
    opened.reset(["done"], None, None, dry_run=False)
    opened.detach(attempt)
    assert target.query("SELECT outcome FROM study__attempts ORDER BY ID") == [("done",), ("reset",)]
