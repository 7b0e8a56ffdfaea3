"""Functions that cannot be sent to another process, are not found there, or break their own process."""

from __future__ import annotations

import functools
import importlib
import os
import re
import signal
import stat
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from pyexperimenter import ResultProcessor
from pyexperimenter.exceptions import ExecutionError, ExperimentFunctionError, FunctionNotPicklableError
from pyexperimenter.execution.function import check_function
from tests.support.study import experimenter, outcomes, statuses
from tests.support.supervision import await_note, configured, count_execution, doze, filled, note, row
from tests.support.target import A_FILE_AND_A_SERVER, Target

DATABASES = A_FILE_AND_A_SERVER


# Functions that cannot be sent to another process, or are not found there


def test_an_unpicklable_function_is_refused_before_any_claim(target: Target, tmp_path: Path) -> None:
    study_ = filled(target, tmp_path)
    lock = threading.Lock()

    def function(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
        with lock:
            pass

    message = (
        r"because of lock \(of type _thread.lock\), which function uses: .*cannot pickle '_thread.lock' object; "
        "create it inside the function, or set isolation: none"
    )
    with pytest.raises(FunctionNotPicklableError, match=message):
        study_.execute(function)
    assert statuses(target) == {"created": 6}
    assert outcomes(target) == {}
    here = experimenter(target, configured(target, tmp_path, execution={"isolation": "none"}))
    assert here.execute(function) == 6
    assert statuses(target) == outcomes(target) == {"done": 6}


def test_a_function_may_use_the_experimenter(target: Target, tmp_path: Path) -> None:
    study_ = filled(target, tmp_path)

    def function(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
        return {"accuracy": study_.counts()["running"], "model": repr(study_)}

    assert study_.execute(function, n_jobs=1) == 6
    assert study_.get_table()[["accuracy", "model"]].drop_duplicates().values.tolist() == [[1, repr(study_)]]
    assert "<Database" not in repr(study_)


def test_a_function_whose_module_the_worker_lacks_costs_no_row(
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


# Functions that cannot be called as experiments


class Study:
    async def __call__(self, keyfields: Any, results: Any, custom: Any) -> None: ...

    def method(self, keyfields: Any, results: Any, custom: Any) -> None: ...


async def asynchronous(keyfields: Any, results: Any, custom: Any) -> None: ...


async def asynchronous_generator(keyfields: Any, results: Any, custom: Any) -> Any:
    yield {}


def generator(keyfields: Any, results: Any, custom: Any) -> Any:
    yield {}


def two(keyfields: Any, results: Any) -> None: ...


def four(keyfields: Any, results: Any, custom: Any, more: Any) -> None: ...


def only_keywords(*, keyfields: Any, result_processor: Any, custom_fields: Any) -> None: ...


@functools.cache
def cached(keyfields: Any, results: Any, custom: Any) -> None: ...


@functools.wraps(four)
def wrapper(*arguments: Any) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("experiment.py:f", "'experiment.py:f' is not a function; import it, and pass it without quotes"),
        (None, "None is not a function; pass it without calling it"),
        ({"accuracy": 1}, "{'accuracy': 1} is not a function; pass it without calling it"),
        (asynchronous, "asynchronous is an async function, whose call executes nothing; write def asynchronous("),
        (functools.partial(asynchronous), "partial is an async function"),
        (Study(), "Study is an async function"),
        (asynchronous_generator, "asynchronous_generator is an async function"),
        (generator, "generator contains yield, so that its call executes nothing; write def generator("),
        (two, "two cannot be called with keyfields, result_processor, custom_fields: too many positional arguments; "),
        (four, "missing a required argument: 'more'; write def four(keyfields, result_processor, custom_fields)"),
        (lambda keyfields: None, "write def function(keyfields, result_processor, custom_fields)"),
        (only_keywords, "too many positional arguments; write def only_keywords("),
        (cached, "cached has a cache of functools, which needs arguments that are hashable; remove the decorator"),
    ],
)
def test_what_cannot_be_an_experiment_function_is_refused_before_any_claim(
    sqlite_target: Target, tmp_path: Path, function: Any, message: str
) -> None:
    study_ = filled(sqlite_target, tmp_path)
    calls = (
        lambda: study_.execute(function),
        lambda: study_.submit(function, cluster="local", folder=tmp_path),
        lambda: study_.add_experiment_and_execute({"t": 99}, function),
        lambda: study_.unpause_experiment(1, function),
        lambda: study_.debug(1, function),
    )
    for call in calls:
        with pytest.raises(ExperimentFunctionError, match=re.escape(message)):
            call()
    with pytest.raises(ExperimentFunctionError, match="write def two\\(result_processor\\)"):
        study_.attach(two, 1)
    assert statuses(sqlite_target) == {"created": 6}
    assert outcomes(sqlite_target) == {}


@pytest.mark.parametrize("function", [Study().method, functools.partial(four, more=1), wrapper, print, Mock()])
def test_other_callables_are_experiment_functions(function: Any) -> None:
    check_function(function)


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


def close_and_hang(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    print("the last words", flush=True)
    os.closerange(3, 256)
    note(custom, "closed")
    doze()


def test_a_function_that_closes_the_connection_to_its_supervisor_and_hangs(
    sqlite_target: Target, tmp_path: Path
) -> None:
    """The supervisor notices when it asks the process to stop, and does not wait until the grace period is over."""
    study_ = filled(sqlite_target, tmp_path, execution={"grace": "10m"})

    def stop() -> None:
        await_note(study_.config.custom, "closed")
        os.kill(os.getpid(), signal.SIGUSR1)

    notice = threading.Thread(target=stop)
    notice.start()
    assert study_.execute(close_and_hang) == 1
    notice.join()
    assert statuses(sqlite_target) == {"created": 5, "error": 1}
    cause = "its process closed the connection to its supervisor, or wrote to it, and was killed"
    assert row(sqlite_target, "t.error", 0) == (f"{cause}\nLast output:\nthe last words\n",)


def write_garbage_and_hang(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    """As code does that closes a file twice, and so writes to what has got its number."""
    if keyfields["seed"] == 1:
        for entry in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                if stat.S_ISSOCK(os.fstat(int(entry)).st_mode):
                    os.write(int(entry), custom["garbage"].encode("latin-1"))
        doze()


@pytest.mark.parametrize("garbage", ["some text\n", "1", "\0\0\0\3abc", "\0" * 20, "\x93pyexper" + "\0" * 8])
def test_a_function_that_writes_to_the_supervisor_is_written_off(
    sqlite_target: Target, tmp_path: Path, garbage: str
) -> None:
    study_ = filled(sqlite_target, tmp_path, rows=3, garbage=garbage)
    assert study_.execute(write_garbage_and_hang) == 3
    assert statuses(sqlite_target) == {"done": 2, "error": 1}
    cause = "its process closed the connection to its supervisor, or wrote to it, and was killed"
    assert row(sqlite_target, "t.error", 1) == (cause,)


def signal_itself(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)  # only the supervisor enforces the grace period
    assert results.stop_requested


def test_a_signal_to_the_process_of_a_worker_stops_only_that(target: Target, tmp_path: Path) -> None:
    """As SLURM sends it to all processes of a job."""
    study_ = filled(target, tmp_path)
    assert study_.execute(signal_itself) == 1
    assert statuses(target) == {"created": 5, "done": 1}


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
def test_a_function_that_closes_our_files_harms_no_other_row(
    target: Target, tmp_path: Path, how: str, writes: bool
) -> None:
    if writes and how == "close_standard_descriptors":
        pytest.skip("what the function opens next takes the numbers, and gets the prints")
    study_ = filled(target, tmp_path, how=how, writes=writes)
    assert statuses(target) == {"created": 6}
    assert study_.execute(one_closes) == 6
    assert row(target, "t.status", 1)[0] in ("done", "error")
    assert target.query("SELECT status, COUNT(*) FROM study WHERE seed <> 1 GROUP BY status") == [("done", 5)]
    ended = outcomes(target)
    assert ended.pop("released", 0) <= 1  # the next one, if it was claimed before the process ended
    assert sum(ended.values()) == 6
    assert (tmp_path / "executions of 1").read_text() == "x"
