"""Calls of functions of tests in processes of their own."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable

import cloudpickle

_LOAD = "import base64, pickle, sys; pickle.loads(base64.b64decode(sys.argv[1]))()"


COMMANDS = """
import json, sys, time, warnings
from click.testing import CliRunner
from pyexperimenter.cli import main

done = {}
for command in json.loads(sys.argv[1]):
    start = time.monotonic()
    result = CliRunner().invoke(main, command)
    done[" ".join(command)] = [result.exit_code, result.output, time.monotonic() - start]
print(json.dumps(done))
"""
"""Runs commands of the command line in one process; prints the exit code, output and seconds of each."""


def command(call: Callable[[], object]) -> list[str]:
    """Return a command that makes a call in another process, as a script would.

    It is pickled with all that it uses of the tests. So the process does not import their modules, and pytest with
    them, which would take longer than most of what it does. PYTHONPATH must say where the library is.
    """
    return [sys.executable, "-c", _LOAD, base64.b64encode(cloudpickle.dumps(call)).decode()]
