"""Scripts: they need no guard, what they define is found, and a process that cannot start says why."""

from __future__ import annotations

import linecache
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.study import outcomes, statuses
from tests.support.supervision import BEGINNING, configured, filled, row, run_script
from tests.support.target import A_FILE_AND_A_SERVER, Target

DATABASES = A_FILE_AND_A_SERVER


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


DEFINITIONS = """
import functools
from functools import cache, cached_property, lru_cache, singledispatch, singledispatchmethod

UNUSED = 0.25

@cache
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

@singledispatch
def kind(value):
    return "object"

@kind.register
def _(value: int):
    return "int"

class Model:
    @cached_property
    def parameters(self):
        return fibonacci(20)

    @lru_cache(maxsize=3)
    def scaled(self, factor):
        return factor * self.parameters

    @singledispatchmethod
    def kind(self, value):
        return "object"

    @kind.register
    def _(self, value: str):
        return "str"

def function(keyfields, results, custom):
    import __main__
    model = Model()
    found = [model.scaled(2), model.scaled(2), kind(1), kind(None), model.kind("a"), model.kind(1)]
    if keyfields["seed"] == 1:
        raise ValueError(found)  # on purpose
    return {"accuracy": __main__.UNUSED, "model": str((found, fibonacci.cache_parameters()))}

print(study.execute(function), "executed")
"""


def test_what_a_script_defines_reaches_its_experiments(target: Target, tmp_path: Path) -> None:
    """Functions that cache and dispatch, and what only `__main__` has; tracebacks show the script."""
    filled(target, tmp_path)
    text = BEGINNING + DEFINITIONS
    (tmp_path / "script.py").write_text(text)
    assert run_script(target, tmp_path).stdout == "6 executed\n"
    found = [2 * 6765, 2 * 6765, "int", "object", "str", "object"]
    assert target.query("SELECT DISTINCT accuracy, model FROM study WHERE status = 'done'") == [
        (0.25, str((found, {"maxsize": None, "typed": False})))
    ]
    assert statuses(target) == {"done": 5, "error": 1}
    line = next(number for number, line in enumerate(text.splitlines(), start=1) if "on purpose" in line)
    (error,) = row(target, "t.error", 1)
    assert (
        f'  File "{tmp_path}/script.py", line {line}, in function\n    raise ValueError(found)  # on purpose\n' in error
    )


def test_the_traceback_shows_the_cell_of_a_notebook(target: Target, tmp_path: Path) -> None:
    """Whose source no file has."""
    cell = "def function(keyfields, results, custom):\n    raise ValueError('in a cell')\n"
    name = "/tmp/ipykernel_1/cell.py"
    linecache.cache[name] = (len(cell), None, cell.splitlines(keepends=True), name)
    defined: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(cell, name, "exec"), defined)
    filled(target, tmp_path, rows=1).execute(defined["function"])
    (error,) = row(target, "t.error", 0)
    assert f"  File \"{name}\", line 2, in function\n    raise ValueError('in a cell')\n" in error


def test_files_in_the_working_directory_do_not_shadow_the_stdlib(target: Target, tmp_path: Path) -> None:
    """A script can import the files next to it, not those in the working directory."""
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
        # This process shuts down cleanly, which takes a while.
        ("sys.modules['pyexperimenter'] = None", "exit code 1, as by os._exit(1)"),
    ],
    ids=["at once", "in good order"],
)
def test_a_process_that_ends_before_executing_is_tried_3_times(
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
        f"{cause}\nLast output:\n"
    )
    told = "something is badly installed" if "badly" in end else "'pyexperimenter' is not a package"
    assert done.stdout.rstrip().endswith(told)
    assert (tmp_path / "starts").read_text() == "started\n" * 3
    assert statuses(target) == {"created": 6}
    assert outcomes(target) == {}


def test_a_function_that_closes_our_files_damages_no_database(sqlite_target: Target, tmp_path: Path) -> None:
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


REAPING_SCRIPT = (
    BEGINNING
    + """
import signal

def function(keyfields, results, custom):
    if keyfields["seed"] == 1:
        os._exit(3)

signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system forgets how children ended
print(study.execute(function), "executed")
"""
)


def test_a_script_that_ignores_how_its_children_end(target: Target, tmp_path: Path) -> None:
    filled(target, tmp_path)
    assert run_script(target, tmp_path, script=REAPING_SCRIPT).stdout == "6 executed\n"
    assert statuses(target) == outcomes(target) == {"done": 5, "error": 1}
    ((error,),) = target.query("SELECT error FROM study WHERE status = 'error'")
    assert error.startswith("its process ended with an unknown exit code: ")
