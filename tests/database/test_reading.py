from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from pyexperimenter import ExperimentStatus
from pyexperimenter.analysis import export_frame, frame, join_keyfields, to_frame
from pyexperimenter.database import connection, reader
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import (
    DatabaseQueryError,
    InvalidLogtableError,
    InvalidValueError,
    TransientDatabaseError,
)
from tests.support.study import experimenter, store, study
from tests.support.target import Target

ALL_KINDS = {
    "whole": "INT",
    "number": "DOUBLE",
    "exact": "DECIMAL(10,3)",
    "flag": "BOOL",
    "text": "VARCHAR(40)",
    "long": "LONGTEXT",
    "options": "JSON",
    "moment": "DATETIME",
    "day": "DATE",
    "raw": "BLOB",
}
VALUES: dict[str, list[Any]] = {
    "whole": [0, -(2**31), 2**31 - 1],
    "number": [0.1, 1e300, 1 / 3],
    "exact": [0.125, -1234567.891, 2.0],
    "flag": [True, False, True],
    "text": ['😀 it\'s "quoted" \\ %s ? `x`', "trailing ", ""],
    "long": ["ä" * 70_000, "a\nb\tc", "NULL"],
    "options": [{"a": [1, None, {"b": "ü"}]}, [], 1.5],
    "moment": [datetime(2026, 1, 31, 23, 59, 59, 123456), datetime(1999, 1, 1), datetime(2026, 6, 1, 12)],
    "day": [datetime(2026, 1, 31).date(), datetime(2000, 2, 29).date(), datetime(1970, 1, 1).date()],
    "raw": [b"\x00\xff'\"", b"", b"abc"],
}


def test_values_come_back_as_written_as_inputs_and_as_results(target: Target) -> None:
    results = {f"{name}_out": kind for name, kind in ALL_KINDS.items()}
    study_ = experimenter(
        target, study(target, keyfields=ALL_KINDS, resultfields=results, logtables={"log": ALL_KINDS})
    )
    rows = [{name: values[index] for name, values in VALUES.items()} for index in range(3)]
    rows.append({name: None for name in VALUES})
    assert study_.fill_table_with_rows(rows) == (4, 0)
    assert study_.fill_table_with_rows(rows) == (0, 4)
    seen = []

    def function(keyfields: dict[str, Any], processor: Any, custom: Any) -> dict[str, Any]:
        seen.append(keyfields)
        processor.process_logs({"log": keyfields})
        return {f"{name}_out": value for name, value in keyfields.items()}

    assert study_.execute(function) == 4
    assert study_.counts()["done"] == 4
    assert seen == rows
    assert [[type(value) for value in row.values()] for row in seen[:3]] == [
        [type(value) for value in row.values()] for row in rows[:3]
    ]
    table, logs = study_.get_table(), study_.get_logtable("log")
    for name, values in VALUES.items():
        for series in (table[name], table[f"{name}_out"], logs[name]):
            assert [series[index] for index in range(3)] == values
            assert pd.isna(series[3])


def test_get_table_has_the_right_dtypes_also_when_empty_or_null(target: Target) -> None:
    study_ = experimenter(target, study(target, keyfields=ALL_KINDS))
    study_.create_table()
    expected = {
        "ID": "int64",
        "whole": "Int64",
        "number": "float64",
        "exact": "float64",
        "flag": "boolean",
        "accuracy": "float64",
    }
    moments = ["moment", "creation_date", "start_date", "end_date"]

    def check() -> None:
        dtypes = study_.get_table().dtypes
        assert {name: str(dtypes[name]) for name in expected} == expected
        assert {str(dtypes[name]) for name in moments} == {"datetime64[us]"}

    check()
    study_.fill_table_with_rows([{"whole": 1}, {"flag": True}])
    check()
    columns = list(study_.get_table().columns)
    around = ["creation_date", "status", "start_date", "name", "machine", "accuracy", "model", "end_date", "error"]
    assert columns == ["ID", *ALL_KINDS, *around]


