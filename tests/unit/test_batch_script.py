"""The script that is passed to sbatch, as a text."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter.cluster import engine
from pyexperimenter.cluster.job import _announced_end
from pyexperimenter.cluster.options import options_of
from pyexperimenter.cluster.submission import sbatch_script
from pyexperimenter.exceptions import InvalidValueError
from tests.support.study import experimenter
from tests.support.target import Target


def script(workers: int = 1, **options: Any) -> str:
    return sbatch_script(print, workers, Path("/logs"), options, 20)


def lines(text: str) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", text, re.M))


def test_one_job() -> None:
    assert lines(script(time="90m", gpus="a100:2", mem_per_cpu="2G", requeue=True, exclusive=False, qos=None)) == {
        "chdir": str(Path.cwd()),
        "gpus-per-node": "a100:2",
        "mem-per-cpu": "2G",
        "open-mode": "append",
        "output": "/logs/%j.log",
        "requeue": "",
        "signal": "B:USR2@50",
        "time": "90",
    }


def test_an_array() -> None:
    found = lines(script(8, array_parallelism=2, name="study", signal="B:USR1@600", open_mode="truncate"))
    assert found["array"] == "0-7%2" and found["output"] == "/logs/%A_%a.log"
    assert (found["job-name"], found["signal"], found["open-mode"]) == ("study", "B:USR1@600", "truncate")
    assert lines(script(8))["array"] == "0-7"
    two = lines(script(2))
    assert (two["array"], two["output"]) == ("0-1", "/logs/%A_%a.log")


def test_jobs_are_named_after_the_table(sqlite_target: Target) -> None:
    config = experimenter(sqlite_target).config
    assert options_of(config, None, "slurm", {})["name"] == "study"
    assert options_of(config, None, "slurm", {"name": "mine"})["name"] == "mine"


@pytest.mark.parametrize("setup", ["module load cuda", ["module load cuda"]])
def test_setup_comes_before_the_worker(setup: Any) -> None:
    assert re.search(r"^module load cuda\nexec ", script(setup=setup), re.M)


def test_the_shell_passes_the_job_to_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a name with any character, and with a job of many lines."""
    reader = (
        "import sys; from pyexperimenter.cluster.engine import run_packed; print(run_packed(sys.stdin.buffer.read()))"
    )
    monkeypatch.setattr(engine, "_COMMAND", [sys.executable, "-c", reader, "a 'b' $HOME `id`"])
    done = subprocess.run(
        ["bash"],
        input=sbatch_script(Returning(300), 1, Path("/logs"), {}, 20),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{Returning(300)()}\n"


class Returning:
    def __init__(self, numbers: int) -> None:
        self._numbers = list(range(numbers))

    def __call__(self) -> list[int]:
        return self._numbers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"comment": "a\n#SBATCH --uid=0"}, "comment: .* has a line break or another character"),
        ({"comment": "a\0b"}, "cannot be printed"),
        ({"a b": "1"}, "'a b' is not an option of sbatch; write its long name, as in account=me"),
        ({"comment\n--uid": "1"}, "is not an option of sbatch"),
        ({"constraint": ["a", "b"]}, r"constraint: \['a', 'b'\] is of type list; give a text or a number"),
    ],
)
def test_what_no_script_can_say_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        script(**options)


def test_folders_whose_names_mean_something_in_those_of_logs() -> None:
    assert lines(sbatch_script(print, 1, Path("/50%j"), {}, 20))["output"] == "/50%%j/%j.log"
    with pytest.raises(InvalidValueError, match="contains a backslash"):
        sbatch_script(print, 1, Path("/a\\b"), {}, 20)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="this system has no such signal")
def test_the_time_of_a_local_job_ends_with_a_signal() -> None:
    came = threading.Event()
    previous = signal.signal(signal.SIGUSR2, lambda *_: came.set())
    try:
        with _announced_end(0.01):
            assert came.wait(60)
        came.clear()
        with _announced_end(300), _announced_end(None):
            pass
        assert not [
            thread
            for thread in threading.enumerate()
            if isinstance(thread, threading.Timer) and not thread.finished.is_set()
        ]
    finally:
        signal.signal(signal.SIGUSR2, previous)
