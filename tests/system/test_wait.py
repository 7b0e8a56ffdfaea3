"""Workers that stay while others execute, and take over what those lose or give back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pyexperimenter import PyExperimenter, ResultProcessor
from pyexperimenter.cli import main
from pyexperimenter.exceptions import ClaimLostError
from pyexperimenter.execution.heartbeat import Heartbeat
from tests.support.apart import command
from tests.support.study import credentials, experimenter, isolations, statuses, store, study, wait_until, worker
from tests.support.target import Target

ROWS = 3
EXECUTION = {"isolation": "process", "heartbeat": 0.5, "lease": 3, "grace": 1}


def hold_first(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    """Report the start of the first experiment's first execution, and end it when the test allows it."""
    directory = Path(custom["directory"])
    if keyfields["seed"] == 0 and not (directory / "held").exists():
        (directory / "held").touch()
        wait_until((directory / "go").exists, seconds=600)
        if (directory / "go").read_text() == "fail":
            raise RuntimeError("as the test wants it")
        return {"model": "of who held it"}
    return {"model": "of another"}


def execute(config: dict[str, Any], options: dict[str, Any], arguments: Sequence[str]) -> None:
    """Execute the study in this process."""
    PyExperimenter(config, log_level="ERROR", **options).execute(
        hold_first, wait="wait" in arguments, max_experiments=1 if "once" in arguments else -1
    )


