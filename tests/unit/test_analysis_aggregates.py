"""Bootstrap intervals and aggregates of normalized scores, against SciPy, rliable and enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from pyexperimenter.analysis import (
    improvement_probabilities,
    interquartile_means,
    performance_profiles,
    plot_profiles,
    summarize,
    to_text,
)
from pyexperimenter.analysis.bootstrap import bca_intervals, interquartile_mean
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError

WHAT = {"value": "score", "by": "method", "tasks": "task"}


def experiments(**scores):
    """Make a table of the scores of methods, runs × tasks."""
    lines = [
        (method, f"task {task}", run, score)
        for method, values in scores.items()
        for run, row in enumerate(values)
        for task, score in enumerate(row)
    ]
    table = pd.DataFrame(lines, columns=["method", "task", "seed", "score"])
    table.insert(0, "ID", range(1, len(table) + 1))
    table.insert(4, "creation_date", pd.Timestamp("2026-01-01"))
    table.insert(5, "status", "done")
    return table


@pytest.fixture(scope="module")
def drawn():
    generator = np.random.default_rng(5)
    return generator.integers(0, 40, (12, 4)) / 10, generator.integers(0, 36, (12, 4)) / 10


# BCa


@pytest.mark.parametrize("draw", ["exponential", "normal", "binomial"])
@pytest.mark.parametrize("n", [20, 45])
def test_bca_intervals_are_those_of_scipy(draw, n):
    generator = np.random.default_rng(n)
    samples = {
        "exponential": generator.exponential(2, (3, n)),
        "normal": generator.normal(5, 2, (3, n)),
        "binomial": generator.binomial(30, 0.9, (3, n)) / 30,
    }[draw]
    found = np.transpose(bca_intervals(samples))
    for sample, ends in zip(samples, found, strict=True):
        expected = scipy.stats.bootstrap(
            (sample,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1)
        ).confidence_interval
        # Means of binomial values are multiples of 1 / (30 n).
        near = max(0.04 * (expected.high - expected.low), 2 / (30 * n) * (draw == "binomial"))
        assert ends == pytest.approx((expected.low, expected.high), abs=near + 1e-9)


def test_bca_interval_of_equal_values_is_a_point():
    low, high = bca_intervals(np.full((1, 20), 0.3))
    assert (low.item(), high.item()) == pytest.approx((0.3, 0.3))


def test_summaries_have_bootstrap_intervals(drawn):
    values = np.random.default_rng(0).exponential(1, (25, 2))
    table = experiments(a=values, b=values[:22] + 1)
    with pytest.warns(UserWarning, match="6 runs fewer"):
        summary = summarize(table, "score", rows=["method", "task"], stat="mean±bca95", pairing="all")
    low, high = bca_intervals(np.array([values[:, 0]]))
    assert summary[["bca_low", "bca_high"]].iloc[0].tolist() == pytest.approx([low.item(), high.item()])
    assert summary["n"].tolist() == [25, 25, 22, 22]
    assert "mean [95 % BCa bootstrap interval] over up to n = 25 runs" in to_text(summary)


def test_bootstrap_intervals_of_few_units_are_refused(drawn):
    table = experiments(a=np.ones((19, 1)))
    with pytest.raises(InvalidValueError, match=r"needs at least 20 units, .*: method=a \(19\); use mean±ci95"):
        summarize(table, "score", rows="method", over=["seed", "task"], unit="seed", stat="mean±bca95")


def test_bootstrap_intervals_of_splits_and_infinite_values_are_refused(drawn):
    table = experiments(a=np.ones((25, 1)))
    with pytest.raises(InvalidValueError, match="splits of one data set are not independent"):
        summarize(table, "score", rows="method", over=["seed"], stat="mean±bca95", test_share=0.3)
    with pytest.raises(InvalidValueError, match="needs finite values of score"):
        summarize(
            table.assign(score=np.inf), "score", rows="method", over=["seed", "task"], stat="mean±bca95", unit="seed"
        )


# Aggregates. Values of rliable 1.2.0 for `drawn`: get_interval_estimates with 20,000 resamples (5,000 of pairs).


def test_interquartile_means_are_those_of_rliable(drawn):
    x, y = drawn
    found = interquartile_means(experiments(x=x, y=y), **WHAT)
    assert found["iqm"].tolist() == pytest.approx([1.7833333333, 1.5083333333])
    assert found["low"].tolist() == pytest.approx([1.3125, 1.1417], abs=0.03)
    assert found["high"].tolist() == pytest.approx([2.2958, 1.9375], abs=0.03)
    assert found["n"].tolist() == [48, 48]


@pytest.mark.parametrize("n", range(1, 14))
def test_interquartile_mean_is_a_trimmed_mean(n):
    values = np.random.default_rng(n).normal(0, 1, (3, n))
    assert interquartile_mean(values) == pytest.approx(scipy.stats.trim_mean(values, 0.25, axis=1))


def test_improvement_probabilities_are_those_of_rliable(drawn):
    x, y = drawn
    (found,) = improvement_probabilities(experiments(x=x, y=y), **WHAT).to_dict("records")
    assert (found["first"], found["second"]) == ("x", "y")
    assert found["probability"] == pytest.approx(0.5512152778)
    assert (found["low"], found["high"]) == pytest.approx((0.4314, 0.6719), abs=0.01)
    (less,) = improvement_probabilities(experiments(x=x, y=y), **WHAT, better="min").to_dict("records")
    assert less["probability"] == pytest.approx(1 - found["probability"])


def test_equal_scores_improve_by_half_and_runs_may_be_uneven():
    generator = np.random.default_rng(2)
    scores = {name: generator.integers(0, 4, (runs, 3)) for name, runs in (("x", 10), ("y", 14), ("z", 11))}
    with pytest.warns(UserWarning, match="tasks have different numbers of runs"):
        found = improvement_probabilities(experiments(**scores), **WHAT)
    for line in found.to_dict("records"):
        x, y = scores[line["first"]], scores[line["second"]]
        expected = np.mean([np.sign(a - b) / 2 + 0.5 for t in range(3) for a, b in itertools.product(x[:, t], y[:, t])])
        assert line["probability"] == pytest.approx(expected)
        assert line["low"] < expected < line["high"]


def test_performance_profiles_are_those_of_rliable(drawn):
    x, y = drawn
    found = performance_profiles(experiments(x=x, y=y), **WHAT, thresholds=[2.0, 0.5, 3.5])
    assert found["method"].tolist() == ["x"] * 3 + ["y"] * 3
    assert found["threshold"].tolist() == [0.5, 2, 3.5] * 2
    of_x = found[found["method"] == "x"]
    assert of_x["share"].tolist() == pytest.approx([0.79166667, 0.4375, 0.10416667])
    assert of_x["low"].tolist() == pytest.approx([0.6667, 0.2917, 0.0208], abs=0.022), "multiples of 1/48"
    assert of_x["high"].tolist() == pytest.approx([0.8958, 0.5833, 0.1875], abs=0.022)
    below = performance_profiles(experiments(x=x), **WHAT, thresholds=[0.5, 2.0, 3.5], better="min")
    assert below["share"].tolist() == pytest.approx([(x < threshold).mean() for threshold in (0.5, 2.0, 3.5)])


def test_plot_profiles(drawn):
    x, y = drawn
    axes = plot_profiles(experiments(x=x, y=y), **WHAT)
    profile = performance_profiles(experiments(x=x, y=y), **WHAT)
    for line, (_, expected) in zip(axes.lines, profile.groupby("method"), strict=True):
        assert line.get_xydata() == pytest.approx(expected[["threshold", "share"]].to_numpy())
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("score", "share of runs above")


def test_few_runs_are_warned_of(drawn):
    with pytest.warns(UserWarning, match="a task has only 9 runs: with fewer than 10, the intervals are too short"):
        interquartile_means(experiments(x=drawn[0][:9]), **WHAT)


def test_runs_that_failed_have_to_count(drawn):
    table = experiments(x=drawn[0])
    table.loc[0, "status"] = "error"
    with pytest.raises(InvalidValueError, match="1 failed"):
        interquartile_means(table, **WHAT)
    with pytest.warns(UserWarning, match="different numbers of runs"):
        assert interquartile_means(table, **WHAT, failures="drop")["n"].item() == 47


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"by": []}, InvalidColumnError, "by: no keyfield is named"),
        ({"tasks": []}, InvalidColumnError, "tasks: no keyfield is named"),
        ({"better": "most"}, InvalidValueError, "choose 'max' or 'min'"),
    ],
)
def test_refused(drawn, change, error, message):
    with pytest.raises(error, match=message):
        improvement_probabilities(experiments(x=drawn[0], y=drawn[1]), **WHAT | change)


def test_a_level_without_a_task_is_refused(drawn):
    table = experiments(x=drawn[0], y=drawn[1])
    with pytest.raises(InvalidValueError, match=r"method=y has no results of task=task 1; "):
        interquartile_means(table[(table["method"] == "x") | (table["task"] != "task 1")], **WHAT)
