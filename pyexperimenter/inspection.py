"""What there is to know of a running study: its progress, one experiment in full, errors of one kind together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pyexperimenter.database.reader import ExperimentReader
from pyexperimenter.exceptions import InvalidExperimentError

_WINDOW = timedelta(hours=1)  # in which finished experiments tell how fast it goes
_EXAMPLES = 5  # IDs named of a group of errors


@dataclass(frozen=True)
class WorkerState:
    """A worker that holds an experiment.

    Attributes
    ----------
    experiment_id : int
        What it executes.
    worker : str
        Its identity.
    machine : str
        Where it is.
    pid : int
        Its process there.
    job_id : str or None
        Its cluster job.
    running_seconds : float
        How long the execution has lasted.
    silent_seconds : float
        How long ago its last heartbeat was.
    alive : bool
        Whether its lease has not run out.
    """

    experiment_id: int
    worker: str
    machine: str
    pid: int
    job_id: str | None
    running_seconds: float
    silent_seconds: float
    alive: bool


@dataclass(frozen=True)
class StudyStatus:
    """How far a study is.

    Attributes
    ----------
    counts : Mapping of str to int
        Experiments by status.
    finished_per_hour : float or None
        How many ended lately; None if fewer than two did in the last hour.
    eta_seconds : float or None
        How long what is open and running will take at that rate.
    workers : sequence of WorkerState
        Who executes at the moment.
    """

    counts: Mapping[str, int]
    finished_per_hour: float | None
    eta_seconds: float | None
    workers: Sequence[WorkerState]

    @property
    def total(self) -> int:
        """Number of experiments."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class ExperimentDetails:
    """One experiment: its row and all its executions, as columns and values."""

    row: Mapping[str, Any]
    attempts: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ErrorGroup:
    """Experiments that failed in the same way.

    Attributes
    ----------
    summary : str
        The last line of the traceback, without what differs from one to the other.
    count : int
        How many there are.
    example_ids : sequence of int
        Some of them.
    shared : Mapping
        Keyfields that have one value in all of them, but others elsewhere in the table.
    error : str
        The error of the first example.
    """

    summary: str
    count: int
    example_ids: Sequence[int]
    shared: Mapping[str, Any]
    error: str


def status_of(reader: ExperimentReader) -> StudyStatus:
    """Look how far a study is."""
    counts = reader.counts()
    now, ends, running = reader.activity()
    recent = [end for end in ends if now - end < _WINDOW]
    rate = None
    if len(recent) > 1 and now > recent[-1]:
        rate = len(recent) / (now - recent[-1]).total_seconds() * 3600
    left = counts["created"] + counts["running"]
    return StudyStatus(counts, rate, left / rate * 3600 if rate else None, [_worker(now, *row) for row in running])


def details_of(reader: ExperimentReader, experiment_id: int) -> ExperimentDetails:
    """Return all that is known of one experiment.

    Raises
    ------
    InvalidExperimentError
        If there is no such experiment.
    """
    columns, rows = reader.table_rows(ids=[experiment_id])
    if not rows:
        raise InvalidExperimentError(
            f"the table {reader.schema.table} has no experiment with ID {experiment_id}; list shows those there are"
        )
    names, attempts = reader.attempt_rows(experiment_id)
    return ExperimentDetails(
        dict(zip(columns, rows[0], strict=True)), [dict(zip(names, attempt, strict=True)) for attempt in attempts]
    )


def error_groups(reader: ExperimentReader) -> list[ErrorGroup]:
    """Put the experiments in error together that failed alike; the largest group first."""
    keyfields = list(reader.schema.keyfields)
    groups: dict[str, list[tuple[Any, ...]]] = {}
    for row in reader.error_rows():
        groups.setdefault(normalized(row[-1]), []).append(row)
    found = []
    for rows in sorted(groups.values(), key=len, reverse=True):
        shared = {}
        for position, name in enumerate(keyfields, start=1):
            value = rows[0][position]
            if len(rows) > 1 and all(row[position] == value for row in rows) and reader.has_other(name, value):
                shared[name] = value
        error = rows[0][-1] or ""
        found.append(ErrorGroup(_summary(error), len(rows), [row[0] for row in rows[:_EXAMPLES]], shared, error))
    return found


def normalized(error: str | None) -> str:
    """Return an error without what differs between two of its kind: numbers, addresses, quoted texts, paths.

    Examples
    --------
    >>> normalized("ValueError: seed 7 of 'iris' at 0x7f3a") == normalized("ValueError: seed 12 of 'wine' at 0x81bc")
    True
    """
    lines = (error or "").partition("\nThe last that it printed:")[0].splitlines()
    # Of a traceback count the places and the exception, not the lines of code between them.
    kept = [line for line in lines if line.startswith("  File ") or not line.startswith(" ")]
    return "\n".join(_without_particulars(line) if not line.startswith("  File ") else line for line in kept)


def _without_particulars(line: str) -> str:
    line = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", line)
    line = re.sub(r"0x[0-9a-fA-F]+", "0x…", line)
    return re.sub(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", "…", line)


def _summary(error: str) -> str:
    lines = [line for line in normalized(error).splitlines() if line.strip() and not line.startswith(" ")]
    if not lines:
        return "no error text"
    # A death's cause is said first, an exception last.
    return lines[-1] if lines[0].startswith("Traceback") else lines[0]


def _worker(now: datetime, *row: Any) -> WorkerState:
    experiment_id, worker, machine, pid, job_id, started, heartbeat, lease_until = row
    return WorkerState(
        experiment_id,
        worker,
        machine,
        pid,
        job_id,
        (now - started).total_seconds(),
        (now - heartbeat).total_seconds(),
        lease_until is None or lease_until >= now,
    )
