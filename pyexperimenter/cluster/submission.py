"""Submitting workers as jobs, and following those jobs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyexperimenter.cluster import engine
from pyexperimenter.cluster.options import local_options, sbatch_options
from pyexperimenter.jsonable import whole_number
from pyexperimenter.machine.slurm import queued_states

_POLL = 2.0  # seconds between two looks at the jobs
# Of SLURM's states, those after which a job does not run again; ENDED is ours. PREEMPTED is one of them: a job that is
# requeued, which is the default, is PENDING.
_ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "ENDED",
    "FAILED",
    "LAUNCH_FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "RECONFIG_FAIL",
    "REVOKED",
    "TIMEOUT",
}


class Submission:
    """Jobs that were submitted. They continue when this object, or this process, is gone.

    Attributes
    ----------
    cluster : str
        ``"slurm"`` or ``"local"``.
    folder : Path
        Where their logs are.
    job_ids : list of str
        One per worker; those of a job array are ``"12_0", "12_1", ...``
    """

    def __init__(self, cluster: str, folder: Path, jobs: Sequence[Any]) -> None:
        self.cluster = cluster
        self.folder = folder
        self._jobs = {str(job.job_id): job for job in jobs}
        self.job_ids = list(self._jobs)

    def __repr__(self) -> str:
        return f"<Submission to {self.cluster}: {', '.join(self.job_ids)}>"

    def states(self) -> dict[str, str]:
        """Return the state of each job, as the cluster names it.

        For the state of the experiments, see `PyExperimenter.status`.
        """
        if self.cluster == "local":
            return {name: "COMPLETED" if job.done() else "RUNNING" for name, job in self._jobs.items()}
        queued = queued_states(self.job_ids)
        return {name: queued.get(name) or engine.end_state(job) for name, job in self._jobs.items()}

    def wait(self, timeout: float | None = None) -> dict[str, str]:
        """Wait until all jobs have ended, and return their states.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most.

        Raises
        ------
        TimeoutError
            If some jobs have not ended by then. They continue.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            states = self.states()
            if set(states.values()) <= _ENDED:
                return states
            if time.monotonic() >= deadline:
                raise TimeoutError(f"after {timeout} s the jobs are {states}")
            time.sleep(max(0.0, min(_POLL, deadline - time.monotonic())))

    def cancel(self) -> None:
        """Stop all jobs. Running experiments are released."""
        for job in self._jobs.values():
            if self.cluster == "slurm":
                job.cancel(check=False)
            else:
                engine.terminate(job)

    def logs(self, job_id: str) -> str:
        """Return what a job has printed so far: its stdout, then its stderr."""
        paths = self._jobs[job_id].paths
        return "".join(path.read_text(errors="replace") for path in (paths.stdout, paths.stderr) if path.exists())


def submit(
    work: Callable[[], Any], workers: int, cluster: str, folder: Path, options: Mapping[str, Any], grace: float
) -> Submission:
    """Start workers as jobs.

    Parameters
    ----------
    work : callable
        What each job does. It is pickled, so it must not contain secrets.
    workers : int
        Number of jobs.
    cluster : {"slurm", "local"}
        Where they run.
    folder : Path
        For pickles and logs; all machines of the cluster must see it.
    options, grace
        As for `sbatch_options`.

    Raises
    ------
    InvalidValueError
        If `workers` is not a whole number, or the option ``time`` not a valid duration.
    SubmissionError
        If submitit or SLURM is missing, or SLURM refuses the jobs.
    """
    workers = whole_number("workers", workers, least=1)
    translated = sbatch_options(options, workers, grace) if cluster == "slurm" else local_options(options)
    return Submission(cluster, *engine.start(work, workers, cluster, folder, translated))


def sbatch_script(workers: int, folder: Path, options: Mapping[str, Any], grace: float) -> str:
    """Return the script that `submit` passes to sbatch. SLURM need not be installed."""
    workers = whole_number("workers", workers, least=1)
    return engine.script(workers, folder, sbatch_options(options, workers, grace))
