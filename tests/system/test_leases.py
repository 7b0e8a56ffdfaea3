"""Workers that fall silent: stopped, cut off, vanished, or with a wrong clock; and the workers that take their rows."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from pyexperimenter import PyExperimenter, ResultProcessor
from pyexperimenter.config import load_config
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import ClaimLostError
from pyexperimenter.execution.heartbeat import Heartbeat
from tests.support.apart import command
from tests.support.study import credentials, experimenter, outcomes, statuses, store, study, wait_until, worker
from tests.support.target import Target

EXECUTION = {"isolation": "process", "heartbeat": 0.3, "lease": 2, "grace": 1}


# The functions that workers execute; they notify the test by files


def hold(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, str]:
    """Report the start, and go on when the test allows it."""
    directory = Path(custom["directory"])
    subprocess.Popen(["sleep", "600"])  # a child, which has to end with its parent
    (directory / "pid.part").write_text(str(os.getpid()))
    (directory / "pid.part").rename(directory / "pid")
    wait_until((directory / "go").exists, seconds=600)
    try:
        results.process_results({"accuracy": 0.1})
    except ClaimLostError:
        (directory / "refused").touch()
        raise
    return {"model": "of who held it first"}


def hold_once(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    if not Path(custom["directory"], "pid").exists():
        hold(keyfields, results, custom)
    return {"accuracy": 0.9, "model": "of who came second"}


def take(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    return {"accuracy": 0.9, "model": "of who came second"}


def meet(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    """Report the time and the worker, and go on when another worker has started, too."""
    (Path(custom["directory"]) / f"here {os.getppid()}").touch()
    wait_until(lambda: len(list(Path(custom["directory"]).glob("here *"))) > 1)
    time.sleep(0.05)
    return {"accuracy": time.time(), "model": str(os.getpid())}


# Helpers of the tests


class Worker:
    """A process that executes, and its descendants."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def wait(self) -> int:
        return self.process.wait(60)

    def children(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.process.pid).children()]

    def signal_children(self, number: int, children: Sequence[int] | None = None) -> None:
        for child in self.children() if children is None else children:
            with suppress(ProcessLookupError):
                os.killpg(child, number)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        self.signal_children(signal.SIGSTOP)

    def go_on(self) -> None:
        self.signal_children(signal.SIGCONT)
        self.process.send_signal(signal.SIGCONT)

    def vanish(self) -> None:
        """End everything as a power cut would: no process has time to notice the death of another."""
        if self.process.poll() is None:
            self.stop()
            self.signal_children(signal.SIGKILL)
            self.process.kill()
        self.process.wait()


def execute(function: Callable[..., Any], config: dict[str, Any], options: dict[str, Any]) -> None:
    """Execute the study in this process."""
    PyExperimenter(config, log_level="ERROR", **options).execute(function)


@contextmanager
def executing(
    target: Target,
    config: dict[str, Any],
    function: Callable[..., Any],
    wrapper: Sequence[str] = (),
    path: Sequence[str] = (),
) -> Iterator[Worker]:
    """Execute the study in another process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*path, *sys.path])}
    call = command(partial(execute, function, config, credentials(target)))
    worker = Worker(subprocess.Popen([*wrapper, *call], env=environment))
    try:
        yield worker
    finally:
        worker.vanish()


def configured(target: Target, directory: Path, rows: int, **execution: Any) -> dict[str, Any]:
    return study(
        target,
        keyfields={"seed": {"type": "INT", "values": {"start": 0, "stop": rows}}},
        Custom={"directory": str(directory)},
        Execution={**EXECUTION, "journal": str(directory), **execution},
    )


def filled(target: Target, config: dict[str, Any]) -> PyExperimenter:
    study_ = experimenter(target, config)
    study_.fill_table_from_config()
    return study_


def wait_for_pid(directory: Path) -> int:
    wait_until((directory / "pid").exists)
    return int((directory / "pid").read_text())


def is_gone(pid: int) -> bool:
    """Return whether a process and its whole group have ended; its new parent need not have waited for it yet."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                return False
    return True


