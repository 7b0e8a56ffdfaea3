"""What the first signal does, what the second, and what is left of it all when the block has ended."""

from __future__ import annotations

import _thread
import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pyexperimenter.execution import stopping
from pyexperimenter.execution.stopping import InterruptingStop, Stop, active_stop, stop_on
from tests.support.study import wait_until

GRACE = 600


@pytest.fixture(autouse=True)
def usual_handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Those of a fresh Python, which processes of pytest-xdist are not."""
    monkeypatch.setattr(_thread, "interrupt_main", stopping._interrupt_main)
    usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGUSR1: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    assert {number: signal.getsignal(number) for number in usual} == usual
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_wait_ends_in_time_or_with_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [1000.0], []
    stop = Stop()

    def sleep(seconds: float) -> None:
        assert seconds > 0
        slept.append(round(seconds, 9))
        now[0] += seconds
        if len(slept) == 5:
            stop.request()

    monkeypatch.setattr(stopping, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    assert not stop.wait(0.25)
    assert slept == [0.1, 0.1, 0.05]
    assert stop.wait(1)
    assert slept[3:] == [0.1, 0.1]
    assert stop.wait(1) and len(slept) == 5
    assert (stop.seconds_ago, Stop().seconds_ago) == (0, 0)
    now[0] += 3
    stop.request()
    assert (stop.seconds_ago, stop.urgent) == (3, False)
    assert stop.announce() and not stop.announce()


def test_the_first_signal_starts_the_grace_and_the_second_interrupts(capfd: pytest.CaptureFixture[str]) -> None:
    with stop_on(["SIGUSR1"], InterruptingStop(GRACE)) as stop:
        assert isinstance(stop, InterruptingStop)
        assert (stop.requested, stop.urgent, stop.interrupted, stop.signal) == (False, False, False, None)
        signal.raise_signal(signal.SIGUSR1)
        assert (stop.requested, stop.urgent, stop.interrupted, stop.signal) == (True, False, False, signal.SIGUSR1)
        assert stop._timer is not None
        assert not stop._timer.finished.is_set()
        assert stop._timer.daemon, "after a signal at the last moment, the process still ends"
        with pytest.raises(KeyboardInterrupt, match="stopped by SIGUSR1"):
            signal.raise_signal(signal.SIGUSR1)
        assert stop.urgent and stop.interrupted
        assert stop._timer.finished.is_set(), "user code that cleans up is interrupted once"
    expected = "stopping: the experiment has 600 s to finish; repeat the signal to stop at once\n"
    assert capfd.readouterr().err == expected


def test_no_interrupt_comes_after_the_block() -> None:
    with stop_on(["SIGUSR1"], InterruptingStop(GRACE)) as stop:
        signal.raise_signal(signal.SIGUSR1)
    assert isinstance(stop, InterruptingStop) and stop._timer is not None
    assert stop._timer.finished.is_set()


def test_when_its_grace_has_passed_an_experiment_is_interrupted() -> None:
    with stop_on(["SIGUSR1"], InterruptingStop(0)), pytest.raises(KeyboardInterrupt, match="stopped by SIGUSR1"):
        signal.raise_signal(signal.SIGUSR1)
        wait_until(lambda: False)


def test_libraries_that_interrupt_the_main_thread_request_no_stop() -> None:
    with pytest.raises(KeyboardInterrupt), stop_on(["SIGINT"], Stop()) as stop:
        with stop_on(["SIGINT"], Stop()) as inner:
            assert inner is stop is active_stop()
        with pytest.raises(KeyboardInterrupt):
            _thread.interrupt_main()
        assert not stop.requested
        signal.raise_signal(signal.SIGINT)
    assert stop.requested, "and now the signal itself has come, whose usual effect follows the block"
    assert active_stop() is not stop
    with pytest.raises(KeyboardInterrupt):
        _thread.interrupt_main()
    with pytest.raises(KeyboardInterrupt), stop_on(["SIGINT"], Stop()) as later:
        signal.raise_signal(signal.SIGINT)
    assert later.requested, "it is not taken for the interrupt of before"


@pytest.mark.parametrize(("number", "is_notice"), [(signal.SIGTERM, False), (signal.SIGUSR1, True)])
def test_a_notice_does_not_end_the_process(number: int, is_notice: bool) -> None:
    stop = Stop()
    stop.handle(number, None)
    assert stop.is_notice is is_notice


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # of pytest-xdist's threads
def test_signals_have_their_usual_effect_in_a_process_that_is_forked() -> None:
    with stop_on(["SIGUSR1"], Stop()) as stop:
        if not (child := os.fork()):
            signal.raise_signal(signal.SIGUSR1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGUSR1
    assert not stop.requested
