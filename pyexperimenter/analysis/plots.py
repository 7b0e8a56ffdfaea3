"""Figures of results. Each function draws on matplotlib axes and returns them; pyplot is not used.

Without `ax`, the axes are on a new figure, which a notebook displays and ``ax.figure.savefig(path)`` saves. Matplotlib
is imported when something is drawn; the extra ``plots`` installs it.

Lines differ without colors, and colors for the color-blind. Legends are to the right, where they cover nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from pyexperimenter.analysis.cells import (
    NULL,
    Names,
    as_text,
    averaged_over,
    cell_name,
    check_columns,
    checked,
    keyfields_of,
    levels,
    listed,
    numbers,
    optional_import,
    some_of,
    warn,
)
from pyexperimenter.analysis.layout import as_number, check_digits, decimals_of
from pyexperimenter.analysis.summary import STATISTICS, known_statistic, statistic_name, summary_of
from pyexperimenter.analysis.units import Failures, rules_of, units_of
from pyexperimenter.analysis.versions import mixed_versions
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONG_LABELS = 60  # characters that fit side by side below axes of the default width

# The palette of Okabe and Ito (2008) without its yellow, which is hardly visible on paper. The first four differ most
# when they are printed in gray. No two of 36 lines have the same marker and style.
_COLORS = ("#0072B2", "#E69F00", "#000000", "#D55E00", "#56B4E9", "#009E73", "#CC79A7")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_STYLES = ("-", "--", "-.", ":")
_MARKERS_OF_A_LINE = 10

_LINES_OF_A_LEGEND = 20  # that fit next to axes of the default height


def plot_result(
    table: pd.DataFrame,
    value: str,
    x: str,
    hue: Names = None,
    over: Names = "seed",
    stat: str = "mean±ci95",
    ax: Axes | None = None,
    attempts: pd.DataFrame | None = None,
    *,
    unit: Names = None,
    failures: Failures = "error",
    pairing: str | None = None,
    test_share: float | None = None,
) -> Axes:
    """Draw a resultfield over a keyfield: means with their 95 % intervals, as bands of lines or as error bars.

    Parameters
    ----------
    table : pandas.DataFrame
        Experiments, as returned by `get_table`; you may drop rows.
    value : str
        Resultfield.
    x : str
        Keyfield. Numbers are on a numeric axis and joined by lines with bands; strings, and numbers with NULL among
        them, are categories with error bars.
    hue : str or sequence of str, optional
        Keyfields whose combinations get a color, a marker and a line style each.
    over : str or sequence of str, optional
        Keyfields to average over.
    stat : str
        The statistic to draw, as for `summarize`.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on.
    attempts : pandas.DataFrame, optional
        Executions, as returned by `get_attempts`, for a warning about different versions as in `summarize`.
    unit, failures, pairing, test_share
        As for `summarize`. Pairs are the points at the same `x`, or all points without `hue`.

    Returns
    -------
    matplotlib.axes.Axes
        To change the figure, for example by ``ax.set_xscale("log")``.

    Raises
    ------
    InvalidColumnError, InvalidValueError
        As for `summarize`.
    PyExperimenterError
        If matplotlib is missing.

    Warns
    -----
    UserWarning
        If there are fewer runs for some points than for others, or unfinished or failed experiments, or if the results
        come from different versions of the code or environments.

    Examples
    --------
    >>> table = pd.DataFrame({
    ...     "ID": [1, 2, 3, 4], "C": [1, 1, 10, 10], "seed": [0, 1, 0, 1],
    ...     "creation_date": pd.Timestamp("2026-01-01"), "status": "done", "accuracy": [0.8, 0.9, 0.9, 1.0],
    ... })
    >>> ax = plot_result(table, "accuracy", x="C")
    >>> ax.lines[0].get_xydata().round(2).tolist()
    [[1.0, 0.85], [10.0, 0.95]]
    """
    axes = axes_or_new(ax)
    stat = known_statistic(stat)
    keys, how = [x, *listed(hue)], (unit, failures, pairing, test_share)
    summary = _summary(table, value, keys, over, stat, how, [x] if hue else [], "name it in x, hue or over", attempts)
    center, spread = STATISTICS[stat]
    places, ticks = _places(summary, x)
    codes, hues = levels(summary, listed(hue))
    for number, (labels, style) in enumerate(zip(hues, styles(axes), strict=False)):
        line = summary[codes == number]
        label = ", ".join(map(as_text, labels))
        if ticks is None and len(line) > 1:
            draw_line(axes, places[line.index], line, center, spread, label, style)
            continue
        # Shifted, so that error bars do not hide each other.
        shift = 0.0 if ticks is None else (number - (len(hues) - 1) / 2) * 0.4 / len(hues)
        bars = _bars(line, center, spread)
        style = {**style, "linestyle": "none"}
        axes.errorbar(places[line.index] + shift, line[center], yerr=bars, capsize=3, label=label, **style)
    if ticks is not None:
        _set_ticks(axes, ticks)
    describe(axes, x, _label(value, _drawn(stat), summary), listed(hue))
    return axes


def plot_heatmap(
    table: pd.DataFrame,
    value: str,
    x: str,
    y: str,
    over: Names = "seed",
    digits: int | str = 3,
    ax: Axes | None = None,
    attempts: pd.DataFrame | None = None,
    *,
    stat: str = "mean",
    unit: Names = None,
    failures: Failures = "error",
    pairing: str | None = None,
    test_share: float | None = None,
) -> Axes:
    """Draw the means of a resultfield over two keyfields as an annotated heatmap.

    Parameters
    ----------
    table : pandas.DataFrame
        Experiments, as returned by `get_table`; you may drop rows.
    value : str
        Resultfield.
    x, y : str
        Keyfields; values are sorted, with the first one of `y` at the top.
    over : str or sequence of str, optional
        Keyfields to average over.
    digits : int or "auto"
        Decimal places, as for `to_latex`.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on.
    attempts : pandas.DataFrame, optional
        Executions, as returned by `get_attempts`, for a warning about different versions as in `summarize`.
    stat : str
        The statistic, as for `summarize`. The color is that of the mean (or median); the spread is written below it.
    unit, failures, pairing, test_share
        As for `summarize`. All cells are paired.

    Returns
    -------
    matplotlib.axes.Axes
        Cells without a result have a dash and no color.

    Raises
    ------
    InvalidColumnError, InvalidValueError
        As for `summarize`.
    PyExperimenterError
        If matplotlib is missing.

    Warns
    -----
    UserWarning
        If there are fewer runs for some cells than for others, or unfinished or failed experiments, or if the results
        come from different versions of the code or environments.

    Examples
    --------
    >>> table = pd.DataFrame({
    ...     "ID": [1, 2, 3, 4], "C": [1, 1, 10, 10], "gamma": [0.1, 0.2, 0.1, 0.2],
    ...     "creation_date": pd.Timestamp("2026-01-01"), "status": "done", "accuracy": [0.8, 0.9, 0.9, 1.0],
    ... })
    >>> ax = plot_heatmap(table, "accuracy", x="C", y="gamma", over=None)
    >>> [text.get_text() for text in ax.texts]
    ['0.800', '0.900', '0.900', '1.000']
    """
    axes = axes_or_new(ax)
    stat = known_statistic(stat)
    check_digits(digits)
    how = (unit, failures, pairing, test_share)
    summary = _summary(table, value, [y, x], over, stat, how, [], "name it in x, y or over", attempts)
    rows, row_labels = levels(summary, [y])
    columns, column_labels = levels(summary, [x])
    center, spread = STATISTICS[stat]
    means = np.full((len(row_labels), len(column_labels)), np.nan)
    means[rows, columns] = summary[center]
    texts = dict.fromkeys(np.ndindex(means.shape), NULL)
    texts |= dict(zip(zip(rows, columns, strict=True), _texts(summary, center, spread, digits), strict=True))
    image = axes.imshow(means, aspect="auto")
    for (row, column), mean in np.ndenumerate(means):
        red, green, blue, _ = image.cmap(image.norm(mean)) if math.isfinite(mean) else (1, 1, 1, 1)
        light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5  # perceived brightness (ITU-R BT.601)
        text = texts[row, column]
        axes.text(column, row, text, ha="center", va="center", color="black" if light else "white")
    _set_ticks(axes, [as_text(name) for (name,) in column_labels])
    axes.set_yticks(range(len(row_labels)), [as_text(name) for (name,) in row_labels])
    axes.figure.colorbar(image, ax=axes, label=_label(value, statistic_name(stat), summary))
    describe(axes, x, y, [])
    return axes


def plot_curves(
    logs: pd.DataFrame,
    table: pd.DataFrame,
    value: str,
    index: str,
    hue: Names = None,
    over: Names = "seed",
    ax: Axes | None = None,
    attempts: pd.DataFrame | None = None,
    *,
    stat: str = "mean±ci95",
    ends: str = "common",
    unit: Names = None,
    failures: Failures = "error",
    pairing: str | None = None,
    test_share: float | None = None,
) -> Axes:
    """Draw learning curves, or other values that experiments logged: means, in bands of their 95 % intervals.

    Only experiments that are done count. If an experiment logged the same index value in several executions, as after
    a pause or a lost worker, the last one counts.

    Parameters
    ----------
    logs : pandas.DataFrame
        Rows of a logtable, as returned by `get_logtable`; you may drop rows.
    table : pandas.DataFrame
        Experiments, as returned by `get_table`; you may drop rows.
    value, index : str
        Numeric columns of `logs` for the y and the x axis. The index is the epoch, step, ...
    hue : str or sequence of str, optional
        Keyfields whose combinations get a line each.
    over : str or sequence of str, optional
        Keyfields to average over.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on.
    attempts : pandas.DataFrame, optional
        Executions, as returned by `get_attempts`, for a warning about different versions as in `summarize`.
    stat : str
        The line and its band, as for `summarize`. The intervals hold for each point alone.
    ends : {"common", "carry"}
        If runs of a line end at different index values: ``"common"`` ends the line with the first of them, since means
        of the runs that go on would be those of a selection. ``"carry"`` carries the last value of each run forward to
        the last of them, as is right for values that stay, such as the best loss so far.
    unit, failures, pairing, test_share
        As for `summarize`; but `failures` is ``"error"`` or ``"drop"``, since a failed run has no curve. Points with
        the same index are paired.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InvalidColumnError
        If a column does not exist, if a keyfield that is not named varies within a line, or if an execution logged an
        index value several times.
    InvalidValueError
        If experiments failed, or are done without logs, unless `failures` is ``"drop"``; if a column is not numeric; if
        an option is unknown; or if the table is empty.
    PyExperimenterError
        If matplotlib is missing.

    Warns
    -----
    UserWarning
        If experiments are missing or left out, if some points of a line are means of fewer than others, if a line ends
        before some of its runs, or if the results come from different versions of the code or environments.

    Examples
    --------
    >>> table = pd.DataFrame({"ID": [1, 2], "seed": [0, 1], "creation_date": pd.Timestamp("2026-01-01"),
    ...                       "status": "done"})
    >>> logs = pd.DataFrame({"ID": [1, 2, 3, 4], "experiment_id": [1, 1, 2, 2], "epoch": [1, 2, 1, 2],
    ...                      "loss": [0.5, 0.3, 0.7, 0.5]})
    >>> plot_curves(logs, table, "loss", index="epoch").lines[0].get_xydata().round(2).tolist()
    [[1.0, 0.6], [2.0, 0.4]]
    """
    axes, keys = axes_or_new(ax), listed(hue)
    averaged, rules = averaged_over(table, over, keys), rules_of(table, [value], unit, failures, pairing, test_share)
    center, spread = STATISTICS[stat := known_statistic(stat)]
    if ends not in ("common", "carry"):
        raise InvalidValueError(f"ends: {ends!r} is unknown; choose 'common' or 'carry'")
    if failures not in ("error", "drop"):
        raise InvalidValueError(f"failures: a failed run has no curve, so {failures!r} is not possible; choose 'drop'")
    table = checked(table, [], keys, averaged, "name it in hue or over")
    points = _points(logs, table["ID"][table["status"] == "done"], value, index)
    step, height = f"{index} (logged)", f"{value} (logged)"  # the table may have columns with these names
    experiments = table[["ID", *keyfields_of(table), "creation_date", "status"]].assign(
        **{height: np.where(table["ID"].isin(points["experiment"]), 1.0, np.nan)}  # whether there is a curve
    )
    lines = units_of(experiments, height, keys, averaged, rules)
    points = points[["experiment", "index", "value"]].set_axis(["ID", step, height], axis="columns")
    line_of = dict(zip(table["ID"], levels(table, keys)[0], strict=True))
    furthest = points[step].groupby(points["ID"].map(line_of)).max()
    points = _ended(points, step, height, line_of, ends)
    points = experiments.drop(columns=height).merge(points, on="ID")
    curves = pd.DataFrame(columns=[*keys, step, center, *spread, "n", "n_units"], dtype=float)
    if not points.empty:
        curves, _ = summary_of(points, height, [*keys, step], averaged, stat, rules, [])
    curves.attrs["units"] = rules.replicates(averaged)
    codes, labels = levels(pd.concat([lines.cells[keys], curves[keys]]), keys)
    thin, short = [], []
    for number, (names, style) in enumerate(zip(labels, styles(axes), strict=False)):
        curve = curves[codes[len(labels) :].to_numpy() == number]
        draw_line(axes, curve[step], curve, center, spread, ", ".join(map(as_text, names)), style)
        fewest, most = curve["n"].min(), lines.cells["n"].iloc[number]
        name = cell_name(keys, names) or "the line"
        if fewest < most:
            thin.append(f"{name} (at least {fewest} of {most})")
        if (end := curve[step].max()) < furthest.get(number, end):
            short.append(f"{name} (at {end:g} of {furthest[number]:g})")
    few = [f"some points are means of fewer runs than the line has: {some_of(thin, '; ')}"] * bool(thin)
    cut = f"lines end with the first of their runs; ends='carry' carries last values forward: {some_of(short, '; ')}"
    warn([*lines.notes, *few, *[cut] * bool(short), *mixed_versions(table, keys, attempts)])
    describe(axes, index, _label(value, _drawn(stat), curves), listed(hue))
    return axes


def plot_progress(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the number of experiments that are done and in error over time.

    Parameters
    ----------
    table : pandas.DataFrame
        Experiments, as returned by `get_table`, or executions, as returned by `get_attempts`. The former contain only
        the last execution of an experiment that was reset.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InvalidColumnError
        If it is not one of these tables.
    PyExperimenterError
        If matplotlib is missing.

    Examples
    --------
    >>> table = pd.DataFrame({"status": ["done", "error", "done"],
    ...                       "start_date": pd.to_datetime(["2026-01-01 10:00", "2026-01-01 10:00", None]),
    ...                       "end_date": pd.to_datetime(["2026-01-01 10:30", "2026-01-01 10:10", "2026-01-01 11:00"])})
    >>> ax = plot_progress(table)
    >>> {line.get_label(): line.get_ydata().tolist() for line in ax.lines}
    {'done (2)': [0, 1, 2, 2], 'error (1)': [0, 1, 1]}
    """
    axes = axes_or_new(ax)
    executions = "outcome" in table.columns
    columns = ("outcome", "started", "ended") if executions else ("status", "start_date", "end_date")
    check_columns(table, columns)
    state, start, end = (table[name].reset_index(drop=True) for name in columns)
    finished = end[state.isin(["done", "error"])].dropna()
    begin = min([*start[finished.index].dropna(), *finished], default=None)
    for name, style in zip(("done", "error"), styles(axes), strict=False):
        times = finished[state[finished.index] == name].sort_values()
        # All lines span the whole time, so that they can be compared.
        all_times = [] if begin is None else [begin, *times, finished.max()]
        counts = [] if begin is None else [*range(len(times) + 1), len(times)]
        axes.step(all_times, counts, where="post", label=f"{name} ({len(times)})", **{**style, "marker": ""})
    dates = optional_import("matplotlib.dates", "plots")
    if begin is not None:
        locator = dates.AutoDateLocator()
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    _set_legend(axes)
    describe(axes, "time (UTC)", f"{'executions' if executions else 'experiments'} finished", [])
    return axes


