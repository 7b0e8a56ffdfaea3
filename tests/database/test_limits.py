"""Tables with many columns: as many as the server takes, or an error that names the fields before anything is made."""

from __future__ import annotations

from typing import Any

import pytest

from pyexperimenter import PyExperimenter
from pyexperimenter.exceptions import CreatingTableError, DatabaseLimitError, DuplicateExperimentsError
from tests.support.study import RESULTFIELDS, experimenter, store, study, worker
from tests.support.target import Target


def wide(target: Target, keyfields: tuple[int, str], resultfields: tuple[int, str], **changes: Any) -> PyExperimenter:
    """Return a study with so many fields of these types."""
    config = study(
        target,
        keyfields=dict.fromkeys((f"k{number}" for number in range(keyfields[0])), keyfields[1]),
        resultfields=dict.fromkeys((f"r{number}" for number in range(resultfields[0])), resultfields[1]),
        **changes,
    )
    return experimenter(target, config)


def tables_of(target: Target) -> list[str]:
    show = {
        "sqlite": "SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'",
        "mysql": "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()",
        "postgresql": "SELECT relname FROM pg_class WHERE relname LIKE 'study%'",
    }
    return sorted(name for (name,) in target.query(show[target.provider]))


@pytest.mark.parametrize("kind", ["VARCHAR(255)", "INT", "DOUBLE", "BOOL", "DATETIME", "DECIMAL(10,2)", "JSON"])
def test_200_keyfields(target: Target, kind: str) -> None:
    number = 180 if target.name == "mysql" and kind in ("VARCHAR(255)", "JSON") else 200  # MySQL takes no more
    study_ = wide(target, (number, kind), (2, "DOUBLE"))
    values: list[Any] = [f"2026-01-0{day} 00:00:00" if kind == "DATETIME" else day % 2 for day in (1, 2)]
    first = dict.fromkeys((f"k{index}" for index in range(number)), values[0])
    last = f"k{number - 1}"
    rows = [first, first | {last: values[1]}, first | {last: None}, first | {last: None, "k0": None}]
    assert study_.fill_table_with_rows(rows) == (4, 0)
    assert study_.fill_table_with_rows(rows) == (0, 4)
    assert study_.execute(lambda keyfields, results, custom: {"r0": 1, "r1": 2}) == 4
    assert study_.counts()["done"] == 4


def test_one_experiment_with_1200_keyfields(sqlite_target: Target) -> None:
    study_ = wide(sqlite_target, (1200, "INT"), (1, "INT"))
    row = {f"k{number}": number for number in range(1200)}
    for keyfields in (row, row | {"k1199": 0}):  # the first differences are late
        study_.add_experiment_and_execute(keyfields, lambda keyfields, results, custom: {"r0": keyfields["k1199"]})
    assert study_.get_table()["r0"].tolist() == [1199, 0]


def test_400_results_with_timestamps(target: Target) -> None:
    study_ = wide(target, (2, "VARCHAR(255)"), (400, "DOUBLE"), result_timestamps=True)
    study_.fill_table_with_rows([{"k0": "a" * 255, "k1": "b" * 255}])
    names = [f"r{number}" for number in range(400)]
    study_.execute(lambda keyfields, results, custom: dict.fromkeys(names, 0.5))
    table = study_.get_table()
    assert table["status"].tolist() == ["done"], table["error"].tolist()
    assert {(table[name][0], str(table[f"{name}_timestamp"].dtype)) for name in names} == {(0.5, "datetime64[us]")}


TOO_MANY = {
    "keyfields": {"keyfields": dict.fromkeys((f"k{number}" for number in range(2100)), "INT")},
    "results": {"resultfields": dict.fromkeys((f"r{number}" for number in range(2100)), "DOUBLE")},
    "logs": {"logtables": {"few": {"x": "INT"}, "many": dict.fromkeys((f"l{n}" for n in range(2100)), "DOUBLE")}},
}


@pytest.mark.parametrize("what", TOO_MANY)
def test_too_many_fields_are_named_and_nothing_is_made(target: Target, what: str) -> None:
    study_ = experimenter(target, study(target, **TOO_MANY[what]))
    named = {
        "keyfields": r"study would be too large for \w+ with 2100 keyfields \(k0, ..., k2099\) and 2 resultfields",
        "results": r"study would be too large for \w+ with 2 keyfields \(dataset, seed\) and 2100 resultfields \(r0, ",
        "logs": r"study__many would be too large for \w+ with 21\d\d columns \(ID, ..., \w+\)",
    }
    for _ in range(2):
        with pytest.raises(CreatingTableError, match=rf"{named[what]}.* One JSON field holds"):
            study_.create_table()
        assert tables_of(target) == []


