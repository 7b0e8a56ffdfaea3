"""Options of jobs: those of the config's profiles and of a call, translated for sbatch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyexperimenter.config import ExperimentConfig
from pyexperimenter.durations import seconds
from pyexperimenter.exceptions import InvalidValueError
from pyexperimenter.machine.slurm import parse_time
from pyexperimenter.paths import absolute_path


def options_of(
    config: ExperimentConfig, profile: str | None, cluster: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the options of a profile, overridden by those of the call. Jobs are named after the table.

    Raises
    ------
    InvalidValueError
        If there is no such cluster or profile.
    """
    if cluster not in ("slurm", "local"):
        raise InvalidValueError(f"{cluster!r} is not a valid cluster; choose 'slurm' or 'local'")
    profiles = config.cluster
    if profile is not None and profile not in profiles:
        raise InvalidValueError(
            f"the section Cluster has no profile {profile!r}; its profiles are {', '.join(profiles) or 'none'}"
        )
    merged = {**profiles.get(profile or "default", {}), **options}
    names = [merged.pop(option, None) for option in ("job_name", "job-name", "name")]
    return {**merged, "name": next(filter(None, names), config.table.name)}


def number_of_gpus(options: Mapping[str, Any]) -> int:
    """Return how many GPUs a job asks for, with or without their type.

    Examples
    --------
    >>> [number_of_gpus({"gpus": gpus}) for gpus in (None, 2, "a100:2", "a100")]
    [0, 2, 2, 1]
    """
    count = str(options.get("gpus") or 0).rpartition(":")[2]
    return int(count) if count.isdecimal() else 1


def sbatch_options(options: Mapping[str, Any], workers: int, folder: Path, grace: float) -> dict[str, Any]:
    """Translate options into sbatch's, which those with other names are passed to unchanged.

    Parameters
    ----------
    options : Mapping
        ``time`` as a duration (``"4h"``) or in SLURM's form (``"1-12:00:00"``), ``gpus`` for each worker, ``name`` of
        the jobs, ``array_parallelism``, ``signal_delay_s`` and any option of sbatch, with ``_`` for ``-``. None and
        False leave an option out.
    workers : int
        Number of jobs.
    folder : Path
        Where their logs are.
    grace : float
        Seconds that experiments have to end before a job's time is over.

    Raises
    ------
    InvalidValueError
        If ``time`` is not a valid duration, or the folder cannot be that of logs.

    Examples
    --------
    >>> options = sbatch_options({"time": "4h", "gpus": 1, "reservation": "paper"}, 10, Path("/jobs"), 30)
    >>> [options[name] for name in ("time", "gpus-per-node", "reservation", "array", "signal", "output")]
    [240, 1, 'paper', '0-9', 'B:USR2@60', '/jobs/%A_%a.log']
    """
    given = {name.replace("_", "-"): value for name, value in options.items()}
    parallel = given.pop("array-parallelism", None)
    if "\\" in str(folder):
        raise InvalidValueError(
            f"folder: {str(folder)!r} contains a backslash, after which SLURM names no log; rename it"
        )
    output = f"{folder}/".replace("%", "%%") + ("%A_%a.log" if workers > 1 else "%j.log")
    limit = time_limit(given.pop("time", None))
    # Time for experiments to end, and for the worker to record that.
    delay = given.pop("signal-delay-s", None) or math.ceil(grace) + 30
    translated = {
        "job-name": given.pop("name", None),
        "array": f"0-{workers - 1}{f'%{parallel}' if parallel else ''}" if workers > 1 else None,
        "chdir": str(absolute_path(".")),
        "gpus-per-node": given.pop("gpus", None),
        "open-mode": "append",  # a job that is requeued keeps its log
        "output": output,
        "signal": f"B:USR2@{delay}",
        "time": None if limit is None else math.ceil(limit / 60),
    }
    return {name: value for name, value in {**translated, **given}.items() if value is not None and value is not False}


def time_limit(duration: Any) -> float | None:
    """Return a time limit in seconds.

    Raises
    ------
    InvalidValueError
        If it is not a valid duration.

    Examples
    --------
    >>> time_limit("4h"), time_limit("1-12:00:00"), time_limit("90:30"), time_limit(None)
    (14400.0, 129600, 5430, None)
    """
    if duration is None:
        return None
    try:
        limit = parse_time(str(duration))
        return seconds(duration) if limit is None else limit
    except ValueError as error:
        raise InvalidValueError(f"time: {error}, or in SLURM's form, as in 1-12:00:00") from None
