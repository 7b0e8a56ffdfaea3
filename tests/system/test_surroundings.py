"""What a run changes in its process, or leaves running, does not reach the next run of the same worker."""

from __future__ import annotations

import _thread
import logging
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter import PyExperimenter, ResultProcessor
from pyexperimenter.execution.left_running import LeftRunning
from pyexperimenter.execution.surroundings import restored
from tests.support.study import experimenter, isolations, outcomes, statuses, wait_until
from tests.support.supervision import configured, filled, is_gone, row
from tests.support.target import A_FILE_AND_A_SERVER, Target

DATABASES = A_FILE_AND_A_SERVER[:1]


def described(custom: dict[str, Any]) -> dict[str, Any]:
    """Return what a run finds in its process."""
    loggers = logging.root, logging.getLogger("py-experimenter")
    return {
        "directory": os.path.realpath("."),
        "environment": {name: os.environ.get(name) for name in ("MODE", "HOME")},
        "stdout is open": not sys.stdout.closed,
        "descriptor": os.fstat(1).st_ino,
        "loggers": [(logger.level, logger.disabled, list(logger.handlers)) for logger in loggers],
        "enabled": logging.root.manager.disable,
        "signals": signal.getsignal(signal.SIGTERM),
        "alarm": signal.getitimer(signal.ITIMER_REAL),
        "custom": custom["nested"],
    }


def leave_a_mess(directory: Path, custom: dict[str, Any]) -> None:
    gone = directory / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    os.environ["MODE"] = "fast"
    os.environ["HOME"] = "/"
    logging.disable(logging.CRITICAL)
    logging.getLogger("py-experimenter").disabled = True
    logging.getLogger("py-experimenter").addHandler(logging.NullHandler())
    logging.basicConfig(force=True, level=1, handlers=[logging.NullHandler()])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.alarm(600)
    custom["nested"]["list"].append(1)
    sys.stdout.flush()
    os.close(1)
    sys.stdout.close()
    sys.stdout = None  # type: ignore[assignment]


def compare_and_leave_a_mess(
    keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]
) -> dict[str, Any]:
    found = described(custom)
    first = vars(logging).setdefault("found by the first run", found)
    print("printed by", keyfields["seed"])
    leave_a_mess(Path(custom["directory"]), custom)
    return {"model": str({name: (first[name], found[name]) for name in found if found[name] != first[name]})}


def test_a_run_finds_its_process_as_the_first_run_did(target: Target, tmp_path: Path) -> None:
    study_ = filled(target, tmp_path, rows=3, nested={"list": []})
    assert study_.execute(compare_and_leave_a_mess) == 3
    assert statuses(target) == {"done": 3}
    assert target.query("SELECT DISTINCT model FROM study") == [("{}",)]
    assert [row(target, "output", seed) for seed in range(3)] == [(f"printed by {seed}\n",) for seed in range(3)]


def test_the_caller_finds_its_process_as_it_was(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alarm = signal.setitimer(signal.ITIMER_REAL, 0)  # of pytest-timeout
    try:
        with Path(os.devnull).open("w") as stream:
            monkeypatch.setattr(sys, "stdout", stream)
            before = {**described({"nested": None}), "stdout is open": False}
            with restored():
                leave_a_mess(tmp_path, {"nested": {"list": []}})
            assert sys.stdout is stream
            assert described({"nested": None}) == before
    finally:
        signal.setitimer(signal.ITIMER_REAL, *alarm)


def test_surroundings_are_put_back_when_the_last_thread_leaves_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODE", raising=False)
    left = threading.Event()

    def run() -> None:
        with restored():
            os.environ["MODE"] = "fast"
            left.wait(60)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: "MODE" in os.environ)
    with restored():
        pass
    assert os.environ["MODE"] == "fast"  # the other thread is still at work
    left.set()
    thread.join()
    assert "MODE" not in os.environ