def axes_or_new(ax: Axes | None) -> Axes:
    """Return `ax`, or new axes; raise an error if matplotlib is missing."""
    optional_import("matplotlib", "plots")
    from pyexperimenter.analysis.displayed import new_axes

    return new_axes() if ax is None else ax


def _summary(
    table: pd.DataFrame,
    value: str,
    keys: list[str],
    over: Names,
    stat: str,
    how: tuple[Any, ...],
    within: list[str],
    remedy: str,
    attempts: pd.DataFrame | None,
) -> pd.DataFrame:
    """Summarize, and warn about incomplete cells and different versions."""
    averaged, rules = averaged_over(table, over, keys), rules_of(table, [value], *how)
    table = checked(table, [value], keys, averaged, remedy)
    summary, notes = summary_of(table, value, keys, averaged, stat, rules, within)
    warn([*notes, *mixed_versions(table, keys, attempts)])
    summary = summary.reset_index(drop=True)
    summary.attrs["units"] = rules.replicates(averaged)
    return summary


def _drawn(stat: str) -> str:
    """Return the name of a statistic whose intervals are drawn, short enough for the side of a figure."""
    return "mean and 95 % interval" if "ci95" in STATISTICS[stat][1] else statistic_name(stat)


def _label(value: str, what: str, summary: pd.DataFrame) -> str:
    """Return the label of an axis: the value, and what is drawn of how many runs or units."""
    counts, units = summary["n_units"], summary.attrs["units"]
    least, most = (0, 0) if counts.empty else (counts.min(), counts.max())
    number = f"{most:.0f}" if least == most else f"{least:.0f} to {most:.0f}"
    of = f"unit{'' if most == 1 else 's'} ({', '.join(units)})" if units else f"run{'' if most == 1 else 's'}"
    return f"{value}\n({what} over {number} {of})"


