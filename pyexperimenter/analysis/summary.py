"""Summary statistics: one row for each cell, with the number of runs behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pyexperimenter.analysis.bootstrap import LEAST, bca_intervals
from pyexperimenter.analysis.cells import (
    SEED,
    Names,
    averaged_over,
    cell_name,
    checked,
    levels,
    listed,
    optional_import,
    some_of,
    warn,
)
from pyexperimenter.analysis.rank_tests import p_against
from pyexperimenter.analysis.units import Failures, Rules, Units, rules_of, units_of
from pyexperimenter.analysis.versions import mixed_versions
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError

STATISTICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mean±std": ("mean", ("std",)),
    "mean±ci95": ("mean", ("ci95",)),
    "ci95": ("mean", ("ci95",)),
    "mean±bca95": ("mean", ("bca_low", "bca_high")),
    "median±iqr": ("median", ("q1", "q3")),
    "mean": ("mean", ()),
    "median": ("median", ()),
}
"""Name -> the column with the center of a cell, and those with its spread: none, one (±), or two (the ends)."""

Better = str | Mapping[str, str] | None
"""``"max"`` or ``"min"``, for all values or for each value by its name."""

_TITLES = {
    "mean": "mean",
    "median": "median",
    "std": "standard deviation",
    "ci95": "half 95 % interval of the mean",
}

_ENDS: dict[tuple[str, ...], str] = {
    ("q1", "q3"): " [Q1, Q3]",
    ("bca_low", "bca_high"): " [95 % BCa bootstrap interval]",
}

_COUNTS = ("n", "missing", "failed", "open", "nan", "unpaired", "n_units")
COLUMNS = ("value", "mean", "std", "median", "q1", "q3", "iqr", "ci95", "bca_low", "bca_high", "p_best", *_COUNTS)
"""The columns that a summary can have in addition to the keyfields."""


def summarize(
    table: pd.DataFrame,
    values: str | Sequence[str],
    rows: str | Sequence[str],
    columns: Names = None,
    over: Names = "seed",
    stat: str = "mean±std",
    attempts: pd.DataFrame | None = None,
    *,
    unit: Names = None,
    failures: Failures = "error",
    pairing: str | None = None,
    test_share: float | None = None,
    better: Better = None,
) -> pd.DataFrame:
    """Summarize the results of each cell, and report how complete they are.

    Runs of the same unit are averaged first; then the units are summarized. The units of a cell are

    - the combinations of those keyfields in `over` that `unit` names;
    - the combinations of all keyfields in `over` but ``seed``, if that leaves none, or if no unit is declared;
    - the runs, if ``seed`` is all that is left, or with ``unit="seed"``.

    Parameters
    ----------
    table : pandas.DataFrame
        Experiments, as returned by `get_table`; you may drop rows.
    values : str or sequence of str
        Resultfields (or other numeric columns) to summarize. Booleans count as 0 and 1, so their mean is a proportion.
    rows, columns : str or sequence of str
        Columns, usually keyfields, whose combinations are the cells. NULL is a value of its own. The distinction
        between the two only matters when the summary is rendered.
    over : str or sequence of str, optional
        Keyfields to average over. ``"seed"`` is ignored if there is no such keyfield, or if it has another role.
    stat : str
        ``"mean±std"``, ``"mean±ci95"`` (or ``"ci95"``), ``"mean±bca95"``, ``"median±iqr"``, ``"mean"`` or
        ``"median"``; ``+-`` is the same as ``±``.
    attempts : pandas.DataFrame, optional
        Executions, as returned by `get_attempts`. With them, a warning says if the results come from different
        versions of the code or environments.
    unit : str or sequence of str, optional
        Keyfield of what is independent, usually the data set. The default is the unit in the configuration, which
        `get_table` stores in the ``attrs`` of the table. ``"seed"`` makes each run a unit; then intervals hold for
        these data sets only.
    failures : {"error", "drop"}, float or mapping of str to these
        What experiments in error, and those that are done without a number, count as: as an error of this call; as not
        there; or as this number, for all values or for each value by its name. Dropping favors what fails where it is
        bad.
    pairing : {"common", "all"}, optional
        ``"common"`` averages only over combinations of `over` that have a result in all cells of a row (or, without
        `columns`, in all cells) and of a unit. ``"all"`` averages over all that each cell has.
    test_share : float, optional
        If seeds are random splits of a data set: the share of the test part. The default is that in the configuration,
        as for `unit`. Then the training parts overlap, and the interval over splits of one data set uses the corrected
        variance.
    better : {"max", "min"} or mapping of str to these, optional
        Test which cells of a row (or, without `columns`, of all) differ from the one with the largest or the smallest
        mean (or median), for ``best="indistinguishable"`` of `to_latex`; with several values, for each by its name.

    Returns
    -------
    pandas.DataFrame
        In tidy form: a row for each cell and value, sorted by the values of the cells with NULL last, with

        - the columns of `rows` and `columns`;
        - ``value``, the name of the resultfield, if there are several;
        - ``mean`` and ``std``, the sample standard deviation (``ddof=1``), which is NaN for a single unit;
        - the other statistics that `stat` needs: ``median``; ``q1`` and ``q3``, the quartiles, with linear
          interpolation as in `numpy.quantile`, and ``iqr``, the range between them, NaN if a value is infinite;
          ``ci95``, half the width of Student's 95 % confidence interval of the mean; ``bca_low`` and ``bca_high``, the
          ends of the bootstrap interval of `bootstrap.bca_intervals`, for 20 units or more;
        - ``p_best``, with `better`: the p-value of the difference from the best cell, 1 for the best one: that of the
          Wilcoxon signed-rank test on the units that all cells have, or of the corrected t test on splits of one data
          set, adjusted by Holm's method for all pairs of cells;
        - ``n``, the number of runs from which the statistics are computed, and ``n_units``, the number of units;
        - ``missing``, the number of runs that have no result and do not count as a number;
        - ``failed``, ``open`` and ``nan``, the numbers of runs that are in error; created, running or paused; and done
          but without a number;
        - ``unpaired``, the number of runs with a result that are left out since a cell to compare lacks theirs.

        Its ``attrs`` store the layout for `to_latex`, `to_markdown` and `to_html`, and ``notes``, sentences about runs
        that are missing, for which these have a place below the table.

    Raises
    ------
    InvalidColumnError
        If a column does not exist, has two roles or the name of a statistic, or if a keyfield that is not named varies
        within a cell: nothing is averaged over silently.
    InvalidValueError
        If experiments failed and `failures` does not say what they count as; if a value is not numeric; if an option is
        unknown; if the table is empty or contains experiments twice; or if it is not known whether the units are splits
        of one data set.
    PyExperimenterError
        If SciPy is missing, which ``ci95`` needs.

    Warns
    -----
    UserWarning
        A single warning if cells contain unfinished or failed experiments, or fewer runs than others though the grid
        has no conditions, if runs are left out, or if the experiments were run with different git commits or
        uncommitted changes, or with different versions of Python or of this library.

    Notes
    -----
    The confidence interval is based on Student's t distribution (Student. The probable error of a mean. *Biometrika*
    6(1):1-25, 1908). The corrected variance of the mean of J splits is (1 / J + n_test / n_train) s² (C. Nadeau and
    Y. Bengio. Inference for the generalization error. *Machine Learning* 52(3):239-281, 2003).

    Examples
    --------
    >>> table = pd.DataFrame({
    ...     "ID": range(1, 7),
    ...     "kernel": ["linear", "linear", "linear", "rbf", "rbf", "rbf"],
    ...     "seed": [0, 1, 2, 0, 1, 2],
    ...     "creation_date": pd.Timestamp("2026-01-01"),
    ...     "status": "done",
    ...     "accuracy": [0.90, 0.92, 0.94, 0.97, 0.95, 0.96],
    ... })
    >>> print(summarize(table, "accuracy", rows="kernel").iloc[:, :5].round(3).to_string(index=False))
    kernel  mean  std  n  missing
    linear  0.92 0.02  3        0
       rbf  0.96 0.01  3        0
    """
    names, keys = listed(values), [*listed(rows), *listed(columns)]
    stat = known_statistic(stat)
    for role, chosen in (("values", names), ("rows", listed(rows))):
        if not chosen:
            raise InvalidColumnError(f"{role}: no column is named; name at least one")
    averaged, rules = averaged_over(table, over, keys), rules_of(table, names, unit, failures, pairing, test_share)
    check_better(names, better)
    table = checked(table, names, keys, averaged, "name it in rows, columns or over")
    within = listed(rows) if listed(columns) else []
    summaries, notes = [], []
    for name in names:
        of_value = better.get(name) if isinstance(better, Mapping) else better
        summary, of_it = summary_of(table, name, keys, averaged, stat, rules, within, of_value)
        if len(names) > 1:
            summary.insert(len(keys), "value", name)
        summaries.append(summary)
        notes += [f"{name}: {note}" if len(names) > 1 else note for note in of_it]
    warn([*notes, *mixed_versions(table, keys, attempts)])
    summary = pd.concat(summaries, ignore_index=True)
    summary.attrs = {
        "values": names,
        "columns": listed(columns),
        "stat": stat,
        "units": rules.replicates(averaged),
        "uneven": rules.uneven,
        "better": better,
        "splits": better is not None and rules.split_ratio(averaged) > 0,
        "notes": [*table.attrs.get("notes", []), *notes]
        + (rules.remarks(rules.split_ratio(averaged) > 0, SEED in rules.unit) if "ci95" in STATISTICS[stat][1] else []),
    }
    return summary


def known_statistic(stat: str) -> str:
    """Return the name of a statistic as in `STATISTICS`.

    Raises
    ------
    InvalidValueError
        If it is unknown.
    """
    stat = stat.replace("+-", "±").replace(" ", "")
    if stat not in STATISTICS:
        raise InvalidValueError(f"stat: {stat!r} is unknown; choose from {', '.join(STATISTICS)}")
    return stat


def statistic_name(stat: str) -> str:
    """Return the name of a statistic for readers.

    >>> [statistic_name(stat) for stat in ("mean±std", "mean±ci95", "median±iqr", "mean")]
    ['mean ± standard deviation', 'mean ± half 95 % interval of the mean', 'median [Q1, Q3]', 'mean']
    """
    center, spread = STATISTICS[stat]
    return _TITLES[center] + (f" ± {_TITLES[spread[0]]}" if len(spread) == 1 else _ENDS.get(spread, ""))


def summary_of(
    table: pd.DataFrame,
    value: str,
    keys: Sequence[str],
    over: Sequence[str],
    stat: str,
    rules: Rules,
    within: Sequence[str],
    better: str | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """Summarize one resultfield; for parameters and errors, see `units_of` and `summarize`.

    Returns
    -------
    (pandas.DataFrame, list of str)
        As returned by `summarize`, and what a reader has to know about it.

    Raises
    ------
    InvalidColumnError
        If a key has the name of a statistic.
    """
    for name in keys:
        if name in COLUMNS:
            raise InvalidColumnError(
                f"column {name!r} has the name of a statistic; rename it first: "
                f"table.rename(columns={{{name!r}: '{name}_'}})"
            )
    units = units_of(table, value, keys, over, rules, within)
    if units.values.empty and units.cells["unpaired"].any():
        raise InvalidValueError(
            f"{value}: no {', '.join(over)} has a result in all cells to compare; pairing='all' averages over what "
            "each cell has"
        )
    values = units.values.groupby(level="cell")
    center, spread = STATISTICS[stat]
    with np.errstate(invalid="ignore"):  # infinity - infinity is NaN, and a warning would not help
        statistics = {"mean": values.mean(), "std": values.std(ddof=1)}
        if center == "median":
            statistics["median"] = values.median()
        if "q1" in spread:
            q1, q3 = values.quantile(0.25), values.quantile(0.75)
            statistics |= {"q1": q1, "q3": q3, "iqr": (q3 - q1).where(np.isfinite(values.sum()))}
        if "ci95" in spread:
            student, n = optional_import("scipy.stats", "stats").t, values.size()
            factor = student.ppf(0.975, n - 1) * np.sqrt(1 / n + rules.split_ratio(over))
            statistics["ci95"] = factor * statistics["std"]
        if "bca_low" in spread:
            ends = _bootstrapped(units, value, keys, rules.split_ratio(over))
            statistics |= {name: ends[name] for name in spread}
    if better is not None:
        statistics["p_best"] = _against_best(units, statistics[center], better, within, rules.split_ratio(over))
    cells = units.cells.join(pd.DataFrame(statistics))
    return cells[[*keys, *statistics, *_COUNTS]], units.notes


def _bootstrapped(units: Units, value: str, keys: Sequence[str], split_ratio: float) -> pd.DataFrame:
    """Return the ends of the bootstrap interval of each cell with values."""
    if split_ratio:
        raise InvalidValueError(
            "stat: splits of one data set are not independent, so they cannot be drawn again; use mean±ci95"
        )
    groups = {cell: group.to_numpy() for cell, group in units.values.groupby(level="cell")}
    small = [cell for cell, group in groups.items() if len(group) < LEAST]
    if small:
        cells = zip(units.cells.loc[small, list(keys)].itertuples(index=False, name=None), small, strict=True)
        where = some_of(f"{cell_name(keys, labels)} ({len(groups[cell])})" for labels, cell in cells)
        raise InvalidValueError(
            f"stat: a bootstrap interval of {value} needs at least {LEAST} units, as it is too short with fewer: "
            f"{where}; use mean±ci95"
        )
    if not all(np.isfinite(group).all() for group in groups.values()):
        raise InvalidValueError(f"stat: a bootstrap interval needs finite values of {value}; use median±iqr")
    ends = pd.DataFrame(index=units.cells.index, columns=["bca_low", "bca_high"], dtype=float)
    for size in {len(group) for group in groups.values()}:
        alike = {cell: group for cell, group in groups.items() if len(group) == size}
        ends.loc[list(alike)] = np.transpose(bca_intervals(np.array(list(alike.values()))))
    return ends


def _against_best(
    units: Units, centers: pd.Series[float], better: str, within: Sequence[str], split_ratio: float
) -> pd.Series[float]:
    """Return the adjusted p-value of each cell in the test against the best one with the same keys `within`."""
    scores = units.values.unstack("cell")
    found = pd.Series(np.nan, index=centers.index)
    for _, rivals in centers.dropna().groupby(levels(units.cells, within)[0]):
        best = int((rivals if better == "max" else -rivals).to_numpy().argmax())
        tested = scores[rivals.index].dropna().to_numpy()
        found.loc[rivals.index] = np.array(p_against(best, tested, split_ratio))
    return found


def check_better(values: Sequence[str], better: Better) -> None:
    """Check a setting of what is better.

    Raises
    ------
    InvalidValueError
        If it is not for each of the values by its name, or neither max nor min.
    """
    if isinstance(better, str) and len(values) > 1:
        raise InvalidValueError(
            f"better: {better!r} is for one value; say for each whether max or min is better: "
            f"{{{', '.join(f'{value!r}: {better!r}' for value in values)}}}"
        )
    for name, setting in better.items() if isinstance(better, Mapping) else [(values[0], better)]:
        if name not in values:
            raise InvalidValueError(f"better: {name!r} is not summarized; choose from {', '.join(values)}")
        if setting not in ("max", "min", None):
            raise InvalidValueError(f"better: {setting!r} is unknown; choose 'max', 'min' or None")
