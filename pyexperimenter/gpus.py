"""Which worker sees which GPU."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence

from pyexperimenter.exceptions import ExecutionError

VARIABLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Return the IDs of the GPUs that this process may use: those it was given, as by SLURM, or all of the machine.

    Examples
    --------
    >>> visible_gpus({"CUDA_VISIBLE_DEVICES": "2,3"})
    ['2', '3']
    """
    if VARIABLE in environment:
        return [name.strip() for name in environment[VARIABLE].split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"^GPU (\d+):", listed, re.MULTILINE)


def hand_out(gpus: Sequence[str], each: int, workers: int) -> list[str]:
    """Return what each worker's ``CUDA_VISIBLE_DEVICES`` is, no GPU being in two of them.

    Raises
    ------
    ExecutionError
        If there are not enough.

    Examples
    --------
    >>> hand_out(["0", "1", "2", "3"], 2, 2)
    ['0,1', '2,3']
    """
    if each * workers > len(gpus):
        raise ExecutionError(
            f"{workers} workers with {each} GPUs each need {each * workers}, but this process sees {len(gpus)} "
            f"({', '.join(gpus) or 'none'}); lower n_jobs or gpus, or set {VARIABLE}"
        )
    return [",".join(gpus[index * each : (index + 1) * each]) for index in range(workers)]
