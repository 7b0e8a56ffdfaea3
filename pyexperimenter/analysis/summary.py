"""Summary statistics: one row for each cell, with the number of runs behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from pyexperimenter.analysis.cells import (
    Names,
    cell_name,
    checked,
    levels,
    listed,
    optional_import,
    scores,
    some_of,
    warn,
)
from pyexperimenter.analysis.versions import mixed_versions
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError

STATISTICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mean±std": ("mean", ("std",)),
    "mean±ci95": ("mean", ("ci95",)),
    "ci95": ("mean", ("ci95",)),
    "median±iqr": ("median", ("q1", "q3")),
    "mean": ("mean", ()),
    "median": ("median", ()),
}
"""Name -> the column with the center of a cell, and those with its spread: none, one (±), or two (the ends)."""

COLUMNS = ("value", "mean", "std", "median", "q1", "q3", "iqr", "ci95", "n", "missing")
"""The columns that a summary can have in addition to the keyfields."""


def summarize(
    table: pd.DataFrame,
    values: str | Sequence[str],
    rows: str | Sequence[str],
    columns: Names = None,
    over: Names = "seed",
    stat: str = "mean±std",
    attempts: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Summarize the results of each cell, and report how complete they are.

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
        Keyfields to average over.
    stat : str
        ``"mean±std"``, ``"mean±ci95"`` (or ``"ci95"``), ``"median±iqr"``, ``"mean"`` or ``"median"``; ``+-`` is
        the same as ``±``.
    attempts : pandas.DataFrame, optional
        Executions, as returned by `get_attempts`. With them, a warning says if the results come from different
        versions of the code or environments.

    Returns
    -------
    pandas.DataFrame
        In tidy form: a row for each cell and value, sorted by the values of the cells with NULL last, with

        - the columns of `rows` and `columns`;
        - ``value``, the name of the resultfield, if there are several;
        - ``mean`` and ``std``, the sample standard deviation (``ddof=1``), which is NaN for a single run;
        - the other statistics that `stat` needs: ``median``; ``q1`` and ``q3``, the quartiles, with linear
          interpolation as in `numpy.quantile`, and ``iqr``, the range between them, NaN if a value is infinite;
          ``ci95``, half the width of Student's 95 % confidence interval of the mean;
        - ``n``, the number of runs that are done and have the value; all statistics are computed from them;
        - ``missing``, the number of other rows: open, running, paused, in error, or without the value.

        Its ``attrs`` store the layout for `to_latex`, `to_markdown` and `to_html`.

    Raises
    ------
    InvalidColumnError
        If a column does not exist, has two roles or the name of a statistic, or if a keyfield that is not named varies
        within a cell: nothing is averaged over silently.
    InvalidValueError
        If a value is not numeric, `stat` is unknown, or the table is empty or contains experiments twice.
    PyExperimenterError
        If SciPy is missing, which ``ci95`` needs.

    Warns
    -----
    UserWarning
        A single warning if cells contain unfinished or failed experiments, or fewer runs than others, or if the
        experiments were run with different git commits or uncommitted changes, or with different versions of Python or
        of this library.

    Notes
    -----
    The confidence interval is based on Student's t distribution (Student. The probable error of a mean. *Biometrika*
    6(1):1-25, 1908).

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
    >>> print(summarize(table, "accuracy", rows="kernel").round(3).to_string(index=False))
    kernel  mean  std  n  missing
    linear  0.92 0.02  3        0
       rbf  0.96 0.01  3        0
    """
    names, keys = listed(values), [*listed(rows), *listed(columns)]
    stat = known_statistic(stat)
    for role, chosen in (("values", names), ("rows", listed(rows))):
        if not chosen:
            raise InvalidColumnError(f"{role}: no column is named; name at least one")
    table = checked(table, names, keys, listed(over), "name it in rows, columns or over")
    summary = summarize_cells(table, names, keys, stat)
    if len(names) == 1:
        summary = summary.drop(columns="value")
    warn([*incomplete(summary, keys), *mixed_versions(table, keys, attempts)])
    summary.attrs = {"values": names, "columns": listed(columns), "stat": stat}
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


def summarize_cells(table: pd.DataFrame, values: Sequence[str], keys: list[str], stat: str) -> pd.DataFrame:
    """Summarize without warnings about incomplete cells.

    Parameters
    ----------
    table : pandas.DataFrame
        As returned by `checked`.
    values, keys : sequences of str
        Columns to summarize, and columns whose combinations are the cells.
    stat : str
        One of `STATISTICS`.

    Returns
    -------
    pandas.DataFrame
        As returned by `summarize`, but always with a column ``value``.

    Raises
    ------
    InvalidColumnError
        If a key has the name of a statistic.
    InvalidValueError
        If a value is not numeric.
    """
    for name in keys:
        if name in COLUMNS:
            raise InvalidColumnError(
                f"column {name!r} has the name of a statistic; rename it first: "
                f"table.rename(columns={{{name!r}: '{name}_'}})"
            )
    with np.errstate(invalid="ignore"):  # infinity - infinity is NaN, and a warning would not help
        return pd.concat([_summarize_one(table, value, keys, stat) for value in values], ignore_index=True)


def _summarize_one(table: pd.DataFrame, value: str, keys: list[str], stat: str) -> pd.DataFrame:
    codes, _ = levels(table, keys)
    runs = scores(table, value).groupby(codes)
    n = runs.count()
    statistics = {"mean": runs.mean(), "std": runs.std(ddof=1)}
    center, spread = STATISTICS[stat]
    if center == "median":
        statistics["median"] = runs.median()
    if "q1" in spread:
        q1, q3 = runs.quantile(0.25), runs.quantile(0.75)
        statistics |= {"q1": q1, "q3": q3, "iqr": (q3 - q1).where(np.isfinite(runs.sum()))}
    if "ci95" in spread:
        student = optional_import("scipy.stats", "stats").t
        statistics["ci95"] = student.ppf(0.975, n - 1) * statistics["std"] / np.sqrt(n)
    summary = pd.DataFrame({"value": value} | statistics | {"n": n, "missing": runs.size() - n})
    firsts = ~codes.duplicated()
    return table.loc[firsts, keys].set_axis(codes[firsts], axis="index").sort_index().join(summary)


def incomplete(summary: pd.DataFrame, keys: Sequence[str]) -> Iterator[str]:
    """Describe the cells that have fewer runs than others, or experiments without a result.

    Parameters
    ----------
    summary : pandas.DataFrame
        With the columns ``n``, ``missing``, `keys` and optionally ``value``.
    keys : sequence of str
        Columns whose combinations are the cells.

    Yields
    ------
    str
        One sentence, if there are such cells.
    """
    fullest = summary["n"].max()
    short = summary[(summary["n"] < fullest) | (summary["missing"] > 0)]
    if short.empty:
        return
    names = ["value", *keys] if "value" in summary else [*keys]
    cells = [
        f"{cell_name(names, cell)} (n={n}, missing {missing})"
        for *cell, n, missing in short[[*names, "n", "missing"]].itertuples(index=False, name=None)
    ]
    yield (
        f"{len(short)} of {len(summary)} cells {'is' if len(short) == 1 else 'are'} incomplete (fewer than {fullest} "
        f"runs, or experiments that are open, running, paused, in error or without a value): {some_of(cells, '; ')}"
    )