def test_a_column_edited_by_hand_is_shown_as_it_is(sqlite_target: Target) -> None:
    study_ = experimenter(sqlite_target)
    study_.fill_table_from_config()
    sqlite_target.query("UPDATE study SET seed = 'three', accuracy = 'high', end_date = 'now' WHERE ID = 1")
    table = study_.get_table()
    assert table["seed"].tolist() == ["three", 1, 2, 0, 1, 2]
    assert table["accuracy"][0] == "high" and table["end_date"][0] == "now"
    sqlite_target.query("UPDATE study SET end_date = 2026 WHERE ID = 1")
    assert study_.get_table()["end_date"][0] == 2026


@pytest.mark.parametrize(
    "states, where, expected",
    [
        (None, None, [1, 2, 3, 4, 5, 6]),
        ("all", None, [1, 2, 3, 4, 5, 6]),
        ("done", None, [1, 3]),
        (ExperimentStatus.ERROR, None, [2]),
        (["done", ExperimentStatus.ERROR], None, [1, 2, 3]),
        (("created", "error"), "seed = 0 OR seed = 1", [2, 4, 5]),
        ([], None, []),
    ],
)
def test_get_table_by_status(
    target: Target, states: str | Sequence[str] | None, where: str | None, expected: list[int]
) -> None:
    study_ = experimenter(target)
    study_.fill_table_from_config()
    target.query("UPDATE study SET status = 'done' WHERE ID IN (1, 3)")
    target.query("UPDATE study SET status = 'error' WHERE ID = 2")
    assert study_.get_table(where, states=states)["ID"].tolist() == expected


def test_texts_are_selected_exactly_whatever_the_collation(target: Target) -> None:
    """MySQL ignores spaces at the ends of texts, and tables made by py-experimenter there ignore case and accents."""
    names = ["iris", "iris ", "Iris", "íris", "", " ", None]
    keyfields = {"dataset": {"type": "VARCHAR(50)", "values": names}}
    study_ = experimenter(target, study(target, keyfields=keyfields, Execution={"isolation": "none"}))
    study_.fill_table_from_config()
    if target.provider == "mysql":
        target.query("ALTER TABLE study MODIFY dataset VARCHAR(50) COLLATE utf8mb4_general_ci DEFAULT NULL")
    for name in names:
        assert study_.get_table({"dataset": name})["dataset"].tolist() == [name] or name is None
    assert study_.get_table({"dataset": names[1:3]})["ID"].tolist() == [2, 3]
    assert study_.get_table({"dataset": ["iris", None, *(f"other {n}" for n in range(200))]})["ID"].tolist() == [1, 7]
    assert study_.group_by("dataset", where={"dataset": "iris "})[0].total == 1
    assert study_.execute(lambda *_: None, where={"dataset": "iris "}) == 1
    assert target.query("SELECT ID FROM study WHERE status = 'done'") == [(2,)]
    assert study_.reset_experiments("done", where={"dataset": "iris"}) == 0
    assert study_.remove_experiments({"dataset": ["Iris", "iris "]}) == 2


def test_a_condition_may_contain_colons(target: Target) -> None:
    study_ = experimenter(target)
    study_.fill_table_from_config()
    target.query("UPDATE study SET dataset = ':states 12:30' WHERE ID = 1")
    cast = " AND seed::text = '0'" if target.name == "postgresql" else ""
    where = f"dataset = ':states 12:30'{cast} -- :states"
    assert study_.get_table(where, states="created")["ID"].tolist() == [1]
    assert study_.execute(lambda keyfields, results, custom: None, where=where) == 1


def test_get_table_by_invalid_status(sqlite_target: Target) -> None:
    study_ = experimenter(sqlite_target)
    with pytest.raises(InvalidValueError, match=r"'failed' is not a valid status; did you mean 'error'"):
        study_.get_table(states=["done", "failed"])


