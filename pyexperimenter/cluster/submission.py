"""Workers as jobs: a SLURM job array, or processes on this machine, both started by submitit (an extra)."""

from __future__ import annotations

import math
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyexperimenter.config.model import DatabaseConfig
from pyexperimenter.database.backends.sqlite import network_file_system
from pyexperimenter.durations import seconds
from pyexperimenter.exceptions import InvalidValueError, SubmissionError

_FOREVER = 100 * 365 * 24 * 60  # minutes
_POLL = 2.0  # seconds between two questions to SLURM
_ANSWER = 60.0  # seconds in which SLURM answers
_ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "ENDED"}


class Submission:
    """Jobs that were submitted. They go on when this object, or this process, is gone.

    Attributes
    ----------
    cluster : str
        ``"slurm"`` or ``"local"``.
    folder : Path
        Where their logs are.
    job_ids : list of str
        One a worker; of a job array ``"12_0", "12_1", ...``
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

        It says nothing of experiments: `PyExperimenter.status` does.
        """
        if self.cluster == "local":
            return {name: "RUNNING" if not job.done() else "COMPLETED" for name, job in self._jobs.items()}
        told = _slurm_states({name.partition("_")[0] for name in self.job_ids})
        return {name: told.get(name) or self._end_of(name) for name in self.job_ids}

    def _end_of(self, name: str) -> str:
        """Tell how a job ended that SLURM's queue does not know any more."""
        job = self._jobs[name]
        if job.paths.result_pickle.exists():
            return "COMPLETED"
        state = str(job.watcher.get_state(name, mode="force"))
        return "ENDED" if state == "UNKNOWN" else state.split(maxsplit=1)[0]

    def wait(self, timeout: float | None = None) -> dict[str, str]:
        """Wait until all jobs have ended, and return their states.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most.

        Raises
        ------
        TimeoutError
            If some have not ended by then. They go on.
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
        """Stop all jobs. Experiments in execution are given back."""
        for job in self._jobs.values():
            if self.cluster == "slurm":
                job.cancel(check=False)
            else:
                _terminate(job)

    def logs(self, job_id: str) -> str:
        """Return what a job has printed so far, its messages last."""
        paths = self._jobs[job_id].paths
        return "".join(path.read_text(errors="replace") for path in (paths.stdout, paths.stderr) if path.exists())


def _terminate(job: Any) -> None:
    """Ask a job of this machine to end. The engine's SIGINT would be ignored by what a shell runs in the background."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        for task in psutil.Process(int(job.job_id)).children():
            with suppress(psutil.NoSuchProcess):
                task.terminate()


def submit(
    work: Callable[[], Any], workers: int, cluster: str, folder: Path, options: Mapping[str, Any], grace: float
) -> Submission:
    """Start workers as jobs.

    Parameters
    ----------
    work : callable
        What each job does. It is pickled, so nothing secret may be in it.
    workers : int
        How many jobs.
    cluster : {"slurm", "local"}
        Where.
    folder : Path
        For pickles and logs; all machines of the cluster have to see it.
    options : Mapping
        As for `sbatch_options`.
    grace : float
        Seconds that experiments have to end before a job's time is over.

    Raises
    ------
    SubmissionError
        If submitit is missing, or SLURM is, or refuses.
    """
    submitit = _submitit()
    with _told_as_ours():
        if cluster == "slurm":
            executor = submitit.SlurmExecutor(folder)
            executor.update_parameters(**sbatch_options(options, workers, grace))
        else:
            executor = submitit.LocalExecutor(folder)
            executor.update_parameters(timeout_min=_minutes(options.get("time")) or _FOREVER)
        with executor.batch():
            jobs = [executor.submit(work) for _ in range(workers)]
    return Submission(cluster, Path(executor.folder), jobs)


def sbatch_script(workers: int, folder: Path, options: Mapping[str, Any], grace: float) -> str:
    """Return what `submit` would hand to sbatch. SLURM need not be there."""
    submitit = _submitit()
    command = f"{sys.executable} -u -m submitit.core._submit {folder}"
    with _told_as_ours():
        text: str = submitit.slurm.slurm._make_sbatch_string(
            command, folder, map_count=workers if workers > 1 else None, **sbatch_options(options, workers, grace)
        )
    return text


