"""Which rows are in the grid, as the database tells and as the expanded grid does; and removing those that are not."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyexperimenter import ExperimentStatus, PyExperimenter
from pyexperimenter.config import load_config
from pyexperimenter.database.backends.mysql import IDENTITY
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import (
    InvalidConfigError,
    InvalidValueError,
    MissingDatabaseError,
    MissingTableError,
    ParameterCombinationError,
)
from tests.support.study import experimenter, statuses, store, study, wait_until
from tests.support.target import Target

TYPES = {
    "a": "INT",
    "b": "VARCHAR(20)",
    "c": "DOUBLE",
    "d": "BOOL",
    "e": "BIGINT UNSIGNED",
    "f": "DATETIME",
    "g": "BLOB",
}
VALUES: dict[str, list[Any]] = {
    "a": [-7, -1, 0, 1, 5, 150, None],
    "b": ["a", "A", "a ", "á", "it's 100%?\\", "", None],
    "c": [0.1, 0.1 + 1e-17 * 3, 0.30000000000000004, 1e300, -2.5, 0.0, None],
    "d": [True, False, None],
    "e": [0, 1, 2**63 - 1, 7, None],
    "f": [datetime(2026, 1, 31, 13, 30), datetime(2026, 1, 31), datetime(1970, 1, 1, 0, 0, 0, 5), None],
    "g": [b"", b"\0a", b"'%", None],
}
RANGES = {
    "a": [{"start": -300, "stop": 300, "step": 4}, {"start": 200, "stop": -8, "step": -1}, {"start": 0, "stop": 5}],
    "e": [{"start": 2**63 - 200, "stop": 2**63 - 1}, {"start": 0, "stop": 3000, "step": 7}],
    "c": [{"start": 0, "stop": 30, "step": 0.1}, {"start": 0.001, "stop": 1000, "num": 7, "scale": "log"}],
}

OTHERS = {"a": [-298, -297, 3, 4, 199], "e": [3, 2**63 - 2]}  # in ranges, between their steps, and beyond


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the part of a configuration that gives a grid; few contradict themselves."""

    def condition(names: list[str]) -> dict[str, Any]:
        chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
        return {name: draw(st.lists(st.sampled_from(known[name]), min_size=1, max_size=3)) for name in chosen}

    zipped = draw(st.permutations(list(TYPES)))[:2] if draw(st.booleans()) else []
    keyfields: dict[str, Any] = {}
    known: dict[str, list[Any]] = {}  # some values of each
    for name, declared in TYPES.items():
        size = {"min_size": 2, "max_size": 2} if name in zipped else {"min_size": 1, "max_size": 3}
        few = st.lists(st.sampled_from(VALUES[name]), **size, unique_by=repr)
        ranges = [] if name in zipped else RANGES.get(name, [])
        values = draw(st.one_of(few, *map(st.just, ranges)))
        keyfields[name] = {"type": declared, "values": values}
        known[name] = values if isinstance(values, list) else [values["start"]]
    conditional, *others = draw(st.permutations([name for name in TYPES if name not in zipped]))
    if draw(st.booleans()):
        keyfields[conditional]["when"] = condition(others[:2])
        known[conditional] = [*known[conditional], None]
    one = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in VALUES.items()})
    return {
        "keyfields": keyfields,
        "exclude": [condition(list(TYPES)) for _ in range(draw(st.integers(0, 2)))],
        "include": draw(st.lists(one.filter(bool), max_size=2)),
        **({"zip": [zipped]} if zipped else {}),
    }


@pytest.fixture
def full(target: Target) -> Iterator[ExperimentStore]:
    """A table with random rows and rows of one value at a time."""
    keyfields = {name: {"type": declared} for name, declared in TYPES.items()}
    opened = store(target, filled=False, keyfields=keyfields)
    opened.tables.create(codecarbon=False)
    yield opened
    opened.database.close()


