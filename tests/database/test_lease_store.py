"""Leases in the database: which workers are silent, which lose a row, and what is kept of their attempts."""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from pyexperimenter import ExperimentStatus
from pyexperimenter.database.records import Attempt, Silent, Unheld, Usage, WorkerInfo
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import ClaimLostError
from tests.support.study import experimenter, store, wait_until, worker
from tests.support.target import Target

LONG, SHORT = {"lease": 600, "heartbeat": 60}, {"lease": 0.05, "heartbeat": 0.01}
FORMER = "2001-01-01 00:00:00"


def claim(opened: ExperimentStore, by: WorkerInfo | None = None, **selection: Any) -> Attempt:
    experiment = opened.claim(by or worker(), opened.selection(**selection))
    assert experiment is not None
    return experiment.attempt


def let_lease_run_out(target: Target, *attempts: Attempt) -> None:
    for attempt in attempts:
        target.query("UPDATE study__attempts SET lease_until = ? WHERE ID = ?", FORMER, attempt.id)


def lose(target: Target, opened: ExperimentStore, max_lost: int, **selection: Any) -> Attempt:
    """Claim a row, and take it from its silent worker."""
    attempt = claim(opened, **selection)
    let_lease_run_out(target, attempt)
    (silent,) = opened.silent()
    assert silent.attempt == attempt
    assert opened.reap(silent, max_lost)
    return attempt


def rows(target: Target) -> dict[int, str]:
    return dict(target.query("SELECT ID, status FROM study WHERE status <> 'created'"))


def outcomes(target: Target, row: int = 1) -> list[str | None]:
    found = target.query("SELECT outcome FROM study__attempts WHERE experiment_id = ? ORDER BY number", row)
    return [outcome for (outcome,) in found]


def moment(value: Any) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)


def test_a_beat_renews_heartbeat_and_lease_by_the_databases_clock(target: Target) -> None:
    opened = store(target, Execution={"lease": 300})
    held = [claim(opened) for _ in range(3)]
    target.query("UPDATE study__attempts SET heartbeat = ?, lease_until = ?", FORMER, FORMER)
    assert opened.beat([held[0], held[2]]) == set()
    found = target.query("SELECT heartbeat, lease_until FROM study__attempts ORDER BY ID")
    first, untouched, third = ((moment(heartbeat), moment(lease)) for heartbeat, lease in found)
    assert untouched == (moment(FORMER), moment(FORMER))
    for heartbeat, lease in (first, third):
        assert heartbeat > moment(FORMER)
        assert (lease - heartbeat).total_seconds() == pytest.approx(300, abs=0.002)
    ((now,),) = opened.query(f"SELECT {opened.database.dialect.now_exact}")[1]
    assert first[0] <= moment(now)


def test_a_claim_begins_with_a_lease(target: Target) -> None:
    opened = store(target, Execution={"lease": 300})
    claim(opened)
    ((heartbeat, lease),) = target.query("SELECT heartbeat, lease_until FROM study__attempts")
    assert (moment(lease) - moment(heartbeat)).total_seconds() == pytest.approx(300, abs=0.002)


def test_a_beat_returns_the_attempts_that_no_longer_hold_a_row(target: Target) -> None:
    opened = store(target)
    held = [claim(opened) for _ in range(6)]
    assert rows(target) == dict.fromkeys(range(1, 7), "running")
    assert opened.beat(held) == set()
    opened.finish(held[0], ExperimentStatus.DONE)
    opened.reset(["running"], None, [2], dry_run=False)
    target.query("UPDATE study SET status = 'created' WHERE ID = 3")
    target.query("DELETE FROM study WHERE ID = 4")
    let_lease_run_out(target, held[4])
    assert opened.reap(*opened.silent(), 3)
    before = target.query("SELECT heartbeat FROM study__attempts WHERE experiment_id < 6 ORDER BY ID")
    assert opened.beat(held) == set(held[1:5])  # the first may be about to say that it has ended
    assert opened.beat([held[5]]) == set()
    assert target.query("SELECT heartbeat FROM study__attempts WHERE experiment_id < 6 ORDER BY ID") == before
    # The next holder of the row is not mistaken for the previous one.
    assert claim(opened).experiment_id == 2
    assert opened.beat([held[1]]) == {held[1]}
    assert rows(target) == {1: "done", 2: "running", 6: "running"}


