"""The values that travel between the database and those who work with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from pyexperimenter.experiment_status import ExperimentStatus


class FillCount(NamedTuple):
    """What a fill did: rows added, and rows skipped because they were there."""

    added: int
    skipped: int


@dataclass(frozen=True)
class WorkerInfo:
    """Who executes, as recorded with each attempt.

    Attributes
    ----------
    name : str
        As chosen by the user; written into the row.
    identity : str
        Unique to one worker, also among restarts of one cluster job.
    machine : str
        Host name.
    pid : int
        Process ID on that machine.
    job_id : str or None
        ID of the cluster job, with array task and restart count.
    git_commit : str or None
        Commit of the working directory.
    git_dirty : bool or None
        Whether tracked files differ from it.
    python, library : str
        Versions.
    """

    name: str
    identity: str
    machine: str
    pid: int
    job_id: str | None
    git_commit: str | None
    git_dirty: bool | None
    python: str
    library: str


@dataclass(frozen=True)
class Attempt:
    """The right to write one execution of an experiment: good while open and the row has `row_status`."""

    id: int
    experiment_id: int
    row_status: str = ExperimentStatus.RUNNING.value


@dataclass(frozen=True)
class Experiment:
    """A claimed row."""

    id: int
    keyfields: dict[str, Any]
    attempt: Attempt


@dataclass(frozen=True)
class Usage:
    """What an execution took: wall-clock and CPU seconds, peak resident memory in bytes (None: not known)."""

    wall_seconds: float | None = None
    cpu_seconds: float | None = None
    max_rss_bytes: int | None = None


NOT_MEASURED = Usage()
