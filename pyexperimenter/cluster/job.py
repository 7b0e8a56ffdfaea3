"""Workers as jobs of a cluster: what is checked before they are submitted, and what each does when it runs."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cloudpickle

from pyexperimenter.cluster.submission import check_database_for_slurm
from pyexperimenter.config import ExperimentConfig
from pyexperimenter.exceptions import InvalidValueError
from pyexperimenter.execution.function import check_function_elsewhere, check_picklable
from pyexperimenter.execution.pool import number_of_workers
from pyexperimenter.machine.gpus import VARIABLE, given, hand_out


@dataclass(frozen=True)
class Job:
    """What a job does, on another machine, by a Python that knows nothing but this. Nothing secret may be in it.

    Attributes
    ----------
    experimenter : Callable
        Makes the experimenter.
    function : bytes
        The user's function, pickled.
    selected : Mapping
        Which experiments, as arguments of ``execute``.
    gpus : int
        How many of its machine it takes; 0 to leave what it is given.
    environment : Mapping of str to str or None
        Variables that the jobs' engine changes, as they are to be; None for those that are not to be there.
    path : sequence of str
        Where modules are looked for.
    """

    experimenter: Callable[[], Any]
    function: bytes
    selected: Mapping[str, Any]
    gpus: int
    environment: Mapping[str, str | None]
    path: Sequence[str] = field(default_factory=lambda: list(sys.path))

    def __call__(self) -> int:
        """Execute; return how many executions there were."""
        sys.path[:] = self.path
        # The jobs' engine ignores the one, and takes the other for the end of what cannot be continued.
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)
        for name, value in self.environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        experimenter = self.experimenter()
        with hand_out(os.environ, self.gpus, 1) as (own,):
            os.environ.update(given(own, uuid.uuid4().hex))
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
    """Return what each job does, after checking what can be checked here; parameters as of ``PyExperimenter.submit``.

    Raises
    ------
    ExperimentFunctionError, FunctionNotPicklableError
        If the function cannot be loaded elsewhere.
    SubmissionError
        If the database is a file that the machines do not share.
    ExecutionError
        If fewer GPUs of this machine are free than local jobs need.
    """
    check_picklable(function)
    pickled = cloudpickle.dumps(function)
    check_function_elsewhere(pickled, sys.path)
    gpus, environment = 0, {}
    if cluster == "slurm":
        check_database_for_slurm(config.database)
    else:
        gpus = _number_of_gpus(options) or config.execution.gpus * number_of_workers(config.n_jobs)
        environment = {VARIABLE: os.environ.get(VARIABLE)}  # the engine hides the GPUs of this machine
    with hand_out(os.environ, gpus, workers):
        pass  # that there are too few is told here, rather than in the logs of jobs
    if config.table.requires and not selected["resources"]:
        resources = {"gpus": _number_of_gpus(options), "cpus": options.get("cpus_per_task") or 1}
        selected = {**selected, "resources": resources}
    return Job(experimenter, pickled, selected, gpus, environment)


def options_of(
    config: ExperimentConfig, profile: str | None, cluster: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the options of a profile, and over them those of the call.

    Raises
    ------
    InvalidValueError
        If there is no such cluster or profile.
    """
    if cluster not in ("slurm", "local"):
        raise InvalidValueError(f"{cluster!r} is no cluster; use 'slurm' or 'local'")
    profiles = config.cluster
    if profile is not None and profile not in profiles:
        raise InvalidValueError(
            f"the section Cluster has no profile {profile!r}; it has {', '.join(profiles) or 'none'}"
        )
    return {**profiles.get(profile or "default", {}), **options}


def _number_of_gpus(options: Mapping[str, Any]) -> int:
    """Return how many GPUs a job asks for, also where it says of which kind, in SLURM's way.

    >>> [_number_of_gpus({"gpus": asked}) for asked in (None, 2, "a100:2", "a100")]
    [0, 2, 2, 1]
    """
    count = str(options.get("gpus") or 0).rpartition(":")[2]
    return int(count) if count.isdecimal() else 1
