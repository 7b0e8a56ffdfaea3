"""A real, private SSH server for tests."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from pyexperimenter.config.model import SshConfig
from tests.support.study import wait_until

PASSPHRASE = "open sesame"


class SshServer:
    """A private sshd on loopback, and key files: `key` and `locked` are let in, `stranger` is not."""

    def __init__(self, home: Path) -> None:
        self._program = _sshd_program()
        self.home = home
        for name, passphrase in (("host", ""), ("key", ""), ("locked", PASSPHRASE), ("stranger", "")):
            make_key(home / name, passphrase)
        (home / "authorized").write_text("".join((home / f"{name}.pub").read_text() for name in ("key", "locked")))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    def config(self, key: str | None = "key", **changes: Any) -> SshConfig:
        named = {} if key is None else {"private_key": str(self.home / key)}
        return SshConfig(**{"address": "127.0.0.1", "port": self.port, **named, **changes})

    def start(self, *lines: str) -> None:
        """Start it, with these lines in its configuration."""
        home = self.home
        (home / "config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {home}/host\nAuthorizedKeysFile {home}/authorized\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\n" + "\n".join(lines)
        )
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)  # it refuses to start as root without
        with (home / "log").open("a") as log:
            # It must not outlive the tests.
            guard = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
            command = [*guard, self._program, "-D", "-e", "-f", str(home / "config")]
            self._process = process = subprocess.Popen(command, stderr=log, start_new_session=True)
        wait_until(lambda: process.poll() is not None or answers(self.port))
        assert process.poll() is None, (home / "log").read_text()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """Stop it with all the connections it has."""
        if self._process is None:
            return
        self.cut()
        self._process.terminate()
        self._process.wait(30)
        self._process = None

    def cut(self) -> None:
        """End the connections it has."""
        for session in _children(self.pid):
            for process in [*_children(session), session]:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    @property
    def logins(self) -> int:
        """How often somebody logged in."""
        return len(re.findall(r"^Accepted ", (self.home / "log").read_text(), re.M))


@contextmanager
def running(home: Path) -> Iterator[SshServer]:
    server = SshServer(home)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def make_key(path: Path, passphrase: str = "", kind: str = "ed25519") -> None:
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(path)]
    subprocess.run(command, check=True)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def _children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


@functools.cache
def _sshd_program() -> str:
    def find() -> str | None:
        return shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")

    if find() is None and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["update"], ["install", "-y", "--no-install-recommends", "openssh-server"]):
            quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            subprocess.run(["apt-get", "-qq", *command], env=quiet, stdout=subprocess.DEVNULL, check=False)
    program = find()
    if program is None:
        reason = "NOT TESTED: SSH tunnels, as there is no sshd here; apt-get install openssh-server"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return program
