from __future__ import annotations

import re
from typing import Any

import pytest

from pyexperimenter import ExperimentStatus, PyExperimenter
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError, MissingTableError
from tests.support.study import experimenter, study
from tests.support.target import Target


@pytest.fixture
def mixed(target: Target) -> PyExperimenter:
    """Rows 1 and 4 done, 2 and 5 in error, 3 paused, 6 created; each executed one has a result and a log."""
    study_ = experimenter(target, study(target, result_timestamps=True))
    study_.fill_table_from_config()

    def function(keyfields: dict[str, Any], results: Any, custom: Any) -> ExperimentStatus:
        results.process_results({"accuracy": 0.5})
        results.process_logs({"epochs": {"epoch": keyfields["seed"]}})
        if keyfields["seed"] == 1:
            raise ValueError("seed 1")
        return ExperimentStatus.PAUSED if keyfields["seed"] == 2 else ExperimentStatus.DONE

    study_.execute(function, max_experiments=5)
    return study_


@pytest.mark.parametrize(
    ("states", "options", "expected"),
    [
        (["error"], {}, [2, 5]),
        ([ExperimentStatus.ERROR, "paused"], {}, [2, 3, 5]),
        (["all"], {}, [1, 2, 3, 4, 5]),
        (["created"], {}, []),
        (["error"], {"where": {"dataset": "wine"}}, [5]),
        (["done"], {"where": "seed < 1 AND dataset LIKE '%ris'"}, [1]),
        ([], {"ids": [1, 2, 6, 99]}, [1, 2]),
        (["done"], {"ids": [1, 2]}, [1]),
        ([], {"error": "SEED 1"}, [2, 5]),
        (["error"], {"error": "seed 1", "where": {"dataset": "iris"}}, [2]),
        (["error"], {"error": "seed_1"}, []),
        (["error"], {"error": "%"}, []),
        ([], {"where": {"seed": [1, 2]}}, [2, 3, 5]),
        ([], {}, []),
    ],
)
def test_reset_opens_the_rows_asked_for_and_only_these(
    target: Target, mixed: PyExperimenter, states: list[str], options: dict[str, Any], expected: list[int]
) -> None:
    before = dict(target.query("SELECT ID, status FROM study"))
    assert mixed.reset_experiments(*states, **options, dry_run=True) == len(expected)
    assert dict(target.query("SELECT ID, status FROM study")) == before
    assert mixed.reset_experiments(*states, **options) == len(expected)
    after = dict(target.query("SELECT ID, status FROM study"))
    assert {row for row in after if after[row] != before[row]} == set(expected)
    assert all(after[row] == "created" for row in expected)


def test_reset_empties_the_row_and_keeps_the_attempt(target: Target, mixed: PyExperimenter) -> None:
    fresh = target.query("SELECT * FROM study WHERE ID = 6")[0]
    assert mixed.reset_experiments("all") == 5
    for row in target.query("SELECT * FROM study WHERE ID < 6 ORDER BY ID"):
        assert row[3:] == fresh[3:]
    outcomes = target.query("SELECT outcome FROM study__attempts ORDER BY ID")
    assert outcomes == [("done",), ("error",), ("paused",), ("done",), ("error",)]
    assert len(mixed.get_logtable("epochs")) == 0
    assert mixed.get_logtable("epochs", all_attempts=True)["epoch"].tolist() == [0, 1, 2, 0, 1]
    mixed.execute(lambda k, results, c: results.process_logs({"epochs": {"epoch": 9}}), where={"ID": 2})
    current = mixed.get_logtable("epochs")
    assert current[["experiment_id", "epoch"]].values.tolist() == [[2, 9]]
    assert target.query("SELECT number, run FROM study__attempts WHERE experiment_id = 2") == [(1, 1), (2, 2)]


ONE, TWO = "1" * 40, "2" * 40


@pytest.fixture
def versions(target: Target, mixed: PyExperimenter) -> PyExperimenter:
    """As `mixed`, executed with different code and in different jobs; row 1 twice. `attach` has written to row 4."""
    mixed.reset_experiments(ids=[1])
    assert mixed.execute(lambda *_: None, where={"ID": 1}) == 1
    mixed.attach(lambda results: results.process_results({"accuracy": 1}), 4)
    for experiment_id, number, commit, changes, job in [
        (1, 1, TWO, None, "13"),
        (1, 2, ONE, None, "12"),
        (2, 1, ONE, "0123456789", "12_5"),
        (3, 1, ONE, "01abcdef01", "12_5 restart 2"),
        (4, 1, TWO, None, "120"),
        (4, 2, ONE, None, "12"),
        (5, 1, None, None, "1%2.server_1"),
    ]:
        target.query(
            "UPDATE study__attempts SET git_commit = ?, git_diff_hash = ?, job_id = ? "
            "WHERE experiment_id = ? AND number = ?",
            *(commit, changes, job, experiment_id, number),
        )
    return mixed


