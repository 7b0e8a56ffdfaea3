"""Private servers: throw-away, each in its own directory, stopped with the process that started it."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

START_SECONDS = 60  # generous: a busy CI machine needs long, and a server that fails ends the wait at once
STOP_SECONDS = 30


class ServerUnavailable(Exception):
    """The server is not available here; the message says why and what to do."""


class Throwaway:
    """Keeps its files in its own directory, `home`, and is closed when this process ends."""

    def __init__(self, name: str) -> None:
        self.home = Path(tempfile.mkdtemp(prefix=f"pe-{name}-"))
        self._owner = os.getpid()
        atexit.register(self.close)

    def stop(self) -> None:
        """End its processes, if it has any."""

    def close(self) -> None:
        """Stop it and remove its files."""
        if os.getpid() == self._owner:  # a forked child inherits atexit's list, but not the server
            self.stop()
            shutil.rmtree(self.home, ignore_errors=True)
            atexit.unregister(self.close)


class PrivateServer(Throwaway):
    """A server on a free port, which is a child of this process.

    Start it in the main thread: Linux takes the end of the thread that started a child for the end of the parent.
    """

    brand: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    not_ready: ClassVar[type[Exception]] = OSError  # what `probe` raises until the server answers
    host = "127.0.0.1"

    def __init__(self) -> None:
        super().__init__(self.brand)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @functools.cache
    def template(cls) -> Path:
        """Return a data directory, created once in this process: copying one is several times faster."""
        home = Throwaway(f"{cls.brand}-template").home
        cls.initialize(home)
        return home / "data"

    @classmethod
    def initialize(cls, home: Path) -> None:
        """Create the data directory `home/data`."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """Return the command line that starts it."""
        raise NotImplementedError

    def process_options(self) -> dict[str, Any]:
        """Return options of subprocess, such as the user that runs it."""
        return {}

    def probe(self) -> None:
        """Connect to it."""
        socket.create_connection((self.host, self.port), timeout=5).close()

    def start(self) -> None:
        """Start it on the data it had before, and return when it answers."""
        if self._process is not None:
            raise RuntimeError(f"{self} is running already")
        command = self.command()
        self._process = launch(command, self.home / "log", **self.process_options())
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.probe()
                return
            except self.not_ready as error:
                exit_code = self._process.poll()
                if exit_code is None and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                self.kill()
                what = f"does not answer: {error}" if exit_code is None else f"ended with exit code {exit_code}"
                raise ServerUnavailable(f"{command[0]} {what}; {self._last_error()}") from error

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """Shut it down cleanly; does nothing if it is not running."""
        if self._process is not None:
            self._process.send_signal(self.stop_signal)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
            self.kill()

    def kill(self) -> None:
        """Kill it, as a crash would; ``start()`` recovers what was committed."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _last_error(self) -> str:
        lines = (self.home / "log").read_text(errors="replace").splitlines()
        errors = [line for line in lines if "[ERROR]" in line] or lines
        return errors[-1] if errors else "it wrote no log"


def launch(command: Sequence[str], log: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start a program that appends what it prints to a log."""
    # setpriv: if this process is killed, so that neither a fixture nor atexit runs, the kernel kills the program.
    guard = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    with log.open("ab") as out:
        return subprocess.Popen([*guard, *command], stdin=subprocess.DEVNULL, stdout=out, stderr=out, **options)


def run(*command: str, **options: Any) -> None:
    """Run a program that prepares a server."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,
    )
    if done.returncode != 0:
        raise ServerUnavailable(f"{command[0]} failed: {' '.join(done.stdout.split())[:300]}")


def find_program(
    program: str, packages: str, folders: Sequence[str] = ("/usr/sbin",), variable: str | None = None
) -> str:
    """Look on PATH and in `folders`, or only in those that an environment variable lists."""
    listed = os.environ.get(variable) if variable else None
    search = os.pathsep.join([os.environ.get("PATH", ""), *folders]) if listed is None else listed
    found = shutil.which(program, path=search)
    if found is None:
        places = " or ".join(["on PATH", *(f"in {folder}" for folder in folders)])
        remedy = f"apt-get install {packages}"
        if variable:
            remedy += f", or list the folders that have it in {variable}"
        raise ServerUnavailable(
            f"there is no {program} {places if listed is None else f'in {variable}={listed}'}; {remedy}"
        )
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
