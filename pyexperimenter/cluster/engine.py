"""Starting jobs: an array of SLURM, from a script that has all that the jobs need, or processes on this machine."""

from __future__ import annotations

import base64
import re
import shlex
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cloudpickle

from pyexperimenter.exceptions import InvalidValueError, SubmissionError
from pyexperimenter.machine import slurm

_COMMAND = [sys.executable, "-u", "-m", "pyexperimenter.cluster"]
_LARGE = 1_000_000  # characters of a script; SLURM refuses those of more than 4 MB, unless it is configured otherwise


def script(work: Callable[[], Any], options: Mapping[str, Any], setup: Sequence[str] = ()) -> str:
    """Return a script for sbatch.

    Parameters
    ----------
    work : callable
        What the job does. It is in the script, pickled, so it must not contain secrets.
    options : Mapping of str to object
        Options of sbatch. True stands for an option without a value.
    setup : sequence of str
        Lines of the shell to execute first.

    Raises
    ------
    InvalidValueError
        If an option cannot be written into the script.
    """
    lines = [f"#SBATCH {_option(name, value)}" for name, value in sorted(options.items())]
    # No srun: it would give the worker a single core of the job, and would keep the job from starting steps of its own.
    command = f"exec {shlex.join(_COMMAND)} <<'END'"
    return "\n".join(["#!/bin/bash", *lines, *setup, command, f"{_packed(work)}END", ""])


def start_array(text: str, folder: Path) -> str:
    """Pass a script to sbatch.

    Parameters
    ----------
    text : str
        The script.
    folder : Path
        Where its logs will be. It is created, as SLURM fails jobs whose logs it cannot open.

    Returns
    -------
    str
        The ID of the job.

    Raises
    ------
    SubmissionError
        If SLURM is missing or refuses the job. Nothing is left behind then.
    """
    with _translated_errors(), new_folder(folder):
        try:
            return slurm.submit(text)
        except SubmissionError as error:
            if len(text) < _LARGE:
                raise
            raise SubmissionError(
                f"{error}; the script has {len(text) / 1e6:.1f} MB, because the function contains so much data: load "
                "it inside the function"
            ) from None


def start_processes(work: Callable[[], Any], workers: int, folder: Path) -> dict[str, tuple[Any, Path]]:
    """Start processes, which continue when this one ends, also by Ctrl-C.

    Returns
    -------
    dict of str to tuple
        By its ID, each process, and the file that gets what it prints.

    Raises
    ------
    SubmissionError
        If this is impossible. Nothing is left behind then.
    """
    started: dict[str, tuple[Any, Path]] = {}
    logs: list[Path] = []
    with _translated_errors(), new_folder(folder), tempfile.TemporaryDirectory() as scratch:
        packed = Path(scratch, "job")
        packed.write_text(_packed(work))
        try:
            for _ in range(workers):
                output, name = tempfile.mkstemp(".log", "local-", folder)
                logs.append(Path(name))
                with packed.open() as stdin, open(output, "wb") as log:
                    process = subprocess.Popen(
                        _COMMAND, stdin=stdin, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                    )
                started[str(process.pid)] = process, logs[-1]
        except OSError:
            for process, _log in started.values():
                process.kill()
                process.wait()
            for path in logs:
                path.unlink()
            raise
    return started


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Create a folder that only the user can read, unless it exists; remove it if the block fails."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        yield
    except Exception:  # no KeyboardInterrupt: SLURM may have the job by then
        for path in new:
            with suppress(OSError):
                path.rmdir()
        raise


def run_packed(text: bytes) -> Any:
    """Execute what a script has packed."""
    return cloudpickle.loads(zlib.decompress(base64.b64decode(text)))()


def _packed(work: Callable[[], Any]) -> str:
    """Return pickled work as lines of text, none of which is END: their lengths are multiples of four."""
    return base64.encodebytes(zlib.compress(cloudpickle.dumps(work))).decode()


def _option(name: str, value: Any) -> str:
    r"""Return an option as sbatch reads it in a script: like a shell, but \ is an escape in single quotes, too.

    >>> _option("exclusive", True), _option("comment", "a b"), _option("comment", "C:\\d")
    ('--exclusive', "--comment='a b'", "--comment='C:\\\\d'")
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise InvalidValueError(f"{name!r} is not an option of sbatch; write its long name, as in account=me")
    if value is True:
        return f"--{name}"
    if not isinstance(value, (str, int, float)):
        raise InvalidValueError(f"{name}: {value!r} is of type {type(value).__name__}; give a text or a number")
    text = str(value)
    if not text.isprintable():
        raise InvalidValueError(f"{name}: {text!r} has a line break or another character that cannot be printed")
    return f"--{name}={shlex.quote(text.replace(chr(92), 2 * chr(92)))}"


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SubmissionError(f"nothing was submitted: {error}") from error
