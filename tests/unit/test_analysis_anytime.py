"""Best values over a budget, running times and Pareto fronts, against enumeration."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from pyexperimenter.analysis import anytime, pareto, plot_pareto
from pyexperimenter.analysis.pareto import on_front
from pyexperimenter.analysis.running_time import expected_running_time, simulated_restarts
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError

START = pd.Timestamp("2026-01-01 12:00")


def experiments(runs, **columns):
    """Make a table of runs, which are tuples of method, data set and seed."""
    table = pd.DataFrame(runs, columns=["method", "dataset", "seed"])
    table.insert(0, "ID", range(1, len(table) + 1))
    return table.assign(creation_date=START, status="done", start_date=START, **columns)


def logs_of(points, **columns):
    """Make a logtable of points, which are tuples of experiment, budget and value."""
    logs = pd.DataFrame(points, columns=["experiment_id", "evaluations", "error"])
    logs.insert(0, "ID", range(1, len(logs) + 1))
    return logs.assign(**columns)


def one_method(*points, **columns):
    runs = sorted({point[0] for point in points})
    return logs_of(points), experiments([("es", "a", seed) for seed in runs], **columns)


def curves_of(logs, table, **options):
    return anytime(logs, table, "error", **{"budget": "evaluations", "by": "method", "better": "min", **options})


@pytest.fixture(scope="module")
def drawn():
    """Draw runs of two methods on three data sets with four seeds, which end at different budgets."""
    generator = np.random.default_rng(0)
    runs = [(method, dataset, seed) for method in ("es", "rs") for dataset in "abc" for seed in range(4)]
    points = []
    for number in range(1, len(runs) + 1):
        budgets = np.sort(generator.choice(np.arange(1, 60), generator.integers(1, 20), replace=False))
        points += [
            (number, budget, value) for budget, value in zip(budgets, generator.random(len(budgets)), strict=True)
        ]
    generator.shuffle(points)
    return [(int(run), int(budget), float(value)) for run, budget, value in points], runs


def best_until(points, run, budget):
    return min((value for other, spent, value in points if other == run and spent <= budget), default=math.nan)


# Running times


def test_expected_running_time_counts_what_failures_spent():
    assert expected_running_time([100, 250, 1000, 400], [True, True, False, True]) == pytest.approx(583.33, abs=0.005)
    assert expected_running_time([100, 300], [True, True]) == 200
    assert expected_running_time([100, 300], [False, False]) == math.inf


def test_restarts_have_the_distribution_of_sums_until_a_success():
    spent, reached = [100, 250, 1000, 400], [True, True, False, True]
    generator = np.random.default_rng(1)
    expected = []
    for _ in range(20_000):
        time, run = 0, 2
        while not reached[run] or not time:
            run = generator.integers(4)
            time += spent[run]
        expected.append(time)
    found = simulated_restarts(spent, reached)
    assert found.mean() == pytest.approx(expected_running_time(spent, reached), rel=0.03)
    assert set(np.unique(found)) >= {100, 250, 400, 1100, 1250, 1400, 2100}
    for quantile in (0.1, 0.5, 0.75):
        assert np.quantile(found, quantile, method="inverted_cdf") == np.quantile(
            expected, quantile, method="inverted_cdf"
        )


def test_restarts_without_failures_or_successes():
    assert set(simulated_restarts([1, 2], [True, True])) == {1, 2}
    assert set(simulated_restarts([1, 2], [False, False])) == {math.inf}


# Tables


def test_fixed_budget_table_averages_the_runs_of_a_unit_first(drawn):
    points, runs = drawn
    found = curves_of(logs_of(points), experiments(runs), unit="dataset").at([40, 20, 59])
    assert found["budget"].tolist() == [20, 40, 59] * 2
    for line in found.to_dict("records"):
        mine = [number for number, (method, *_) in enumerate(runs, 1) if method == line["method"]]
        ends = [max(spent for run, spent, _ in points if run == number) for number in mine]
        units = [
            np.mean([best_until(points, number, line["budget"]) for number in mine if runs[number - 1][1] == dataset])
            for dataset in "abc"
        ]
        assert line["mean"] == pytest.approx(np.mean(units), nan_ok=True)
        assert line["median"] == pytest.approx(np.median(units), nan_ok=True)
        assert line["ci95"] == pytest.approx(scipy.stats.t.ppf(0.975, 2) * scipy.stats.sem(units), nan_ok=True)
        assert (line["n"], line["n_units"], line["ended"]) == (12, 3, sum(end < line["budget"] for end in ends))


def test_fixed_target_table(drawn):
    points, runs = drawn
    found = curves_of(logs_of(points), experiments(runs), unit="dataset").targets([0.02, 0.2])
    for line in found.to_dict("records"):
        mine = [number for number, run in enumerate(runs, 1) if run[:2] == (line["method"], line["dataset"])]
        hits = [
            min((s for run, s, v in points if run == number and v <= line["target"]), default=None) for number in mine
        ]
        ends = [max(spent for run, spent, _ in points if run == number) for number in mine]
        total = sum(end if hit is None else hit for hit, end in zip(hits, ends, strict=True))
        successes = sum(hit is not None for hit in hits)
        assert (line["n"], line["successes"]) == (4, successes)
        assert line["ert"] == pytest.approx(total / successes if successes else math.inf)
    assert found["median"].isin([math.inf]).any()


def test_a_share_of_runs_and_targets_is_reached(drawn):
    points, runs = drawn
    targets = [0.01, 0.05, 0.3]
    found = curves_of(logs_of(points), experiments(runs), unit="dataset").ecdf(targets, [10, 30, 59])
    for line in found.to_dict("records"):
        mine = [number for number, (method, *_) in enumerate(runs, 1) if method == line["method"]]
        reached = [best_until(points, number, line["budget"]) <= target for number in mine for target in targets]
        assert line["share"] == pytest.approx(np.mean(reached))


def test_default_targets_span_the_values_of_a_unit():
    logs = logs_of([(1, 1, 8.0), (1, 5, 2.0), (2, 1, 600.0), (2, 9, 100.0)])
    table = experiments([("es", "a", 0), ("es", "b", 0)])
    found = curves_of(logs, table, unit="dataset").ecdf()
    assert found["budget"].tolist() == [1, 5, 9]
    assert found["share"].tolist() == pytest.approx([1 / 51, 26 / 51, 1])
    upwards = curves_of(logs.assign(error=-logs["error"]), table, unit="dataset", better="max")
    assert upwards.ecdf()["share"].tolist() == pytest.approx([1 / 51, 26 / 51, 1])


@pytest.mark.parametrize("until", [None, 55])
def test_area_under_the_curve_is_the_mean_over_the_budget(drawn, until):
    points, runs = drawn
    curves = curves_of(logs_of(points), experiments(runs), unit="dataset")
    found = curves.auc(until)
    start, end = int(found["start"].iloc[0]), int(found["until"].iloc[0])
    assert start == max(min(spent for run, spent, _ in points if run == number) for number in range(1, 25))
    assert end == until or (until is None and end == max(spent for _, spent, _ in points))
    for method, offset in (("es", 0), ("rs", 12)):
        means = [
            np.mean([best_until(points, number, budget) for budget in range(start, end)])
            for number in range(offset + 1, offset + 13)
        ]
        line = found[found["method"] == method].iloc[0]
        assert line["auc"] == pytest.approx(np.mean(means))
    logarithmic = curves_of(*one_method((1, 1, 4.0), (1, 10, 2.0), (1, 100, 0.0))).auc(log=True)
    assert logarithmic["auc"].item() == pytest.approx(3), "half of the axis each"


def test_ranks_of_the_means_of_units(drawn):
    points, runs = drawn
    found = curves_of(logs_of(points), experiments(runs), unit="dataset").ranks([2, 30, 59])
    for budget in (2, 30, 59):
        means = np.array(
            [
                [
                    np.mean(
                        [best_until(points, n, budget) for n, run in enumerate(runs, 1) if run[:2] == (method, unit)]
                    )
                    for method in ("es", "rs")
                ]
                for unit in "abc"
            ]
        )
        ranks = scipy.stats.rankdata(np.where(np.isnan(means), np.inf, means), axis=1)
        lines = found[found["budget"] == budget]
        assert lines["rank"].tolist() == pytest.approx(ranks.mean(axis=0))
        half = scipy.stats.t.ppf(0.975, 2) * scipy.stats.sem(ranks)
        assert lines["ci95"].tolist() == pytest.approx(half)


# Runs


def test_values_count_by_the_best_so_far():
    curves = curves_of(*one_method((1, 10, 3.0), (1, 20, 5.0), (1, 30, 1.0), (2, 10, 2.0)))
    found = curves.at([5, 10, 25, 30])
    assert found["mean"].tolist() == pytest.approx([math.nan, 2.5, 2.5, 1.5], nan_ok=True)
    assert found["ended"].tolist() == [0, 0, 1, 1], "the second run keeps its last value"


def test_runs_that_failed_or_are_not_finished_are_censored():
    logs, table = one_method((1, 10, 0.0), (2, 50, 1.0), (3, 20, 2.0))
    table["status"] = ["done", "error", "running"]
    more = pd.concat([table, table.assign(ID=[4, 5, 6], seed=[4, 5, 6])], ignore_index=True)
    with pytest.warns(UserWarning, match=r"1 of 6 runs failed: .*\n1 of 6 runs are not .*\n3 of 6 runs have no logs"):
        curves = curves_of(logs, more)
    assert curves.targets([0])["ert"].item() == 80
    assert curves.notes[-1] == "3 of 6 runs have no logs and are left out: method=es (3)"


def test_a_later_execution_replaces_what_follows_its_start():
    logs = logs_of([(1, 10, 5.0), (1, 20, 1.0), (1, 15, 4.0), (2, 10, 7.0), (2, 10, 8.0)], attempt_id=[1, 1, 2, 1, 2])
    curves = curves_of(logs, experiments([("es", "a", 0), ("es", "a", 1)]))
    assert curves.points[["budget", "best"]].to_numpy().tolist() == [[10, 5], [15, 4], [10, 8]]


def test_time_is_that_since_the_start():
    logs = logs_of([(1, 0, 5.0), (1, 0, 1.0)], timestamp=[START + pd.Timedelta("3s"), START + pd.Timedelta("1min")])
    table = experiments([("es", "a", 0)])
    curves = curves_of(logs, table, budget="timestamp")
    assert curves.targets([1, 5])["ert"].tolist() == [60, 3]
    with pytest.raises(InvalidValueError, match="experiment 1 logged before its last start"):
        curves_of(logs, table.assign(start_date=START + pd.Timedelta("1h")), budget="timestamp")


def test_the_unit_is_that_of_the_configuration(drawn):
    points, runs = drawn
    table = experiments(runs)
    table.attrs["unit"] = ["dataset"]
    assert curves_of(logs_of(points), table, over=["seed", "dataset"]).unit == ("dataset",)
    one = curves_of(logs_of(points), table[table["dataset"] == "b"])
    assert one.at([59])["n_units"].tolist() == [4, 4], "within one unit, the runs"
    without = curves_of(logs_of(points), experiments(runs), over=["seed", "dataset"])
    assert without.at([59])["n_units"].tolist() == [12, 12]


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"better": "most"}, InvalidValueError, "choose 'max' or 'min'"),
        ({"by": []}, InvalidColumnError, "no keyfield is named"),
        ({"over": None}, InvalidColumnError, "name it in by, unit or over"),
        ({"budget": "epochs", "unit": "dataset"}, InvalidColumnError, "no column 'epochs'"),
        ({"unit": "method"}, InvalidColumnError, "name it in by, unit or over"),
    ],
)
def test_refused(drawn, options, error, message):
    points, runs = drawn
    with pytest.raises(error, match=message):
        curves_of(logs_of(points), experiments(runs), **options)


def test_refused_later():
    logs, table = one_method((1, 10, 3.0), (2, 10, 3.0))
    curves = curves_of(logs, table)
    with pytest.raises(InvalidValueError, match="no budget to average over between 10 and 10"):
        curves.auc()
    with pytest.raises(InvalidValueError, match="at least two levels of method"):
        curves.ranks()
    with pytest.raises(InvalidValueError, match="give at least one"):
        curves.at([])
    with pytest.raises(InvalidValueError, match="choose 'values', 'ecdf', 'targets' or 'ranks'"):
        curves.plot("areas")
    with pytest.raises(InvalidValueError, match="no experiment of the table has logged error"):
        curves_of(logs, table.assign(ID=[7, 8]))
    with pytest.raises(InvalidColumnError, match="column 'rank' has the name of a statistic"):
        curves_of(logs, table.rename(columns={"method": "rank"}), by="rank")


@pytest.mark.parametrize("show", ["values", "ecdf", "targets", "ranks"])
def test_plot(drawn, show):
    points, runs = drawn
    curves = curves_of(logs_of(points), experiments(runs), unit="dataset")
    axes = curves.plot(show)
    tables = {"values": "at", "ecdf": "ecdf", "targets": "targets", "ranks": "ranks"}
    wanted = [0.1, 0.5] if show in ("ecdf", "targets") else [20, 50]
    few = curves.plot(show, points=wanted)
    frame = getattr(curves, tables[show])(wanted)
    y = {"values": "mean", "ecdf": "share", "targets": "ert", "ranks": "rank"}[show]
    drawn_y = np.concatenate([line.get_ydata() for line in few.lines])
    assert drawn_y == pytest.approx(frame[y].replace(math.inf, math.nan), nan_ok=True)
    assert len(axes.lines) == (6 if show == "targets" else 2)
    assert axes.get_legend().get_texts()[0].get_text() == ("es, a" if show == "targets" else "es")


# Pareto fronts


def costs(seed, n=40, m=2):
    return np.random.default_rng(seed).integers(0, 12, (n, m)).astype(float)


@pytest.mark.parametrize("m", [2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_front_is_what_no_point_dominates(seed, m):
    points = costs(seed, m=m)
    expected = [not any((other <= point).all() and (other < point).any() for other in points) for point in points]
    assert on_front(points).tolist() == expected


def test_pareto_takes_the_means_of_settings():
    table = experiments([(method, "a", seed) for method in "uvw" for seed in range(2)])
    table = table.assign(error=[1, 3, 2, 4, 1, 1], score=[5, 5, 9, 9, 4, 4.0])
    found = pareto(table, {"error": "min", "score": "max"}, by="method")
    assert found["method"].tolist() == ["w", "u", "v"]
    assert found["error"].tolist() == [1, 2, 3]
    assert found["front"].tolist() == [True, True, True]
    assert found["n"].tolist() == [2, 2, 2]
    dominated = pareto(table.assign(score=1.0), {"error": "min", "score": "max"})
    assert dominated["front"].tolist() == [True, False, False]
    assert list(dominated.columns[:2]) == ["method", "dataset"], "all keyfields but the seed"


def test_a_setting_without_a_mean_is_not_on_the_front():
    table = experiments([(method, "a", 0) for method in "uv"], error=[1.0, 2.0], score=[1.0, math.nan])
    with pytest.warns(UserWarning, match="without a result"):
        found = pareto(table, {"error": "min", "score": "max"}, by="method", failures="drop", pairing="all")
    assert found.set_index("method")["front"].to_dict() == {"u": True, "v": False}


def test_plot_pareto():
    table = experiments([(method, "a", seed) for method in "uvwx" for seed in range(2)])
    table = table.assign(error=[1, 1, 2, 2, 4, 4, 3, 3], score=[1, 1, 5, 5, 9, 9, 4, 4.0])
    axes = plot_pareto(table, {"error": "min", "score": "max"}, by="method", hue="method")
    front, *points = axes.lines
    assert front.get_xydata().tolist() == [[1, 1], [2, 5], [4, 9]]
    assert front.get_drawstyle() == "steps-post"
    assert [point.get_xydata().tolist() for point in points] == [[[1, 1]], [[2, 5]], [[4, 9]], [[3, 4]]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("error", "score")
    with pytest.raises(InvalidValueError, match="are not two"):
        plot_pareto(table, {"error": "min"})
    with pytest.raises(InvalidColumnError, match="no column 'nix'"):
        plot_pareto(table, {"error": "min", "score": "max"}, by="method", hue="nix")


@pytest.mark.parametrize(
    "objectives, message",
    [({"error": "min"}, "fewer than two"), ({"error": "min", "score": "most"}, "'most' is unknown for score")],
)
def test_pareto_refuses(objectives, message):
    with pytest.raises(InvalidValueError, match=message):
        pareto(experiments([("u", "a", 0)], error=1.0, score=1.0), objectives)
