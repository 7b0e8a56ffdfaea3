"""The output of SLURM's commands is parsed; if they are missing, fail or hang, the result is empty."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pyexperimenter.machine import slurm
from pyexperimenter.machine.slurm import Accounting, end_of_job, parse_sacct, parse_time

# From a cluster of version 22.05, with the options that the library uses.
SACCT = """\
1|FAILED|3:0
2|FAILED|0:9
3|CANCELLED by 1000|0:0
5|REQUEUED|0:0
4_0|COMPLETED|0:0
4_1|TIMEOUT|0:0
5|NODE_FAIL|0:0
5|OUT_OF_MEMORY|0:125
6_[2-9%4]|PENDING|0:0
7+0|RUNNING|0:0
"""


class Commands:
    """Fakes of SLURM's commands: scripts in a directory of their own, which record their calls."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()

    def put(self, name: str, body: str) -> None:
        path = self.directory / name
        path.write_text(f'#!/bin/sh\necho "$0 $*" >> "{self.directory}/calls"\n{body}\n')
        path.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        calls = self.directory / "calls"
        return calls.read_text().replace(f"{self.directory}/", "").splitlines() if calls.exists() else []


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    found = Commands(tmp_path / "commands")
    monkeypatch.setenv("PATH", f"{found.directory}:/bin")
    for name in ("sacct", "squeue"):
        found.put(name, "echo is not expected to be called; exit 1")
    return found


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0:00", 0),
        ("5:00\n", 300),
        ("59:59", 3599),
        ("2:00:00", 7200),
        ("1-00:00:01", 86401),
        ("365-00:00:00", 365 * 86400),
        ("UNLIMITED", None),
        ("NOT_SET", None),
        ("INVALID", None),
        ("", None),
        ("5:00\n5:00\n", None),  # of several tasks
        ("-5:00", None),
        ("1-5:00", 86400 + 5 * 3600),  # as sbatch takes it
        ("1-5", 86400 + 5 * 3600),
        ("5", None),
    ],
)
def test_the_time_left(text: str, seconds: float | None) -> None:
    assert parse_time(text) == seconds


def test_the_environment_has_the_end_and_slurm_is_not_asked(commands: Commands) -> None:
    assert end_of_job({"SLURM_JOB_ID": "5", "SLURM_JOB_END_TIME": "2000"}, 1000) == 2000
    assert end_of_job({"SLURM_JOB_END_TIME": "soon"}, 1000) is None
    assert end_of_job({"SLURM_JOB_ID": ""}, 1000) is None
    assert end_of_job({"PBS_JOBID": "5"}, 1000) is None
    assert commands.calls == []


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({"SLURM_JOB_ID": "5"}, "5"),
        ({"SLURM_JOB_ID": "5", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "3"}, "5_3"),
        ({"SLURM_JOB_ID": "5", "SLURM_JOB_END_TIME": "soon"}, "5"),
    ],
)
def test_else_squeue_is_asked_once(commands: Commands, environment: dict[str, str], job: str) -> None:
    commands.put("squeue", "echo 10:00")
    assert end_of_job(environment, 1000) == 1600
    assert commands.calls == [f"squeue --noheader --jobs={job} --format=%L"]


@pytest.mark.parametrize("body", ["exit 1", "echo 5:00; exit 1", "echo UNLIMITED", "", "kill -9 $$", "sleep 60"])
def test_without_an_answer_there_is_no_end_and_no_waiting(
    commands: Commands, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "_PATIENCE", 0.5)
    commands.put("squeue", body)
    begun = time.monotonic()
    assert end_of_job({"SLURM_JOB_ID": "5"}, 1000) is None
    assert time.monotonic() - begun < 10
    assert len(commands.calls) == 1


def test_nor_without_squeue(commands: Commands) -> None:
    os.unlink(commands.directory / "squeue")
    assert end_of_job({"SLURM_JOB_ID": "5"}, 1000) is None


def test_the_patience_is_short() -> None:
    assert 1 <= slurm._PATIENCE <= 5


def test_each_run_of_a_job_has_its_own_state() -> None:
    assert parse_sacct(SACCT) == {
        "1": ["FAILED, exit code 3"],
        "2": ["FAILED, signal 9"],
        "3": ["CANCELLED by 1000"],
        "5": ["REQUEUED", "NODE_FAIL", "OUT_OF_MEMORY, signal 125"],
        "4_0": ["COMPLETED"],
        "4_1": ["TIMEOUT"],
        "6_[2-9%4]": ["PENDING"],
        "7+0": ["RUNNING"],
    }


@pytest.mark.parametrize("text", ["", "\n", "nothing", "Slurm accounting storage is disabled\n"])
def test_what_is_not_a_record_is_ignored(text: str) -> None:
    assert parse_sacct(text) == {}


def test_what_sacct_says_of_the_jobs_of_workers(commands: Commands) -> None:
    commands.put("sacct", f"cat <<'END'\n{SACCT}END")
    ids = ["2", "4_1", "5", "5 restart 1", "5 restart 2", "5 restart 3", "99", "2", None, "7.server", "2; rm -rf /"]
    assert Accounting().endings(ids) == {
        "2": "SLURM reports job 2 as FAILED, signal 9",
        "4_1": "SLURM reports job 4_1 as TIMEOUT",
        "5": "SLURM reports job 5 as REQUEUED",
        "5 restart 1": "SLURM reports job 5 restart 1 as NODE_FAIL",
        "5 restart 2": "SLURM reports job 5 restart 2 as OUT_OF_MEMORY, signal 125",
    }
    (call,) = commands.calls
    assert call.endswith(" --jobs=2,4_1,5,99")


def test_workers_without_a_job_are_not_asked_about(commands: Commands) -> None:
    assert Accounting().endings([None, "", "7.server"]) == {}
    assert commands.calls == []


@pytest.mark.parametrize("body", ["echo 'Slurm accounting storage is disabled' >&2; exit 1", "sleep 60"])
def test_an_accounting_that_does_not_answer_is_asked_once(
    commands: Commands, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "_PATIENCE", 0.5)
    commands.put("sacct", body)
    accounting = Accounting()
    assert [accounting.endings(["5"]) for _ in range(3)] == [{}, {}, {}]
    assert len(commands.calls) == 1


def test_an_accounting_that_knows_nothing_yet_is_asked_again(commands: Commands) -> None:
    commands.put("sacct", "")
    accounting = Accounting()
    assert [accounting.endings(["5"]) for _ in range(3)] == [{}, {}, {}]
    assert len(commands.calls) == 3