def _texts(summary: pd.DataFrame, center: str, spread: Sequence[str], digits: int | str) -> Iterator[str]:
    """Yield the texts of the cells of a heatmap."""
    for middle, *ends in summary[[center, *spread]].to_numpy().tolist():
        decimals = decimals_of(middle, ends, digits)
        text, shown = as_number(middle, decimals), [as_number(end, decimals) for end in ends]
        below = "" if not ends or text == NULL else f"\n[{', '.join(shown)}]" if len(ends) == 2 else f"\n± {shown[0]}"
        yield text + below


def _ends(line: pd.DataFrame, center: str, spread: Sequence[str]) -> tuple[pd.Series[float], pd.Series[float]]:
    """Return the lower and the upper ends of bars or bands."""
    if len(spread) == 2:
        return line[spread[0]], line[spread[1]]
    return line[center] - line[spread[0]], line[center] + line[spread[0]]


def _bars(line: pd.DataFrame, center: str, spread: Sequence[str]) -> Any:
    """Return the lengths of the error bars, as matplotlib takes them."""
    if not spread:
        return None
    low, high = _ends(line, center, spread)
    # As lists, since matplotlib 3.10 takes a Series or an array of one bar for a number, with a warning.
    return [(line[center] - low).tolist(), (high - line[center]).tolist()]


