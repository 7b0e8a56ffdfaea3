"""What SLURM tells of jobs: how long one has left, and how one ended. It may know nothing, and it decides nothing."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping

_PATIENCE = 3.0  # seconds for an answer
_TIME_LEFT = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)")
_JOB = re.compile(r"([0-9]+(?:_[0-9]+)?)(?: restart ([0-9]+))?")


def end_of_job(environment: Mapping[str, str], now: float) -> float | None:
    """Return when the job of this process ends, as seconds since 1970; None if it is in none, or that has no end.

    Parameters
    ----------
    environment : Mapping of str to str
        Where newer versions of SLURM say it; others, as 22.05, are asked.
    now : float
        The time.
    """
    end = environment.get("SLURM_JOB_END_TIME", "")
    if re.fullmatch(r"[0-9]+", end):
        return float(end)
    # The first number of an array stands for all of its tasks.
    job, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    job = f"{job}_{task}" if job and task else environment.get("SLURM_JOB_ID")
    if not job:
        return None
    left = time_left(_answer("squeue", "--noheader", f"--jobs={job}", "--format=%L") or "")
    return None if left is None else now + left


def time_left(text: str) -> float | None:
    """Return the seconds that squeue tells, as ``days-hours:minutes:seconds``; None if it tells none.

    Examples
    --------
    >>> time_left("1-02:00:05"), time_left("5:00"), time_left("UNLIMITED")
    (93605.0, 300.0, None)
    """
    found = _TIME_LEFT.fullmatch(text.strip())
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


class Accounting:
    """SLURM's records of jobs that have ended. Where there are none, or they do not answer, it is asked once only."""

    def __init__(self) -> None:
        self._answers = True

    def endings(self, job_ids: Iterable[str | None]) -> dict[str, str]:
        """Return what SLURM says of jobs with IDs as in attempts, of as many as it says something of."""
        asked = {job_id: found for job_id in job_ids if job_id and (found := _JOB.fullmatch(job_id))}
        if not asked or not self._answers:
            return {}
        answer = _answer(
            "sacct",
            "--allocations",
            "--duplicates",  # the runs of a job before it was requeued
            "--noheader",
            "--parsable2",
            "--format=JobID,State,ExitCode",
            f"--jobs={','.join(sorted({found[1] for found in asked.values()}))}",
        )
        self._answers = answer is not None
        runs = parse_sacct(answer or "")
        return {
            job_id: f"SLURM says of job {job_id}: {runs[found[1]][restart]}"
            for job_id, found in asked.items()
            if (restart := int(found[2] or 0)) < len(runs.get(found[1], []))
        }


def parse_sacct(text: str) -> dict[str, list[str]]:
    r"""Return the states of jobs in words, one for each time that a job was started, from sacct's lines.

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


def _answer(*command: str) -> str | None:
    """Return what a command prints; None if it is missing, fails or takes too long."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
