"""Signals that ask to stop, sent to different processes, once or twice: no row is left `running`, and no process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import pytest

from pyexperimenter import ExperimentStatus, PyExperimenter, ResultProcessor
from pyexperimenter.database.records import Attempt
from pyexperimenter.exceptions import MissingDatabaseError, TooManyErrorsError
from pyexperimenter.execution.stopping import InterruptingStop, stop_on
from pyexperimenter.execution.watch import OwnWatch
from tests.support.apart import command
from tests.support.study import credentials, experimenter, isolations, outcomes, store, study, wait_until, worker
from tests.support.target import A_FILE_AND_A_SERVER, Target

DATABASES = A_FILE_AND_A_SERVER

LONG, SHORT = 600, 0.5  # seconds of grace: never over in a test, or soon
NONE_LEFT = {"created": 6, "running": 0, "done": 0, "error": 0, "paused": 0}

# A server sees the same, whatever the signal is.
signals = pytest.mark.parametrize(
    ("target", "name"),
    [("sqlite", "SIGTERM"), ("sqlite", "SIGINT"), ("sqlite", "SIGUSR1"), ("mariadb", "SIGTERM")],
    indirect=["target"],
)
workers = pytest.mark.parametrize("n_jobs", [1, 2])
# A terminal's Ctrl-C goes to all its processes, a notebook's to the first.
addressees = pytest.mark.parametrize("whom", ["all", "first"])


# The functions that workers execute; they notify the test by files


def touch(custom: dict[str, Any], name: str) -> None:
    Path(custom["directory"], f"{name} {os.getpid()}").touch()


def hang(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    """Run for ever and ignore all signals."""
    results.process_results({"accuracy": 0.1})
    touch(custom, "started")
    while not results.stop_requested:
        time.sleep(0.01)
    touch(custom, "asked")
    time.sleep(600)


def pause(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> ExperimentStatus:
    results.process_results({"accuracy": 0.1})
    touch(custom, "started")
    while not results.stop_requested:
        time.sleep(0.01)
    results.process_results({"model": "half"})
    return ExperimentStatus.PAUSED


def finish(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, str]:
    pause(keyfields, results, custom)
    return {"model": "whole"}


def pass_by(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, float]:
    return {"accuracy": 0.2}


# Helpers of the tests


def configured(target: Target, directory: Path, n_jobs: int = 1, **execution: Any) -> dict[str, Any]:
    execution = {"heartbeat": 0.3, "lease": 60, "max_lost": 1, "journal": str(directory), **execution}
    return study(target, n_jobs=n_jobs, Custom={"directory": str(directory)}, Execution=execution)


def execute(function: Callable[..., Any], config: dict[str, Any], options: dict[str, Any]) -> None:
    """Execute the study in this process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started without
    study_ = PyExperimenter(config, log_level="ERROR", **options)
    custom = config["PY_EXPERIMENTER"]["Custom"]

    def execute_beside() -> None:
        wait_until(lambda: list(Path(custom["directory"]).glob("started *")))
        study_.execute(function)

    if "beside" in custom:
        threading.Thread(target=execute_beside).start()
    print("executed", study_.execute(function))


@contextmanager
def executing(
    target: Target, config: dict[str, Any], function: Callable[..., Any], count: int
) -> Iterator[subprocess.Popen[str]]:
    """Execute the study in a process with its own session; go on when so many executions have begun."""
    directory = Path(config["PY_EXPERIMENTER"]["Custom"]["directory"])
    options = credentials(target)
    process = subprocess.Popen(
        command(partial(execute, function, config, options)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            wait_until(lambda: len(list(directory.glob("started *"))) == count)
            yield process
        finally:
            for pid in [process.pid, *pids(directory)]:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)


def pids(directory: Path) -> list[int]:
    return [int(path.name.split()[1]) for path in directory.glob("started *")]


def send(process: subprocess.Popen[str], name: str, whom: str = "first") -> None:
    number = getattr(signal, name)
    if whom == "all":
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)


