"""Options of jobs: those of the config's profiles and of a call, translated for submitit and sbatch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pyexperimenter.cluster.engine import known_options
from pyexperimenter.config import ExperimentConfig
from pyexperimenter.durations import seconds
from pyexperimenter.exceptions import InvalidValueError
from pyexperimenter.machine.slurm import parse_time

_UNLIMITED = 100 * 365 * 24 * 60  # minutes


def options_of(
    config: ExperimentConfig, profile: str | None, cluster: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the options of a profile, overridden by those of the call.

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
    return {**profiles.get(profile or "default", {}), **options}


def number_of_gpus(options: Mapping[str, Any]) -> int:
    """Return how many GPUs a job asks for, with or without their type.

    Examples
    --------
    >>> [number_of_gpus({"gpus": gpus}) for gpus in (None, 2, "a100:2", "a100")]
    [0, 2, 2, 1]
    """
    count = str(options.get("gpus") or 0).rpartition(":")[2]
    return int(count) if count.isdecimal() else 1


def sbatch_options(options: Mapping[str, Any], workers: int, grace: float) -> dict[str, Any]:
    """Translate options into submitit's. Those that it has no name for go to sbatch unchanged.

    Parameters
    ----------
    options : Mapping
        ``time`` as a duration (``"4h"``) or in SLURM's form (``"1-12:00:00"``), ``gpus`` for each worker, ``name`` of
        the jobs, ``array_parallelism``, and any option of sbatch, with ``_`` for ``-``. None leaves an option out.
    workers : int
        Number of jobs.
    grace : float
        Seconds that experiments have to end before a job's time is over.

    Raises
    ------
    InvalidValueError
        If ``time`` is not a valid duration.
    SubmissionError
        If submitit is missing.

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
        # Time for experiments to end, and for the worker to record that.
        "signal_delay_s": given.pop("signal_delay_s", math.ceil(grace) + 30),
        "wckey": given.pop("wckey", None),
    }
    known = known_options()
    beyond = {name: given.pop(name) for name in list(given) if name not in known}
    if beyond:
        translated["additional_parameters"] = beyond
    return {**translated, **given}


def local_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Translate options into submitit's for jobs on this machine, which only have a time limit."""
    return {"timeout_min": _minutes(options.get("time")) or _UNLIMITED}


def _minutes(duration: Any) -> int | None:
    """Return a time limit in minutes, rounded up.

    >>> _minutes("4h"), _minutes("1-12:00:00"), _minutes("90:30"), _minutes(None)
    (240, 2160, 91, None)
    """
    if duration is None:
        return None
    try:
        limit = parse_time(str(duration))
        return math.ceil((seconds(duration) if limit is None else limit) / 60)
    except ValueError as error:
        raise InvalidValueError(f"time: {error}, or in SLURM's form, as in 1-12:00:00") from None