def stop_between_writes(worker: Worker, target: Target) -> None:
    """Stop a worker, but not while it writes to SQLite: it would lock the file while it is stopped."""

    def succeeds() -> bool:
        worker.stop()
        wait_until(lambda: psutil.Process(worker.process.pid).status() == psutil.STATUS_STOPPED)
        if target.name == "sqlite":
            with closing(sqlite3.connect(target.database, timeout=1, isolation_level=None)) as connection:
                try:
                    connection.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:
                    worker.go_on()
                    return False
        return True

    wait_until(succeeds)


def seconds_beaten(target: Target) -> float:
    """Return the seconds between the start and the last heartbeat of the first attempt."""
    ((begun, heartbeat),) = target.query("SELECT started, heartbeat FROM study__attempts ORDER BY ID LIMIT 1")
    if isinstance(begun, str):
        begun, heartbeat = datetime.fromisoformat(begun), datetime.fromisoformat(heartbeat)
    return float((heartbeat - begun).total_seconds())


@pytest.mark.parametrize("first", ["the child", "the supervisor"])
def test_a_worker_that_wakes_up_after_its_lease_does_no_harm(target: Target, tmp_path: Path, first: str) -> None:
    config = configured(target, tmp_path, rows=3)
    study_ = filled(target, config)
    with executing(target, config, hold) as worker:
        pid = wait_for_pid(tmp_path)
        stop_between_writes(worker, target)
        assert (statuses(target), outcomes(target)) == ({"created": 2, "running": 1}, {None: 1})

        def others_are_through() -> bool:
            study_.execute(take)
            return statuses(target) == {"done": 3}

        wait_until(others_are_through)
        assert outcomes(target) == {"done": 3, "lost": 1}
        before = target.query("SELECT * FROM study ORDER BY ID")
        (tmp_path / "go").touch()
        if first == "the child":
            worker.signal_children(signal.SIGCONT)
            wait_until((tmp_path / "refused").exists)
            worker.process.send_signal(signal.SIGCONT)
        else:
            worker.process.send_signal(signal.SIGCONT)  # which kills a stopped child, too
        assert worker.wait() == 0
        wait_until(lambda: is_gone(pid))
    assert target.query("SELECT * FROM study ORDER BY ID") == before
    assert outcomes(target) == {"done": 3, "lost": 1}
    assert target.query("SELECT DISTINCT accuracy, model FROM study") == [(0.9, "of who came second")]
    late = dict(target.query("SELECT outcome, late_results FROM study__attempts WHERE experiment_id = 1"))
    assert late["done"] is None
    assert json.loads(late["lost"] or "null") == ({"accuracy": 0.1} if first == "the child" else None)
    assert (tmp_path / "refused").exists() == (first == "the child")


def test_a_stopped_child_loses_nothing_as_its_supervisor_beats(target: Target, tmp_path: Path) -> None:
    config = configured(target, tmp_path, rows=1)
    study_ = filled(target, config)
    with executing(target, config, hold) as worker:
        pid = wait_for_pid(tmp_path)
        worker.signal_children(signal.SIGSTOP)
        wait_until(lambda: seconds_beaten(target) > 2 * EXECUTION["lease"])
        assert study_.execute(take) == 0
        assert (statuses(target), outcomes(target)) == ({"running": 1}, {None: 1})
        (tmp_path / "go").touch()
        worker.signal_children(signal.SIGCONT)
        assert worker.wait() == 0
        wait_until(lambda: is_gone(pid))
    assert (statuses(target), outcomes(target)) == ({"done": 1}, {"done": 1})
    assert target.query("SELECT accuracy, model FROM study") == [(0.1, "of who held it first")]


def test_the_row_of_a_vanished_machine_is_executed_after_its_lease(target: Target, tmp_path: Path) -> None:
    config = configured(target, tmp_path, rows=3)
    study_ = filled(target, config)
    with executing(target, config, hold) as worker:
        pid = wait_for_pid(tmp_path)
        worker.vanish()
    wait_until(lambda: is_gone(pid))
    assert (statuses(target), outcomes(target)) == ({"created": 2, "running": 1}, {None: 1})
    wait_until(store(target, filled=False).silent)
    # It takes what is open, and then waits until the lease of the silent one has run out.
    assert study_.execute(take) == 3
    assert (statuses(target), outcomes(target)) == ({"done": 3}, {"done": 3, "lost": 1})
    numbers = target.query("SELECT number, outcome FROM study__attempts WHERE experiment_id = 1 ORDER BY number")
    assert numbers == [(1, "lost"), (2, "done")]


