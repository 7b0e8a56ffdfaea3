"""Workers with short experiments take turns if they are many; none waits for ever, or holds a place for nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyexperimenter.machine import turns
from pyexperimenter.machine.locks import lock_file
from pyexperimenter.machine.turns import TURN, Turns, core_seconds, workers
from tests.support.study import wait_until

WORKERS = 20


class Machine:
    """Where the worker of a test is one of many, with one place for them, which is always busy."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place = directory / "turn-0"
        self.now = 1000.0
        self.workers = WORKERS
        self.all_turns: list[Turns] = []
        self.busy = 1.0  # the share of its time for which the worker uses a core
        monkeypatch.setattr(turns, "PLACES", 1)
        monkeypatch.setattr(turns, "_MANY", 2)
        monkeypatch.setattr(turns, "own_directory", lambda: directory)
        monkeypatch.setattr(turns, "workers", lambda: self.workers)
        monkeypatch.setattr(turns, "core_seconds", lambda: self.busy * self.now)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.work)

    def work(self, seconds: float) -> None:
        self.now += seconds

    def is_place_free(self) -> bool:
        lock = lock_file(self.place)
        if lock is not None:
            lock.release()
        return lock is not None

    def turns(self) -> Turns:
        """Return the turns of a worker whose first turn is over."""
        its = Turns()
        self.all_turns.append(its)
        its.ran(0.0)
        self.work(TURN)
        return its

    def crowded_turns(self) -> Turns:
        """Return the turns of a worker with a place, whose turn is over."""
        its = self.turns()
        its.wait(lambda: False)
        assert not self.is_place_free()
        self.work(TURN)
        return its


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(tmp_path, monkeypatch)
    yield made
    for its in made.all_turns:
        its.end()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which has the place."""
    code = f"""
from pathlib import Path
from pyexperimenter.machine.locks import lock_file
lock = lock_file(Path({str(tmp_path / "turn-0")!r}))
print(flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_turn_lasts_while_a_worker_has_a_place_and_then_others_have_theirs(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeded = random.getstate()
    its = machine.crowded_turns()
    assert its.are_over()
    naps = list[float]()

    def sleep(seconds: float) -> None:
        assert machine.is_place_free()
        naps.append(seconds)
        machine.work(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    its.wait(lambda: False)
    assert naps
    assert not machine.is_place_free()
    machine.work(0.9 * TURN)
    assert not its.are_over()
    its.end()
    assert machine.is_place_free()
    assert random.getstate() == seeded, "users seed these numbers"


@pytest.mark.parametrize("why", ["few workers", "waits for something else", "long experiments"])
def test_who_need_not_wait_goes_on_without_a_place(machine: Machine, why: str) -> None:
    its = machine.crowded_turns()
    machine.workers = 2 if why == "few workers" else WORKERS
    its._cores += 0.9 * TURN if why == "waits for something else" else 0.0
    its.ran(1.0 if why == "long experiments" else 0.0)
    before = machine.now
    its.wait(lambda: False)
    assert machine.now == before
    assert machine.is_place_free()


def test_a_suspended_worker_delays_others_no_longer_than_if_all_took_turns(
    machine: Machine, holder: subprocess.Popen[str]
) -> None:
    holder.send_signal(signal.SIGSTOP)
    its = machine.turns()
    before = machine.now
    its.wait(lambda: False)
    assert its._place is None
    assert machine.now - before == pytest.approx(2 * (WORKERS - 1) * TURN)
    assert not its.are_over(), "it has a turn all the same"


def test_the_place_of_a_killed_worker_is_free(machine: Machine, holder: subprocess.Popen[str]) -> None:
    assert not machine.is_place_free()
    holder.kill()
    holder.communicate()
    machine.crowded_turns().end()


def test_a_stop_ends_the_wait(machine: Machine, holder: subprocess.Popen[str]) -> None:
    its = machine.turns()
    before = machine.now
    its.wait(lambda: True)
    assert machine.now == before


def test_waits_are_short_even_if_there_are_thousands_or_no_files_can_be_made(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "own_directory", lambda: None)
    machine.workers = 100_000
    its = machine.turns()
    before = machine.now
    its.wait(lambda: False)
    assert machine.now - before == pytest.approx(4)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports it")
def test_the_time_of_cores_counts_and_that_of_waits_does_not() -> None:
    before = core_seconds()
    wait_until(lambda: sum(range(100_000)) and core_seconds() > before + 0.2)

    def is_idle() -> bool:
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1)"]) as process:
            before, start = core_seconds(), time.monotonic()
            process.wait()
        return core_seconds() - before < 0.9 * (time.monotonic() - start)

    wait_until(is_idle)  # not at once if it waits long for a core afterwards


def test_a_system_that_does_not_report_it_has_no_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("pyexperimenter.machine.turns.open", refuse, raising=False)
    monkeypatch.setattr(turns, "workers", lambda: 1000)
    monkeypatch.setattr(turns, "_FIRST_TURN", 0)
    assert core_seconds() == 0
    its = Turns()
    its.ran(0.0)
    assert not its.are_over()
    its.end()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists sockets")
def test_workers_are_counted_while_they_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_VALID", 1e-9)
    code = "from pyexperimenter.machine.turns import Turns; its = Turns(); its.ran(0); print(flush=True); input()"
    others = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)
    ]
    try:
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()
        assert workers() >= 3
    finally:
        for other in others:
            other.kill()
            other.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists sockets")
@pytest.mark.parametrize("end", [Turns.end, lambda its: its.ran(1.0)], ids=["idle", "long experiments"])
def test_workers_do_not_wait_for_those_that_execute_no_short_experiments(end: Callable[[Turns], None]) -> None:
    """Such as that of a notebook that was left open, or one that waits for new rows."""

    def counted() -> int:
        return Path("/proc/net/unix").read_text().count(f"@pyexperimenter-worker-{os.getpid()}-")

    its = Turns()
    assert counted() == 0
    for _ in range(2):
        its.ran(0.0)
        its.ran(0.0)
        assert counted() == 1
        end(its)
        assert counted() == 0
