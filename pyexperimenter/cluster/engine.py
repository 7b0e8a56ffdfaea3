"""submitit, which starts jobs: as a SLURM job array, or as processes on this machine. It is an extra."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyexperimenter.exceptions import SubmissionError


def start(
    work: Callable[[], Any], workers: int, cluster: str, folder: Path, options: Mapping[str, Any]
) -> tuple[Path, list[Any]]:
    """Start jobs.

    Parameters
    ----------
    work, workers, cluster, folder
        As for `submit`.
    options : Mapping
        Named as submitit names them.

    Returns
    -------
    tuple of Path and list
        The folder of the logs, and submitit's jobs.

    Raises
    ------
    SubmissionError
        If submitit or SLURM is missing, or SLURM refuses the jobs.
    """
    submitit = _submitit()
    with _translated_errors():
        own = submitit.core.utils.JobPaths.get_first_id_independent_folder(folder)
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        executor = (submitit.SlurmExecutor if cluster == "slurm" else submitit.LocalExecutor)(folder)
        executor.update_parameters(**options)
        with _private_files(), executor.batch():
            jobs = [executor.submit(work) for _ in range(workers)]
    return Path(executor.folder), jobs


def script(workers: int, folder: Path, options: Mapping[str, Any]) -> str:
    """Return the script that `start` passes to sbatch. SLURM need not be installed."""
    submitit = _submitit()
    command = f"{sys.executable} -u -m submitit.core._submit {folder}"
    with _translated_errors():
        text: str = submitit.slurm.slurm._make_sbatch_string(
            command, folder, map_count=workers if workers > 1 else None, **options
        )
    return text


def known_options() -> Collection[str]:
    """Return the options of sbatch that submitit has a name for."""
    return _submitit().slurm.slurm._get_default_parameters()  # type: ignore[no-any-return]


def end_state(job: Any) -> str:
    """Return how a SLURM job ended that is no longer in the queue."""
    if job.paths.result_pickle.exists():
        return "COMPLETED"
    state = str(job.watcher.get_state(job.job_id, mode="force"))
    return "ENDED" if state == "UNKNOWN" else state.split(maxsplit=1)[0]


def terminate(job: Any) -> None:
    """Ask a job on this machine to end. submitit's SIGINT would be ignored by what a shell runs in the background."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        for task in psutil.Process(int(job.job_id)).children():
            with suppress(psutil.NoSuchProcess):
                task.terminate()


@contextmanager
def _private_files() -> Iterator[None]:
    """Let only the user read new files: others must neither see nor replace what the jobs will load."""
    mask = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(mask)


def _submitit() -> Any:
    try:
        import submitit
        import submitit.slurm.slurm
    except ImportError as error:
        raise SubmissionError(f"{error}; pip install pyexperimenter[slurm]") from error
    return submitit


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Raise our error in place of the various errors of submitit."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        why = " ".join(str(getattr(error, "stderr", None) or error).split())
        raise SubmissionError(f"nothing was submitted: {why}") from error
