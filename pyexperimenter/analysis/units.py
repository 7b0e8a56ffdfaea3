"""From runs to units, the independent pieces of evidence behind a number: one value for each cell and unit.

Runs of one data set with different seeds are not independent evidence about data sets. So they are averaged first, and
means, intervals and tests use one value per data set. Summaries, tests and figures all get their values from here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from pyexperimenter.analysis.cells import SEED, Names, cell_name, keyfields_of, levels, listed, numbers, some_of
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError

Failures = str | float | Mapping[str, str | float]
"""``"error"``, ``"drop"``, ``"worst"`` or a number, for all values or for each value by its name."""


@dataclass(frozen=True)
class Rules:
    """How runs count.

    Attributes
    ----------
    unit : tuple of str
        Keyfields whose combinations are the units; empty if nothing is declared.
    failures : str, float or mapping
        What runs without a usable result count as.
    pairing : {"common", "all"}
        Whether to average only over what all cells have in common.
    test_share : float or None
        The share of a data set in the test part of its random splits.
    uneven : bool
        Whether the grid has more runs for some cells than for others, because of conditions.
    """

    unit: tuple[str, ...]
    failures: Failures
    pairing: str
    test_share: float | None
    uneven: bool = False

    def replicates(self, over: Sequence[str]) -> list[str]:
        """Return the keyfields whose combinations are the units of a cell; none if each run is one.

        Without a declared unit, or if each cell has only one, everything but the seed makes units.
        """
        if SEED in self.unit:
            return []
        return [name for name in over if name in self.unit] or [name for name in over if name != SEED]

    def split_ratio(self, over: Sequence[str]) -> float:
        """Return the sizes of test / training part if `over` are random splits of one data set, and 0 if not.

        Raises
        ------
        InvalidValueError
            If this cannot be known.
        """
        if self.test_share is None or (SEED not in self.unit and set(over) & set(self.unit)):
            return 0.0
        if len(over) > 1 if self.unit else set(over) - {SEED}:
            raise InvalidValueError(
                f"test_share: it is not known whether runs that differ in {', '.join(over)} are splits of one data "
                "set or different data sets; declare the keyfield of the data set, as in unit='dataset', and average "
                "over the seeds"
            )
        return self.test_share / (1 - self.test_share)

    def remarks(self, corrected: bool, runs: bool) -> list[str]:
        """Return what a reader of intervals and tests has to know, in sentences without a period.

        `corrected` says whether the variance is that of splits, and `runs` whether single runs count as units.
        """
        shared = f"The variance is corrected for splits that share training data (test share {self.test_share})"
        reach = "Each run counts as a unit: the conclusion holds for these data sets only"
        return [shared] * corrected + [reach] * runs


def rules_of(
    table: pd.DataFrame,
    values: Sequence[str],
    unit: Names = None,
    failures: Failures = "error",
    pairing: str | None = None,
    test_share: float | None = None,
) -> Rules:
    """Check how runs should count. What is not given is taken from the ``attrs`` that `get_table` gives its tables.

    Raises
    ------
    InvalidColumnError
        If a unit is not a keyfield.
    InvalidValueError
        If another argument is not valid.
    """
    units = listed(unit) or listed(table.attrs.get("unit"))
    keyfields = keyfields_of(table)
    for name in units:
        if name not in keyfields and name != SEED:
            raise InvalidColumnError(f"unit: {name!r} is not a keyfield; choose from {', '.join(keyfields)}")
    # In complete blocks, cells to compare have the same blocks, and those that differ are other blocks.
    pairing = pairing or ("all" if table.attrs.get("complete_blocks") else "common")
    if pairing not in ("common", "all"):
        raise InvalidValueError(f"pairing: {pairing!r} is unknown; choose 'common' or 'all'")
    share = table.attrs.get("test_share") if test_share is None else test_share
    if share is not None and not (_is_number(share) and 0 < share < 1):
        raise InvalidValueError(f"test_share: {share!r} is not between 0 and 1; for 30 % of the data, give 0.3")
    each = failures if isinstance(failures, Mapping) else dict.fromkeys(values, failures)
    for name, rule in each.items():
        if name not in values:
            raise InvalidValueError(f"failures: {name!r} is not summarized; choose from {', '.join(values)}")
        if rule not in ("error", "drop", "worst") and not _is_number(rule):
            raise InvalidValueError(
                f"failures: {rule!r} is unknown; choose 'error', 'drop', 'worst' or a number, such as 0.0"
            )
    if len(values) > 1 and not isinstance(failures, str | Mapping):
        raise InvalidValueError(
            f"failures: {failures} is for one value; give a number for each: "
            f"{{{', '.join(f'{name!r}: ...' for name in values)}}}"
        )
    return Rules(tuple(units), failures, pairing, share, table.attrs.get("uneven", False))


@dataclass(frozen=True)
class Units:
    """The values of the units, and how they came about.

    Attributes
    ----------
    cells : pandas.DataFrame
        A row for each cell, sorted, with the keys and the counts ``n`` (runs behind its values), ``missing`` (runs
        without a result), ``failed``, ``open``, ``nan`` (done, but without a value), ``unpaired`` (left out, as
        another cell lacks its counterpart) and ``n_units``.
    values : pandas.Series
        (number of the cell, number of the unit) -> mean over the runs of the unit. A unit has the same number in all
        cells.
    notes : list of str
        What a reader has to know about them, in sentences without a period.
    """

    cells: pd.DataFrame
    values: pd.Series[float]
    notes: list[str]


def units_of(
    table: pd.DataFrame,
    value: str,
    keys: Sequence[str],
    over: Sequence[str],
    rules: Rules,
    within: Sequence[str] = (),
    worst: float | None = None,
) -> Units:
    """Average the runs of each unit in each cell.

    Parameters
    ----------
    table : pandas.DataFrame
        As returned by `checked`.
    value : str
        Column to average.
    keys : sequence of str
        Columns whose combinations are the cells.
    over : sequence of str
        Keyfields to average over.
    rules : Rules
        How runs count.
    within : sequence of str
        Keys that cells must share to be compared. With ``pairing="common"``, such cells are averages over the same
        combinations of `over`. Keys that are units or not keyfields are always among them.
    worst : float, optional
        What a run counts as that gets the worst rank.

    Raises
    ------
    InvalidValueError
        If the value is not numeric, or if runs failed and `rules` do not say what they count as.
    """
    cells, labels = levels(table, keys)
    result = numbers(table, value).where(table["status"] == "done")
    counts = pd.DataFrame(
        {
            "failed": table["status"] == "error",
            "open": ~table["status"].isin(["done", "error"]),
            "nan": (table["status"] == "done") & result.isna(),
        }
    )
    failed = counts["failed"] | counts["nan"]
    rule = rules.failures.get(value, "error") if isinstance(rules.failures, Mapping) else rules.failures
    if rule == "worst":
        if worst is None:
            raise InvalidValueError(
                "failures: 'worst' is a rank, of which there is no mean; give the number that a failed run counts as: "
                f"failures={{{value!r}: 0.0}}"
            )
        rule = worst
    if rule == "error" and failed.any():
        raise InvalidValueError(_refusal(value, counts, cells, keys, labels))
    if not isinstance(rule, str):
        result = result.mask(failed, rule)

    alike = [name for name in keys if name in within or name in rules.unit or name not in keyfields_of(table)]
    group, _ = levels(table, alike)
    used = result.notna()
    if rules.pairing == "common":
        used &= _in_common(cells[used], group, levels(table, over)[0])
    unit = levels(table, rules.replicates(over) or over)[0]
    with np.errstate(invalid="ignore"):  # infinity - infinity is NaN
        values = result[used].groupby([cells[used].rename("cell"), unit[used].rename("unit")]).mean()

    rows = cells.value_counts().sort_index()
    fewer = rows.groupby(group.groupby(cells).first()).transform("max") - rows
    if rules.uneven:
        fewer *= 0
    counts = counts.assign(n=used, unpaired=result.notna() & ~used).groupby(cells).sum()
    counts["missing"] = rows - counts["n"] - counts["unpaired"]
    counts["n_units"] = values.groupby(level="cell").size().reindex(counts.index, fill_value=0)
    firsts = ~cells.duplicated()
    shown = table.loc[firsts, list(keys)].set_axis(cells[firsts], axis="index").sort_index()
    shown = shown.join(counts[["n", "missing", "failed", "open", "nan", "unpaired", "n_units"]])
    return Units(shown, values, list(_notes(shown, fewer, keys, over, rule, worst)))


def _refusal(
    value: str, counts: pd.DataFrame, cells: pd.Series[int], keys: Sequence[str], labels: Sequence[Sequence[object]]
) -> str:
    what = [f"{counts['failed'].sum()} failed"] if counts["failed"].any() else []
    what += [f"{counts['nan'].sum()} finished without a number"] if counts["nan"].any() else []
    lacking = (counts["failed"] | counts["nan"]).groupby(cells).agg(["sum", "size"])
    lacking = lacking[lacking["sum"] > 0]
    where = (
        f"{cell_name(keys, labels[cell]) or 'all'} ({number} of {size})"
        for cell, number, size in lacking.itertuples(name=None)
    )
    return (
        f"{value}: of {len(counts)} runs, {' and '.join(what)}: {some_of(where, '; ')}. Say what they count as: "
        f"failures={{{value!r}: 0.0}}, or another number; failures='worst' for the worst rank in a test; or "
        "failures='drop' to leave them out, which favors what fails where it is bad"
    )


def _in_common(cells: pd.Series[int], alike: pd.Series[int], combination: pd.Series[int]) -> pd.Series[bool]:
    """Return which rows have a counterpart in each cell with which their cell is compared.

    Cells without any row are not compared: nothing would remain. A row that is missing here is False.
    """
    group = alike[cells.index]
    having = cells.groupby([group, combination[cells.index]]).transform("size")  # a cell has a combination once
    return (having == cells.groupby(group).transform("nunique")).reindex(alike.index, fill_value=False)


def _notes(
    cells: pd.DataFrame,
    fewer: pd.Series[int],
    keys: Sequence[str],
    over: Sequence[str],
    rule: str | float,
    worst: float | None,
) -> Iterator[str]:
    rows = cells["n"] + cells["missing"] + cells["unpaired"]

    def listed_in(numbers: pd.Series[int], of: pd.Series[int]) -> str:
        lines = zip(cells[list(keys)].to_numpy(dtype=object).tolist(), numbers, of, strict=True)
        return some_of(
            (f"{cell_name(keys, cell) or 'all'} ({number} of {size})" for cell, number, size in lines if number), "; "
        )

    failed = cells["failed"] + cells["nan"]
    if failed.any():
        counted = "left out" if rule == "drop" else "ranked worst" if rule == worst else f"counted as {rule:g}"
        yield f"{_runs(failed.sum())} without a result (failed or NaN) {counted}: {listed_in(failed, rows)}"
    if cells["open"].any():
        yield f"{_runs(cells['open'].sum())} still open: {listed_in(cells['open'], rows)}"
    if fewer.any():
        yield f"{_runs(fewer.sum())} fewer than in other cells: {listed_in(fewer, rows + fewer)}"
    if cells["unpaired"].any():
        yield (
            f"{_runs(cells['unpaired'].sum())} left out because other cells lack a result for the same "
            f"{', '.join(over)}: {listed_in(cells['unpaired'], rows)}"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not math.isnan(value)


def _runs(number: Any) -> str:
    return f"{number} run{'' if number == 1 else 's'}"
