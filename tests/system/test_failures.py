"""Experiments that fail: any exception is an error of its row, and a worker stops after too many in a row."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter import ExperimentStatus, ResultProcessor
from pyexperimenter.exceptions import TooManyErrorsError
from tests.support.study import experimenter, isolations, outcomes, statuses, study
from tests.support.supervision import configured, filled, row
from tests.support.target import A_FILE_AND_A_SERVER, Target

DATABASES = A_FILE_AND_A_SERVER


def planned(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> ExperimentStatus | None:
    what = custom["plan"][keyfields["seed"]]
    if what == "raise":
        raise OSError(f"seed {keyfields['seed']}")
    if what == "die":
        os._exit(3)
    return ExperimentStatus.ERROR if what == "return error" else None


@pytest.mark.parametrize(
    ("isolation", "plan"),
    [
        ("process", ["raise"] * 6),
        ("process", ["die"] * 6),
        ("process", ["return error"] * 6),
        ("process", ["raise", "die", "raise", "raise", "raise", "raise"]),
        ("process", ["die", "raise", "die", "raise", "raise", "raise"]),
        ("none", ["raise"] * 6),
        ("none", ["return error"] * 6),
    ],
)
def test_a_worker_stops_after_so_many_errors_in_a_row(
    target: Target, tmp_path: Path, isolation: str, plan: list[str]
) -> None:
    execution = {"stop_after_errors": 3, "isolation": isolation}
    study_ = filled(target, tmp_path, execution=execution, plan=plan)
    with pytest.raises(TooManyErrorsError, match="stopped after 3 errors in a row"):
        study_.execute(planned)
    assert target.query("SELECT status, MIN(seed), COUNT(*) FROM study GROUP BY status ORDER BY MIN(seed)") == [
        ("error", 0, 3),
        ("created", 3, 3),
    ]
    assert outcomes(target) == {"error": 3}


@pytest.mark.parametrize(
    ("isolation", "plan"),
    [
        ("process", ["raise", "die", "nothing", "die", "raise", "nothing"]),
        ("none", ["raise", "raise", "nothing", "raise", "raise", "nothing"]),
    ],
)
def test_a_success_in_between_restarts_the_count_of_errors(
    target: Target, tmp_path: Path, isolation: str, plan: list[str]
) -> None:
    execution = {"stop_after_errors": 3, "isolation": isolation}
    study_ = filled(target, tmp_path, execution=execution, plan=plan)
    assert study_.execute(planned) == 6
    assert statuses(target) == outcomes(target) == {"done": 2, "error": 4}


@isolations
def test_stop_after_errors_0_is_never_and_20_is_the_default(target: Target, tmp_path: Path, isolation: str) -> None:
    plan = ["raise"] * 25
    study_ = filled(target, tmp_path, rows=25, execution={"isolation": isolation}, plan=plan)
    with pytest.raises(TooManyErrorsError, match="stopped after 20 errors in a row"):
        study_.execute(planned)
    assert statuses(target) == {"error": 20, "created": 5}
    assert study_.reset_experiments("error") == 20
    execution = {"isolation": isolation, "stop_after_errors": 0}
    study_ = experimenter(target, configured(target, tmp_path, rows=25, execution=execution, plan=plan))
    assert study_.execute(planned) == 25
    assert statuses(target) == {"error": 25}
    assert outcomes(target) == {"error": 45}


class Untellable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def recurse() -> None:
    recurse()


def cancel() -> None:
    async def cancelled() -> None:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        await asyncio.sleep(0)

    asyncio.run(cancelled())


def tell_nothing() -> None:
    raise Untellable


WAYS_TO_FAIL: dict[str, tuple[Callable[[], None], str]] = {
    "RecursionError": (recurse, "RecursionError: maximum recursion depth exceeded"),
    "CancelledError": (cancel, "asyncio.exceptions.CancelledError"),  # not a subclass of Exception
    "Untellable": (tell_nothing, "test_failures.Untellable: <exception str() failed>"),
}


def one_fails(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    if keyfields["seed"] == 1:
        WAYS_TO_FAIL[custom["how"]][0]()


@pytest.mark.parametrize("how", list(WAYS_TO_FAIL))
@isolations
def test_anything_that_the_function_raises_is_an_error_of_its_row(
    target: Target, tmp_path: Path, isolation: str, how: str
) -> None:
    study_ = filled(target, tmp_path, execution={"isolation": isolation}, how=how)
    assert study_.execute(one_fails) == 6
    assert statuses(target) == outcomes(target) == {"done": 5, "error": 1}
    assert row(target, "t.error", 1)[0].rstrip().splitlines()[-1].startswith(WAYS_TO_FAIL[how][1])


def test_of_a_long_error_the_middle_is_left_out(target: Target) -> None:
    study_ = experimenter(target)
    study_.fill_table_from_config()

    def fail(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
        raise ValueError("begin" + "x" * 2_000_000 + "end")

    study_.execute(fail, max_experiments=1)
    (error,) = study_.get_table("status = 'error'")["error"]
    assert error.startswith("Traceback") and "ValueError: beginxxx" in error and error.endswith("end\n")
    assert "characters left out" in error and len(error) < 1_000_100


def three_without_results(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> Any:
    seed = keyfields["seed"]
    if seed == 0:
        results.process_results({"accuracy": 0.5})
    if seed == 1:
        raise ValueError
    return {2: {"accuracy": 0.5}, 3: {}, 4: ExperimentStatus.DONE, 6: ExperimentStatus.PAUSED}.get(seed)


@isolations
def test_experiments_without_results_are_counted_in_one_warning(
    target: Target, tmp_path: Path, isolation: str, caplog: pytest.LogCaptureFixture
) -> None:
    execution = {"isolation": isolation, "experiments_per_process": 2 if isolation == "process" else None}
    study_ = experimenter(target, configured(target, tmp_path, rows=7, execution=execution), log_level="WARNING")
    study_.fill_table_from_config()
    assert study_.execute(three_without_results, n_jobs=2 if isolation == "process" else 1) == 7
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning == (
        "3 experiments are done without any result; perhaps the function lacks a return: it should return a mapping "
        "such as {'accuracy': ...}, or pass one to result_processor.process_results()"
    )
    caplog.clear()
    study_.reset_experiments("all")
    assert study_.execute(three_without_results, where="seed < 3") == 3
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_study_without_resultfields_needs_no_results(sqlite_target: Target, caplog: pytest.LogCaptureFixture) -> None:
    study_ = experimenter(sqlite_target, study(sqlite_target, resultfields={}), log_level="WARNING")
    study_.fill_table_from_config()
    assert study_.execute(lambda *_: None) == 6
    assert caplog.records == []
