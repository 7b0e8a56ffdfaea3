"""Workers in processes of their own: deaths, limits, what they leave behind, retries, and where they are placed."""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import json
import multiprocessing
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import joblib
import pytest

from pyexperimenter import ExperimentStatus, PyExperimenter, ResultProcessor
from pyexperimenter.exceptions import (
    ExecutionError,
    FunctionNotPicklableError,
    TooManyErrorsError,
)
from tests.support.study import credentials, experimenter, study, wait_until
from tests.support.target import A_FILE_AND_A_SERVER, Target

DATABASES = A_FILE_AND_A_SERVER

QUICK = {"isolation": "process", "heartbeat": 0.5, "lease": 5}


def configured(
    target: Target, directory: Path, rows: int = 6, execution: dict[str, Any] | None = None, **custom: Any
) -> dict[str, Any]:
    """Experiments with the seeds 0, 1, ...; what the functions are told, and what they tell, is in `directory`."""
    keyfields = {"seed": {"type": "INT", "values": {"start": 0, "stop": rows}}}
    execution = {**QUICK, "journal": str(directory), **(execution or {})}
    return study(target, keyfields=keyfields, Execution=execution, Custom={"directory": str(directory), **custom})


def filled(target: Target, directory: Path, **options: Any) -> PyExperimenter:
    study_ = experimenter(target, configured(target, directory, **options))
    study_.fill_table_from_config()
    return study_


def statuses(target: Target) -> dict[str, int]:
    return dict(target.query("SELECT status, COUNT(*) FROM study GROUP BY status"))


def outcomes(target: Target) -> dict[str, int]:
    return dict(target.query("SELECT outcome, COUNT(*) FROM study__attempts GROUP BY outcome"))


def row(target: Target, columns: str, seed: int) -> tuple[Any, ...]:
    """Return columns of the row `t` with a seed and its only attempt `a`."""
    joined = "study t JOIN study__attempts a ON a.experiment_id = t.ID"
    (found,) = target.query(f"SELECT {columns} FROM {joined} WHERE t.seed = ?", seed)
    return found


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended; its new parent need not have asked for its end yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def note(custom: dict[str, Any], name: str, text: object = "") -> None:
    """Leave a file for the test and for the other workers, there all at once."""
    file = Path(custom["directory"], name)
    file.with_suffix(".part").write_text(str(text))
    file.with_suffix(".part").rename(file)


def await_note(custom: dict[str, Any], name: str) -> str:
    file = Path(custom["directory"], name)
    wait_until(file.exists)
    return file.read_text()


def count_execution(keyfields: dict[str, Any], custom: dict[str, Any]) -> int:
    """Count, for the test, too, how often a row is executed."""
    with Path(custom["directory"], f"executions of {keyfields['seed']}").open("a") as file:
        file.write("x")
        file.flush()
        return file.tell()


@pytest.fixture(params=["process", "none"])
def isolation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# Deaths

DEATHS: dict[str, Callable[[], Any]] = {
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


def one_dies(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core file in the working directory
    print(f"seed {keyfields['seed']} begins")
    results.process_results({"accuracy": 0.25})
    if keyfields["seed"] == 1:
        note(custom, "pid", os.getpid())
        if custom["n_jobs"] == 2:
            await_note(custom, "sibling")
        print("the last words")
        DEATHS[custom["how"]]()
    if keyfields["seed"] == 2 and custom["n_jobs"] == 2:
        note(custom, "sibling")
        wait_until(lambda: is_gone(int(await_note(custom, "pid"))))


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("segfault", "killed by SIGSEGV (segmentation fault)"),
        ("abort", "killed by SIGABRT (abort)"),
        ("exit", "its process ended with exit code 3, as by os._exit(3)"),
        ("kill", "killed by SIGKILL (out of memory?)"),
    ],
)
def test_a_death_is_an_error_of_its_row_with_cause_and_last_words_and_the_others_are_done(
    target: Target, tmp_path: Path, how: str, cause: str, n_jobs: int
) -> None:
    study_ = filled(target, tmp_path, how=how, n_jobs=n_jobs)
    assert statuses(target) == {"created": 6}
    assert study_.execute(one_dies, n_jobs=n_jobs) == 6
    assert statuses(target) == {"done": 5, "error": 1}
    assert outcomes(target) == {"done": 5, "error": 1}
    assert target.query("SELECT COUNT(DISTINCT experiment_id) FROM study__attempts") == [(6,)]
    status, accuracy, error = row(target, "t.status, t.accuracy, t.error", 1)
    assert (status, accuracy) == ("error", 0.25)
    assert error.startswith(f"{cause}\nThe last that it printed:\nseed 1 begins\nthe last words\n")
    assert row(target, "a.outcome, a.error", 1) == ("error", error)
    assert row(target, "a.output", 1)[0].startswith("seed 1 begins\nthe last words\n")
    assert row(target, "t.end_date IS NOT NULL, a.ended IS NOT NULL, a.wall_seconds > 0", 1) == (1, 1, 1)
    assert row(target, "a.max_rss_bytes", 1)[0] > 2**20
    died, pid = row(target, "a.ID, a.pid", 1)
    assert str(pid) == (tmp_path / "pid").read_text()
    later = target.query("SELECT pid FROM study__attempts WHERE ID > ? AND pid <> ?", died, pid)
    assert len(later) == 6 - died, "the dead process cannot have executed what came later"
    if n_jobs == 1:
        assert row(target, "a.pid", 0) == (pid,), "one process executes row after row"
        assert len(set(later)) == 1


