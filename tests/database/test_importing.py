"""Results that were computed elsewhere, written into the experiments of a study."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from pyexperimenter import PyExperimenter
from pyexperimenter.exceptions import ExperimentExistsError, InvalidExperimentError, InvalidRowError
from tests.support.proxies import Proxy, through_port
from tests.support.study import experimenter, statuses, study
from tests.support.target import Target


def filled(target: Target, **changes: Any) -> PyExperimenter:
    study_ = experimenter(target, study(target, **changes))
    study_.fill_table_from_config()
    return study_


def test_results_are_imported(target: Target) -> None:
    study_ = filled(target)
    results = pd.DataFrame(
        {"seed": [2, 0], "dataset": ["wine", "iris"], "accuracy": [0.5, math.nan], "model": ["a", None]}
    )
    assert [study_.import_results(results[row : row + 1]) for row in (0, 1)] == [1, 1]
    table = study_.get_table(states="done").set_index(["dataset", "seed"])
    assert table.loc[("wine", 2), ["accuracy", "model"]].tolist() == [0.5, "a"]
    assert table.loc[("iris", 0), ["accuracy", "model"]].isna().all()
    assert table["end_date"].notna().all()
    attempts = study_.get_attempts()
    assert attempts["outcome"].tolist() == ["imported"] * 2
    assert attempts["ended"].notna().all() and attempts["git_commit"].isna().all()
    assert study_.get_table(outcome="imported")["ID"].tolist() == sorted(table["ID"])
    assert study_.execute(lambda *_: {"accuracy": 1}) == 4
    assert study_.reset_experiments(outcome="imported") == 2
    assert study_.execute(lambda *_: {"accuracy": 1}) == 2


def test_null_and_json_keyfields_are_recognized(target: Target) -> None:
    keyfields = {
        "options": {"type": "JSON", "values": [{"b": 1, "a": [2]}, {"b": 2}]},
        "rate": {"type": "DOUBLE", "values": [0.1], "when": {"method": "sgd"}},
        "method": {"type": "VARCHAR(9)", "values": ["sgd", "tree"]},
    }
    study_ = filled(target, keyfields=keyfields)
    rows = [{"options": {"a": [2], "b": 1}, "method": "tree", "accuracy": 1}]
    rows += [{"options": {"b": 2}, "method": "sgd", "rate": 0.1, "accuracy": 2}]
    assert study_.import_results(rows) == 2
    done = study_.get_table(states="done").sort_values("accuracy")
    assert done["method"].tolist() == ["tree", "sgd"]
    assert done["options"].tolist() == [{"a": [2], "b": 1}, {"b": 2}]


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        (
            {"dataset": "iris", "seed": 9},
            InvalidExperimentError,
            r"no experiment with .*'seed': 9.*nothing was imported",
        ),
        ({"dataset": "iris", "seed": 1}, ExperimentExistsError, "experiment 2 is not open, so nothing was imported"),
        ({"dataset": "iris", "seed": 0}, InvalidRowError, "row 1 has the keyfields of an earlier row"),
        ({"dataset": "iris", "seed": 2, "nix": 1}, InvalidRowError, "row 1: 'nix' is not a resultfield"),
        ({"dataset": "iris", "seed": 2, "accuracy": "high"}, InvalidRowError, "row 1: accuracy: 'high'"),
        ({"dataset": "iris", "seed": "x"}, InvalidRowError, "row 1: seed: 'x'"),
    ],
)
def test_nothing_is_imported_if_anything_is_wrong(
    target: Target, row: dict[str, Any], error: type[Exception], message: str
) -> None:
    study_ = filled(target)
    target.query("UPDATE study SET status = 'paused' WHERE ID = 2")
    with pytest.raises(error, match=message):
        study_.import_results([{"dataset": "iris", "seed": 0, "accuracy": 1}, row])
    assert statuses(target) == {"created": 5, "paused": 1}
    assert target.query("SELECT COUNT(*) FROM study__attempts") == [(0,)]


def test_a_lost_answer_does_no_harm(mariadb_target: Target) -> None:
    filled(mariadb_target)
    assert mariadb_target.server is not None
    proxy = Proxy(mariadb_target.server.host, mariadb_target.server.port)
    study_ = experimenter(through_port(mariadb_target, proxy.port), study(mariadb_target))
    study_.counts()
    commits = b"\x03COMMIT"
    proxy.swallow_next(commits)
    assert study_.import_results([{"dataset": "iris", "seed": 1, "accuracy": 1}]) == 1
    assert proxy.swallowed.is_set()
    proxy.close()
    assert mariadb_target.query("SELECT outcome FROM study__attempts") == [("imported",)]
