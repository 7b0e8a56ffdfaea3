"""Makes this Python look to the library as it does on Windows or macOS. Python imports it at its start.

What those systems lack is hidden from `pyexperimenter` only: the standard library and other packages, which choose by
`sys.platform`, find all of it. PYEXPERIMENTER_TEST_SYSTEM is the `sys.platform` of the other system. What Windows has
instead, the parts of `msvcrt` and `_winapi` that the library uses, does here what their documentation says.
"""

from __future__ import annotations

import builtins
import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from types import ModuleType
from typing import Any

_SYSTEM = os.environ.get("PYEXPERIMENTER_TEST_SYSTEM")

_MODULES = {"win32": {"fcntl", "grp", "pwd", "resource", "termios"}, "darwin": {"msvcrt", "_winapi"}}
_ATTRIBUTES = {
    "win32": {
        "os": """
            environb fchdir fchmod chown fork forkpty getegid geteuid getgid getloadavg getpgid getpgrp getuid killpg
            mkfifo pidfd_open pread pwrite register_at_fork sched_getaffinity set_blocking setpgid setsid uname
            wait wait3 wait4 waitid O_DIRECTORY O_NOFOLLOW O_PATH P_ALL P_PID WEXITED WNOHANG WNOWAIT WSTOPPED
            """,
        "signal": """
            SIGALRM SIGBUS SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 SIGXCPU
            SIGXFSZ ITIMER_REAL SIG_BLOCK SIG_UNBLOCK alarm getitimer pause pthread_kill pthread_sigmask setitimer
            """,
        "select": "poll epoll kqueue",
        "socket": "AF_UNIX",
        "faulthandler": "register unregister",
    },
    # There, Python has waitid since 3.13.
    "darwin": {"os": "pidfd_open sched_getaffinity waitid O_PATH", "select": "epoll"},
}


class _Hidden(ModuleType):
    """A module without some of its attributes."""

    def __init__(self, module: ModuleType, hidden: set[str], instead: dict[str, Any]) -> None:
        super().__init__(module.__name__)
        kept = {name: value for name, value in vars(module).items() if name not in hidden}
        self.__dict__.update({**kept, **instead})


class _Popen(subprocess.Popen):  # type: ignore[type-arg]
    def __init__(self, *arguments: Any, pass_fds: Any = (), preexec_fn: Any = None, **options: Any) -> None:
        if pass_fds or preexec_fn:
            raise ValueError("not supported on Windows platforms")
        options.pop("start_new_session", None)  # without effect there
        super().__init__(*arguments, **options)


def _no_library(name: str | None, *_: Any, **__: Any) -> Any:
    raise FileNotFoundError(name) if name else TypeError("LoadLibrary() argument 1 must be str, not None")


def _open(path: Any, *arguments: Any, **options: Any) -> int:
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return os.open(path, *arguments, **options)


def _locking(descriptor: int, mode: int, _: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN if mode == 0 else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PermissionError(13, "Permission denied") from error


def _peek(pipe: int, _: int) -> tuple[int, int]:
    found = fcntl.ioctl(pipe, termios.FIONREAD, struct.pack("i", 0))
    (size,) = struct.unpack("i", found)
    look = select.poll()
    look.register(pipe, 0)
    if not size and look.poll(0):
        raise BrokenPipeError(109, "The pipe has been ended")
    return size, 0


_INSTEAD: dict[str, dict[str, Any]] = {
    "os": {"open": _open, "supports_bytes_environ": False},
    "signal": {"raise_signal": lambda number: os.kill(os.getpid(), number)},  # there, it interrupts the main thread
    "subprocess": {"Popen": _Popen},
    "ctypes": {"CDLL": _no_library},
    "msvcrt": {"LK_UNLCK": 0, "LK_NBLCK": 2, "locking": _locking, "get_osfhandle": int},
    "_winapi": {"PeekNamedPipe": _peek},
}
_import = builtins.__import__
_made: dict[str, ModuleType] = {}


def _import_less(name: str, globals: Any = None, *rest: Any, **options: Any) -> ModuleType:
    if not str((globals or {}).get("__name__")).startswith("pyexperimenter"):
        return _import(name, globals, *rest, **options)
    if name in _MODULES[str(_SYSTEM)]:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)
    if name not in _made:
        instead = _INSTEAD.get(name, {}) if _SYSTEM == "win32" else {}
        hidden = set(_ATTRIBUTES[str(_SYSTEM)].get(name, "").split())
        if not (instead or hidden):
            return _import(name, globals, *rest, **options)
        module = ModuleType(name) if name in ("msvcrt", "_winapi") else _import(name)
        _made[name] = _Hidden(module, hidden, instead)
    return _made[name]


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse the library what those systems would refuse: /proc, and on Windows to replace a file that is open."""
    if event in ("open", "os.listdir", "os.scandir"):
        if str(arguments[0]).startswith("/proc") and _is_by_library():
            raise FileNotFoundError(2, "No such file or directory", str(arguments[0]))
    elif event in ("os.remove", "os.rename") and _SYSTEM == "win32" and _is_by_library():
        for path in arguments[:2]:
            if isinstance(path, (str, os.PathLike)) and _is_open(path):
                raise PermissionError(13, "The file is being used by another process", str(path))


def _is_by_library() -> bool:
    frame = sys._getframe(2)
    while frame is not None:
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package in ("pyexperimenter", "psutil", __name__):
            return package == "pyexperimenter"
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _is_open(path: Any) -> bool:
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.path.samefile(f"/proc/self/fd/{number}", path):
                return True
    return False


if _SYSTEM:
    builtins.__import__ = _import_less
    sys.addaudithook(_refuse)