def sbatch_options(options: Mapping[str, Any], workers: int, grace: float) -> dict[str, Any]:
    """Translate options into submitit's: what it has no name for goes to sbatch as it is.

    Parameters
    ----------
    options : Mapping
        ``time`` as a duration (``"4h"``) or in SLURM's form (``"1-12:00:00"``), ``gpus`` for each worker, ``name`` of
        the jobs, ``array_parallelism``, and any option of sbatch, with ``_`` for ``-``. None leaves one out.

    Raises
    ------
    InvalidValueError
        If ``time`` is no duration.

    Examples
    --------
    >>> options = sbatch_options({"time": "4h", "gpus": 1, "mem": "8G", "reservation": "paper"}, 10, 30)
    >>> options["time"], options["gpus_per_node"], options["mem"], options["additional_parameters"]
    (240, 1, '8G', {'reservation': 'paper'})
    """
    given = {name.replace("-", "_"): value for name, value in options.items() if value is not None}
    translated: dict[str, Any] = {
        "job_name": given.pop("name", "pyexperimenter"),
        "time": _minutes(given.pop("time", None)),
        "gpus_per_node": given.pop("gpus", None),
        "array_parallelism": given.pop("array_parallelism", workers),
        # Time for experiments to end, and for the worker to write that down.
        "signal_delay_s": given.pop("signal_delay_s", math.ceil(grace) + 30),
        "wckey": given.pop("wckey", None),
    }
    known = _submitit().slurm.slurm._get_default_parameters()
    beyond = {name: given.pop(name) for name in list(given) if name not in known}
    if beyond:
        translated["additional_parameters"] = beyond
    return {**translated, **given}


def _minutes(duration: Any) -> int | None:
    """Return a time limit in minutes, as SLURM or people write it.

    >>> _minutes("4h"), _minutes("1-12:00:00"), _minutes("90:30"), _minutes(None)
    (240, 2160, 91, None)
    """
    if duration is None:
        return None
    # SLURM's forms are minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes[:seconds].
    slurm = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(duration))
    if slurm and ("-" in str(duration) or ":" in str(duration)):
        days, *rest = (int(part or 0) for part in slurm.groups())
        if not slurm[1] and not slurm[4]:
            rest = [0, *rest[:2]]
        return math.ceil(((days * 24 + rest[0]) * 3600 + rest[1] * 60 + rest[2]) / 60)
    try:
        return math.ceil(seconds(duration) / 60)
    except ValueError as error:
        raise InvalidValueError(f"time: {error}; or as SLURM has it, as in 1-12:00:00") from None


# What is checked before anything is submitted


def check_database_for_slurm(config: DatabaseConfig) -> None:
    """Check that SLURM's machines share the database.

    Raises
    ------
    SubmissionError
        If it is a SQLite file, unless it is on a local disk of the only machine there is.
    """
    if config.provider != "sqlite":
        return
    path = Path(config.database)
    remedy = "take a server (provider: mysql), or cluster='local'"
    kind = network_file_system(path)
    if kind:
        raise SubmissionError(
            f"{path} is on a network file system ({kind}), on whose locks SQLite cannot rely; {remedy}"
        )
    others = _machines() - {platform.node(), platform.node().partition(".")[0]}
    if others:
        raise SubmissionError(
            f"{path} is a file of this machine, which jobs on {', '.join(sorted(others)[:3])} do not see; {remedy}"
        )


def _machines() -> set[str]:
    """Return the names of SLURM's machines."""
    return set(re.findall(r"NodeHostName=(\S+)", _asked("scontrol", "show", "node", "--oneliner")))


def _slurm_states(job_ids: set[str]) -> dict[str, str]:
    """Return the states of the jobs that SLURM's queue knows, by the IDs of their tasks."""
    told = _asked("squeue", "--noheader", "--array", "--states=all", "--format=%i %T", f"--jobs={','.join(job_ids)}")
    return dict(line.split(maxsplit=1) for line in told.splitlines() if line.strip())


def _asked(*command: str) -> str:
    """Return what a command of SLURM's says; nothing, if it has nothing to say, as of a job long gone."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER, check=False)
    except FileNotFoundError:
        raise SubmissionError(f"there is no {command[0]} here; submit from a machine of the SLURM cluster") from None
    except subprocess.TimeoutExpired:
        raise SubmissionError(f"{command[0]} did not answer in {_ANSWER:g} s; try again") from None
    return done.stdout


# submitit


def _submitit() -> Any:
    try:
        import submitit
        import submitit.slurm.slurm
    except ImportError as error:
        raise SubmissionError(f"{error}; pip install pyexperimenter[slurm]") from error
    return submitit


@contextmanager
def _told_as_ours() -> Iterator[None]:
    """Raise our error where submitit raises one of its many."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        why = " ".join(str(getattr(error, "stderr", None) or error).split())
        raise SubmissionError(f"nothing was submitted: {why}") from error
