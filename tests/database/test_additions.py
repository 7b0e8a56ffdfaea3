"""What a person adds to the tables is fine as long as rows can be inserted, and is never dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pyexperimenter.exceptions import DatabaseQueryError, TableHasWrongStructureError
from tests.support.study import KEYFIELDS, experimenter, statuses, study
from tests.support.target import Target

TRIGGER = {
    "sqlite": [
        "CREATE TRIGGER seen AFTER UPDATE ON study BEGIN UPDATE study SET note = 'seen ' || new.status "
        "WHERE ID = new.ID; END"
    ],
    "mysql": ["CREATE TRIGGER seen BEFORE UPDATE ON study FOR EACH ROW SET NEW.note = CONCAT('seen ', NEW.status)"],
    "postgresql": [
        "CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.note = 'seen ' || NEW.status; RETURN NEW; END $$",
        "CREATE TRIGGER seen BEFORE UPDATE ON study FOR EACH ROW EXECUTE FUNCTION seen()",
    ],
}
WITH_KERNEL = {"kernel": {"type": "VARCHAR(9)", "values": ["rbf", "poly"]}, **KEYFIELDS}


def tables(target: Target) -> list[str]:
    """Return the names of all tables."""
    show = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
        "mysql": "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() "
        "AND table_type = 'BASE TABLE'",
        "postgresql": "SELECT tablename FROM pg_tables WHERE schemaname = 'public'",
    }
    return sorted(name for (name,) in target.query(show[target.provider]))


def test_a_study_goes_on_with_columns_views_triggers_and_indexes_of_others(target: Target, tmp_path: Path) -> None:
    study_ = experimenter(target)
    study_.fill_table_from_config()
    target.query("CREATE VIEW best AS SELECT dataset, accuracy FROM study WHERE status = 'done'")
    for table in ("study", "study__attempts", "study__epochs", "study__meta"):
        target.query(f"ALTER TABLE {table} ADD COLUMN note VARCHAR(50)")
        target.query(f"ALTER TABLE {table} ADD COLUMN mark INT NOT NULL DEFAULT 7")
    target.query("CREATE INDEX notes ON study (note)")
    for statement in TRIGGER[target.provider]:
        target.query(statement)

    def function(keyfields: dict[str, Any], results: Any, custom: Any) -> dict[str, Any]:
        results.process_logs({"epochs": {"epoch": 1}})
        return {"accuracy": 0.5}

    assert experimenter(target).fill_table_from_config() == (0, 6)
    assert experimenter(target).execute(function, max_experiments=4) == 4
    assert target.query("SELECT COUNT(*) FROM best") == [(4,)]
    table = study_.get_table()
    assert list(table.columns)[-2:] == ["note", "mark"]
    assert table["note"].value_counts().to_dict() == {"seen done": 4}
    assert table["mark"].tolist() == [7] * 6
    assert study_.get_logtable("epochs")["mark"].tolist() == [7] * 4
    assert study_.get_experiment(1).row["note"] == "seen done"
    study_.export(tmp_path / "study.csv")
    assert pd.read_csv(tmp_path / "study.csv")["mark"].tolist() == [7] * 6
    study_.reset_experiments("done")
    assert target.query("SELECT COUNT(*) FROM study WHERE note = 'seen created' AND mark = 7") == [(4,)]
    wider = experimenter(target, study(target, keyfields=WITH_KERNEL))
    wider.migrate(defaults={"kernel": "rbf"})
    assert wider.fill_table_from_config() == (6, 6)
    assert wider.execute(function) == 12
    assert statuses(target) == {"done": 12}
    assert target.query("SELECT COUNT(*) FROM best") == [(12,)]


def test_a_resultfield_that_is_no_longer_configured_keeps_its_column(target: Target) -> None:
    experimenter(target).fill_table_from_config()
    experimenter(target).execute(lambda *_: {"accuracy": 0.5, "model": "tree"}, max_experiments=1)
    fewer = experimenter(target, study(target, resultfields={"accuracy": "DOUBLE"}))
    assert fewer.fill_table_from_config() == (0, 6)
    assert fewer.execute(lambda *_: {"accuracy": 1}) == 5
    assert fewer.get_table()["model"].dropna().tolist() == ["tree"]


@pytest.mark.parametrize("table", ["study", "study__attempts", "study__epochs", "study__meta"])
def test_a_column_that_every_row_needs_is_named_before_anything_starts(target: Target, table: str) -> None:
    experimenter(target).create_table()
    target.query(f"ALTER TABLE {table} ADD COLUMN mark INT NOT NULL DEFAULT 7")
    if target.provider == "sqlite":  # whose ALTER TABLE cannot do this
        connection = target.connect()
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL DEFAULT 7', 'NOT NULL')")
        connection.close()
    else:
        target.query(f"ALTER TABLE {table} ALTER COLUMN mark DROP DEFAULT")
    message = rf"{table}\.mark is NOT NULL without a default, so that no row can be inserted; give it a default"
    for call in (experimenter(target).fill_table_from_config, lambda: experimenter(target).execute(lambda *_: None)):
        with pytest.raises(TableHasWrongStructureError, match=message):
            call()


# Deleting

_REFERS = "ID INT PRIMARY KEY, experiment_id BIGINT, FOREIGN KEY (experiment_id) REFERENCES"


@pytest.mark.parametrize("parent", ["study", "study__attempts"])
@pytest.mark.parametrize("name", ["plots", "study__plots"])
def test_a_table_that_refers_to_the_study_is_not_dropped_and_all_others_stay(
    target: Target, name: str, parent: str
) -> None:
    study_ = experimenter(target)
    study_.fill_table_from_config()
    study_.execute(lambda k, results, c: results.process_logs({"epochs": {"epoch": 1}}))
    action = " ON DELETE CASCADE" if parent == "study" else ""
    target.query(f"CREATE TABLE {name} ({_REFERS} {parent} (ID){action})")
    target.query(f"INSERT INTO {name} VALUES (1, 1)")
    before = tables(target)
    with pytest.raises(DatabaseQueryError, match=rf"foreign keys of {name} refer to study .* Nothing was deleted"):
        study_.delete_table()
    assert tables(target) == before
    assert (len(study_.get_attempts()), len(study_.get_logtable("epochs"))) == (6, 6)
    assert target.query(f"SELECT COUNT(*) FROM {name}") == [(1,)]
    target.query(f"DROP TABLE {name}")
    study_.delete_table()
    assert tables(target) == []


def test_a_view_that_keeps_postgresql_from_dropping_a_table_is_named(postgresql_target: Target) -> None:
    study_ = experimenter(postgresql_target)
    study_.fill_table_from_config()
    postgresql_target.query("CREATE VIEW best AS SELECT * FROM study")
    before = tables(postgresql_target)
    with pytest.raises(DatabaseQueryError, match="view best depends on table study; drop them first"):
        study_.delete_table()
    assert tables(postgresql_target) == before
    postgresql_target.query("DROP VIEW best")
    study_.delete_table()
    assert tables(postgresql_target) == []


def test_a_table_of_another_database_is_in_the_way_as_well(mariadb_target: Target) -> None:
    study_ = experimenter(mariadb_target)
    study_.fill_table_from_config()
    server = mariadb_target.server
    assert server is not None
    other = f"{mariadb_target.database}_other"
    server.create_database(other)
    try:
        parent = f"{mariadb_target.database}.study (ID)"
        server.connect(other).cursor().execute(f"CREATE TABLE plots ({_REFERS} {parent}) ENGINE=InnoDB")
        with pytest.raises(DatabaseQueryError, match=rf"foreign keys of {other}\.plots refer to study"):
            study_.delete_table()
        assert len(tables(mariadb_target)) == 4
    finally:
        server.drop_database(other)
