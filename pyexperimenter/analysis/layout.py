"""The layout of a summary as a table, independent of the format: where each cell goes, and which are bold or marked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd

from pyexperimenter.analysis.cells import NULL, Names, as_text, cell_name, decimals_for, levels, listed
from pyexperimenter.analysis.summary import COLUMNS, STATISTICS, known_statistic, statistic_name
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError
from pyexperimenter.jsonable import whole_number

# A setting for all values, or one for each value by its name.
Digits = int | str | Mapping[str, int | str]
Scale = float | Mapping[str, float]
Best = str | Mapping[str, str] | None

_DIGITS = 3
_MOST_DIGITS = 300
_INDISTINGUISHABLE = "indistinguishable"
_ALPHA = 0.05


@dataclass(frozen=True)
class Cell:
    """A cell with its formatted numbers; `spread` has none, one (±), or two (the ends of an interval)."""

    center: str
    spread: tuple[str, ...]
    bold: bool
    mark: str | None  # such as "3/5": runs that count / all runs; None if the cell has as many as any other


@dataclass(frozen=True)
class Layout:
    """A table before it is rendered; labels are not escaped.

    `header` has a line for each level, topmost first, each with one label for each column. None is an empty cell.
    """

    names: list[str]
    header: list[list[str]]
    rows: list[tuple[list[Any], list[Cell | None]]]
    note: str

    def spans(self, level: int) -> list[tuple[str, int]]:
        """Return labels and widths of a line of the header; equal neighbors with the same parent are merged."""
        columns = list(zip(*self.header[: level + 1], strict=True))
        lowest = level == len(self.header) - 1
        if lowest:
            return [(column[-1], 1) for column in columns]
        return [(column[-1], len(list(same))) for column, same in groupby(columns)]


def lay_out(
    summary: pd.DataFrame,
    columns: Names,
    stat: str | None,
    digits: Digits,
    best: Best,
    best_per: str | None,
    scale: Scale = 1,
) -> Layout:
    """Lay out a summary; for parameters and errors, see `rendering.to_latex`."""
    stat = known_statistic(stat or summary.attrs.get("stat", "mean±std"))
    (center, spread), what = STATISTICS[stat], statistic_name(stat)
    rows, columns = _axes(summary, columns, [center, *spread])
    summary = _with_value(summary, what)
    values = list(summary["value"].unique())
    _check_options(values, digits, best, best_per, scale)
    summary = _scaled(summary, [center, *spread], scale)
    tested = [value for value in values if _setting(best, value, None) == _INDISTINGUISHABLE]
    if tested:
        _check_tests(summary, tested, columns, best_per)

    row_codes, row_labels = levels(summary, rows)
    column_codes, column_labels = levels(summary, columns)
    rivals = row_codes if (best_per or ("row" if columns else "column")) == "row" else column_codes
    runs = summary["n"] + summary["missing"] + summary.get("unpaired", 0)
    complete, uneven = summary["missing"] == 0, summary.attrs.get("uneven", False)
    if not uneven:
        complete &= runs == runs.groupby([summary["value"], rivals]).transform("max")
    decimals = _decimals(summary, center, spread, digits)
    bold = _best(summary, center, complete, rivals, decimals, best)
    fullest = int(summary["n"].max())
    places = list(zip(row_codes, summary["value"], column_codes, strict=True))
    least = 0 if uneven else fullest
    cells = dict(zip(places, _cells(summary, runs, center, spread, decimals, bold, least), strict=True))
    if len(cells) < len(places):
        row, value, column = next(place for place in places if places.count(place) > 1)
        where = cell_name([*rows, *columns], [*row_labels[row], *column_labels[column]])
        raise InvalidValueError(f"the summary has several rows for {value} at {where}; keep one of them")

    taken = {(value, column) for _, value, column in places}
    shown = [(value, n) for value in values for n in range(len(column_labels)) if (value, n) in taken]
    header = [
        [_column_label(name, column_labels[column][level]) for _, column in shown] for level, name in enumerate(columns)
    ]
    if len(values) > 1 or not columns:
        header.insert(0, [as_text(value) for value, _ in shown])
    lines = [(list(row_labels[row]), [cells.get((row, *place)) for place in shown]) for row in row_codes.unique()]
    names = [as_text(name) for name in rows]
    note = _note(summary, what, values, fullest, any(cell.mark for cell in cells.values()))
    scaled = {value: factor for value in values if (factor := _setting(scale, value, 1)) != 1}
    if scaled:
        each = ", ".join(f"{as_text(value)} by {factor:g}" for value, factor in scaled.items())
        note += f" Multiplied: {each}."
    if tested:
        note += f" {_test_note(summary[summary['value'].isin(tested)], rivals, 'row' if columns else 'column')}"
    return Layout(names, header, lines, note)


def _cells(
    summary: pd.DataFrame,
    runs: pd.Series[int],
    center: str,
    spread: Sequence[str],
    decimals: Sequence[int],
    bold: list[bool],
    least: int,
) -> Iterator[Cell]:
    """Yield the cell of each row of the summary."""
    spreads = summary[list(spread)].to_numpy().tolist()  # itertuples of pandas 2 yields nothing without columns
    columns = (summary[name] for name in (center, "n", "missing"))
    for middle, n, missing, of, ends, places, is_best in zip(*columns, runs, spreads, decimals, bold, strict=True):
        yield Cell(
            center=as_number(middle, places),
            spread=() if math.isnan(middle) else tuple(as_number(end, places) for end in ends),
            bold=is_best,
            mark=f"{n}/{of}" if n < least or missing > 0 else None,
        )


def _decimals(summary: pd.DataFrame, center: str, spread: Sequence[str], digits: Digits) -> list[int]:
    """Return the number of decimal places of each row of the summary."""
    shown = list(spread) or ["std"] * ("std" in summary)
    spreads = summary[shown].to_numpy().tolist()
    settings = [_setting(digits, value, _DIGITS) for value in summary["value"]]
    return [
        decimals_of(middle, ends, setting)
        for middle, ends, setting in zip(summary[center], spreads, settings, strict=True)
    ]


def decimals_of(center: float, spread: Sequence[float], digits: int | str) -> int:
    """Return the number of decimal places of a cell; ``"auto"`` shows two significant digits of the spread.

    >>> decimals_of(0.5, [3.2e-5], "auto"), decimals_of(0.5, [0.41, 0.63], "auto"), decimals_of(0.5, [], "auto")
    (6, 2, 3)
    """
    if not isinstance(digits, str):
        return digits
    half = (spread[-1] - spread[0]) / 2 if len(spread) == 2 else spread[0] if spread else 0.0
    found = decimals_for(half, center)
    return _DIGITS if found is None else found


def _axes(summary: pd.DataFrame, columns: Names, statistics: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the keyfields of the rows and of the columns."""
    for name in (*statistics, "n", "missing", *listed(columns)):
        if name not in summary.columns:
            raise InvalidColumnError(
                f"the summary has no column {name!r}, only {', '.join(map(str, summary))}; pass what summarize() "
                "returns, and a statistic that it was asked for"
            )
    if columns is None:
        columns = [name for name in summary.attrs.get("columns", []) if name in summary.columns]
    rows = [str(name) for name in summary if name not in COLUMNS and name not in listed(columns)]
    if not rows:
        raise InvalidColumnError("columns: these are all keyfields of the summary; leave at least one for the rows")
    if summary.empty:
        raise InvalidValueError("the summary has no rows; check your filters")
    return rows, listed(columns)


