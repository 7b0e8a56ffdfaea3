"""Keyfields joined to logs, and the tables of several studies as one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pyexperimenter import PyExperimenter
from pyexperimenter.analysis import concat_studies, join_keyfields
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError


def study(directory: Path, name: str, unit: str, **keyfields: Any) -> PyExperimenter:
    """Return a study whose experiments are done, with the largest keyfield as their score and log."""
    table = {"name": name, "keyfields": keyfields, "resultfields": {"score": "DOUBLE", "note": "LONGTEXT"}}
    configuration = {
        "Database": {"provider": "sqlite", "database": str(directory / "studies"), "table": table},
        "logtables": {"epochs": {"loss": "DOUBLE", "seed": "INT"}},
        "Execution": {"isolation": "none"},
        "Analysis": {"unit": unit},
    }
    experimenter = PyExperimenter({"PY_EXPERIMENTER": configuration}, log_level="CRITICAL")

    def function(row: dict[str, Any], results: Any, custom: Any) -> dict[str, Any]:
        results.process_logs({"epochs": {"loss": 0.5, "seed": -1}})
        return {"score": max(value for value in row.values() if isinstance(value, int))}

    experimenter.fill_table_from_config()
    experimenter.execute(function)
    return experimenter


SEED = {"type": "INT", "values": {"start": 0, "stop": 3}}
DATASET = {"type": "VARCHAR(9)", "values": ["a", "b"]}


def test_keyfields_are_joined_behind_the_experiments_id() -> None:
    table = pd.DataFrame({"ID": [1, 2], "loss": ["l1", "l2"], "seed": [7, 8], "creation_date": None, "status": "done"})
    logs = pd.DataFrame({"ID": [10, 11, 12], "experiment_id": [2, 1, 3], "loss": [0.2, 0.1, 0.3]})
    joined = join_keyfields(logs, table)
    assert list(joined.columns) == ["ID", "experiment_id", "loss", "seed", "loss_logged"]
    assert joined.values.tolist() == [[10, 2, "l2", 8, 0.2], [11, 1, "l1", 7, 0.1]]


def test_a_logtable_with_the_keyfields_of_its_experiments(tmp_path: Path) -> None:
    experimenter = study(tmp_path, "one", "seed", dataset=DATASET, seed=SEED)
    logs = experimenter.get_logtable("epochs", "experiment_id > 4", joined=True)
    names = ["ID", "experiment_id", "dataset", "seed", "timestamp", "loss", "seed_logged", "attempt_id"]
    assert list(logs.columns) == names
    assert logs[["experiment_id", "dataset", "seed", "seed_logged"]].values.tolist() == [
        [5, "b", 1, -1],
        [6, "b", 2, -1],
    ]
    assert list(experimenter.get_logtable("epochs").columns) == [
        *("ID", "experiment_id", "timestamp", "loss", "seed", "attempt_id")
    ]


def test_several_studies_are_one_table(tmp_path: Path) -> None:
    old = study(tmp_path, "old", "dataset", dataset=DATASET, seed=SEED)
    new = study(tmp_path, "new", "dataset", seed=SEED, depth={"type": "INT", "values": [8]}, dataset=DATASET)
    both = concat_studies({"old": old, "new": new.get_table("seed < 2")})
    assert list(both.columns[:6]) == ["ID", "study", "dataset", "seed", "depth", "creation_date"]
    assert sorted(both.columns) == sorted({*old.get_table(), *new.get_table(), "study"})
    assert both["study"].tolist() == ["old"] * 6 + ["new"] * 4
    assert both["ID"].tolist() == [1, 2, 3, 4, 5, 6, 1, 2, 3, 4]
    assert (both.dtypes["seed"], both.dtypes["depth"], both.dtypes["score"]) == ("Int64", "Int64", "float64")
    assert both["depth"].isna().tolist() == [True] * 6 + [False] * 4
    assert both.attrs == {"unit": ["dataset"], "uneven": True}


def test_it_is_summarized_like_one_study(tmp_path: Path) -> None:
    from pyexperimenter.analysis import summarize

    old = study(tmp_path, "old", "dataset", dataset=DATASET, seed=SEED)
    other = study(tmp_path, "other", "seed", dataset=DATASET, seed={"type": "INT", "values": [5, 6]})
    both = concat_studies({"old": old, "other": other})
    assert both.attrs == {"uneven": True}  # they declare different units
    summary = summarize(both, "score", "study", over=["dataset", "seed"], pairing="all")
    assert summary[["study", "mean", "n"]].values.tolist() == [["old", 1.0, 6], ["other", 5.5, 4]]


def test_what_cannot_be_one_table_is_refused(tmp_path: Path) -> None:
    plain = study(tmp_path, "plain", "seed", seed=SEED).get_table()
    with pytest.raises(InvalidValueError, match=re.escape("studies: there are none; give at least one")):
        concat_studies({})
    with pytest.raises(InvalidColumnError, match="second has a column 'study' of its own; rename it"):
        concat_studies({"first": plain, "second": plain.assign(study="x")})
    scored = plain.rename(columns={"seed": "number", "score": "seed"})
    with pytest.raises(InvalidColumnError, match="'seed' is a keyfield, but not in second; rename it"):
        concat_studies({"first": plain, "second": scored})
