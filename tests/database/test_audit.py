"""Audits: finished experiments are executed again, and no row changes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from scipy import stats

from pyexperimenter import PyExperimenter
from pyexperimenter.analysis.auditing import lower_bound, sample_of
from pyexperimenter.cli import main
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError
from tests.support.study import experimenter, study
from tests.support.target import Target

KEYFIELDS = {
    "method": {"type": "VARCHAR(9)", "values": ["svm", "tree"]},
    "seed": {"type": "INT", "values": {"start": 0, "stop": 20}},
}
RESULTFIELDS = {"accuracy": "DOUBLE", "seconds": "DOUBLE", "note": "JSON", "ended_at": "DATETIME"}


def executed(target: Target, function: Any, **changes: Any) -> PyExperimenter:
    opened = experimenter(target, study(target, keyfields=KEYFIELDS, resultfields=RESULTFIELDS, **changes))
    opened.fill_table_from_config()
    opened.execute(function)
    return opened


def same(keyfields: dict[str, Any], results: Any, custom: Any) -> dict[str, Any]:
    results.process_results({"note": {"seed": keyfields["seed"], "values": [0.1, None]}})
    results.process_logs({"epochs": {"epoch": 1, "loss": 0.5}})
    if keyfields["seed"] == 7:
        raise ValueError(f"seed {random.random()}")
    return {"accuracy": 0.1 + keyfields["seed"] / 3, "seconds": random.random(), "ended_at": pd.Timestamp.now()}


def drifting(keyfields: dict[str, Any], results: Any, custom: Any) -> dict[str, Any]:
    found = same(keyfields, results, custom)
    return found | {"accuracy": found["accuracy"] + (1e-9 if keyfields["method"] == "tree" else 0)}


def rows(target: Target) -> Any:
    return target.query("SELECT * FROM study ORDER BY ID"), target.query("SELECT COUNT(*) FROM study__epochs")


def test_the_same_results_again(target: Target) -> None:
    opened = executed(target, same)
    before = rows(target)
    found = opened.audit(same, 20, failed=True, ignore=["seconds"])
    assert (found.audited, found.reproduced, found.population) == (20, 20, 40)
    assert str(found).startswith("20 of 20 experiments gave the same results again. With 95 % confidence, at least 9")
    assert rows(target) == before
    audits = opened.get_attempts().query("outcome == 'audit'")
    assert len(audits) == 20
    assert audits["wall_seconds"].notna().all()
    assert opened.get_table(outcome="done").shape[0] == 38  # audits are not their last executions
    opened.audit(same, 20, failed=True, ignore=["seconds"])
    assert opened.get_attempts()["outcome"].eq("audit").sum() == 20  # nothing is left


def test_what_differs_and_what_it_has_in_common(target: Target) -> None:
    opened = executed(target, same)
    found = opened.audit(drifting, 38, ignore=["seconds"])
    assert found.reproduced == 19
    assert found.differences["field"].eq("accuracy").all()
    assert found.common.startswith("method=tree (19 of 19)")
    with pytest.raises(
        InvalidValueError, match=r"begun with the tolerances {} and the fields accuracy, note; keep them"
    ):
        opened.audit(drifting, 38, ignore=["seconds"], tolerances={"accuracy": 1e-6})
    assert opened.audit(drifting, 38, seed=1, ignore=["seconds"], tolerances={"accuracy": 1e-6}).reproduced == 38
    assert opened.audit(lambda *_: 1 / 0, 3, where="method = 'svm'").differences["field"].eq("error").all()


def test_results_that_differ_may_come_from_another_commit(sqlite_target: Target) -> None:
    opened = executed(sqlite_target, same)
    sqlite_target.query("UPDATE study__attempts SET git_commit = 'abc'")
    sqlite_target.query("UPDATE study__attempts SET git_commit = 'def' WHERE experiment_id IN (2, 3, 30)")
    sqlite_target.query("UPDATE study SET accuracy = -1 WHERE ID IN (2, 3, 30)")
    found = opened.audit(same, 38, ignore=["seconds"])
    assert sorted(found.differences["ID"]) == [2, 3, 30]
    assert found.common.startswith("git commit=def (3 of 3)")


def test_an_audit_goes_on_where_it_was_interrupted(sqlite_target: Target) -> None:
    opened = executed(sqlite_target, same)
    calls = []

    def interrupted(*arguments: Any) -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return same(*arguments)

    with pytest.raises(KeyboardInterrupt):
        opened.audit(interrupted, 12, ignore=["seconds"])
    assert opened.audit(interrupted, 12, ignore=["seconds"]).audited == 12
    assert len(calls) == 13
    sqlite_target.query(
        "INSERT INTO study__attempts (experiment_id, worker, outcome, late_results) "
        "SELECT experiment_id, worker, outcome, '{}' FROM study__attempts WHERE outcome = 'audit'"
    )
    assert opened.audit(interrupted, 12, ignore=["seconds"]).reproduced == 12, "of two records, the first counts"
    opened.reset_experiments("done", where="method = 'svm'")
    found = opened.audit(same, 12, ignore=["seconds"])
    assert (found.audited, found.planned) == (6, 12)
    assert "(6 of the sample are left)" in str(found)


def test_strata_get_their_share() -> None:
    table = pd.DataFrame({"ID": range(100), "method": ["a"] * 80 + ["b"] * 15 + ["c"] * 5, "machine": "here"})
    chosen = sample_of(table, 20, ["method", "machine"], 1)
    assert table.set_index("ID").loc[chosen, "method"].value_counts().to_dict() == {"a": 16, "b": 3, "c": 1}
    assert chosen == sample_of(table[::-1], 20, ["method", "machine"], 1) != sample_of(table, 20, ["method"], 2)
    assert sample_of(table, 500, ["method"], 1) == [*range(100)]


@pytest.mark.parametrize(("reproduced", "audited", "population"), [(59, 59, 10**6), (18, 20, 40), (1, 1, 2), (0, 3, 9)])
def test_the_bound_is_exact(reproduced: int, audited: int, population: int) -> None:
    bound = round(lower_bound(reproduced, audited, population) * population)
    chance = stats.hypergeom.sf
    assert chance(reproduced - 1, population, bound, audited) > 0.05
    if bound > reproduced:
        assert chance(reproduced - 1, population, bound - 1, audited) <= 0.05


def test_what_is_refused(sqlite_target: Target) -> None:
    opened = executed(sqlite_target, same)
    with pytest.raises(InvalidColumnError, match="ignore: 'secs' is not a resultfield"):
        opened.audit(same, ignore=["secs"])
    with pytest.raises(InvalidValueError, match="size: 0"):
        opened.audit(same, 0)
    opened.reset_experiments("all")
    with pytest.raises(InvalidValueError, match="no experiment is finished"):
        opened.audit(same)


def test_the_command(sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executed(sqlite_target, same)
    config = tmp_path / "config.yml"
    config.write_text(yaml.safe_dump(study(sqlite_target, keyfields=KEYFIELDS, resultfields=RESULTFIELDS)))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    command = ["audit", "-c", str(config), "38", "test_audit:drifting", "--ignore", "seconds"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "19 of 38 experiments gave the same results again" in result.output
    assert "accuracy" in result.output
    result = CliRunner().invoke(main, ["audit", "-c", str(config), "5", "test_audit:same"])
    assert "0 of 5 experiments gave the same results again" in result.output  # without --ignore, seconds are compared
    result = CliRunner().invoke(main, [*command, "--seed", "3", "--tolerance", "accuracy=1e-6"])
    assert result.output.startswith(
        "38 of 38 experiments gave the same results again. With 95 % confidence, at least 100.0%"
    )
