"""Copying a study between databases, on every pair of them; copies that were interrupted; what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter import ExperimentStatus, PyExperimenter
from pyexperimenter.database import copying
from pyexperimenter.exceptions import CopyError, InvalidNameError
from tests.support.study import experimenter, statuses, study, wait_until
from tests.support.target import Target

KEYFIELDS = {
    "number": {"type": "INT", "values": [-7, 2**31 - 1]},
    "real": {"type": "DOUBLE", "values": [0.1, 1e-300]},
    "flag": {"type": "BOOL", "values": [True, False]},
    "text": {"type": "VARCHAR(40)", "values": ['it\'s "quoted"\t\\N;\n', "Größe ±5 % 🙂"]},
    "options": {"type": "JSON", "values": [{"depth": [1, None], "name": "ä"}, None]},
    "day": {"type": "DATE", "values": ["2026-02-28"]},
    "moment": {"type": "DATETIME", "values": ["2026-02-28 12:00:00.123456"]},
}
RESULTFIELDS = {"loss": "DOUBLE", "model": "LONGTEXT", "memory": "BLOB", "best": "BOOL", "ended": "DATETIME"}


@pytest.fixture(params=["sqlite", "mariadb", "postgresql"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    """Another database, on the same server if it is of the same kind."""
    if request.param == "sqlite":
        return Target("sqlite", "sqlite", str(tmp_path / "other" / "copy.db"))
    found: Target = request.getfixturevalue(f"{request.param}_target")
    return found


def config(target: Target) -> dict[str, Any]:
    return study(target, keyfields=KEYFIELDS, resultfields=RESULTFIELDS, result_timestamps=True)


def run(keyfields: dict[str, Any], results: Any, custom: Any) -> dict[str, Any] | ExperimentStatus:
    results.process_logs({"epochs": [{"epoch": epoch, "loss": 1 / (epoch + 1)} for epoch in range(2)]})
    if keyfields["number"] < 0:
        if keyfields["flag"]:
            raise ValueError("no negative numbers")
        return ExperimentStatus.PAUSED
    return {"loss": 0.1 + 0.2, "model": "x" * 1000, "memory": b"\0\xff'", "best": True, "ended": "2026-01-01 00:00:00"}


def executed(target: Target) -> PyExperimenter:
    study_ = experimenter(target, config(target))
    study_.fill_table_from_config()
    study_.execute(run, max_experiments=30)
    study_.reset_experiments("done", where={"real": 0.1})
    study_.execute_custom_query(
        "DELETE FROM study WHERE " + ('"ID" = 5' if target.provider == "postgresql" else "ID = 5")
    )
    return study_


def copy(study_: PyExperimenter, other: Target, **options: Any) -> int:
    if other.server is None:
        Path(other.database).parent.mkdir(exist_ok=True)
    return study_.copy_to(other.database, other.provider, other.credentials_file or "unused.yml", **options)


def contents(study_: PyExperimenter) -> list[Any]:
    frames = [study_.get_table(), study_.get_attempts(), study_.get_logtable("epochs", all_attempts=True)]
    return [frame.sort_values("ID").to_dict("records") for frame in frames]


def test_a_copy_is_the_same_study(target: Target, other: Target) -> None:
    original = executed(target)
    before = contents(original)
    assert copy(original, other) == 31
    again = PyExperimenter.open(
        other.database, None, other.provider, other.credentials_file or "unused.yml", log_level="ERROR"
    )
    assert repr(contents(again)) == repr(before)  # NaN does not equal itself
    assert repr(contents(original)) == repr(before)
    assert copy(original, other) == 31  # again
    # It is executed on, with IDs of its own.
    assert again.fill_table_from_config() == (1, 31)  # that with ID 5
    new_ids = other.query("SELECT MAX(ID) FROM study"), other.query("SELECT MAX(ID) FROM study__attempts")
    assert again.execute(lambda *_: {"loss": 1}) == statuses(target)["created"] + 1
    assert new_ids[0][0][0] > 32
    assert other.query("SELECT COUNT(*) FROM study__attempts WHERE ID > ?", new_ids[1][0][0])[0][0] > 0
    assert again.reset_experiments("error") == 8


def test_an_interrupted_copy_is_completed(target: Target, other: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_CHUNK", 7)
    original = executed(target)
    whole, chunks = contents(original), 0

    def interrupt(rows: int) -> None:
        nonlocal chunks
        chunks += 1
        if chunks == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyexperimenter.study.maintained.fill_bar", lambda total: nullcontext(interrupt))
        with pytest.raises(KeyboardInterrupt):
            copy(original, other)
    assert other.query("SELECT COUNT(*) FROM study") == [(21,)]
    assert copy(original, other) == 31
    assert repr(contents(experimenter(other, config(other)))) == repr(whole)


COPY = """
import sys
from pyexperimenter import PyExperimenter
import pyexperimenter.database.copying as copying
copying._CHUNK = 1
PyExperimenter.open(sys.argv[1]).copy_to(sys.argv[2], sys.argv[3], sys.argv[4])
"""


def test_a_killed_copy_is_completed(sqlite_target: Target, other: Target) -> None:
    original = executed(sqlite_target)
    if other.server is None:
        Path(other.database).parent.mkdir(exist_ok=True)
    arguments = [sqlite_target.database, other.database, other.provider, str(other.credentials_file or "unused.yml")]
    copying_process = subprocess.Popen([sys.executable, "-c", COPY, *arguments])

    def has_begun() -> bool:
        tables = experimenter(other, config(other)).execute_custom_query
        try:
            return bool(tables("SELECT COUNT(*) FROM study")[0][0] >= 3)
        except Exception:  # there is no table yet
            return False

    wait_until(has_begun)
    copying_process.kill()
    copying_process.wait()
    assert copy(original, other) == 31
    assert repr(contents(experimenter(other, config(other)))) == repr(contents(original))


def test_another_study_is_not_touched(target: Target, other: Target) -> None:
    original = executed(target)
    copy(original, other)
    other.query("UPDATE study SET loss = 1 WHERE ID = 20")
    with pytest.raises(CopyError, match=r"ID 20 of study in .* is not that of the original"):
        copy(original, other)
    other.query("DELETE FROM study WHERE ID > 12")
    other.query("UPDATE study SET status = 'done' WHERE ID = 9")
    before = other.query("SELECT COUNT(*) FROM study")
    with pytest.raises(CopyError, match=r"ID 9 of study"):
        copy(original, other)
    assert other.query("SELECT COUNT(*) FROM study") == before
    target.query("DELETE FROM study WHERE ID > 8")
    with pytest.raises(CopyError, match=r"ID 9 of study"):  # which the original no longer has
        copy(original, other)


def test_running_experiments_are_copied_only_if_asked(target: Target, other: Target) -> None:
    original = executed(target)
    target.query("UPDATE study SET status = 'running' WHERE ID = 20")
    with pytest.raises(CopyError, match=r"experiments are running \(1\)"):
        copy(original, other)
    assert copy(original, other, snapshot=True) == 31
    assert statuses(other) == statuses(target)


def test_columns_of_a_person_are_named(sqlite_target: Target, other: Target) -> None:
    original = executed(sqlite_target)
    sqlite_target.query("ALTER TABLE study ADD COLUMN remark TEXT")
    with pytest.warns(UserWarning, match=r"not in the configuration are not copied: study\.remark"):
        assert copy(original, other) == 31


def test_the_study_itself_is_refused(target: Target) -> None:
    original = executed(target)
    with pytest.raises(CopyError, match="is the database of the study itself"):
        copy(original, target)


@pytest.mark.parametrize("path", ["", "/", "..", "."])
def test_a_path_without_the_name_of_a_file_is_refused(sqlite_target: Target, path: str) -> None:
    with pytest.raises(InvalidNameError, match="is a directory; give the path of a file"):
        experimenter(sqlite_target, config(sqlite_target)).copy_to(path)
    with pytest.raises(InvalidNameError):
        PyExperimenter(config(sqlite_target), database_name=path or ".")


def test_the_command(sqlite_target: Target, tmp_path: Path) -> None:
    executed(sqlite_target)
    command = [sys.executable, "-m", "pyexperimenter", "copy", "-c", sqlite_target.database, "backup.db"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "Copied 31 experiments to backup.db\n"), done.stderr
    assert statuses(Target("sqlite", "sqlite", str(tmp_path / "backup.db"))) == statuses(sqlite_target)