def test_descriptors_that_a_function_closes_are_not_those_of_other_files() -> None:
    """In a process of its own, as it closes the files of this one."""
    code = (
        "import os, sys; sys.path.insert(0, '.'); from pyexperimenter.execution.surroundings import restored\n"
        "with restored():\n"
        "    os.closerange(3, 200); kept = [open(os.devnull) for _ in range(20)]\n"
        "for file in kept: os.fstat(file.fileno())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# What a run leaves running


def go_on(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        print("from the first run", flush=True)
        time.sleep(0.01)


def leave_running(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    if keyfields["seed"] == 0:
        match custom["what"]:
            case "thread":
                threading.Thread(target=go_on, args=[600], daemon=True).start()
            case "timer":
                threading.Timer(0.3, go_on, [600]).start()
            case "process":
                subprocess.Popen(["sleep", "611"])
            case "fork":
                if os.fork() == 0:
                    go_on(600)
            case "orphan":
                subprocess.run(
                    "while :; do echo from the first run; sleep 0.1; done & sleep 0.2", shell=True, check=True
                )
    return {"model": str(os.getpid())}


@pytest.mark.parametrize("what", ["thread", "timer", "process", "fork", "orphan"])
def test_what_a_run_leaves_running_is_ended_and_named(
    target: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    filled(target, tmp_path, rows=3, what=what)
    study_ = PyExperimenter(configured(target, tmp_path, rows=3, what=what), log_level="WARNING")
    assert study_.execute(leave_running) == 3
    assert outcomes(target) == {"done": 3}
    (first,), (second,), (third,) = (row(target, "t.model", seed) for seed in range(3))
    assert (first == second) == (what not in ("thread", "timer"))  # threads end with their process only
    assert second == third
    assert [row(target, "output", seed) for seed in (1, 2)] == [(None,), (None,)]
    (message,) = [record.message for record in caplog.records]
    assert message.startswith("experiment 1 left running: ")
    assert ("thread" in message) == (what in ("thread", "timer"))
    for pid in re.findall(r"process (\d+)", message):
        assert is_gone(int(pid))


def test_pools_that_libraries_keep_do_not_count(target: Target, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    left = LeftRunning()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(len, "")
        assert left.threads() == []
    event = threading.Event()
    thread = threading.Thread(target=lambda: event.wait(60), name="of the user")
    thread.start()
    assert left.threads() == ["thread of the user"]
    event.set()
    thread.join()
    assert left.threads() == []


def test_a_fresh_process_after_so_many_experiments(target: Target, tmp_path: Path) -> None:
    study_ = filled(target, tmp_path, rows=5, what="nothing", execution={"experiments_per_process": 2})
    assert study_.execute(leave_running, max_experiments=5) == 5
    pids = [row(target, "t.model", seed)[0] for seed in range(5)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]
    assert len(set(pids)) == 3


# Interrupts that no signal causes


def interrupt(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    if keyfields["seed"] == 1:
        if custom["how"] == "raise":
            raise KeyboardInterrupt("stop training")
        _thread.interrupt_main()
        time.sleep(60)


@isolations
@pytest.mark.parametrize("how", ["raise", "interrupt_main"])
def test_an_interrupt_of_the_users_code_is_a_failure_of_that_run(
    target: Target, tmp_path: Path, how: str, isolation: str
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which processes of pytest-xdist do not have
    study_ = filled(target, tmp_path, rows=3, how=how, execution={"isolation": isolation})
    assert study_.execute(interrupt) == 3
    assert statuses(target) == {"done": 2, "error": 1}
    (error,) = row(target, "t.error", 1)
    assert "in interrupt\n" in error
    assert error.splitlines()[-1].startswith("KeyboardInterrupt")


def test_the_library_draws_no_random_numbers_from_those_that_users_seed(sqlite_target: Target) -> None:
    """Otherwise, what a function draws would depend on when connections are opened, and on delays."""
    study_ = experimenter(sqlite_target)
    study_.fill_table_from_config()
    random.seed(1)
    seeded = random.getstate()

    def draws(_: Any, results: ResultProcessor, custom: Any) -> dict[str, float]:
        results._store.database.close()
        results.process_logs({"epochs": {"epoch": 1}})
        return {"accuracy": float(random.getstate() == seeded)}

    assert study_.execute(draws, random_order=True) == 6
    assert sqlite_target.query("SELECT DISTINCT accuracy FROM study") == [(1.0,)]
    assert random.getstate() == seeded
