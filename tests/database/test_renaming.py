"""Side tables and indexes belong to a table by foreign keys, so that a table can be renamed to keep it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter.exceptions import ClaimLostError, MissingTableError, NameTooLongError, TableHasWrongStructureError
from pyexperimenter.experiment_status import ExperimentStatus
from tests.database.test_additions import tables
from tests.support.mariadb import PrivateMariaDB
from tests.support.study import experimenter, statuses, store, study, worker
from tests.support.target import Target, write_credentials


def function(keyfields: dict[str, Any], results: Any, custom: Any) -> dict[str, Any]:
    results.process_logs({"epochs": {"epoch": keyfields["seed"]}})
    return {"accuracy": 1}


def rename(target: Target, name: str, new: str) -> None:
    target.query(f"ALTER TABLE {name} RENAME TO {new}")


def contents(target: Target, name: str) -> tuple[int, int, int]:
    """Return how many attempts, logs and configurations a study has."""
    opened = experimenter(target, study(target, name=name))
    configurations = target.query(f"SELECT COUNT(*) FROM {name}__meta WHERE event IS NULL")[0][0]
    return len(opened.get_attempts()), len(opened.get_logtable("epochs")), configurations


@pytest.fixture
def kept(target: Target) -> Target:
    """A database with a study that has been executed and then renamed to `kept`."""
    study_ = experimenter(target)
    study_.fill_table_from_config()
    study_.execute(function, max_experiments=4)
    rename(target, "study", "kept")
    return target


def test_a_renamed_study_finds_its_side_tables_and_indexes(kept: Target) -> None:
    again = experimenter(kept, study(kept, name="kept"))
    for read in (again.get_attempts, lambda: again.get_logtable("epochs")):
        with pytest.raises(
            MissingTableError, match=r"kept was renamed, but study__attempts has kept its name; create_table"
        ):
            read()
    assert again.fill_table_from_config() == (0, 6)
    assert tables(kept) == ["kept", "kept__attempts", "kept__epochs", "kept__meta"]
    assert contents(kept, "kept") == (4, 4, 2)
    assert again.execute(function) == 2
    assert len(again.get_attempts()) == 6
    assert again.migrate() == []
    again.delete_table()
    assert tables(kept) == []


def test_a_new_study_of_the_old_name_leaves_the_renamed_one_alone(kept: Target) -> None:
    new = experimenter(kept)
    assert new.fill_table_from_config() == (6, 0)
    assert new.execute(function) == 6
    assert contents(kept, "study") == (6, 6, 1)
    old = experimenter(kept, study(kept, name="kept"))
    assert old.fill_table_from_config() == (0, 6)
    assert contents(kept, "kept") == (4, 4, 2)
    assert old.execute(function) == 2
    new.delete_table()
    assert tables(kept) == ["kept", "kept__attempts", "kept__epochs", "kept__meta"]
    assert contents(kept, "kept") == (6, 6, 2)


def test_a_renamed_study_can_be_deleted_without_being_opened_before(kept: Target) -> None:
    experimenter(kept, study(kept, name="kept", logtables={})).delete_table()
    assert tables(kept) == []


def test_both_studies_may_be_opened_at_once(kept: Target) -> None:
    names = ["study", "kept"] * 3
    start = threading.Barrier(len(names))

    def open_(name: str) -> None:
        opened = experimenter(kept, study(kept, name=name))
        start.wait(60)
        opened.create_table()

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(open_, names))
    assert len(tables(kept)) == 8
    assert contents(kept, "kept")[:2] == (4, 4)
    assert contents(kept, "study")[:2] == (0, 0)


def test_two_studies_can_swap_their_names(kept: Target) -> None:
    experimenter(kept).fill_table_from_config()
    for name, new in (("study", "third"), ("kept", "study"), ("third", "kept")):
        rename(kept, name, new)
    assert experimenter(kept).fill_table_from_config() == (0, 6)
    assert contents(kept, "study")[:2] == (4, 4)
    assert experimenter(kept, study(kept, name="kept")).fill_table_from_config() == (0, 6)
    assert contents(kept, "kept")[:2] == (0, 0)
    assert contents(kept, "study")[:2] == (4, 4)
    assert len(tables(kept)) == 8


def test_a_study_may_be_moved_to_another_schema(postgresql_target: Target) -> None:
    target = postgresql_target
    experimenter(target).fill_table_from_config()
    experimenter(target).execute(function, max_experiments=4)
    target.query("CREATE SCHEMA archive")
    target.query("ALTER TABLE study SET SCHEMA archive")
    assert experimenter(target).fill_table_from_config() == (6, 0)
    assert contents(target, "study")[:2] == (0, 0)
    target.query(f"ALTER DATABASE {target.database} SET search_path = archive, public")
    archived = experimenter(target)
    assert archived.fill_table_from_config() == (0, 6)
    assert contents(target, "study")[:2] == (4, 4)
    archived.delete_table()
    target.query(f"ALTER DATABASE {target.database} RESET search_path")
    assert experimenter(target).fill_table_from_config() == (0, 6)
    assert tables(target) == ["study", "study__attempts", "study__epochs", "study__meta"]


def test_logtables_that_only_the_renamed_study_has_stay_with_it(target: Target) -> None:
    logtables = {"a": {"x": "INT"}, "b__a": {"x": "INT"}}
    old = experimenter(target, study(target, logtables=logtables))
    old.fill_table_from_config()
    old.execute(lambda k, results, c: results.process_logs({"a": {"x": 1}, "b__a": {"x": 2}}), max_experiments=1)
    rename(target, "study", "study__b")
    experimenter(target, study(target, logtables={"b__a": {"x": "INT"}})).fill_table_from_config()
    again = experimenter(target, study(target, name="study__b", logtables=logtables))
    again.fill_table_from_config()
    assert [again.get_logtable(name)["x"].tolist() for name in logtables] == [[1], [2]]


def test_a_worker_of_the_renamed_study_does_not_write_to_the_new_one(target: Target) -> None:
    opened = store(target)
    experiment = opened.claim(worker())
    assert experiment is not None
    rename(target, "study", "kept")
    new = store(target)
    again = new.claim(worker())
    assert again is not None
    assert again.attempt.id == experiment.attempt.id
    for write in (
        lambda: opened.write_results(experiment.attempt, {"accuracy": 1}),
        lambda: opened.finish(experiment.attempt, ExperimentStatus.DONE),
    ):
        with pytest.raises(ClaimLostError):
            write()
    assert statuses(target) == {"created": 5, "running": 1}
    assert target.query("SELECT COUNT(accuracy) FROM study") == [(0,)]


def test_side_tables_of_an_older_version_are_found_as_well(target: Target) -> None:
    study_ = experimenter(target)
    study_.fill_table_from_config()
    target.query("DROP TABLE study__meta")
    number = {"sqlite": "INTEGER PRIMARY KEY", "mysql": "BIGINT PRIMARY KEY AUTO_INCREMENT"}
    kind = number.get(target.provider, "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY")
    target.query(
        f"CREATE TABLE study__meta (ID {kind}, created VARCHAR(30), schema_version INT, library_version VARCHAR(99), "
        "config TEXT)"
    )
    target.query("INSERT INTO study__meta (config) VALUES ('old')")
    rename(target, "study", "kept")
    experimenter(target).fill_table_from_config()
    assert contents(target, "study") == (0, 0, 1)
    experimenter(target, study(target, name="kept")).fill_table_from_config()
    assert contents(target, "kept") == (0, 0, 2)


def test_side_tables_whose_study_is_gone_are_not_taken_over(target: Target) -> None:
    study_ = experimenter(target)
    study_.fill_table_from_config()
    study_.execute(function, max_experiments=1)
    if target.provider == "postgresql":
        pytest.skip("PostgreSQL drops no table that others refer to")
    connection = target.connect()
    connection.cursor().execute(
        "PRAGMA foreign_keys = OFF" if target.provider == "sqlite" else "SET foreign_key_checks = 0"
    )
    connection.cursor().execute("DROP TABLE study")
    connection.close()
    with pytest.raises(TableHasWrongStructureError, match=r"study__attempts.* left of a table study.* delete_table"):
        study_.fill_table_from_config()
    assert "study" not in tables(target)
    study_.delete_table()
    assert study_.fill_table_from_config() == (6, 0)
    assert len(study_.get_attempts()) == 0


def test_a_table_that_has_the_name_of_a_side_table_is_named(target: Target) -> None:
    target.query("CREATE TABLE study__attempts (note VARCHAR(20))")
    with pytest.raises(TableHasWrongStructureError, match="study__attempts exists, but is not a side table of study"):
        experimenter(target).fill_table_from_config()
    assert tables(target) == ["study__attempts"]


# Names that are too long

LONG = {"sqlite": "ü" * 64, "mysql": "ü" * 63, "postgresql": "ü" * 31}


@pytest.mark.parametrize("end", ["a", "b"])
def test_names_are_as_long_as_the_server_allows_and_derived_names_are_shortened(target: Target, end: str) -> None:
    logtables = {"l" * 60 + "1": {"x": "INT"}, "l" * 60 + "2": {"x": "INT"}}
    names = [f"{LONG[target.provider]}{letter}" for letter in "ab"]
    studies = [experimenter(target, study(target, name=name, logtables=logtables)) for name in names]
    for number, study_ in enumerate(studies):
        assert study_.fill_table_from_config() == (6, 0)
        assert study_.execute(lambda k, results, c: results.process_logs({key: {"x": 1} for key in logtables})) == 6
        assert study_.migrate() == []
        assert len(tables(target)) == 5 * (number + 1)
    for study_ in studies:
        assert [len(study_.get_logtable(name)) for name in logtables] == [6, 6]
    studies[0].delete_table()
    assert studies[1].counts()["done"] == 6
    assert names[1] in tables(target)
    assert len(tables(target)) == 5


@pytest.mark.parametrize("field", ["table", "column"])
def test_names_longer_than_the_server_allows_are_refused(target: Target, field: str) -> None:
    long = "ü" * (65 if target.provider == "mysql" else 40)
    changes = {"name": long} if field == "table" else {"keyfields": {long: "INT"}}
    if target.provider == "sqlite":
        experimenter(target, study(target, **changes)).create_table()
        return
    counted = {"mysql": "65 characters, but mysql allows 64", "postgresql": "80 bytes, but postgresql allows 63"}
    with pytest.raises(NameTooLongError, match=rf"'{long}' has {counted[target.provider]}; shorten it"):
        experimenter(target, study(target, **changes))


def test_a_logtable_under_a_name_that_is_shortened_now_is_found(target: Target) -> None:
    if target.provider == "sqlite":
        pytest.skip("SQLite allows names of any length")
    name = "t" * (45 if target.provider == "mysql" else 54)
    counted = " AUTO_INCREMENT" if target.provider == "mysql" else " GENERATED BY DEFAULT AS IDENTITY"
    number = f"BIGINT PRIMARY KEY{counted}"
    fields = "dataset VARCHAR(50), seed INT, creation_date TIMESTAMP, status VARCHAR(255), start_date TIMESTAMP"
    text = "LONGTEXT" if target.provider == "mysql" else "TEXT"
    fields += f", name {text}, machine VARCHAR(255), accuracy DOUBLE PRECISION, model {text}, end_date TIMESTAMP"
    target.query(f"CREATE TABLE {name} (ID {number}, {fields}, error {text})")
    target.query(
        f"CREATE TABLE {name}__epochs (ID {number}, experiment_id BIGINT, timestamp TIMESTAMP, epoch INT, "
        f"loss DOUBLE PRECISION, FOREIGN KEY (experiment_id) REFERENCES {name} (ID) ON DELETE CASCADE)"
    )
    target.query(f"INSERT INTO {name} (dataset, seed, status) VALUES ('iris', 1, 'done')")
    target.query(f"INSERT INTO {name}__epochs (experiment_id, epoch) VALUES (1, 7)")
    opened = experimenter(target, study(target, name=name))
    assert opened.fill_table_from_config() == (5, 1)
    assert opened.get_logtable("epochs")["epoch"].tolist() == [7]
    opened.delete_table()
    assert tables(target) == []


def test_tables_whose_names_differ_in_case_are_two_where_the_server_says_so(target: Target) -> None:
    experimenter(target).fill_table_from_config()
    other = experimenter(target, study(target, name="Study"))
    if target.provider == "sqlite":
        assert other.fill_table_from_config() == (0, 6)
        assert len(tables(target)) == 4
        return
    assert other.fill_table_from_config() == (6, 0)
    assert len(tables(target)) == 8
    other.delete_table()
    assert tables(target) == ["study", "study__attempts", "study__epochs", "study__meta"]


@pytest.fixture
def without_case(mariadb_target: Target, tmp_path: Path) -> Iterator[Target]:
    """A database on a MariaDB server to which names of tables are the same in upper and lower case."""
    server = PrivateMariaDB("--lower-case-table-names=1")
    server.create_database("pe")
    yield Target("mariadb", "mysql", "pe", server, write_credentials(tmp_path / "c.yml", server))
    server.close()


def test_names_that_differ_in_case_are_one_where_the_server_says_so(without_case: Target) -> None:
    upper = experimenter(without_case, study(without_case, name="Study"))
    assert upper.fill_table_from_config() == (6, 0)
    assert upper.execute(function, max_experiments=4) == 4
    assert experimenter(without_case).fill_table_from_config() == (0, 6)
    rename(without_case, "STUDY", "Kept")
    assert upper.fill_table_from_config() == (6, 0)
    assert experimenter(without_case, study(without_case, name="Kept")).migrate() == []
    assert contents(without_case, "Kept")[:2] == (4, 4)
    upper.delete_table()
    assert tables(without_case) == ["kept", "kept__attempts", "kept__epochs", "kept__meta"]
