"""Workers in processes of their own: what an experiment dies of, and what it leaves behind."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter import ResultProcessor
from pyexperimenter.tracebacks import summary_of
from tests.support.study import isolations, outcomes, statuses, wait_until
from tests.support.supervision import (
    BEGINNING,
    await_note,
    configured,
    count_execution,
    doze,
    filled,
    is_gone,
    note,
    row,
    run_script,
)
from tests.support.target import A_FILE_AND_A_SERVER, Target

with suppress(ImportError):  # Windows lacks it
    import resource

DATABASES = A_FILE_AND_A_SERVER


# Deaths

REAL_TIME = getattr(signal, "SIGRTMIN", 0) + 6
DEATHS: dict[str, Callable[[], Any]] = {
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "real-time signal": lambda: os.kill(os.getpid(), REAL_TIME),
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
        ("real-time signal", f"killed by signal {REAL_TIME}"),
    ],
)
def test_a_death_is_an_error_with_cause_and_output_others_are_done(
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
    assert error.startswith(f"{cause}\nLast output:\nseed 1 begins\nthe last words\n")
    assert ("Fatal Python error" in error) == (how in ("segfault", "abort")), "Python's traceback"
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


def test_a_death_is_noticed_where_the_system_does_not_report_it(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Descriptors of processes are Linux's own."""
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    assert filled(sqlite_target, tmp_path, dies=1).execute(one_dies_counted) == 6
    assert statuses(sqlite_target) == {"done": 5, "error": 1}
    assert row(sqlite_target, "t.error", 1) == ("its process ended with exit code 3, as by os._exit(3)",)