def end_is(process: subprocess.Popen[str], name: str) -> None:
    """Assert that a script ended as programs do that do not handle the signal."""
    stdout, stderr = process.communicate(timeout=60)
    if name == "SIGINT":
        assert process.returncode == -signal.SIGINT, stderr
        assert "KeyboardInterrupt" in stderr
    elif name == "SIGTERM":
        assert process.returncode == 128 + signal.SIGTERM, stderr
    else:
        assert process.returncode == 0, stderr
        assert stdout.startswith("executed ")


def nothing_runs(directory: Path) -> bool:
    def is_gone(pid: int) -> bool:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        return True

    return all(is_gone(pid) for pid in pids(directory))


def assert_all_is_released(target: Target, study_: PyExperimenter, directory: Path, count: int) -> None:
    assert study_.counts() == NONE_LEFT
    assert outcomes(target) == {"released": count}
    for (cause,) in target.query("SELECT error FROM study__attempts"):
        assert cause.startswith(("its worker was stopped", "its supervisor died"))
    emptied = "accuracy, model, start_date, name, machine, end_date, error"
    assert target.query(f"SELECT DISTINCT {emptied} FROM study") == [(None,) * 7]
    wait_until(lambda: nothing_runs(directory))


@workers
@isolations
@addressees
@signals
def test_a_signal_releases_what_does_not_end_within_its_grace(
    target: Target, tmp_path: Path, name: str, n_jobs: int, isolation: str, whom: str
) -> None:
    config = configured(target, tmp_path, n_jobs, isolation=isolation, grace=SHORT)
    study_ = experimenter(target, config)
    study_.fill_table_from_config()
    assert study_.counts() == NONE_LEFT
    with executing(target, config, hang, n_jobs) as process:
        assert (study_.counts()["running"], outcomes(target)) == (n_jobs, {None: n_jobs})
        send(process, name, whom)
        end_is(process, name)
        assert_all_is_released(target, study_, tmp_path, n_jobs)
    # Several workers without isolation are processes of joblib's, which ends them at once.
    if isolation == "process" or n_jobs == 1:
        assert len(list(tmp_path.glob("asked *"))) == n_jobs
    # A release is not a loss, of which one would be too many.
    assert study_.execute(pass_by, n_jobs=1) == 6
    assert study_.counts()["done"] == 6


@pytest.mark.parametrize(("isolation", "n_jobs"), [("process", 1), ("process", 2), ("none", 1)])
@pytest.mark.parametrize(
    ("name", "function", "status", "model"),
    [
        ("SIGTERM", pause, "paused", "half"),
        ("SIGINT", finish, "done", "whole"),
        ("SIGUSR1", pause, "paused", "half"),
    ],
)
def test_a_function_that_is_asked_to_stop_may_end_in_good_order(
    target: Target,
    tmp_path: Path,
    name: str,
    isolation: str,
    n_jobs: int,
    function: Callable[..., Any],
    status: str,
    model: str,
) -> None:
    config = configured(target, tmp_path, n_jobs, isolation=isolation, grace=LONG)
    study_ = experimenter(target, config)
    study_.fill_table_from_config()
    with executing(target, config, function, n_jobs) as process:
        assert (study_.counts()["running"], outcomes(target)) == (n_jobs, {None: n_jobs})
        send(process, name)
        end_is(process, name)
        wait_until(lambda: nothing_runs(tmp_path))
    assert study_.counts() == {**NONE_LEFT, "created": 6 - n_jobs, status: n_jobs}
    assert outcomes(target) == {status: n_jobs}
    assert target.query("SELECT accuracy, model FROM study WHERE status = ?", status) == [(0.1, model)] * n_jobs


@signals
@pytest.mark.parametrize(("isolation", "n_jobs"), [("process", 1), ("process", 2), ("none", 1)])
def test_the_second_signal_stops_at_once(
    target: Target, tmp_path: Path, name: str, isolation: str, n_jobs: int
) -> None:
    config = configured(target, tmp_path, n_jobs, isolation=isolation, grace=LONG)
    study_ = experimenter(target, config)
    study_.fill_table_from_config()
    with executing(target, config, hang, n_jobs) as process:
        send(process, name)
        wait_until(lambda: len(list(tmp_path.glob("asked *"))) == n_jobs)
        assert (study_.counts()["running"], outcomes(target)) == (n_jobs, {None: n_jobs})
        send(process, name)
        end_is(process, name)
        assert_all_is_released(target, study_, tmp_path, n_jobs)