@settings(max_examples=60, suppress_health_check=list(HealthCheck), derandomize=True)
@given(table=tables(), seed=st.integers(0, 1000))
def test_the_database_finds_the_rows_of_the_expanded_grid(
    target: Target, full: ExperimentStore, table: dict[str, Any], seed: int
) -> None:
    try:
        config = load_config(study(target, **table), credentials_path=target.credentials_file)
    except InvalidConfigError:
        return
    grid = config.table.grid
    assert grid is not None
    if len(grid) > 20_000:
        return
    choose = random.Random(seed)
    members = list(grid)
    rows = choose.sample(members, min(20, len(members)))
    for row in list(rows):  # those that differ from a row of the grid in one value
        rows += [{**row, name: choose.choice([*VALUES[name], *OTHERS.get(name, [])])} for name in TYPES]
    rows += [{name: choose.choice(values) for name, values in VALUES.items()} for _ in range(20)]
    target.query("DELETE FROM study")
    full.fill(full.encode_row(row, "row") for row in rows)
    opened = ExperimentStore(config)
    wanted = {opened.encode_row(row, "row") for row in members}
    every = {row[0]: opened._decode_keyfields(row) for row in opened.table_rows(columns=["ID", *TYPES])[1]}
    inside = {id_ for id_, row in every.items() if opened.encode_row(row, "row") in wanted}
    in_sql = opened._selector.meeting(grid.membership)
    assert in_sql is not None
    assert {id_ for (id_,) in opened.table_rows(columns=["ID"], only_grid=True)[1]} == inside
    assert opened.count(~in_sql) == len(every) - len(inside)  # it is never NULL
    assert set(opened._outside(grid)) == {*every} - inside  # as where SQL cannot find them
    opened.database.close()


def shrunk(target: Target, **changes: Any) -> PyExperimenter:
    """Return an experimenter of the study whose configuration has lost a seed and gained a row."""
    keyfields = {
        "dataset": {"type": "VARCHAR(50)", "values": ["iris", "wine"]},
        "seed": {"type": "INT", "values": {"start": 0, "stop": 2}},
    }
    return experimenter(target, study(target, keyfields=keyfields, include=[{"dataset": "iris", "seed": 9}], **changes))


@pytest.fixture
def larger(target: Target) -> PyExperimenter:
    """Of the rows 1 to 6, the smaller grid lacks 3, which is done with a log, and 6, which is open."""
    study_ = experimenter(target)
    study_.fill_table_from_config()
    study_.execute(
        lambda keyfields, results, custom: results.process_logs({"epochs": {"epoch": keyfields["seed"]}}),
        where={"ID": [2, 3]},
    )
    return study_


def test_rows_outside_the_grid_are_counted(
    target: Target, larger: PyExperimenter, caplog: pytest.LogCaptureFixture
) -> None:
    assert larger.counts(outside_grid=True) == {} == larger.status().outside_grid
    smaller = shrunk(target)
    assert smaller.counts(outside_grid=True) == {"created": 1, "done": 1} == smaller.status().outside_grid
    assert '<th style="text-align: left">experiments outside the grid</th>' in smaller.status()._repr_html_()
    with caplog.at_level("WARNING"):
        larger.fill_table_from_config()
        assert not caplog.messages
        smaller.logger.setLevel("WARNING")
        assert smaller.fill_table_from_config() == (1, 4)
    (message,) = caplog.messages
    assert message == (
        "2 experiments in the table are not in the grid of the configuration (created 1, done 1): "
        "prune() removes open ones, and only_grid=True leaves them out"
    )


def test_rows_outside_the_grid_are_left_out(target: Target, larger: PyExperimenter, tmp_path: Path) -> None:
    smaller = shrunk(target)
    assert smaller.get_table(columns=["ID"], only_grid=True)["ID"].tolist() == [1, 2, 4, 5]
    assert smaller.get_table(columns=["ID"])["ID"].tolist() == [1, 2, 3, 4, 5, 6]
    assert smaller.get_table({"dataset": "iris"}, states="done", only_grid=True)["ID"].tolist() == [2]
    assert smaller.export(tmp_path / "all.csv", only_grid=True) == 4
    assert smaller.export(tmp_path / "logs.csv", "epochs", only_grid=True) == 1
    assert smaller.execute(lambda *_: {"accuracy": 0.5}, only_grid=True) == 3
    assert target.query("SELECT ID FROM study WHERE status = 'created'") == [(6,)]
    assert smaller.execute(lambda *_: {"accuracy": 0.5}, only_grid=True, random_order=True, wait=True) == 0
    assert smaller.execute(lambda *_: None) == 1
    target.query("UPDATE study SET accuracy = ID")
    assert smaller.summarize("accuracy", "dataset", only_grid=True)["mean"].tolist() == [1.5, 4.5]
    assert smaller.summarize("accuracy", "dataset")["mean"].tolist() == [2, 5]


