"""Replication to a precision: the intervals, what is added, what is doubted; coverage by simulation."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pyexperimenter.analysis.replication import further_values, half_widths, look, remark_on
from pyexperimenter.config.model import ReplicationConfig
from pyexperimenter.exceptions import InvalidColumnError
from pyexperimenter.grid.membership import identity

RULE = ReplicationConfig("seed", "accuracy", 0.01, max=30, reference="base")


def experiments(n: int = 12, spread: float = 0.01, methods: str = "base ours") -> pd.DataFrame:
    """Return experiments with accuracies of which no sample, and no difference from that of `base`, is skewed."""
    rng = np.random.default_rng(0)
    quantiles = stats.norm.ppf((np.arange(n) + 0.5) / n)
    rows = [
        (dataset, method, number, accuracy)
        for dataset in ("iris", "wine")
        for method in methods.split()
        for number, accuracy in enumerate(0.7 + spread * rng.permutation(quantiles) * (method != "base"))
    ]
    table = pd.DataFrame(rows, columns=["dataset", "method", "seed", "accuracy"])
    table.insert(0, "ID", range(1, len(table) + 1))
    table.insert(4, "creation_date", pd.Timestamp("2026-01-01"))
    return table.assign(status="done")


def found(table: pd.DataFrame, rule: ReplicationConfig = RULE, **changes: Any) -> pd.DataFrame:
    return look(table, ReplicationConfig(**{**vars(rule), **changes}), ["dataset"], ["method"])


def test_intervals_are_those_of_paired_differences() -> None:
    table = experiments()
    of = table.pivot(index=["dataset", "seed"], columns="method", values="accuracy")
    expected = (of["ours"] - of["base"]).groupby("dataset")
    result = found(table)
    for dataset, row in zip(("iris", "wine"), result.itertuples(), strict=True):
        sample = expected.get_group(dataset)
        low, high = stats.t.interval(0.97, 11, sample.mean(), stats.sem(sample))
        assert (row.dataset, row.of, row.n) == (dataset, "ours - base", 12)
        assert row.mean == pytest.approx(sample.mean(), abs=1e-12)
        assert row.half_width == pytest.approx((high - low) / 2, rel=1e-9)


def test_all_pairs_hold_together_and_means_are_of_settings() -> None:
    table = experiments(methods="base ours other")
    pairs = found(table, reference=None)
    assert pairs["of"].tolist()[:3] == ["base - other", "base - ours", "other - ours"]
    one = found(table[table["method"] != "other"], reference=None)
    factor = stats.t.ppf(1 - 0.015 / 3, 11) / stats.t.ppf(1 - 0.015, 11)
    assert pairs["half_width"][0] == pytest.approx(one["half_width"][0] * factor)
    with pytest.warns(UserWarning, match="the 12 values of base repeat themselves"):
        means = found(table, paired=False, reference=None)
    assert means["of"].tolist()[:3] == ["base", "other", "ours"]


def test_what_is_added() -> None:
    wide = found(experiments(spread=0.1))
    assert wide["state"].tolist() == ["too wide"] * 2
    assert wide["add"].tolist() == [5, 5]
    assert found(experiments(n=28, spread=0.1))["add"].tolist() == [2, 2]  # at most 30
    most = found(experiments(n=30, spread=0.1))
    assert most["state"].tolist() == ["not attained"] * 2
    assert most["add"].tolist() == [0, 0]
    assert found(experiments(spread=0.001))["state"].tolist() == ["attained"] * 2
    few = found(experiments(n=4, spread=0.001))
    assert few["add"].tolist() == [6, 6]  # up to the first 10


def test_equal_values_never_stop_it() -> None:
    table = experiments().assign(accuracy=0.5)
    with pytest.warns(UserWarning, match="repeat themselves"):
        result = found(table)
    assert result["half_width"].tolist() == [math.inf] * 2
    assert result["state"].tolist() == ["too wide"] * 2


def test_an_open_cell_waits_and_others_do_not() -> None:
    table = experiments(spread=0.1)
    table.loc[(table["dataset"] == "iris") & (table["seed"] == 3), "status"] = "running"
    result = found(table)
    assert result["state"].tolist() == ["open", "too wide"]
    assert result["add"].tolist() == [0, 5]
    assert result["n"].tolist() == [11, 12]


def test_failures_and_odd_values_are_doubted() -> None:
    table = experiments()
    table.loc[13, ["status", "accuracy"]] = ["error", math.nan]
    with pytest.warns(UserWarning, match=r"dataset=iris: 1 experiments failed or have no accuracy, and are left out"):
        assert found(table)["n"].tolist() == [11, 12]
    repeated = experiments().assign(accuracy=lambda t: t["accuracy"].round(2))
    with pytest.warns(UserWarning, match="the 12 values of ours - base repeat themselves"):
        found(repeated)
    collapsed = experiments()
    collapsed.loc[(collapsed["seed"] == 3) & (collapsed["method"] == "ours"), "accuracy"] = 0.1
    with pytest.warns(UserWarning, match=r"are skewed \(-"):
        found(collapsed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found(experiments(n=20).assign(accuracy=lambda t: t["accuracy"].round(2)))  # 20 are enough


def test_a_reference_must_be_one_setting() -> None:
    with pytest.raises(InvalidColumnError, match=r"reference: 0 settings of dataset=iris have method=best, not one"):
        found(experiments(), reference="best")


def test_cells_get_the_next_values_that_they_lack() -> None:
    table = experiments(n=12, spread=0.1)
    table = table[~((table["dataset"] == "wine") & (table["seed"] == 5))]
    further = further_values(table, found(table), RULE, ["dataset"], range(30))
    assert further == {identity(["iris"]): {12, 13, 14, 15, 16}, identity(["wine"]): {5, 12, 13, 14, 15}}
    assert further[identity(["zoo"])] == set()  # a cell without rows


def test_the_remark_names_rule_looks_and_what_was_missed() -> None:
    intervals = [{"n": 10, "state": "attained"}, {"n": 30, "state": "not attained"}]
    record = {"rule": vars(RULE), "intervals": intervals}
    remark = remark_on([record, record])
    assert "10 to 30, in steps of 5, until the 97% t intervals of differences of accuracy were at most ±0.01" in remark
    assert "looks: 2; at the last one 10 to 30, not attained in 1 of 2" in remark


def test_coverage_of_the_rule() -> None:
    """What the documentation promises of symmetric differences; see benchmarks/replication.py for others."""
    values = np.random.default_rng(1).normal(0, 1, (4000, 50))
    stopped, covered = np.zeros(4000, bool), np.zeros(4000, bool)
    for n in range(10, 51, 5):
        half = half_widths(values[:, :n])
        stops = ~stopped & ((half <= 0.5) | (n == 50))
        covered |= stops & (abs(values[:, :n].mean(axis=1)) <= half)
        stopped |= stops
    assert 0.945 < covered.mean() < 0.975
