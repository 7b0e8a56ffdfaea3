"""Creating, comparing, adopting, migrating and dropping tables."""

from __future__ import annotations

import copy
import json
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

from pyexperimenter import ExperimentStatus, ResultProcessor
from pyexperimenter.exceptions import (
    DatabaseCreationError,
    DatabaseQueryError,
    InvalidColumnError,
    TableHasWrongStructureError,
)
from tests.support.study import KEYFIELDS, RESULTFIELDS, experimenter, statuses, store, study, worker
from tests.support.target import Target, write_credentials

# What py-experimenter 1.4.2 was seen to create, on SQLite and on MariaDB.
PREDECESSOR = {
    "sqlite": [
        "CREATE TABLE study (ID INTEGER PRIMARY KEY AUTOINCREMENT, dataset VARCHAR(50) DEFAULT NULL,"
        "seed INT DEFAULT NULL,creation_date DATETIME DEFAULT NULL,status VARCHAR(255) DEFAULT NULL,"
        "start_date DATETIME DEFAULT NULL,name LONGTEXT DEFAULT NULL,machine VARCHAR(255) DEFAULT NULL,"
        "accuracy DOUBLE DEFAULT NULL,model LONGTEXT DEFAULT NULL,end_date DATETIME DEFAULT NULL,"
        "error LONGTEXT DEFAULT NULL)",
        "CREATE TABLE study__epochs (ID INTEGER PRIMARY KEY AUTOINCREMENT, experiment_id INTEGER, timestamp DATETIME,"
        " epoch INT DEFAULT NULL,loss DOUBLE DEFAULT NULL,"
        " FOREIGN KEY (experiment_id) REFERENCES study(ID) ON DELETE CASCADE)",
    ],
    "mysql": [
        "CREATE TABLE study (ID int(11) NOT NULL AUTO_INCREMENT, dataset varchar(50) DEFAULT NULL,"
        " seed int(11) DEFAULT NULL, creation_date datetime DEFAULT NULL, status varchar(255) DEFAULT NULL,"
        " start_date datetime DEFAULT NULL, name longtext DEFAULT NULL, machine varchar(255) DEFAULT NULL,"
        " accuracy double DEFAULT NULL, model longtext DEFAULT NULL, end_date datetime DEFAULT NULL,"
        " error longtext DEFAULT NULL, PRIMARY KEY (ID)) ENGINE=InnoDB DEFAULT CHARSET=latin1",
        "CREATE TABLE study__epochs (ID int(11) NOT NULL AUTO_INCREMENT, experiment_id int(11) DEFAULT NULL,"
        " timestamp datetime DEFAULT NULL, epoch int(11) DEFAULT NULL, loss double DEFAULT NULL, PRIMARY KEY (ID),"
        " KEY experiment_id (experiment_id), CONSTRAINT study__epochs_ibfk_1 FOREIGN KEY (experiment_id)"
        " REFERENCES study (ID) ON DELETE CASCADE) ENGINE=InnoDB DEFAULT CHARSET=latin1",
    ],
}


@pytest.fixture
def predecessors_table(target: Target) -> Target:
    if target.provider not in PREDECESSOR:
        pytest.skip(f"py-experimenter knew no {target.provider}")
    for statement in PREDECESSOR[target.provider]:
        target.query(statement)
    for seed, status in ((0, "done"), (1, "error"), (2, "created"), (3, "paused")):
        target.query(
            "INSERT INTO study (dataset, seed, creation_date, status, accuracy) VALUES (?, ?, ?, ?, ?)",
            "iris",
            seed,
            "2023-01-01 10:00:00",
            status,
            1 if status == "done" else None,
        )
    target.query("INSERT INTO study__epochs (experiment_id, timestamp, epoch) VALUES (1, '2023-01-01 10:00:00', 7)")
    return target


def columns_of(target: Target, table: str = "study") -> list[str]:
    connection = target.connect()
    cursor = connection.cursor()
    cursor.execute(f"SELECT * FROM {table}")
    names = [column[0] for column in cursor.description]
    connection.close()
    return names


def test_the_main_table_has_the_predecessors_columns_in_order(target: Target) -> None:
    experimenter(target, study(target, result_timestamps=True)).create_table()
    before = ["ID", "dataset", "seed", "creation_date", "status", "start_date", "name", "machine"]
    results = ["accuracy", "accuracy_timestamp", "model", "model_timestamp"]
    assert columns_of(target) == [*before, *results, "end_date", "error"]
    logs = ["ID", "experiment_id", "timestamp", "epoch", "loss", "attempt_id", "write_token"]
    assert columns_of(target, "study__epochs") == logs