def test_silent_are_only_open_attempts_whose_lease_has_run_out(target: Target) -> None:
    opened = store(target, Execution=LONG)
    dead, alive, paused, done, opened_by_hand = (claim(opened) for _ in range(5))
    opened.finish(paused, ExperimentStatus.PAUSED)
    opened.finish(done, ExperimentStatus.DONE)
    assert opened.silent() == []
    attached, is_new = opened.attach(done.experiment_id, worker("writer"))
    assert is_new
    let_lease_run_out(target, dead, paused, done, opened_by_hand)
    target.query("UPDATE study SET status = 'created' WHERE ID = ?", opened_by_hand.experiment_id)
    assert [silent.attempt for silent in opened.silent()] == [dead, replace(opened_by_hand, row_status="created")]
    assert not opened.reap(opened.silent()[1], 3)
    assert [silent.attempt for silent in opened.silent()] == [dead]
    # A writer attached to a row that was set to running by hand has no lease, so none can run out.
    target.query("UPDATE study SET status = 'running' WHERE ID = ?", done.experiment_id)
    assert target.query("SELECT lease_until FROM study__attempts WHERE ID = ?", attached.id) == [(None,)]
    assert [silent.attempt for silent in opened.silent()] == [dead]
    let_lease_run_out(target, alive)
    assert [silent.attempt for silent in opened.silent()] == [dead, alive]
    assert opened.beat([alive]) == set()
    assert [silent.attempt for silent in opened.silent()] == [dead]


@pytest.mark.parametrize("status", ["created", "done", "error", "paused"])
def test_what_a_status_set_by_hand_leaves_open_is_closed(target: Target, status: str) -> None:
    opened = store(target)
    lose(target, opened, max_lost=2)
    attempt = claim(opened)
    target.query("UPDATE study SET status = ?, accuracy = 0.5 WHERE ID = 1", status)
    let_lease_run_out(target, attempt)
    (silent,) = opened.silent()
    assert not opened.reap(silent, 2)
    assert target.query("SELECT status, accuracy FROM study WHERE ID = 1") == [(status, 0.5)]
    assert opened.silent() == []
    ((ended, outcome, error),) = target.query("SELECT ended, outcome, error FROM study__attempts WHERE ID = 2")
    assert ended is not None
    assert (outcome, error) == ("superseded", f"the status of its experiment was set to {status} by SQL")
    # A status that is an end concludes, too.
    target.query("UPDATE study SET status = 'created' WHERE ID = 1")
    lose(target, opened, max_lost=2)
    assert rows(target) == ({1: "error"} if status == "created" else {})


def test_a_row_that_runs_without_an_open_attempt_is_opened(target: Target) -> None:
    opened = store(target)
    orphan, held, by_predecessor = claim(opened), claim(opened), claim(opened)
    opened.attach(4, worker("guest"))
    target.query("UPDATE study__attempts SET ended = heartbeat, outcome = 'reset' WHERE ID = ?", orphan.id)
    target.query("DELETE FROM study__attempts WHERE ID = ?", by_predecessor.id)
    target.query("UPDATE study SET accuracy = 0.5 WHERE ID = 1")
    (unheld,) = opened.unheld()
    assert unheld == Unheld(1, 1)
    assert opened.open_unheld(unheld)
    assert rows(target) == {2: "running", 3: "running"}
    assert target.query("SELECT status, accuracy FROM study WHERE ID = 1") == [("created", None)]
    assert target.query("SELECT outcome FROM study__attempts ORDER BY ID") == [("reset",), (None,), (None,)]
    assert not opened.open_unheld(unheld)
    # An attempt without lease holds no row.
    target.query("UPDATE study SET status = 'running' WHERE ID = 4")
    assert opened.unheld() == [Unheld(4, 1)]
    assert opened.open_unheld(Unheld(4, 1))
    assert opened.beat([held]) == set()


