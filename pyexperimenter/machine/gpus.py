"""Allocation of GPUs to workers.

A GPU is allocated by a lock on a file, which the allocating process holds until its workers have ended. So it holds for
all processes of a user on a machine, and a GPU is free as soon as the process that holds it is gone, even if it was
killed. The processes in which functions are executed do not have the lock: otherwise processes that a function leaves
behind would keep it. When their supervisor dies, they end by themselves, within seconds unless user code holds Python's
lock.

The names of GPUs are not unique: a job or container that may use one GPU calls it 0, whichever it is, and the same GPU
can also be called ``GPU-8932f937-...``. So the lock is on the UUID from nvidia-smi, which shows each process the GPUs
that it may use, with the process's own numbers. A name that nvidia-smi does not know is locked together with the ID of
the SLURM job: SLURM gives each job its own GPUs, so the same name in another job is another GPU. The tasks of one job,
which may share GPUs, see each other's locks.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext

from pyexperimenter.exceptions import ExecutionError
from pyexperimenter.machine.locks import lock_file, own_directory
from pyexperimenter.machine.system import user_id

VARIABLE = "CUDA_VISIBLE_DEVICES"
_GIVEN_TO = "PYEXPERIMENTER_GPUS_GIVEN_TO"


def visible_gpus(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the GPUs that this process may use: those given to it, for example by SLURM, or all of the machine.

    Returns
    -------
    dict of str to str
        Name of each GPU in ``CUDA_VISIBLE_DEVICES``, and a name that is unique on the machine.
    """
    uuids = _uuids()
    job = environment.get("SLURM_JOB_ID")
    names = environment[VARIABLE].split(",") if VARIABLE in environment else list(uuids)
    visible = {}
    for name in filter(None, map(str.strip, names)):
        known = uuids.get(name) or next((uuid for uuid in uuids.values() if uuid.startswith(name)), None)
        visible[name] = known or f"{name} of job {job}"
    return visible


def _uuids() -> dict[str, str]:
    """Return the UUIDs of the GPUs by number; none without nvidia-smi."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(re.findall(r"^GPU (\d+):.*\(UUID: (\S+)\)", listed, re.MULTILINE))


@contextmanager
def allocate_gpus(environment: Mapping[str, str], each: int, workers: int) -> Iterator[list[str | None]]:
    """Allocate GPUs that are free, until the end of the block.

    Parameters
    ----------
    environment : Mapping of str to str
        Of this process.
    each : int
        GPUs per worker.
    workers : int
        Number of workers.

    Yields
    ------
    list of str or None
        The ``CUDA_VISIBLE_DEVICES`` of each worker, with no GPU in two of them; None to leave it unchanged.

    Raises
    ------
    ExecutionError
        If there are not enough free GPUs.
    """
    if not each:
        yield [None] * workers
        return
    directory = own_directory()
    if directory is None:
        raise ExecutionError(
            f"GPUs cannot be allocated: the directory for their locks, pyexperimenter-{user_id()} in the one for "
            "temporary files, cannot be made, or other users can write to it; set TMPDIR to a directory that all your "
            "processes on this machine share"
        )
    visible = visible_gpus(environment)
    taken: list[str] = []
    # One process at a time: GPUs taken in vain must be free again before another process looks.
    with lock_file(directory / "pyexperimenter-gpus", wait=True) or nullcontext(), ExitStack() as locks:
        for name, gpu in visible.items():
            key = hashlib.sha256(f"{environment.get(_GIVEN_TO)} {gpu}".encode()).hexdigest()[:16]
            if len(taken) < each * workers and (lock := lock_file(directory / f"pyexperimenter-gpu-{key}")):
                locks.enter_context(lock)
                taken.append(name)
        if len(taken) < each * workers:
            raise ExecutionError(
                f"{workers} workers with {each} GPUs each need {each * workers}, but this process sees {len(visible)} "
                f"({', '.join(visible) or 'none'}), {len(taken)} of them free; lower n_jobs or gpus, wait for your "
                f"other processes on this machine to free theirs, or set {VARIABLE}"
            )
        kept = locks.pop_all()
    with kept:
        yield [",".join(taken[index * each : (index + 1) * each]) for index in range(workers)]


def gpu_environment(gpus: str | None, holder: str) -> dict[str, str]:
    """Return the variables that give GPUs to a process; none for None.

    The process can allocate its GPUs again to workers of its own, as a function does that calls execute(). So the locks
    that it takes have other names.

    Parameters
    ----------
    gpus : str or None
        As from `allocate_gpus`.
    holder : str
        A unique name of the process.
    """
    return {} if gpus is None else {VARIABLE: gpus, _GIVEN_TO: holder}
