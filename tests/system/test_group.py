"""Several users share a directory with a study on SQLite: readers leave nothing there that stops writers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.support.apart import COMMANDS
from tests.support.study import study, wait_until
from tests.support.target import Target

OWNER, MEMBER, STRANGER = 60001, 60002, 60003
GROUP = 60000

READING = ["status", "list", "show 1", "errors", "logs 1", "table accuracy --rows dataset", "export -"]
# Reads again and again on one connection, each time a line comes.
READER = """
import sys
from pyexperimenter import PyExperimenter
from pyexperimenter.exceptions import TransientDatabaseError

study = PyExperimenter("config.yml", log_level="ERROR")
with study._store.database.query() as cursor:
    for _ in range(2):
        try:
            print(cursor.all("SELECT COUNT(*) FROM study WHERE status = 'done'"), flush=True)
        except TransientDatabaseError as error:
            print(error, flush=True)
        sys.stdin.readline()
print(study.counts()["done"], flush=True)
"""
# Writes, and keeps the database open until a line comes.
WRITER = """
import sys
from pyexperimenter import PyExperimenter

study = PyExperimenter("config.yml", log_level="ERROR")
with study._store.database.query() as cursor:
    cursor.run("UPDATE study SET status = 'done' WHERE ID = 1")
    print("written", flush=True)
    sys.stdin.readline()
"""


@dataclass(frozen=True)
class Shared:
    """A directory of a group, and processes of its users."""

    directory: Path
    umask: int
    reader: int

    @contextmanager
    def process(self, user: int, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Run Python as a user; only a stranger is not in the group."""
        groups = "--clear-groups" if user == STRANGER else f"--groups={GROUP}"
        command = ["setpriv", f"--reuid={user}", f"--regid={user}", groups, sys.executable, *arguments]
        environment = {
            **os.environ,
            "HOME": "/nonexistent",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYEXPERIMENTER_CONFIG": "config.yml",
        }
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with subprocess.Popen(
            command, cwd=self.directory, env=environment, umask=self.umask, text=True, **pipes
        ) as running:
            try:
                yield running
            finally:
                running.kill()

    def call(self, user: int, command: str, code: int = 0) -> str:
        """Run a command of the command line, and return what it printed."""
        with self.process(user, "-m", "pyexperimenter", *command.split()) as running:
            output, errors = running.communicate(timeout=120)
        assert running.returncode == code, errors
        return output + errors

    def databases(self) -> dict[str, int]:
        """Return the names of the database's files, and whose they are."""
        return {path.name: path.stat().st_uid for path in sorted(self.directory.glob("study.db*"))}


@pytest.fixture(
    params=[(0o002, MEMBER), (0o022, MEMBER), (0o022, STRANGER)],
    ids=["umask 002", "umask 022", "umask 022, stranger"],
)
def shared(request: pytest.FixtureRequest) -> Iterator[Shared]:
    """A study in the directory of a group, which the owner has filled."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can be other users, with setpriv")
    directory = Path(tempfile.mkdtemp())  # the directories above tmp_path are closed to others
    try:
        os.chown(directory, OWNER, GROUP)
        directory.chmod(0o2775)
        shared = Shared(directory, *request.param)
        (directory / "config.yml").write_text(yaml.safe_dump(study(Target("sqlite", "sqlite", "study.db"))))
        (directory / "functions.py").write_text("def f(*_):\n    return {'accuracy': 1}\n")
        with shared.process(MEMBER, "-c", "import pyexperimenter") as process:
            if process.wait(60):
                pytest.skip("other users cannot read this Python or its packages")
        shared.call(OWNER, "fill")
        yield shared
    finally:
        shutil.rmtree(directory)


def test_a_reader_leaves_nothing_behind(shared: Shared) -> None:
    with shared.process(shared.reader, "-c", COMMANDS, json.dumps([command.split() for command in READING])) as reading:
        output, errors = reading.communicate(timeout=120)
    done = json.loads(output)
    assert {code for code, _, _ in done.values()} == {0}, (done, errors)
    assert shared.databases() == {"study.db": OWNER}
    shared.call(OWNER, "run functions:f")
    assert "6 of 6 finished" in shared.call(shared.reader, "status")
    assert shared.databases() == {"study.db": OWNER}


@pytest.mark.parametrize("end", ["it ends", "it is killed"])
def test_what_the_owner_writes_at_the_same_time_is_read(shared: Shared, end: str) -> None:
    with shared.process(OWNER, "-c", WRITER) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        assert "1 of 6 finished" in shared.call(shared.reader, "status")
        if end == "it ends":
            writer.communicate("\n", timeout=60)
    assert "1 of 6 finished" in shared.call(shared.reader, "status")
    shared.call(OWNER, "run functions:f")
    assert "6 of 6 finished" in shared.call(shared.reader, "status")
    assert shared.databases() == {"study.db": OWNER}


def test_a_reader_that_is_killed_stops_nobody(shared: Shared) -> None:
    with shared.process(shared.reader, "-c", READER) as reading:
        assert reading.stdout is not None
        assert reading.stdout.readline() == "[(0,)]\n"
        reading.send_signal(signal.SIGKILL)
        reading.wait()
    shared.call(OWNER, "run functions:f")
    assert shared.databases() == {"study.db": OWNER}


@pytest.mark.parametrize("shared", [(0o022, STRANGER)], indirect=True, ids=[""])
def test_what_was_written_while_it_was_read_without_locks_is_read_again(shared: Shared) -> None:
    with shared.process(shared.reader, "-c", READER) as reading:
        assert reading.stdout is not None and reading.stdin is not None
        assert reading.stdout.readline() == "[(0,)]\n"
        shared.call(OWNER, "run functions:f")
        reading.stdin.write("\n")
        reading.stdin.flush()
        assert "study.db was written while it was read; repeat the query" in reading.stdout.readline()
        output, errors = reading.communicate("\n", timeout=60)
    assert output == "6\n", errors


@pytest.mark.parametrize("shared", [(0o002, MEMBER)], indirect=True, ids=[""])
def test_members_write_in_turn(shared: Shared) -> None:
    shared.call(MEMBER, "run functions:f -n 3")
    shared.call(OWNER, "run functions:f")
    shared.call(OWNER, "export results.csv")
    made = [shared.directory / "study.db", shared.directory / "results.csv"]
    assert [(path.stat().st_mode & 0o777, path.stat().st_gid) for path in made] == [(0o664, GROUP)] * 2
    shared.call(MEMBER, "reset all -y")
    with shared.process(MEMBER, "-c", WRITER) as writer:  # killed
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
    assert {*shared.databases().values()} == {OWNER, MEMBER}
    shared.call(OWNER, "run functions:f")
    wait_until(lambda: shared.databases() == {"study.db": OWNER})


@pytest.mark.parametrize("shared", [(0o022, STRANGER)], indirect=True, ids=[""])
def test_files_of_others_that_stop_a_write_are_named(shared: Shared) -> None:
    """As older versions and other programs leave them."""
    for name in ("study.db-wal", "study.db-shm"):
        (shared.directory / name).touch(mode=0o644)
        os.chown(shared.directory / name, MEMBER, GROUP)
        (shared.directory / name).chmod(0o644)
    told = shared.call(OWNER, "run functions:f", code=1)
    for name in ("study.db-wal", "study.db-shm"):
        assert f"{shared.directory / name} (-rw-r--r--) belongs to user {MEMBER}" in told
    assert "chmod g+w" in told