def test_creating_is_idempotent_and_many_may_create_at_once(target: Target) -> None:
    start = threading.Barrier(4)
    problems: list[BaseException] = []

    def create() -> None:
        creating = experimenter(target)
        start.wait()
        try:
            creating.create_table()
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    experimenter(target).fill_table_from_config()
    experimenter(target).create_table()
    assert target.query("SELECT COUNT(*) FROM study") == [(6,)]


def test_ids_are_never_reused(target: Target) -> None:
    study_ = experimenter(target)
    study_.fill_table_with_rows([{"dataset": "a"}, {"dataset": "b"}])
    target.query("DELETE FROM study WHERE dataset = 'b'")
    study_.fill_table_with_rows([{"dataset": "c"}])
    ((newest,),) = target.query("SELECT ID FROM study WHERE dataset = 'c'")
    assert newest > 2


def test_reserved_words_quotes_and_spaces_are_fine_names(target: Target) -> None:
    keyfields = {
        "order": {"type": "INT", "values": [1, 2]},
        "key": {"type": "VARCHAR(9)", "values": ["it's", 'say "no"', "50%", "😀"]},
        "learning rate": {"type": "DOUBLE", "values": [0.1]},
    }
    config = study(
        target,
        name="group",
        keyfields=keyfields,
        resultfields={"rank": "INT", "library": "VARCHAR(20)"},
        logtables={"select": {"from": "INT"}},
    )
    study_ = experimenter(target, config)
    assert study_.fill_table_from_config() == (8, 0)
    assert study_.fill_table_from_config() == (0, 8)

    def function(keyfields: dict[str, Any], results: Any, custom: Any) -> dict[str, Any]:
        results.process_logs({"select": {"from": 1}})
        return {"rank": keyfields["order"], "library": keyfields["key"]}

    assert study_.execute(function, where={"learning rate": 0.1}, order_by="-order") == 8
    table = study_.get_table()
    assert table["library"].tolist() == table["key"].tolist()
    assert len(study_.get_logtable("select")) == 8
    assert study_.reset_experiments("done", where={"key": "50%"}) == 2
    study_.delete_table()


def test_a_table_of_the_predecessor_is_taken_as_it_is(predecessors_table: Target) -> None:
    target = predecessors_table
    before = target.query("SELECT * FROM study ORDER BY ID")
    study_ = experimenter(target)
    table = study_.get_table()
    assert table["status"].tolist() == ["done", "error", "created", "paused"]
    assert study_.get_logtable("epochs")["epoch"].tolist() == [7]
    assert len(study_.get_attempts()) == 0
    assert target.query("SELECT * FROM study ORDER BY ID") == before
    assert study_.fill_table_from_config() == (3, 3)
    assert target.query("SELECT * FROM study WHERE ID <= 4 ORDER BY ID") == before
    assert columns_of(target)[-1] == "error"
    assert study_.get_logtable("epochs")["epoch"].tolist() == [7]
    assert study_.reset_experiments("error") == 1

    def function(keyfields: dict[str, Any], results: Any, custom: Any) -> None:
        results.process_logs({"epochs": {"epoch": keyfields["seed"]}})
        results.process_results({"accuracy": 1, "model": "é"})

    assert study_.execute(function) == 5
    study_.unpause_experiment(4, function)
    assert study_.counts() == {"created": 0, "running": 0, "done": 7, "error": 0, "paused": 0}
    assert sorted(study_.get_logtable("epochs")["epoch"]) == [0, 1, 1, 2, 2, 3, 7]
    study_.reset_experiments(ids=[1])
    study_.execute(function)
    assert study_.get_logtable("epochs", "experiment_id = 1")["epoch"].tolist() == [0]


ADDED = {
    "study__attempts": ["token", "replayed", "git_diff_hash"],
    "study__epochs": ["attempt_id", "write_token"],
    "study__meta": ["config"],
}


