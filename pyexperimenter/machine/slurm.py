"""Questions to SLURM about jobs and machines. Its answers are reported, but never decide who holds an experiment."""

from __future__ import annotations

import os
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from pyexperimenter.exceptions import SubmissionError

_PATIENCE = 3.0  # seconds that a worker waits for an answer
_TIMEOUT = 60.0  # seconds to wait when submitting jobs or looking at them
_RUN = re.compile(r"([0-9]+(?:_[0-9]+)?)(?: restart ([0-9]+))?")
_JOB = re.compile(r"[0-9]+(?:_(?:[0-9]+|\[[-0-9,]+\]))?")
_SUBMITTED = re.compile(r"^([0-9]+)(?:;\S+)?\s*\Z", re.M)  # the last line; sites print greetings, too
_OF_JOB = re.compile("SLURM_(ARRAY|JOB|RESTART)_")  # of SLURM's variables
_TIME = re.compile(r"(?:([0-9]+)-)?([0-9]+(?::[0-9]+){0,2})")


# This process's job


def job_id(environment: Mapping[str, str]) -> str | None:
    """Return the ID of the SLURM job that this process belongs to, in the form that SLURM's commands take.

    Examples
    --------
    >>> job_id({"SLURM_JOB_ID": "17", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "5"})
    '12_5'
    """
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environment.get("SLURM_JOB_ID") or None


def run_id(environment: Mapping[str, str]) -> str | None:
    """Return the job's ID and the number of its restarts, as a requeued job keeps its ID.

    Examples
    --------
    >>> run_id({"SLURM_JOB_ID": "12"}), run_id({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "2"})
    ('12', '12 restart 2')
    """
    job, restarts = job_id(environment), environment.get("SLURM_RESTART_COUNT") or "0"
    return f"{job} restart {restarts}" if job and restarts != "0" else job


def end_of_job(environment: Mapping[str, str], now: float) -> float | None:
    """Return when the job of this process ends, in seconds since 1970; None without a job or an end.

    Parameters
    ----------
    environment : Mapping of str to str
        Of this process. Newer versions of SLURM set the end there; older ones, such as 22.05, are asked.
    now : float
        The time.
    """
    end = environment.get("SLURM_JOB_END_TIME", "")
    if re.fullmatch(r"[0-9]+", end):
        return float(end)
    job = job_id(environment)
    if job is None:
        return None
    left = parse_time(_answer("squeue", "--noheader", f"--jobs={job}", "--format=%L") or "")
    return None if left is None else now + left