@contextmanager
def executing(target: Target, config: dict[str, Any], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Execute the study in another process."""
    process = subprocess.Popen(
        command(partial(execute, config, credentials(target), arguments)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def configured(target: Target, directory: Path, **execution: Any) -> dict[str, Any]:
    return study(
        target,
        keyfields={"seed": {"type": "INT", "values": {"start": 0, "stop": ROWS}}},
        Custom={"directory": str(directory)},
        Execution={**EXECUTION, "journal": str(directory), **execution},
    )


def filled(target: Target, config: dict[str, Any], **options: Any) -> PyExperimenter:
    study_ = experimenter(target, config, **options)
    study_.fill_table_from_config()
    return study_


def outcomes(target: Target, row: int) -> list[str | None]:
    found = target.query("SELECT outcome FROM study__attempts WHERE experiment_id = ? ORDER BY number", row)
    return [outcome for (outcome,) in found]


def wait_for_the_last(target: Target) -> None:
    """Wait until all experiments but the held one are done."""
    wait_until(lambda: statuses(target) == {"done": ROWS - 1, "running": 1})


@isolations
def test_what_a_killed_worker_held_is_finished_by_one_that_waits(
    target: Target, tmp_path: Path, isolation: str
) -> None:
    config = configured(target, tmp_path, isolation=isolation)
    filled(target, config)
    with executing(target, config) as first:
        wait_until((tmp_path / "held").exists)
        with executing(target, config, "wait") as second:
            wait_for_the_last(target)
            os.killpg(first.pid, signal.SIGSTOP)  # so that its child cannot notice its death, and give the row back
            kill_children(first.pid)
            first.kill()
            assert second.wait(60) == 0
    assert statuses(target) == {"done": ROWS}
    assert outcomes(target, 1) == ["lost", "done"]


@isolations
@pytest.mark.parametrize(("how", "expected"), [("done", ["done"]), ("fail", ["retried", "done"])])
def test_it_waits_for_the_last_to_end_and_takes_what_opens_again(
    target: Target, tmp_path: Path, isolation: str, how: str, expected: list[str]
) -> None:
    config = configured(target, tmp_path, isolation=isolation, retries=1, lease=600)
    filled(target, config)
    # The first ends after its experiment, so the other executes the retry.
    with executing(target, config, "once") as first:
        wait_until((tmp_path / "held").exists)
        with executing(target, config, "wait") as second:
            wait_for_the_last(target)
            seconds = EXECUTION["heartbeat"] * 3
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(seconds)
            (tmp_path / "how").write_text(how)
            (tmp_path / "how").rename(tmp_path / "go")  # whole, or not there
            assert [process.wait(60) for process in (first, second)] == [0, 0]
    assert statuses(target) == {"done": ROWS}
    assert outcomes(target, 1) == expected


def test_a_signal_ends_the_waiting(target: Target, tmp_path: Path) -> None:
    config = configured(target, tmp_path, heartbeat=60, lease=600, grace=600)
    filled(target, config)
    with executing(target, config), executing_when_held(target, config, tmp_path) as second:
        second.send_signal(signal.SIGTERM)
        assert second.wait(30) == 128 + signal.SIGTERM
        assert outcomes(target, 1) == [None]


@isolations
def test_so_does_the_end_of_its_time(
    target: Target, tmp_path: Path, isolation: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = configured(target, tmp_path, isolation=isolation, heartbeat=60, lease=600)
    filled(target, config)
    study_ = PyExperimenter(config, **credentials(target))
    with executing(target, config):
        wait_until((tmp_path / "held").exists)
        begun = time.monotonic()
        assert study_.execute(hold_first, wait=True, stop_after=8) == ROWS - 1
        assert 7 < time.monotonic() - begun < 50
        assert outcomes(target, 1) == [None]
    assert "this worker starts no more experiments: its time is up" in caplog.messages


def test_it_waits_for_what_it_may_claim_only(target: Target, tmp_path: Path) -> None:
    config = configured(target, tmp_path, lease=600)
    study_ = filled(target, config)
    with executing(target, config):
        wait_until((tmp_path / "held").exists)
        assert study_.execute(hold_first, wait=True, where={"seed": [1, 2]}) == ROWS - 1
        assert (statuses(target), outcomes(target, 1)) == ({"done": ROWS - 1, "running": 1}, [None])


def test_it_does_not_wait_for_rows_that_no_worker_executes(target: Target, tmp_path: Path) -> None:
    """Rows set to running by hand, or by a version without leases, would stay so for ever."""
    study_ = filled(target, configured(target, tmp_path))
    target.query("UPDATE study SET status = 'running' WHERE ID = 1")
    assert study_.execute(hold_first, wait=True) == ROWS - 1
    assert statuses(target) == {"running": 1, "done": ROWS - 1}


@pytest.mark.parametrize("wait", [False, True])
def test_what_is_released_after_a_claim_found_nothing_is_executed(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: bool
) -> None:
    """The heartbeat's thread takes rows from silent workers, too, perhaps just before the worker looks for them."""
    study_ = filled(sqlite_target, configured(sqlite_target, tmp_path, isolation="none", lease=600))
    (tmp_path / "held").touch()
    others = store(sqlite_target, filled=False, keyfields={"seed": "INT"})
    held = others.claim(worker())
    assert held is not None
    sqlite_target.query("UPDATE study__attempts SET lease_until = '2001-01-01 00:00:00'")

    def reap(self: Heartbeat, idle: bool = False) -> None:
        if idle:  # as if another had done it in between
            with suppress(ClaimLostError):
                others.release(held.attempt)

    monkeypatch.setattr(Heartbeat, "reap", reap)
    assert study_.execute(hold_first, wait=wait) == ROWS
    assert statuses(sqlite_target) == {"done": ROWS}


def test_two_that_wait_do_not_wait_for_each_other(target: Target, tmp_path: Path) -> None:
    study_ = filled(target, configured(target, tmp_path, lease=600))
    (tmp_path / "held").touch()
    assert study_.execute(hold_first, n_jobs=2, wait=True) == ROWS
    assert statuses(target) == {"done": ROWS}


def test_who_waits_holds_no_connection(mariadb_target: Target, tmp_path: Path) -> None:
    config = configured(mariadb_target, tmp_path, heartbeat=60, lease=600)
    filled(mariadb_target, config)

    def connections() -> int:
        own = "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
        return int(mariadb_target.query(own)[0][0])

    with executing(mariadb_target, config), executing_when_held(mariadb_target, config, tmp_path) as second:
        wait_until(lambda: connections() == 0, seconds=20)
        assert second.poll() is None
        assert outcomes(mariadb_target, 1) == [None]


def test_on_the_command_line(sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(sqlite_target, tmp_path, isolation="none", lease=600)
    filled(sqlite_target, config)
    monkeypatch.setattr("sys.path", sys.path)
    (tmp_path / "study.yml").write_text(json.dumps(config))  # which is YAML, too
    command = ["run", str(tmp_path / "study.yml"), f"{__file__}:hold_first"]
    with executing(sqlite_target, config):
        wait_until((tmp_path / "held").exists)
        release = threading.Thread(target=lambda: (wait_for_the_last(sqlite_target), (tmp_path / "go").touch()))
        release.start()
        done = CliRunner().invoke(main, [*command, "--wait"], catch_exceptions=False)
        release.join()
    assert done.exit_code == 0
    assert f"Executed {ROWS - 1} experiments" in done.output
    assert statuses(sqlite_target) == {"done": ROWS}


@contextmanager
def executing_when_held(target: Target, config: dict[str, Any], directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that waits for another; enter the block when it has nothing else to do."""
    wait_until((directory / "held").exists)
    with executing(target, config, "wait") as process:
        wait_for_the_last(target)
        yield process


def kill_children(pid: int) -> None:
    import psutil

    for child in psutil.Process(pid).children():
        child.suspend()
        child.kill()
