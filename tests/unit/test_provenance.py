"""Provenance: the worker, its code, and the resources that it used."""

import os
import platform
import shutil
import subprocess
import sys
import time

import pytest

from pyexperimenter import __version__
from pyexperimenter.execution.provenance import git_state, job_id, worker_info
from pyexperimenter.execution.usage import Meter

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git here")


# Cluster jobs


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, None),
        ({"SLURM_JOB_ID": "12"}, "12"),
        ({"SLURM_JOB_ID": ""}, None),
        ({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "0"}, "12"),
        ({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": ""}, "12"),
        ({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "1"}, "12 restart 1"),
        ({"SLURM_JOB_ID": "17", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "5"}, "12_5"),
        ({"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "0", "SLURM_RESTART_COUNT": "3"}, "12_0 restart 3"),
        ({"SLURM_JOB_ID": "17", "SLURM_ARRAY_JOB_ID": ""}, "17"),
        ({"SLURM_RESTART_COUNT": "3"}, None),
        ({"PBS_JOBID": "7.server"}, "7.server"),
        ({"LSB_JOBID": "9"}, "9"),
        ({"HOME": "/root"}, None),
    ],
)
def test_a_cluster_job_is_known_by_its_id_and_restarts(environment, expected):
    assert job_id(environment) == expected


# Code


def git(directory, *arguments):
    identity = ["-c", "user.name=Tester", "-c", "user.email=tester@localhost", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def no_git_from_outside(monkeypatch, tmp_path):
    """Keep the user's own settings out, and repositories above the temporary directory."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    git_state.cache_clear()
    yield
    git_state.cache_clear()


@pytest.fixture
def repository(tmp_path):
    directory = tmp_path / "repository"
    directory.mkdir()
    git(directory, "init", "--quiet")
    (directory / "code.py").write_text("1")
    git(directory, "add", "code.py")
    git(directory, "commit", "--quiet", "--message", "first")
    return directory


@needs_git
def test_a_clean_repository_has_a_commit(repository):
    commit = git(repository, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert git_state(str(repository)) == (commit, False)
    (repository / "below").mkdir()
    assert git_state(str(repository / "below")) == (commit, False)


@needs_git
def test_changed_code_is_dirty_and_a_stray_file_is_not(repository):
    (repository / "results.csv").write_text("1")
    assert git_state(str(repository))[1] is False
    git_state.cache_clear()
    (repository / "code.py").write_text("2")
    assert git_state(str(repository))[1] is True
    git_state.cache_clear()
    git(repository, "add", "code.py")
    assert git_state(str(repository))[1] is True


@needs_git
def test_git_is_asked_once_a_directory(repository):
    first = git_state(str(repository))
    (repository / "code.py").write_text("2")
    assert git_state(str(repository)) == first


@needs_git
def test_the_repository_is_only_read(repository):
    index = repository / ".git" / "index"
    # Git would write the new time to its index, and lock it for that.
    os.utime(repository / "code.py", (1, 1))
    before = index.read_bytes()
    (repository / ".git" / "index.lock").touch()
    assert git_state(str(repository))[1] is False
    assert index.read_bytes() == before
    (repository / ".git" / "index.lock").unlink()
    git_state.cache_clear()
    assert git_state(str(repository))[1] is False
    assert index.read_bytes() == before


@needs_git
@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are UTF-8")
def test_names_that_are_no_text_are_no_matter(repository):
    git(repository, "config", "core.quotepath", "false")
    path = os.path.join(os.fsencode(repository), b"\xff.py")
    with open(path, "w") as file:
        file.write("1")
    git(repository, "add", "--all")
    assert git_state(str(repository))[1] is True


@needs_git
def test_without_a_commit_there_is_none(tmp_path):
    assert git_state(str(tmp_path)) == (None, None)
    git_state.cache_clear()
    git(tmp_path, "init", "--quiet")
    assert git_state(str(tmp_path)) == (None, None)
    assert git_state(str(tmp_path / "missing")) == (None, None)


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(os.getcwd()) == (None, None)


@needs_git
def test_a_worker_is_described(repository, monkeypatch):
    monkeypatch.chdir(repository)
    for name in [name for name in os.environ if name.startswith(("SLURM_", "PBS_", "LSB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    worker = worker_info("study", "me-1")
    assert (worker.name, worker.identity, worker.pid, worker.job_id) == ("study", "me-1", os.getpid(), "12")
    assert (worker.git_commit, worker.git_dirty) == (git(repository, "rev-parse", "HEAD"), False)
    assert (worker.machine, worker.python) == (platform.node(), platform.python_version())
    assert worker.library == __version__


# Measures

BURN = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass"


def test_time_is_measured_from_the_making_on():
    exec(BURN.format(0.05))  # before: does not count
    meter = Meter()
    time.sleep(0.1)
    usage = meter.usage()
    assert 0.1 <= usage.wall_seconds < 5
    assert 0 <= usage.cpu_seconds < 0.04


def test_the_cpu_of_this_process_and_of_its_children_counts():
    meter = Meter()
    exec(BURN.format(0.2))
    own = meter.usage().cpu_seconds
    assert own >= 0.18  # the clock of os.times ticks a hundred times a second
    subprocess.run([sys.executable, "-S", "-c", BURN.format(0.3)], check=True)
    assert meter.usage().cpu_seconds >= own + 0.28


def test_usage_may_be_asked_for_again_and_grows():
    meter = Meter()
    first = meter.usage()
    second = meter.usage()
    assert second.wall_seconds >= first.wall_seconds
    assert second.cpu_seconds >= first.cpu_seconds


def test_peak_memory_is_in_bytes_and_remains_after_it_is_freed():
    meter = Meter()
    block = bytearray(b"x") * 300_000_000
    del block
    assert 300_000_000 <= meter.usage().max_rss_bytes < 3_000_000_000