def _with_value(summary: pd.DataFrame, title: str) -> pd.DataFrame:
    """Return the summary with a column ``value``, adding it if necessary."""
    summary = summary.reset_index(drop=True)
    names = summary.attrs.get("values", [])
    return summary if "value" in summary else summary.assign(value=names[0] if len(names) == 1 else title)


def _scaled(summary: pd.DataFrame, statistics: Sequence[str], scale: Scale) -> pd.DataFrame:
    """Return the summary with its statistics multiplied by the factor of each value."""
    factors = summary["value"].map(lambda value: _setting(scale, value, 1))
    numbers = [name for name in {*statistics, "std"} if name in summary]
    return summary.assign(**{name: summary[name] * factors for name in numbers})


def _check_options(values: Sequence[str], digits: Digits, best: Best, best_per: str | None, scale: Scale) -> None:
    for option, setting in (("digits", digits), ("best", best), ("scale", scale)):
        for name in setting if isinstance(setting, Mapping) else ():
            if name not in values:
                raise InvalidValueError(f"{option}: {name!r} is not in the summary; choose from {', '.join(values)}")
    if isinstance(best, str) and len(values) > 1:
        each = ", ".join(f"{value!r}: {best!r}" for value in values)
        raise InvalidValueError(f"best: {best!r} is for one value; say for each whether max or min is best: {{{each}}}")
    for value in values:
        if _setting(best, value, None) not in ("max", "min", _INDISTINGUISHABLE, None):
            raise InvalidValueError(
                f"best: {_setting(best, value, None)!r} is unknown; choose 'max', 'min', '{_INDISTINGUISHABLE}' or None"
            )
        check_digits(_setting(digits, value, _DIGITS))
        factor = _setting(scale, value, 1)
        if isinstance(factor, str) or not (math.isfinite(factor) and factor > 0):
            raise InvalidValueError(f"scale: {factor!r} is not a positive number; for percent, write 100")
    if best_per not in ("row", "column", None):
        raise InvalidValueError(f"best_per: {best_per!r} is unknown; choose 'row', 'column' or None")


