"""Normalized scores of several tasks in one number, with intervals that say how well the runs determine it.

The methods are those of rliable (R. Agarwal, M. Schwarzer, P. S. Castro, A. Courville and M. G. Bellemare. Deep
reinforcement learning at the edge of the statistical precipice. *Advances in Neural Information Processing Systems* 34,
2021). The scores must be comparable between tasks, such as shares of a human's score; nothing here can check that. The
tasks are fixed and the runs are random: the intervals are for these tasks, and say nothing about others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pyexperimenter.analysis.bootstrap import (
    counts,
    interquartile_mean,
    number_of_resamples,
    percentile_interval,
    resamples,
)
from pyexperimenter.analysis.cells import (
    SEED,
    Names,
    as_text,
    averaged_over,
    cell_name,
    checked,
    levels,
    listed,
    some_of,
    warn,
)
from pyexperimenter.analysis.exact_tests import Array
from pyexperimenter.analysis.plots import axes_or_new, describe, draw_line, styles
from pyexperimenter.analysis.units import Failures, rules_of, units_of
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RUNS = 10  # with fewer in a task, the intervals are too short
_TAUS = 101
_SEED = 20_211_031


@dataclass(frozen=True)
class _Scores:
    """The scores of the runs of each level: sorted by task, and the number of runs of each task."""

    names: list[tuple[Any, ...]]
    scores: list[Array]
    sizes: list[list[int]]


def interquartile_means(
    table: pd.DataFrame,
    value: str,
    by: str | Sequence[str],
    tasks: str | Sequence[str],
    over: Names = "seed",
    failures: Failures = "error",
) -> pd.DataFrame:
    """Return the mean of the middle half of all scores of each level, which outliers do not change.

    Parameters
    ----------
    table : pandas.DataFrame
        Experiments, as returned by `get_table`; you may drop rows.
    value : str
        Resultfield with normalized scores.
    by : str or sequence of str
        Keyfields whose levels are compared, such as the method.
    tasks : str or sequence of str
        Keyfields of the tasks, such as the data set. Runs are resampled within tasks.
    over : str or sequence of str, optional
        Other keyfields in which the runs of a task differ.
    failures : {"error", "drop"} or float
        What failed runs count as, as for `summarize`.

    Returns
    -------
    pandas.DataFrame
        For each level ``iqm``, ``low`` and ``high``, the ends of its 95 % interval (percentiles of a stratified
        bootstrap, always the same), and ``n``, the number of runs.

    Raises
    ------
    InvalidColumnError, InvalidValueError
        As for `summarize`; or if a level has no runs of a task.

    Warns
    -----
    UserWarning
        If a task has fewer than ten runs, for which the intervals are too short, or if levels differ in the number of
        runs of a task; and about missing runs.

    Examples
    --------
    >>> table = pd.DataFrame({
    ...     "ID": range(20), "task": ["a", "b"] * 10, "seed": np.repeat(range(10), 2),
    ...     "creation_date": pd.Timestamp("2026-01-01"), "status": "done", "score": np.arange(20) / 10,
    ... }).assign(method="x")[["ID", "task", "method", "seed", "creation_date", "status", "score"]]
    >>> print(interquartile_means(table, "score", by="method", tasks="task").round(2).to_string(index=False))
    method  iqm  low  high  n
         x 0.95 0.61  1.29 20
    """
    runs = _runs(table, value, listed(by), listed(tasks), over, failures)
    lines = []
    for names, scores, sizes in zip(runs.names, runs.scores, runs.sizes, strict=True):
        resampled = np.concatenate([interquartile_mean(scores[drawn]) for drawn in resamples(sizes)])
        low, high = percentile_interval(resampled)
        lines.append((*names, float(interquartile_mean(scores)), float(low), float(high), len(scores)))
    return pd.DataFrame(lines, columns=[*listed(by), "iqm", "low", "high", "n"])


def performance_profiles(
    table: pd.DataFrame,
    value: str,
    by: str | Sequence[str],
    tasks: str | Sequence[str],
    over: Names = "seed",
    failures: Failures = "error",
    better: str = "max",
    thresholds: Sequence[float] | None = None,
) -> pd.DataFrame:
    """Return for each level the share of runs that are better than each threshold.

    Parameters, errors and warnings are those of `interquartile_means`, and

    Parameters
    ----------
    better : {"max", "min"}
        Whether to count the scores above or below a threshold.
    thresholds : sequence of float, optional
        By default 101 from the smallest to the largest score.

    Returns
    -------
    pandas.DataFrame
        For each level and ``threshold``: ``share``, and ``low`` and ``high``, the ends of its 95 % interval, which is
        for each threshold alone.
    """
    sign = _sign(better)
    runs = _runs(table, value, listed(by), listed(tasks), over, failures)
    every = np.concatenate(runs.scores)
    wanted = np.linspace(every.min(), every.max(), _TAUS) if thresholds is None else np.unique(thresholds)
    lines = []
    for names, scores, sizes in zip(runs.names, runs.scores, runs.sizes, strict=True):
        # How many thresholds a score beats; a run that beats m of them is better than the m easiest.
        easiest = np.sort(sign * np.asarray(wanted, dtype=float))
        beaten = np.searchsorted(easiest, sign * scores, side="left")
        resampled = np.concatenate([_shares(beaten[drawn], len(wanted)) for drawn in resamples(sizes)])
        low, high = percentile_interval(resampled)
        columns = {
            "threshold": sign * easiest,
            "share": _shares(beaten[None], len(wanted))[0],
            "low": low,
            "high": high,
        }
        frame = pd.DataFrame(columns).sort_values("threshold")
        for place, (name, label) in enumerate(zip(listed(by), names, strict=True)):
            frame.insert(place, name, [label] * len(frame))
        lines.append(frame)
    return pd.concat(lines, ignore_index=True)


def plot_profiles(
    table: pd.DataFrame,
    value: str,
    by: str | Sequence[str],
    tasks: str | Sequence[str],
    over: Names = "seed",
    failures: Failures = "error",
    better: str = "max",
    thresholds: Sequence[float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw `performance_profiles`, in bands of their pointwise 95 % intervals.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    PyExperimenterError
        If matplotlib is missing.
    """
    axes = axes_or_new(ax)
    profiles = performance_profiles(table, value, by, tasks, over, failures, better, thresholds)
    codes, names = levels(profiles, listed(by))
    for number, (labels, style) in enumerate(zip(names, styles(axes), strict=False)):
        line = profiles[codes == number]
        draw_line(axes, line["threshold"], line, "share", ["low", "high"], ", ".join(map(as_text, labels)), style)
    describe(axes, value, f"share of runs {'above' if better == 'max' else 'below'}", listed(by))
    return axes