@pytest.mark.parametrize("what", ["claimed", "claimed and orphaned", "done", "opened", "deleted"])
def test_a_row_without_an_open_attempt_that_changed_is_left_alone(target: Target, what: str) -> None:
    opened = store(target)
    attempt = claim(opened)
    target.query("UPDATE study__attempts SET ended = heartbeat, outcome = 'reset'")
    (unheld,) = opened.unheld()
    if what == "deleted":
        target.query("DELETE FROM study WHERE ID = 1")
    elif what == "done":
        target.query("UPDATE study SET status = 'done' WHERE ID = 1")
    else:
        assert opened.reset(["running"], None, [1], dry_run=False) == 1
    if what.startswith("claimed"):
        attempt = claim(opened)
    if what == "claimed and orphaned":
        target.query("UPDATE study__attempts SET ended = heartbeat, outcome = 'reset'")
    before = target.query("SELECT * FROM study ORDER BY ID")
    assert not opened.open_unheld(unheld)
    assert target.query("SELECT * FROM study ORDER BY ID") == before
    if what == "claimed":
        assert opened.beat([attempt]) == set()


@pytest.mark.parametrize("target", ["mariadb", "postgresql"], indirect=True)
def test_a_row_that_is_being_claimed_is_not_taken_for_one_without_a_worker(target: Target) -> None:
    opened = store(target)
    claim(opened)
    target.query("UPDATE study__attempts SET ended = heartbeat, outcome = 'reset'")
    (unheld,) = opened.unheld()
    with ThreadPoolExecutor(1) as pool, target.transaction() as run:
        run(
            "UPDATE study SET name = 'other' WHERE ID = 1",
            "INSERT INTO study__attempts (experiment_id, number, run, worker, token, lease_until) "
            "VALUES (1, 2, 2, 'o', 'other', '2101-01-01 00:00:00')",
        )
        opening = pool.submit(opened.open_unheld, unheld)
        wait_until(lambda: opening.done() or target.sessions_waiting())
        run()
        assert not opening.result(60)
    assert rows(target) == {1: "running"}


def test_who_waits_waits_for_open_rows_and_for_leases_only(target: Target) -> None:
    opened = store(target)
    everything = opened.selection()
    assert opened.unfinished(everything) == (6, 0, 0)
    held, ended_by_hand, attached, orphan, by_predecessor = (claim(opened) for _ in range(5))
    assert opened.unfinished(everything) == (1, 5, 0)
    target.query("UPDATE study SET status = 'done' WHERE ID = ?", ended_by_hand.experiment_id)
    assert opened.unfinished(everything) == (1, 4, 0)
    target.query("UPDATE study__attempts SET lease_until = NULL WHERE ID = ?", attached.id)
    assert opened.unfinished(everything) == (1, 3, 1)
    target.query("UPDATE study__attempts SET ended = heartbeat WHERE ID = ?", orphan.id)
    target.query("DELETE FROM study__attempts WHERE ID = ?", by_predecessor.id)
    assert opened.unfinished(everything) == (1, 1, 2)
    just_held = opened.selection({"ID": held.experiment_id})
    assert opened.unfinished(just_held) == (0, 1, 0)
    let_lease_run_out(target, ended_by_hand)
    assert opened.unfinished(just_held) == (0, 1, 1)
    opened.finish(held, ExperimentStatus.DONE)
    let_lease_run_out(target, held)
    assert opened.unfinished(everything) == (1, 0, 3)


def test_a_reaped_row_is_open_and_empty_and_its_attempt_is_kept(target: Target) -> None:
    opened = store(target)
    before = target.query("SELECT * FROM study ORDER BY ID")
    attempt = claim(opened)
    opened.write_results(attempt, {"accuracy": 0.5})
    opened.write_logs(attempt, {"epochs": {"epoch": 1}})
    assert rows(target) == {1: "running"}
    let_lease_run_out(target, attempt)
    (silent,) = opened.silent()
    assert opened.reap(silent, 3)
    assert target.query("SELECT * FROM study ORDER BY ID") == before
    ((number, outcome, ended, error, heartbeat),) = target.query(
        "SELECT number, outcome, ended, error, heartbeat FROM study__attempts"
    )
    assert (number, outcome) == (1, "lost")
    assert ended is not None
    assert error == f"the last heartbeat of its worker was at {heartbeat} UTC"
    assert target.query("SELECT epoch, attempt_id FROM study__epochs") == [(1, attempt.id)]
    following = claim(opened)
    assert (following.id, following.experiment_id) == (attempt.id + 1, 1)
    assert outcomes(target) == ["lost", None]