def test_no_worker_waits_for_rows_whose_lease_is_valid(target: Target, tmp_path: Path) -> None:
    """Others may take hours: a worker that finds nothing open ends."""
    config = configured(target, tmp_path, rows=3, lease=600)
    study_ = filled(target, config)
    with executing(target, config, hold) as worker:
        wait_for_pid(tmp_path)
        assert study_.execute(take) == 2
        assert (statuses(target), outcomes(target)) == ({"done": 2, "running": 1}, {"done": 2, None: 1})
        (tmp_path / "go").touch()
        assert worker.wait() == 0
    assert (statuses(target), outcomes(target)) == ({"done": 3}, {"done": 3})


def test_when_all_machines_were_asleep_no_row_changes_hands(target: Target, tmp_path: Path) -> None:
    directories = [tmp_path / "first", tmp_path / "second"]
    # A worker has one heartbeat's time to show that it lives, which must be enough for a busy machine to wake up.
    configs = [configured(target, directory, rows=2, heartbeat=2, lease=3) for directory in directories]
    filled(target, configs[0])
    for directory in directories:
        directory.mkdir()
    with executing(target, configs[0], hold) as first, executing(target, configs[1], hold) as second:
        pids = [wait_for_pid(directory) for directory in directories]
        for worker in (first, second):
            stop_between_writes(worker, target)
        wait_until(lambda: len(store(target, filled=False).silent()) == 2)
        assert (statuses(target), outcomes(target)) == ({"running": 2}, {None: 2})
        for directory, worker in zip(directories, (first, second), strict=True):
            (directory / "go").touch()
            worker.go_on()
        assert [worker.wait() for worker in (first, second)] == [0, 0]
    assert (statuses(target), outcomes(target)) == ({"done": 2}, {"done": 2})
    assert {pid for (pid,) in target.query("SELECT pid FROM study__attempts")} == set(pids)


def test_resetting_a_running_row_stops_it_and_the_next_run_is_fine(target: Target, tmp_path: Path) -> None:
    config = configured(target, tmp_path, rows=1)
    study_ = filled(target, config)
    with executing(target, config, hold_once) as worker:
        pid = wait_for_pid(tmp_path)
        assert (statuses(target), outcomes(target)) == ({"running": 1}, {None: 1})
        assert study_.reset_experiments("running") == 1
        wait_until(lambda: is_gone(pid))  # its function would go on for ten minutes
        assert worker.wait() == 0
    assert (statuses(target), outcomes(target)) == ({"done": 1}, {"reset": 1, "done": 1})
    assert target.query("SELECT accuracy, model, error FROM study") == [(0.9, "of who came second", None)]
    assert target.query("SELECT number, outcome FROM study__attempts ORDER BY number") == [(1, "reset"), (2, "done")]