def improvement_probabilities(
    table: pd.DataFrame,
    value: str,
    by: str | Sequence[str],
    tasks: str | Sequence[str],
    over: Names = "seed",
    failures: Failures = "error",
    better: str = "max",
) -> pd.DataFrame:
    """Return how likely a run of one level is better than a run of another on the same task.

    The probability is averaged over the tasks; equal scores count half. It says nothing about how large a difference
    is. Parameters, errors and warnings are those of `interquartile_means`, and

    Parameters
    ----------
    better : {"max", "min"}
        Whether large or small scores are good.

    Returns
    -------
    pandas.DataFrame
        For each pair of levels ``first`` and ``second``: ``probability`` that the first is better, and ``low`` and
        ``high``, the ends of its 95 % interval (percentiles of a stratified bootstrap of both), for this pair alone.
    """
    sign = _sign(better)
    runs = _runs(table, value, listed(by), listed(tasks), over, failures)
    names = [labels[0] if len(labels) == 1 else cell_name(listed(by), labels) for labels in runs.names]
    by_task = [
        np.split(sign * scores, np.cumsum(sizes)[:-1]) for scores, sizes in zip(runs.scores, runs.sizes, strict=True)
    ]
    pairs = list(combinations(range(len(names)), 2))
    observed, resampled = np.zeros(len(pairs)), np.zeros((number_of_resamples(max(map(len, runs.scores))), len(pairs)))
    generator = np.random.default_rng(_SEED)
    for task in zip(*by_task, strict=True):
        ordered = [np.sort(scores) for scores in task]
        once = [np.ones((1, len(scores))) for scores in task]
        times = [counts(generator, len(resampled), len(scores)) for scores in task]
        for place, (one, other) in enumerate(pairs):
            observed[place] += _better(ordered[one], ordered[other], once[one], once[other])[0]
            resampled[:, place] += _better(ordered[one], ordered[other], times[one], times[other])
    low, high = percentile_interval(resampled / len(by_task[0]))
    found = {"probability": observed / len(by_task[0]), "low": low, "high": high}
    first, second = ([names[pair[end]] for pair in pairs] for end in (0, 1))
    return pd.DataFrame({"first": first, "second": second, **found})