def _check_tests(summary: pd.DataFrame, values: Sequence[str], columns: Sequence[str], best_per: str | None) -> None:
    """Check that the summary has tests of these values, and for the cells that the table compares."""
    better = summary.attrs.get("better")
    for value in values:
        if "p_best" not in summary or _setting(better, value, None) is None:
            raise InvalidValueError(
                f"best: the summary has no tests of {value}; tell summarize() what is better, as in better='max'"
            )
    if list(columns) != summary.attrs.get("columns") or best_per not in (None, "row" if columns else "column"):
        raise InvalidValueError(
            f"best: '{_INDISTINGUISHABLE}' compares the cells that summarize() tested: those of a row or, without "
            "columns, those of the column; leave out columns and best_per, and summarize by other columns instead"
        )


def check_digits(digits: int | str) -> None:
    """Check a number of decimal places.

    Raises
    ------
    InvalidValueError
        If it is not a whole number from 0 to 300, nor ``"auto"``.
    """
    if digits != "auto":
        whole_number("digits", digits, least=0, most=_MOST_DIGITS)


def _setting(option: Digits | Best | Scale, value: str, default: Any) -> Any:
    return option.get(value, default) if isinstance(option, Mapping) else option


def _best(
    summary: pd.DataFrame,
    center: str,
    complete: pd.Series[bool],
    codes: pd.Series[Any],
    decimals: Sequence[int],
    best: Best,
) -> list[bool]:
    """Return which cells are the best for their value among the cells with the same code, a row or a column.

    Cells that show the same number as the best one, or that the tests do not distinguish from it, are the best, too,
    but only if no run is missing: if the best number is that of an incomplete cell, the best is not known. If two cells
    show different numbers of digits, the smaller one counts.
    """
    bold = [False] * len(summary)
    for (value, _), group in summary[center].groupby([summary["value"], codes]):
        wanted = _setting(best, str(value), None)
        if wanted is None or group.isna().all():
            continue
        tested = wanted == _INDISTINGUISHABLE
        aim = _setting(summary.attrs["better"], str(value), None) if tested else wanted
        top = group.dropna().sort_values().index.tolist()[-1 if aim == "max" else 0]
        for place, number in zip(group.index.tolist(), group, strict=True):
            common = min(decimals[place], decimals[top])
            same = as_number(number, common) == as_number(group[top], common)
            if tested:
                same = complete[top] and summary["p_best"][place] > _ALPHA
            bold[place] = bool(complete[place] and same)
    return bold


def _test_note(summary: pd.DataFrame, codes: pd.Series[Any], line: str) -> str:
    """Say what is marked, and if there are too few units to distinguish anything."""
    splits = summary.attrs["splits"]
    test = "corrected resampled t tests" if splits else "Wilcoxon signed-rank tests"
    text = f"Marked: not distinguished from the best of the {line} ({test} with Holm's correction, p > {_ALPHA})."
    groups = summary.groupby([summary["value"], codes[summary.index]])
    cells, units = groups.size(), groups["n_units"].min()
    least = (cells * (cells - 1) / 2 * 2.0 ** (1 - units)).min()
    if splits or least <= _ALPHA:
        return text
    return f"{text} {units.max()} units are too few to distinguish any."


def as_number(number: float, digits: int) -> str:
    """Format a number for a cell."""
    if math.isnan(number):
        return NULL
    text = f"{number:.{digits}f}"
    return text.lstrip("-") if not text.strip("-0.") else text  # no -0.000


def _column_label(name: str, value: Any) -> str:
    """Return the label of a column: a string speaks for itself, a number needs its name."""
    return as_text(value) if isinstance(value, str) else f"{name} = {as_text(value)}"


def _note(summary: pd.DataFrame, what: str, values: Sequence[str], fullest: int, marked: bool) -> str:
    title = f"{as_text(values[0])}: {what}" if len(values) == 1 and values[0] != what else what[0].upper() + what[1:]
    up_to = "up to " if marked or summary["n"].min() < fullest else ""
    runs = f"{up_to}n = {fullest} run{'' if fullest == 1 else 's'}"
    if units := summary.attrs.get("units"):
        most, least = summary["n_units"].max(), summary["n_units"].min()
        number = f"{'up to ' if least < most else ''}{most} unit{'' if most == 1 else 's'}"
        runs = f"{number} ({', '.join(units)}), each the mean of its runs; {runs}"
    sentences = [f"{title} over {runs}", *summary.attrs.get("notes", [])]
    return " ".join(f"{sentence}." for sentence in sentences) + (" † Fewer results: results / runs." if marked else "")
