"""Studies whose experiments run in their own processes, and files by which their functions notify the tests."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pyexperimenter import PyExperimenter
from tests.support.study import credentials, experimenter, study, wait_until
from tests.support.target import Target

QUICK = {"isolation": "process", "heartbeat": 0.5, "lease": 5}


def configured(
    target: Target, directory: Path, rows: int = 6, execution: dict[str, Any] | None = None, **custom: Any
) -> dict[str, Any]:
    """Return a study with the seeds 0, 1, ...; its functions and the test communicate by files in `directory`."""
    keyfields = {"seed": {"type": "INT", "values": {"start": 0, "stop": rows}}}
    execution = {**QUICK, "journal": str(directory), **(execution or {})}
    return study(target, keyfields=keyfields, Execution=execution, Custom={"directory": str(directory), **custom})


def filled(target: Target, directory: Path, **options: Any) -> PyExperimenter:
    study_ = experimenter(target, configured(target, directory, **options))
    study_.fill_table_from_config()
    return study_


def row(target: Target, columns: str, seed: int) -> tuple[Any, ...]:
    """Return columns of the row `t` with a seed and its only attempt `a`."""
    joined = "study t JOIN study__attempts a ON a.experiment_id = t.ID"
    (found,) = target.query(f"SELECT {columns} FROM {joined} WHERE t.seed = ?", seed)
    return found


def is_gone(pid: int) -> bool:
    """Return whether a process has ended; its new parent need not have waited for it yet."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def note(custom: dict[str, Any], name: str, text: object = "") -> None:
    """Write a file for the test and the other workers, atomically."""
    file = Path(custom["directory"], name)
    file.with_suffix(".part").write_text(str(text))
    file.with_suffix(".part").rename(file)


def await_note(custom: dict[str, Any], name: str) -> str:
    file = Path(custom["directory"], name)
    wait_until(file.exists)
    return file.read_text()


def count_execution(keyfields: dict[str, Any], custom: dict[str, Any]) -> int:
    """Count in a file how often a row is executed, and return the count."""
    with Path(custom["directory"], f"executions of {keyfields['seed']}").open("a") as file:
        file.write("x")
        file.flush()
        return file.tell()


def doze() -> None:
    time.sleep(600)


BEGINNING = """
import json, os, sys
from pathlib import Path
from pyexperimenter import ExperimentStatus, PyExperimenter

config, options = json.loads(sys.argv[1]), json.loads(sys.argv[2])
with Path(config["PY_EXPERIMENTER"]["Custom"]["directory"], "top level").open("a") as file:
    file.write("reached\\n")
study = PyExperimenter(config, **options, log_level="ERROR")
"""


def run_script(
    target: Target, directory: Path, script: str | None = None, config: dict[str, Any] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the script in `directory`, or the text `script` from standard input, in another working directory."""
    arguments = [json.dumps(config or configured(target, directory)), json.dumps(credentials(target), default=str)]
    what = directory / "script.py" if script is None else "-"
    elsewhere = directory / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, what, *arguments],
        input=script or "",
        capture_output=True,
        text=True,
        cwd=elsewhere,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done
