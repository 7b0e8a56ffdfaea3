"""What the fuzzer of the command line does with one command, in a process of its own."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import traceback
from contextlib import closing
from pathlib import Path

from click.testing import CliRunner

from pyexperimenter.cli import main, study_options
from pyexperimenter.database.connection import _IDLE
from pyexperimenter.exceptions import PyExperimenterError

READING = {"status", "list", "show", "errors", "logs", "table", "export", "validate", "debug", "completion", "submit"}
"""Commands that change no database; of submit only the dry run is tried."""

STREAMS = ["", ">&-", "2>&-", "<&-", ">&- 2>&- <&-", ">/dev/full", "2>/dev/full", "| head -c 1"]
"""What may become of the streams of a process."""

_PATIENCE = 0.1  # seconds, with the server that is away
_PROCESS = f"""
from pyexperimenter.cli import main, study_options
study_options.PATIENCE = {_PATIENCE}
main.main(prog_name="pyexperimenter")
"""


def attempt(template: str, arguments: list[str], stdin: bytes, streams: str | None) -> tuple[str, str]:
    """Run a command in a copy of the directory `template`.

    Parameters
    ----------
    template : str
        The directory.
    arguments : list of str
        The command and its arguments.
    stdin : bytes
        What it reads.
    streams : str or None
        Redirections of a process of its own, for the shell; None to call the command here.

    Returns
    -------
    tuple of str
        What it printed, and what is wrong.
    """
    for entry in os.scandir():
        shutil.rmtree(entry) if entry.is_dir(follow_symlinks=False) else os.unlink(entry)
    shutil.copytree(template, ".", dirs_exist_ok=True)
    os.environ["HOME"] = os.getcwd()
    before, tables_before = files(), tables()
    if streams is None:
        code, output, wrong = here(arguments, stdin)
    else:
        code, output, wrong = elsewhere(arguments, stdin, streams)
    if wrong or "full" in (streams or ""):  # all was done, only the message was not printed
        return output, wrong
    command = next((argument for argument in arguments if argument in main.commands), None)
    if code != 0 and command not in ("run", None) and files() != before:
        changed = {name for name in files().keys() | before.keys() if files().get(name) != before.get(name)}
        wrong = f"it failed, but changed {changed}"
    if (code != 0 or command in READING) and command != "run" and tables() != tables_before:
        wrong = "it changed the tables"
    return output, wrong


def here(arguments: list[str], stdin: bytes) -> tuple[int, str, str]:
    study_options.PATIENCE = _PATIENCE
    result = CliRunner().invoke(main, arguments, input=stdin, prog_name="pyexperimenter")
    _IDLE.clear()
    error = result.exception
    asked = isinstance(error, (PyExperimenterError, OSError)) and "--debug" in arguments
    usual = error is None or isinstance(error, SystemExit) or asked
    wrong = "" if usual else "".join(traceback.format_exception(error))
    if result.exit_code not in (0, 1, 2):
        wrong = wrong or f"it exited with {result.exit_code}"
    return result.exit_code, result.output, wrong


def elsewhere(arguments: list[str], stdin: bytes, streams: str) -> tuple[int, str, str]:
    command = ["bash", "-c", f'"$@" {streams}', "bash", sys.executable, "-c", _PROCESS, *arguments]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, input=stdin, capture_output=True, env=environment, timeout=50, check=False)
    errors = done.stderr.decode(errors="replace")
    wrong = errors if "Traceback" in errors and "--debug" not in arguments else ""
    return done.returncode, done.stdout.decode(errors="replace") + errors, wrong


def files() -> dict[str, bytes]:
    """Return the content of all files here but the databases."""
    found = (path for path in Path().rglob("*") if path.is_file() and ".db" not in path.name)
    return {str(path): path.read_bytes() for path in found if "__pycache__" not in path.parts}


def tables() -> dict[str, list[str]]:
    """Return the tables of all databases here that have some."""
    found = {}
    for path in Path().glob("*.db"):
        with closing(sqlite3.connect(path)) as connection:
            found[str(path)] = list(connection.iterdump())
    return {path: statements for path, statements in found.items() if len(statements) > 2}  # BEGIN and COMMIT
