"""Provenance: who executes, where, and with which code. It is recorded with every attempt."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from functools import lru_cache

from pyexperimenter import __version__
from pyexperimenter.database.records import WorkerInfo
from pyexperimenter.machine.slurm import run_id


def worker_info(name: str, identity: str) -> WorkerInfo:
    """Describe this process as a worker.

    Parameters
    ----------
    name : str
        The name that the user gave the experimenter.
    identity : str
        Unique to this worker.
    """
    commit, dirty = git_state(os.getcwd())
    return WorkerInfo(
        name=name,
        identity=identity,
        machine=platform.node(),
        pid=os.getpid(),
        job_id=job_id(os.environ),
        git_commit=commit,
        git_dirty=dirty,
        python=platform.python_version(),
        library=__version__,
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


@lru_cache(maxsize=8)
def git_state(directory: str) -> tuple[str | None, bool | None]:
    """Return the commit checked out in a directory and whether tracked files differ from it.

    Both are None without a git repository, or without git. Cached for each directory.
    """
    commit = _git(directory, "rev-parse", "HEAD")
    if not commit:
        return None, None
    changes = _git(directory, "status", "--porcelain", "--untracked-files=no")
    return commit, None if changes is None else bool(changes)


def _git(directory: str, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            # Without a lock, so that workers do not get in the way of each other and of the user's own git.
            ["git", "--no-optional-locks", *arguments],
            cwd=directory,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