def test_logtables_by_condition(target: Target) -> None:
    study_ = experimenter(target)
    study_.fill_table_from_config()
    study_.execute(lambda k, r, c: r.process_logs({"epochs": [{"epoch": e, "loss": 1 / e} for e in (1, 2)]}))
    assert len(study_.get_logtable("epochs")) == 12
    for all_attempts in (False, True):
        logs = study_.get_logtable("epochs", "epoch = 1 -- the first", all_attempts)
        assert logs["experiment_id"].tolist() == [1, 2, 3, 4, 5, 6]
    assert study_.get_logtable("epochs", "experiment_id = 3 AND epoch > 1")["loss"].tolist() == [0.5]
    logs = study_.get_logtable("epochs")
    assert list(logs.columns) == ["ID", "experiment_id", "timestamp", "epoch", "loss", "attempt_id"]
    assert str(logs["epoch"].dtype) == "Int64"
    assert logs["timestamp"].tolist() == sorted(logs["timestamp"])
    assert abs((pd.Timestamp.now("UTC") - pd.Timestamp(logs["timestamp"][0], tz="UTC")).total_seconds()) < 600
    with pytest.raises(InvalidLogtableError, match="'epoch' is not a logtable; configured are epochs"):
        study_.get_logtable("epoch")


def test_logs_without_attempts_are_those_of_the_row(target: Target) -> None:
    """As py-experimenter writes them."""
    study_ = experimenter(target)
    study_.fill_table_from_config()
    target.query("UPDATE study SET status = 'done' WHERE ID = 2")
    target.query("INSERT INTO study__epochs (experiment_id, epoch) VALUES (1, 5), (2, 6)")
    assert study_.get_logtable("epochs")["epoch"].tolist() == [6]


@pytest.mark.parametrize("all_attempts", [False, True])
def test_logs_are_in_the_order_in_which_they_were_written(target: Target, all_attempts: bool) -> None:
    study_ = experimenter(target)
    study_.fill_table_from_config()
    study_.execute(
        lambda k, r, c: r.process_logs({"epochs": [{"epoch": e, "loss": 1} for e in range(50)]}), order_by="-ID"
    )
    target.query("UPDATE study__epochs SET loss = 2 WHERE epoch < 25")  # PostgreSQL stores them behind the others
    logs = study_.get_logtable("epochs", "experiment_id IN (1, 2, 3, 4, 5, 6)", all_attempts)
    assert logs["experiment_id"].tolist() == [number for number in range(6, 0, -1) for _ in range(50)]
    assert logs["epoch"].tolist() == [*range(50)] * 6


def test_custom_queries(target: Target) -> None:
    study_ = experimenter(target)
    study_.fill_table_from_config()
    assert study_.execute_custom_query("SELECT dataset, COUNT(*) FROM study GROUP BY dataset ORDER BY dataset") == [
        ("iris", 3),
        ("wine", 3),
    ]
    assert study_.execute_custom_query("UPDATE study SET seed = 10 WHERE dataset LIKE 'w%' AND seed = 2") == 1
    assert study_.execute_custom_query("DELETE FROM study WHERE seed < 2 -- 4 rows") == 4
    assert study_.execute_custom_query("DELETE FROM study WHERE seed = 99") == 0
    assert study_.execute_custom_query("CREATE TABLE more (name VARCHAR(9))") == 0
    assert study_.execute_custom_query("INSERT INTO more VALUES ('a'), ('b')") == 2
    assert study_.execute_custom_query("SELECT name FROM more WHERE name = 'c'") == []
    assert study_.execute_custom_query("SELECT seed FROM study WHERE ID = 6") == [(10,)]
    with pytest.raises(DatabaseQueryError, match=r"no_such.* \(while running: SELECT no_such FROM study\)"):
        study_.execute_custom_query("SELECT no_such FROM study")


def test_a_summary_does_not_read_errors(sqlite_target: Target) -> None:
    study_ = experimenter(sqlite_target)
    study_.fill_table_from_config()
    sqlite_target.query("UPDATE study SET status = 'done', accuracy = 1, error = HEX(ZEROBLOB(5000000))")
    study_.summarize("accuracy", "dataset")  # imports

    def peak(read: Callable[[], Any]) -> int:
        tracemalloc.start()
        read()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(study_.get_table) > 10_000_000
    assert peak(partial(study_.summarize, "accuracy", "dataset")) < 5_000_000