class Bomb:
    """A result that has to be computed yet, as those on a graphics card, and then fails as those do."""

    shape = ()

    def __init__(self, explosion: Callable[[], float]) -> None:
        self.item = explosion


def raise_late() -> float:
    raise RuntimeError("device-side assert triggered")


def one_returns_a_bomb(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    print("the last words")
    explosion = raise_late if custom["how"] == "raises" else DEATHS["exit"]
    return {"accuracy": Bomb(explosion) if keyfields["seed"] == 1 else 0.5}


@pytest.mark.parametrize("how", ["dies", "raises"])
def test_a_result_that_fails_when_it_is_written_is_an_error_of_its_row(
    target: Target, tmp_path: Path, how: str
) -> None:
    study_ = filled(target, tmp_path, how=how)
    assert study_.execute(one_returns_a_bomb) == 6
    assert statuses(target) == outcomes(target) == {"done": 5, "error": 1}
    output, error = row(target, "a.output, t.error", 1)
    assert output == "the last words\n"
    if how == "dies":
        cause = "its process ended with exit code 3, as by os._exit(3)"
        assert error == f"{cause}\nThe last that it printed:\nthe last words\n"
    else:
        assert error.rstrip().endswith("RuntimeError: device-side assert triggered")


def one_dies_counted(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    count_execution(keyfields, custom)
    if keyfields["seed"] == custom["dies"]:
        os._exit(3)


def test_a_death_is_not_worth_a_retry(target: Target, tmp_path: Path) -> None:
    study_ = filled(target, tmp_path, execution={"retries": 2}, dies=1)
    assert study_.execute(one_dies_counted) == 6
    assert statuses(target) == outcomes(target) == {"done": 5, "error": 1}
    assert (tmp_path / "executions of 1").read_text() == "x"


def await_go(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    await_note(custom, "go")


def test_a_death_does_not_touch_what_other_workers_hold(target: Target, tmp_path: Path) -> None:
    """With eleven workers the identity of one (...10) begins with that of another (...1)."""
    study_ = filled(target, tmp_path, rows=11)
    with ThreadPoolExecutor() as pool:
        executed = pool.submit(study_.execute, await_go, n_jobs=11)
        try:
            wait_until(lambda: statuses(target) == {"running": 11} or executed.done())
            ((pid, victim),) = target.query("SELECT pid, experiment_id FROM study__attempts WHERE worker LIKE '%.1'")
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: statuses(target).get("error"))
        finally:
            note({"directory": tmp_path}, "go")
        assert executed.result() == 11
    assert target.query("SELECT ID FROM study WHERE status = 'error'") == [(victim,)]
    assert statuses(target) == outcomes(target) == {"done": 10, "error": 1}


# Limits


def one_wants_too_much_memory(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    if keyfields["seed"] == 1:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        # It is not lifted again: what the process does afterwards fits into it.
        resource.setrlimit(resource.RLIMIT_AS, (size + 512 * 2**20, resource.RLIM_INFINITY))
        bytearray(8 * 2**30)


def test_memory_that_is_refused_is_an_error_of_its_row(target: Target, tmp_path: Path) -> None:
    study_ = filled(target, tmp_path)
    assert statuses(target) == {"created": 6}
    assert study_.execute(one_wants_too_much_memory) == 6
    assert statuses(target) == outcomes(target) == {"done": 5, "error": 1}
    (error,) = row(target, "t.error", 1)
    assert error.startswith("Traceback")
    assert error.rstrip().endswith("MemoryError")
    assert target.query("SELECT COUNT(DISTINCT pid) FROM study__attempts") == [(1,)]


def spin() -> None:
    while True:
        pass


def one_takes_too_much_time_of_the_cpu(
    keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]
) -> None:
    if keyfields["seed"] == 1:
        print("the last words")
        soon = int(time.process_time()) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (soon, soon + 2))
        spin()


def test_a_limit_of_cpu_time_is_named_as_the_cause(target: Target, tmp_path: Path) -> None:
    """As the soft limit of a cluster, beside which there is a hard one, which kills without saying why."""
    study_ = filled(target, tmp_path)
    assert study_.execute(one_takes_too_much_time_of_the_cpu) == 6
    assert statuses(target) == outcomes(target) == {"done": 5, "error": 1}
    (error,) = row(target, "t.error", 1)
    assert error.startswith("killed by SIGXCPU (limit of CPU time)\nThe last that it printed:\nthe last words\n")


def backtrack() -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")  # holds Python's lock for longer than the universe has existed


def doze() -> None:
    time.sleep(600)


WAYS_TO_HANG = {function.__name__: function for function in (spin, backtrack, doze)}


def one_hangs(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    results.process_results({"accuracy": 0.25})
    if keyfields["seed"] == 1:
        print("this will take a while")
        WAYS_TO_HANG[custom["how"]]()


@pytest.mark.parametrize("how", list(WAYS_TO_HANG))
def test_who_exceeds_the_time_limit_is_killed_and_tells_where_it_was(target: Target, tmp_path: Path, how: str) -> None:
    study_ = filled(target, tmp_path, execution={"time_limit": "1s"}, how=how)
    assert statuses(target) == {"created": 6}
    assert study_.execute(one_hangs, n_jobs=2) == 6
    assert statuses(target) == outcomes(target) == {"done": 5, "error": 1}
    status, accuracy, error = row(target, "t.status, t.accuracy, a.error", 1)
    assert (status, accuracy) == ("error", 0.25)
    assert error.startswith(
        "exceeded time_limit 1s, and was killed\nThe last that it printed:\nthis will take a while\n"
    )
    assert f" in {how}\n" in error
    assert f" in {how}\n" in row(target, "a.output", 1)[0]
    assert row(target, "t.error, a.wall_seconds > 1", 1) == (error, 1)


# What is left behind

DEAF = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    "print('deaf', flush=True); time.sleep(600)"
)


def last_has_a_child(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    if keyfields["seed"] < 5:
        return
    child = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    note(custom, "pid", child.pid)
    if custom["end"] == "death":
        os._exit(3)
    if custom["end"] == "time limit":
        doze()


@pytest.mark.parametrize("end", ["death", "time limit", "return"])
def test_nothing_that_an_experiment_started_outlives_its_worker(target: Target, tmp_path: Path, end: str) -> None:
    study_ = filled(target, tmp_path, execution={"time_limit": "5s"}, end=end)
    assert study_.execute(last_has_a_child) == 6
    pid = int((tmp_path / "pid").read_text())
    try:
        wait_until(lambda: is_gone(pid))
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    expected = {"done": 6} if end == "return" else {"done": 5, "error": 1}
    assert statuses(target) == outcomes(target) == expected


def note_and_doze(custom: dict[str, Any]) -> None:
    note(custom, "at work")
    doze()


def starts_and_terminates(
    keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]
) -> dict[str, Any]:
    process = multiprocessing.get_context("fork").Process(target=note_and_doze, args=[custom])
    process.start()
    try:
        if custom["when"] == "at work":
            await_note(custom, "at work")
        process.terminate()
        process.join(10)
        assert process.exitcode is not None, "it does not hear SIGTERM"
        return {"accuracy": process.exitcode}
    finally:
        process.kill()
        process.join()


# Forking beside threads is warned of since Python 3.12, whoever's threads they are.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("when", ["at once", "at work"])
def test_processes_that_an_experiment_forks_hear_its_signals(
    target: Target, tmp_path: Path, isolation: str, when: str
) -> None:
    """The handler that asks the worker to stop is none of theirs."""
    study_ = filled(target, tmp_path, rows=1, execution={"isolation": isolation}, when=when)
    assert study_.execute(starts_and_terminates) == 1
    assert target.query("SELECT DISTINCT status, error, accuracy FROM study") == [("done", None, -signal.SIGTERM)]


def forks_and_returns_twice(
    keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]
) -> dict[str, Any]:
    count_execution(keyfields, custom)
    pid = os.fork()
    if pid == 0 and keyfields["seed"] == 1:
        raise ValueError("the child of a fork is no worker")
    if pid == 0:
        return {"accuracy": -1}
    os.waitpid(pid, 0)
    return {"accuracy": 1}


