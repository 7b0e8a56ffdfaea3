"""DataFrames written to files for other programs. Each file is written completely or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pyexperimenter.analysis.cells import optional_import
from pyexperimenter.exceptions import InvalidValueError
from pyexperimenter.jsonable import jsonable, records
from pyexperimenter.paths import absolute_path, written_whole

if TYPE_CHECKING:
    import pandas as pd

_OF_ONE_TYPE = {str, bytes, bool, float, date}  # in Parquet, however large the values are
_LONGEST_CELL = 32_767  # characters in Excel
_MOST_ROWS = 1_048_575  # of an Excel sheet, below the header
_BEGINS_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # not allowed in XML, and so in Excel files


def export_frame(
    frame: pd.DataFrame, target: str | Path | TextIO, kind: str | None = None, escape_formulas: bool = False
) -> None:
    """Write a DataFrame to a file.

    Parameters
    ----------
    frame : pandas.DataFrame
        The data; the index is not written.
    target : str, Path or text file
        The file. An open text file is possible for CSV and JSON.
    kind : {"csv", "json", "parquet", "xlsx"}, optional
        The format. The default is the suffix of the file's name.

        - CSV: UTF-8 with a header; missing values are empty.
        - JSON: a list of objects, one per line; missing and infinite values are null.
        - Parquet: with types; needs the extra ``parquet``.
        - Excel: needs the extra ``excel``; strings that are too long for a cell are cut and end in ``…``.

        Values of JSON columns are written as JSON text in all formats but JSON.
    escape_formulas : bool
        Put ``'`` before strings that a spreadsheet would read from a CSV file as formulas: those that begin with ``=``,
        ``+``, ``-``, ``@``, a tab or a carriage return, and are not numbers. In Excel files, no string is a formula.

    Raises
    ------
    InvalidValueError
        If the format is unknown or cannot hold so much data, or if the directory does not exist.
    PyExperimenterError
        If the extra is missing.
    OSError
        If the file cannot be written. An existing file is left unchanged.
    """
    export_parts([frame], target, kind, escape_formulas)


def export_parts(
    parts: Iterable[pd.DataFrame], target: str | Path | TextIO, kind: str | None, escape_formulas: bool
) -> int:
    """Do the same with a DataFrame in parts with the same columns and types, and return the number of rows.

    One part is in memory at a time, except for Excel. `parts` is iterated more than once.
    """
    path = absolute_path(target) if isinstance(target, (str, Path)) else None
    kind = kind or (path.suffix[1:].lower() if path is not None else "csv")
    if kind not in _WRITERS or (path is None and kind not in _TEXT_FORMATS):
        raise InvalidValueError(
            f"{kind or str(target)!r} is not a format for this file; choose from {', '.join(_WRITERS)}"
        )
    write = _WRITERS[kind]
    if escape_formulas and kind == "csv":
        parts = map(_escaped, parts)
    if path is None:
        return write(parts, target)
    if not path.parent.is_dir():
        raise InvalidValueError(f"the directory {path.parent} does not exist; create it first")
    mode, encoding = "w" if kind in _TEXT_FORMATS else "wb", _TEXT_FORMATS.get(kind, {})
    if path.exists() and not path.is_file():  # a pipe, or a device such as /dev/null, which root could replace
        with open(path, mode, **encoding) as file:
            return write(parts, file)
    with written_whole(path) as temporary, open(temporary, mode, **encoding) as file:
        return write(parts, file)


def _write_csv(parts: Iterable[pd.DataFrame], file: Any) -> int:
    rows = 0
    for number, part in enumerate(parts):
        _flat(part).to_csv(file, index=False, header=not number, lineterminator="\n")
        rows += len(part)
    return rows


def _write_json(parts: Iterable[pd.DataFrame], file: Any) -> int:
    rows = 0
    file.write("[")
    for part in parts:
        for row in records(part):
            file.write(f"{',' if rows else ''}\n{json.dumps(row, ensure_ascii=False)}")
            rows += 1
    file.write("\n]\n")
    return rows


def _write_parquet(parts: Iterable[pd.DataFrame], file: Any) -> int:
    pyarrow = optional_import("pyarrow", "parquet")
    parquet = optional_import("pyarrow.parquet", "parquet")
    schema, whole = _schema_of(parts, pyarrow)
    rows = 0
    with parquet.ParquetWriter(file, schema) as writer:
        for part in parts:
            flat = _flat(part)
            for name in whole.columns:
                flat[name] = whole[name].iloc[rows : rows + len(part)].array
            writer.write_table(pyarrow.Table.from_pandas(flat, schema, preserve_index=False))
            rows += len(part)
    return rows


def _schema_of(parts: Iterable[pd.DataFrame], pyarrow: Any) -> tuple[Any, pd.DataFrame]:
    """Return the schema of all parts together, and the columns whose type cannot be seen in a part."""
    import pandas as pd

    samples: dict[Any, pd.Series[Any]] = {}
    kinds: dict[Any, set[type]] = {}
    for part in parts:
        for name, column in _flat(part).items():
            found = kinds.setdefault(name, set())
            if not found:
                samples[name] = column
            if part[name].dtype == object:
                found |= {*map(type, column.dropna())}
    several = [name for name, found in kinds.items() if len(found) > 1 or found - _OF_ONE_TYPE]
    whole = _flat(pd.concat([part[several] for part in parts], ignore_index=True)) if several else pd.DataFrame()
    samples |= dict(whole.items())
    types = {name: pyarrow.Array.from_pandas(column).type for name, column in samples.items()}
    empty = pd.DataFrame({name: column.iloc[:0] for name, column in samples.items()})
    schema = pyarrow.Table.from_pandas(empty, pyarrow.schema(types), preserve_index=False).schema
    # As pandas does, for its read_parquet.
    attrs = {"PANDAS_ATTRS": json.dumps(part.attrs)} if part.attrs else {}
    return schema.with_metadata(schema.metadata | attrs), whole


def _write_excel(parts: Iterable[pd.DataFrame], file: Any) -> int:
    optional_import("openpyxl", "excel")
    import pandas as pd

    frame = pd.concat(parts, ignore_index=True)
    if len(frame) > _MOST_ROWS:
        raise InvalidValueError(
            f"the table has {len(frame)} rows, but an Excel sheet holds {_MOST_ROWS}; write CSV instead"
        )
    flat = _flat(frame)
    for name in flat.columns:
        flat[name] = flat[name].map(_excel_text)
    with pd.ExcelWriter(file, engine="openpyxl") as writer:
        flat.to_excel(writer, index=False)
        for row in writer.book.active.iter_rows():
            for cell in row:
                if isinstance(cell.value, str) and cell.value:
                    cell.data_type = "s"  # and not what it looks like: a formula, or an error such as #N/A
    return len(flat)


_WRITERS: dict[str, Callable[[Iterable[Any], Any], int]] = {
    "csv": _write_csv,
    "json": _write_json,
    "parquet": _write_parquet,
    "xlsx": _write_excel,
}
_TEXT_FORMATS: dict[str, dict[str, Any]] = {name: {"encoding": "utf-8", "newline": ""} for name in ("csv", "json")}


def _flat(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a copy with lists and dicts as JSON text, and columns of mixed types as text."""
    import pandas as pd

    flat = frame.copy()
    for name in [name for name, dtype in flat.dtypes.items() if dtype.name == "object"]:
        present = flat[name].notna()
        values = [
            json.dumps(jsonable(value)) if isinstance(value, (list, dict)) else value if there else None
            for value, there in zip(flat[name], present, strict=True)
        ]
        kinds = {*map(type, values)} - {type(None)}
        if len(kinds) > 1:
            values = [None if value is None else str(value) for value in values]
        # Not what pandas would make of them: of integers and None, it makes floats.
        dtype = str if kinds == {str} or len(kinds) > 1 else object
        flat[name] = pd.Series(values, flat.index, dtype)
    return flat


def _escaped(frame: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    flat = _flat(frame)
    for name in [name for name, dtype in flat.dtypes.items() if dtype.name in ("object", "str")]:
        flat[name] = pd.Series(map(_escaped_text, flat[name]), flat.index, object)
    return flat


def _escaped_text(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith(_BEGINS_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def _excel_text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value)
    return text if len(text) <= _LONGEST_CELL else f"{text[: _LONGEST_CELL - 1]}…"