def parse_time(text: str) -> int | None:
    """Return the seconds of a time in SLURM's form; None for any other text, such as a plain number.

    Examples
    --------
    >>> [parse_time(text) for text in ("1-02:00:05", "1-2", "2:00:00", "5:00", "5", "UNLIMITED")]
    [93605, 93600, 7200, 300, None, None]
    """
    found = _TIME.fullmatch(text.strip())
    if found is None or text.strip().isdecimal():
        return None
    parts = [int(part) for part in found[2].split(":")]
    missing = [0] * (3 - len(parts))
    hours, minutes, seconds = [*parts, *missing] if found[1] else [*missing, *parts]
    return ((int(found[1] or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


# The queue


def submit(script: str) -> str:
    """Pass a script to sbatch; return the ID of the job.

    Raises
    ------
    SubmissionError
        If SLURM is missing, refuses the job or cannot be reached. Then there is no job.
    """
    # The new job would inherit what says which job this process belongs to, and when that ends.
    environment = {name: value for name, value in os.environ.items() if not _OF_JOB.match(name)}
    # Without a time limit: sbatch gives up by itself, and only then is the answer known.
    done = _run(None, "sbatch", "--parsable", text=script, env=environment)
    job = _SUBMITTED.search(done.stdout)
    if done.returncode != 0 or job is None:
        raise SubmissionError(f"nothing was submitted: {' '.join((done.stderr or done.stdout).split())}")
    return job[1]


def node_names() -> set[str]:
    """Return the host names of the cluster's machines.

    Raises
    ------
    SubmissionError
        If SLURM is missing or does not answer.
    """
    return set(re.findall(r"NodeHostName=(\S+)", _run(_TIMEOUT, "scontrol", "show", "node", "--oneliner").stdout))


def queued_states(job_ids: Iterable[str]) -> dict[str, str]:
    """Return the states of jobs, by ID; without those that SLURM's queue no longer knows.

    Raises
    ------
    SubmissionError
        If SLURM is missing or does not answer.
    """
    arrays = sorted({job.partition("_")[0] for job in job_ids})
    command = ("squeue", "--noheader", "--array", "--states=all", "--format=%i %T", f"--jobs={','.join(arrays)}")
    # It fails for a job that ended long ago.
    return dict(line.split(maxsplit=1) for line in _run(_TIMEOUT, *command).stdout.splitlines() if line.strip())


def queue_of(name: str) -> list[str]:
    """Return the states of the user's jobs of this name that are pending or running, one for each task of an array.

    Raises
    ------
    SubmissionError
        If SLURM is missing or does not answer.
    """
    done = _run(_TIMEOUT, "squeue", "--noheader", "--array", "--me", "--format=%T %j")
    if done.returncode != 0:
        raise SubmissionError(f"squeue has no answer: {' '.join(done.stderr.split())}")
    jobs = (line.partition(" ") for line in done.stdout.splitlines())
    return [state for state, _, job in jobs if job == name and state != "COMPLETING"]


def whole_jobs(run_ids: Iterable[str]) -> list[str]:
    """Return the jobs of runs, an array as one.

    Examples
    --------
    >>> whole_jobs(["12_5", "12_3 restart 1", "9"])
    ['9', '12']
    """
    return sorted({found[1] for run in run_ids if (found := re.match(r"([0-9]+)", run))}, key=int)


def cancel(job_ids: Sequence[str]) -> None:
    """Cancel jobs, arrays or tasks of arrays. Those that have ended are left alone.

    Raises
    ------
    SubmissionError
        If an ID is not valid or unknown, or SLURM is missing or refuses.
    """
    for job in job_ids:
        if not _JOB.fullmatch(job):
            raise SubmissionError(f"{job!r} is not a valid job ID; give it as in 12, 12_5 or 12_[0-4]")
    known = whole_jobs(queued_states(job_ids))  # scancel ignores others
    if unknown := [job for job in job_ids if job.partition("_")[0] not in known]:
        raise SubmissionError(f"SLURM's queue has no job {', '.join(unknown)}: it ended long ago, or the ID is wrong")
    errors = _run(_TIMEOUT, "scancel", *job_ids).stderr.splitlines()  # its exit code is often 0
    if refused := [line for line in errors if line and "already completing or completed" not in line]:
        raise SubmissionError(f"cannot cancel: {'; '.join(refused)}")


# The accounting


def final_states(job_ids: Sequence[str]) -> dict[str, str]:
    """Return the states of jobs that have ended, by ID; without those that SLURM has no record of.

    >>> final_states([])
    {}
    """
    runs = parse_sacct(_sacct(job_ids) or "") if job_ids else {}
    return {job: re.split("[ ,]", runs[job][-1])[0] for job in job_ids if job in runs}


class Accounting:
    """SLURM's records of jobs that have ended. If they cannot be read, they are asked for only once."""

    def __init__(self) -> None:
        self._answers = True

    def endings(self, job_ids: Iterable[str | None]) -> dict[str, str]:
        """Return how jobs ended, by their IDs as in attempts; without jobs that SLURM has no record of."""
        asked = {job_id: found for job_id in job_ids if job_id and (found := _RUN.fullmatch(job_id))}
        if not asked or not self._answers:
            return {}
        answer = _sacct(sorted({found[1] for found in asked.values()}))
        self._answers = answer is not None
        runs = parse_sacct(answer or "")
        return {
            job_id: f"SLURM reports job {job_id} as {runs[found[1]][restart]}"
            for job_id, found in asked.items()
            if (restart := int(found[2] or 0)) < len(runs.get(found[1], []))
        }


def parse_sacct(text: str) -> dict[str, list[str]]:
    r"""Return how jobs ended, one text for each time a job was started, from the output of sacct.

    Examples
    --------
    >>> parse_sacct("7|NODE_FAIL|0:0\n7|FAILED|3:0\n8_1|FAILED|0:9\n")
    {'7': ['NODE_FAIL', 'FAILED, exit code 3'], '8_1': ['FAILED, signal 9']}
    """
    runs: dict[str, list[str]] = defaultdict(list)
    for line in text.splitlines():
        job, _, rest = line.partition("|")
        state, _, exit_code = rest.partition("|")
        code, _, signal = exit_code.partition(":")
        if state:
            why = f", exit code {code}" if code not in ("", "0") else ""
            why += f", signal {signal}" if signal not in ("", "0") else ""
            runs[job].append(state + why)
    return dict(runs)


# Its commands


def _sacct(job_ids: Iterable[str]) -> str | None:
    return _answer(
        "sacct",
        "--allocations",
        "--duplicates",  # the runs of a job before it was requeued
        "--noheader",
        "--parsable2",
        "--format=JobID,State,ExitCode",
        f"--jobs={','.join(job_ids)}",
    )


def _answer(*command: str) -> str | None:
    """Return the output of a command; None if it is missing, fails or takes longer than a worker can wait."""
    with suppress(SubmissionError, OSError):
        done = _run(_PATIENCE, *command)
        if done.returncode == 0:
            return done.stdout
    return None


def _run(
    timeout: float | None, *command: str, text: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            input=text,
            env=env,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        raise SubmissionError(f"there is no {command[0]} here; submit from a machine of the SLURM cluster") from None
    except subprocess.TimeoutExpired:
        raise SubmissionError(f"{command[0]} did not answer in {timeout:g} s; try again") from None
