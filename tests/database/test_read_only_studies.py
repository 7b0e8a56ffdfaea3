"""A study that was opened for reading only, and what pages of a large table need: groups, order, pages."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pyexperimenter import ExperimentStatus, PyExperimenter
from pyexperimenter.database import reader
from pyexperimenter.exceptions import DatabaseQueryError, InvalidColumnError, InvalidValueError, ReadOnlyDatabaseError
from pyexperimenter.study import analyzed
from tests.support.study import experimenter, study
from tests.support.target import Target

KEYFIELDS = {
    "dataset": {"type": "VARCHAR(50)", "values": ["iris", "Iris", "iris ", None]},
    "seed": {"type": "INT", "values": {"start": 0, "stop": 3}},
}


@pytest.fixture
def executed(target: Target) -> PyExperimenter:
    """Twelve experiments, of which those with seed 1 failed; one is open."""
    study_ = experimenter(target, study(target, keyfields=KEYFIELDS))
    study_.fill_table_from_config()

    def function(keyfields: dict[str, Any], results: Any, custom: Any) -> Any:
        results.process_results({"accuracy": 1e9 + keyfields["seed"]})
        return ExperimentStatus.ERROR if keyfields["seed"] == 1 else None

    study_.execute(function, max_experiments=11)
    return study_


# Whatever follows is not executed, and where the database must parse it, an error.
EVIL = "1 = 1); DELETE FROM study; SELECT (1"


def test_nothing_can_be_written(target: Target, executed: PyExperimenter) -> None:
    reading = executed.read_only()
    assert reading.counts() == executed.counts()
    for statement in ("DELETE FROM study", "CREATE TABLE more (a INT)", "UPDATE study SET status = 'done'"):
        with pytest.raises(ReadOnlyDatabaseError):
            reading.execute_custom_query(statement)
    for change in (lambda: reading.reset_experiments("done"), reading.fill_table_from_config):
        with pytest.raises(ReadOnlyDatabaseError):
            change()
    with pytest.raises(DatabaseQueryError):
        reading.get_table(EVIL)
    with pytest.raises(DatabaseQueryError):
        reading.execute_custom_query("SELECT 1; DELETE FROM study")
    assert len(reading.get_table({"dataset": ["Iris", None], "seed": [*range(200)]})) == 6
    assert target.query("SELECT COUNT(*) FROM study") == [(12,)]


def test_reading_again_is_still_read_only(target: Target, executed: PyExperimenter) -> None:
    """Of PostgreSQL's settings, a query can change those of the session."""
    reading = executed.read_only()
    if target.provider == "postgresql":
        reading.execute_custom_query("SELECT set_config('default_transaction_read_only', 'off', false)")
        with pytest.raises(ReadOnlyDatabaseError):
            reading.execute_custom_query("WITH gone AS (DELETE FROM study RETURNING 1) SELECT * FROM gone")
    with pytest.raises(ReadOnlyDatabaseError):
        reading.execute_custom_query("DELETE FROM study")
    assert executed.counts()["created"] == 1


def test_slow_statements_are_cut(executed: PyExperimenter) -> None:
    reading = executed.read_only(time_limit=0.5)
    slow = "SELECT COUNT(*) FROM " + ", ".join(f"study s{number}" for number in range(12))
    start = time.monotonic()
    with pytest.raises(DatabaseQueryError, match=r"cut after 0\.5 s; select fewer experiments"):
        reading.execute_custom_query(slow)
    with pytest.raises(DatabaseQueryError, match=r"cut after 0\.5 s"):
        reading.get_table(f"({slow}) > 0")
    assert time.monotonic() - start < 120  # without the limit, it takes days
    assert executed.counts()["done"] == 7