@pytest.mark.parametrize("column", ["creation_date", "status", "start_date", "name", "machine", "end_date"])
def test_summaries_and_figures_by_any_other_column(sqlite_target: Target, column: str) -> None:
    study_ = experimenter(sqlite_target)
    study_.fill_table_from_config()
    study_.execute(lambda keyfields, *_: {"accuracy": keyfields["seed"]})
    sqlite_target.query(
        "UPDATE study SET creation_date = '2026-01-01', start_date = '2026-01-01', end_date = '2026-01-01'"
    )
    assert study_.summarize("accuracy", column, over=["dataset", "seed"])["mean"].tolist() == [1.0]
    study_.plot_result("accuracy", column, over=["dataset", "seed"])


def test_tables_of_older_versions_are_summarized_as_they_are(target: Target) -> None:
    study_ = experimenter(target)
    study_.fill_table_from_config()
    study_.execute(lambda *_: {"accuracy": 0.5})
    target.query("UPDATE study__attempts SET python = '3.1' WHERE experiment_id = 6")
    for change in ("ALTER TABLE study__attempts DROP COLUMN git_diff_hash", "DROP TABLE study__attempts"):
        with pytest.warns(
            UserWarning, match=r"different environments: .*Python 3\.1 \(1 experiment, at dataset=wine\)"
        ):
            study_.summarize("accuracy", "dataset")
        target.query(change)
    study_.summarize("accuracy", "dataset")


def test_codecarbons_table_is_refused_if_emissions_are_not_measured(sqlite_target: Target) -> None:
    with pytest.raises(InvalidLogtableError, match="add a section CodeCarbon"):
        experimenter(sqlite_target).get_codecarbon_table()


