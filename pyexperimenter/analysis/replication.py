"""Replication to a precision: where an interval is still too wide, and how many seeds it gets.

The rule stops when intervals are narrow, not when a difference is significant: a sequential procedure of fixed width
(Chow and Robbins, 1965, *On the asymptotic theory of fixed-width sequential confidence intervals for the mean*, Annals
of Mathematical Statistics 36(2)). As it looks several times, intervals of 97 % are needed for a coverage of about 95 %.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pyexperimenter.analysis.cells import as_text, cell_name, levels, numbers, optional_import, some_of, warn
from pyexperimenter.exceptions import InvalidColumnError
from pyexperimenter.grid.membership import identity
from pyexperimenter.jsonable import is_missing, unwrap

if TYPE_CHECKING:
    from pyexperimenter.config.model import ReplicationConfig

ALPHA = 0.03
"""The error of each interval, so that about 5 % of those with which the rule stops are wrong."""
_FEW = 20  # values below which their distribution matters
_SKEWED = 1.2  # sample skewness; of 10 to 20 normal values, about one sample in 20 has more


def half_widths(values: Any, intervals: int = 1) -> Any:
    """Return half the width of the intervals of means, each of the values in one row of an array.

    Parameters
    ----------
    values : numpy.ndarray
        Rows x values, at least two of each.
    intervals : int
        How many intervals have to hold together (Bonferroni).

    Returns
    -------
    numpy.ndarray
        One number a row, from Student's t at ``ALPHA``. Infinite if all values of a row are equal: that they vary is
        known, only not how much.
    """
    n = values.shape[1]
    quantile = optional_import("scipy.stats", "stats").t.ppf(1 - ALPHA / 2 / intervals, n - 1)
    spread = values.std(axis=1, ddof=1)
    return np.where(spread > 0, quantile * spread / math.sqrt(n), np.inf)


def look(table: pd.DataFrame, rule: ReplicationConfig, cells: Sequence[str], settings: Sequence[str]) -> pd.DataFrame:
    """Return the intervals, and how many seeds each cell needs in addition.

    Parameters
    ----------
    table : pandas.DataFrame
        Experiments, as returned by `get_table`.
    rule : ReplicationConfig
        The rule.
    cells : sequence of str
        Keyfields in whose combinations the intervals are looked at, such as the data set.
    settings : sequence of str
        Keyfields that differ within a cell, first the one that has the reference, such as the method.

    Returns
    -------
    pandas.DataFrame
        One row for each interval: the keyfields of the cell; ``of``, the setting or the difference of two; ``n``, the
        number of values; ``mean``; ``half_width``; ``state``, which is ``attained``, ``open`` if experiments of the
        cell are not finished, ``too wide``, or ``not attained`` if no more seeds are allowed; and ``add``, the number
        of new seeds of the cell.

    Raises
    ------
    InvalidColumnError
        If a cell does not have the reference, or has it with several settings.

    Warns
    -----
    UserWarning
        If failed experiments are left out, or if fewer than 20 values are skewed, repeated or at a bound: their
        intervals are too narrow.
    """
    groups, labels = levels(table, cells)
    found: list[dict[str, Any]] = []
    doubts: list[str] = []
    for number, label in enumerate(labels):
        rows, name = table[groups == number], cell_name(cells, label) or "all"
        is_open = ~rows["status"].isin(["done", "error"])
        values = numbers(rows, rule.of).where(rows["status"] == "done")
        if failed := int((values.isna() & ~is_open).sum()):
            doubts.append(f"{name}: {failed} experiments failed or have no {rule.of}, and are left out")
        intervals = list(_intervals(rows, values, rule, settings, name))
        wide = [len(sample) < rule.min or half > rule.ci95 for _, sample, half in intervals]
        n_seeds, add = rows[rule.over].nunique(), 0
        if any(wide) and not is_open.any():
            add = max(min(max(rule.min, n_seeds + rule.step), rule.max) - n_seeds, 0)
        for (of, sample, half), is_wide in zip(intervals, wide, strict=True):
            if doubt := _doubt(sample):
                doubts.append(f"{name}: the {len(sample)} values of {of} {doubt}, so the interval may be too narrow")
            state = "open" if is_open.any() else "attained" if not is_wide else "too wide" if add else "not attained"
            interval = {"of": of, "n": len(sample), "mean": sample.mean(), "half_width": half}
            found.append({**dict(zip(cells, label, strict=True)), **interval, "state": state, "add": add})
    warn(doubts)
    return pd.DataFrame(found)


def further_values(
    table: pd.DataFrame, found: pd.DataFrame, rule: ReplicationConfig, cells: Sequence[str], values: Sequence[Any]
) -> dict[Any, set[Any]]:
    """Return the values that a cell gets next, by the identity of the cell's values.

    Parameters
    ----------
    table, rule, cells
        As of `look`.
    found : pandas.DataFrame
        What it returned.
    values : sequence
        The values of the keyfield ``over``, in the order in which they are used.
    """
    known: dict[Any, set[Any]] = defaultdict(set)
    for *cell, value in _plain(table[[*cells, rule.over]]):
        known[identity(cell)].add(value)
    further: dict[Any, set[Any]] = defaultdict(set)
    for *cell, add in _plain(found[[*cells, "add"]]):
        lacking = (value for value in values if value not in known[identity(cell)])
        further[identity(cell)] = {*itertools.islice(lacking, add)}
    return further


def _plain(frame: pd.DataFrame) -> Iterator[list[Any]]:
    """Yield the distinct rows as Python values, None for NULL."""
    for row in frame.drop_duplicates().itertuples(index=False, name=None):
        yield [None if is_missing(value) else unwrap(value) for value in row]


def _intervals(
    rows: pd.DataFrame, values: pd.Series[float], rule: ReplicationConfig, settings: Sequence[str], cell: str
) -> Iterator[tuple[str, pd.Series[float], float]]:
    """Yield what each interval of a cell is of, its values, and half its width."""
    codes, labels = levels(rows, settings)
    wide = pd.DataFrame({"seed": rows[rule.over], "setting": codes, "value": values})
    by_seed = wide.pivot_table(index="seed", columns="setting", values="value", dropna=False, aggfunc="first")
    names = [as_text(label[0]) if len(settings) == 1 else cell_name(settings, label) for label in labels]
    pairs: list[tuple[int, int | None]] = [(code, None) for code in range(len(labels))]
    together = 1
    if rule.paired and rule.reference is not None:
        found = [code for code, label in enumerate(labels) if as_text(label[0]) == as_text(rule.reference)]
        if len(found) != 1:
            raise InvalidColumnError(
                f"reference: {len(found)} settings of {cell} have {settings[0]}={as_text(rule.reference)}, not one; it "
                f"has {some_of(names, '; ')}"
            )
        pairs = [(code, found[0]) for code in range(len(labels)) if code != found[0]]
    elif rule.paired:
        pairs = list(itertools.combinations(range(len(labels)), 2))
        together = len(pairs)
    for first, second in pairs:
        sample = by_seed[first] if second is None else by_seed[first] - by_seed[second]
        sample = sample.dropna()
        half = float(half_widths(sample.to_numpy()[None], together)[0]) if len(sample) > 1 else math.inf
        yield names[first] if second is None else f"{names[first]} - {names[second]}", sample, half


def _doubt(sample: pd.Series[float]) -> str:
    """Say why an interval of few values is too narrow; an empty string if nothing speaks for that."""
    n = len(sample)
    if not 2 < n < _FEW:
        return ""
    if sample.nunique() < 0.8 * n:
        return "repeat themselves"
    centered = sample - sample.mean()
    skewness = (centered**3).mean() / (centered**2).mean() ** 1.5
    if abs(skewness) > _SKEWED:
        return f"are skewed ({skewness:.1f})"
    extremes = (sample == sample.max()).sum() + (sample == sample.min()).sum()
    return "are at a bound" if extremes > 3 else ""


def remark_on(looks: Sequence[Mapping[str, Any]]) -> str:
    """Say how the number of seeds was chosen, from the records of the looks."""
    rule, intervals = looks[-1]["rule"], looks[-1]["intervals"]
    counts = sorted({interval["n"] for interval in intervals})
    missed = sum(interval["state"] == "not attained" for interval in intervals)
    what = f"{'differences' if rule['paired'] else 'means'} of {rule['of']}"
    now = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    return (
        f"The number of values of {rule['over']} depends on the results: {rule['min']} to {rule['max']}, in steps of "
        f"{rule['step']}, until the {1 - ALPHA:.0%} t intervals of {what} were at most ±{rule['ci95']:g} (looks: "
        f"{len(looks)}; at the last one {now}{f', not attained in {missed} of {len(intervals)}' if missed else ''}); "
        "p-values do not take this into account"
    )
