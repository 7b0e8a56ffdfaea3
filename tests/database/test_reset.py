from __future__ import annotations

from typing import Any

import pytest

from pyexperimenter import ExperimentStatus, PyExperimenter
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError
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


def test_what_makes_no_sense_is_refused(mixed: PyExperimenter) -> None:
    with pytest.raises(InvalidValueError, match="'failed' is not a valid status; choose from created, running, done"):
        mixed.reset_experiments("failed")
    with pytest.raises(InvalidColumnError, match="no column 'sed'"):
        mixed.reset_experiments("error", where={"sed": 1})
    with pytest.raises(InvalidValueError, match="seed: 'x' is not an integer"):
        mixed.reset_experiments("error", where={"seed": "x"})
    assert mixed.counts() == {"created": 1, "running": 0, "done": 2, "error": 2, "paused": 1}
