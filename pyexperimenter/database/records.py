"""The values that the database and its callers exchange."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, NamedTuple

from pyexperimenter.exceptions import InvalidValueError
from pyexperimenter.experiment_status import ExperimentStatus

OUTCOMES = ("done", "error", "paused", "retried", "released", "lost", "reset", "superseded", "imported")
"""How an execution can end."""


def new_token() -> str:
    """Return 32 random hexadecimal digits."""
    return os.urandom(16).hex()


class FillCount(NamedTuple):
    """What a fill did: rows added, and rows skipped because they existed."""

    added: int
    skipped: int


@dataclass(frozen=True)
class WorkerInfo:
    """The worker, as recorded with each attempt.

    Attributes
    ----------
    name : str
        The name that the user chose, which is written into the row.
    identity : str
        Unique to one worker; the restart of a cluster job has another.
    machine : str
        Host name.
    pid : int
        Process ID on that machine.
    job_id : str or None
        ID of the cluster job, with array task and number of restarts.
    git_commit : str or None
        Commit of the repository that has the user's function.
    git_dirty : bool or None
        Whether its files differ from the commit.
    git_diff_hash : str or None
        Identifies the differences, if there are any.
    python, library : str
        Versions.
    environment : str or None
        The hash of its environment, which is recorded as an event.
    """

    name: str
    identity: str
    machine: str
    pid: int
    job_id: str | None
    git_commit: str | None
    git_dirty: bool | None
    git_diff_hash: str | None
    python: str
    library: str
    environment: str | None = None


@dataclass(frozen=True)
class Attempt:
    """One execution of an experiment. It may write while it is open and the row has `row_status`.

    Its number is used again when the table is dropped and made again, or restored; its token never is. Attempts made by
    older versions have none.
    """

    id: int
    experiment_id: int
    row_status: str = ExperimentStatus.RUNNING.value
    token: str = ""

    @property
    def named(self) -> dict[str, Any]:
        """The parameters that name it in a statement."""
        return {"attempt": self.id, "token": self.token, "experiment_id": self.experiment_id}


class Silent(NamedTuple):
    """An open attempt whose lease has run out, with its last heartbeat as the database returns it."""

    attempt: Attempt
    heartbeat: Any
    job_id: str | None


class Unheld(NamedTuple):
    """An experiment that is running, although all its attempts have ended, with the number of the last one."""

    experiment_id: int
    last_attempt: int


class Unfinished(NamedTuple):
    """How many experiments are open or running under a lease, and how many rows and attempts seem to be lost."""

    open: int
    running: int
    lost: int


@dataclass(frozen=True)
class Experiment:
    """A claimed row."""

    id: int
    keyfields: dict[str, Any]
    attempt: Attempt


@dataclass(frozen=True)
class Usage:
    """What an execution took: wall-clock and CPU seconds, peak resident memory in bytes (None: unknown)."""

    wall_seconds: float | None = None
    cpu_seconds: float | None = None
    max_rss_bytes: int | None = None


NOT_MEASURED = Usage()

LogRows = Mapping[str, tuple[Sequence[str], Sequence[Sequence[Any]]]]
"""Logtable -> its columns, and rows of encoded values for them."""


@dataclass(frozen=True)
class Ending:
    """How an execution ended.

    Attributes
    ----------
    outcome : str
        The new status of the row.
    error : str or None
        Traceback or cause.
    usage : Usage
        The time and memory that it took.
    output : str or None
        The last part of what it printed.
    retries : int
        How often the row is opened again after an error.
    """

    outcome: str
    error: str | None = None
    usage: Usage = NOT_MEASURED
    output: str | None = None
    retries: int = 0


class Written(NamedTuple):
    """What became of a note.

    That is what the table refused of it, how many attempts are left if its error is retried, and what was claimed
    together with an end.
    """

    problem: InvalidValueError | None = None
    attempts_left: int = 0
    claimed: Experiment | None = None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(" ", "seconds").partition("+")[0]


@dataclass(frozen=True)
class Note:
    """What an attempt writes in one transaction, in encoded values: results, rows of side tables, its end, or several.

    Attributes
    ----------
    time : str
        UTC time at which it was made.
    token : str
        Unique to this note, so that it is not written twice.
    results : Mapping
        Resultfield -> value.
    logs : LogRows
        Rows to append to logtables.
    emissions : Mapping
        Column -> value of a row of the table of emissions.
    ending : Ending or None
        How the attempt ended.
    """

    time: str = field(default_factory=_now)
    token: str = field(default_factory=new_token)
    results: Mapping[str, Any] = field(default_factory=dict)
    logs: LogRows = field(default_factory=dict)
    emissions: Mapping[str, Any] = field(default_factory=dict)
    ending: Ending | None = None
