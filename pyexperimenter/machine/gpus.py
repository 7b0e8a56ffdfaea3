"""Which worker sees which GPU.

A GPU is taken by a lock on a file, which whoever hands it out holds until its workers are through. So it holds for all
processes of a user on a machine, and a GPU is free as soon as its holder is gone, however that died. The processes in
which functions are executed do not have the lock: what a function leaves running would keep it. When their supervisor
dies, they end by themselves, some seconds later at most unless user code holds Python's lock.

Names of GPUs do not tell them apart: a job or container that may use one GPU only calls it 0, whichever it is, and the
same one may be called ``GPU-8932f937-...``. So what is locked is the UUID that nvidia-smi tells, which shows each
process the GPUs that it may use, in its own numbers. Where nvidia-smi does not know a name, it is locked as this SLURM
job's (or no job's): what other jobs call the same is another GPU, as SLURM gave each job its own; and the tasks of one
job, which may share its GPUs, see each other's locks.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext

from pyexperimenter.exceptions import ExecutionError
from pyexperimenter.machine.locks import lock_file, own_directory

VARIABLE = "CUDA_VISIBLE_DEVICES"
_GIVEN_TO = "PYEXPERIMENTER_GPUS_GIVEN_TO"


def visible_gpus(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the GPUs that this process may use: those it was given, as by SLURM, or all of the machine.

    Returns
    -------
    dict of str to str
        What each is in ``CUDA_VISIBLE_DEVICES``, and what no other GPU of the machine is called.
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
    """Return the UUIDs of the GPUs by their numbers; none where nvidia-smi does not tell."""
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
            f"GPUs cannot be taken: others may write where the locks on them would be, in {tempfile.gettempdir()}; "
            "set TMPDIR to a directory that all your processes on this machine share"
        )
    visible = visible_gpus(environment)
    taken: list[str] = []
    # One after the other: what is taken in vain must be given back before another looks.
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
                f"other processes on this machine that have those that are not free, or set {VARIABLE}"
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
