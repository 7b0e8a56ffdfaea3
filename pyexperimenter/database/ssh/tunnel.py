"""Log in to an SSH server with the program ssh, which then goes to the background and forwards a local port."""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from pyexperimenter.config.model import Secret, SshConfig
from pyexperimenter.exceptions import SshTunnelError
from pyexperimenter.paths import absolute_path

_LOGGER = logging.getLogger("py-experimenter")
ASKPASS = Path(__file__).with_name("askpass")  # in the environment of ssh, and of the commands that it starts
_LONGEST_LOGIN = 60.0  # seconds
_OPTIONS = {
    "ControlPersist": "5",  # seconds for which ssh outlives the last process that uses the tunnel
    "ExitOnForwardFailure": "yes",
    "ConnectTimeout": "15",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "2",
    "NumberOfPasswordPrompts": "2",  # a second prompt says that the first answer was wrong
    "BatchMode": "no",
    "RemoteCommand": "none",
    "LogLevel": "INFO",  # includes connections that the database refuses
}
_REMEDIES = {
    "cannot listen|bind": "check local_address and local_port, and LocalForward in ~/.ssh/config",
    "Host key for (?P<name>.*?) has changed": "if you know that the server has a new key, run: ssh-keygen -R '{name}'",
    "Host key": "check the known_hosts file",
    "Permission denied|password|Too many auth": "check user, password and the private key: {key}",
    "": "check address and port, and that this machine can reach them",
}


def open_tunnel(ssh: SshConfig, port: int, control: Path, log: Path) -> None:
    """Forward a local port to `ssh.remote_address` and `ssh.remote_port`, as the SSH server sees them.

    ssh stays in the background. It ends a few seconds after the last connection to its control socket, so each process
    that uses the tunnel keeps one.

    Parameters
    ----------
    ssh : SshConfig
        The SSH server, how to log in there, and both ends of the tunnel.
    port : int
        The local port.
    control, log : Path
        The control socket and the log file, which ssh creates.

    Raises
    ------
    SshTunnelError
        If ssh is missing, or if it cannot connect, log in or listen on the port.
    """
    program = shutil.which("ssh")
    if program is None:
        raise SshTunnelError("the program 'ssh' is not on the PATH; install the OpenSSH client")
    log.unlink(missing_ok=True)
    login = _Login(ssh)
    with tempfile.TemporaryFile("w+", errors="replace") as stderr:  # what ssh says before it opens the log
        if login.run([program, *_arguments(ssh, port, control, log)], stderr):
            return
        stderr.seek(0)
        messages = _messages(log) or stderr.read().split()
    cause = "; ".join([*login.problems, " ".join(messages).rstrip(".") or "ssh gave no reason"])
    found = ((re.search(pattern, cause), remedy) for pattern, remedy in _REMEDIES.items())
    match, remedy = next((match, remedy) for match, remedy in found if match)
    key = ssh.private_key or "those of the agent and of ~/.ssh"
    raise SshTunnelError(f"{cause}; {remedy.format(key=key, **match.groupdict())}")


def _messages(log: Path) -> list[str]:
    with suppress(FileNotFoundError):
        lines = [line.strip("@ ") for line in log.read_text(errors="replace").splitlines()]
        return [line for line in lines if line and not line.startswith("Warning: Permanently added")]
    return []


def _arguments(ssh: SshConfig, port: int, control: Path, log: Path) -> list[str]:
    options = dict(_OPTIONS)
    if ssh.private_key is not None:
        options |= {"IdentitiesOnly": "yes", "IdentityFile": f'"{literal(_key_file(ssh.private_key))}"'}
    if ssh.password is None:
        options |= {"PasswordAuthentication": "no", "KbdInteractiveAuthentication": "no"}
    return [
        *("-fNM", "-S", literal(control), "-E", str(log)),
        *(f"-o{name}={value}" for name, value in options.items()),
        *(["-l", ssh.user] if ssh.user else []),
        *(["-p", str(ssh.port)] if ssh.port != SshConfig.port else []),  # the default leaves it to ~/.ssh/config
        *("-L", f"[{ssh.local_address}]:{port}:[{ssh.remote_address}]:{ssh.remote_port}"),
        *("--", ssh.address),
    ]


def literal(path: Path) -> str:
    """Return a path as an argument of ssh, which would expand %h and the like."""
    return str(path).replace("%", "%%")


def _key_file(name: str) -> Path:
    path = absolute_path(name)
    try:
        path.open("rb").close()
    except OSError as error:
        raise SshTunnelError(f"cannot read the key file {path}: {error}; check ssh_private_key") from error
    return path


class _Login:
    """Runs ssh until it has logged in and gone to the background, or failed, and answers its questions.

    No variable here holds a secret as text: some tools show variables with a traceback.
    """

    def __init__(self, ssh: SshConfig) -> None:
        self._ssh = ssh
        self._asked: set[str] = set()
        self.problems: list[str] = []

    def run(self, command: list[str], stderr: IO[str]) -> bool:
        """Run ssh; return whether it is in the background now."""
        environment = {
            **os.environ,
            "SSH_ASKPASS": str(ASKPASS),
            "SSH_ASKPASS_REQUIRE": "force",
            "DISPLAY": os.environ.get("DISPLAY") or "none",  # OpenSSH before 8.4 calls SSH_ASKPASS only if it is set
        }
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                process = subprocess.Popen(
                    command,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    cwd="/",
                    env=environment,
                    start_new_session=True,  # out of reach of the terminal's Ctrl-C
                )
            try:
                self._answer(ours, process)
                return process.poll() == 0
            finally:
                process.kill()
                process.wait()

    def _answer(self, connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
        """Answer until ssh has ended, or asks for something that the credentials do not contain."""
        deadline = time.monotonic() + _LONGEST_LOGIN
        connection.settimeout(1)
        received = b""
        while process.poll() is None:
            if time.monotonic() > deadline:
                self.problems.append(f"the login took longer than {_LONGEST_LOGIN:g} seconds")
                return
            with suppress(OSError, subprocess.TimeoutExpired):
                received += (chunk := connection.recv(4096))
                if not chunk:
                    process.wait(1)  # it is about to end
                if received.endswith(b"\0"):
                    answer = self._answer_to(received[:-1].decode(errors="replace"))
                    received = b""
                    if answer is None:
                        return
                    connection.sendall(f"{answer.reveal()}\n".encode())

    def _answer_to(self, question: str) -> Secret | None:
        """Return the answer. An empty one declines; None means that the login cannot succeed."""
        is_repeated = question in self._asked
        self._asked.add(question)
        if key := re.match(r"Enter passphrase for (?:key )?(.*): ", question):
            if self._ssh.private_key_password is not None and not is_repeated:
                return self._ssh.private_key_password
            trouble = "does not have the passphrase that was given" if is_repeated else "needs a passphrase"
            self.problems.append(f"the key {key[1]} {trouble}")
            return Secret("")
        if re.search(r"(?<!new )(?<!old )(?<!time )password: *$", question, re.I) and self._ssh.password is not None:
            if is_repeated:
                self.problems.append("the password was refused")
                return None
            return self._ssh.password
        if "authenticity of host" in question:
            _LOGGER.warning("adding the key of an unknown SSH server to known_hosts: %s", _one_line(question))
            return Secret("yes")
        if "user presence" in question:  # a request to touch the hardware key
            _LOGGER.warning("ssh: %s", _one_line(question))
            return Secret("")
        self.problems.append(f"ssh asks {_one_line(question)!r}, which the credentials do not answer")
        return None


def _one_line(text: str) -> str:
    return " ".join(text.split())
