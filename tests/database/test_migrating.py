"""Migrating: equal rows are refused at every moment, even if the migration is killed between two statements."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from pyexperimenter.database.connection import Cursor
from pyexperimenter.exceptions import TableHasWrongStructureError
from tests.database.test_identity import REFUSED
from tests.support.study import KEYFIELDS, RESULTFIELDS, experimenter, store, study
from tests.support.target import Target

KERNEL = {"kernel": {"type": "VARCHAR(9)", "values": ["rbf", "poly"]}, **KEYFIELDS}
WIDER = {
    "keyfields": KERNEL,
    "resultfields": {**RESULTFIELDS, "f1": "DOUBLE"},
    "logtables": {"epochs": {"epoch": "INT", "loss": "DOUBLE", "rate": "DOUBLE"}, "extra": {"x": "INT"}},
}


def is_killed_before(number: int, target: Target) -> bool:
    """Migrate in a process that is killed before its n-th statement that changes something; False if it has fewer."""
    pid = os.fork()
    if pid == 0:
        left, run = number, Cursor.run

        def counting(cursor: Cursor, sql: str, /, **parameters: Any) -> int:
            nonlocal left
            left -= sql.startswith(("ALTER", "CREATE", "DROP", "UPDATE", "COMMIT"))
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return run(cursor, sql, **parameters)

        try:
            Cursor.run = counting  # type: ignore[method-assign] # in this process, which ends here
            experimenter(target, study(target, **WIDER)).migrate(defaults={"kernel": "rbf"})
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_a_migration_killed_at_any_statement_leaves_an_identity_and_can_be_finished(target: Target) -> None:
    old, new = experimenter(target), experimenter(target, study(target, **WIDER))
    number, killed = 0, True
    while killed:
        old.fill_table_from_config()
        killed = is_killed_before(number, target)
        with pytest.raises(REFUSED):
            target.query("INSERT INTO study (dataset, seed) VALUES ('iris', 1)")
        new.migrate(defaults={"kernel": "rbf"})
        assert target.query("SELECT DISTINCT kernel FROM study") == [("rbf",)]
        assert new.migrate() == []
        assert new.fill_table_from_config() == (6, 6)
        new.delete_table()
        number += 1
    assert number > 2


def test_the_identity_that_a_killed_migration_of_an_older_version_lacks_is_made(target: Target) -> None:
    opened = store(target)
    target.query(opened.schema.drop_identity("study__identity"))
    study_ = experimenter(target)
    steps = ["identify the rows of study by dataset, seed"]
    assert study_.migrate(dry_run=True) == steps
    assert study_.migrate() == steps
    assert study_.migrate() == []
    with pytest.raises(REFUSED):
        target.query("INSERT INTO study (dataset, seed) VALUES ('iris', 1)")


@pytest.mark.parametrize("finish", ["fill", "migrate"])
def test_a_keyfield_that_the_identity_lacks_gets_into_it(target: Target, finish: str) -> None:
    experimenter(target).fill_table_from_config()
    target.query("ALTER TABLE study ADD COLUMN kernel VARCHAR(9) DEFAULT 'rbf'")
    new = experimenter(target, study(target, keyfields=KERNEL))
    if finish == "migrate":
        assert new.migrate() == ["identify the rows of study by kernel, dataset, seed"]
    assert new.fill_table_from_config() == (6, 6)


def test_a_keyfield_that_is_no_longer_configured_is_refused(target: Target) -> None:
    experimenter(target, study(target, keyfields=KERNEL)).fill_table_from_config()
    without = experimenter(target)
    remedy = r"study\.kernel is a keyfield of the table, but not configured; configure it"
    for call in (without.fill_table_from_config, without.migrate, lambda: without.execute(lambda *_: None)):
        with pytest.raises(TableHasWrongStructureError, match=remedy):
            call()
    as_result = experimenter(target, study(target, resultfields={**RESULTFIELDS, "kernel": "VARCHAR(9)"}))
    with pytest.raises(TableHasWrongStructureError, match=remedy):
        as_result.fill_table_from_config()
    assert target.query("SELECT COUNT(*) FROM study") == [(12,)]


def test_who_fills_by_the_old_configuration_adds_no_row_again(target: Target) -> None:
    opened = store(target)
    rows = [opened.encode_row({"dataset": "iris", "seed": seed}, "row") for seed in range(4)]
    new = experimenter(target, study(target, keyfields=KERNEL))
    new.migrate(defaults={"kernel": "rbf"})
    assert opened.fill(rows) == (1, 3)
    assert target.query("SELECT DISTINCT kernel FROM study") == [("rbf",)]
    assert new.fill_table_from_config() == (6, 6)


VALUES = {
    "text": ("LONGTEXT", 'it\'s \\ 100% "ü" :value\n{}'),
    "short": ("VARCHAR(20)", "\\'"),
    "number": ("DOUBLE", -1e-300),
    "exact": ("DECIMAL(10,2)", 1.5),
    "whole": ("BIGINT UNSIGNED", 2**63 - 1),
    "flag": ("BOOL", True),
    "options": ("JSON", {"a": ["it's", None]}),
    "day": ("DATE", "2026-01-31"),
    "moment": ("DATETIME", "2026-01-31 13:30:00.123456"),
    "data": ("BLOB", b"\x00'\xff\\"),
    "nothing": ("VARCHAR(20)", None),
}


def test_values_of_all_types_are_given_to_existing_rows(target: Target) -> None:
    experimenter(target).fill_table_from_config()
    added = {name: {"type": declared} for name, (declared, _) in VALUES.items()}
    new = experimenter(target, study(target, keyfields={**KEYFIELDS, **added}))
    values = {name: value for name, (_, value) in VALUES.items()}
    new.migrate(defaults=values)
    row = {"dataset": "iris", "seed": 1, **values}
    assert new.fill_table_with_rows([row]) == (0, 1)
    seen = []
    new.execute(lambda keyfields, *_: seen.append(keyfields), max_experiments=1)
    assert new.get_table()["data"][0] == values["data"]
    assert {name: str(seen[0][name]) for name in values} == {name: str(value) for name, value in values.items()}