def test_without_isolation_a_thread_beats_during_the_function(target: Target, tmp_path: Path) -> None:
    study_ = filled(target, configured(target, tmp_path, rows=1, isolation="none"))

    def function(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
        wait_until(lambda: seconds_beaten(target) > 2 * EXECUTION["lease"])
        assert store(target, filled=False).silent() == []
        assert not results.stop_requested

    assert study_.execute(function) == 1
    assert (statuses(target), outcomes(target)) == ({"done": 1}, {"done": 1})


def test_a_heart_beats_on_after_a_failure_of_its_own(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study_ = filled(sqlite_target, configured(sqlite_target, tmp_path, rows=1, isolation="none"))
    beat, failures = ExperimentStore.beat, iter([ValueError("the heart stumbles")])

    def stumble(store_: ExperimentStore, *arguments: Any) -> Any:
        for failure in failures:
            raise failure
        return beat(store_, *arguments)

    monkeypatch.setattr(ExperimentStore, "beat", stumble)

    def function(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
        wait_until(lambda: seconds_beaten(sqlite_target) > 0)

    assert study_.execute(function) == 1
    assert (statuses(sqlite_target), outcomes(sqlite_target)) == ({"done": 1}, {"done": 1})
    (message,) = [record.getMessage() for record in caplog.records]
    assert re.fullmatch("heartbeats fail, .* the heart stumbles", message)
    assert "ValueError: the heart stumbles" in caplog.text


def test_what_another_process_has_just_reaped_is_not_reported_again(
    target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    other = store(target)
    assert other.claim(worker()) is not None
    target.query("UPDATE study__attempts SET lease_until = '2001-01-01 00:00:00'")
    logger = logging.getLogger("py-experimenter")

    class Accounting:
        """Takes its time to answer, in which another process reaps."""

        def endings(self, job_ids: Iterable[str | None]) -> dict[str, str]:
            for _ in job_ids:
                assert [other.reap(silent, 3) for silent in other.silent()] == [True]
            return {}

    config = study(target, Execution={"heartbeat": 0.1})
    heartbeat = Heartbeat(load_config(config, credentials_path=target.credentials_file), logger)
    heartbeat._accounting = Accounting()  # type: ignore[assignment]
    wait_until(lambda: outcomes(target) == {"lost": 1})
    heartbeat.stop()
    assert caplog.records == []


@pytest.mark.parametrize("how", ["reaped", "reset"])
def test_without_isolation_a_function_learns_that_its_row_is_lost(target: Target, tmp_path: Path, how: str) -> None:
    study_ = filled(target, configured(target, tmp_path, rows=1, isolation="none"))
    other = store(target, filled=False)

    def is_reaped() -> bool:
        # Again and again, since the thread that beats renews the lease.
        target.query("UPDATE study__attempts SET lease_until = '2001-01-01 00:00:00'")
        return any(other.reap(silent, 3) for silent in other.silent())

    def function(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, str]:
        assert not results.stop_requested
        if how == "reaped":
            wait_until(is_reaped)
        else:
            study_.reset_experiments("running")
        wait_until(lambda: results.stop_requested)
        with pytest.raises(ClaimLostError):
            results.process_results({"accuracy": 0.1})
        with pytest.raises(ClaimLostError):
            results.process_logs({"epochs": {"epoch": 1}})
        return {"model": "late"}

    assert study_.execute(function, max_experiments=1) == 1
    outcome = "lost" if how == "reaped" else "reset"
    assert (statuses(target), outcomes(target)) == ({"created": 1}, {outcome: 1})
    assert target.query("SELECT accuracy, model, start_date, end_date, error FROM study") == [(None,) * 5]
    ((late,),) = target.query("SELECT late_results FROM study__attempts")
    assert json.loads(late) == {"accuracy": 0.1, "model": "late"}
    assert target.query("SELECT COUNT(*) FROM study__epochs") == [(0,)]


# libfaketime leaves the monotonic clock alone, but not time.sleep's deadline on it, and makes it fail.
SLEEP = "import select, time; time.sleep = lambda seconds: select.select([], [], [], seconds) and None"


@pytest.mark.skipif(not shutil.which("faketime"), reason="no faketime here; apt-get install faketime")
@pytest.mark.parametrize("offset", ["+1d", "-1d"])
def test_a_worker_whose_clock_is_wrong_does_no_harm(target: Target, tmp_path: Path, offset: str) -> None:
    """A server uses its own clock. With SQLite, a worker whose clock is ahead may take rows; the table stays right."""
    rows = 40
    config = configured(target, tmp_path, rows, max_lost=1000)
    filled(target, config)
    assert statuses(target) == {"created": rows}
    (tmp_path / "sitecustomize.py").write_text(SLEEP)
    faketime = ["faketime", "-m", "--exclude-monotonic", "-f", offset]
    with (
        executing(target, config, meet) as first,
        executing(target, config, meet, faketime, [str(tmp_path)]) as second,
    ):
        assert [worker.wait() for worker in (first, second)] == [0, 0]
    assert statuses(target) == {"done": rows}
    found = outcomes(target)
    assert found.pop("done") == rows
    if target.name == "sqlite":
        assert set(found) <= {"lost"}
    else:
        assert found == {}
    last = dict(target.query("SELECT experiment_id, MAX(number) FROM study__attempts GROUP BY experiment_id"))
    attempts = target.query("SELECT experiment_id, number, pid, outcome FROM study__attempts")
    winners = {row: (str(pid), outcome) for row, number, pid, outcome in attempts if number == last[row]}
    models = dict(target.query("SELECT ID, model FROM study"))
    assert winners == {row: (model, "done") for row, model in models.items()}
    # There were two workers (and new processes for those that lost their rows), one with another clock.
    assert len(set(models.values())) >= 2
    ((least, greatest),) = target.query("SELECT MIN(accuracy), MAX(accuracy) FROM study")
    assert greatest - least > 80_000