@pytest.mark.parametrize("what", ["results", "logs"])
def test_a_migration_to_too_many_fields_changes_nothing(target: Target, what: str) -> None:
    study_ = experimenter(target, study(target, logtables={"many": {"l0": "DOUBLE"}}))
    study_.fill_table_from_config()
    before = {name: columns_of(target, name) for name in ("study", "study__many")}
    changes = {"resultfields": {**RESULTFIELDS, **TOO_MANY["results"]["resultfields"]}} if what == "results" else {}
    logtables = {"many": TOO_MANY["logs"]["logtables"]["many"] if what == "logs" else {"l0": "DOUBLE"}}
    with pytest.raises(CreatingTableError, match=r"would be too large for .* One JSON field holds"):
        experimenter(target, study(target, logtables=logtables, **changes)).migrate()
    assert {name: columns_of(target, name) for name in before} == before
    assert study_.execute(lambda keyfields, results, custom: {"accuracy": 1}) == 6


def columns_of(target: Target, table: str) -> list[str]:
    connection = target.connect()
    cursor = connection.cursor()
    cursor.execute(f"SELECT * FROM {table} WHERE 1 = 0")
    names = [column[0] for column in cursor.description]
    connection.close()
    return names


def test_results_that_no_row_can_hold_are_named(postgresql_target: Target) -> None:
    """PostgreSQL makes such a table, and refuses the first complete row."""
    fits = wide(postgresql_target, (1, "INT"), (900, "DOUBLE"))
    fits.fill_table_with_rows([{"k0": 1}])
    fits.execute(lambda keyfields, results, custom: {f"r{number}": 1 for number in range(900)})
    assert fits.counts()["done"] == 1
    fits.delete_table()
    message = r"\(r0, ..., r1199\): a complete row has at least 98\d\d bytes, but at most 8160 are possible"
    with pytest.raises(CreatingTableError, match=message):
        wide(postgresql_target, (1, "INT"), (1200, "DOUBLE")).fill_table_with_rows([{"k0": 1}])
    assert tables_of(postgresql_target) == []


def test_texts_too_many_for_one_row_are_stored_elsewhere(mariadb_target: Target) -> None:
    study_ = wide(mariadb_target, (2, "VARCHAR(255)"), (90, "VARCHAR(255)"))
    study_.fill_table_with_rows([{"k0": "a", "k1": "b"}])
    study_.execute(lambda keyfields, results, custom: {f"r{number}": "ä" * 255 for number in range(90)})
    assert study_.get_table().loc[0, "r89"] == "ä" * 255
    assert study_.migrate() == []
    more = wide(mariadb_target, (2, "VARCHAR(255)"), (100, "VARCHAR(255)"))
    assert len(more.migrate()) == 10


def test_the_timestamps_of_older_versions_are_texts_and_stay_so(target: Target) -> None:
    config = study(target, result_timestamps=True)
    study_ = experimenter(target, config)
    study_.fill_table_from_config()
    target.query("ALTER TABLE study DROP COLUMN accuracy_timestamp")
    target.query("ALTER TABLE study ADD COLUMN accuracy_timestamp VARCHAR(255)")
    study_.execute(lambda keyfields, results, custom: {"accuracy": 1, "model": "m"})
    table = study_.get_table()
    assert (table["accuracy_timestamp"] == table["model_timestamp"]).all()
    assert study_.get_table({"accuracy_timestamp": table["accuracy_timestamp"][0]})["ID"].tolist()[0] == 1
    assert isinstance(target.query("SELECT accuracy_timestamp FROM study")[0][0], str)
    assert study_.migrate() == []


# How versions before made it.
OLD_IDENTITY = (
    'CREATE UNIQUE INDEX study__identity ON study (sha256((coalesce(encode(sha256(replace("dataset"::text, chr(92), '
    "repeat(chr(92), 2))::bytea), 'hex'), 'NULL') || ' ' || coalesce(\"seed\"::text, 'NULL'))::bytea))"
)


