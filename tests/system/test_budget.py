"""How long workers go on claiming: limits of the caller and the cluster, and the time an experiment takes."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from pyexperimenter import PyExperimenter, ResultProcessor
from pyexperimenter.exceptions import InvalidValueError
from pyexperimenter.execution.budget import Allowance, Budget, allowance
from tests.support.study import credentials, isolations, store, study, wait_until
from tests.support.target import A_FILE_AND_A_SERVER, Target

DATABASES = A_FILE_AND_A_SERVER

ROWS = 12
ENOUGH_TO_BEGIN = 6  # seconds for a worker's process on a busy machine


def configured(target: Target, **execution: Any) -> dict[str, Any]:
    keyfields = {"seed": {"type": "INT", "values": {"start": 0, "stop": ROWS}}}
    return study(target, keyfields=keyfields, Execution={"isolation": "none", **execution})


def filled(target: Target, **execution: Any) -> PyExperimenter:
    study_ = PyExperimenter(configured(target, **execution), log_level="INFO", **credentials(target))
    study_.fill_table_from_config()
    return study_


def pass_by(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, float]:
    return {"accuracy": 0.5}


def done(target: Target) -> int:
    """Return the number of rows that are done; no other row was ever claimed."""
    counts = dict(target.query("SELECT status, COUNT(*) FROM study GROUP BY status"))
    attempts = dict(target.query("SELECT outcome, COUNT(*) FROM study__attempts GROUP BY outcome"))
    assert counts.pop("created", 0) + counts.get("done", 0) == ROWS
    assert counts == attempts
    return counts.get("done", 0)


@isolations
@pytest.mark.parametrize("stop_after", [600, 600.5, "600", "10m", "1h30m", "1d"])
def test_as_long_as_there_is_time_all_is_executed(sqlite_target: Target, isolation: str, stop_after: Any) -> None:
    study_ = filled(sqlite_target, isolation=isolation)
    assert done(sqlite_target) == 0
    assert study_.execute(pass_by, stop_after=stop_after) == ROWS
    assert done(sqlite_target) == ROWS


@isolations
@pytest.mark.parametrize("stop_after", [1e-9, "0.000001s"])
def test_when_time_is_over_nothing_is_claimed_and_a_message_says_so(
    target: Target, isolation: str, stop_after: Any, caplog: pytest.LogCaptureFixture
) -> None:
    study_ = filled(target, isolation=isolation)
    assert study_.execute(pass_by, stop_after=stop_after) == 0
    assert done(target) == 0
    assert "this worker starts no more experiments: its time is up" in caplog.messages
    assert study_.execute(pass_by) == ROWS
    assert done(target) == ROWS


@isolations
def test_what_runs_when_the_time_is_over_comes_to_its_end(sqlite_target: Target, isolation: str) -> None:
    study_ = filled(sqlite_target, isolation=isolation)
    end = time.time() + ENOUGH_TO_BEGIN

    def function(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, float]:
        wait_until(lambda: time.time() > end + 0.5)
        return {"accuracy": 0.5}

    assert study_.execute(function, stop_after=ENOUGH_TO_BEGIN) == 1
    assert done(sqlite_target) == 1
    assert study_.execute(pass_by) == ROWS - 1


@isolations
def test_min_time_must_be_left(target: Target, isolation: str, caplog: pytest.LogCaptureFixture) -> None:
    study_ = filled(target, isolation=isolation, min_time="1h")
    assert study_.execute(pass_by, stop_after="50m") == 0
    assert done(target) == 0
    (told,) = [message for message in caplog.messages if message.startswith("this worker starts no more experiments: ")]
    assert told.endswith(" left, but min_time is 1h")
    assert study_.execute(pass_by, stop_after="70m", max_experiments=2) == 2
    assert study_.execute(pass_by, max_experiments=3) == 3, "without a time there is nothing to mind"
    assert done(target) == 5


@isolations
@pytest.mark.parametrize(("before", "executed"), [(4, ROWS - 4), (5, 0)])
def test_the_median_of_five_executions_says_how_long_one_takes(
    target: Target, isolation: str, before: int, executed: int, caplog: pytest.LogCaptureFixture
) -> None:
    study_ = filled(target, isolation=isolation)
    assert study_.execute(pass_by, max_experiments=before) == before
    target.query("UPDATE study__attempts SET wall_seconds = 7200")
    assert done(target) == before
    assert study_.execute(pass_by, stop_after="1h") == executed
    assert done(target) == before + executed
    told = [message for message in caplog.messages if message.startswith("this worker starts no more experiments: ")]
    assert [message.partition(" left, ")[2] for message in told] == ["but experiments usually take 2h"] * (not executed)


@pytest.mark.parametrize(("slow", "executed"), [(2, ROWS - 5), (3, 0)])
def test_a_few_that_took_long_do_not_count(target: Target, slow: int, executed: int) -> None:
    study_ = filled(target)
    assert study_.execute(pass_by, max_experiments=5) == 5
    target.query("UPDATE study__attempts SET wall_seconds = 72000 WHERE experiment_id <= ?", slow)  # the mean is > 1h
    assert study_.execute(pass_by, stop_after="1h") == executed
    assert done(target) == 5 + executed


def test_only_the_latest_executions_count(target: Target) -> None:
    study_ = filled(target)
    study_.execute(pass_by, max_experiments=1)
    attempts = [(1, number, number, "done", 7200 if number <= 200 else 1) for number in range(2, 302)]
    columns = "experiment_id, number, run, outcome, wall_seconds"
    target.query(f"INSERT INTO study__attempts ({columns}) VALUES {', '.join(map(str, attempts))}")
    assert study_.execute(pass_by, stop_after="1h", max_experiments=1) == 1


def test_only_experiments_that_were_done_say_how_long_one_takes(target: Target) -> None:
    study_ = filled(target)
    study_.execute(pass_by, max_experiments=6)
    target.query("UPDATE study__attempts SET wall_seconds = 7200")
    target.query("UPDATE study__attempts SET outcome = 'error' WHERE experiment_id = 1")
    target.query("UPDATE study__attempts SET wall_seconds = NULL WHERE experiment_id = 2")
    assert study_.execute(pass_by, stop_after="1h", max_experiments=1) == 1
    target.query("UPDATE study__attempts SET outcome = 'done', wall_seconds = 7200")
    assert study_.execute(pass_by, stop_after="1h") == 0
    assert done(target) == 7


def test_an_allowance_is_a_duration_and_a_time() -> None:
    found = allowance(60, {})
    assert found is not None
    assert (found.seconds, found.until - time.time()) == pytest.approx((60, 60), abs=5)


def test_with_neither_of_them_any_time_left_is_enough(sqlite_target: Target) -> None:
    assert Budget(Allowance(0.9, time.time() + 0.9), None, store(sqlite_target)).refusal() is None


def test_the_sooner_of_the_duration_and_the_time_applies(sqlite_target: Target) -> None:
    """Clocks of machines differ, and workers may start late."""
    opened, now = store(sqlite_target), time.time()
    assert 0 < Budget(Allowance(1000, now + 60), None, opened).seconds_left() <= 60
    assert 0 < Budget(Allowance(60, now + 1000), None, opened).seconds_left() <= 60
    refusal = Budget(Allowance(0.9, now + 1000), 5, opened).refusal()
    assert refusal is not None
    assert "left, but min_time is 5" in refusal


def test_min_time_and_the_usual_time_must_both_be_left(target: Target) -> None:
    study_ = filled(target, min_time="30m")
    study_.execute(pass_by, max_experiments=5)
    target.query("UPDATE study__attempts SET wall_seconds = 7200")
    assert study_.execute(pass_by, stop_after="1h") == 0
    assert study_.execute(pass_by, stop_after="3h", max_experiments=1) == 1
    target.query("UPDATE study__attempts SET wall_seconds = 1")
    assert study_.execute(pass_by, stop_after="20m") == 0
    assert study_.execute(pass_by, stop_after="1h", max_experiments=1) == 1
    assert done(target) == 7


@isolations
@pytest.mark.parametrize(
    ("ends_in", "stop_after", "executed"),
    [
        (-100, None, 0),
        (-100, "1h", 0),
        (1800, None, 0),  # half an hour, which is less than min_time
        (1800, "3h", 0),
        (86400, None, ROWS),
        (86400, "2h", ROWS),
        (86400, "30m", 0),
    ],
)
def test_the_end_of_a_slurm_job_is_minded(
    sqlite_target: Target,
    monkeypatch: pytest.MonkeyPatch,
    isolation: str,
    ends_in: int,
    stop_after: str | None,
    executed: int,
) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + ends_in))
    study_ = filled(sqlite_target, isolation=isolation, min_time="1h")
    assert study_.execute(pass_by, stop_after=stop_after) == executed
    assert done(sqlite_target) == executed


@pytest.mark.parametrize("end", ["", "soon", "-5", "1e3", "nan", "Unknown", "²"])
def test_an_invalid_time_in_the_environment_is_ignored(
    sqlite_target: Target, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", end)
    study_ = filled(sqlite_target, min_time="1h")
    assert study_.execute(pass_by) == ROWS
    assert done(sqlite_target) == ROWS


@pytest.mark.parametrize("stop_after", [0, -1, "0s", "soon", "5 parsecs", "", float("nan"), float("inf"), True, [1]])
def test_an_invalid_time_is_refused_before_anything_is_claimed(sqlite_target: Target, stop_after: Any) -> None:
    study_ = filled(sqlite_target)
    with pytest.raises(
        InvalidValueError, match=r"is not a positive duration; write 60s, 5m, 2h, 1d, 1h30m or a number of sec"
    ):
        study_.execute(pass_by, stop_after=stop_after)
    assert done(sqlite_target) == 0


def test_each_of_several_workers_minds_the_time(target: Target) -> None:
    study_ = filled(target, isolation="process", min_time="1h")
    assert study_.execute(pass_by, n_jobs=2, stop_after="50m") == 0
    assert done(target) == 0
    assert study_.execute(pass_by, n_jobs=2, stop_after="2h") == ROWS
    assert done(target) == ROWS


def test_a_worker_whose_process_died_gets_no_new_time(sqlite_target: Target) -> None:
    """The time counts from the call, not from the start of a process that replaces another."""
    study_ = filled(sqlite_target, isolation="process")
    end = time.time() + ENOUGH_TO_BEGIN

    def function(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
        wait_until(lambda: time.time() > end)
        os.kill(os.getpid(), signal.SIGKILL)

    assert study_.execute(function, stop_after=ENOUGH_TO_BEGIN) == 1
    assert (study_.counts()["error"], study_.counts()["created"]) == (1, ROWS - 1)
    assert sqlite_target.query("SELECT outcome FROM study__attempts") == [("error",)]
