"""Stopping workers by signals: the first lets running experiments finish, the second stops at once."""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from pyexperimenter.machine.system import at_fork, existing_signals, signal_thread

_TICK = 0.1  # seconds between two checks while waiting


class Stop:
    """Whether, when and how urgently a process was asked to stop.

    Attributes
    ----------
    signal : int or None
        Number of the first signal; None if no signal came.
    urgent : bool
        Whether to stop at once, without grace.
    interrupted : bool
        Whether a signal has raised KeyboardInterrupt, which user code may also raise by itself.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.urgent = False
        self.interrupted = False
        self._since: float | None = None
        self._announced = threading.Lock()

    @property
    def requested(self) -> bool:
        """Whether a stop was requested."""
        return self._since is not None

    @property
    def seconds_ago(self) -> float:
        """How long ago the stop was requested."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    @property
    def is_notice(self) -> bool:
        """Whether the signal is a notice, which does not end the process by itself."""
        return self.signal in _NOTICES

    @property
    def cause(self) -> str:
        """What is recorded of executions that are released because of it."""
        return f"its worker was stopped{f' by {signal.Signals(self.signal).name}' if self.signal else ''}"

    def wait(self, seconds: float) -> bool:
        """Wait at most so many seconds for a request; return whether there was one."""
        # No Event: setting it in a signal handler could deadlock on a lock that the interrupted code holds.
        deadline = time.monotonic() + seconds
        while not self.requested and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, _TICK))
        return self.requested

    def request(self, urgent: bool = False) -> None:
        """Request a stop."""
        if self._since is None:
            self._since = time.monotonic()
        self.urgent = self.urgent or urgent

    def announce(self) -> bool:
        """Return True the first time: that caller should notify the user."""
        return self._announced.acquire(blocking=False)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal; the second one is urgent."""
        self.signal = self.signal or number
        self.request(urgent=self.requested)

    def interrupt(self, number: int, frame: FrameType | None = None) -> NoReturn:
        """Raise KeyboardInterrupt because of a signal."""
        self.interrupted = True
        raise KeyboardInterrupt(f"stopped by {signal.Signals(number).name}")

    def cancel(self) -> None:
        """Cancel what would happen after the grace period."""


class InterruptingStop(Stop):
    """Stops an experiment in this thread: raises KeyboardInterrupt if urgent, or after `grace` seconds."""

    def __init__(self, grace: float) -> None:
        super().__init__()
        self._grace = grace
        self._timer: threading.Timer | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal; raise KeyboardInterrupt if it is not the first."""
        super().handle(number, frame)
        if self.urgent:
            self.cancel()
            self.interrupt(number)
        # No logging here: the signal may have interrupted the logging of a message.
        message = f"stopping: the experiment has {self._grace:g} s to finish; repeat the signal to stop at once\n"
        os.write(2, message.encode())
        self._timer = threading.Timer(self._grace, signal_thread, [threading.get_ident(), number])
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """Cancel the interruption after the grace period."""
        if self._timer is not None:
            self._timer.cancel()


_active: Stop | None = None
_previous: dict[int, Any] = {}  # handlers of the signals, from before we handled them


def active_stop() -> Stop:
    """Return the stop that this process's signals request; one that is never requested if there is none."""
    return _active or Stop()


def listen(signals: Sequence[str], stop: Stop) -> dict[int, Any]:
    """Let signals request a stop from now on; return their previous handlers."""
    for number in existing_signals(*signals):
        _previous[number] = signal.signal(number, _unless_simulated(stop.handle))
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        _previous[signal.SIGINT] = signal.signal(signal.SIGINT, _unless_simulated(stop.interrupt))
    return dict(_previous)


_Handler = Callable[[int, FrameType | None], object]
_interrupt_main = _thread.interrupt_main
_simulated: list[int] = []  # signals that have not come, but whose handlers are about to be called


def tell_interrupts_apart() -> None:
    """Make a call of `interrupt_main`, by which libraries stop their own work, differ from a signal from now on."""

    def interrupt_main(signum: signal.Signals = signal.SIGINT, /) -> None:
        if signum in _previous:
            _simulated.append(signum)
        _interrupt_main(signum)

    _thread.interrupt_main = interrupt_main


def _unless_simulated(handle: _Handler) -> _Handler:
    def handler(number: int, frame: FrameType | None) -> None:
        if number in _simulated:
            _simulated.remove(number)
            raise KeyboardInterrupt
        handle(number, frame)

    return handler


def _restore() -> None:
    for number, handler in _previous.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
    _previous.clear()


# Processes that an experiment forks, as multiprocessing does, are not workers: signals have their usual effect there.
# Signals are blocked during the fork, as one that arrived before the handlers are restored would be lost.


def _block_signals() -> None:
    if _previous:
        signal.pthread_sigmask(signal.SIG_BLOCK, _previous)


def _unblock_signals() -> None:
    if _previous:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _previous)


def _restore_in_child() -> None:
    global _active  # noqa: PLW0603
    blocked = list(_previous)
    _restore()
    _active = None  # so that workers of its own can be stopped
    if blocked:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)


at_fork(before=_block_signals, after_in_parent=_unblock_signals, after_in_child=_restore_in_child)


@contextmanager
def stop_on(signals: Sequence[str], stop: Stop) -> Iterator[Stop]:
    """Let signals request a stop while the block runs; afterwards the signal that came has its usual effect.

    Only the main thread can handle signals. In other threads, and within another such block, the active stop is
    yielded.

    Parameters
    ----------
    signals : sequence of str
        Names of signals.
    stop : Stop
        What they request.

    Raises
    ------
    KeyboardInterrupt
        After a SIGINT.
    SystemExit
        After another signal that would have ended the process, except SIGUSR1 and SIGUSR2, which are notices.
    """
    global _active  # noqa: PLW0603 - signals belong to a process
    if threading.current_thread() is not threading.main_thread() or _active is not None:
        yield active_stop()
        return
    _active = stop
    tell_interrupts_apart()
    previous = listen(signals, stop)
    try:
        try:
            yield stop
        finally:
            stop.cancel()
            _restore()
            _active = None
    except KeyboardInterrupt:
        if stop.signal is not None:
            _deliver(stop.signal, previous[stop.signal])
        raise
    if stop.signal is not None:
        _deliver(stop.signal, previous[stop.signal])


def _deliver(number: int, handler: Callable[[int, FrameType | None], Any] | int | None) -> None:
    if callable(handler):
        handler(number, None)
    elif handler != signal.SIG_IGN and number not in _NOTICES:
        raise SystemExit(128 + number)


_NOTICES = existing_signals("SIGUSR1", "SIGUSR2")