def test_the_child_of_a_function_that_forks_does_not_become_a_second_worker(target: Target, tmp_path: Path) -> None:
    study_ = filled(target, tmp_path)
    assert study_.execute(forks_and_returns_twice) == 6
    assert statuses(target) == outcomes(target) == {"done": 6}
    assert target.query("SELECT DISTINCT accuracy, error FROM study") == [(1.0, None)]
    assert [file.read_text() for file in tmp_path.glob("executions of *")] == ["x"] * 6


# What cannot be handed to another process, or found there


def test_a_function_that_cannot_be_pickled_is_refused_before_anything_is_claimed(
    target: Target, tmp_path: Path
) -> None:
    study_ = filled(target, tmp_path)
    lock = threading.Lock()

    def function(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
        with lock:
            pass

    with pytest.raises(FunctionNotPicklableError, match=r"cannot pickle '_thread.lock' object; .* isolation: none"):
        study_.execute(function)
    assert statuses(target) == {"created": 6}
    assert outcomes(target) == {}
    here = experimenter(target, configured(target, tmp_path, execution={"isolation": "none"}))
    assert here.execute(function) == 6
    assert statuses(target) == outcomes(target) == {"done": 6}


def test_a_function_whose_module_is_not_found_by_the_worker_costs_no_row(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "vanishing.py"
    file.write_text("def function(keyfields, results, custom): pass\n")
    study_ = filled(target, tmp_path)
    with monkeypatch.context() as context:
        context.syspath_prepend(tmp_path)
        vanishing = importlib.import_module("vanishing")
        file.unlink()
        with pytest.raises(
            ExecutionError, match=r"could not be loaded .*: ModuleNotFoundError: No module named 'vanishing'; define "
        ):
            study_.execute(vanishing.function, n_jobs=2)
    del sys.modules["vanishing"]
    assert statuses(target) == {"created": 6}
    assert outcomes(target) == {}


# Scripts

BEGINNING = """
import json, os, sys
from pathlib import Path
from pyexperimenter import ExperimentStatus, PyExperimenter

config, options = json.loads(sys.argv[1]), json.loads(sys.argv[2])
with Path(config["PY_EXPERIMENTER"]["Custom"]["directory"], "top level").open("a") as file:
    file.write("reached\\n")
study = PyExperimenter(config, **options, log_level="ERROR")
"""

# Without `if __name__ == "__main__"`, on purpose.
SCRIPT = (
    BEGINNING
    + """
FACTOR = 0.5

def times_factor(seed):
    return seed * FACTOR

def function(keyfields, results, custom):
    assert results.__class__.__module__ == "pyexperimenter.result_processor"
    return {"accuracy": times_factor(keyfields["seed"])}

print(study.execute(function, n_jobs=2), "executed")
"""
)

IMPORTING_SCRIPT = (
    BEGINNING
    + """
from beside import function

print(study.execute(function, n_jobs=2), "executed")
"""
)


def run_script(
    target: Target, directory: Path, script: str | None = None, config: dict[str, Any] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the script in `directory`, or what is given as `script`, as input of Python, in another directory."""
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


@pytest.mark.parametrize("way", ["file", "input", "module beside it"])
def test_a_script_needs_no_guard_and_runs_once(target: Target, tmp_path: Path, way: str) -> None:
    filled(target, tmp_path)
    (tmp_path / "script.py").write_text(IMPORTING_SCRIPT if way.startswith("module") else SCRIPT)
    (tmp_path / "beside.py").write_text(
        "def function(keyfields, results, custom):\n    return {'accuracy': keyfields['seed'] * 0.5}\n"
    )
    assert statuses(target) == {"created": 6}
    done = run_script(target, tmp_path, script=SCRIPT if way == "input" else None)
    assert (done.stdout, done.stderr) == ("6 executed\n", "")
    assert (tmp_path / "top level").read_text() == "reached\n"
    assert statuses(target) == outcomes(target) == {"done": 6}
    assert target.query("SELECT COUNT(*) FROM study WHERE accuracy = seed * 0.5") == [(6,)]


def test_what_a_script_defines_can_be_pickled_by_its_experiments(target: Target, tmp_path: Path) -> None:
    """To a pool of processes, or into a file."""
    config = configured(target, tmp_path, execution={"time_limit": "20s"})  # a pool that fails may hang
    filled(target, tmp_path)
    (tmp_path / "script.py").write_text(
        BEGINNING
        + """
import multiprocessing, pickle

class Model:
    def __init__(self, seed):
        self.seed = seed

def half(seed):
    return seed / 2

def function(keyfields, results, custom):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        (accuracy,) = pool.map(half, [keyfields["seed"]])
    model = pickle.loads(pickle.dumps(Model(accuracy)))
    return {"accuracy": model.seed}

print(study.execute(function), "executed")
"""
    )
    assert run_script(target, tmp_path, config=config).stdout == "6 executed\n"
    assert target.query("SELECT DISTINCT error FROM study") == [(None,)]
    assert statuses(target) == outcomes(target) == {"done": 6}


def test_files_in_the_working_directory_do_not_stand_in_for_the_standard_library(
    target: Target, tmp_path: Path
) -> None:
    """A script sees the files beside it, not those of the directory that it is called in."""
    filled(target, tmp_path)
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "elsewhere").mkdir()
    for name in ("random", "socket", "tempfile", "selectors"):
        (tmp_path / "elsewhere" / f"{name}.py").write_text("raise ImportError('this is not for you')\n")
    assert run_script(target, tmp_path).stdout == "6 executed\n"
    assert statuses(target) == outcomes(target) == {"done": 6}


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        ("os.write(2, b'something is badly installed\\n'); os._exit(7)", "exit code 7, as by os._exit(7)"),
        # This process comes to its end in good order, which takes a while.
        ("sys.modules['pyexperimenter'] = None", "exit code 1, as by os._exit(1)"),
    ],
    ids=["at once", "in good order"],
)
def test_a_process_that_ends_before_it_executes_anything_is_tried_three_times(
    target: Target, tmp_path: Path, end: str, cause: str
) -> None:
    filled(target, tmp_path)
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'STARTS' in os.environ:\n"
        "    with open(os.environ['STARTS'], 'a') as file:\n"
        "        file.write('started\\n')\n"
        f"    {end}\n"
    )
    (tmp_path / "script.py").write_text(
        BEGINNING
        + """
os.environ["STARTS"] = config["PY_EXPERIMENTER"]["Custom"]["directory"] + "/starts"
try:
    study.execute(lambda *_: None)
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""
    )
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = run_script(target, tmp_path, env={**os.environ, "PYTHONPATH": path})
    assert done.stdout.startswith(
        "WorkerProcessError: 3 processes of a worker ended before they executed anything: its process ended with "
        f"{cause}\nThe last that it printed:\n"
    )
    told = "something is badly installed" if "badly" in end else "'pyexperimenter' is not a package"
    assert done.stdout.rstrip().endswith(told)
    assert (tmp_path / "starts").read_text() == "started\n" * 3
    assert statuses(target) == {"created": 6}
    assert outcomes(target) == {}


# Errors in a row


class Hiccup(OSError):
    """Something that passes."""


def planned(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> ExperimentStatus | None:
    what = custom["plan"][keyfields["seed"]]
    if what == "raise":
        raise Hiccup(f"seed {keyfields['seed']}")
    if what == "die":
        os._exit(3)
    return ExperimentStatus.ERROR if what == "return error" else None


@pytest.mark.parametrize(
    ("isolation", "plan"),
    [
        ("process", ["raise"] * 6),
        ("process", ["die"] * 6),
        ("process", ["return error"] * 6),
        ("process", ["raise", "die", "raise", "raise", "raise", "raise"]),
        ("process", ["die", "raise", "die", "raise", "raise", "raise"]),
        ("none", ["raise"] * 6),
        ("none", ["return error"] * 6),
    ],
)
def test_a_worker_stops_after_so_many_errors_in_a_row(
    target: Target, tmp_path: Path, isolation: str, plan: list[str]
) -> None:
    execution = {"stop_after_errors": 3, "isolation": isolation}
    study_ = filled(target, tmp_path, execution=execution, plan=plan)
    with pytest.raises(TooManyErrorsError, match="3 experiments failed in a row"):
        study_.execute(planned)
    assert target.query("SELECT status, MIN(seed), COUNT(*) FROM study GROUP BY status ORDER BY MIN(seed)") == [
        ("error", 0, 3),
        ("created", 3, 3),
    ]
    assert outcomes(target) == {"error": 3}


@pytest.mark.parametrize(
    ("isolation", "plan"),
    [
        ("process", ["raise", "die", "nothing", "die", "raise", "nothing"]),
        ("none", ["raise", "raise", "nothing", "raise", "raise", "nothing"]),
    ],
)
def test_a_success_in_between_counts_the_errors_anew(
    target: Target, tmp_path: Path, isolation: str, plan: list[str]
) -> None:
    execution = {"stop_after_errors": 3, "isolation": isolation}
    study_ = filled(target, tmp_path, execution=execution, plan=plan)
    assert study_.execute(planned) == 6
    assert statuses(target) == outcomes(target) == {"done": 2, "error": 4}


@pytest.mark.parametrize("isolation", ["process", "none"])
def test_stop_after_no_errors_is_never_and_twenty_are_the_default(
    target: Target, tmp_path: Path, isolation: str
) -> None:
    plan = ["raise"] * 25
    study_ = filled(target, tmp_path, rows=25, execution={"isolation": isolation}, plan=plan)
    with pytest.raises(TooManyErrorsError, match="20 experiments failed in a row"):
        study_.execute(planned)
    assert statuses(target) == {"error": 20, "created": 5}
    assert study_.reset_experiments("error") == 20
    execution = {"isolation": isolation, "stop_after_errors": 0}
    study_ = experimenter(target, configured(target, tmp_path, rows=25, execution=execution, plan=plan))
    assert study_.execute(planned) == 25
    assert statuses(target) == {"error": 25}
    assert outcomes(target) == {"error": 45}


class Untellable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def recurse() -> None:
    recurse()


def cancel() -> None:
    async def cancelled() -> None:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        await asyncio.sleep(0)

    asyncio.run(cancelled())


def tell_nothing() -> None:
    raise Untellable


WAYS_TO_FAIL: dict[str, tuple[Callable[[], None], str]] = {
    "RecursionError": (recurse, "RecursionError: maximum recursion depth exceeded"),
    "CancelledError": (cancel, "asyncio.exceptions.CancelledError"),  # is no Exception
    "Untellable": (tell_nothing, "test_supervision.Untellable: <exception str() failed>"),
}


def one_fails(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    if keyfields["seed"] == 1:
        WAYS_TO_FAIL[custom["how"]][0]()


@pytest.mark.parametrize("how", list(WAYS_TO_FAIL))
@pytest.mark.parametrize("isolation", ["process", "none"])
def test_whatever_the_function_raises_is_an_error_of_its_row(
    target: Target, tmp_path: Path, isolation: str, how: str
) -> None:
    study_ = filled(target, tmp_path, execution={"isolation": isolation}, how=how)
    assert study_.execute(one_fails) == 6
    assert statuses(target) == outcomes(target) == {"done": 5, "error": 1}
    assert row(target, "t.error", 1)[0].rstrip().splitlines()[-1].startswith(WAYS_TO_FAIL[how][1])


# Retries


def one_needs_luck(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, float]:
    count = count_execution(keyfields, custom)
    if keyfields["seed"] == 1 and count <= custom["failures"]:
        results.process_results({"model": "of an execution that failed"})
        raise Hiccup(f"execution {count} failed")
    return {"accuracy": count}


def attempts_of_the_unlucky(target: Target) -> list[tuple[str, str | None]]:
    """Return outcome and the last line of the error, of each."""
    columns = "outcome, error"
    sql = (
        f"SELECT {columns} FROM study__attempts WHERE experiment_id = (SELECT ID FROM study WHERE seed = 1) ORDER BY ID"
    )
    return [(outcome, error and error.strip().splitlines()[-1]) for outcome, error in target.query(sql)]


def test_a_row_is_executed_again_until_it_succeeds(target: Target, tmp_path: Path, isolation: str) -> None:
    study_ = filled(target, tmp_path, execution={"retries": 2, "isolation": isolation}, failures=2)
    assert statuses(target) == {"created": 6}
    assert study_.execute(one_needs_luck) == 8
    assert statuses(target) == {"done": 6}
    assert outcomes(target) == {"done": 6, "retried": 2}
    assert attempts_of_the_unlucky(target) == [
        ("retried", "test_supervision.Hiccup: execution 1 failed"),
        ("retried", "test_supervision.Hiccup: execution 2 failed"),
        ("done", None),
    ]
    sql = "SELECT error, accuracy, model FROM study WHERE seed = 1"
    assert target.query(sql) == [(None, 3.0, None)], "nothing is left of the executions that failed"
    assert (tmp_path / "executions of 1").read_text() == "xxx"


def test_a_row_that_fails_always_is_an_error_in_the_end_and_has_its_retries_again_after_a_reset(
    target: Target, tmp_path: Path, isolation: str
) -> None:
    study_ = filled(target, tmp_path, execution={"retries": 2, "isolation": isolation}, failures=100)
    assert study_.execute(one_needs_luck) == 8
    assert statuses(target) == {"done": 5, "error": 1}
    first = [
        ("retried", "test_supervision.Hiccup: execution 1 failed"),
        ("retried", "test_supervision.Hiccup: execution 2 failed"),
        ("error", "test_supervision.Hiccup: execution 3 failed"),
    ]
    assert attempts_of_the_unlucky(target) == first
    ((error, model),) = target.query("SELECT error, model FROM study WHERE seed = 1")
    assert error.rstrip().endswith("execution 3 failed")
    assert model == "of an execution that failed"
    assert study_.reset_experiments("error") == 1
    assert statuses(target) == {"done": 5, "created": 1}
    assert study_.execute(one_needs_luck) == 3
    assert statuses(target) == {"done": 5, "error": 1}
    assert attempts_of_the_unlucky(target)[3:] == [
        ("retried", "test_supervision.Hiccup: execution 4 failed"),
        ("retried", "test_supervision.Hiccup: execution 5 failed"),
        ("error", "test_supervision.Hiccup: execution 6 failed"),
    ]
    assert outcomes(target) == {"done": 5, "retried": 4, "error": 2}


@pytest.mark.parametrize(
    ("retry_on", "no_retry_on", "is_retried"),
    [
        (["Hiccup"], [], True),
        (["test_supervision.Hiccup"], [], True),
        (["OSError"], [], True),
        (["builtins.OSError"], [], True),
        (["ValueError", "Exception"], [], True),
        (["ValueError"], [], False),
        (["other.Hiccup"], [], False),
        ([], ["ValueError"], True),
        ([], ["Hiccup"], False),
        ([], ["test_supervision.Hiccup"], False),
        ([], ["OSError"], False),
        (["OSError"], ["Hiccup"], False),
        (["Hiccup"], ["OSError"], False),
    ],
)
def test_exceptions_worth_a_retry_are_named_by_their_class_or_one_that_it_derives_from(
    target: Target, tmp_path: Path, isolation: str, retry_on: list[str], no_retry_on: list[str], is_retried: bool
) -> None:
    execution = {"retries": 1, "retry_on": retry_on, "no_retry_on": no_retry_on, "isolation": isolation}
    study_ = filled(target, tmp_path, rows=2, execution=execution, failures=1)
    study_.execute(one_needs_luck)
    assert statuses(target) == ({"done": 2} if is_retried else {"done": 1, "error": 1})
    assert outcomes(target) == ({"done": 2, "retried": 1} if is_retried else {"done": 1, "error": 1})


# Where workers are


def told_parent(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    # The first two wait for each other, so that there are two at a time.
    note(custom, f"begun {keyfields['seed']}")
    if keyfields["seed"] < 2:
        await_note(custom, f"begun {1 - keyfields['seed']}")
    return {"accuracy": os.getppid()}


@pytest.fixture(scope="module")
def dask_workers() -> Iterator[set[int]]:
    """The process IDs of two workers of a cluster, which joblib finds if its backend is dask."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        yield set(client.run(os.getpid).values())


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_workers_are_where_dask_places_them(
    target: Target, tmp_path: Path, dask_workers: set[int], n_jobs: int
) -> None:
    study_ = filled(target, tmp_path)
    assert statuses(target) == {"created": 6}
    function = told_parent if n_jobs == 2 else tell_parent
    with joblib.parallel_config(backend="dask"):
        assert study_.execute(function, n_jobs=n_jobs) == 6
    assert statuses(target) == outcomes(target) == {"done": 6}
    parents = {int(parent) for (parent,) in target.query("SELECT DISTINCT accuracy FROM study")}
    assert parents <= dask_workers
    assert len(parents) == n_jobs


def tell_parent(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    return {"accuracy": os.getppid()}


@pytest.mark.parametrize("backend", [None, "threading", "loky"])
def test_workers_are_children_of_this_process_unless_a_backend_is_set(
    target: Target, tmp_path: Path, backend: str | None
) -> None:
    study_ = filled(target, tmp_path)
    assert statuses(target) == {"created": 6}
    with nullcontext() if backend is None else joblib.parallel_config(backend=backend):
        assert study_.execute(told_parent, n_jobs=2) == 6
    assert statuses(target) == outcomes(target) == {"done": 6}
    parents = {int(parent) for (parent,) in target.query("SELECT DISTINCT accuracy FROM study")}
    if backend == "loky":
        assert len(parents) == 2
        assert os.getpid() not in parents
    else:
        assert parents == {os.getpid()}


THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def tell_threads(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    return {"model": json.dumps([os.environ.get(name) for name in THREADS])}


@pytest.mark.parametrize("n_jobs", [1, 2, 3])
def test_workers_share_the_cores_unless_their_number_is_set(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_jobs: int
) -> None:
    study_ = filled(target, tmp_path)
    for name in [name for name in os.environ if name.endswith("_NUM_THREADS")]:
        monkeypatch.delenv(name)
    share = max(1, len(os.sched_getaffinity(0)) // n_jobs)
    assert study_.execute(tell_threads, n_jobs=n_jobs) == 6
    assert target.query("SELECT DISTINCT model FROM study") == [(json.dumps([str(share)] * 3),)]
    assert "OMP_NUM_THREADS" not in os.environ
    study_.reset_experiments("done")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert study_.execute(tell_threads, n_jobs=n_jobs) == 6
    assert target.query("SELECT DISTINCT model FROM study") == [(json.dumps(["7", None, None]),)]


@pytest.mark.parametrize("dies", [None, 0])
@pytest.mark.parametrize(("n_jobs", "most"), [(1, 2), (2, 5), (2, 50)])
def test_max_experiments_is_exact_and_a_death_counts(
    target: Target, tmp_path: Path, n_jobs: int, most: int, dies: int | None
) -> None:
    study_ = filled(target, tmp_path, dies=dies)
    executed = min(most, 6)
    assert statuses(target) == {"created": 6}
    assert study_.execute(one_dies_counted, n_jobs=n_jobs, max_experiments=most) == executed
    died = 0 if dies is None else 1
    expected = {"created": 6 - executed, "done": executed - died, "error": died}
    assert statuses(target) == {status: count for status, count in expected.items() if count}
    assert sum(outcomes(target).values()) == executed
    assert [len(file.read_text()) for file in tmp_path.glob("executions of *")] == [1] * executed


# Functions that break their own process


def close_stdout() -> None:
    sys.stdout.close()
    print("nobody hears this")


def close_standard_descriptors() -> None:
    os.close(1)
    os.close(2)
    print("nobody hears this")


def close_descriptors() -> None:
    os.closerange(3, 256)


def close_descriptors_and_raise() -> None:
    os.closerange(3, 256)
    raise ValueError("after everything was closed")


WAYS_TO_CLOSE = {
    function.__name__: function
    for function in (close_stdout, close_standard_descriptors, close_descriptors, close_descriptors_and_raise)
}


def one_closes(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    count_execution(keyfields, custom)
    if custom["writes"]:  # which leaves a connection open for half a second
        results.process_results({"accuracy": 0.25})
    if keyfields["seed"] == 1:
        WAYS_TO_CLOSE[custom["how"]]()
        if custom["writes"]:
            results.process_results({"accuracy": 0.5})


@pytest.mark.parametrize("how", list(WAYS_TO_CLOSE))
@pytest.mark.parametrize("writes", [False, True])
def test_a_function_that_closes_what_is_not_its_own_harms_nobody_else(
    target: Target, tmp_path: Path, how: str, writes: bool
) -> None:
    if writes and how == "close_standard_descriptors":
        pytest.skip("what the function opens next takes the numbers, and gets the prints")
    study_ = filled(target, tmp_path, how=how, writes=writes)
    assert statuses(target) == {"created": 6}
    assert study_.execute(one_closes) == 6
    assert row(target, "t.status", 1)[0] in ("done", "error")
    assert target.query("SELECT status, COUNT(*) FROM study WHERE seed <> 1 GROUP BY status") == [("done", 5)]
    assert sum(outcomes(target).values()) == 6
    assert (tmp_path / "executions of 1").read_text() == "x"


def test_a_function_that_writes_where_the_library_writes_does_not_damage_the_database(
    sqlite_target: Target, tmp_path: Path
) -> None:
    """A descriptor that was closed under the library may be given to the file of the database next."""
    filled(sqlite_target, tmp_path, how="close_descriptors", writes=True)
    (tmp_path / "script.py").write_text(
        BEGINNING
        + """
def function(keyfields, results, custom):
    if keyfields["seed"] == 1:
        os.closerange(3, 256)
        results.process_results({"accuracy": 0.5})

print(study.execute(function), "executed")
"""
    )
    run_script(sqlite_target, tmp_path)
    assert sqlite_target.query("PRAGMA integrity_check") == [("ok",)]
    assert sqlite_target.query("SELECT COUNT(*) FROM study WHERE seed <> 1 AND status = 'done'") == [(5,)]


# Several machines


def tell_machine(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    machine = platform.node()
    note(custom, f"here is {machine}")
    # So that each has its share.
    wait_until(lambda: len(list(Path(custom["directory"]).glob("here is *"))) == 2)
    return {"model": machine}


def test_two_machines_share_the_table(target: Target, tmp_path: Path) -> None:
    renamed = ["unshare", "--uts", "sh", "-c", 'hostname other && exec "$0" "$@"']
    if not shutil.which("unshare") or subprocess.run([*renamed, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a process may not have a host name of its own here")
    filled(target, tmp_path)
    code = BEGINNING + "from test_supervision import tell_machine\nprint(study.execute(tell_machine))"
    (tmp_path / "script.py").write_text(code)
    command = [sys.executable, str(tmp_path / "script.py"), json.dumps(configured(target, tmp_path))]
    command.append(json.dumps(credentials(target), default=str))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert statuses(target) == {"created": 6}
    machines = [
        subprocess.Popen(
            [*prefix, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for prefix in ([], renamed)
    ]
    told = [machine.communicate(timeout=120) for machine in machines]
    assert [stderr for _, stderr in told] == ["", ""]
    assert sum(int(stdout) for stdout, _ in told) == 6
    assert statuses(target) == outcomes(target) == {"done": 6}
    assert target.query("SELECT COUNT(DISTINCT experiment_id) FROM study__attempts") == [(6,)]
    joined = "study t JOIN study__attempts a ON a.experiment_id = t.ID WHERE t.machine = a.machine"
    assert target.query(f"SELECT COUNT(*) FROM {joined} AND t.machine = t.model") == [(6,)]
    assert set(target.query("SELECT machine FROM study")) == {(platform.node(),), ("other",)}
