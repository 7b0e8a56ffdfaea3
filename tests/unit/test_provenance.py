"""Provenance: the worker, its code, and the resources that it used."""

import functools
import importlib
import os
import pickle
import platform
import re
import shutil
import subprocess
import sys
import time
import types

import pytest

from pyexperimenter import __version__
from pyexperimenter.execution.provenance import CodeState, code_state, job_id, source_directory, worker_info
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
    settings = ["user.name=Tester", "user.email=tester@localhost", "commit.gpgsign=false", "protocol.file.allow=always"]
    options = [part for setting in settings for part in ("-c", setting)]
    done = subprocess.run(["git", *options, *arguments], cwd=directory, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def state_of(directory):
    """The state of the code as another worker sees it, which has no cache."""
    code_state.cache_clear()
    return code_state(str(directory))


@pytest.fixture(autouse=True)
def no_git_from_outside(monkeypatch, tmp_path):
    """Keep the user's own settings out, and repositories above the temporary directory."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    code_state.cache_clear()
    yield
    code_state.cache_clear()


def new_repository(directory):
    directory.mkdir()
    git(directory, "init", "--quiet")
    (directory / "code.py").write_text("1")
    git(directory, "add", "code.py")
    git(directory, "commit", "--quiet", "--message", "first")
    return directory


@pytest.fixture
def repository(tmp_path):
    return new_repository(tmp_path / "repository")


@needs_git
def test_a_clean_repository_has_a_commit(repository):
    commit = git(repository, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert state_of(repository) == (commit, False, None)
    (repository / "below").mkdir()
    assert state_of(repository / "below") == (commit, False, None)


@needs_git
def test_each_dirty_state_of_a_commit_has_its_own_hash(repository):
    commit, first = git(repository, "rev-parse", "HEAD"), None
    seen = set()
    for content in ("2", "3", ""):
        (repository / "code.py").write_text(content)
        changed = state_of(repository)
        assert changed[:2] == (commit, True)
        assert re.fullmatch("[0-9a-f]{10}", changed.diff_hash)
        first = first or changed
        seen.add(changed)
    (repository / "code.py").unlink()
    seen.add(state_of(repository))
    (repository / "code.py").symlink_to("elsewhere.py")
    seen.add(state_of(repository))
    assert len(seen) == 5
    (repository / "code.py").unlink()
    (repository / "code.py").write_text("2")
    assert state_of(repository) == first


@needs_git
def test_the_hash_is_that_of_the_files_and_not_of_how_git_shows_them(repository, tmp_path):
    (repository / "code.py").write_text("2")
    (repository / "below").mkdir()
    (repository / "below" / "new.py").write_text("1")
    state = state_of(repository)
    assert state_of(repository / "below") == state
    git(repository, "add", "--all")
    for key, value in {"diff.noprefix": "true", "diff.context": "9", "status.relativePaths": "false"}.items():
        git(repository, "config", key, value)
    assert state_of(repository) == state
    copy = tmp_path / "copy"
    shutil.copytree(repository, copy)
    assert state_of(copy) == state
    git(repository, "worktree", "add", "--quiet", str(tmp_path / "worktree"))
    (tmp_path / "worktree" / "code.py").write_text("2")
    assert state_of(tmp_path / "worktree") != state
    (tmp_path / "worktree" / "below").mkdir()
    (tmp_path / "worktree" / "below" / "new.py").write_text("1")
    assert state_of(tmp_path / "worktree" / "below") == state


@needs_git
def test_untracked_sources_count_unless_ignored_and_results_do_not(repository):
    clean = state_of(repository)
    for name in ("results.csv", "run.log", "study.db", "ignored.py"):
        (repository / name).write_text("1")
    (repository / ".git" / "info" / "exclude").write_text("ignored.py\n")
    assert state_of(repository) == clean
    (repository / "below").mkdir()
    states = []
    for content in ("1", "2"):
        (repository / "below" / "helper.py").write_text(content)
        states.append(state_of(repository))
    assert [state[:2] for state in states] == [(clean.commit, True)] * 2
    assert states[0] != states[1]


@needs_git
def test_binary_and_large_data_count_by_their_names(repository):
    def change(data, code):
        (repository / "data").write_bytes(data)
        (repository / "code.py").write_text(code)
        return state_of(repository)

    (repository / "data").write_bytes(b"")
    git(repository, "add", "data")
    git(repository, "commit", "--quiet", "--message", "data")
    clean = state_of(repository)
    binary = change(b"a\0", "1")
    assert binary.dirty
    assert change(b"b\0", "1") == binary
    assert change(b"b\0", "2") != binary
    large = change(b"a" * 16 * 2**20 + b"a", "1")
    assert large.dirty
    assert change(b"b" * 16 * 2**20 + b"b", "1") == large
    assert change(b"b" * 16 * 2**20 + b"b", "2") != large
    assert change(b"a", "1") != change(b"b", "1")
    assert change(b"", "1") == clean


@needs_git
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink(".", path)])
def test_a_file_that_has_become_something_else_is_a_change(repository, make):
    (repository / "code.py").unlink()
    make(repository / "code.py")
    assert state_of(repository).dirty is True


@needs_git
def test_a_submodule_counts_with_its_changes(repository, tmp_path):
    new_repository(tmp_path / "library")
    git(repository, "submodule", "--quiet", "add", str(tmp_path / "library"))
    git(repository, "commit", "--quiet", "--message", "submodule")
    clean, own = state_of(repository), state_of(repository / "library")
    assert (clean.dirty, own.dirty, own.commit) == (False, False, git(tmp_path / "library", "rev-parse", "HEAD"))
    states = []
    for content in ("2", "3"):
        (repository / "library" / "code.py").write_text(content)
        states.append((state_of(repository), state_of(repository / "library")))
    git(repository / "library", "commit", "--quiet", "--all", "--message", "second")
    states.append((state_of(repository), state_of(repository / "library")))
    assert len({outer.diff_hash for outer, _ in states}) == len({inner for _, inner in states}) == 3
    assert {outer.commit for outer, _ in states} == {clean.commit}


@needs_git
def test_git_is_asked_once_a_directory(repository):
    first = code_state(str(repository))
    (repository / "code.py").write_text("2")
    assert code_state(str(repository)) == first


@needs_git
def test_the_repository_is_only_read(repository):
    index = repository / ".git" / "index"
    # Git would write the new time to its index, and lock it for that.
    os.utime(repository / "code.py", (1, 1))
    before = index.read_bytes()
    (repository / ".git" / "index.lock").touch()
    assert state_of(repository).dirty is False
    assert index.read_bytes() == before
    (repository / ".git" / "index.lock").unlink()
    assert state_of(repository).dirty is False
    assert index.read_bytes() == before


@needs_git
@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are UTF-8")
@pytest.mark.parametrize("name", [b"\xff.py", b' "a\n.py', "\u00e9.py".encode()])
def test_any_file_name_may_have_changed(repository, name):
    path = os.path.join(os.fsencode(repository), name)
    states = []
    for content in ("1", "2"):
        with open(path, "w") as file:
            file.write(content)
        states.append(state_of(repository))
        git(repository, "add", "--all")
        assert state_of(repository) == states[-1]
    assert states[0].dirty and states[0] != states[1]


@needs_git
def test_a_hook_of_another_repository_does_not_matter(repository, tmp_path, monkeypatch):
    """Git sets these variables for its hooks, and for `git rebase --exec`."""
    state = state_of(repository)
    other = new_repository(tmp_path / "other")
    git(other, "commit", "--quiet", "--amend", "--message", "another")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert state_of(repository) == state


@needs_git
def test_without_a_commit_there_is_none(tmp_path):
    assert state_of(tmp_path) == CodeState()
    git(tmp_path, "init", "--quiet")
    assert state_of(tmp_path) == CodeState()
    assert state_of(tmp_path / "missing") == CodeState()


@needs_git
def test_a_bare_repository_has_a_commit_and_no_files(repository, tmp_path):
    git(tmp_path, "clone", "--quiet", "--bare", str(repository), "bare")
    assert state_of(tmp_path / "bare") == (git(repository, "rev-parse", "HEAD"), None, None)


@needs_git
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_nothing_is_known_of_a_repository_that_git_refuses(repository):
    os.chown(repository, 12345, 12345)
    assert state_of(repository) == CodeState()


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert state_of(os.getcwd()) == CodeState()


@needs_git
def test_a_worker_is_described(repository, monkeypatch):
    monkeypatch.chdir(repository)
    for name in [name for name in os.environ if name.startswith(("SLURM_", "PBS_", "LSB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    worker = worker_info("study", "me-1")
    assert (worker.name, worker.identity, worker.pid, worker.job_id) == ("study", "me-1", os.getpid(), "12")
    assert (worker.git_commit, worker.git_dirty, worker.git_diff_hash) == state_of(repository)
    assert (worker.machine, worker.python) == (platform.node(), platform.python_version())
    assert worker.library == __version__


MODULE = """
import functools

def train(*arguments): ...

class Trainer:
    def __init__(self, function=train):
        self.function = function
    def __call__(self, *arguments): ...
    def method(self, *arguments): ...
    @classmethod
    def of_class(cls, *arguments): ...
    @staticmethod
    def static(*arguments): ...

cached = functools.lru_cache(train)
dispatching = functools.singledispatch(train)
lambda_ = lambda *arguments: None
wrapped = functools.update_wrapper(Trainer(), train)
"""


def wrapping(function):
    """A decorator from elsewhere."""

    @functools.wraps(function)
    def call(*arguments):
        return function(*arguments)

    return call


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that is reached by a symbolic link."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "experiment_of_this_test.py").write_text(MODULE)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "experiment_of_this_test.py").symlink_to(tmp_path / "code" / "experiment_of_this_test.py")
    monkeypatch.syspath_prepend(str(tmp_path / "link"))
    yield importlib.import_module("experiment_of_this_test")
    del sys.modules["experiment_of_this_test"]


@pytest.mark.parametrize(
    "choose",
    [
        lambda module: module.train,
        lambda module: module.lambda_,
        lambda module: module.cached,
        lambda module: module.dispatching,
        lambda module: module.Trainer(),
        lambda module: module.Trainer().method,
        lambda module: module.Trainer.of_class,
        lambda module: module.Trainer.static,
        lambda module: module.wrapped,
        lambda module: functools.partial(module.train, 1),
        lambda module: functools.partial(functools.partial(module.Trainer().method, 1), 2),
        lambda module: functools.partial(module.Trainer()),
        lambda module: wrapping(module.train),
        lambda module: wrapping(functools.partial(module.train)),
        lambda module: functools.partial(wrapping(module.train)),
    ],
)
def test_the_repository_is_that_of_the_functions_file(module, choose, tmp_path):
    assert source_directory(choose(module)) == str(tmp_path / "code")


def test_a_function_that_was_sent_here_is_known_by_its_file(tmp_path):
    """What a script defines is sent by value: its module, __main__, is another one here."""
    (tmp_path / "script.py").write_text(
        f"{MODULE}\nfrom pyexperimenter.execution.pickling import dumps\nimport sys\n"
        "sys.stdout.buffer.write(dumps([train, Trainer(), Trainer().method, functools.partial(train)]))"
    )
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, check=True)
    assert [source_directory(function) for function in pickle.loads(done.stdout)] == [str(tmp_path)] * 4


def test_without_a_file_the_working_directory_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cell = {"__name__": "__main__"}
    exec(compile("def train(*arguments): ...", "/tmp/ipykernel_7/cell.py", "exec"), cell)
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    assert source_directory(cell["train"]) == str(tmp_path)
    assert source_directory(print) == source_directory(None) == str(tmp_path)


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
