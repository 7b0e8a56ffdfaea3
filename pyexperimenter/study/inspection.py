"""What there is to know of a running study: its progress, one experiment in full, errors of one kind together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from html import escape
from typing import Any

from pyexperimenter.database.reader import ExperimentReader
from pyexperimenter.database.values import decode
from pyexperimenter.durations import duration_text
from pyexperimenter.exceptions import InvalidExperimentError, UndecodableValueError
from pyexperimenter.fieldtypes import FieldType

_WINDOW = timedelta(hours=1)  # in which finished experiments tell how fast it goes
_PAUSE = timedelta(minutes=1)  # between two experiments, in which nobody need hold one
_EXAMPLES = 5  # IDs named of a group of errors
_COLOURS = {"done": "#2e9e5b", "error": "#d1483f", "paused": "#e0a83c", "running": "#3f8fd1", "created": "#d8d8d8"}


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
        How fast they end lately: in the last hour, or in twice the time that one takes, if that is longer. None if none
        did.
    eta_seconds : float or None
        How long what is open and running will take at that rate: 0 if all is finished, None if nobody is at work.
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

    def _repr_html_(self) -> str:
        share = f" ({self.counts['done'] / self.total:.0%} done)" if self.total else ""
        alive = sum(worker.alive for worker in self.workers)
        facts = {f"{name} experiments": f"{count:,}" for name, count in self.counts.items()}
        facts["all experiments"] = f"{self.total:,}{share}"
        if self.finished_per_hour is not None:
            facts["finished an hour"] = f"{self.finished_per_hour:,.3g}"
        if self.eta_seconds is not None:
            facts["time to go"] = duration_text(round(self.eta_seconds))
        facts["workers alive"] = f"{alive:,}"
        facts["workers silent, lease over"] = f"{len(self.workers) - alive:,}"
        cells = "".join(
            f'<tr><th style="text-align: left">{escape(name)}</th><td style="text-align: right">{fact}</td></tr>'
            for name, fact in facts.items()
        )
        return f"{self._bar()}<table>{cells}</table>"

    def _bar(self) -> str:
        parts = "".join(
            f'<div title="{name}" style="width: {self.counts[name] / self.total:.2%}; background: {colour}"></div>'
            for name, colour in _COLOURS.items()
            if self.counts[name]
        )
        return f'<div style="display: flex; width: 24em; height: 0.8em; background: #d8d8d8">{parts}</div>'


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
        The exception of the traceback, without particulars in which they differ.
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
    now, ended, running = reader.activity()
    workers = [_worker(now, *row) for row in running]
    rate = _per_hour(now, ended)
    left = counts["created"] + counts["running"]
    eta = None
    if not left:
        eta = 0.0
    elif rate and (any(worker.alive for worker in workers) or now - max(end for _, end in ended) < _PAUSE):
        eta = left / rate * 3600
    return StudyStatus(counts, rate, eta, workers)


def _per_hour(now: datetime, executions: Sequence[tuple[datetime, datetime]]) -> float | None:
    """Return how many executions, given by start and end, ended in an hour lately; None if none did."""
    if not executions:
        return None
    lengths = sum((end - start for start, end in executions), timedelta())
    since = now - max(_WINDOW, 2 * lengths / len(executions))
    recent = [(start, end) for start, end in executions if end > since]
    if not recent:
        return None
    # From the first start on, as the first end says nothing: all of several workers have theirs at about the same time.
    since = max(since, min(start for start, _ in recent))
    return len(recent) / max((now - since).total_seconds(), 0.001) * 3600


def details_of(reader: ExperimentReader, experiment_id: int) -> ExperimentDetails:
    """Return all that is known of one experiment.

    Raises
    ------
    InvalidExperimentError
        If there is no such experiment.
    """
    columns, rows = reader.table_rows(ids=[experiment_id])
    if not rows:
        raise InvalidExperimentError(f"the table {reader.schema.table} has no experiment with ID {experiment_id}")
    names, attempts = reader.attempt_rows(experiment_id)
    types = reader.schema.types_of(reader.schema.attempts)
    return ExperimentDetails(
        _decoded(columns, rows[0], reader.schema.columns), [_decoded(names, attempt, types) for attempt in attempts]
    )


def _decoded(names: Sequence[str], values: Sequence[Any], types: Mapping[str, FieldType]) -> dict[str, Any]:
    return {name: _shown(name, value, types) for name, value in zip(names, values, strict=True)}


def _shown(name: str, value: Any, types: Mapping[str, FieldType]) -> Any:
    """Return the Python value, or what a person wrote into the column instead."""
    try:
        return decode(name, types[name], value) if name in types else value
    except UndecodableValueError:
        return value


@dataclass
class _Group:
    """What is kept of a group of errors while they are read."""

    error: str
    summary: str
    shared: dict[str, Any]
    count: int = 0
    ids: list[int] = field(default_factory=list)

    def add(self, experiment_id: int, keyfields: Mapping[str, Any], summary: str) -> None:
        self.count += 1
        if summary != self.summary:
            self.summary = _without_particulars(self.summary)
        if len(self.ids) < _EXAMPLES:
            self.ids.append(experiment_id)
        self.shared = {name: value for name, value in self.shared.items() if keyfields[name] == value}


def error_groups(reader: ExperimentReader) -> list[ErrorGroup]:
    """Put the experiments in error together that failed alike; the largest group first."""
    types = reader.schema.keyfields
    groups: dict[str, _Group] = {}
    everywhere: dict[str, Any] | None = None  # the keyfields with one value in all that is in error
    for experiment_id, *values, error in reader.error_rows():
        keyfields = dict(zip(types, values, strict=True))
        everywhere = keyfields if everywhere is None else everywhere
        everywhere = {name: value for name, value in everywhere.items() if keyfields[name] == value}
        text = "" if error is None else str(error)
        summary = _summary(text)
        groups.setdefault(normalized(text), _Group(text, summary, keyfields)).add(experiment_id, keyfields, summary)
    found = sorted(groups.values(), key=lambda group: group.count, reverse=True)
    constant = {name for name in everywhere or () if not reader.has_other(name, found[0].ids[0])}
    return [
        ErrorGroup(
            group.summary,
            group.count,
            group.ids,
            {
                name: _shown(name, value, types)
                for name, value in group.shared.items()
                if group.count > 1 and name not in constant
            },
            group.error,
        )
        for group in found
    ]


def normalized(error: str | None) -> str:
    """Return an error without what differs between two of its kind: numbers, addresses, quoted texts, paths.

    Examples
    --------
    >>> normalized("ValueError: seed 7 of 'iris' at 0x7f3a") == normalized("ValueError: seed 12 of 'wine' at 0x81bc")
    True
    """
    return "\n".join(
        _FOLDER.sub(r"\1", line) if _is_place(line) else _without_particulars(line) for line in _telling_lines(error)
    )


def _telling_lines(error: str | None) -> Iterator[str]:
    """Yield the lines that count: of a traceback the places and the exception, not the code between them."""
    for line in (error or "").partition("\nThe last that it printed:")[0].splitlines():
        line = _MARGIN.sub("", line)
        if _is_place(line) or not line.startswith(" "):
            yield line


# In time linear in the line's length, which may be of megabytes.
_MARGIN = re.compile(r"^ +[|+][-+]* ?")  # of the parts of an exception group
_FOLDER = re.compile(r'^(  File ")[^"]*/')
_QUOTED = re.compile(r"""(?<!\w)[bru]{0,2}(?:'[^']*'|"[^"]*")""", re.I)  # not the apostrophe of "can't"
_WORD = re.compile(r"[^\s'\"(),:;=<>\[\]{}]+")
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def _is_place(line: str) -> bool:
    return line.startswith("  File ")


def _without_particulars(line: str) -> str:
    line = _QUOTED.sub("'…'", line)
    if "/" in line:
        line = _WORD.sub(lambda word: "…" if "/" in word[0] else word[0], line)
    return _NUMBER.sub("…", line)


def _summary(error: str) -> str:
    """Return the line that says most: of a traceback the exception's, which stands behind the last place."""
    lines = [line for line in _telling_lines(error) if line.strip()]
    places = [index for index, line in enumerate(lines) if _is_place(line)]
    behind = lines[places[-1] + 1 :] if places else lines
    return (behind or lines or ["no error text"])[0].strip()


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
