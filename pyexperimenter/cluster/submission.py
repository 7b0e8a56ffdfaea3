"""Submitting workers as jobs, and following those jobs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyexperimenter.cluster import engine
from pyexperimenter.cluster.options import sbatch_options
from pyexperimenter.exceptions import SmokeTestError
from pyexperimenter.jsonable import whole_number
from pyexperimenter.machine import slurm

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

    def __init__(
        self,
        cluster: str,
        folder: Path,
        job_ids: Sequence[str],
        processes: Mapping[str, tuple[Any, Path]] | None = None,
    ) -> None:
        self.cluster = cluster
        self.folder = folder
        self.job_ids = list(job_ids)
        self._processes = processes or {}  # of local jobs, with their logs

    def __repr__(self) -> str:
        return f"<Submission to {self.cluster}: {', '.join(self.job_ids)}>"

    def states(self) -> dict[str, str]:
        """Return the state of each job, as the cluster names it.

        For the state of the experiments, see `PyExperimenter.status`.
        """
        if self.cluster == "local":
            codes = {name: process.poll() for name, (process, _) in self._processes.items()}
            return {
                name: "RUNNING" if code is None else "FAILED" if code else "COMPLETED" for name, code in codes.items()
            }
        states = slurm.queued_states(self.job_ids)
        states |= slurm.final_states([name for name in self.job_ids if name not in states])
        return {name: states.get(name, "ENDED") for name in self.job_ids}

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

    def condition_of_others(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of jobs that start only if these succeed. Local ones are waited for.

        Raises
        ------
        SmokeTestError
            If a local job has failed.
        """
        if self.cluster == "local":
            if set(self.wait().values()) != {"COMPLETED"}:
                raise SmokeTestError(
                    f"the smoke test failed, so no other job was started:\n{self.logs(self.job_ids[0])}"
                )
            return dict(options)
        conditions = [options.get("dependency"), f"afterok:{slurm.whole_jobs(self.job_ids)[0]}"]
        return {**options, "dependency": ",".join(filter(None, conditions)), "kill_on_invalid_dep": "yes"}

    def cancel(self) -> None:
        """Stop all jobs. Running experiments are released."""
        going_on = [name for name, state in self.states().items() if state not in _ENDED]
        if self.cluster == "local":
            for name in going_on:
                self._processes[name][0].terminate()
        elif going_on:
            slurm.cancel(slurm.whole_jobs(going_on))

    def log_file(self, job_id: str) -> Path:
        """Return the file to which a job prints. SLURM creates it when the job starts."""
        return self._processes[job_id][1] if self.cluster == "local" else self.folder / f"{job_id}.log"

    def logs(self, job_id: str) -> str:
        """Return what a job has printed so far."""
        log = self.log_file(job_id)
        return log.read_text(errors="replace") if log.exists() else ""


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
        For logs; all machines of the cluster must see it.
    options, grace
        As for `sbatch_options`.

    Raises
    ------
    InvalidValueError
        If `workers` is not a whole number, or an option is not valid.
    SubmissionError
        If SLURM is missing or refuses the jobs. Nothing is left behind then.
    """
    workers = whole_number("workers", workers, least=1)
    if cluster == "local":
        processes = engine.start_processes(work, workers, folder)
        return Submission(cluster, folder, list(processes), processes)
    job = engine.start_array(sbatch_script(work, workers, folder, options, grace), folder)
    return Submission(cluster, folder, [f"{job}_{task}" for task in range(workers)] if workers > 1 else [job])


def sbatch_script(work: Callable[[], Any], workers: int, folder: Path, options: Mapping[str, Any], grace: float) -> str:
    """Return the script that `submit` passes to sbatch. SLURM need not be installed."""
    workers = whole_number("workers", workers, least=1)
    others = dict(options)
    setup = others.pop("setup", None) or []
    lines = [setup] if isinstance(setup, str) else [str(line) for line in setup]
    return engine.script(work, sbatch_options(others, workers, folder, grace), lines)