def test_prune_removes_open_rows_outside_the_grid_or_those_in_named_states(
    target: Target, larger: PyExperimenter
) -> None:
    smaller = shrunk(target)
    assert smaller.prune(dry_run=True) == 1
    assert smaller.prune("all", dry_run=True) == 2
    assert smaller.prune("error") == 0
    assert statuses(target) == {"created": 4, "done": 2}
    assert smaller.prune() == 1
    assert smaller.prune() == 0
    assert [id_ for (id_,) in target.query("SELECT ID FROM study ORDER BY ID")] == [1, 2, 3, 4, 5]
    assert smaller.prune(["done", ExperimentStatus.CREATED]) == 1
    for table in ("study__attempts", "study__epochs"):
        assert target.query(f"SELECT experiment_id FROM {table}") == [(2,)]
    assert larger.prune("all") == 0


def test_a_row_that_is_removed_while_it_runs_takes_no_results(target: Target, larger: PyExperimenter) -> None:
    smaller = shrunk(target)

    def function(keyfields: dict[str, Any], results: Any, custom: Any) -> None:
        assert smaller.prune() == 0  # it is running
        assert smaller.prune("running") == 1
        results.process_results({"accuracy": 0.5})

    assert larger.execute(function, where={"ID": 6}) == 1
    assert target.query("SELECT COUNT(*) FROM study WHERE ID = 6") == [(0,)]


def test_rows_are_removed_by_condition_id_and_state(target: Target, larger: PyExperimenter) -> None:
    target.query("UPDATE study SET status = 'running' WHERE ID = 4")
    assert larger.remove_experiments({"dataset": "wine"}, dry_run=True) == 2
    assert larger.remove_experiments({"dataset": "wine"}) == 2  # not the one that is running
    assert larger.remove_experiments(ids=[2, 4, 99]) == 1
    assert larger.remove_experiments("seed < 1", states="created") == 1
    assert larger.remove_experiments(states=["error", "paused"]) == 0
    assert [id_ for (id_,) in target.query("SELECT ID FROM study ORDER BY ID")] == [3, 4]
    assert target.query("SELECT experiment_id FROM study__attempts") == [(3,)]
    assert larger.remove_experiments(states="all") == 2
    with pytest.raises(InvalidValueError, match="nothing says which experiments to remove; give where, ids or states"):
        larger.remove_experiments()
    assert larger.fill_table_from_config() == (6, 0)


def test_json_is_compared_or_looked_up_row_by_row(target: Target) -> None:
    options = [{"depth": 1, "leaf": [2]}, {"depth": 1.5}, "x", None]
    keyfields = {"options": {"type": "JSON", "values": options}, "seed": {"type": "INT", "values": [0, 1]}}
    experimenter(target, study(target, keyfields=keyfields)).fill_table_from_config()
    keyfields["options"]["values"] = [{"leaf": [2], "depth": 1}, None]
    smaller = experimenter(target, study(target, keyfields=keyfields))
    assert smaller.counts(outside_grid=True) == {"created": 4}
    grid = smaller.config.table.grid
    assert grid is not None  # MySQL has its own form of JSON, which MariaDB has not, but both are one provider
    assert (smaller._store._selector.meeting(grid.membership) is None) is (target.provider == "mysql")
    assert smaller.execute(lambda *_: None, only_grid=True, max_experiments=3) == 3
    assert smaller.prune() == 4
    assert statuses(target) == {"created": 1, "done": 3}
    assert smaller.get_table(only_grid=True)["seed"].tolist() == [0, 1, 0, 1]  # nothing is left to be left out


@pytest.mark.parametrize(
    "values", [{"start": 0, "stop": 1, "num": 20_001}, [f"{number / 7}" for number in range(10_001)]]
)
def test_long_domains_are_looked_up_row_by_row(target: Target, values: Any) -> None:
    keyfields = {"x": {"type": "DOUBLE" if isinstance(values, dict) else "VARCHAR(50)", "values": values}}
    opened = experimenter(target, study(target, keyfields=keyfields))
    inside = [0.00005, 0.5, 1.0] if isinstance(values, dict) else ["0.0", "1.0", f"{9 / 7}"]
    opened.fill_table_with_rows([{"x": value} for value in [*inside, "0.00005000001", "0.50001"]])
    assert opened.counts(outside_grid=True) == {"created": 2}
    assert opened.prune() == 2


