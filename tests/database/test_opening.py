"""Opening a study by the configuration that its database keeps, without a configuration file."""

from __future__ import annotations

import enum
import pickle
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyexperimenter import PyExperimenter
from pyexperimenter.database.backends.sqlite import is_sqlite_file
from pyexperimenter.exceptions import InvalidValueError, MissingDatabaseError, MissingTableError
from tests.support.study import credentials, experimenter, statuses, study
from tests.support.target import Target


def opened(target: Target, table: str | None = None) -> PyExperimenter:
    return PyExperimenter.open(target.database, table, target.provider, log_level="ERROR", **credentials(target))


def executed(target: Target, name: str = "study") -> PyExperimenter:
    study_ = experimenter(target, study(target, name=name))
    study_.fill_table_from_config()
    study_.execute(lambda *_: {"accuracy": 0.5}, max_experiments=4)
    return study_


def test_a_study_is_opened_and_executed_on(target: Target) -> None:
    original = executed(target)
    again = opened(target)
    assert again.get_table().equals(original.get_table())
    assert list(again.config.table.grid or ()) == list(original.config.table.grid or ())
    assert again.fill_table_from_config() == (0, 6)
    assert target.query("SELECT COUNT(*) FROM study__meta WHERE event IS NULL") == [(1,)]  # the same configuration
    assert pickle.loads(pickle.dumps(again)).execute(lambda *_: {"accuracy": 1}) == 2
    assert statuses(target) == {"done": 6}


class Kernel(enum.Enum):
    RBF = "rbf"


def test_a_dict_with_python_objects_is_kept_as_what_it_meant(target: Target) -> None:
    keyfields = {
        "seed": {"type": "INT", "values": range(2)},
        "rate": {"type": "DOUBLE", "values": np.array([0.1], dtype="float32")},
        "depth": {"type": "INT", "values": (n for n in (1, 2)), "when": {"rate": [np.float32(0.1)]}},
        "kernel": {"type": "VARCHAR(9)", "values": Kernel},
        "path": types.MappingProxyType({"type": "TEXT", "values": [Path("a/b")]}),
    }
    original = experimenter(target, study(target, keyfields=keyfields))
    assert original.fill_table_from_config() == (4, 0)
    assert opened(target).fill_table_from_config() == (0, 4)
    assert pickle.loads(pickle.dumps(original)).fill_table_from_config() == (0, 4)


def test_the_last_configuration_counts(target: Target) -> None:
    executed(target)
    config = study(target, resultfields={"accuracy": "DOUBLE", "loss": "DOUBLE"})
    experimenter(target, config).migrate()
    experimenter(target, config).create_table()
    assert list(opened(target).config.table.resultfields) == ["accuracy", "loss"]


def test_one_of_several_studies_is_named(target: Target) -> None:
    executed(target, "first")
    executed(target, "second")
    target.query("CREATE TABLE mine (schema_version INT)")
    for table in (None, "third"):
        with pytest.raises(MissingTableError, match=r"name the table of one of: first, second$"):
            opened(target, table)
    assert opened(target, "second").config.table.name == "second"
    target.query("ALTER TABLE first RENAME TO kept")  # its side tables keep their names
    assert opened(target, "kept").counts()["done"] == 4


def test_what_is_not_there_is_said(target: Target, tmp_path: Path) -> None:
    target.query("CREATE TABLE mine (schema_version INT)")
    with pytest.raises(MissingTableError, match="has no study that keeps its configuration"):
        opened(target)
    with pytest.raises(MissingDatabaseError, match="nix"):
        PyExperimenter.open(tmp_path / "nix.db")
    with pytest.raises(InvalidValueError, match="provider: 'oracle' is unknown; choose from sqlite, mysql, postgresql"):
        PyExperimenter.open("study", provider="oracle")


def test_a_copied_file_is_opened_by_every_command(sqlite_target: Target, tmp_path: Path) -> None:
    executed(sqlite_target)
    copied = tmp_path / "elsewhere" / "archive.sqlite"
    copied.parent.mkdir()
    sqlite_target.query(f"VACUUM INTO '{copied}'")

    def run(*arguments: Any) -> str:
        command = [sys.executable, "-m", "pyexperimenter", *arguments]
        done = subprocess.run(command, cwd=copied.parent, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "4 of 6" in run("status", "archive.sqlite")
    assert run("list", "archive.sqlite", "-s", "created").count("created") == 2
    assert run("list", "-c", "archive.sqlite", "-s", "done").count("done") == 4
    assert run(
        "-c",
        "archive.sqlite",
        "table",
        "accuracy",
        "--rows",
        "model",
        "-w",
        "status = 'done'",
        "--over",
        "dataset,seed",
    )
    assert run("export", "-", "-c", "archive.sqlite").count("\n") == 7


def test_opening_a_file_ends_no_locks_of_this_process(sqlite_target: Target, tmp_path: Path) -> None:
    """POSIX ends all locks of a process on a file when it closes the file once. Others then remove the log in use."""
    study_ = executed(sqlite_target)
    with sqlite_target.session() as run:
        run("SELECT COUNT(*) FROM study")  # holds a lock as long as it is open
        study_.create_table()
        assert is_sqlite_file(sqlite_target.database)
        PyExperimenter.open(sqlite_target.database, log_level="ERROR").fill_table_from_config()
        other = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT * FROM study').fetchall()"
        subprocess.run([sys.executable, "-c", other, sqlite_target.database], check=True)
        assert Path(f"{sqlite_target.database}-wal").exists()
        run("UPDATE study SET accuracy = 1")


def test_other_files_are_not_taken_for_a_database(tmp_path: Path) -> None:
    for name, content in {
        "empty": b"",
        "config.yml": b"PY_EXPERIMENTER: {}\n" * 100,
        "short": b"SQLite format 3\0",
    }.items():
        (tmp_path / name).write_bytes(content)
        assert not is_sqlite_file(tmp_path / name)
    assert not is_sqlite_file(tmp_path / "missing")
    assert not is_sqlite_file(tmp_path)
    assert not (tmp_path / "missing").exists()