def dies_between(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    if keyfields["seed"] == 1:
        from pyexperimenter.execution.supervision.child import SupervisorWatch
        from pyexperimenter.machine.turns import Turns

        Turns.are_over = lambda self: False  # type: ignore[method-assign]  # on crowded cores, it might not claim
        SupervisorWatch.ended = lambda self, *_: os._exit(3)  # type: ignore[method-assign]
    return {"accuracy": 0.5}


def test_a_death_between_two_experiments_fails_neither(target: Target, tmp_path: Path) -> None:
    """The second was claimed together with the end of the first, but has not begun."""
    filled(target, tmp_path).execute(dies_between)
    assert statuses(target) == {"done": 6}
    assert outcomes(target) == {"done": 6, "released": 1}
    assert row(target, "COUNT(*), COUNT(a.ended)", 2) == (2, 2)


IMPORTED = """
config config.load config.model
database database.backends database.backends.base database.backends.choice database.backends.dialect
database.backends.sqlite database.claims database.connection database.connector database.outages database.reader
database.records
database.schema database.selection database.ssh database.ssh.tunnel database.statements database.store database.tables
database.values durations exceptions
execution execution.budget execution.function execution.journal_file execution.journaling_store execution.left_running
execution.pickling execution.provenance execution.stopping execution.supervision execution.supervision.child
execution.supervision.messages execution.surroundings execution.task execution.usage execution.watch execution.worker
experiment_status fieldtypes jsonable logger machine machine.contents machine.locks machine.processes
machine.slurm
machine.system machine.turns paths predecessor result_processor
"""
SLOW = {"asyncio", "click", "email", "joblib", "numpy", "pandas", "psycopg", "pydantic", "pymysql", "ssl", "yaml"}


def test_a_process_imports_only_what_it_uses(sqlite_target: Target, tmp_path: Path) -> None:
    def imported(keyfields: Any, results: Any, custom: Any) -> None:  # sent by value, so without this module
        import sys
        from pathlib import Path

        Path(custom["directory"], "imported").write_text(" ".join(sys.modules))

    filled(sqlite_target, tmp_path, rows=1).execute(imported)
    names = set((tmp_path / "imported").read_text().split())
    ours = {name.partition(".")[2] for name in names if name.startswith("pyexperimenter.")}
    assert ours == set(IMPORTED.split())
    assert not names & SLOW


class Bomb:
    """A result that is computed lazily, as on a GPU, and then fails."""

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
def test_a_result_that_cannot_be_written_is_an_error_of_its_row(target: Target, tmp_path: Path, how: str) -> None:
    study_ = filled(target, tmp_path, how=how)
    assert study_.execute(one_returns_a_bomb) == 6
    assert statuses(target) == outcomes(target) == {"done": 5, "error": 1}
    output, error = row(target, "a.output, t.error", 1)
    assert output == "the last words\n"
    if how == "dies":
        cause = "its process ended with exit code 3, as by os._exit(3)"
        assert error == f"{cause}\nLast output:\nthe last words\n"
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


# Limits


def one_wants_too_much_memory(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    if keyfields["seed"] == 1:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        # The limit stays: the process needs no more memory afterwards.
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
    """Like the soft limit of a cluster; the hard limit would kill it without giving a reason."""
    study_ = filled(target, tmp_path)
    assert study_.execute(one_takes_too_much_time_of_the_cpu) == 6
    assert statuses(target) == outcomes(target) == {"done": 5, "error": 1}
    (error,) = row(target, "t.error", 1)
    assert error.startswith("killed by SIGXCPU (CPU time limit)\nLast output:\nthe last words\n")


def backtrack() -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")  # holds the GIL for longer than the universe has existed


WAYS_TO_HANG = {function.__name__: function for function in (spin, backtrack, doze)}


def one_hangs(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    results.process_results({"accuracy": 0.25})
    if keyfields["seed"] == 1:
        print("this will take a while")
        WAYS_TO_HANG[custom["how"]]()


@pytest.mark.parametrize("how", list(WAYS_TO_HANG))
def test_a_row_that_exceeds_time_limit_is_killed_with_its_traceback(target: Target, tmp_path: Path, how: str) -> None:
    study_ = filled(target, tmp_path, execution={"time_limit": "1s"}, how=how)
    assert statuses(target) == {"created": 6}
    assert study_.execute(one_hangs, n_jobs=2) == 6
    assert statuses(target) == outcomes(target) == {"done": 5, "error": 1}
    status, accuracy, error = row(target, "t.status, t.accuracy, a.error", 1)
    assert (status, accuracy) == ("error", 0.25)
    assert error.startswith("exceeded time_limit 1s and was killed\nLast output:\nthis will take a while\n")
    assert f" in {how}\n" in error
    assert re.fullmatch(rf"exceeded time_limit 1s in {how} \((test_)?supervision.py:\d+\)", summary_of(error))
    assert f" in {how}\n" in row(target, "a.output", 1)[0]
    assert row(target, "t.error, a.wall_seconds > 1", 1) == (error, 1)


def sleep_a_second(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    note(custom, "began", os.getpid())
    time.sleep(1)


def test_time_limit_does_not_count_while_the_process_is_suspended(sqlite_target: Target, tmp_path: Path) -> None:
    study_ = filled(sqlite_target, tmp_path, rows=1, execution={"time_limit": "2s"})
    with ThreadPoolExecutor() as pool:
        executed = pool.submit(study_.execute, sleep_a_second)
        process = int(await_note(study_.config.custom, "began"))
        os.kill(process, signal.SIGSTOP)
        time.sleep(3)  # longer than the limit
        os.kill(process, signal.SIGCONT)
        assert executed.result() == 1
    assert statuses(sqlite_target) == {"done": 1}
    assert row(sqlite_target, "a.wall_seconds > 3", 0) == (1,)


def test_nor_while_the_supervisor_is_suspended_too(sqlite_target: Target, tmp_path: Path) -> None:
    """As `scontrol suspend` does with all processes of a job."""
    config = configured(sqlite_target, tmp_path, rows=1, execution={"time_limit": "2s"})
    filled(sqlite_target, tmp_path, rows=1)
    script = (
        BEGINNING
        + """
import os, time
def function(keyfields, results, custom):
    Path(custom["directory"], "pids").write_text(f"{os.getppid()} {os.getpid()}")
    Path(custom["directory"], "pids").rename(Path(custom["directory"], "began"))
    time.sleep(1)

study.execute(function)
"""
    )
    with ThreadPoolExecutor() as pool:
        done = pool.submit(run_script, sqlite_target, tmp_path, script, config)
        pids = [int(pid) for pid in await_note({"directory": tmp_path}, "began").split()]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(3)  # longer than the limit
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)
        done.result()
    assert statuses(sqlite_target) == {"done": 1}


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


@isolations
# Since Python 3.12, forking with threads is warned of, whichever they are.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("when", ["at once", "at work"])
def test_processes_that_an_experiment_forks_get_its_signals(
    target: Target, tmp_path: Path, isolation: str, when: str
) -> None:
    """They do not inherit the handler that asks the worker to stop."""
    study_ = filled(target, tmp_path, rows=1, execution={"isolation": isolation}, when=when)
    assert study_.execute(starts_and_terminates) == 1
    assert target.query("SELECT DISTINCT status, error, accuracy FROM study") == [("done", None, -signal.SIGTERM)]


def forks_and_returns_twice(
    keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]
) -> dict[str, Any]:
    count_execution(keyfields, custom)
    pid = os.fork()
    if pid == 0 and keyfields["seed"] == 1:
        raise ValueError("the child of a fork is not a worker")
    if pid == 0:
        return {"accuracy": -1}
    os.waitpid(pid, 0)
    return {"accuracy": 1}


def test_a_process_that_the_function_forks_is_not_a_second_worker(target: Target, tmp_path: Path) -> None:
    study_ = filled(target, tmp_path)
    assert study_.execute(forks_and_returns_twice) == 6
    assert statuses(target) == outcomes(target) == {"done": 6}
    assert target.query("SELECT DISTINCT accuracy, error FROM study") == [(1.0, None)]
    assert [file.read_text() for file in tmp_path.glob("executions of *")] == ["x"] * 6