def test_many_included_and_zipped_rows(target: Target) -> None:
    zipped = {
        name: {"type": "INT", "values": {"start": first, "stop": first + 400}} for name, first in [("a", 0), ("b", 7)]
    }
    keyfields = {**zipped, "c": {"type": "INT"}}
    for included in (40, 2000):
        include = [{"a": number, "b": -1, "c": number} for number in range(included)]
        opened = experimenter(
            target, study(target, name=f"study{included}", keyfields=keyfields, zip=[["a", "b"]], include=include)
        )
        assert opened.fill_table_from_config() == (400 + included, 0)
        opened.fill_table_with_rows([{"a": 5, "b": 11}, {"a": 3, "b": -1, "c": 4}, {"a": None}, {"a": 399, "b": 407}])
        assert opened.prune() == 4
        assert opened.counts()["created"] == 400 + included


def test_without_a_grid_no_row_is_outside(target: Target) -> None:
    keyfields = {"dataset": "VARCHAR(50)"}
    opened = experimenter(target, study(target, keyfields=keyfields))
    with pytest.raises((MissingDatabaseError, MissingTableError)):
        opened.remove_experiments(ids=[1])
    opened.fill_table_with_rows([{"dataset": "iris"}])
    assert opened.counts(outside_grid=True) == {} == opened.status().outside_grid
    for call in (opened.prune, lambda: opened.get_table(only_grid=True)):
        with pytest.raises(ParameterCombinationError, match="gives no values for the keyfields, so it has no grid"):
            call()


def test_before_a_migrate_nothing_is_said_about_the_grid(target: Target, larger: PyExperimenter) -> None:
    config = study(target)
    config["PY_EXPERIMENTER"]["Database"]["table"]["keyfields"] = {
        **config["PY_EXPERIMENTER"]["Database"]["table"]["keyfields"],
        "depth": {"type": "INT", "values": [1]},
    }
    assert experimenter(target, config).status().outside_grid == {}


def test_columns_of_single_precision_have_the_values_of_the_grid(target: Target) -> None:
    keyfields = {"rate": {"type": "FLOAT", "values": [0.1, 0.5, 1e-5]}}
    opened = experimenter(target, study(target, keyfields=keyfields))
    opened.fill_table_from_config()
    single = {"mysql": "MODIFY rate FLOAT", "postgresql": "ALTER rate TYPE REAL"}
    if target.provider in single:  # as py-experimenter made them
        opened.delete_table()
        opened.create_table()
        drop = (
            f"ALTER TABLE study DROP COLUMN {IDENTITY}" if target.provider == "mysql" else "DROP INDEX study__identity"
        )
        target.query(drop)
        target.query(f"ALTER TABLE study {single[target.provider]}")
    opened.fill_table_from_config()
    opened.fill_table_with_rows([{"rate": 0.25}])
    assert opened.counts(outside_grid=True) == {"created": 1}


@pytest.mark.parametrize("server", ["mariadb_target", "postgresql_target"])
def test_a_row_that_is_claimed_at_the_same_time_is_not_pruned(server: str, request: pytest.FixtureRequest) -> None:
    target: Target = request.getfixturevalue(server)
    experimenter(target).fill_table_from_config()
    smaller = shrunk(target)
    with target.transaction() as run, ThreadPoolExecutor(1) as pool:
        run("UPDATE study SET status = 'running' WHERE ID = 6")
        pruned = pool.submit(smaller.prune)
        wait_until(lambda: target.sessions_waiting() == 1)
        run()
        assert pruned.result() == 1  # the other one
    assert target.query("SELECT ID FROM study WHERE ID IN (3, 6)") == [(6,)]


def test_who_removed_experiments_is_recorded(target: Target, larger: PyExperimenter) -> None:
    larger.remove_experiments(where={"seed": 0}, dry_run=True)
    larger.remove_experiments(where={"seed": 99})
    assert larger._store.events("removal") == []
    removed = larger.remove_experiments(where={"seed": 0}, states="created")
    (event,) = larger._store.events("removal")
    assert event["experiments"] == removed > 0
    assert (event["states"], event["where"]) == ("created", {"seed": 0})
    assert "(process " in event["by"]
