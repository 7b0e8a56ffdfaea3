"""The progress of a study: experiments by status, their rate, the time to go, and the workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from html import escape
from typing import Any

from pyexperimenter.database.reader import ExperimentReader
from pyexperimenter.durations import interval_text
from pyexperimenter.fieldtypes import Kind
from pyexperimenter.study.details import readable
from pyexperimenter.study.forecast import Interval, by_kind, explaining, time_left
from pyexperimenter.study.groups import grouped

_PAUSE = timedelta(seconds=5)  # workers may execute nothing for so long between two experiments
_WINDOW = timedelta(hours=1)  # finished experiments in it give the rate
Execution = tuple[datetime, datetime]
_COLORS = {"done": "#2e9e5b", "error": "#d1483f", "paused": "#e0a83c", "running": "#3f8fd1", "created": "#d8d8d8"}


@dataclass(frozen=True)
class WorkerState:
    """A worker that is executing an experiment.

    Attributes
    ----------
    experiment_id : int
        ID of the experiment.
    worker : str
        Identity of the worker.
    machine : str
        Name of its machine.
    pid : int
        ID of its process on that machine.
    job_id : str or None
        ID of its cluster job.
    running_seconds : float
        Time since the execution started.
    silent_seconds : float
        Time since its last heartbeat.
    alive : bool
        Whether its lease is still valid.
    """

    experiment_id: int
    worker: str
    machine: str
    pid: int
    job_id: str | None
    running_seconds: float
    silent_seconds: float
    alive: bool

    @property
    def name(self) -> str:
        """Its machine and process, as in ``node5:4711``."""
        return f"{self.machine}:{self.pid}"


@dataclass(frozen=True)
class BlockCounts:
    """Numbers of blocks: complete ones, those with a failed experiment, other ones that have begun, and all.

    A block is complete if all its experiments are done.
    """

    complete: int
    failed: int
    partial: int
    total: int


@dataclass(frozen=True)
class StudyStatus:
    """The progress of a study.

    Attributes
    ----------
    counts : Mapping of str to int
        Number of experiments by status.
    finished_per_hour : float or None
        The recent rate: that of the last hour, or of twice the time that one experiment takes, if that is longer. None
        if no experiment finished in that time, or no worker is running.
    eta_seconds : float or None
        Time that open and running experiments will take, given this rate and how long executions of their kind took;
        0 if all are finished, None without a rate.
    workers : sequence of WorkerState
        The workers that are executing experiments.
    outside_grid : Mapping of str to int
        Number of experiments that are not in the grid of the configuration, for each status that some of them have.
    blocks : BlockCounts or None
        The progress of the blocks, if the configuration has a design.
    eta_range : tuple of float, or None
        Between which times that is likely to be; None if `eta_seconds` is 0 or None.
    is_idle : bool
        Whether experiments are left, but no worker is running, and none has been for some seconds: between two
        experiments, a worker may start a new process.
    """

    counts: Mapping[str, int]
    finished_per_hour: float | None
    eta_seconds: float | None
    workers: Sequence[WorkerState]
    outside_grid: Mapping[str, int] = field(default_factory=dict)
    blocks: BlockCounts | None = None
    eta_range: tuple[float, float] | None = None
    is_idle: bool = False

    @property
    def total(self) -> int:
        """Number of all experiments."""
        return sum(self.counts.values())

    @property
    def left(self) -> int:
        """Number of experiments that are open or running."""
        return self.counts["created"] + self.counts["running"]

    def _repr_html_(self) -> str:
        share = f" ({self.counts['done'] / self.total:.0%} done)" if self.total else ""
        alive = sum(worker.alive for worker in self.workers)
        facts = {f"{name} experiments": f"{count:,}" for name, count in self.counts.items()}
        facts["all experiments"] = f"{self.total:,}{share}"
        if self.finished_per_hour is not None:
            facts["finished an hour"] = f"{self.finished_per_hour:,.3g}"
        if self.eta_range is not None:
            facts["time to go"] = interval_text(*self.eta_range)
        if self.outside_grid:
            facts["experiments outside the grid"] = f"{sum(self.outside_grid.values()):,}"
        if self.blocks is not None:
            facts |= {f"{name} blocks": f"{count:,}" for name, count in asdict(self.blocks).items()}
        facts["workers alive"] = "no worker is running" if self.is_idle else f"{alive:,}"
        facts["workers with expired lease"] = f"{len(self.workers) - alive:,}"
        cells = "".join(
            f'<tr><th style="text-align: left">{escape(name)}</th><td style="text-align: right">{fact}</td></tr>'
            for name, fact in facts.items()
        )
        return f"{self._bar()}<table>{cells}</table>"

    def _bar(self) -> str:
        parts = "".join(
            f'<div title="{name}" style="width: {self.counts[name] / self.total:.2%}; background: {color}"></div>'
            for name, color in _COLORS.items()
            if self.counts[name]
        )
        return f'<div style="display: flex; width: 24em; height: 0.8em; background: #d8d8d8">{parts}</div>'


def outside_grid_text(counts: Mapping[str, int]) -> str:
    """Say how many experiments are not in the grid, by status.

    >>> outside_grid_text({"created": 10, "done": 2})
    '12 experiments in the table are not in the grid of the configuration (created 10, done 2)'
    """
    total = sum(counts.values())
    subject = "1 experiment in the table is" if total == 1 else f"{total} experiments in the table are"
    by_status = ", ".join(f"{status} {rows}" for status, rows in counts.items())
    return f"{subject} not in the grid of the configuration ({by_status})"


def status_of(reader: ExperimentReader) -> StudyStatus:
    """Return the progress of a study."""
    counts = reader.counts()
    now, ended, running = reader.activity()
    workers = [_worker(now, *row) for row in running]
    alive = sum(worker.alive for worker in workers)
    recent, rate = _recent(now, ended if alive else [])
    left = counts["created"] + counts["running"]
    eta = _time_left(reader, left, recent, rate, alive) if left and recent else None
    return StudyStatus(
        counts,
        rate * 3600 if recent else None,
        0.0 if not left else None if eta is None else eta.seconds,
        workers,
        reader.counts_outside_grid(sum(counts.values())),
        BlockCounts(*reader.block_counts(reader.design)) if reader.design else None,
        None if eta is None else (eta.low, eta.high),
        is_idle=left > 0 and not alive and all(now - end > _PAUSE for _, end in ended),
    )


def _time_left(reader: ExperimentReader, left: int, recent: Sequence[float], rate: float, running: int) -> Interval:
    """Return how long what is left will take, given the keyfields that matter in a sample of executions."""
    groups, finished = reader.remembered("kinds", 60, lambda: _kinds(reader))
    then = sum(groups.values())
    if not then:
        return time_left({(): left}, {(): recent}, recent, rate, running)
    return time_left({kind: number * left / then for kind, number in groups.items()}, finished, recent, rate, running)


def _kinds(reader: ExperimentReader) -> tuple[dict[tuple[Any, ...], int], dict[tuple[Any, ...], list[float]]]:
    """Return how many experiments are left of each kind, and how many seconds some took; nothing if all are alike."""
    fields = reader.schema.keyfields
    existing = reader.table_rows(limit=0)[0]  # not all, before a migrate
    names = [name for name in existing if name in fields and fields[name].kind is not Kind.JSON]
    sample = reader.sampled_executions(names)
    seconds = [(end - start).total_seconds() for *_, start, end in sample]
    rows = [[readable(*named, fields) for named in zip(names, row, strict=False)] for row in sample]
    matter = explaining(rows, seconds)
    if not matter:
        return {}, {}
    finished = by_kind([tuple(row[at] for at in matter) for row in rows], seconds)
    groups = grouped(reader, [names[at] for at in matter], None, None, ("created", "running"), None)
    return {tuple(group.values.values()): group.total for group in groups}, finished


def _recent(now: datetime, executions: Sequence[Execution]) -> tuple[list[float], float]:
    """Return how many seconds recent executions took, given all by start and end, and how many ended per second."""
    if not executions:
        return [], 0.0
    lengths = sum((end - start for start, end in executions), timedelta())
    since = now - max(_WINDOW, 2 * lengths / len(executions))
    recent = [(start, end) for start, end in executions if end > since]
    if not recent:
        return [], 0.0
    # Measured from the first start: several workers end their first experiments at about the same time.
    since = max(since, min(start for start, _ in recent))
    rate = len(recent) / max((now - since).total_seconds(), 0.001)
    return [(end - start).total_seconds() for start, end in recent], rate


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