def test_the_identity_of_older_versions_stays_and_can_be_migrated(postgresql_target: Target) -> None:
    target = postgresql_target
    opened = store(target)
    target.query(opened.schema.drop_identity("study__identity"))
    target.query(OLD_IDENTITY)
    study_ = experimenter(target)
    assert study_.fill_table_from_config() == (0, 6)
    ((definition,),) = target.query("SELECT indexdef FROM pg_indexes WHERE indexname = 'study__identity'")
    assert "coalesce" in definition.lower()
    assert opened.claim(worker()) is not None
    with_kernel = {**study(target)["PY_EXPERIMENTER"]["Database"]["table"]["keyfields"], "kernel": "INT"}
    migrated = experimenter(target, study(target, keyfields=with_kernel))
    migrated.migrate(defaults={"kernel": 1})
    ((definition,),) = target.query("SELECT indexdef FROM pg_indexes WHERE indexname = 'study__identity'")
    assert "json_object" in definition
    assert migrated.fill_table_with_rows([{"dataset": "iris", "seed": 0, "kernel": 1}]) == (0, 1)
    with pytest.raises(DuplicateExperimentsError):
        target.query(migrated._store.schema.drop_identity("study__identity"))
        target.query("INSERT INTO study (dataset, seed, kernel) VALUES ('iris', 0, 1)")
        migrated.create_table()


@pytest.fixture
def compact(mariadb_target: Target) -> Any:
    mariadb_target.query("SET GLOBAL innodb_default_row_format = compact")
    yield mariadb_target
    mariadb_target.query("SET GLOBAL innodb_default_row_format = dynamic")


def test_the_row_format_does_not_depend_on_the_server(compact: Target) -> None:
    study_ = experimenter(compact)
    assert study_.fill_table_from_config() == (6, 0)
    formats = compact.query("SELECT DISTINCT row_format FROM information_schema.tables WHERE table_schema = DATABASE()")
    assert formats == [("Dynamic",)]


def test_a_table_in_an_old_row_format_is_named_with_the_remedy(compact: Target) -> None:
    compact.query(store(compact, filled=False).schema.create_main().replace("ROW_FORMAT=DYNAMIC", ""))
    with pytest.raises(CreatingTableError, match=r"ALTER TABLE \.\.\. ROW_FORMAT=DYNAMIC"):
        experimenter(compact).create_table()
    compact.query("ALTER TABLE study ROW_FORMAT=DYNAMIC")
    assert experimenter(compact).fill_table_from_config() == (6, 0)


def test_no_id_is_left(target: Target) -> None:
    """A person gave a row the largest ID. MySQL takes rows that get the same one for rows that exist."""
    if target.name == "postgresql":
        pytest.skip("there, an ID cannot be given by hand")

    def seeds(number: int) -> PyExperimenter:
        return experimenter(target, study(target, keyfields={"seed": {"type": "INT", "values": list(range(number))}}))

    seeds(2).fill_table_from_config()
    target.query(f"INSERT INTO study (ID, seed) VALUES ({2**63 - 1}, 1000)")
    with pytest.raises(DatabaseLimitError, match=r"the IDs are used up; .* give the row with the largest another ID"):
        seeds(4).fill_table_from_config()
    assert target.query("SELECT COUNT(*) FROM study") == [(3,)]
    target.query(f"UPDATE study SET ID = 3 WHERE ID = {2**63 - 1}")
    counter = "ALTER TABLE study AUTO_INCREMENT = 1"
    target.query("UPDATE sqlite_sequence SET seq = 3 WHERE name = 'study'" if target.name == "sqlite" else counter)
    assert seeds(4).fill_table_from_config() == (2, 2)


def test_ids_given_by_hand(target: Target) -> None:
    if target.name == "postgresql":
        pytest.skip("there, an ID cannot be given by hand")
    study_ = experimenter(target)
    study_.fill_table_from_config()
    target.query("UPDATE study SET ID = -5 WHERE ID = 1")
    target.query("UPDATE study SET ID = 0 WHERE ID = 2")
    assert study_.execute(lambda keyfields, results, custom: 1 / 0, random_order=True) == 6
    (group,) = study_.error_groups()
    assert (group.count, study_.get_experiment(-5).row["status"]) == (6, "error")
    assert study_.reset_experiments(ids=[-5, 0]) == 2
