"""What figures show: positions, heights and labels, never pixels."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.dates import num2date
from matplotlib.figure import Figure

from pyexperimenter.analysis import compare, plot_curves, plot_heatmap, plot_progress, plot_result
from pyexperimenter.analysis.diagram import draw_critical_differences
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError, PyExperimenterError


def experiments(rows, keyfields, status="done"):
    """Make a table as `get_table` returns it, with one resultfield, the last number of each row."""
    table = pd.DataFrame(rows, columns=[*keyfields, "accuracy"])
    table.insert(0, "ID", range(1, len(table) + 1))
    table.insert(len(keyfields) + 1, "creation_date", pd.Timestamp("2026-01-01"))
    table.insert(len(keyfields) + 2, "status", status)
    return table


def by_c():
    """Two kernels at C = 1 and 100; means and standard deviations are easy to see."""
    rows = [
        (kernel, c, seed, round(mean + deviation, 3))
        for (kernel, c), mean in {("rbf", 100): 0.9, ("rbf", 1): 0.7, ("linear", 1): 0.5, ("linear", 100): 0.6}.items()
        for seed, deviation in enumerate((-0.1, 0.0, 0.1))
    ]
    return experiments(rows, ["kernel", "C", "seed"])


def drawn(container):
    """Return the points of an errorbar and the ends of its bars."""
    line, _, (bars,) = container.lines
    ends = [[round(float(y), 6) for _, y in segment] for segment in bars.get_segments()]
    return line.get_xydata().round(6).tolist(), ends


def band(ax, number):
    """Return the lower and upper edge of a band at each point."""
    (path,) = ax.collections[number].get_paths()
    edges: dict[float, set[float]] = {}
    for x, y in path.vertices:
        edges.setdefault(float(x), set()).add(round(float(y), 6))
    return {x: (min(ys), max(ys)) for x, ys in edges.items()}


# Results


def test_numbers_are_on_a_numeric_axis():
    ax = plot_result(by_c(), "accuracy", x="C", hue="kernel", stat="mean±std")
    assert [line.get_xydata().round(6).tolist() for line in ax.lines] == [
        [[1, 0.5], [100, 0.6]],
        [[1, 0.7], [100, 0.9]],
    ]
    assert [band(ax, 0), band(ax, 1)] == [{1: (0.4, 0.6), 100: (0.5, 0.7)}, {1: (0.6, 0.8), 100: (0.8, 1.0)}]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("C", "accuracy\n(mean ± standard deviation over 3 runs)")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["linear", "rbf"]
    assert ax.get_legend().get_title().get_text() == "kernel"


def test_strings_are_categories():
    ax = plot_result(by_c(), "accuracy", x="kernel", hue="C")
    first, second = (drawn(container)[0] for container in ax.containers)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["linear", "rbf"]
    assert [[round(x), y] for x, y in first] == [[0, 0.5], [1, 0.7]]
    assert [[round(x), y] for x, y in second] == [[0, 0.6], [1, 0.9]]
    assert first[0][0] < 0 < second[0][0], "so that error bars do not hide each other"
    assert ax.containers[0].lines[0].get_linestyle() == "None"


def test_one_line_needs_no_legend():
    ax = plot_result(by_c().query("kernel == 'rbf'"), "accuracy", x="C")
    assert len(ax.lines) == 1
    assert ax.get_legend() is None


def test_null_is_a_category():
    rows = [(None, 0, 0.5), (None, 1, 0.7), (0.1, 0, 0.8), (0.1, 1, 0.8)]
    ax = plot_result(experiments(rows, ["gamma", "seed"]), "accuracy", x="gamma")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.1", "–"]
    assert drawn(ax.containers[0])[0] == [[0, 0.8], [1, 0.6]]


def test_booleans_are_categories():
    ax = plot_result(experiments([(True, 0, 0.5), (False, 0, 0.7)], ["scaled", "seed"]), "accuracy", x="scaled")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["False", "True"]


def test_a_single_run_has_no_bar():
    ax = plot_result(experiments([("a", 0, 0.5), ("b", 0, 0.7)], ["method", "seed"]), "accuracy", x="method")
    points, ends = drawn(ax.containers[0])
    assert points == [[0, 0.5], [1, 0.7]]
    assert all(np.isnan(end).all() for end in ends)


def test_a_single_number_has_a_bar_as_a_band_would_not_be_seen():
    ax = plot_result(by_c().query("C == 1"), "accuracy", x="C", hue="kernel", stat="mean±std")
    assert [drawn(container) for container in ax.containers] == [([[1, 0.5]], [[0.4, 0.6]]), ([[1, 0.7]], [[0.6, 0.8]])]


@pytest.mark.parametrize(
    ("stat", "name", "spread"),
    [("ci95", "mean and 95 % interval", 4.302653 * 0.1 / 3**0.5), ("mean", "mean", None)],
)
def test_other_statistics(stat, name, spread):
    lines = plot_result(by_c(), "accuracy", x="C", hue="kernel", stat=stat)
    points = plot_result(by_c(), "accuracy", x="kernel", hue="C", stat=stat)
    assert lines.get_ylabel() == points.get_ylabel() == f"accuracy\n({name} over 3 runs)"
    bars = points.containers[0].lines[2]
    if spread is None:
        assert (bars, [*lines.collections]) == ((), [])
    else:
        ends = pytest.approx((0.5 - spread, 0.5 + spread), abs=1e-6)
        assert band(lines, 0)[1] == ends
        assert tuple(bars[0].get_segments()[0][:, 1]) == ends


def test_medians_have_bars_from_quartile_to_quartile():
    runs = [("a", seed, accuracy) for seed, accuracy in enumerate([0.1, 0.2, 0.3, 0.7, 0.9])]
    ax = plot_result(experiments(runs, ["method", "seed"]), "accuracy", x="method", stat="median±iqr")
    assert ax.get_ylabel() == "accuracy\n(median [Q1, Q3] over 5 runs)"
    assert ax.lines[0].get_xydata().tolist() == [[0, 0.3]]
    assert ax.containers[0].lines[2][0].get_segments()[0][:, 1] == pytest.approx([0.2, 0.7])


def test_long_names_are_rotated():
    names = ["a rather long name of a method", "another rather long name of a method"]
    ax = plot_result(experiments([(name, 0, 0.5) for name in names], ["method", "seed"]), "accuracy", x="method")
    assert {label.get_rotation() for label in ax.get_xticklabels()} == {45}


def test_what_is_missing_is_reported():
    table = by_c()
    table.loc[0, "status"] = "error"
    message = (
        r"^1 run without a result \(failed or NaN\) left out: C=100, kernel=rbf \(1 of 3\)\n1 run left out because"
    )
    with pytest.warns(UserWarning, match=message) as caught:
        ax = plot_result(table, "accuracy", x="C", hue="kernel", failures="drop")
    assert caught[0].filename == __file__
    assert ax.lines[1].get_xydata()[1].round(6).tolist() == [100, 0.95]


def test_nothing_is_averaged_over_silently():
    with pytest.raises(InvalidColumnError, match=r"'kernel' has several values .* name it in x, hue or over"):
        plot_result(by_c(), "accuracy", x="C")
    with pytest.raises(InvalidColumnError, match=r"'kernel' has several values .* name it in x, y or over"):
        plot_heatmap(by_c(), "accuracy", x="C", y="seed", over=None)


# Heatmaps


def test_a_heatmap_shows_the_means():
    table = by_c()[:-3]  # without linear at C = 100
    ax = plot_heatmap(table, "accuracy", x="C", y="kernel", digits=2)
    (image,) = ax.images
    np.testing.assert_allclose(image.get_array().filled(np.nan), [[0.5, np.nan], [0.7, 0.9]])
    assert {text.get_position(): text.get_text() for text in ax.texts} == {
        (0, 0): "0.50",
        (1, 0): "–",
        (0, 1): "0.70",
        (1, 1): "0.90",
    }
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "100"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["linear", "rbf"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("C", "kernel")
    assert [axes.get_ylabel() for axes in ax.figure.axes if axes is not ax] == ["accuracy\n(mean over 3 runs)"]
    names = {
        text.get_text() for text in plot_heatmap(table, "accuracy", "C", "kernel", digits="auto", stat="ci95").texts
    }
    assert names == {"0.50\n± 0.25", "–", "0.70\n± 0.25", "0.90\n± 0.25"}
    names = {
        text.get_text() for text in plot_heatmap(table, "accuracy", "C", "kernel", digits=2, stat="median±iqr").texts
    }
    assert names == {"0.50\n[0.45, 0.55]", "–", "0.70\n[0.65, 0.75]", "0.90\n[0.85, 0.95]"}


def test_numbers_are_readable_on_their_colors():
    ax = plot_heatmap(by_c(), "accuracy", x="C", y="kernel")
    (image,) = ax.images
    for text in ax.texts:
        column, row = text.get_position()
        background = image.cmap(image.norm(image.get_array()[row, column]))
        light = np.dot(background[:3], [0.299, 0.587, 0.114]) > 0.5
        assert text.get_color() == ("black" if light else "white")
    assert {text.get_color() for text in ax.texts} == {"black", "white"}


def test_heatmaps_without_numbers():
    table = by_c().assign(status="created")
    with pytest.warns(UserWarning, match="^12 runs still open: "):
        ax = plot_heatmap(table, "accuracy", x="C", y="kernel")
    assert [text.get_text() for text in ax.texts] == ["–"] * 4
    ax.figure.draw_without_rendering()
    infinite = by_c().assign(accuracy=np.inf)
    ax = plot_heatmap(infinite, "accuracy", x="C", y="kernel")
    assert [text.get_text() for text in ax.texts] == ["inf"] * 4
    ax.figure.draw_without_rendering()


# Curves


def study_with_logs():
    table = experiments([(k, s, 0.5) for k in ("linear", "rbf") for s in (0, 1)], ["kernel", "seed"])
    rows = [
        (experiment, epoch, level / epoch + (0.1 if experiment % 2 else -0.1), experiment)
        for experiment, level in ((1, 2.0), (2, 2.0), (3, 1.0), (4, 1.0))
        for epoch in (1, 2)
    ]
    logs = pd.DataFrame(rows, columns=["experiment_id", "epoch", "loss", "attempt_id"])
    logs.insert(0, "ID", range(1, len(logs) + 1))
    return logs, table


def test_curves_are_means_in_bands_of_intervals():
    logs, table = study_with_logs()
    ax = plot_curves(logs.sample(frac=1, random_state=0), table, "loss", index="epoch", hue="kernel")
    assert band(ax, 0)[1] == pytest.approx((2 - 12.706205 * 0.1, 2 + 12.706205 * 0.1), abs=1e-6)
    assert ax.get_ylabel() == "loss\n(mean and 95 % interval over 2 runs)"
    ax = plot_curves(logs.sample(frac=1, random_state=0), table, "loss", index="epoch", hue="kernel", stat="mean±std")
    assert [line.get_xydata().round(6).tolist() for line in ax.lines] == [[[1, 2], [2, 1]], [[1, 1], [2, 0.5]]]
    deviation = np.std([-0.1, 0.1], ddof=1)
    assert list(band(ax, 0)) == [1, 2]
    assert band(ax, 0)[1] == pytest.approx((2 - deviation, 2 + deviation), abs=1e-6)
    assert band(ax, 0)[2] == pytest.approx((1 - deviation, 1 + deviation), abs=1e-6)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["linear", "rbf"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "loss\n(mean ± standard deviation over 2 runs)")
    ax = plot_curves(logs, table, "loss", index="epoch", hue="kernel", stat="median±iqr")
    assert band(ax, 0)[2] == pytest.approx((0.95, 1.05))
    assert plot_curves(logs, table, "loss", index="epoch", hue="kernel", stat="mean").collections[:] == []


def test_the_last_execution_counts():
    logs, table = study_with_logs()
    lost = logs[:1].assign(ID=0, loss=50.0, attempt_id=99)  # lost before the others were logged
    ax = plot_curves(pd.concat([logs, lost]), table, "loss", index="epoch", hue="kernel")
    assert ax.lines[0].get_ydata()[0] == 2


def test_an_ambiguous_index_is_refused():
    logs, table = study_with_logs()
    repeated = pd.concat([logs, logs[:1].assign(ID=100)])
    message = "'epoch' is not unique within an execution: experiment 1 logged several rows with epoch=1"
    with pytest.raises(InvalidColumnError, match=message):
        plot_curves(repeated, table, "loss", index="epoch", hue="kernel")


def test_experiments_not_done_or_with_fewer_logs_are_reported():
    logs, table = study_with_logs()
    table.loc[0, "status"] = "running"
    with pytest.warns(UserWarning) as caught:
        ax = plot_curves(logs, table, "loss", index="epoch", hue="kernel")
    assert caught[0].filename == __file__
    assert str(caught[0].message).split("\n") == [
        "1 run still open: kernel=linear (1 of 2)",
        "1 run left out because other cells lack a result for the same seed: kernel=rbf (1 of 2)",
    ]
    assert [line.get_ydata().tolist() for line in ax.lines] == [[1.9, 0.9], [0.9, 0.4]], "the second seed alone"
    with pytest.warns(UserWarning, match="^1 run still open: kernel=linear"):
        ax = plot_curves(logs, table, "loss", index="epoch", hue="kernel", pairing="all")
    assert [line.get_ydata().tolist() for line in ax.lines] == [[1.9, 0.9], [1, 0.5]]


@pytest.mark.filterwarnings("ignore:1 run fewer")
def test_curves_of_runs_that_end_at_different_steps():
    logs, table = study_with_logs()
    message = r"^lines end with the first of their runs; ends='carry' .*: kernel=rbf \(at 1 of 2\)$"
    with pytest.warns(UserWarning, match=message):
        ax = plot_curves(logs[:-1], table, "loss", index="epoch", hue="kernel")
    assert [line.get_xydata().tolist() for line in ax.lines] == [[[1, 2], [2, 1]], [[1, 1]]]
    ax = plot_curves(logs[:-1], table, "loss", index="epoch", hue="kernel", ends="carry")
    assert [line.get_ydata().round(6).tolist() for line in ax.lines] == [[2, 1], [1, (0.6 + 0.9) / 2]]
    with pytest.raises(InvalidValueError, match="ends: 'last' is unknown; choose 'common' or 'carry'"):
        plot_curves(logs, table, "loss", index="epoch", hue="kernel", ends="last")


@pytest.mark.filterwarnings("ignore:1 run fewer")
def test_points_of_fewer_runs_are_reported():
    logs, table = study_with_logs()
    message = r"points are means of fewer runs than the line has: kernel=linear \(at least 1 of 2\); kernel=rbf \(at"
    with pytest.warns(UserWarning, match=message):
        plot_curves(logs.drop(index=6), table, "loss", index="epoch", hue="kernel")
    message = r"^loss \(logged\): of 4 runs, 4 finished without a number: kernel=linear \(2 of 2\); kernel=rbf"
    with pytest.raises(InvalidValueError, match=message):
        plot_curves(logs[:0], table, "loss", index="epoch", hue="kernel")
    with pytest.warns(UserWarning, match="4 runs without a result"):
        ax = plot_curves(logs[:0], table, "loss", index="epoch", hue="kernel", failures="drop")
    assert [line.get_label() for line in ax.lines] == ["linear", "rbf"]
    with pytest.raises(InvalidValueError, match="failures: a failed run has no curve, so 0 is not possible"):
        plot_curves(logs, table, "loss", index="epoch", hue="kernel", failures=0)


def test_names_of_logs_and_tables_do_not_mix():
    logs, table = study_with_logs()
    table = table.rename(columns={"kernel": "epoch"}).assign(loss=99.0, line=1, value=2)
    ax = plot_curves(logs, table, "loss", index="epoch", hue="epoch")
    assert ax.lines[0].get_ydata().tolist() == [2, 1]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"value": "los"}, InvalidColumnError, "no column 'los'; choose from ID, experiment_id"),
        ({"index": "step"}, InvalidColumnError, "no column 'step'"),
        ({"hue": None}, InvalidColumnError, "'kernel' has several values .linear, rbf.; name it in hue or over"),
        ({"over": "sed"}, InvalidColumnError, "no column 'sed'"),
        ({"value": "text"}, InvalidValueError, "'text' is not numeric"),
    ],
)
def test_invalid_arguments_of_curves_are_named(change, error, message):
    logs, table = study_with_logs()
    arguments = {"value": "loss", "index": "epoch", "hue": "kernel"} | change
    with pytest.raises(error, match=message):
        plot_curves(logs.assign(text="a"), table, **arguments)


def test_one_curve_over_all():
    logs, table = study_with_logs()
    ax = plot_curves(logs, table, "loss", index="epoch", over=["kernel", "seed"])
    assert [line.get_ydata().tolist() for line in ax.lines] == [[1.5, 0.75]]
    assert ax.get_legend() is None
    with pytest.warns(UserWarning, match=r"the line has: the line \(at least 3 of 4\)"):
        plot_curves(logs.drop(index=6), table, "loss", index="epoch", over=["kernel", "seed"])


# Progress


def finished():
    times = pd.to_datetime(["2026-01-01 10:30", "2026-01-01 10:10", "2026-01-01 11:00", None, None])
    return pd.DataFrame(
        {
            "status": ["done", "error", "done", "running", "created"],
            "start_date": pd.to_datetime(["2026-01-01 10:00", "2026-01-01 10:05", None, "2026-01-01 09:00", None]),
            "end_date": times,
        }
    )


def steps(ax):
    return {line.get_label(): [(f"{num2date(x):%H:%M}", y) for x, y in line.get_xydata()] for line in ax.lines}


def test_progress_counts_what_is_finished():
    ax = plot_progress(finished().sample(frac=1, random_state=0))
    assert steps(ax) == {
        "done (2)": [("10:00", 0), ("10:30", 1), ("11:00", 2), ("11:00", 2)],
        "error (1)": [("10:00", 0), ("10:10", 1), ("11:00", 1)],
    }
    assert {line.get_drawstyle() for line in ax.lines} == {"steps-post"}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time (UTC)", "experiments finished")


def test_progress_of_executions():
    renamed = finished().rename(columns={"status": "outcome", "start_date": "started", "end_date": "ended"})
    lost = renamed[:1].assign(outcome="lost")
    ax = plot_progress(pd.concat([renamed, lost]))
    assert list(steps(ax)) == ["done (2)", "error (1)"]
    assert ax.get_ylabel() == "executions finished"


def test_progress_before_anything_is_finished():
    ax = plot_progress(finished()[3:])
    assert steps(ax) == {"done (0)": [], "error (0)": []}
    ax.figure.draw_without_rendering()


def test_progress_needs_times():
    with pytest.raises(InvalidColumnError, match="no column 'end_date'"):
        plot_progress(finished().drop(columns="end_date"))


# Critical differences


def ranked(test="nemenyi"):
    rng = np.random.default_rng(0)
    rows = [(d, m, rng.normal() + 0.8 * i) for d in range(30) for i, m in enumerate(["a", "b", "c", "d", "e"])]
    return compare(experiments(rows, ["dataset", "method"]), "accuracy", by="method", blocks="dataset", test=test)


def test_a_critical_difference_diagram():
    comparison = ranked()
    ax = comparison.critical_difference_diagram()
    ranks = comparison.average_ranks

    names = {text.get_text().strip(): text for text in ax.texts}
    for level, rank in ranks.items():
        assert f"{level} ({rank:.2f})" in names
    stems = sorted(float(line.get_xdata()[0]) for line in ax.lines if line.get_gid() is None)
    assert stems == pytest.approx(list(ranks))
    left, right = ax.get_xlim()
    assert left > 5 > 1 > right, "the best is on the right"

    assert 0 < len(comparison.cliques()) < 5
    cliques = [tuple(line.get_xdata()) for line in ax.lines if line.get_gid() == "member"]
    assert cliques == [tuple(ranks[list(clique)]) for clique in comparison.cliques()]

    (bar,) = [line for line in ax.lines if line.get_gid() == "critical difference"]
    assert np.ptp(bar.get_xdata()) == pytest.approx(comparison.critical_difference())
    assert f"CD = {comparison.critical_difference():.2f}" in names
    assert ax.get_title() == "Bars: no significant difference\n(Nemenyi test, p > 0.05)"
    ax.figure.draw_without_rendering()


def test_bars_follow_the_tests_of_the_pairs():
    # b varies so much that it differs from none; a is always better than c, though their ranks are the closest.
    rows = [(d, m, score) for d in range(12) for m, score in (("a", 2 + d), ("b", 30 * (d % 2)), ("c", 1 + d))]
    comparison = compare(experiments(rows, ["dataset", "method"]), "accuracy", by="method", blocks="dataset")
    assert list(comparison.average_ranks.index) == ["a", "b", "c"]
    assert comparison.cliques() == [("a", "b"), ("b", "c")]
    ax = comparison.critical_difference_diagram()
    assert [line.get_gid() for line in ax.lines if line.get_gid()] == ["clique", "member"] * 2
    assert "CD" not in " ".join(text.get_text() for text in ax.texts)
    assert ax.get_title().endswith("(Wilcoxon signed-rank tests with Holm's correction, p > 0.05)")


def test_a_bar_shows_which_levels_it_passes():
    names, ranks = ["a", "b", "c", "d"], [1.5, 1.8, 3.0, 3.7]
    ax = draw_critical_differences(names, ranks, [(0, 2, 3)], "")
    drawn_lines = {line.get_gid(): line for line in ax.lines if line.get_gid()}
    assert list(drawn_lines["passes by"].get_xdata()) == [1.5, 3.0]
    assert drawn_lines["passes by"].get_linestyle() == ":"
    assert list(drawn_lines["clique"].get_xdata()) == [3.0, 3.7]
    assert list(drawn_lines["member"].get_xdata()) == [1.5, 3.0, 3.7]


def test_lines_to_the_names_do_not_cross():
    ax = ranked().critical_difference_diagram()
    stems = [line.get_xydata() for line in ax.lines if line.get_gid() is None]
    for (x, _), (_, height), (edge, _) in stems:
        for (other_x, _), (_, other_height), _ in stems:
            if min(x, edge) < other_x < max(x, edge):
                assert height > other_height or other_x == x, "a stem between a name and its rank ends above the line"


@pytest.mark.parametrize("test", ["nemenyi", "wilcoxon"])
@pytest.mark.parametrize("levels", [3, 12])
def test_a_diagram_is_as_large_as_what_it_shows(test, levels):
    rng = np.random.default_rng(0)
    names = [f"a method with a name {level}" for level in range(levels)]
    rows = [(d, name, rng.normal() + 0.3 * i) for d in range(30) for i, name in enumerate(names)]
    table = experiments(rows, ["dataset", "method"])
    comparison = compare(table, "accuracy", by="method", blocks="dataset", test=test)
    ax = comparison.critical_difference_diagram()
    ax.figure.draw_without_rendering()
    whole, shown = ax.figure.get_size_inches(), ax.figure.get_tightbbox()
    assert shown.height > 0.9 * whole[1] and shown.width > 0.9 * whole[0]
    assert shown.x0 >= 0 and shown.y0 >= 0 and shown.x1 <= whole[0] and shown.y1 <= whole[1], "nothing is cut off"
    texts = [*ax.texts, ax.title, *ax.get_xticklabels()]
    for one, other in combinations([text.get_window_extent() for text in texts], 2):
        assert not one.overlaps(other)


def test_the_level_of_significance_is_drawn():
    comparison = ranked()
    wide = comparison.critical_difference_diagram(alpha=0.01)
    (bar,) = [line for line in wide.lines if line.get_gid() == "critical difference"]
    assert np.ptp(bar.get_xdata()) == pytest.approx(comparison.critical_difference(0.01))


# Lines and legends


def gray(color):
    """Return how light a color is when it is printed in gray, from 0 to 1 (ITU-R BT.601)."""
    return float(np.dot(to_rgb(color), [0.299, 0.587, 0.114]))


def of_many(x):
    """36 methods over the numbers or the categories of another keyfield."""
    rows = [(f"m{number:02}", value, number) for number in range(36) for value in x]
    return plot_result(experiments(rows, ["method", "x"]), "accuracy", x="x", hue="method", over=None)


def test_lines_can_be_told_apart_without_colors():
    lines = of_many([1, 2]).lines
    assert len({(line.get_marker(), line.get_linestyle()) for line in lines}) == 36
    assert len({line.get_marker() for line in lines[:9]}) == 9
    assert len({line.get_linestyle() for line in lines[:4]}) == 4
    categories = of_many(["a", "b"]).containers[:9]
    assert len({container.lines[0].get_marker() for container in categories}) == 9


def test_the_first_colors_differ_in_gray_and_all_are_seen_on_white():
    levels = [gray(line.get_color()) for line in of_many([1, 2]).lines[:7]]
    assert min(abs(one - other) for one, other in combinations(levels[:3], 2)) > 0.25
    assert min(abs(one - other) for one, other in combinations(levels[:4], 2)) > 0.1
    assert max(levels) < 0.7


def test_lines_drawn_later_differ_from_those_that_are_there():
    ax = plot_result(by_c(), "accuracy", x="C", hue="kernel")
    plot_result(by_c(), "accuracy", x="C", hue="kernel", ax=ax)
    assert len({line.get_color() for line in ax.lines}) == 4


def test_long_lines_have_few_markers():
    logs, table = study_with_logs()
    many = pd.concat([logs.assign(epoch=logs["epoch"] + 2 * n, ID=logs["ID"] + 8 * n) for n in range(100)])
    ax = plot_curves(many, table, "loss", index="epoch", hue="kernel")
    assert [line.get_markevery() for line in ax.lines] == [20, 20]


def test_legends_cover_nothing():
    for ax in [*all_plots(), of_many([1, 2])]:
        if legend := ax.get_legend():
            ax.figure.draw_without_rendering()
            box = legend.get_window_extent()
            assert not box.overlaps(ax.bbox)
            assert box.x1 <= ax.figure.bbox.x1 and box.x0 >= ax.bbox.x1, "it is within the figure"


# Axes


def all_plots(ax=None):
    logs, table = study_with_logs()
    return [
        plot_result(by_c(), "accuracy", x="C", hue="kernel", ax=ax),
        plot_heatmap(by_c(), "accuracy", x="C", y="kernel", ax=ax),
        plot_curves(logs, table, "loss", index="epoch", hue="kernel", ax=ax),
        plot_progress(finished(), ax=ax),
        ranked().critical_difference_diagram(ax=ax),
    ]


def test_axes_that_are_given_are_drawn_on():
    given = Figure().add_subplot()
    assert all(ax is given for ax in all_plots(given))


def test_new_axes_are_shown_by_notebooks_and_can_be_pickled():
    for ax in all_plots():
        assert ax._repr_png_().startswith(b"\x89PNG")
        assert pickle.loads(pickle.dumps(ax.figure)).axes


def test_pyplot_is_left_alone():
    program = (
        "import sys; sys.path.insert(0, 'tests/unit')\n"
        "import test_analysis_plots as t\n"
        "[ax.figure.draw_without_rendering() for ax in t.all_plots()]\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("False", 0), done.stderr


def test_missing_matplotlib_is_named(monkeypatch):
    comparison = ranked()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    logs, table = study_with_logs()
    for draw in (
        lambda: plot_result(by_c(), "accuracy", x="C", hue="kernel"),
        lambda: plot_heatmap(by_c(), "accuracy", x="C", y="kernel"),
        lambda: plot_curves(logs, table, "loss", index="epoch", hue="kernel"),
        lambda: plot_progress(finished()),
        comparison.critical_difference_diagram,
    ):
        with pytest.raises(PyExperimenterError, match=r"matplotlib is needed .* pip install 'pyexperimenter\[plots\]'"):
            draw()


def test_drawing_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for ax in all_plots():
            ax.figure.draw_without_rendering()