def test_experiments_are_found_by_their_last_execution(versions: PyExperimenter) -> None:
    for latest, expected in [
        ({"commit": "1111"}, [1, 2, 3]),
        ({"commit": ONE}, [1, 2, 3]),
        ({"commit": "2"}, [4]),
        ({"commit": "3"}, []),
        ({"commit": "1111+"}, [2, 3]),
        ({"commit": "1111+01"}, [2, 3]),
        ({"commit": "1111+01AB"}, [3]),
        ({"commit": "2+01"}, []),
        ({"job": "12"}, [1, 2, 3]),
        ({"job": 12}, [1, 2, 3]),
        ({"job": "12_5"}, [2, 3]),
        ({"job": "12_5 restart 2"}, [3]),
        ({"job": "1"}, []),
        ({"job": "1_"}, []),
        ({"job": "1%2.server"}, [5]),
        ({"job": "1%"}, []),
        ({"job": ""}, []),
        ({"outcome": "done"}, [1, 4]),
        ({"outcome": "error"}, [2, 5]),
        ({"outcome": "lost"}, []),
        ({"commit": "1", "job": "12_5", "outcome": "error"}, [2]),
        ({"commit": "1", "where": "seed = 2 OR 1 = 1"}, [1, 2, 3]),
    ]:
        assert versions.get_table(**latest)["ID"].tolist() == expected, latest
        assert versions.reset_experiments(**latest, dry_run=True) == len(expected)
        assert versions.get_table(**latest, states="created").empty


@pytest.mark.parametrize(
    ("latest", "expected"), [({"commit": "1+0"}, [2, 3]), ({"job": 12}, [1, 2, 3]), ({"outcome": "done"}, [1, 4])]
)
def test_experiments_are_reset_by_their_last_execution(
    versions: PyExperimenter, latest: dict[str, Any], expected: list[int]
) -> None:
    assert versions.reset_experiments(**latest) == len(expected)
    assert versions.get_table(states="created")["ID"].tolist() == sorted([*expected, 6])
    assert versions.reset_experiments(**latest) == 0
    assert versions.get_table(**latest)["ID"].tolist() == expected  # what they last did is the same


def test_what_last_executions_cannot_be_is_refused(versions: PyExperimenter) -> None:
    for commit in ("", "HEAD", "1%", "+01", "1+1+1", "1 "):
        with pytest.raises(InvalidValueError, match=rf"commit: {re.escape(repr(commit))} is not the beginning"):
            versions.reset_experiments("all", commit=commit)
    with pytest.raises(InvalidValueError, match="outcome: 'attached' is unknown; choose from done, error, paused, re"):
        versions.get_table(outcome="attached")
    assert versions.counts()["created"] == 1


def test_a_table_of_the_predecessor_has_no_last_executions(target: Target) -> None:
    study_ = experimenter(target)
    study_.fill_table_from_config()
    target.query("UPDATE study SET status = 'done'")
    target.query("DROP TABLE study__attempts")
    with pytest.raises(MissingTableError, match=r"study__attempts.* fill the table first"):
        study_.get_table(commit="1")
    assert study_.reset_experiments(job="12") == 0
    assert study_.get_table(commit="1").empty


def test_what_makes_no_sense_is_refused(mixed: PyExperimenter) -> None:
    with pytest.raises(InvalidValueError, match="'failed' is not a valid status; did you mean 'error'"):
        mixed.reset_experiments("failed")
    with pytest.raises(InvalidColumnError, match="no column 'sed'"):
        mixed.reset_experiments("error", where={"sed": 1})
    with pytest.raises(InvalidValueError, match="seed: 'x' is not an integer"):
        mixed.reset_experiments("error", where={"seed": "x"})
    assert mixed.counts() == {"created": 1, "running": 0, "done": 2, "error": 2, "paused": 1}


def test_who_reset_experiments_is_recorded(mixed: PyExperimenter) -> None:
    mixed.reset_experiments("error", dry_run=True)
    mixed.reset_experiments("error", ids=[6])
    assert mixed._store.events("reset") == []
    assert mixed.reset_experiments("error", where={"seed": 1}) == 2
    (event,) = mixed._store.events("reset")
    assert (event["experiments"], event["states"], event["where"]) == (2, ["error"], {"seed": 1})
    assert "(process " in event["by"]
