"""What a job does when it runs, and what is checked before it is submitted."""

from __future__ import annotations

import os
import platform
import signal
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle

from pyexperimenter.cluster.options import number_of_gpus
from pyexperimenter.config import ExperimentConfig
from pyexperimenter.config.model import DatabaseConfig
from pyexperimenter.database.backends.sqlite import network_file_system
from pyexperimenter.exceptions import SubmissionError
from pyexperimenter.execution.function import check_function, check_function_elsewhere, pickled
from pyexperimenter.execution.pool import number_of_workers
from pyexperimenter.machine.gpus import VARIABLE, allocate_gpus, gpu_environment
from pyexperimenter.machine.slurm import node_names
from pyexperimenter.machine.system import existing_signals


@dataclass(frozen=True)
class Job:
    """What a job does. It is pickled and may run on another machine, so it must not contain secrets.

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
    environment : Mapping of str to str or None
        Variables to restore because submitit changes them; None to remove one.
    path : sequence of str
        Where modules are imported from.
    """

    experimenter: Callable[[], Any]
    function: bytes
    selected: Mapping[str, Any]
    gpus: int
    environment: Mapping[str, str | None]
    path: Sequence[str] = field(default_factory=lambda: list(sys.path))

    def __call__(self) -> int:
        """Execute experiments; return how many executions there were."""
        sys.path[:] = self.path
        # submitit ignores SIGTERM, and ends at SIGUSR2.
        for number in existing_signals("SIGTERM", "SIGUSR2"):
            signal.signal(number, signal.SIG_DFL)
        for name, value in self.environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        experimenter = self.experimenter()
        with allocate_gpus(os.environ, self.gpus, 1) as (own,):
            os.environ.update(gpu_environment(own, uuid.uuid4().hex))
            # SLURM sends SIGUSR2 before the time is over.
            return int(experimenter._execute(cloudpickle.loads(self.function), signals=["SIGUSR2"], **self.selected))


def checked_job(
    experimenter: Callable[[], Any],
    config: ExperimentConfig,
    function: Callable[..., Any],
    selected: Mapping[str, Any],
    workers: int,
    cluster: str,
    options: Mapping[str, Any],
) -> Job:
    """Check all that can be checked before submitting, and return what each job does.

    Parameters are those of ``PyExperimenter.submit``.

    Raises
    ------
    ExperimentFunctionError, FunctionNotPicklableError
        If the function cannot be loaded elsewhere.
    SubmissionError
        If the database is a file that the machines do not share.
    ExecutionError
        If fewer GPUs of this machine are free than local jobs need.
    """
    check_function(function)
    payload = pickled(function)
    check_function_elsewhere(payload, sys.path)
    gpus, environment = 0, {}
    if cluster == "slurm":
        check_database_for_slurm(config.database)
    else:
        gpus = number_of_gpus(options) or config.execution.gpus * number_of_workers(config.n_jobs)
        environment = {VARIABLE: os.environ.get(VARIABLE)}  # submitit hides the GPUs of this machine
    with allocate_gpus(os.environ, gpus, workers):
        pass  # if there are too few, say so here rather than in the logs of the jobs
    if config.table.requires and not selected["resources"]:
        resources = {"gpus": number_of_gpus(options), "cpus": options.get("cpus_per_task") or 1}
        selected = {**selected, "resources": resources}
    return Job(experimenter, payload, selected, gpus, environment)


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