def _places(summary: pd.DataFrame, x: str) -> tuple[pd.Series[float], list[str] | None]:
    """Return the positions of the rows of a summary on the x axis, and tick labels unless they are numbers."""
    column = summary[x]
    is_number = pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)
    if is_number and column.notna().all():
        return numbers(summary, x), None
    codes, names = levels(summary, [x])
    return codes.astype(float), [as_text(name) for (name,) in names]


def _set_ticks(axes: Axes, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), list(names))
    if sum(map(len, names)) > _LONG_LABELS:
        axes.tick_params(axis="x", rotation=45)


def describe(axes: Axes, x: str, y: str, hue: list[str]) -> None:
    """Name the axes, and what distinguishes the lines."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if hue:
        _set_legend(axes, ", ".join(hue))


def _set_legend(axes: Axes, title: str | None = None) -> None:
    columns = math.ceil(len(axes.get_legend_handles_labels()[0]) / _LINES_OF_A_LEGEND)
    axes.legend(title=title, ncols=columns, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)


def styles(axes: Axes) -> Iterator[dict[str, Any]]:
    """Yield the color, marker and style of each further line."""
    for number in itertools.count(len(axes.lines)):
        color, marker, style = (kinds[number % len(kinds)] for kinds in (_COLORS, _MARKERS, _STYLES))
        yield {"color": color, "marker": marker, "linestyle": style}


def draw_line(
    axes: Axes,
    places: pd.Series[float],
    line: pd.DataFrame,
    center: str,
    spread: Sequence[str],
    label: str,
    style: Mapping[str, Any],
    step: Literal["post"] | None = None,
) -> None:
    """Draw a line in its band; with `step`, as steps after the points."""
    every = max(1, len(line) // _MARKERS_OF_A_LINE)
    form = "default" if step is None else f"steps-{step}"
    axes.plot(places, line[center], label=label, markevery=every, markersize=5, drawstyle=form, **style)
    if spread:
        low, high = _ends(line, center, spread)
        axes.fill_between(places, low, high, color=style["color"], alpha=0.2, linewidth=0, step=step)


def _points(logs: pd.DataFrame, experiments: pd.Series[int], value: str, index: str) -> pd.DataFrame:
    """Return the logged points of the given experiments, with the last value for each index value."""
    check_columns(logs, ["ID", "experiment_id"])
    points = pd.DataFrame(
        {
            "experiment": logs["experiment_id"],
            "execution": logs["attempt_id"] if "attempt_id" in logs else logs["experiment_id"],
            "index": numbers(logs, index),
            "value": numbers(logs, value),
            "ID": logs["ID"],
        }
    )
    points = points[points["experiment"].isin(experiments)].dropna(subset=["index", "value"])
    repeated = points.duplicated(["experiment", "execution", "index"])
    if repeated.any():
        example = points[repeated].iloc[0]
        raise InvalidColumnError(
            f"{index!r} is not unique within an execution: experiment {example['experiment']:.0f} logged several rows "
            f"with {index}={as_text(example['index'])}; choose another index, or keep one row of each"
        )
    return points.sort_values("ID").drop_duplicates(["experiment", "index"], keep="last")


def _ended(points: pd.DataFrame, step: str, height: str, lines: Mapping[int, int], ends: str) -> pd.DataFrame:
    """End the runs of each line together, by leaving out points or by carrying the last values forward."""
    line = points["ID"].map(lines)
    if ends == "common":
        last = points.groupby("ID")[step].max()
        return points[points[step] <= line.map(last.groupby(last.index.map(lines)).min())]
    carried = [
        part.pivot(index=step, columns="ID", values=height).ffill().melt(ignore_index=False, value_name=height)
        for _, part in points.groupby(line)
    ]
    return pd.concat([part.reset_index().dropna() for part in carried]) if carried else points
