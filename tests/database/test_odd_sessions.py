"""Servers whose sessions begin with unusual settings, set by an administrator: all works and means the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any

import pytest

from pyexperimenter.exceptions import ExperimentExistsError
from tests.support.study import experimenter, store, study, worker
from tests.support.target import Target

ROW: dict[str, Any] = {
    "number": 0.1 + 0.2,
    "text": 'it\'s "a" \\ \\n %s `x` ä ',
    "whole": 3,
    "flag": True,
    "options": {"a": [0.1 + 0.2, "\\"]},
    "moment": datetime(2026, 3, 2, 1, 2, 3, 456789),
    "day": date(2026, 3, 2),
    "raw": b"\x00\\\xff'",
}
TYPES = {
    "number": "DOUBLE",
    "text": "VARCHAR(40)",
    "whole": "INT",
    "flag": "BOOL",
    "options": "JSON",
    "moment": "DATETIME",
    "day": "DATE",
    "raw": "BLOB",
}
OTHERS = [{"number": 0.3, "whole": whole} for whole in range(9)]  # 0.3 has the same 15 digits


def a_study_works(target: Target) -> None:
    results = {f"{name}_out": kind for name, kind in TYPES.items()}
    config = study(
        target, keyfields=TYPES, resultfields=results, result_timestamps=True, logtables={"log": TYPES}, n_jobs=1
    )
    study_ = experimenter(target, config)
    assert study_.fill_table_with_rows([ROW, *OTHERS]) == (10, 0)
    assert study_.fill_table_with_rows([ROW, *OTHERS]) == (0, 10)
    study_.create_table()  # finds nothing that differs
    assert study_.migrate() == []
    seen = []

    def function(keyfields: dict[str, Any], processor: Any, custom: Any) -> dict[str, Any]:
        seen.append(keyfields)
        processor.process_logs({"log": [keyfields, keyfields]})
        return {f"{name}_out": value for name, value in keyfields.items()}

    assert study_.execute(function, where={"number": ROW["number"]}) == 1
    assert study_.execute(function, order_by="-whole") == 9
    assert seen[0] == ROW
    assert study_.counts() == {"created": 0, "running": 0, "done": 10, "error": 0, "paused": 0}
    table, logs = study_.get_table(), study_.get_logtable("log")
    assert (len(table), len(logs), len(study_.get_attempts())) == (10, 20, 10)
    for name, value in ROW.items():
        assert [table[name][0], table[f"{name}_out"][0], logs[name][0]] == [value] * 3, name
    assert table["number_out_timestamp"].notna().all()
    assert study_.get_table({"number": 0.3})["ID"].tolist() == list(range(2, 11))
    with pytest.raises(ExperimentExistsError, match="exists with ID 1 and is done"):
        study_.add_experiment_and_execute(ROW, function)
    assert study_.reset_experiments("done", where={"number": 0.3}) == 9
    assert study_.execute(function) == 9
    assert study_.status().counts["done"] == 10
    more = study(target, keyfields={**TYPES, "new": "INT"}, resultfields=results, result_timestamps=True, logtables={})
    experimenter(target, more).migrate(defaults={"new": 1})
    study_.execute_custom_query("DELETE FROM study WHERE ID = 1")
    assert len(study_.get_attempts(1)) == 0
    study_.delete_table()


POSTGRESQL = {
    "extra_float_digits": "0",
    "quote_all_identifiers": "on",
    "DateStyle": "'German, DMY'",
    "IntervalStyle": "iso_8601",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "backslash_quote": "off",
    "escape_string_warning": "on",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "search_path": "own",
    "statement_timeout": "'20s'",
    "lock_timeout": "1",
    "idle_in_transaction_session_timeout": "'20s'",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "TimeZone": "'Asia/Kathmandu'",
    "client_encoding": "'LATIN1'",
    "check_function_bodies": "off",
    "default_toast_compression": "lz4",
    "enable_seqscan": "off",
}


@pytest.mark.parametrize("setting", POSTGRESQL)
def test_postgresql(postgresql_target: Target, setting: str) -> None:
    target = postgresql_target
    target.query("CREATE SCHEMA own")
    target.query(f'ALTER DATABASE "{target.database}" SET {setting} = {POSTGRESQL[setting]}')
    a_study_works(target)


MARIADB = {
    "sql_mode": "'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH,PIPES_AS_CONCAT,ORACLE'",
    "autocommit": "0",
    "tx_isolation": "'SERIALIZABLE'",
    "sql_safe_updates": "1",
    "sql_select_limit": "5",
    "max_statement_time": "20",
    "innodb_lock_wait_timeout": "1",
    "lock_wait_timeout": "20",
    "character_set_server": "'latin1'",
    "collation_server": "'utf8mb4_unicode_ci'",
    "character_set_client": "'latin1'",
    "collation_connection": "'latin1_german2_ci'",
    "time_zone": "'+05:45'",
    "foreign_key_checks": "0",
    "unique_checks": "0",
    "sql_auto_is_null": "1",
    "sql_big_selects": "0",
    "max_join_size": "10",
    "auto_increment_increment": "1",
    "completion_type": "'RELEASE'",
    "div_precision_increment": "0",
    "default_storage_engine": "'MyISAM'",
    "innodb_default_row_format": "'compact'",
    "explicit_defaults_for_timestamp": "0",
    "updatable_views_with_limit": "0",
    "group_concat_max_len": "4",
    "old_mode": "'NO_PROGRESS_INFO,ZERO_DATE_TIME_CAST'",
}


@contextmanager
def odd(target: Target, setting: str, value: str) -> Iterator[None]:
    """Set what the sessions of the server begin with."""
    ((usual,),) = target.query(f"SELECT @@GLOBAL.{setting}")
    target.query(f"SET GLOBAL {setting} = {value}")
    try:
        yield
    finally:
        target.query(f"SET GLOBAL {setting} = ?", usual)


@pytest.mark.parametrize("setting", ["sql_select_limit", "sql_safe_updates", "completion_type"])
def test_heartbeats_on_mariadb(mariadb_target: Target, setting: str) -> None:
    """Their connections keep the settings of the server."""
    seeds = {"seed": {"type": "INT", "values": {"start": 0, "stop": 8}}}
    opened = store(mariadb_target, keyfields=seeds)
    held = [experiment.attempt for name in "abcdefgh" if (experiment := opened.claim(worker(name)))]
    opened.release(held[0])
    opened.database.close()
    opened.database.spare_settings()
    before = mariadb_target.query("SELECT heartbeat FROM study__attempts WHERE ended IS NULL ORDER BY ID")
    with odd(mariadb_target, setting, MARIADB[setting]):
        for _ in range(2):
            assert opened.beat(held) == {held[0]}
    after = mariadb_target.query("SELECT heartbeat FROM study__attempts WHERE ended IS NULL ORDER BY ID")
    assert all(late > early for early, late in zip(before, after, strict=True))


@pytest.mark.parametrize("setting", MARIADB)
def test_mariadb(mariadb_target: Target, setting: str) -> None:
    with odd(mariadb_target, setting, MARIADB[setting]):
        a_study_works(mariadb_target)
