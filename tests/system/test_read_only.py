"""A finished study on SQLite in a directory where nobody can write, such as an archive, can be read."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.apart import COMMANDS
from tests.support.study import experimenter, study, wait_until
from tests.support.target import Target

# Reads, and holds what it reads until its stdin is closed.
READER = """
import sys
from pyexperimenter import PyExperimenter

with PyExperimenter("config.yml")._store.database.query() as cursor:
    cursor.run("BEGIN")
    print(cursor.all("SELECT COUNT(*) FROM study"), flush=True)
    sys.stdin.read()
"""
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The directory of a finished study of 6 experiments, which the configuration in the parent directory names."""
    directory = tmp_path / "archive #1"
    directory.mkdir()
    configure(directory)
    study_ = experimenter(Target("sqlite", "sqlite", str(directory / "study?.db")))
    study_.fill_table_from_config()

    def function(keyfields: dict[str, Any], results: Any, custom: Any) -> dict[str, Any]:
        results.process_logs({"epochs": {"epoch": 1, "loss": 0.5}})
        if keyfields["seed"] == 2:
            raise ValueError("no seed 2")
        return {"accuracy": 0.25}

    study_.execute(function)
    study_._store.database.close()
    wait_until(lambda: os.listdir(directory) == ["study?.db"])
    return directory


def configure(directory: Path) -> None:
    """Write the configuration of the study in a directory."""
    config = study(Target("sqlite", "sqlite", str(directory / "study?.db")))
    (directory.parent / "config.yml").write_text(yaml.safe_dump(config))


@contextmanager
def process(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run Python where nothing can be written to the directory: root needs a read-only mount for that."""
    prefix = []
    if os.geteuid() == 0:
        prefix = ["unshare", "--mount", "sh", "-c", READ_ONLY, str(directory)]
        if not shutil.which("unshare") or subprocess.run([*prefix, "true"], check=False).returncode:
            pytest.skip("root cannot mount a directory read-only here; run it as another user")
    else:
        directory.chmod(0o555)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYEXPERIMENTER_CONFIG": "config.yml"}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [*prefix, sys.executable, "-c", *arguments]
    try:
        with subprocess.Popen(command, text=True, cwd=directory.parent, env=environment, **pipes) as running:
            yield running
    finally:
        directory.chmod(0o755)


def read_only(directory: Path, *commands: list[str]) -> dict[str, list[Any]]:
    """Return the exit code, output and seconds of each command."""
    with process(directory, COMMANDS, json.dumps(commands)) as running:
        output, errors = running.communicate(timeout=120)
    assert running.returncode == 0, errors
    return dict(json.loads(output))


READING = [
    ["status", "--json"],
    ["list", "--json"],
    ["show", "6"],
    ["errors"],
    ["logs", "1"],
    ["table", "accuracy", "--rows", "dataset", "--failures", "drop"],
    ["export", "results.csv"],
    ["export", "attempts.json", "--what", "attempts"],
]


def test_a_finished_study_can_be_read(archive: Path) -> None:
    done = read_only(archive, *READING)
    assert {code for code, _, _ in done.values()} == {0}, done
    assert json.loads(done["status --json"][1])["counts"] == {
        "created": 0,
        "running": 0,
        "done": 4,
        "error": 2,
        "paused": 0,
    }
    assert len(json.loads(done["list --json"][1])) == 6
    assert "no seed 2" in done["show 6"][1]
    assert len((archive.parent / "results.csv").read_text().splitlines()) > 6
    assert os.listdir(archive) == ["study?.db"]


def test_writing_there_is_refused_at_once_with_the_remedy(archive: Path) -> None:
    with closing(sqlite3.connect(archive / "study?.db", isolation_level=None)) as connection:
        connection.execute("UPDATE study SET status = 'created' WHERE seed = 2")
        connection.execute("UPDATE study SET status = 'running' WHERE seed = 1")
    done = read_only(archive, ["fill"], ["run", "operator:setitem"], ["reset", "done", "-y"], ["release", "-y"])
    for command, (code, output, seconds) in done.items():
        assert code == 1, (command, output)
        assert "make the file and its directory writable for you" in output, command
        assert seconds < 20, command


def test_what_is_only_in_the_log_is_read(archive: Path) -> None:
    """The log of a process that was killed, copied without the index, which is useless elsewhere."""
    file = archive / "study?.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("UPDATE study SET status = 'done', accuracy = 0.75 WHERE seed = 2")
        other = archive.with_name("copy")
        shutil.copytree(archive, other, ignore=lambda *_: ["study?.db-shm"])
    assert (other / "study?.db-wal").stat().st_size
    before = {path.name: path.read_bytes() for path in other.iterdir()}
    configure(other)
    done = read_only(other, ["status", "--json"], ["list", "--json", "-w", "accuracy = 0.75"], ["fill"])
    assert json.loads(done["status --json"][1])["counts"]["done"] == 6
    assert len(json.loads(done["list --json -w accuracy = 0.75"][1])) == 2
    assert "make the file and its directory writable for you" in done["fill"][1]
    assert {path.name: path.read_bytes() for path in other.iterdir()} == before


def test_what_another_user_writes_at_the_same_time_is_read(archive: Path) -> None:
    with closing(sqlite3.connect(archive / "study?.db", isolation_level=None, timeout=0)) as connection:
        connection.execute("PRAGMA busy_timeout = 60000")  # the connections that made the study may be closing
        connection.execute("UPDATE study SET status = 'done' WHERE seed = 2")
        connection.execute("PRAGMA busy_timeout = 0")
        done = read_only(archive, ["status", "--json"])
        assert json.loads(done["status --json"][1])["counts"]["done"] == 6
        with process(archive, READER) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "[(6,)]\n"
            connection.execute("UPDATE study SET accuracy = 1")
            # The log cannot be emptied while it is being read.
            assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 1
            reader.communicate("", timeout=60)
        assert reader.returncode == 0
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0


def test_a_study_without_write_ahead_log(archive: Path) -> None:
    with closing(sqlite3.connect(archive / "study?.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    done = read_only(archive, *READING, ["fill"])
    assert [code for code, _, _ in done.values()] == [0] * len(READING) + [1]