@workers
@isolations
def test_the_configuration_says_which_signals_stop(target: Target, tmp_path: Path, isolation: str, n_jobs: int) -> None:
    config = configured(target, tmp_path, n_jobs, isolation=isolation, grace=SHORT, signals=["SIGUSR2"])
    study_ = experimenter(target, config)
    study_.fill_table_from_config()
    with executing(target, config, hang, n_jobs) as process:
        send(process, "SIGUSR2")
        end_is(process, "SIGUSR2")
        assert_all_is_released(target, study_, tmp_path, n_jobs)


@workers
@isolations
@addressees
def test_ctrl_c_with_no_worker_to_stop_leaves_nothing_running(
    target: Target, tmp_path: Path, isolation: str, n_jobs: int, whom: str
) -> None:
    config = configured(target, tmp_path, n_jobs, isolation=isolation, grace=LONG, signals=["SIGUSR2"])
    study_ = experimenter(target, config)
    study_.fill_table_from_config()
    with executing(target, config, hang, n_jobs) as process:
        send(process, "SIGINT", whom)
        end_is(process, "SIGINT")
        assert_all_is_released(target, study_, tmp_path, n_jobs)
    assert not list(tmp_path.glob("asked *"))


@workers
def test_a_signal_to_the_supervisor_makes_workers_give_back_rows(target: Target, tmp_path: Path, n_jobs: int) -> None:
    config = configured(target, tmp_path, n_jobs, isolation="process", signals=["SIGUSR2"])
    study_ = experimenter(target, config)
    study_.fill_table_from_config()
    with executing(target, config, hang, n_jobs) as process:
        send(process, "SIGTERM", "all")
        assert process.wait(60) == -signal.SIGTERM
        wait_until(lambda: nothing_runs(tmp_path))
        assert_all_is_released(target, study_, tmp_path, n_jobs)


@signals
@isolations
def test_a_worker_that_waits_for_the_dead_stops_too(target: Target, tmp_path: Path, name: str, isolation: str) -> None:
    # It would wait for longer than this test may take.
    config = configured(target, tmp_path, isolation=isolation, heartbeat=500, lease=1000, grace=LONG)
    opened = store(target)
    dead = opened.claim(worker())
    assert dead is not None
    target.query("UPDATE study__attempts SET lease_until = '2001-01-01 00:00:00'")
    study_ = experimenter(target, config)
    with executing(target, config, pass_by, 0) as process:
        wait_until(lambda: study_.counts()["done"] == 5)
        assert process.poll() is None
        send(process, name)
        end_is(process, name)
    assert study_.counts() == {**NONE_LEFT, "created": 0, "running": 1, "done": 5}
    assert outcomes(target) == {None: 1, "done": 5}


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)]


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """Signals that the user's own handlers received."""
    came: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        came.append(number)

    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.signal(number, hear) for number in numbers}
    yield came
    for number, handler in before.items():
        signal.signal(number, handler)


