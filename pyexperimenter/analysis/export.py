"""DataFrames written to files for other programs. Each file is written completely or not at all."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pyexperimenter.analysis.cells import optional_import
from pyexperimenter.exceptions import InvalidValueError
from pyexperimenter.jsonable import jsonable, records
from pyexperimenter.paths import absolute_path

if TYPE_CHECKING:
    import pandas as pd

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
    path = absolute_path(target) if isinstance(target, (str, Path)) else None
    kind = kind or (path.suffix[1:].lower() if path is not None else "csv")
    if kind not in _WRITERS or (path is None and kind not in _TEXT_FORMATS):
        raise InvalidValueError(
            f"{kind or str(target)!r} is not a format for this file; choose from {', '.join(_WRITERS)}"
        )
    write = _WRITERS[kind]
    if escape_formulas and kind == "csv":
        frame = _flat(frame).map(_escaped)
    if path is None:
        write(frame, target)
        return
    if not path.parent.is_dir():
        raise InvalidValueError(f"the directory {path.parent} does not exist; create it first")
    mode, encoding = "w" if kind in _TEXT_FORMATS else "wb", _TEXT_FORMATS.get(kind, {})
    if path.exists() and not path.is_file():  # a pipe, or a device such as /dev/null, which root could replace
        with open(path, mode, **encoding) as file:
            write(frame, file)
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=f".{kind}")
    try:
        with os.fdopen(handle, mode, **encoding) as file:
            write(frame, file)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    """Return the umask of the process, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_csv(frame: pd.DataFrame, file: Any) -> None:
    _flat(frame).to_csv(file, index=False, lineterminator="\n")


def _write_json(frame: pd.DataFrame, file: Any) -> None:
    lines = (json.dumps(row, ensure_ascii=False) for row in records(frame))
    file.write("[")
    for number, line in enumerate(lines):
        file.write(f"{',' if number else ''}\n{line}")
    file.write("\n]\n")


def _write_parquet(frame: pd.DataFrame, file: Any) -> None:
    optional_import("pyarrow", "parquet")
    _flat(frame).to_parquet(file, index=False)


def _write_excel(frame: pd.DataFrame, file: Any) -> None:
    optional_import("openpyxl", "excel")
    if len(frame) > _MOST_ROWS:
        raise InvalidValueError(
            f"the table has {len(frame)} rows, but an Excel sheet holds {_MOST_ROWS}; write CSV instead"
        )
    flat = _flat(frame)
    for name in flat.columns:
        flat[name] = flat[name].map(_excel_text)
    import pandas as pd

    with pd.ExcelWriter(file, engine="openpyxl") as writer:
        flat.to_excel(writer, index=False)
        for row in writer.book.active.iter_rows():
            for cell in row:
                if isinstance(cell.value, str) and cell.value:
                    cell.data_type = "s"  # and not what it looks like: a formula, or an error such as #N/A


_WRITERS: dict[str, Callable[[Any, Any], None]] = {
    "csv": _write_csv,
    "json": _write_json,
    "parquet": _write_parquet,
    "xlsx": _write_excel,
}
_TEXT_FORMATS: dict[str, dict[str, Any]] = {name: {"encoding": "utf-8", "newline": ""} for name in ("csv", "json")}


def _flat(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a copy with lists and dicts as JSON text, and columns of mixed types as text."""
    flat = frame.copy()
    for name in [name for name, dtype in flat.dtypes.items() if dtype.name == "object"]:
        values = flat[name].map(lambda value: json.dumps(jsonable(value)) if isinstance(value, (list, dict)) else value)
        mixed = len({type(value) for value in values.dropna()}) > 1
        flat[name] = values.map(str, na_action="ignore") if mixed else values
    return flat


def _escaped(value: Any) -> Any:
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