def test_groups_have_counts_and_moments(executed: PyExperimenter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_MANY", 4)  # as of a large table
    groups = {group.values["dataset"]: group for group in executed.group_by("dataset", "accuracy")}
    assert {*groups} == {"iris", "Iris", "iris ", None}
    for name, group in groups.items():
        done = 1 if name is None else 2
        assert group.counts == {"created": 2 - done, "running": 0, "done": done, "error": 1, "paused": 0}
        assert (group.number, group.mean) == (done + 1, 1e9 + (1 if done == 2 else 0.5))
        assert group.std == pytest.approx(1 if done == 2 else 0.5**0.5)
    pairs = executed.group_by(["dataset", "seed"], states="error", limit=3)
    assert [group.total for group in pairs] == [1, 1, 1]
    assert pairs[0].mean is None
    assert executed.group_by("status", where=["seed < 2", {"dataset": "Iris"}])[0].total == 1
    with pytest.raises(InvalidColumnError):
        executed.group_by("no such column")


def test_deviations_are_exact_whatever_other_rows_hold(sqlite_target: Target) -> None:
    """SQLite measures them from a number near the mean, else the digits of large values would be lost."""
    seeds = {"seed": {"type": "INT", "values": {"start": 0, "stop": 1004}}}
    study_ = experimenter(sqlite_target, study(sqlite_target, keyfields=seeds))
    study_.fill_table_from_config()
    sqlite_target.query("UPDATE study SET status = 'done'")
    sqlite_target.query("UPDATE study SET accuracy = CASE WHEN seed < 2 THEN 0 ELSE 1e9 + seed END")
    sqlite_target.query("UPDATE study SET accuracy = NULL WHERE seed BETWEEN 2 AND 1001")  # more than are looked at
    (group,) = study_.group_by("status", "accuracy", where="seed >= 2")
    assert (group.number, group.mean, group.std) == (2, 1e9 + 1002.5, pytest.approx(0.5**0.5))


def test_newest_errors_come_first_even_if_they_are_long_ago(target: Target, executed: PyExperimenter) -> None:
    errors = executed.get_table(states="error", columns=["ID"])["ID"].tolist()
    target.query(f"UPDATE study__attempts SET ended = '2030-01-01' WHERE experiment_id = {errors[1]}")
    target.query(f"UPDATE study SET end_date = '2029-01-01' WHERE ID = {errors[2]}")
    assert executed.newest_errors(2)[0] == errors[1]  # by the attempts
    assert executed.newest_errors(9)[0] == errors[2] and sorted(executed.newest_errors(9)) == errors  # of all
    executed.reset_experiments("error")
    assert executed.newest_errors(2) == []


def test_that_no_row_is_outside_the_grid_is_remembered_until_rows_change(
    target: Target, executed: PyExperimenter
) -> None:
    reading = executed.read_only()
    assert reading.status().outside_grid == {}
    target.query("UPDATE study SET seed = 9 WHERE status = 'created'")
    assert reading.status().outside_grid == {}
    assert reading.counts(outside_grid=True) == executed.status().outside_grid == {"created": 1}  # exact
    target.query("UPDATE study SET seed = 2 WHERE status = 'created'")
    assert reading.status().outside_grid == {}
    target.query("INSERT INTO study (dataset, seed) VALUES ('iris', 8)")
    assert reading.status().outside_grid == {"created": 1}
    target.query("DELETE FROM study WHERE seed = 8")
    target.query("INSERT INTO study (dataset, seed) VALUES ('iris', 7)")
    assert reading.status().outside_grid == {"created": 1}


def test_analyses_of_too_many_experiments_are_refused(sqlite_target: Target) -> None:
    config = study(sqlite_target, keyfields={"seed": {"type": "INT", "values": {"start": 0, "stop": 6}}})
    study_ = experimenter(sqlite_target, config)
    study_.fill_table_from_config()
    study_.execute(lambda keyfields, results, custom: {"accuracy": 1.0})
    reading = study_.read_only(most_analyzed=5)
    assert len(reading.summarize("accuracy", "seed", over=None, where="seed > 0")) == 5
    with pytest.raises(InvalidValueError, match=r"more than 5 experiments are selected; select fewer"):
        reading.summarize("accuracy", "seed", over=None)


@pytest.mark.parametrize(
    "order_by", [None, "-ID", ["dataset", "-seed"], ["-dataset", "accuracy"], "-accuracy", "error"]
)
def test_pages_together_are_the_table(executed: PyExperimenter, order_by: Any) -> None:
    whole = executed.get_table(order_by=order_by)["ID"].tolist()
    pages, after = list[int](), None
    while page := executed.get_table(order_by=order_by, limit=5, after=after)["ID"].tolist():
        pages, after = pages + page, page[-1]
    assert pages == whole
    last = before = whole[-1]
    pages = [last]
    while page := executed.get_table(order_by=order_by, limit=5, before=before)["ID"].tolist():
        pages, before = page + pages, page[0]
    assert pages == whole
    between = executed.get_table(order_by=order_by, after=whole[1], before=whole[6])
    assert between["ID"].tolist() == whole[2:6] and between.index.tolist() == [0, 1, 2, 3]


def test_long_texts_and_json_sort_pages(target: Target) -> None:
    """MySQL sorts by the beginnings of long texts, and PostgreSQL has no order for JSON."""
    keyfields = {"options": {"type": "JSON", "values": [[n, "x" * 2000, 9 - n] for n in (2, 10, 3)]}, **KEYFIELDS}
    study_ = experimenter(target, study(target, keyfields=keyfields))
    study_.fill_table_from_config()
    study_.execute(lambda keyfields, *_: {"model": "x" * 2000 + str(keyfields["seed"])}, max_experiments=20)
    for order_by in ("model", "-model", "options", ["-options", "model"]):
        test_pages_together_are_the_table(study_, order_by)


def test_groups_of_a_large_table_are_complete(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """MySQL sorts JSON by numbers, and texts otherwise."""
    monkeypatch.setattr(reader, "_MANY", 4)
    keyfields = {"seed": KEYFIELDS["seed"], "options": {"type": "JSON", "values": [10, *range(2, 10)]}}
    study_ = experimenter(target, study(target, keyfields=keyfields))
    study_.fill_table_from_config()
    assert study_.remove_experiments("seed = 0", ids=[9]) == 1
    assert [group.total for group in study_.group_by("options", limit=3)] == [3, 3, 3]
    if target.provider == "mysql":
        with target.session() as run:
            run("SET sql_mode = ''")
            run("UPDATE study SET end_date = IF(ID = 1, '0000-00-00', '2026-01-01') WHERE ID < 4")
        assert [group.total for group in study_.group_by("end_date")] == [23, 1, 2]


def test_a_deviation_has_digits_where_others_are_much_larger(target: Target) -> None:
    """As losses where some have diverged."""
    study_ = experimenter(target, study(target, keyfields=KEYFIELDS))
    study_.fill_table_from_config()
    size = {"iris": 1e12, "Iris": 1e6, "iris ": 0.5, None: 0.0}
    study_.execute(lambda keyfields, *_: {"accuracy": size[keyfields["dataset"]] * (1 + 0.1 * keyfields["seed"])})
    for group in study_.group_by("dataset", "accuracy"):
        expected = size[group.values["dataset"]]
        assert (group.mean, group.std) == (pytest.approx(1.1 * expected), pytest.approx(0.1 * expected))


def test_only_numbers_have_a_mean(target: Target, executed: PyExperimenter) -> None:
    def moments(dataset: str) -> tuple[int, float | None, float | None]:
        (group,) = executed.group_by("dataset", "accuracy", {"dataset": dataset})
        return group.number, group.mean, group.std

    if target.provider == "sqlite":
        target.query("UPDATE study SET accuracy = 'high' WHERE dataset = 'iris' AND seed = 2")
        assert moments("iris") == (2, 1e9 + 0.5, pytest.approx(0.5**0.5))
    if target.provider != "mysql":  # which has no infinite numbers
        infinite = "9e999" if target.provider == "sqlite" else "'Infinity'"
        target.query(f"UPDATE study SET accuracy = {infinite} WHERE seed = 0")
        assert str(moments("iris ")) == "(3, inf, nan)"
        minus = "-9e999" if target.provider == "sqlite" else "'-Infinity'"
        target.query(f"UPDATE study SET accuracy = {minus} WHERE seed = 2")
        assert str(moments("iris ")) == "(3, nan, nan)"


def test_ends_over_time_are_all_counted(target: Target, executed: PyExperimenter) -> None:
    parts = executed.ended_over_time(7)
    assert len(parts) == 7 and sum(number for _, number in parts) == 11
    ((_, _, number),) = executed.commits()
    assert number == 11
    target.query("DELETE FROM study__attempts")
    assert executed.ended_over_time() == []


def test_experiments_are_read_once_for_several_analyses(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only of a study that is only read, and only for a moment."""
    monkeypatch.setattr(analyzed, "_MOMENT", 300)
    study_ = experimenter(target)
    study_.fill_table_from_config()
    target.query("UPDATE study SET status = 'done', accuracy = 0.5")
    reading = study_.read_only()
    assert {*reading.summarize("accuracy", "dataset")["mean"]} == {0.5}
    target.query("UPDATE study SET accuracy = 1")
    assert {*study_.summarize("accuracy", "dataset")["mean"]} == {1.0}
    assert {*reading.summarize("accuracy", "dataset")["mean"]} == {0.5}
    assert {*reading.summarize("accuracy", "dataset", where={"seed": [0, 1, 2]})["mean"]} == {1.0}
