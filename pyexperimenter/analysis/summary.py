"""Many runs -> one line a cell: what the runs of a cell have in common, and how many of them there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pyexperimenter.analysis.cells import (
    Names,
    as_text,
    cell_name,
    checked,
    levels,
    listed,
    optional_import,
    scores,
    some_of,
    warn,
)
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError

STATISTICS: dict[str, tuple[str, str | None]] = {
    "mean±std": ("mean", "std"),
    "mean±ci95": ("mean", "ci95"),
    "ci95": ("mean", "ci95"),
    "median±iqr": ("median", "iqr"),
    "mean": ("mean", None),
    "median": ("median", None),
}
"""Name -> the column that stands for a cell, and the one for its spread."""

COLUMNS = ("value", "mean", "std", "median", "iqr", "ci95", "n", "missing")
"""What a summary may have beside the keyfields."""

_NO_COMMIT = "an unknown git commit"


def summarize(
    table: pd.DataFrame,
    values: str | Sequence[str],
    rows: str | Sequence[str],
    columns: Names = None,
    over: Names = "seed",
    stat: str = "mean±std",
    attempts: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Summarise the results of each cell, and tell how complete they are.

    Parameters
    ----------
    table : pandas.DataFrame
        Experiments as `get_table` returns them; rows may be left out.
    values : str or sequence of str
        Resultfields (or other columns of numbers) to summarise. Booleans are 0 and 1, so their mean is a share.
    rows, columns : str or sequence of str
        Columns, keyfields as a rule, whose combinations are the cells. NULL is a value like others: a group of its
        own. The two differ only when the summary is rendered.
    over : str or sequence of str, optional
        Keyfields averaged over.
    stat : str
        ``"mean±std"``, ``"mean±ci95"`` (or ``"ci95"``), ``"median±iqr"``, ``"mean"`` or ``"median"``; ``+-`` may
        stand for ``±``.
    attempts : pandas.DataFrame, optional
        Executions as `get_attempts` returns them. With them it is checked that one version of the code made it all.

    Returns
    -------
    pandas.DataFrame
        Tidy, one line a cell and value, sorted by the cells' values with NULL last:

        - the columns of `rows` and `columns`;
        - ``value``, the name of the resultfield, if there are several;
        - ``mean`` and ``std``, the standard deviation of a sample (``ddof=1``), NaN for a single run;
        - what else `stat` is made of: ``median``, ``iqr`` (third less first quartile, interpolated linearly as
          `numpy.quantile` does) or ``ci95`` (half the width of Student's 95 % confidence interval of the mean);
        - ``n``, the runs that are done and have the value: all statistics are theirs alone;
        - ``missing``, the cell's other rows: open, running, paused, in error, or without the value.

        Its ``attrs`` remember the layout for `to_latex`, `to_markdown` and `to_html`.

    Raises
    ------
    InvalidColumnError
        If a column is not there, has two roles or a statistic's name, or if a keyfield that is named nowhere takes
        several values in a cell: nothing is averaged over silently.
    InvalidValueError
        If a value is not numeric, `stat` is not known, or the table is empty or repeats experiments.
    PyExperimenterError
        If SciPy is missing, which ``ci95`` needs.

    Warns
    -----
    UserWarning
        One, if cells have open or failed rows, or fewer runs than others, or if done experiments of different git
        commits, with and without uncommitted changes, or of different versions of this library are compared.

    Notes
    -----
    The confidence interval is that of Student (The probable error of a mean, *Biometrika* 6(1), 1-25, 1908).

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
    warn([*incomplete(summary, keys), *_mixed_code(table, keys, attempts)])
    summary.attrs = {"values": names, "columns": listed(columns), "stat": stat}
    return summary


def known_statistic(stat: str) -> str:
    """Return the name by which a statistic is known here.

    Raises
    ------
    InvalidValueError
        If there is no such statistic.
    """
    stat = stat.replace("+-", "±").replace(" ", "")
    if stat not in STATISTICS:
        raise InvalidValueError(f"stat: {stat!r} is not known; known are {', '.join(STATISTICS)}")
    return stat


def summarize_cells(table: pd.DataFrame, values: Sequence[str], keys: list[str], stat: str) -> pd.DataFrame:
    """Make a summary without a word on how complete it is.

    Parameters
    ----------
    table : pandas.DataFrame
        As from `checked`.
    values, keys : sequences of str
        What is summarised, and what makes the cells.
    stat : str
        One of `STATISTICS`.

    Returns
    -------
    pandas.DataFrame
        As from `summarize`, with a column ``value`` in any case.

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
                f"column {name!r} has the name of a statistic; rename it before: "
                f"table.rename(columns={{{name!r}: '{name}_'}})"
            )
    with np.errstate(invalid="ignore"):  # infinity less infinity is not a number, which is all there is to say
        return pd.concat([_summarize_one(table, value, keys, stat) for value in values], ignore_index=True)


