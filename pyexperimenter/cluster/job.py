"""What a job does when it runs, and what is checked before it is submitted."""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle

from pyexperimenter.cluster.options import number_of_gpus, time_limit
from pyexperimenter.config import ExperimentConfig
from pyexperimenter.config.model import DatabaseConfig
from pyexperimenter.database.backends.sqlite import network_file_system
from pyexperimenter.exceptions import SubmissionError
from pyexperimenter.execution.function import check_function, check_function_elsewhere, pickled
from pyexperimenter.execution.pool import number_of_workers
from pyexperimenter.machine.gpus import allocate_gpus, gpu_environment
from pyexperimenter.machine.slurm import node_names
from pyexperimenter.machine.system import existing_signals, signal_thread


@dataclass(frozen=True)
class Job:
    """What a job does. It is pickled and may run on another machine, so it must not contain secrets.

    Jobs of older versions, which may still wait in a queue, are pickled with these names.

    Attributes
    ----------
    experimenter : Callable
        Creates the experimenter.
    function : bytes
        The user's function, pickled.
    selected : Mapping
        Which experiments, as arguments of ``execute``.
    gpus : int
        How many of its machine's GPUs it allocates; 0 to use those that SLURM gave it.
    path : sequence of str
        Where modules are imported from.
    seconds : float or None
        Time limit; None if there is none, or SLURM minds it.
    smoke : int
        If not 0, the job executes only the experiments of a smoke test of this strength, and fails if one fails.
    """

    experimenter: Callable[[], Any]
    function: bytes
    selected: Mapping[str, Any]
    gpus: int
    path: Sequence[str] = field(default_factory=lambda: list(sys.path))
    seconds: float | None = None
    smoke: int = 0

    def __call__(self) -> int:
        """Execute experiments; return how many executions there were."""
        sys.path[:] = self.path
        # submitit, which runs the jobs of older versions, ignores SIGTERM, and ends at SIGUSR2.
        for number in existing_signals("SIGTERM", "SIGUSR2"):
            signal.signal(number, signal.SIG_DFL)
        experimenter = self.experimenter()
        with allocate_gpus(os.environ, self.gpus, 1) as (own,):
            os.environ.update(gpu_environment(own, uuid.uuid4().hex))
            function = cloudpickle.loads(self.function)
            # SLURM sends SIGUSR2 before the time is over.
            run = partial(experimenter._execute, function, signals=["SIGUSR2"], stop_after=self.seconds)
            with _announced_end(self.seconds):
                if not self.smoke:
                    return int(run(**self.selected))
                run = partial(run, resources=self.selected["resources"])
                only_grid = self.selected.get("only_grid", False)
                return int(experimenter._smoke_test(run, self.smoke, self.selected["where"], only_grid))


def job_of(
    experimenter: Callable[[], Any],
    config: ExperimentConfig,
    function: Callable[..., Any],
    selected: Mapping[str, Any],
    cluster: str,
    options: Mapping[str, Any],
) -> Job:
    """Return what each job does.

    Parameters are those of ``PyExperimenter.submit``.

    Raises
    ------
    ExperimentFunctionError, FunctionNotPicklableError
        If the function cannot be loaded elsewhere.
    InvalidValueError
        If the option ``time`` is not a valid duration.
    """
    check_function(function)
    payload = pickled(function)
    check_function_elsewhere(payload, sys.path)
    gpus, seconds = 0, None
    if cluster == "local":
        gpus = number_of_gpus(options) or config.execution.gpus * number_of_workers(config.n_jobs)
        seconds = time_limit(options.get("time"))
    if config.table.requires and not selected["resources"]:
        resources = {"gpus": number_of_gpus(options), "cpus": options.get("cpus_per_task") or 1}
        selected = {**selected, "resources": resources}
    return Job(experimenter, payload, selected, gpus, seconds=seconds)


@contextmanager
def _announced_end(seconds: float | None) -> Iterator[None]:
    """Send this thread the signal by which SLURM announces the end of a job's time, after some seconds."""
    if seconds is None:
        yield
        return
    number = getattr(signal, "SIGUSR2", signal.SIGTERM)  # Windows has none that only announces
    delay = min(seconds, threading.TIMEOUT_MAX)
    timer = threading.Timer(delay, signal_thread, [threading.get_ident(), number])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def check_machines(config: DatabaseConfig, gpus: int, workers: int, cluster: str) -> None:
    """Check that jobs can run where they are to run.

    Parameters
    ----------
    config : DatabaseConfig
        Of the database.
    gpus : int
        As for `Job`.
    workers, cluster
        As for ``PyExperimenter.submit``.

    Raises
    ------
    SubmissionError
        If the database is a file that the machines do not share.
    ExecutionError
        If fewer GPUs of this machine are free than local jobs need.
    """
    if cluster == "slurm":
        check_database_for_slurm(config)
    with allocate_gpus(os.environ, gpus, workers):
        pass  # if there are too few, say so here rather than in the logs of the jobs


def check_database_for_slurm(config: DatabaseConfig) -> None:
    """Check that SLURM's machines share the database.

    Raises
    ------
    SubmissionError
        If it is a SQLite file, unless that is on a local disk and the cluster is only this machine.
    """
    if config.provider != "sqlite":
        return
    path = Path(config.database)
    remedy = "use a database server (provider: mysql or postgresql), or cluster='local'"
    kind = network_file_system(path)
    if kind:
        raise SubmissionError(
            f"{path} is on a network file system ({kind}), on whose locks SQLite cannot rely; {remedy}"
        )
    others = node_names() - {platform.node(), platform.node().partition(".")[0]}
    if others:
        raise SubmissionError(
            f"{path} is a file of this machine, which jobs on {', '.join(sorted(others)[:3])} cannot see; {remedy}"
        )
