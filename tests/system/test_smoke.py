"""Smoke tests: a few experiments with all values run first, and a failure keeps the others from starting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from pyexperimenter import PyExperimenter, SmokeTestError
from pyexperimenter.cli import main
from pyexperimenter.exceptions import ExperimentFunctionError, InvalidColumnError, InvalidValueError
from tests.support.study import experimenter, study
from tests.support.target import Target

KEYFIELDS = {
    "model": {"type": "VARCHAR(9)", "values": ["large", "small"]},
    "depth": {"type": "INT", "values": [1, 2, 3], "when": {"model": "small"}},
    "dataset": {"type": "VARCHAR(9)", "values": ["iris", "wine"]},
    "seed": {"type": "INT", "values": {"start": 0, "stop": 5}},
}
REQUIRES = [{"when": {"model": "large"}, "resources": {"gpus": 1}}]


def filled(target: Target, **changes: Any) -> PyExperimenter:
    opened = experimenter(
        target, study(target, keyfields=KEYFIELDS, requires=REQUIRES, resultfields={"accuracy": "DOUBLE"}, **changes)
    )
    opened.fill_table_from_config()
    return opened


def run(keyfields: dict[str, Any], results: Any, custom: Any) -> dict[str, Any]:
    if keyfields["depth"] == 2:
        raise ValueError(f"depth {keyfields['depth']}")
    return {"accuracy": 0.5}


def fine(keyfields: dict[str, Any], results: Any, custom: Any) -> dict[str, Any]:
    return {"accuracy": 0.5}


def test_a_failure_keeps_the_others_from_starting(target: Target) -> None:
    opened = filled(target)
    with pytest.raises(
        SmokeTestError, match=r"^1 of 3 experiments of the smoke test failed.* have depth=2 \(1 of 1\), "
    ):
        opened.execute(run, smoke=1)
    assert opened.counts() | {"done": 2, "error": 1, "created": 37} == opened.counts()
    assert opened.get_table({"model": "large"})["status"].eq("created").all()  # it needs a GPU, so it comes last

    opened.reset_experiments("error")
    assert opened.execute(fine, smoke=1) == 38
    assert opened.counts()["done"] == 40
    assert opened.execute(fine, smoke=1) == 0


def test_all_pairs_of_what_is_selected(sqlite_target: Target) -> None:
    opened = filled(sqlite_target)
    opened.execute(fine, smoke=2, where="seed = 3", max_experiments=0)
    done = opened.get_table(states="done")
    assert len(done) == 8  # all of seed 3, as the data sets are crossed with the rest
    assert done["seed"].eq(3).all()
    small = filled(sqlite_target)
    small.reset_experiments("all")
    small.execute(fine, smoke=1, resources={"gpus": 0}, max_experiments=0)
    assert sorted(small.get_table(states="done")["depth"]) == [1, 2, 3]  # the large one cannot be executed here


def test_nothing_is_started_if_something_is_wrong(sqlite_target: Target) -> None:
    opened = filled(sqlite_target)
    with pytest.raises(InvalidValueError, match="smoke: 3 is not a whole number from 0 to 2"):
        opened.execute(fine, smoke=3)
    with pytest.raises(ExperimentFunctionError):
        opened.execute(lambda: None, smoke=1)
    with pytest.raises(InvalidColumnError):
        opened.execute(fine, smoke=1, order_by="colour")
    assert opened.counts()["created"] == 40


def test_the_command(sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(sqlite_target)
    config = tmp_path / "config.yml"
    config.write_text(
        yaml.safe_dump(
            study(sqlite_target, keyfields=KEYFIELDS, requires=REQUIRES, resultfields={"accuracy": "DOUBLE"})
        )
    )
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    failed = CliRunner().invoke(main, ["run", str(config), "test_smoke:run", "--smoke"])
    assert failed.exit_code == 1
    assert "Error: 1 of 3 experiments of the smoke test failed" in failed.output
    done = CliRunner().invoke(main, ["run", str(config), "test_smoke:fine", "--smoke", "2"])
    assert done.exit_code == 0, done.output
    assert "Executed 37 experiments" in done.output


def test_local_jobs_start_only_if_the_smoke_test_succeeds(sqlite_target: Target, tmp_path: Path) -> None:
    opened = filled(sqlite_target)
    resources = {"gpus": 1}
    with pytest.raises(SmokeTestError, match="so no other job was started"):
        opened.submit(run, cluster="local", folder=tmp_path / "jobs", smoke=1, resources=resources)
    assert opened.counts()["error"] == 1
    opened.reset_experiments("error")
    jobs = opened.submit(fine, cluster="local", folder=tmp_path / "jobs", smoke=1, resources=resources)
    jobs.wait(120)
    assert opened.counts()["done"] == 40
