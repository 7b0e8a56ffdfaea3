"""Rows that fail are executed again: how often, and after which exceptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pyexperimenter import ResultProcessor
from tests.support.study import experimenter, isolations, outcomes, statuses
from tests.support.supervision import configured, count_execution, filled
from tests.support.target import A_FILE_AND_A_SERVER, Target

DATABASES = A_FILE_AND_A_SERVER


class Hiccup(OSError):
    """An error that passes."""


def one_needs_luck(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, float]:
    count = count_execution(keyfields, custom)
    if keyfields["seed"] == 1 and count <= custom["failures"]:
        results.process_results({"model": "of an execution that failed"})
        raise Hiccup(f"execution {count} failed")
    return {"accuracy": count}


def attempts_of_the_unlucky(target: Target) -> list[tuple[str, str | None]]:
    """Return the outcome of each attempt and the last line of its error."""
    columns = "outcome, error"
    sql = (
        f"SELECT {columns} FROM study__attempts WHERE experiment_id = (SELECT ID FROM study WHERE seed = 1) ORDER BY ID"
    )
    return [(outcome, error and error.strip().splitlines()[-1]) for outcome, error in target.query(sql)]


@isolations
def test_a_row_is_executed_again_until_it_succeeds(target: Target, tmp_path: Path, isolation: str) -> None:
    study_ = filled(target, tmp_path, execution={"retries": 2, "isolation": isolation}, failures=2)
    assert statuses(target) == {"created": 6}
    assert study_.execute(one_needs_luck) == 8
    assert statuses(target) == {"done": 6}
    assert outcomes(target) == {"done": 6, "retried": 2}
    assert attempts_of_the_unlucky(target) == [
        ("retried", "test_retries.Hiccup: execution 1 failed"),
        ("retried", "test_retries.Hiccup: execution 2 failed"),
        ("done", None),
    ]
    sql = "SELECT error, accuracy, model FROM study WHERE seed = 1"
    assert target.query(sql) == [(None, 3.0, None)], "nothing is left of the executions that failed"
    assert (tmp_path / "executions of 1").read_text() == "xxx"


@isolations
def test_only_an_error_that_stays_is_logged_as_one(
    target: Target, tmp_path: Path, isolation: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = configured(target, tmp_path, execution={"retries": 2, "isolation": isolation}, failures=100)
    study_ = experimenter(target, config, log_level="WARNING")
    study_.fill_table_from_config()
    assert study_.execute(one_needs_luck) == 8
    logged = [(record.levelname, *record.getMessage().splitlines()) for record in caplog.records]
    assert [(level, first, last) for level, first, *_, last in logged] == [
        (
            "WARNING",
            "experiment 2 failed, and is open again; 2 attempts are left:",
            "test_retries.Hiccup: execution 1 failed",
        ),
        (
            "WARNING",
            "experiment 2 failed, and is open again; 1 attempt is left:",
            "test_retries.Hiccup: execution 2 failed",
        ),
        ("ERROR", "experiment 2 failed:", "test_retries.Hiccup: execution 3 failed"),
    ]


@isolations
def test_retries_that_are_used_up_leave_an_error_until_a_reset(target: Target, tmp_path: Path, isolation: str) -> None:
    study_ = filled(target, tmp_path, execution={"retries": 2, "isolation": isolation}, failures=100)
    assert study_.execute(one_needs_luck) == 8
    assert statuses(target) == {"done": 5, "error": 1}
    first = [
        ("retried", "test_retries.Hiccup: execution 1 failed"),
        ("retried", "test_retries.Hiccup: execution 2 failed"),
        ("error", "test_retries.Hiccup: execution 3 failed"),
    ]
    assert attempts_of_the_unlucky(target) == first
    ((error, model),) = target.query("SELECT error, model FROM study WHERE seed = 1")
    assert error.rstrip().endswith("execution 3 failed")
    assert model == "of an execution that failed"
    assert study_.reset_experiments("error") == 1
    assert statuses(target) == {"done": 5, "created": 1}
    assert study_.execute(one_needs_luck) == 3
    assert statuses(target) == {"done": 5, "error": 1}
    assert attempts_of_the_unlucky(target)[3:] == [
        ("retried", "test_retries.Hiccup: execution 4 failed"),
        ("retried", "test_retries.Hiccup: execution 5 failed"),
        ("error", "test_retries.Hiccup: execution 6 failed"),
    ]
    assert outcomes(target) == {"done": 5, "retried": 4, "error": 2}


@isolations
@pytest.mark.parametrize(
    ("retry_on", "no_retry_on", "is_retried"),
    [
        (["Hiccup"], [], True),
        (["test_retries.Hiccup"], [], True),
        (["OSError"], [], True),
        (["builtins.OSError"], [], True),
        (["ValueError", "Exception"], [], True),
        (["ValueError"], [], False),
        (["other.Hiccup"], [], False),
        ([], ["ValueError"], True),
        ([], ["Hiccup"], False),
        ([], ["test_retries.Hiccup"], False),
        ([], ["OSError"], False),
        (["OSError"], ["Hiccup"], False),
        (["Hiccup"], ["OSError"], False),
    ],
)
def test_exceptions_to_retry_are_named_by_their_class_or_a_base(
    target: Target, tmp_path: Path, isolation: str, retry_on: list[str], no_retry_on: list[str], is_retried: bool
) -> None:
    execution = {"retries": 1, "retry_on": retry_on, "no_retry_on": no_retry_on, "isolation": isolation}
    study_ = filled(target, tmp_path, rows=2, execution=execution, failures=1)
    study_.execute(one_needs_luck)
    assert statuses(target) == ({"done": 2} if is_retried else {"done": 1, "error": 1})
    assert outcomes(target) == ({"done": 2, "retried": 1} if is_retried else {"done": 1, "error": 1})
