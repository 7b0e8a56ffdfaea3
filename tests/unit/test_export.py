"""A DataFrame is written to a file in full, or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest

from pyexperimenter.analysis import export_frame
from pyexperimenter.exceptions import InvalidValueError


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "ID": pd.Series([1, 2, 3], dtype="int64"),
            "depth": pd.Series([3, None, 2**53 + 1], dtype="Int64"),
            "stop": pd.Series([True, None, False], dtype="boolean"),
            "loss": [0.1 + 0.2, None, float("inf")],
            "options": pd.Series([{"a": [1, None]}, None, ["ü", 2.5]], dtype=object),
            "mixed": pd.Series(["x", 1, None], dtype=object),
            "text": ['a,"b"\nc', None, "\x1bred"],
            "end_date": pd.Series([datetime(2024, 1, 2, 3, 4, 5, 678901), None, None], dtype="datetime64[us]"),
        }
    )


TEXTS = ["=1+1", "+x", "-x", "@a", "\t=1", "-1.5", "#N/A", "TRUE", "007", "1e5", "plain", ""]


def test_a_text_is_a_text_in_excel(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    export_frame(pd.DataFrame({"=text": TEXTS, "number": range(len(TEXTS))}), tmp_path / "f.xlsx")
    rows = openpyxl.load_workbook(tmp_path / "f.xlsx").active.iter_rows()
    header, *cells = [[(cell.value, cell.data_type) for cell in row] for row in rows]
    assert header == [("=text", "s"), ("number", "s")]
    assert cells[:-1] == [[(text, "s"), (number, "n")] for number, text in enumerate(TEXTS[:-1])]


def test_formulas_are_escaped_in_csv_if_asked() -> None:
    frame = pd.DataFrame({"text": TEXTS[:-1], "number": -1.5})
    file, escaped = io.StringIO(), io.StringIO()
    export_frame(frame, file)
    export_frame(frame, escaped, escape_formulas=True)
    assert [row["text"] for row in csv.DictReader(file.getvalue().splitlines())] == TEXTS[:-1]
    rows = list(csv.DictReader(escaped.getvalue().splitlines()))
    assert [row["text"] for row in rows] == ["'=1+1", "'+x", "'-x", "'@a", "'\t=1", *TEXTS[5:-1]]
    assert {row["number"] for row in rows} == {"-1.5"}


def test_json(frame: pd.DataFrame, tmp_path: Path) -> None:
    export_frame(frame, tmp_path / "f.json")
    text = (tmp_path / "f.json").read_text(encoding="utf-8")
    first, second, third = json.loads(text)
    assert first == {
        "ID": 1,
        "depth": 3,
        "stop": True,
        "loss": 0.1 + 0.2,
        "options": {"a": [1, None]},
        "mixed": "x",
        "text": 'a,"b"\nc',
        "end_date": "2024-01-02T03:04:05.678901",
    }
    assert set(second.values()) == {2, 1, None}
    assert (third["depth"], third["stop"], third["loss"], third["options"]) == (2**53 + 1, False, None, ["ü", 2.5])
    assert len(text.splitlines()) == 3 + 2  # a row a line


def test_csv(frame: pd.DataFrame, tmp_path: Path) -> None:
    export_frame(frame, tmp_path / "f.csv")
    back = pd.read_csv(tmp_path / "f.csv", dtype={"depth": "Int64"}, lineterminator="\n")
    assert list(back["depth"]) == [3, pd.NA, 2**53 + 1]
    assert str(0.1 + 0.2) in (tmp_path / "f.csv").read_text()  # which pandas 2 rounds when it reads it
    assert json.loads(back["options"][2]) == ["ü", 2.5]
    assert back["text"][0] == 'a,"b"\nc'
    assert back["end_date"][0] == "2024-01-02 03:04:05.678901"


@pytest.mark.parametrize("escape_formulas", [False, True])
def test_integers_of_json_columns_with_missing_values_keep_their_digits(escape_formulas: bool) -> None:
    file = io.StringIO()
    export_frame(
        pd.DataFrame({"options": pd.Series([2**53 + 1, None], dtype=object), "seed": 1}), file, None, escape_formulas
    )
    assert file.getvalue() == f"options,seed\n{2**53 + 1},1\n,1\n"


def test_parquet_keeps_types(frame: pd.DataFrame, tmp_path: Path) -> None:
    export_frame(frame, tmp_path / "f.parquet")
    back = pd.read_parquet(tmp_path / "f.parquet")
    pd.testing.assert_series_equal(back["depth"], frame["depth"])
    pd.testing.assert_series_equal(back["end_date"], frame["end_date"])
    assert list(back["mixed"][:2]) == ["x", "1"] and pd.isna(back["mixed"][2])
    assert json.loads(back["options"][0]) == {"a": [1, None]}


def test_excel_replaces_control_characters_and_cuts_long_text(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame["text"] = ["x" * 40_000, None, "\x1bred"]
    export_frame(frame, tmp_path / "f.xlsx")
    back = pd.read_excel(tmp_path / "f.xlsx")
    assert len(back["text"][0]) == 32_767 and back["text"][0].endswith("x…")
    assert back["text"][2] == "\N{REPLACEMENT CHARACTER}red"
    assert back["end_date"][0].replace(microsecond=0) == datetime(2024, 1, 2, 3, 4, 5)


def test_too_many_rows_for_an_excel_sheet_are_reported(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="the table has 1048576 rows, but an Excel sheet holds"):
        export_frame(pd.DataFrame({"a": range(1_048_576)}), tmp_path / "f.xlsx")
    assert list(tmp_path.iterdir()) == []


def test_no_rows(tmp_path: Path) -> None:
    nothing = pd.DataFrame({"a": pd.Series(dtype="int64"), "b": pd.Series(dtype=object)})
    for kind in ("csv", "json", "parquet", "xlsx"):
        export_frame(nothing, tmp_path / f"f.{kind}")
    assert json.loads((tmp_path / "f.json").read_text()) == []
    assert (tmp_path / "f.csv").read_text() == "a,b\n"


def test_open_files_accept_text_formats(frame: pd.DataFrame) -> None:
    file = io.StringIO()
    export_frame(frame, file)
    assert file.getvalue().startswith("ID,depth,")
    with pytest.raises(InvalidValueError, match="'parquet' is not a format for this file"):
        export_frame(frame, file, "parquet")


def test_a_file_is_replaced_completely_or_left_unchanged(
    frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f.csv"
    path.write_text("before")

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_csv", fail)
        with pytest.raises(OSError, match="disk full"):
            export_frame(frame, path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    export_frame(frame, path)
    assert path.read_text().startswith("ID,")


def test_a_pipe_is_written_to_and_not_replaced(frame: pd.DataFrame, tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    export_frame(frame, pipe, "csv")
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]
    assert os.read(reader, 10_000).startswith(b"ID,depth,")
    os.close(reader)


def test_a_new_file_has_the_rights_that_new_files_have(frame: pd.DataFrame, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        export_frame(frame, tmp_path / "f.csv")
        assert os.umask(0o027) == 0o027  # the export has not changed it
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f.csv").stat().st_mode) == 0o640


@pytest.mark.parametrize(("name", "kind"), [("f", None), ("f.txt", None), ("f.csv", "feather")])
def test_unknown_formats(frame: pd.DataFrame, tmp_path: Path, name: str, kind: str | None) -> None:
    with pytest.raises(InvalidValueError, match="is not a format for this file; choose from csv, json, parquet, xlsx"):
        export_frame(frame, tmp_path / name, kind)


def test_the_format_can_be_named(frame: pd.DataFrame, tmp_path: Path) -> None:
    export_frame(frame, tmp_path / "f.txt", "csv")
    assert (tmp_path / "f.txt").read_text().startswith("ID,")
