"""Asking workers to stop: by a signal, once to let what runs come to its end, twice to stop at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_TICK = 0.1  # seconds between two looks while waiting


class Stop:
    """Whether, when and how urgently a process was asked to stop.

    Attributes
    ----------
    signal : int or None
        Number of the signal that asked first; None if none did.
    urgent : bool
        Whether to stop at once.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.urgent = False
        self._since: float | None = None
        self._announced = threading.Lock()

    @property
    def requested(self) -> bool:
        """Whether somebody asked."""
        return self._since is not None

    @property
    def seconds_ago(self) -> float:
        """How long ago somebody asked."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    @property
    def is_notice(self) -> bool:
        """Whether the signal is one that ends nothing by itself."""
        return self.signal in _NOTICES

    def wait(self, seconds: float) -> bool:
        """Wait until somebody asks, so many seconds at most; return whether somebody did."""
        # Without an Event: setting it in a signal handler could wait for a lock of the very code that was interrupted.
        deadline = time.monotonic() + seconds
        while not self.requested and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, _TICK))
        return self.requested

    def request(self, urgent: bool = False) -> None:
        """Ask."""
        if self._since is None:
            self._since = time.monotonic()
        self.urgent = self.urgent or urgent

    def announce(self) -> bool:
        """Return True the first time, for the one who is to tell the user."""
        return self._announced.acquire(blocking=False)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal; the second one is urgent."""
        self.signal = self.signal or number
        self.request(urgent=self.requested)

    def cancel(self) -> None:
        """Do nothing more by itself."""


class InterruptingStop(Stop):
    """A stop of experiments that run in this thread: when it is urgent, or `grace` seconds are over, it interrupts."""

    def __init__(self, grace: float) -> None:
        super().__init__()
        self._grace = grace
        self._timer: threading.Timer | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal; raise KeyboardInterrupt if it is not the first."""
        super().handle(number, frame)
        if self.urgent:
            self.cancel()
            raise KeyboardInterrupt(f"stopped by {signal.Signals(number).name}")
        # No logging here: the signal may have come in the middle of a message.
        os.write(2, f"stopping: the experiment has {self._grace:g} s to end; ask again to stop at once\n".encode())
        self._timer = threading.Timer(self._grace, signal.pthread_kill, [threading.get_ident(), number])
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """Interrupt no more."""
        if self._timer is not None:
            self._timer.cancel()


_active: Stop | None = None
_previous: dict[int, Any] = {}  # what handled the signals before that are listened to now


def active_stop() -> Stop:
    """Return what this process's signals are told to; one that nobody tells anything, if they are not listened to."""
    return _active or Stop()


def listen(signals: Sequence[str], stop: Stop) -> dict[int, Any]:
    """Let signals ask for a stop from now on; return what handled them before."""
    for name in dict.fromkeys(signals):
        with suppress(AttributeError, ValueError, OSError):  # Windows has few of them
            number = getattr(signal, name)
            _previous[number] = signal.signal(number, stop.handle)
    return dict(_previous)


def _restore() -> None:
    for number, handler in _previous.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
    _previous.clear()


# Processes that an experiment forks, as multiprocessing does, are no workers: signals have their usual effect there.
# One that comes in the very moment of the fork would be lost if it were not held back until that is so.


def _hold_signals() -> None:
    if _previous:
        signal.pthread_sigmask(signal.SIG_BLOCK, _previous)


def _let_signals_go() -> None:
    if _previous:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _previous)


def _restore_in_fork() -> None:
    held = list(_previous)
    _restore()
    if held:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, held)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_signals, after_in_parent=_let_signals_go, after_in_child=_restore_in_fork)


@contextmanager
def stop_on(signals: Sequence[str], stop: Stop) -> Iterator[Stop]:
    """Let signals ask for a stop while the block runs, and then have the effect that is theirs otherwise.

    Only the main thread can listen to signals; in others, and within another such block, what listens already is
    given.

    Parameters
    ----------
    signals : sequence of str
        Names of signals.
    stop : Stop
        Who is asked.

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
    if handler is signal.default_int_handler:
        raise KeyboardInterrupt
    if callable(handler):
        handler(number, None)
    elif handler != signal.SIG_IGN and number not in _NOTICES:
        raise SystemExit(128 + number)


_NOTICES = {getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)}