@pytest.mark.parametrize("use", ["fill", "add", "execute", "attach", "unpause", "reset", "release", "sync"])
def test_each_use_adds_what_an_older_version_did_not_make(target: Target, tmp_path: Path, use: str) -> None:
    study_ = experimenter(target, study(target, Execution={"isolation": "none", "journal": str(tmp_path)}))
    study_.fill_table_from_config()
    study_.execute(lambda *_: ExperimentStatus.PAUSED, max_experiments=1)
    running = study_._store.claim(replace(worker(), identity="old"))
    assert running is not None
    for table, names in ADDED.items():
        for name in names:
            target.query(f"ALTER TABLE {table} DROP COLUMN {name}")
    # As the older version wrote it.
    attempt = {"id": running.attempt.id, "experiment_id": 2, "row_status": "running"}
    note = {"time": "2026-01-02 03:04:05", "token": "t", "results": {"accuracy": 0.5}, "logs": {}, "ending": None}
    line = json.dumps({"worker": "old", "attempt": attempt, "note": note})
    if use == "sync":
        (tmp_path / "study.old.journal.jsonl").write_text(line + "\n")

    def log(*arguments: Any) -> None:
        results = next(argument for argument in arguments if isinstance(argument, ResultProcessor))
        results.process_logs({"epochs": {"epoch": 1}})

    uses: dict[str, Callable[[], Any]] = {
        "fill": study_.fill_table_from_config,
        "add": lambda: study_.add_experiment_and_execute({"dataset": "new"}, log),
        "execute": lambda: study_.execute(log),
        "attach": lambda: study_.attach(log, 1),
        "unpause": lambda: study_.unpause_experiment(1, log),
        "reset": lambda: study_.reset_experiments("paused"),
        "release": study_.release_experiments,
        "sync": study_.sync,
    }
    result = uses[use]()
    for table, names in ADDED.items():
        assert set(names) <= set(columns_of(target, table))
    expected = {
        "fill": ((0, 6), {"paused": 1, "running": 1, "created": 4}),
        "add": (7, {"paused": 1, "running": 1, "created": 4, "done": 1}),
        "execute": (4, {"paused": 1, "running": 1, "done": 4}),
        "attach": (None, {"paused": 1, "running": 1, "created": 4}),
        "unpause": (None, {"done": 1, "running": 1, "created": 4}),
        "reset": (1, {"running": 1, "created": 5}),
        "release": (1, {"paused": 1, "created": 5}),
        "sync": (1, {"paused": 1, "running": 1, "created": 4}),
    }
    assert (result, statuses(target)) == expected[use]
    tokens = [token for (token,) in target.query("SELECT token FROM study__attempts WHERE ID > 2 ORDER BY ID")]
    assert len(set(tokens)) == len(tokens) == {"add": 1, "execute": 4, "attach": 1, "unpause": 1}.get(use, 0)
    assert all(tokens)
    if use == "sync":
        assert target.query("SELECT accuracy FROM study WHERE ID = 2") == [(0.5,)]


def test_workers_that_start_together_add_a_column_once(target: Target) -> None:
    store(target)
    target.query("ALTER TABLE study__attempts DROP COLUMN token")
    start = threading.Barrier(4)

    def begin(_: int) -> str:
        opened = store(target, filled=False)
        start.wait(30)
        opened.tables.create(codecarbon=False, identity=False)
        experiment = opened.claim(worker())
        opened.database.close()
        return experiment.attempt.token if experiment is not None else ""

    with ThreadPoolExecutor(4) as pool:
        tokens = sorted(pool.map(begin, range(4)))
    assert all(tokens)
    assert tokens == sorted(token for (token,) in target.query("SELECT token FROM study__attempts"))


def test_letters_that_an_old_table_cannot_hold_are_the_rows_error(predecessors_table: Target) -> None:
    if predecessors_table.provider == "sqlite":
        pytest.skip("SQLite holds all letters in any table")
    study_ = experimenter(predecessors_table)

    def function(keyfields: dict[str, Any], results: Any, custom: Any) -> None:
        results.process_results({"accuracy": 1, "model": "😀"})

    study_.execute(function)
    ((status, accuracy, error),) = predecessors_table.query("SELECT status, accuracy, error FROM study WHERE ID = 3")
    assert (status, accuracy) == ("error", 1)
    assert "InvalidValueError: model: " in error


def test_a_column_of_the_predecessor_that_rounds_is_reported(mariadb_target: Target) -> None:
    for statement in PREDECESSOR["mysql"]:
        mariadb_target.query(statement.replace("accuracy double", "accuracy decimal(10,0)"))
    decimal = experimenter(
        mariadb_target, study(mariadb_target, resultfields={"accuracy": "DECIMAL", "model": "LONGTEXT"})
    )
    remedy = r"accuracy is decimal\(10,0\), which rounds .* ALTER TABLE `study` MODIFY `accuracy` DOUBLE"
    with pytest.warns(UserWarning, match=remedy):
        decimal.create_table()
    mariadb_target.query("ALTER TABLE `study` MODIFY `accuracy` DOUBLE")
    decimal.create_table()
    double = experimenter(mariadb_target)
    mariadb_target.query("ALTER TABLE `study` MODIFY `accuracy` DECIMAL(10,2)")
    with pytest.raises(TableHasWrongStructureError, match=r"accuracy is decimal\(10,2\), configured is DOUBLE"):
        double.create_table()