def test_a_large_table_is_read_by_one_statement_and_in_parts(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than are fetched at once, and than are converted at once."""
    monkeypatch.setattr(connection, "_READ_AT_ONCE", 7)
    monkeypatch.setattr(frame, "_PIECE", 20)
    study_ = experimenter(target)
    study_.fill_table_with_rows([{"dataset": None if seed % 3 else "ä", "seed": seed} for seed in range(100)])
    target.query("UPDATE study SET accuracy = seed / 7.0, start_date = creation_date WHERE seed > 50")
    statements: list[str] = []
    stream = connection.Cursor.stream

    def noted(self: connection.Cursor, sql: str, **parameters: Any) -> Any:
        statements.append(sql)
        return stream(self, sql, **parameters)

    monkeypatch.setattr(connection.Cursor, "stream", noted)
    opened = study_._store
    columns, rows = opened.query("SELECT * FROM study ORDER BY ID")
    expected = to_frame(columns, rows, opened.schema.types_of("study"))
    assert_frame_equal(study_.get_table(), expected)
    assert len(statements) == 1
    assert len(study_.get_table(limit=0)) == 0
    assert_frame_equal(
        study_.get_table(where={"dataset": "ä"}), expected[expected["dataset"] == "ä"].reset_index(drop=True)
    )


def test_exports_have_the_whole_table_and_a_part_of_it_in_memory(
    sqlite_target: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    study_ = experimenter(sqlite_target)
    study_.fill_table_with_rows([{"dataset": f"d{seed % 7}", "seed": seed} for seed in range(100)])
    study_.execute(lambda k, r, c: r.process_logs({"epochs": [{"epoch": e, "loss": 1 / e} for e in (1, 2)]}))
    sqlite_target.query("UPDATE study SET accuracy = 'by hand' WHERE seed = 90")
    table, logs = study_.get_table("seed >= 10"), study_.get_logtable("epochs", joined=True)
    expected = {
        ("experiments", False): table,
        ("epochs", True): logs[logs["seed"] >= 10],
        ("attempts", True): join_keyfields(study_.get_attempts(), table),
    }

    monkeypatch.setattr(connection, "_READ_AT_ONCE", 7)
    monkeypatch.setattr(frame, "_PIECE", 20)
    written: list[int] = []

    def note(place: Any, name: str, data: int) -> None:
        write = getattr(place, name)

        def noted(*args: Any, **named: Any) -> Any:
            written.append(len(args[data]))
            return write(*args, **named)

        monkeypatch.setattr(place, name, noted)

    note(pd.DataFrame, "to_csv", 0)
    note(parquet.ParquetWriter, "write_table", 1)
    for (what, joined), whole in expected.items():
        export_frame(whole, tmp_path / "whole.parquet")
        for kind in ("csv", "parquet"):
            written.clear()
            rows = study_.export(tmp_path / f"parts.{kind}", what, joined, where="seed >= 10")
            assert sum(written) == rows == len(whole)
            assert max(written) <= 26
        found = [parquet.read_table(tmp_path / f"{name}.parquet") for name in ("parts", "whole")]
        assert found[0].schema.equals(found[1].schema, check_metadata=True)
        assert found[0].equals(found[1])
        assert (tmp_path / "parts.csv").read_text().count("\n") == rows + 1


def test_what_was_not_read_to_the_end_does_not_disturb_the_next_query(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_READ_AT_ONCE", 2)
    opened = store(target)
    for error in (InvalidValueError, KeyError):

        def read_some(columns: Any, parts: Any, error: type[Exception] = error) -> None:
            assert len(next(iter(parts))) == 2
            raise error("enough")

        with pytest.raises(error):
            opened.table_rows(take=read_some)
        assert opened.counts()["created"] == 6
        assert len(opened.table_rows()[1]) == 6


def test_a_connection_that_is_lost_while_rows_are_read_costs_no_row(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are read again."""
    if target.server is None:
        pytest.skip("a file is not lost")
    monkeypatch.setattr(connection, "_READ_AT_ONCE", 2)
    opened = store(target)
    losses = 0

    def lose_once(columns: Any, parts: Any) -> list[Any]:
        nonlocal losses
        found = []
        for part in parts:
            found += part
            if not losses:
                losses += 1
                raise TransientDatabaseError("the connection was lost")
        return found

    assert [row[0] for row in opened.table_rows(take=lose_once)] == [1, 2, 3, 4, 5, 6]


def test_events_are_kept_with_their_time_and_the_configuration(target: Target) -> None:
    opened = store(target)
    opened.keep_config("1.0")
    assert opened.events("removed") == []
    opened.keep_event("1.0", "removed", {"by": "ada on laptop", "rows": 3})
    opened.keep_event("1.0", "reset", {"by": "ada on laptop"})
    (event,) = opened.events("removed")
    assert event.pop("created").year >= 2026
    assert event == {"kind": "removed", "by": "ada on laptop", "rows": 3}
    opened.keep_config("1.0")  # which has not changed
    assert target.query("SELECT COUNT(*), COUNT(DISTINCT config) FROM study__meta") == [(3, 1)]
    target.query("ALTER TABLE study__meta DROP COLUMN event")
    assert opened.events("removed") == []
    opened.tables.create(codecarbon=False)
    opened.keep_event("1.0", "removed", {})
    assert len(opened.events("removed")) == 1


def test_all_rows_are_read_in_parts(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_READ", 4)
    opened = store(target)
    target.query("DELETE FROM study WHERE ID = 2")
    assert [experiment_id for experiment_id, _ in opened._all_keyfields()] == [1, 3, 4, 5, 6]


@pytest.mark.parametrize("target", ["mariadb", "mysql"], indirect=True)
def test_an_index_finds_a_few_attempts_of_a_table_that_has_grown_fast(target: Target) -> None:
    """The server renews the statistics of a table some seconds after it has grown; here, it would never do so."""
    rows = {"seed": {"type": "INT", "values": {"start": 0, "stop": 20_000}}}
    store_ = store(target, keyfields=rows)
    target.query("ALTER TABLE study__attempts STATS_AUTO_RECALC = 0")
    target.query("INSERT INTO study__attempts (experiment_id, outcome) SELECT ID, 'done' FROM study")
    target.query("FLUSH TABLES study__attempts")
    ids = list(range(4_000, 4_300))
    before = handled(store_)
    assert not store_.attempts_differ(ids, ["git_commit"])
    assert handled(store_) - before < 2 * len(ids)


def handled(store_: ExperimentStore) -> int:
    """Return how many rows the server has read for this connection."""
    return sum(int(value) for _, value in store_.query("SHOW SESSION STATUS LIKE 'Handler_read%next'")[1])
