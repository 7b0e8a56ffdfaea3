"""What a run may change in its process, put back before the next one."""

from __future__ import annotations

# What `signal` wraps: its getsignal is ten times as slow, as it makes enums.
import _signal  # type: ignore[import-not-found]
import functools
import logging
import operator
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from pyexperimenter.machine.system import existing_signals, file_of

_Undo = Callable[[], object]
_SIGNALS = existing_signals("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGPIPE")

_lock = threading.Lock()
_users = 0
_undo: list[_Undo] = []


@contextmanager
def restored() -> Iterator[None]:
    """Put back what the block changes: directory, environment, standard streams, loggers, signal handlers, alarm.

    Random states, imported modules and everything else stay as the block leaves them. While several threads are in such
    a block, all is put back at the end of the last one.
    """
    global _users  # noqa: PLW0603 - the surroundings belong to a process
    with _lock:
        if not _users:
            # What is buffered goes where the block has redirected it to; streams are opened on descriptors.
            outputs = [_flush, *map(_descriptor, (1, 2)), _streams()]
            _undo[:] = [_directory(), _environment(), *outputs, _loggers(), _signals()]
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                for undo in _undo:
                    undo()
                _undo.clear()


def _directory() -> _Undo:
    """Keep the directory itself, even if it is renamed or deleted."""
    try:
        if not hasattr(os, "fchdir"):
            return functools.partial(os.chdir, os.getcwd())
        # O_PATH needs no permission to list it.
        return _keep(os.open(".", os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY)), os.fchdir)
    except OSError:
        return _nothing


def _descriptor(number: int) -> _Undo:
    """Keep the file of stdout or stderr, which may be redirected below Python's streams."""
    try:
        return _keep(os.dup(number), lambda kept: os.dup2(kept, number))
    except OSError:
        return _nothing


def _keep(descriptor: int, put_back: Callable[[int], object]) -> _Undo:
    file = file_of(descriptor)

    def undo() -> None:
        if file_of(descriptor) == file:  # the function may have closed it, and opened another file with its number
            with suppress(OSError):
                put_back(descriptor)
            os.close(descriptor)

    return undo


def _environment() -> _Undo:
    # That of bytes, which Windows lacks, is several times as fast, and its dict is much faster to copy and to compare.
    variables: MutableMapping[Any, Any] = os.environb if os.supports_bytes_environ else os.environ
    stored = getattr(variables, "_data", variables)
    before = dict(stored)

    def undo() -> None:
        if stored == before:
            return
        after = dict(stored)
        for name in after.keys() - before.keys():
            del variables[name]
        for name, value in before.items():
            if after.get(name) != value:
                variables[name] = value

    return undo


def _streams() -> _Undo:
    before = {name: getattr(sys, name) for name in ("stdin", "stdout", "stderr")}

    def undo() -> None:
        for name, stream in before.items():
            setattr(sys, name, stream)
        for number, name in ((1, "stdout"), (2, "stderr")):
            stream = before[name]
            if stream is getattr(sys, f"__{name}__") and not _is_open(stream):
                own = open(number, "w", 1, stream.encoding, stream.errors, closefd=False)  # noqa: SIM115
                setattr(sys, name, own)
                setattr(sys, f"__{name}__", own)

    return undo


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # it may be anything, and closed
            stream.flush()


def _is_open(stream: TextIO | None) -> bool:
    """Return whether a standard stream can be written to; there may be none."""
    try:
        return stream is None or not stream.closed
    except ValueError:  # its buffer was detached
        return False


def _loggers() -> _Undo:
    disabled = logging.root.manager.disable
    loggers = _existing_loggers()
    # Copies, as the block may change the lists.
    before = [([*handlers], [*filters], *others) for handlers, filters, *others in map(_settings, loggers)]

    def undo() -> None:
        if logging.root.manager.disable != disabled:
            logging.disable(disabled)
        if [*map(_settings, loggers)] == before:  # as usual, and known by calls that are fast
            return
        for logger, settings in zip(loggers, before, strict=True):
            if _settings(logger) != settings:
                logger.handlers, logger.filters, logger.disabled, logger.propagate, level = settings
                logger.setLevel(level)

    return undo


def _existing_loggers() -> list[logging.Logger]:
    found = logging.root.manager.loggerDict.copy().values()
    return [logging.root, *(logger for logger in found if isinstance(logger, logging.Logger))]


_settings = operator.attrgetter("handlers", "filters", "disabled", "propagate", "level")


def _signals() -> _Undo:
    if threading.current_thread() is not threading.main_thread():
        return _nothing  # it can neither handle signals nor set handlers
    before = {number: _signal.getsignal(number) for number in _SIGNALS}
    no_alarm = hasattr(signal, "getitimer") and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)

    def undo() -> None:
        if no_alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            if handler is not None and _signal.getsignal(number) is not handler:
                signal.signal(number, handler)

    return undo


def _nothing() -> None:
    """Undo nothing."""
