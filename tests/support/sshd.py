"""A real, private SSH server for tests."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from pyexperimenter.config.model import SshConfig
from pyexperimenter.database.ssh import shared_tunnel
from tests.support.private_server import PrivateServer, ServerUnavailable, find_program

PASSPHRASE = "open sesame"
SOON_GONE = "-oControlPersist=1"  # instead of after 5 seconds without a user: the first value of an option holds


class SshServer(PrivateServer):
    """A private sshd on loopback, and key files: it accepts `key` and `locked`, but not `stranger`."""

    brand = "sshd"

    def __init__(self) -> None:
        self._program = _sshd_program()
        super().__init__()
        home = self.home
        for name, passphrase in (("host", ""), ("key", ""), ("locked", PASSPHRASE), ("stranger", "")):
            make_key(home / name, passphrase)
        (home / "authorized").write_text("".join((home / f"{name}.pub").read_text() for name in ("key", "locked")))

    def config(self, key: str | None = "key", **changes: Any) -> SshConfig:
        named = {} if key is None else {"private_key": str(self.home / key)}
        return SshConfig(**{"address": "127.0.0.1", "port": self.port, **named, **changes})

    def start(self, *lines: str, wrapper: Sequence[str] = ()) -> None:
        """Start it with these lines in its configuration; `wrapper` is a command that runs it."""
        home = self.home
        (home / "config").write_text(
            "\n".join(lines) + "\n"  # the first value of an option holds
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {home}/host\nAuthorizedKeysFile {home}/authorized\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\n"
        )
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)  # it refuses to start as root without
        self._wrapper = wrapper
        super().start()

    def command(self) -> list[str]:
        return [*self._wrapper, self._program, "-D", "-e", "-f", str(self.home / "config")]

    def process_options(self) -> dict[str, Any]:
        return {"start_new_session": True}

    def stop(self) -> None:
        """Stop it with all the connections it has."""
        if self._process is not None:
            self.cut()
        super().stop()

    def cut(self) -> None:
        """End the connections it has."""
        for session in _children(self.pid):
            for process in [*_children(session), session]:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    @property
    def connections(self) -> list[int]:
        """The processes of its connections."""
        return _children(self.pid)

    @property
    def logins(self) -> int:
        """The number of logins."""
        return len(re.findall(r"^Accepted ", (self.home / "log").read_text(), re.M))


@contextmanager
def running() -> Iterator[SshServer]:
    with closing(SshServer()) as server:
        server.start()
        yield server


@contextmanager
def private_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Keep the user's own SSH settings out of a test; yield its runtime directory, which has a short path.

    ssh finds ~/.ssh by the user's entry in the passwd database; here, a script makes it use `home`, and end sooner than
    usual after its last user.
    """
    for directory in (home / ".ssh", home / "bin"):
        directory.mkdir(mode=0o700, parents=True)
    (home / ".ssh" / "config").touch()
    (home / "ssh_config").write_text(
        f"Include {home}/.ssh/config\nMatch all\n"
        f" UserKnownHostsFile {home}/.ssh/known_hosts\n GlobalKnownHostsFile /dev/null\n"
    )
    keys = " ".join(f"-o IdentityFile={home}/.ssh/{name}" for name in ("id_rsa", "id_ed25519"))
    program = home / "bin" / "ssh"
    program.write_text(
        f'#!/bin/sh\ncase " $* " in *" -oIdentityFile="*) ;; *) set -- {keys} "$@" ;; esac\n'
        f'exec {shutil.which("ssh")} -F {home}/ssh_config {SOON_GONE} "$@"\n'
    )
    program.chmod(0o755)
    with tempfile.TemporaryDirectory(prefix="pe-", dir="/tmp") as runtime:
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        yield Path(runtime)
        shared_tunnel._forget()
        for control in Path(runtime).glob("pe-*-*"):  # instead of a wait for its ControlPersist
            subprocess.run(
                ["ssh", "-S", str(control), "-O", "exit", "-q", "none"], stderr=subprocess.DEVNULL, check=False
            )


def make_key(path: Path, passphrase: str = "", kind: str = "ed25519") -> None:
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(path)]
    subprocess.run(command, check=True)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def background_ssh(argument: str) -> psutil.Process:
    """Return the ssh of a tunnel, by a part of its command line."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if "-fNM" in process.cmdline() and argument in " ".join(process.cmdline()):
                found.append(process)
    (process,) = found
    return process


def is_free(port: int) -> bool:
    """Return whether no process listens there, without a connection, which would count as a user of a tunnel."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
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
    try:
        return find_program("sshd", "openssh-server")
    except ServerUnavailable as error:
        reason = f"NOT TESTED: SSH tunnels, as {error}"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