@pytest.mark.parametrize(
    ("changes", "differences"),
    [
        (
            {"keyfields": {**KEYFIELDS, "kernel": "VARCHAR(9)"}, "resultfields": {"accuracy": "INT"}},
            [
                "study.kernel is missing; migrate() adds it",
                ", configured is INT; change one of the two",
            ],
        ),
        (
            {"logtables": {"epochs": {"epoch": "VARCHAR(9)", "step": "INT"}}},
            ["study__epochs.epoch is ", "study__epochs.step is missing"],
        ),
    ],
)
def test_every_difference_of_an_existing_table_is_named(
    target: Target, changes: dict[str, Any], differences: list[str]
) -> None:
    experimenter(target).fill_table_from_config()
    with pytest.raises(TableHasWrongStructureError) as error:
        experimenter(target, study(target, **changes)).fill_table_from_config()
    for difference in differences:
        assert difference in str(error.value)
    assert "call migrate() to add what is missing" in str(error.value)
    assert target.query("SELECT COUNT(*) FROM study") == [(6,)]


def test_a_column_too_narrow_for_the_config_is_a_difference(target: Target) -> None:
    experimenter(target).create_table()
    wider = {**KEYFIELDS, "dataset": {"type": "VARCHAR(60)", "values": ["iris"]}}
    study_ = experimenter(target, study(target, keyfields=wider))
    if target.provider == "sqlite":  # which stores any length
        study_.create_table()
    else:
        with pytest.raises(
            TableHasWrongStructureError, match=r"study\.dataset is varchar\(50\), configured is VARCHAR"
        ):
            study_.create_table()


def test_migrate_adds_what_is_missing_in_place(target: Target) -> None:
    old = experimenter(target)
    old.fill_table_from_config()
    old.execute(lambda *_: {"accuracy": 0.5}, max_experiments=2)
    kept = target.query("SELECT ID, dataset, seed, status, accuracy FROM study ORDER BY ID")
    config = study(
        target,
        keyfields={"kernel": {"type": "VARCHAR(9)", "values": ["rbf", "poly"]}, **KEYFIELDS},
        resultfields={**RESULTFIELDS, "f1": "DOUBLE"},
        logtables={"epochs": {"epoch": "INT", "loss": "DOUBLE", "rate": "DOUBLE"}, "extra": {"x": "INT"}},
    )
    new = experimenter(target, config)
    with pytest.raises(TableHasWrongStructureError, match=r"study has 6 rows, .* call migrate\(defaults=\{'kernel': "):
        new.migrate()
    with pytest.raises(InvalidColumnError, match="'f1' is not a new keyfield; new are kernel"):
        new.migrate(defaults={"kernel": "rbf", "f1": 1})
    steps = new.migrate(dry_run=True, defaults={"kernel": "rbf"})
    assert columns_of(target)[1] == "dataset"
    assert new.migrate(defaults={"kernel": "rbf"}) == steps
    assert steps == [
        "add column study.kernel VARCHAR(9)",
        "add column study.f1 DOUBLE",
        "set study.kernel to 'rbf' in 6 rows",
        "add column study__epochs.rate DOUBLE",
        "create table study__extra",
    ]
    assert new.migrate() == []
    assert target.query("SELECT ID, dataset, seed, status, accuracy FROM study ORDER BY ID") == kept
    assert target.query("SELECT DISTINCT kernel, f1 FROM study") == [("rbf", None)]
    assert new.fill_table_from_config() == (6, 6)
    assert list(new.get_table().columns)[:4] == ["ID", "kernel", "dataset", "seed"]
    new.execute(lambda k, results, c: results.process_logs({"extra": {"x": 1}, "epochs": {"rate": 0.1}}))
    assert len(new.get_logtable("extra")) == 10


def test_migrate_creates_the_table_if_there_is_none(target: Target) -> None:
    study_ = experimenter(target)
    assert study_.migrate() == ["create table study"]
    assert study_.counts()["created"] == 0
    assert study_.migrate() == []