@pytest.mark.parametrize(("max_lost", "status"), [(2, "created"), (1, "error")])
def test_what_is_known_of_the_reason_is_reported(target: Target, max_lost: int, status: str) -> None:
    opened = store(target)
    let_lease_run_out(target, claim(opened))
    (silent,) = opened.silent()
    assert opened.reap(silent, max_lost, "SLURM reports job 7 as TIMEOUT")
    ((told,),) = target.query("SELECT error FROM study__attempts")
    assert told == f"the last heartbeat of its worker was at {silent.heartbeat} UTC; SLURM reports job 7 as TIMEOUT"
    ((found, error),) = target.query("SELECT status, error FROM study WHERE ID = 1")
    assert found == status
    if status == "created":
        assert error is None
    else:
        assert error.endswith("; see its attempts; SLURM reports job 7 as TIMEOUT")


def test_losses_are_counted_for_each_experiment(target: Target) -> None:
    """From its own last end, whatever has happened to others."""
    opened = store(target)
    for _ in range(3):
        opened.finish(claim(opened), ExperimentStatus.DONE)
        assert opened.reset(["done"], None, [1], dry_run=False) == 1
    target.query("UPDATE study SET status = 'done' WHERE ID = 1")
    for status in ("created", "error"):
        let_lease_run_out(target, claim(opened))
        (silent,) = opened.silent()
        assert opened.reap(silent, 2)
        assert target.query("SELECT status FROM study WHERE ID = 2") == [(status,)]


def test_nothing_is_taken_from_a_worker_that_beat_in_between(target: Target) -> None:
    opened = store(target)
    attempt = claim(opened)
    let_lease_run_out(target, attempt)
    (silent,) = opened.silent()
    assert opened.beat([attempt]) == set()
    assert not opened.reap(silent, 3)
    assert (rows(target), outcomes(target)) == ({1: "running"}, [None])
    opened.finish(attempt, ExperimentStatus.DONE)
    assert (rows(target), outcomes(target)) == ({1: "done"}, ["done"])


@pytest.mark.parametrize("what", ["done", "released", "reset", "lost", "deleted", "by hand"])
def test_nothing_is_reaped_that_has_ended_in_between(target: Target, what: str) -> None:
    opened = store(target)
    attempt = claim(opened)
    let_lease_run_out(target, attempt)
    (silent,) = opened.silent()
    if what == "done":
        opened.finish(attempt, ExperimentStatus.DONE)
    elif what == "released":
        opened.release(attempt)
    elif what == "reset":
        opened.reset(["running"], None, None, dry_run=False)
    elif what == "lost":
        assert opened.reap(silent, 3)
    elif what == "deleted":
        target.query("DELETE FROM study WHERE ID = 1")
    else:
        target.query("UPDATE study SET status = 'created' WHERE ID = 1")
    following = claim(opened, where={"ID": 1}) if what in ("released", "reset", "lost", "by hand") else None
    before = target.query("SELECT * FROM study ORDER BY ID"), target.query("SELECT * FROM study__attempts ORDER BY ID")
    assert not opened.reap(silent, 3)
    assert (
        target.query("SELECT * FROM study ORDER BY ID"),
        target.query("SELECT * FROM study__attempts ORDER BY ID"),
    ) == before
    if following is not None:
        assert opened.beat([following]) == set()


def test_two_who_reap_at_once_take_a_row_once(target: Target) -> None:
    opened = store(target, keyfields={"seed": {"type": "INT", "values": {"start": 0, "stop": 40}}})
    held = [claim(opened) for _ in range(40)]
    let_lease_run_out(target, *held)
    silent = opened.silent()
    assert len(silent) == 40
    taken: list[Silent] = []
    failures: list[BaseException] = []
    start = threading.Barrier(4)

    def reap_all() -> None:
        reaper = store(target, filled=False)
        try:
            start.wait(30)
            for one in silent:
                if reaper.reap(one, 3):
                    taken.append(one)
        except BaseException as error:
            failures.append(error)
        finally:
            reaper.database.close()

    reapers = [threading.Thread(target=reap_all) for _ in range(4)]
    for reaper in reapers:
        reaper.start()
    for reaper in reapers:
        reaper.join(60)
    assert failures == []
    assert sorted(taken, key=lambda one: one.attempt.id) == silent
    assert rows(target) == {}
    assert target.query("SELECT outcome, COUNT(*) FROM study__attempts GROUP BY outcome") == [("lost", 40)]