def _better(x: Array, y: Array, x_times: Array, y_times: Array) -> Array:
    """Return how likely a score of x is larger than one of y if they occur so many times (resamples × scores).

    The scores are in ascending order. Equal ones count half.
    """
    before = np.concatenate([np.zeros((len(y_times), 1)), y_times.cumsum(axis=1)], axis=1)
    smaller, up_to = np.searchsorted(y, x, side="left"), np.searchsorted(y, x, side="right")
    found: Array = np.einsum("ij,ij->i", x_times, before[:, smaller] + before[:, up_to]) / (2 * len(x) * len(y))
    return found


def _shares(beaten: npt.NDArray[np.int64], thresholds: int) -> Array:
    """Return the share of runs that beat each threshold (resamples × thresholds), the easiest first."""
    rows = np.arange(len(beaten))[:, None] * (thresholds + 1)
    counts = np.bincount((rows + beaten).ravel(), minlength=len(beaten) * (thresholds + 1))
    at_least: Array = counts.reshape(len(beaten), -1)[:, ::-1].cumsum(axis=1)[:, ::-1] / beaten.shape[1]
    return at_least[:, 1:]


def _sign(better: str) -> int:
    if better not in ("max", "min"):
        raise InvalidValueError(f"better: {better!r} is unknown; choose 'max' or 'min'")
    return 1 if better == "max" else -1


def _runs(table: pd.DataFrame, value: str, by: list[str], tasks: list[str], over: Names, failures: Failures) -> _Scores:
    """Collect the scores, and warn of what makes intervals too short or scores unequal in weight."""
    if not by or not tasks:
        raise InvalidColumnError(f"{'tasks' if by else 'by'}: no keyfield is named; name at least one")
    averaged = averaged_over(table, over, [*by, *tasks])
    rules = rules_of(table, [value], SEED, failures, "all")
    table = checked(table, [value], [*by, *tasks], averaged, "name it in by, tasks or over")
    units = units_of(table, value, [*by, *tasks], averaged, rules)
    level, names = levels(units.cells, by)
    task, task_names = levels(units.cells, tasks)
    sizes = np.zeros((len(names), len(task_names)), dtype=int)
    sizes[level, task] = units.cells["n"]
    for labels, row in zip(names, sizes, strict=True):
        if not row.all():
            lacking = some_of(cell_name(tasks, task_names[number]) for number in np.flatnonzero(row == 0))
            raise InvalidValueError(
                f"{cell_name(by, labels)} has no results of {lacking}; its aggregate would be one of other tasks"
            )
    notes = list(units.notes)
    if (fewest := int(sizes.min())) < _RUNS:
        notes.append(f"a task has only {fewest} runs: with fewer than {_RUNS}, the intervals are too short")
    if fewest < sizes.max():
        notes.append("tasks have different numbers of runs; those with more count more in the mean and the profile")
    warn(notes)
    cell = units.values.index.get_level_values("cell")
    order = np.lexsort((task.loc[cell], level.loc[cell]))
    scores: list[Array] = np.split(units.values.to_numpy()[order], np.cumsum(sizes.sum(axis=1))[:-1])
    return _Scores(names, scores, sizes.tolist())
