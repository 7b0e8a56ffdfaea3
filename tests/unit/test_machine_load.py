"""Workers yield on overloaded cores, but not for ever; processes that only wait do not count."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time

import pytest

from pyexperimenter.machine.load import let_others_go_first, runnable_threads, workers
from tests.support.study import wait_until

CORES = os.cpu_count() or 1


def many_workers() -> int:
    return 4 * CORES + 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports how many threads could run")
def test_processes_that_compute_count_and_those_that_wait_do_not() -> None:
    waiting = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(20)]
    computing = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(5)]
    try:
        wait_until(lambda: runnable_threads() >= 5)
        wait_until(lambda: runnable_threads() < 20)
    finally:
        for process in computing + waiting:
            process.kill()
            process.communicate()


def test_a_system_that_reports_no_load_is_never_crowded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("pyexperimenter.machine.load.open", refuse, raising=False)
    assert runnable_threads() == 0


def test_a_worker_waits_while_the_cores_are_crowded(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [4 * CORES + 1, 4 * CORES + 1, 4 * CORES, 0]
    monkeypatch.setattr("pyexperimenter.machine.load._waited", 0.0)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the next look comes before the time is up
    let_others_go_first(lambda: looks.pop(0), many_workers)
    assert looks == [0]


def test_few_workers_do_not_wait_for_other_programs() -> None:
    let_others_go_first(lambda: pytest.fail("it looked"), lambda: 4 * CORES)


def test_workers_wait_no_longer_than_if_a_crowd_worked_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of three times as many waits twice as long as it has worked."""
    clock, naps = [100.0], list[float]()

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr("pyexperimenter.machine.load._waited", 99.9)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", sleep)
    let_others_go_first(lambda: 1000 * CORES, lambda: 3 * 4 * CORES)
    assert sum(naps) == pytest.approx(0.2)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists sockets")
def test_workers_are_counted_while_they_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyexperimenter.machine.load._VALID", 1e-9)
    assert workers() >= 1
    code = "from pyexperimenter.machine.load import workers; workers(); print(flush=True); input()"
    others = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)
    ]
    try:
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()
        assert workers() >= 4
    finally:
        for other in others:
            other.kill()
            other.communicate()


def test_a_machine_that_stays_crowded_is_used_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    thread = threading.Thread(target=let_others_go_first, args=(lambda: 4 * CORES + 1, many_workers))
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
