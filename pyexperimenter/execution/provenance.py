"""Provenance: who executes, where, and with which code. It is recorded with every attempt."""

from __future__ import annotations

import getpass
import hashlib
import inspect
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

from pyexperimenter import __version__
from pyexperimenter.database.records import WorkerInfo
from pyexperimenter.machine.slurm import run_id
from pyexperimenter.machine.system import user_id

# Untracked files that may be part of the program. Others are often results and logs, which change all the time.
_SOURCES = [
    *("*.py", "*.pyx", "*.pxd", "*.c", "*.cc", "*.cpp", "*.cu", "*.h", "*.hpp"),
    *("*.f90", "*.go", "*.java", "*.jl", "*.m", "*.r", "*.R", "*.rs", "*.sh"),
]
_MOST_BYTES = 16 * 2**20  # of the changed files together, so that large data does not delay a worker
_LONGEST_DIFF = 2**18  # characters
_HASH = 40  # digits of a commit's hash, or more
_UNTRACKED_TIMEOUT = 5.0  # seconds to look for untracked files, in a directory of millions of them
# Set while git runs a hook. They name a repository that need not be that of the function.
_REPOSITORY_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")


class CodeState(NamedTuple):
    """The version of the code in a git repository; None for what is not known.

    Attributes
    ----------
    commit : str or None
        The commit that is checked out.
    dirty : bool or None
        Whether files differ from it.
    diff_hash : str or None
        Identifies the differences, if there are any.
    """

    commit: str | None = None
    dirty: bool | None = None
    diff_hash: str | None = None


def caller() -> str:
    """Return who calls, in words: the user, the machine and the process."""
    try:
        user = getpass.getuser()
    except (ImportError, KeyError, OSError):  # in a container
        user = f"user {user_id()}"
    return f"{user} on {platform.node()} (process {os.getpid()})"


def worker_info(
    name: str, identity: str, function: Callable[..., Any] | None = None, environment: str | None = None
) -> WorkerInfo:
    """Describe this process as a worker.

    Parameters
    ----------
    name : str
        The name that the user gave the experimenter.
    identity : str
        Unique to this worker.
    function : callable, optional
        The user's function, whose code is described.
    environment : str, optional
        The hash of the environment.
    """
    code = code_state(source_directory(function))
    return WorkerInfo(
        name=name,
        identity=identity,
        machine=platform.node(),
        pid=os.getpid(),
        job_id=job_id(os.environ),
        git_commit=code.commit,
        git_dirty=code.dirty,
        git_diff_hash=code.diff_hash,
        python=platform.python_version(),
        library=__version__,
        environment=environment,
    )


def job_id(environment: Mapping[str, str]) -> str | None:
    """Return the ID of the cluster job that this process belongs to, or None.

    A requeued SLURM job keeps its ID, so the number of its restarts is part of it.

    Examples
    --------
    >>> job_id({"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "5", "SLURM_RESTART_COUNT": "2"})
    '12_5 restart 2'
    >>> job_id({"PBS_JOBID": "7.server"})
    '7.server'
    """
    return run_id(environment) or environment.get("PBS_JOBID") or environment.get("LSB_JOBID") or None


def source_directory(function: Callable[..., Any] | None) -> str:
    """Return the directory of the file that defines a function; the working directory if there is no such file.

    The file of a callable object is that of its class. Functions of notebooks have no file.
    """
    defined: Any = None if function is None else inspect.unwrap(function)
    if isinstance(defined, partial):
        return source_directory(defined.func)
    if not inspect.isroutine(defined):
        defined = type(defined).__call__
    module = sys.modules.get(getattr(defined, "__module__", None) or "")
    code = getattr(defined, "__code__", None)
    files: list[str | None] = [getattr(code, "co_filename", None), getattr(module, "__file__", None)]
    for file in files:
        if file is not None and os.path.isfile(file):
            return os.path.dirname(os.path.realpath(file))
    return os.getcwd()


@lru_cache(maxsize=8)
def code_state(directory: str) -> CodeState:
    """Return the version of the code in the git repository of a directory.

    Differences from the commit are changes of tracked files, and untracked source files that git does not ignore. Their
    hash depends on the names and contents of these files only. Of binary files, and of those that exceed 16 MiB
    together with the ones before, only the names count.

    Nothing is known without a repository or git, or if git refuses the repository because another user owns it. Cached
    for each directory.
    """
    head = _git(directory, "rev-parse", "HEAD", "--show-cdup")
    commit, *up = (head or b"").split(b"\n")
    if len(commit) < _HASH:  # git failed: the exit code is not known if SIGCHLD is ignored
        return CodeState()
    top = os.path.join(directory, os.fsdecode(up[0]))
    status = _git(top, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=no")
    if status is None:  # without a working tree
        return CodeState(commit.decode())
    search = ("ls-files", "-z", "--others", "--exclude-standard", "--", *_SOURCES)
    untracked = _git(top, *search, timeout=_UNTRACKED_TIMEOUT) or b""
    names = {entry[3:] for entry in status.split(b"\0")} | {*untracked.split(b"\0")}
    changed = sorted(os.fsdecode(name) for name in names if name)
    return CodeState(commit.decode(), bool(changed), _hash_of(top, changed) if changed else None)


def uncommitted_changes(directory: str) -> str:
    """Return the changes of tracked files in the git repository of a directory, and the names of untracked sources.

    Changes that are longer than 256 KiB are cut. What git ignores is not in them.
    """
    changes = (_git(directory, "diff", "HEAD", "--no-color", "--no-ext-diff") or b"").decode(errors="replace")
    if len(changes) > _LONGEST_DIFF:
        changes = f"{changes[:_LONGEST_DIFF]}\n[cut after {_LONGEST_DIFF} characters]\n"
    search = ("ls-files", "--others", "--exclude-standard", "--", *_SOURCES)
    untracked = (_git(directory, *search, timeout=_UNTRACKED_TIMEOUT) or b"").decode(errors="replace")
    return changes + "".join(f"untracked: {name}\n" for name in untracked.splitlines())


def _hash_of(top: str, names: Sequence[str]) -> str:
    """Return a short hash of the names and contents of files."""
    digest, left = hashlib.sha256(), _MOST_BYTES
    for name in names:
        path = os.path.join(top, name)
        content = _content(path, left)
        left -= len(content)
        digest.update(f"{name!r} {os.path.lexists(path)} {len(content)} ".encode() + content)
    return digest.hexdigest()[:10]


def _content(path: str, most: int) -> bytes:
    """Return what counts of a changed file, at most so many bytes."""
    try:
        if os.path.islink(path):
            return os.fsencode(os.readlink(path))
        if os.path.exists(os.path.join(path, ".git")):  # a submodule
            return repr(code_state(path)).encode()
        if not os.path.isfile(path) or os.path.getsize(path) > most:
            return b""
        with open(path, "rb") as file:
            start = file.read(8000)
            return b"" if b"\0" in start else start + file.read()  # as git recognizes binary files
    except OSError:
        return b""


def _git(directory: str, *arguments: str, timeout: float = 30.0) -> bytes | None:
    """Return the output of a git command; None if it fails."""
    try:
        done = subprocess.run(
            # Without a lock, so that workers do not get in the way of each other and of the user's own git.
            ["git", "--no-optional-locks", *arguments],
            cwd=directory,
            env={name: value for name, value in os.environ.items() if name not in _REPOSITORY_VARIABLES},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