@isolations
@pytest.mark.parametrize("way", ["done", "error", "no table"])
def test_the_handlers_that_were_there_are_there_again(
    sqlite_target: Target, tmp_path: Path, heard: list[int], isolation: str, way: str
) -> None:
    named = ["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR1"]  # one of them twice
    config = configured(sqlite_target, tmp_path, isolation=isolation, stop_after_errors=1, signals=named)
    study_ = experimenter(sqlite_target, config)
    before = handlers()
    if way == "no table":
        with pytest.raises(MissingDatabaseError, match="there is no"):
            study_.execute(pass_by)
    else:
        study_.fill_table_from_config()
        if way == "done":
            assert study_.execute(pass_by) == 6
        else:
            with pytest.raises(TooManyErrorsError, match="stopped after 1 error,"):
                study_.execute(lambda *_: 1 / 0)
    assert handlers() == before
    assert heard == []


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_the_users_handler_is_called_when_the_workers_have_stopped(
    target: Target, tmp_path: Path, heard: list[int], name: str
) -> None:
    study_ = experimenter(target, configured(target, tmp_path, isolation="none", grace=LONG))
    study_.fill_table_from_config()
    before = handlers()

    def function(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
        assert handlers() != before
        os.kill(os.getpid(), getattr(signal, name))
        wait_until(lambda: results.stop_requested)
        assert heard == []

    assert study_.execute(function) == 1
    assert heard == [getattr(signal, name)]
    assert handlers() == before
    assert (study_.counts()["done"], study_.counts()["created"]) == (1, 5)


def test_an_interrupt_between_claim_and_call_gives_the_row_back(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupted(watch: OwnWatch, attempt: Attempt) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(OwnWatch, "claimed", interrupted)
    config = configured(target, tmp_path, isolation="none")
    study_ = PyExperimenter(config, **credentials(target), logger_name="interrupted", log_level="WARNING")
    study_.fill_table_from_config()
    with pytest.raises(KeyboardInterrupt):
        study_.execute(pass_by)
    assert_all_is_released(target, study_, tmp_path, 1)
    cause = "its worker was stopped by KeyboardInterrupt"
    assert [record.getMessage() for record in caplog.records] == ["experiment 1 was released: " + cause]


@workers
@isolations
def test_execute_works_in_a_thread(target: Target, tmp_path: Path, isolation: str, n_jobs: int) -> None:
    study_ = experimenter(target, configured(target, tmp_path, n_jobs, isolation=isolation))
    study_.fill_table_from_config()
    before = handlers()
    executed: list[int] = []
    thread = threading.Thread(target=lambda: executed.append(study_.execute(pass_by)))
    thread.start()
    thread.join(60)
    assert executed == [6]
    assert (study_.counts()["done"], outcomes(target)) == (6, {"done": 6})
    assert handlers() == before


def test_execution_in_a_thread_other_than_main_is_stopped_too(target: Target, tmp_path: Path) -> None:
    config = configured(target, tmp_path, isolation="process", grace=LONG)
    study_ = experimenter(target, config)
    study_.fill_table_from_config()
    config["PY_EXPERIMENTER"]["Custom"]["beside"] = True
    with executing(target, config, pause, 2) as process:
        assert (study_.counts()["running"], outcomes(target)) == (2, {None: 2})
        send(process, "SIGTERM")
        end_is(process, "SIGTERM")
        wait_until(lambda: nothing_runs(tmp_path))
    assert study_.counts() == {**NONE_LEFT, "created": 4, "paused": 2}
    assert outcomes(target) == {"paused": 2}


def test_a_block_that_a_signal_interrupts_ends_by_that_signal() -> None:
    with pytest.raises(SystemExit) as caught, stop_on(["SIGTERM"], InterruptingStop(LONG)):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


FORKING = """
import os, signal

def blocked():
    return signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])

during = []
os.register_at_fork(before=lambda: during.append(blocked()))  # called after those that are registered later
from pyexperimenter.execution.stopping import Stop, stop_on

with stop_on(["SIGTERM"], Stop()):
    if not (child := os.fork()):
        os._exit(blocked())
    assert during == [True]
    assert not blocked()
    assert os.waitpid(child, 0)[1] == 0
"""


def test_signals_are_blocked_during_a_fork_only() -> None:
    subprocess.run([sys.executable, "-c", FORKING], check=True)


FORKED = """
import os, signal
from pyexperimenter.execution.stopping import Stop, stop_on

with stop_on(["SIGTERM"], Stop()) as stop:
    if not (child := os.fork()):
        with stop_on(["SIGTERM"], Stop()) as own:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(own is stop or not own.requested)
    assert os.waitpid(child, 0)[1] == 0
    assert not stop.requested
"""


def test_workers_of_a_process_that_a_worker_forks_can_be_stopped() -> None:
    subprocess.run([sys.executable, "-c", FORKED], check=True)
