"""The inside of a supervised worker's process: what it does on messages, and when its supervisor is gone."""

from __future__ import annotations

import faulthandler
import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import ModuleType, SimpleNamespace
from typing import Any

import cloudpickle
import pytest

from pyexperimenter.exceptions import ExecutionError
from pyexperimenter.execution.supervision import child
from pyexperimenter.execution.supervision.child import SupervisorWatch
from pyexperimenter.execution.supervision.messages import (
    Answer,
    MessageReader,
    Returned,
    StopRequest,
    TracebackRequest,
)
from pyexperimenter.execution.task import WorkerReport
from pyexperimenter.logger import LogSettings
from pyexperimenter.machine.processes import Printed


class Ended(BaseException):
    """The process would have ended."""


@pytest.fixture
def ends() -> Iterator[tuple[Connection, Connection]]:
    """The two ends of the connection: the supervisor's, and that of its worker."""
    supervisor, own = Pipe()
    yield supervisor, own
    supervisor.close()
    own.close()


def received(supervisor: Connection) -> list[Any]:
    return list(MessageReader().read(os.read(supervisor.fileno(), 100_000)))


def test_messages_of_the_supervisor_are_obeyed_and_its_end_releases_what_runs(
    ends: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    supervisor, own = ends
    done: list[object] = []
    monkeypatch.setattr(child, "end_own_tree", lambda: done.append("ended"))
    monkeypatch.setattr(
        child, "Worker", lambda *_: SimpleNamespace(release_all=lambda cause: done.append((cause, len(timers))))
    )
    timers: list[threading.Timer] = []

    class Timer(threading.Timer):
        def start(self) -> None:
            timers.append(self)

    monkeypatch.setattr(threading, "Timer", Timer)
    store = SimpleNamespace(hurry=lambda: done.append("hurry"))
    watch = SupervisorWatch(own, Printed([]))
    for message in (Answer("output"), TracebackRequest(), StopRequest()):
        supervisor.send(message)
    supervisor.close()
    over = threading.Event()
    other = threading.Thread(target=lambda: over.wait(60))
    other.start()
    watch._listen(SimpleNamespace(store=store), SimpleNamespace())  # type: ignore[arg-type]
    over.set()
    other.join()
    assert watch._answers.get_nowait() == "output"
    assert capfd.readouterr().err.count("hread 0x") >= 2, "the traceback of each thread"
    assert watch.stop.requested
    assert done == ["hurry", ("its supervisor died", 1), "ended"]
    (timer,) = timers
    assert (timer.interval, timer.daemon) == (10, True)
    timer.function()
    assert done[-2:] == ["ended", "ended"]


@pytest.mark.parametrize("gone", [False, True])
def test_a_task_that_cannot_be_loaded_is_reported(
    ends: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    """If nobody hears the report, what the task has started ends with this process."""
    supervisor, own = ends
    ended: list[bool] = []
    called: dict[str, Any] = {}
    monkeypatch.setattr(child, "end_own_tree", lambda: ended.append(True))
    for name in ("adopt_orphans", "tell_interrupts_apart"):
        monkeypatch.setattr(child, name, lambda name=name: called.update({name: True}))
    monkeypatch.setattr(faulthandler, "enable", lambda all_threads: called.update(enable=all_threads))
    monkeypatch.setattr(faulthandler, "register", lambda _, all_threads, chain: called.update(register=all_threads))
    supervisor.send_bytes(b"not a task")
    if gone:
        supervisor.close()
    child.main(own, [])
    # A crash is that of one thread. All of them may be what takes too long, and orphans must be found.
    assert called == {"adopt_orphans": True, "tell_interrupts_apart": True, "enable": False, "register": True}
    assert ended == [True] * gone
    if not gone:
        (report,) = received(supervisor)
        assert isinstance(report, WorkerReport)
        assert (report.executed, type(report.stopped_by)) == (0, ExecutionError)


def test_nothing_is_sent_to_what_is_not_the_supervisor(
    ends: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _, own = ends
    watch = SupervisorWatch(own, Printed([]))
    other = os.open(os.devnull, os.O_WRONLY)
    os.dup2(other, own.fileno())
    os.close(other)

    def end(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    with pytest.raises(Ended, match="1"):
        watch.send("message")
    assert capfd.readouterr().err == "the function closed the connection to the supervisor\n"


def test_what_was_printed_is_asked_for_once(ends: tuple[Connection, Connection]) -> None:
    supervisor, own = ends
    output, notice = os.pipe(), os.pipe()
    os.set_blocking(notice[0], False)
    try:
        watch = SupervisorWatch(own, Printed([output[0], notice[0]]))
        assert watch.returned() is None
        os.write(notice[1], b"x")  # as the supervisor does before it reads output
        watch._answers.put("printed")
        assert watch.returned() == "printed"
        assert watch.returned() is None
    finally:
        for descriptor in (*output, *notice):
            os.close(descriptor)
    assert received(supervisor) == [Returned(asks=False), Returned(asks=True), Returned(asks=False)]


def test_what_python_keeps_in_its_buffers_belongs_to_the_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(raw)))
        print(name, end=" ", file=getattr(sys, name))
    child._flush()
    assert raw.getvalue() == b"stdout stderr "


def test_log_messages_go_to_the_supervisor_only(
    ends: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor, own = ends
    monkeypatch.setattr(LogSettings, "name", "forwarded connections")
    settings = LogSettings("forwarded", logging.WARNING)
    loggers = [logging.getLogger(name) for name in (LogSettings.name, settings.name)]
    monkeypatch.setattr(warnings, "showwarning", lambda *_: None)
    child._forward_logs(settings, SupervisorWatch(own, Printed([])))
    for logger in loggers:
        logger.info("below the level")
        logger.warning("a warning")
    assert [(record.name, record.msg) for record in received(supervisor)] == [
        (logger.name, "a warning") for logger in loggers
    ]
    assert caplog.records == []


def test_pickle_finds_the_function_of_a_script_in_main(monkeypatch: pytest.MonkeyPatch) -> None:
    script: dict[str, Any] = {"__name__": "__main__"}
    exec("def function(keyfields, results, custom):\n    return LEFT\nLEFT = 7", script)
    function = cloudpickle.loads(cloudpickle.dumps(script["function"]))
    main = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    child._share_main(function)
    assert main.__dict__["function"] is function
    assert main.__dict__["LEFT"] == 7
