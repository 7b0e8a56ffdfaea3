"""How good runs are at any time: their best value so far as a step function of a budget, such as evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pyexperimenter.analysis.cells import (
    SEED,
    Names,
    as_text,
    averaged_over,
    cell_name,
    check_columns,
    checked,
    levels,
    listed,
    numbers,
    optional_import,
    some_of,
    warn,
)
from pyexperimenter.analysis.exact_tests import Array
from pyexperimenter.analysis.plots import axes_or_new, describe, draw_line, styles
from pyexperimenter.analysis.rank_tests import rank
from pyexperimenter.analysis.running_time import expected_running_time, simulated_restarts
from pyexperimenter.analysis.units import rules_of
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = Sequence[float] | Array

_GRID = 200  # the most points of a curve whose budgets are not given
_TARGETS = 51  # targets of each unit that are not given
_COLUMNS = {"ID", "end", "final", "budget", "target", "share", "auc", "rank", "mean", "ci95", "median", "q1", "q3", "n"}
_COLUMNS |= {"n_units", "ended", "successes", "ert", "p10", "p90", "start", "until"}


@dataclass(frozen=True, eq=False, repr=False)
class Anytime:
    """Runs as step functions of a budget, as returned by `anytime`.

    Attributes
    ----------
    value, budget : str
        The logged columns.
    better : str
        ``"max"`` or ``"min"``.
    by, unit : tuple of str
        Keyfields whose levels are compared, and those of the problems, such as the data set.
    runs : pandas.DataFrame
        A row for each run: ``ID``, the columns of `by` and `unit`, ``end``, the last budget that it logged, and
        ``final``, the best value until then. What happened after the end is not known: the run is censored.
    points : pandas.DataFrame
        The steps: ``run`` (the number of a row of `runs`), ``budget``, and ``best``, the best value so far. They are
        sorted.
    notes : tuple of str
        What a reader has to know: runs that failed or are not finished, and runs without logs.
    """

    value: str
    budget: str
    better: str
    by: tuple[str, ...]
    unit: tuple[str, ...]
    runs: pd.DataFrame
    points: pd.DataFrame
    notes: tuple[str, ...]

    def at(self, budgets: Numbers) -> pd.DataFrame:
        """Return the fixed-budget table: the best values so far at these budgets.

        The runs of a unit are averaged first. A run that ended before a budget keeps its last value, and is counted in
        ``ended``.

        Returns
        -------
        pandas.DataFrame
            For each level and budget: ``mean``, ``ci95`` (half the width of Student's 95 % interval, over the units),
            ``median``, ``q1`` and ``q3`` of the units; ``n``, the number of runs, ``n_units``, and ``ended``. Without a
            unit, each run is one. The statistics are NaN if a run has not logged a value yet: those of the other runs
            would be those of a selection.
        """
        grid = _checked_numbers("budgets", budgets)
        best = self._best_at(grid)
        lines = []
        for labels, rows in self._levels():
            units = self._unit_means(best[rows], rows)
            with np.errstate(invalid="ignore"):
                q1, median, q3 = np.quantile(units, [0.25, 0.5, 0.75], axis=0)
            mean, half = _mean_and_half(units)
            ended = (self.runs["end"].to_numpy()[rows, None] < grid).sum(axis=0)
            columns = {"mean": mean, "ci95": half, "median": median, "q1": q1, "q3": q3}
            counts = {"n": rows.sum(), "n_units": len(units), "ended": ended}
            lines.append(self._frame(labels, {"budget": grid, **columns, **counts}))
        return pd.concat(lines, ignore_index=True)

    def targets(self, targets: Numbers) -> pd.DataFrame:
        """Return the fixed-target table: how much budget it takes to reach these values.

        Returns
        -------
        pandas.DataFrame
            For each level, unit and target: ``n``, the number of runs, ``successes``, those that reached it; ``ert``,
            the expected running time of `expected_running_time`, ``p10`` and ``p90``, the quantiles of
            `simulated_restarts`; and ``median``, the median budget of a single run, infinite if less than half of the
            runs reached it.
        """
        wanted = _checked_numbers("targets", targets)
        hits = self._hits(np.broadcast_to(wanted, (len(self.runs), len(wanted))))
        ends = self.runs["end"].to_numpy()
        lines = []
        codes, labels = levels(self.runs, [*self.by, *self.unit])
        for number, names in enumerate(labels):
            rows = (codes == number).to_numpy()
            reached = np.isfinite(hits[rows])
            spent = np.where(reached, hits[rows], ends[rows, None])
            times = [(spent[:, place], reached[:, place]) for place in range(len(wanted))]
            p10, p90 = np.transpose(
                [np.quantile(simulated_restarts(*of_runs), [0.1, 0.9], method="inverted_cdf") for of_runs in times]
            )
            columns = {
                "n": rows.sum(),
                "successes": reached.sum(axis=0),
                "ert": [expected_running_time(*of_runs) for of_runs in times],
                "p10": p10,
                "p90": p90,
                "median": np.quantile(hits[rows], 0.5, axis=0, method="inverted_cdf"),
            }
            lines.append(self._frame(names, {"target": wanted, **columns}, [*self.by, *self.unit]))
        return pd.concat(lines, ignore_index=True)

    def ecdf(self, targets: Numbers | None = None, budgets: Numbers | None = None) -> pd.DataFrame:
        """Return the shares of pairs of a run and a target that are reached within a budget (Hansen et al., 2021).

        Parameters
        ----------
        targets : sequence of float, optional
            By default 51 for each unit, evenly spaced from its worst first value to its best final value. They depend
            on the runs, so give targets to compare with other studies.
        budgets : sequence of float, optional
            By default those that were logged, or 200 of them.

        Returns
        -------
        pandas.DataFrame
            For each level and budget ``share``, where each unit counts equally. A run that ended is one that never
            reaches what it has not reached.
        """
        each = self._targets() if targets is None else np.asarray(_checked_numbers("targets", targets))
        hits = self._hits(np.broadcast_to(each, (len(self.runs), each.shape[-1])))
        grid = self._budgets() if budgets is None else _checked_numbers("budgets", budgets)
        lines = []
        for labels, rows in self._levels():
            of_runs = np.array([np.searchsorted(np.sort(row), grid, side="right") for row in hits[rows]])
            share = self._unit_means(of_runs / each.shape[-1], rows).mean(axis=0)
            lines.append(self._frame(labels, {"budget": grid, "share": share}))
        return pd.concat(lines, ignore_index=True)

    def auc(self, until: float | None = None, log: bool = False) -> pd.DataFrame:
        """Return the areas under the curves of the best value so far, divided by their length.

        Parameters
        ----------
        until : float, optional
            The end of the curves; by default the largest budget. A run that ended before keeps its last value. They
            begin where all runs have a value.
        log : bool
            Whether the budget is on a logarithmic axis, so that the first evaluations count more.

        Returns
        -------
        pandas.DataFrame
            For each level ``auc``, the mean over the units, ``ci95``, half the width of Student's 95 % interval, ``n``
            and ``n_units``, ``ended``, the number of runs that ended before, and the limits ``start`` and ``until``.

        Raises
        ------
        InvalidValueError
            If there is no budget between both limits, or with `log` if the first is not positive.
        """
        start = float(self.points.groupby("run")["budget"].first().max())
        end = float(self.runs["end"].max()) if until is None else float(until)
        if not start < end or (log and start <= 0):
            raise InvalidValueError(f"until: there is no budget to average over between {start:g} and {end:g}")
        steps = self.points[self.points["budget"].le(end)]
        run, begin = steps["run"].to_numpy(), steps["budget"].clip(lower=start).to_numpy()
        last = np.append(run[1:] != run[:-1], True)
        upto = np.where(last, end, np.append(begin[1:], end))
        scale: Callable[[Array], Array] = np.log if log else np.asarray
        areas = np.bincount(run, steps["best"] * (scale(upto) - scale(begin)), minlength=len(self.runs))
        means = areas / float(scale(np.array(end)) - scale(np.array(start)))
        lines = []
        for labels, rows in self._levels():
            units = self._unit_means(means[rows, None], rows)
            mean, half = _mean_and_half(units)
            ended = int((self.runs["end"].to_numpy()[rows] < end).sum())
            counts = {"n": int(rows.sum()), "n_units": len(units), "ended": ended, "start": start, "until": end}
            lines.append(self._frame(labels, {"auc": mean, "ci95": half, **counts}))
        return pd.concat(lines, ignore_index=True)

    def ranks(self, budgets: Numbers | None = None) -> pd.DataFrame:
        """Return the average ranks of the levels at each budget, with pointwise intervals.

        In each unit, the levels are ranked by the means over its runs; 1 is the best. A level of which a run has no
        value yet has the worst rank.

        Parameters
        ----------
        budgets : sequence of float, optional
            By default those that were logged, or 200 of them.

        Returns
        -------
        pandas.DataFrame
            For each level and budget ``rank``, ``ci95``, half the width of Student's 95 % interval over the units, and
            ``n_units``, those in which all levels have runs. Ranks are not normal, so the interval is rough for few
            units; and it is for each budget alone: a curve leaves its band somewhere more often.

        Raises
        ------
        InvalidValueError
            If there is only one level, or no unit in which all have runs.
        """
        grid = self._budgets() if budgets is None else _checked_numbers("budgets", budgets)
        worst = -math.inf if self.better == "max" else math.inf
        best = self._best_at(grid)
        best = np.where(np.isnan(best), worst, best)
        level, labels = levels(self.runs, self.by)
        unit = self._unit_codes()
        means = pd.DataFrame(best).groupby([unit, level.to_numpy()]).mean().unstack()  # of units × (budgets × levels)
        means = means.dropna()
        if len(labels) < 2 or means.empty:
            raise InvalidValueError(
                f"ranks need at least two levels of {', '.join(self.by)}, and a unit in which all have runs; there are "
                f"{len(labels)} levels, and {len(means)} such units"
            )
        cube = means.to_numpy().reshape(len(means), len(grid), len(labels))
        ranks = np.stack([rank(pd.DataFrame(cube[:, place]), self.better).to_numpy() for place in range(len(grid))])
        lines = []
        for number, names in enumerate(labels):
            mean, half = _mean_and_half(ranks[:, :, number].T)
            columns = {"budget": grid, "rank": mean, "ci95": half, "n_units": len(means)}
            lines.append(self._frame(names, columns))
        return pd.concat(lines, ignore_index=True)

    def plot(self, show: str = "values", ax: Axes | None = None, points: Numbers | None = None) -> Axes:
        """Draw a curve for each level.

        Parameters
        ----------
        show : {"values", "ecdf", "targets", "ranks"}
            The means of `at` with their intervals, as far as all runs of a level have a value; the shares of `ecdf`;
            the expected running times of `targets` (for each unit, if there are several); or the average ranks.
        ax : matplotlib.axes.Axes, optional
            Axes to draw on.
        points : sequence of float, optional
            The budgets; for ``"targets"`` the targets, and for ``"ecdf"`` too.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        InvalidValueError
            If `show` is unknown.
        PyExperimenterError
            If matplotlib is missing.
        """
        if show not in ("values", "ecdf", "targets", "ranks"):
            raise InvalidValueError(f"show: {show!r} is unknown; choose 'values', 'ecdf', 'targets' or 'ranks'")
        axes, x, keys = axes_or_new(ax), "budget", list(self.by)
        if show == "values":
            frame, y = self.at(self._budgets() if points is None else points), "mean"
            title = f"best {self.value} so far\n(mean ± half 95 % interval of the mean)"
        elif show == "ecdf":
            frame, y, title = self.ecdf(points), "share", "share of runs and targets reached"
        elif show == "ranks":
            frame, y, title = self.ranks(points), "rank", "average rank\n(± half 95 % interval, pointwise)"
        else:
            known = self._targets()
            wanted = np.linspace(known.min(), known.max(), _TARGETS) if points is None else points
            frame, x, y = self.targets(wanted), "target", "ert"
            title = f"expected running time\n({self.budget})"
            keys = [*self.by, *(name for name in self.unit if frame[name].nunique(dropna=False) > 1)]
        codes, labels = levels(frame, keys)
        for number, (names, style) in enumerate(zip(labels, styles(axes), strict=False)):
            line = frame[codes == number].replace(math.inf, math.nan)
            spread, label = ["ci95"] if "ci95" in line else [], ", ".join(map(as_text, names))
            draw_line(axes, line[x], line, y, spread, label, style, None if x == "target" else "post")
        describe(axes, self.value if x == "target" else self.budget, title, keys)
        return axes

    def _levels(self) -> list[tuple[tuple[Any, ...], Any]]:
        """Return the levels that are compared, each with a mask of its runs."""
        codes, labels = levels(self.runs, self.by)
        return [(names, (codes == number).to_numpy()) for number, names in enumerate(labels)]

    def _unit_codes(self) -> Any:
        """Return the number of the unit of each run."""
        return levels(self.runs, self.unit)[0].to_numpy()

    def _unit_means(self, values: Array, rows: Any) -> Array:
        """Average the values of runs (runs × columns) within units; without a unit, each run is one."""
        if not self.unit:
            return values
        _, unit = np.unique(self._unit_codes()[rows], return_inverse=True)
        sums = np.zeros((unit.max() + 1, values.shape[1]))
        np.add.at(sums, unit, values)
        means: Array = sums / np.bincount(unit)[:, None]
        return means

    def _frame(self, labels: Sequence[Any], columns: dict[str, Any], keys: Sequence[str] | None = None) -> pd.DataFrame:
        frame = pd.DataFrame(columns)
        for place, (name, label) in enumerate(zip(keys or self.by, labels, strict=True)):
            frame.insert(place, name, [label] * len(frame))
        return frame

    def _of_runs(self) -> list[tuple[Array, Array]]:
        """Return the budgets and the best values so far of each run, as arrays."""
        budgets, best = self.points["budget"].to_numpy(), self.points["best"].to_numpy()
        edges = np.searchsorted(self.points["run"].to_numpy(), np.arange(len(self.runs) + 1))
        return [(budgets[a:b], best[a:b]) for a, b in pairwise(edges)]

    def _best_at(self, budgets: Array) -> Array:
        """Return the best values so far, runs × budgets; NaN before the first value."""
        found = np.full((len(self.runs), len(budgets)), np.nan)
        for row, (logged, best) in zip(found, self._of_runs(), strict=True):
            place = np.searchsorted(logged, budgets, side="right")
            row[place > 0] = best[place[place > 0] - 1]
        return found

    def _hits(self, targets: Array) -> Array:
        """Return the budgets at which the targets were reached, runs × targets; infinity if they were not."""
        sign = 1 if self.better == "max" else -1
        hits = np.full(targets.shape, np.inf)
        for row, wanted, (logged, best) in zip(hits, targets, self._of_runs(), strict=True):
            place = np.searchsorted(sign * best, sign * wanted, side="left")
            row[place < len(logged)] = logged[place[place < len(logged)]]
        return hits

    def _budgets(self) -> Array:
        """Return the logged budgets, or some of them, evenly among their order."""
        found = np.unique(self.points["budget"])
        places = np.linspace(0, len(found) - 1, min(len(found), _GRID)).round().astype(int)
        return np.asarray(found[places], dtype=float)

    def _targets(self) -> Array:
        """Return the default targets of each run (runs × targets): those of its unit."""
        first = self.points.groupby("run")["best"].first()
        unit, final = pd.Series(self._unit_codes()), self.runs["final"].reset_index(drop=True)
        lowest, highest = (first.groupby(unit).transform("min"), final.groupby(unit).transform("max"))
        if self.better == "min":
            lowest, highest = (final.groupby(unit).transform("min"), first.groupby(unit).transform("max"))
        found: Array = np.linspace(lowest.to_numpy(), highest.to_numpy(), _TARGETS, axis=1)
        return found


def anytime(
    logs: pd.DataFrame,
    table: pd.DataFrame,
    value: str,
    budget: str,
    by: str | Sequence[str],
    unit: Names = None,
    better: str = "max",
    over: Names = "seed",
) -> Anytime:
    """Prepare an analysis of how good runs are at any time, from what they logged.

    A run counts by its best value so far, which is a step function of the budget. Nothing is known of a run after its
    last log, so it is censored there and not dropped, also if it failed or is not finished.

    Parameters
    ----------
    logs : pandas.DataFrame
        Rows of a logtable, as returned by `get_logtable`; you may drop rows.
    table : pandas.DataFrame
        Experiments, as returned by `get_table`; you may drop rows.
    value : str
        Logged column whose best value so far counts.
    budget : str
        Logged column with what was spent until then in the run, such as evaluations or seconds. For ``"timestamp"``,
        it is the seconds since ``start_date``; they are right for runs that were not paused.
    by : str or sequence of str
        Keyfields whose levels are compared, such as the method.
    unit : str or sequence of str, optional
        Keyfields of the problems, such as the data set. The default is the unit in the configuration. Runs of a unit
        are averaged first; if there is only one, each run counts.
    better : {"max", "min"}
        Whether large or small values are good.
    over : str or sequence of str, optional
        Other keyfields in which the runs may differ.

    Returns
    -------
    Anytime
        Its methods return tables and draw figures.

    Raises
    ------
    InvalidColumnError
        If a column does not exist or has two roles, or if a keyfield that is not named varies.
    InvalidValueError
        If a column is not numeric, an option is unknown, or no experiment has logs; or if something was logged before
        the experiment was started.

    Warns
    -----
    UserWarning
        If runs failed, are not finished, or have no logs.

    Examples
    --------
    >>> table = pd.DataFrame({"ID": [1, 2, 3, 4], "seed": [0, 1, 2, 3], "method": "es",
    ...                       "creation_date": pd.Timestamp("2026-01-01"), "status": "done"})
    >>> logs = pd.DataFrame({"ID": range(1, 6), "experiment_id": [1, 2, 3, 3, 4], "error": [0, 0, 5, 4, 0],
    ...                      "evaluations": [100, 250, 10, 1000, 400]})
    >>> curves = anytime(logs, table, "error", budget="evaluations", by="method", better="min")
    >>> print(curves.targets([0]).round(2).to_string(index=False))  # (100 + 250 + 1000 + 400) / 3
    method  target  n  successes    ert   p10    p90  median
        es     0.0  4          3 583.33 100.0 1400.0   250.0
    """
    if better not in ("max", "min"):
        raise InvalidValueError(f"better: {better!r} is unknown; choose 'max' or 'min'")
    levels_of = listed(by)
    if not levels_of:
        raise InvalidColumnError("by: no keyfield is named; name at least one")
    for name in [*levels_of, *listed(unit)]:
        if name in _COLUMNS:
            raise InvalidColumnError(
                f"column {name!r} has the name of a statistic; rename it first: "
                f"table.rename(columns={{{name!r}: '{name}_'}})"
            )
    units = [name for name in rules_of(table, [value], unit).unit if name not in (SEED, *levels_of)]
    averaged = [name for name in averaged_over(table, over, [*levels_of, *units]) if name not in units]
    table = checked(table, [], [*levels_of, *units], averaged, "name it in by, unit or over")
    units = units if len(levels(table, units)[1]) > 1 else []  # within one unit, the runs are what varies
    points = _steps(logs, table, value, budget, better)
    logged = table["ID"].isin(points["experiment"])
    notes = []
    failed, done = table["status"].eq("error"), table["status"].eq("done")
    for chosen, what in ((failed & logged, "failed"), (~failed & ~done & logged, "are not finished")):
        if chosen.any():
            notes.append(f"{chosen.sum()} of {len(table)} runs {what}: they count until their last log")
    if not logged.all():
        codes, labels = levels(table, levels_of)
        counts = np.bincount(codes[~logged], minlength=len(labels))
        named = zip(labels, counts, strict=True)
        where = some_of(f"{cell_name(levels_of, names)} ({number})" for names, number in named if number)
        notes.append(f"{(~logged).sum()} of {len(table)} runs have no logs and are left out: {where}")
    if not logged.any():
        raise InvalidValueError(f"no experiment of the table has logged {value} and {budget}; check your filters")
    warn(notes)
    runs = table.loc[logged, ["ID", *levels_of, *units]].reset_index(drop=True)
    points["run"] = points["experiment"].map(pd.Series(runs.index, runs["ID"]))
    points = points.sort_values(["run", "budget"], kind="stable", ignore_index=True)
    last = points.groupby("run").last()
    runs = runs.assign(end=last["budget"], final=last["best"])
    found = points[["run", "budget", "best"]]
    notes = [*table.attrs.get("notes", []), *notes]
    return Anytime(value, budget, better, tuple(levels_of), tuple(units), runs, found, tuple(notes))


def _steps(logs: pd.DataFrame, table: pd.DataFrame, value: str, budget: str, better: str) -> pd.DataFrame:
    """Return the logged points of the experiments in the order of their budgets, with the best value so far.

    A later execution replaces what an earlier one logged from its own first budget on: a run that was resumed goes on
    there, and one that was repeated starts over.
    """
    check_columns(logs, ["ID", "experiment_id", budget])
    points = pd.DataFrame(
        {
            "experiment": logs["experiment_id"],
            "execution": logs["attempt_id"] if "attempt_id" in logs else logs["experiment_id"],
            "budget": _spent(logs, table, budget),
            "value": numbers(logs, value),
            "ID": logs["ID"],
        }
    )
    points = points[points["experiment"].isin(table["ID"])].dropna(subset=["budget", "value"])
    firsts = points.groupby(["experiment", "execution"])["budget"].min().sort_index(ascending=False)
    limits = firsts.groupby(level="experiment").cummin().groupby(level="experiment").shift()  # of later executions
    limit = limits.reindex(pd.MultiIndex.from_frame(points[["experiment", "execution"]])).to_numpy()
    points = points[~(points["budget"].to_numpy() >= limit)]
    points = points.sort_values(["experiment", "budget", "ID"], kind="stable")
    so_far = points.groupby("experiment")["value"]
    return points.assign(best=so_far.cummax() if better == "max" else so_far.cummin())


def _spent(logs: pd.DataFrame, table: pd.DataFrame, budget: str) -> pd.Series[float]:
    """Return the logged budgets as numbers; of a time, the seconds since the experiment was started."""
    if not pd.api.types.is_datetime64_any_dtype(logs[budget].dtype):
        return numbers(logs, budget)
    check_columns(table, ["start_date"])
    started = logs["experiment_id"].map(table.set_index("ID")["start_date"])
    seconds = (logs[budget] - started).dt.total_seconds()
    if (seconds < 0).any():
        example = logs.loc[seconds < 0, "experiment_id"].iloc[0]
        raise InvalidValueError(
            f"budget: experiment {example} logged before its last start, so its time is not known from {budget!r}; log "
            "the seconds of a run yourself, and name that column"
        )
    return seconds


def _mean_and_half(units: Array) -> tuple[Array, Array]:
    """Return the means over units (units × columns), and half the widths of Student's 95 % intervals; NaN for one."""
    n = len(units)
    with np.errstate(invalid="ignore"):
        mean: Array = units.mean(axis=0)
        if n == 1:
            return mean, np.full_like(mean, np.nan)
        half: Array = units.std(axis=0, ddof=1) * optional_import("scipy.stats", "stats").t.ppf(0.975, n - 1) / n**0.5
    return mean, half


def _checked_numbers(name: str, values: Numbers) -> Array:
    """Return numbers as an ascending array.

    Raises
    ------
    InvalidValueError
        If there are none, or one is NaN.
    """
    found = np.unique(np.asarray(values, dtype=float))
    if not len(found) or np.isnan(found).any():
        raise InvalidValueError(f"{name}: {list(values)!r} are not numbers; give at least one")
    return found