def test_migrate_refuses_what_it_cannot_fix(target: Target) -> None:
    experimenter(target).create_table()
    changed = experimenter(
        target, study(target, resultfields={"accuracy": "LONGTEXT", "model": "LONGTEXT", "f1": "INT"})
    )
    with pytest.raises(TableHasWrongStructureError, match=r"cannot change this:\n  study\.accuracy is "):
        changed.migrate()
    assert "f1" not in columns_of(target)


def test_delete_table_drops_all_side_tables_and_nothing_else(target: Target) -> None:
    target.query("CREATE TABLE study_notes (note VARCHAR(20))")
    target.query("CREATE TABLE study__other (note VARCHAR(20))")
    with_logs = experimenter(target, study(target, CodeCarbon={"offline_mode": True, "country_iso_code": "DEU"}))
    with_logs.fill_table_from_config()
    experimenter(target, study(target, logtables={})).delete_table()
    show = "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'study%'"
    if target.provider == "postgresql":
        show = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'study%'"
    elif target.provider == "mysql":
        show = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"
    assert sorted(target.query(show)) == [("study__other",), ("study_notes",)]


def test_the_configuration_is_kept_with_the_table(target: Target) -> None:
    study_ = experimenter(target)
    study_.fill_table_from_config()
    study_.fill_table_from_config()
    ((version, config),) = target.query("SELECT schema_version, config FROM study__meta")
    assert version == 1
    assert "VARCHAR(50)" in config
    experimenter(target, study(target, n_jobs=7)).create_table()
    assert len(target.query("SELECT ID FROM study__meta")) == 2


def test_create_database(target: Target) -> None:
    if target.server is None:
        with pytest.raises(DatabaseCreationError, match="is not a directory; create it, or choose another path"):
            experimenter(target, database_name=f"{target.database}/no/where.db").create_table(create_database=True)
        return
    name = f"{target.database}_new"
    try:
        study_ = experimenter(target, database_name=name)
        study_.create_table(create_database=True)
        study_.create_table(create_database=True)
        assert study_.counts()["created"] == 0
    finally:
        target.server.drop_database(name)


@pytest.mark.parametrize("target", ["mariadb", "mysql", "postgresql"], indirect=True)
def test_a_user_who_may_not_create_the_database(target: Target, tmp_path: Path) -> None:
    server = target.server
    assert server is not None
    user = f"guest_{target.database}"
    server.create_user(user, "secret", target.database)
    guest = copy.copy(server)
    guest.user, guest.password = user, "secret"
    file = write_credentials(tmp_path / "c.yml", guest)
    try:
        with pytest.raises(DatabaseCreationError, match="check user, password and the user's grants"):
            name = f"{target.database}_new"
            experimenter(replace(target, credentials_file=file), database_name=name).create_table(create_database=True)
    finally:
        server.drop_user(user, target.database)


def test_a_column_of_a_type_that_is_none_of_ours_is_a_difference(target: Target) -> None:
    experimenter(target).create_table()
    target.query("ALTER TABLE study DROP COLUMN model")
    target.query("ALTER TABLE study ADD COLUMN model POINT")
    with pytest.raises(TableHasWrongStructureError, match=r"(?i)study\.model is point, configured is LONGTEXT"):
        experimenter(target).create_table()


def test_foreign_keys_are_enforced(target: Target) -> None:
    opened = store(target)
    assert opened.database.dialect
    refused = (sqlite3.IntegrityError, pymysql.err.IntegrityError, psycopg.IntegrityError)
    with pytest.raises(refused, match=r"(?i)foreign key"):
        target.query("INSERT INTO study__epochs (experiment_id) VALUES (99)")


def test_tables_that_another_process_changes_for_long_are_not_waited_for_ever(mariadb_target: Target) -> None:
    """For a minute; here for a second."""
    opened = store(mariadb_target, filled=False)
    tables = opened.tables
    take, give_back = tables._dialect.exclusive
    assert take is not None
    tables._dialect = replace(tables._dialect, exclusive=(take.replace(", 60)", ", 1)"), give_back))
    with closing(mariadb_target.connect()) as person:
        cursor = person.cursor()
        cursor.execute("SELECT GET_LOCK(SHA2(%s, 256), 0)", [f"{mariadb_target.database}.study"])
        assert cursor.fetchall() == ((1,),)
        with pytest.raises(DatabaseQueryError, match=r"has been changing the tables of .* for a minute; try again"):
            tables.create(codecarbon=False)
        cursor.execute("SELECT RELEASE_ALL_LOCKS()")
    tables.create(codecarbon=False)
    assert tables.exist()
    opened.database.close()