def test_a_row_that_is_lost_too_often_is_an_error(target: Target) -> None:
    opened = store(target)
    for lost in (1, 2):
        assert lose(target, opened, max_lost=3, where={"ID": 1}).experiment_id == 1
        assert (rows(target), outcomes(target)) == ({}, ["lost"] * lost)
    lose(target, opened, max_lost=3, where={"ID": 1})
    assert (rows(target), outcomes(target)) == ({1: "error"}, ["lost"] * 3)
    ((error, end, accuracy),) = target.query("SELECT error, end_date, accuracy FROM study WHERE ID = 1")
    assert error == ("lost 3 times: its workers died or could not reach the database; see its attempts")
    assert end is not None
    assert accuracy is None
    assert claim(opened).experiment_id == 2


@pytest.mark.parametrize("end", ["done", "error", "paused", "reset", "reset of the error"])
def test_losses_are_counted_from_the_last_end_on(target: Target, end: str) -> None:
    opened = store(target)
    row = {"where": {"ID": 1}}
    for _ in range(2):
        lose(target, opened, max_lost=2, **row)
        if end == "reset of the error":
            lose(target, opened, max_lost=2, **row)
        elif end == "reset":
            claim(opened, **row)
        else:
            opened.finish(claim(opened, **row), ExperimentStatus(end))
        assert opened.reset(["all"], None, [1], dry_run=False) == 1
    lose(target, opened, max_lost=2, **row)
    assert rows(target) == {}, "the first loss since the row was opened again"
    lose(target, opened, max_lost=2, **row)
    assert rows(target) == {1: "error"}
    assert target.query("SELECT error FROM study WHERE ID = 1 AND error LIKE 'lost 2 times%'") != []


def test_releases_and_retries_neither_count_nor_reset_losses(target: Target) -> None:
    opened = store(target)
    row = {"where": {"ID": 1}}
    lose(target, opened, max_lost=2, **row)
    opened.release(claim(opened, **row))
    opened.finish(claim(opened, **row), ExperimentStatus.ERROR, "no luck", retries=1)
    assert (rows(target), outcomes(target)) == ({}, ["lost", "released", "retried"])
    lose(target, opened, max_lost=2, **row)
    assert (rows(target), outcomes(target)) == ({1: "error"}, ["lost", "released", "retried", "lost"])


def test_an_experiment_that_a_person_opens_keeps_its_losses(target: Target) -> None:
    opened = store(target)
    row = {"where": {"ID": 1}}
    lose(target, opened, max_lost=2, **row)
    claim(opened, **row)
    target.query("UPDATE study SET status = 'created' WHERE ID = 1")
    lose(target, opened, max_lost=2, **row)
    assert (rows(target), outcomes(target)) == ({1: "error"}, ["lost", "superseded", "lost"])


def test_losses_of_one_row_are_none_of_another(target: Target) -> None:
    opened = store(target)
    lose(target, opened, max_lost=2, where={"ID": 1})
    lose(target, opened, max_lost=2, where={"ID": 2})
    assert rows(target) == {}


def test_a_paused_row_that_was_resumed_and_lost_is_open_again(target: Target) -> None:
    opened = store(target)
    paused = claim(opened)
    opened.write_results(paused, {"accuracy": 0.5})
    opened.finish(paused, ExperimentStatus.PAUSED)
    resumed = opened.resume(1, worker()).attempt
    let_lease_run_out(target, resumed)
    assert opened.reap(*opened.silent(), 3)
    assert (rows(target), outcomes(target)) == ({}, ["paused", "lost"])
    assert target.query("SELECT accuracy FROM study WHERE ID = 1") == [(None,)]


