"""What the library wrote before its modules moved into rooms is still read: a table, a journal, a submitted job."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pyexperimenter import PyExperimenter
from tests.support.study import study
from tests.support.target import Target

DATA = Path(__file__).resolve().parents[1] / "data" / "before_rooms"
FUNCTION = """\
def function(keyfields, results, custom):
    return {"accuracy": keyfields["seed"] / 2}
"""
RUN = """\
import dataclasses, pickle, sys
job = pickle.load(sys.stdin.buffer)
dataclasses.replace(job, path=sys.path)()
"""


@pytest.fixture
def old_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PyExperimenter:
    monkeypatch.chdir(tmp_path)
    with sqlite3.connect("study.db") as connection:
        connection.executescript((DATA / "study.sql").read_text())
    connection.close()
    shutil.copy(DATA / "study.0123456789abcdef.0.journal.jsonl", tmp_path)
    Path("config.yml").write_text(yaml.safe_dump(study(Target("sqlite", "sqlite", "study"))))
    return PyExperimenter("config.yml", log_level="ERROR")


def test_table_and_journal(old_study: PyExperimenter) -> None:
    assert old_study.migrate() == []
    assert old_study.counts() == {"created": 3, "running": 1, "done": 1, "error": 1, "paused": 0}
    assert old_study.sync() == 1
    assert old_study.get_table("ID = 3")[["status", "accuracy", "model"]].values.tolist() == [["done", 0.75, "early"]]
    assert old_study.get_attempts(3)[["outcome", "output"]].values.tolist() == [["done", "printed"]]
    assert old_study.get_logtable("epochs")["loss"].tolist() == [0.5, 0.5, 0.25]
    assert old_study.fill_table_from_config() == (0, 6)
    assert old_study.execute(lambda *_: {"accuracy": 1}) == 3


def test_submitted_job(old_study: PyExperimenter, tmp_path: Path) -> None:
    assert b"pyexperimenter.jobs\nJob\n" in (DATA / "job.pickle").read_bytes()
    (tmp_path / "study.py").write_text(FUNCTION)
    (tmp_path / "run.py").write_text(RUN)
    with (DATA / "job.pickle").open("rb") as job:
        subprocess.run([sys.executable, "run.py"], stdin=job, check=True)
    assert old_study.get_table({"dataset": "wine"})["accuracy"].tolist() == [0, 0.5, 1]