def _summarize_one(table: pd.DataFrame, value: str, keys: list[str], stat: str) -> pd.DataFrame:
    codes, _ = levels(table, keys)
    runs = scores(table, value).groupby(codes)
    n = runs.count()
    statistics = {"mean": runs.mean(), "std": runs.std(ddof=1)}
    for name in STATISTICS[stat]:
        if name == "median":
            statistics[name] = runs.median()
        elif name == "iqr":
            statistics[name] = runs.quantile(0.75) - runs.quantile(0.25)
        elif name == "ci95":
            student = optional_import("scipy.stats", "stats").t
            statistics[name] = student.ppf(0.975, n - 1) * statistics["std"] / np.sqrt(n)
    summary = pd.DataFrame({"value": value} | statistics | {"n": n, "missing": runs.size() - n})
    firsts = ~codes.duplicated()
    return table.loc[firsts, keys].set_axis(codes[firsts], axis="index").sort_index().join(summary)


def incomplete(summary: pd.DataFrame, keys: Sequence[str]) -> Iterator[str]:
    """Name the cells that have fewer runs than others, or rows without a result.

    Parameters
    ----------
    summary : pandas.DataFrame
        With the columns ``n``, ``missing``, perhaps ``value``, and `keys`.
    keys : sequence of str
        Columns that make the cells.

    Yields
    ------
    str
        One sentence, if there are any.
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
        f"{len(short)} of {len(summary)} cells have fewer than {fullest} runs, or rows that are open, running, paused, "
        f"in error or without a value: {some_of(cells, '; ')}"
    )


def _mixed_code(table: pd.DataFrame, keys: Sequence[str], attempts: pd.DataFrame | None) -> Iterator[str]:
    """Tell of experiments that were executed with different code; one that nobody recorded counts as different."""
    if attempts is None:
        return
    finished = attempts[attempts["outcome"] == "done"].sort_values("ID").drop_duplicates("experiment_id", keep="last")
    finished = finished.set_index("experiment_id")
    commits = ("git commit " + finished["git_commit"].astype("string").str[:10]).fillna(_NO_COMMIT)
    dirty = finished["git_dirty"].eq(True).fillna(False).astype(bool)
    used = table[table["status"] == "done"]
    for versions in (
        commits + dirty.map({True: " with uncommitted changes", False: ""}),
        finished["library_version"].map(lambda version: f"library version {as_text(version)}"),
    ):
        recorded = used["ID"].map(versions).dropna()  # without an attempt: tables of the predecessor
        counts = recorded.value_counts()
        if len(counts) > 1:
            yield "different code is compared: " + "; ".join(
                _version(used, keys, recorded, version, common=version == counts.index[0]) for version in counts.index
            )


def _version(table: pd.DataFrame, keys: Sequence[str], recorded: pd.Series[Any], version: str, common: bool) -> str:
    of_it = table.loc[recorded.index[recorded == version]]
    where = "" if common else f", at {some_of((cell_name(keys, cell) for cell in levels(of_it, keys)[1]), '; ')}"
    return f"{version} ({len(of_it)} experiment{'' if len(of_it) == 1 else 's'}{where})"