@pytest.mark.parametrize("again", [False, True], ids=["open", "executed by another"])
def test_late_writes_of_a_reaped_attempt_are_kept_out_of_the_row(target: Target, again: bool) -> None:
    opened = store(target)
    lost = lose(target, opened, max_lost=3)
    if again:
        holder = claim(opened, worker("other"))
        opened.write_results(holder, {"accuracy": 0.9})
    before = target.query("SELECT * FROM study ORDER BY ID")
    for write in (
        lambda: opened.write_results(lost, {"accuracy": 0.1}),
        lambda: opened.write_logs(lost, {"epochs": {"loss": 1}}),
        lambda: opened.finish(lost, ExperimentStatus.DONE, None, Usage(), {"model": "late"}, output="printed"),
        lambda: opened.finish(lost, ExperimentStatus.ERROR, "late", retries=1),
        lambda: opened.release(lost),
    ):
        with pytest.raises(ClaimLostError, match=f"attempt {lost.id} no longer holds experiment 1"):
            write()
    assert target.query("SELECT * FROM study ORDER BY ID") == before
    assert target.query("SELECT COUNT(*) FROM study__epochs") == [(0,)]
    ((outcome, late, output),) = target.query(
        "SELECT outcome, late_results, output FROM study__attempts WHERE ID = ?", lost.id
    )
    assert (outcome, json.loads(late), output) == ("lost", {"accuracy": 0.1, "model": "late"}, "printed")
    if again:
        opened.finish(holder, ExperimentStatus.DONE)
        assert target.query("SELECT status, accuracy, model FROM study WHERE ID = 1") == [("done", 0.9, None)]
        assert outcomes(target) == ["lost", "done"]


def test_giving_back_everything_leaves_alone_what_was_taken_away(target: Target) -> None:
    opened = store(target)
    lost = lose(target, opened, max_lost=3)
    holder = claim(opened, worker("other"))
    assert holder.experiment_id == lost.experiment_id
    assert opened.release_worker(worker().identity) == []
    assert (rows(target), outcomes(target)) == ({1: "running"}, ["lost", None])


def test_a_worker_is_not_mistaken_for_one_with_a_longer_name(target: Target) -> None:
    """Workers of one call are <session>.0, <session>.1, ... <session>.10; the session alone means all of them."""
    opened = store(target)
    names = ["s.0", "s.1", "s.10", "s.11", "other.1"]
    held = {
        name: claim(opened, WorkerInfo(name, name, "here", 1, None, None, None, None, "3", "0")).experiment_id
        for name in names
    }
    assert [attempt.experiment_id for attempt in opened.held_by("s.1")] == [held["s.1"]]
    assert opened.release_worker("s.1") == [held["s.1"]]
    assert rows(target) == {held[name]: "running" for name in ("s.0", "s.10", "s.11", "other.1")}
    assert opened.release_worker("s") == [held["s.0"], held["s.10"], held["s.11"]]
    assert rows(target) == {held["other.1"]: "running"}


def test_the_lease_of_the_configuration_is_the_one_that_runs_out(target: Target) -> None:
    """Without touching the tables: the database's own clock ends it."""
    opened = store(target, Execution=SHORT)
    attempt = claim(opened)
    ((begun, until),) = target.query("SELECT started, lease_until FROM study__attempts")
    assert (moment(until) - moment(begun)).total_seconds() == pytest.approx(0.05, abs=0.002)
    assert [silent.attempt for silent in wait_until(opened.silent)] == [attempt]


def test_what_ended_without_its_worker_has_a_cause(target: Target) -> None:
    study_ = experimenter(target)
    study_.fill_table_from_config()
    opened = store(target, filled=False)
    for _ in range(6):
        claim(opened)
    study_.release_experiments(ids=[1])
    study_.reset_experiments("running", ids=[2])
    target.query("UPDATE study SET status = 'created' WHERE ID = 3")
    claim(opened, where={"ID": 3})
    target.query("UPDATE study SET status = 'done' WHERE ID = 4")
    let_lease_run_out(target, Attempt(4, 4))
    (silent,) = opened.silent()
    assert not opened.reap(silent, max_lost=3)
    opened.release(opened.held_by(worker().identity)[0], cause="its worker was stopped")
    me = rf"{getpass.getuser()} on {re.escape(platform.node())} \(process {os.getpid()}\)"
    expected = {
        1: ("released", f"released by {me}"),
        2: ("reset", f"reset by {me}"),
        3: ("superseded", "its status was set by SQL, or it was attached; claimed by tester-identity on here"),
        4: ("superseded", "the status of its experiment was set to done by SQL"),
        5: ("released", "its worker was stopped"),
    }
    for number, outcome, error in target.query(
        "SELECT ID, outcome, error FROM study__attempts WHERE outcome IS NOT NULL ORDER BY ID"
    ):
        assert (outcome, bool(re.fullmatch(expected[number][1], error))) == (expected[number][0], True), error
    assert outcomes(target, 6) == [None]
