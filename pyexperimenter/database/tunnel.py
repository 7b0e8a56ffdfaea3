"""The way to a database behind an SSH server: a local port that leads there, by the package sshtunnel (an extra)."""

from __future__ import annotations

import atexit
import logging
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyexperimenter.config.model import Secret, SshConfig
from pyexperimenter.exceptions import SshTunnelError

_LOGGER = logging.getLogger("py-experimenter")
_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
_REFUSED = "Could not open connection to gateway"  # sshtunnel's words once every key and password was refused
_NAME_THEM = "Name user and ssh_private_key (with its ssh_private_key_password), or load a key into an agent"


class Tunnel:
    """An open tunnel. It is closed when Python ends; a forked child leaves its parent's alone.

    Attributes
    ----------
    host : str
        Where it listens on this machine.
    port : int
        The port there.
    """

    def __init__(self, forwarder: Any) -> None:
        self._forwarder = forwarder
        self._owner = os.getpid()
        self.host: str
        self.port: int
        self.host, self.port = forwarder.local_bind_address
        atexit.register(self.close)

    def close(self) -> None:
        """Close it, and with it every connection through it; to do so again does nothing."""
        if os.getpid() != self._owner or self._forwarder is None:
            return
        atexit.unregister(self.close)
        forwarder, self._forwarder = self._forwarder, None
        forwarder.stop(force=True)


def open_tunnel(ssh: SshConfig, host: str, port: int) -> Tunnel:
    """Open a tunnel to `ssh.remote_address` and `ssh.remote_port`, as the SSH server sees them.

    `ssh.address` may be an alias of ``~/.ssh/config``. A key that is named is the only one that is tried; else those
    of the agent and of ``~/.ssh`` are. The SSH server's own key is not checked. If the local port is taken, as by the
    tunnel of another worker on this machine, a free one serves instead.

    Parameters
    ----------
    ssh : SshConfig
        The SSH server, the way to log in there, and both ends of the tunnel.
    host, port : str, int
        The database as the configuration names it; only for messages.

    Raises
    ------
    SshTunnelError
        If sshtunnel is not installed, the key cannot be used, or the server cannot be reached or refuses.
    """
    route = f"no SSH tunnel to the database {host}:{port} through {ssh.address}:{ssh.port}"
    logger = logging.Logger("py-experimenter.tunnel", logging.ERROR)
    told = _Collector()
    logger.addHandler(told)
    try:
        forwarder = _forwarder(ssh, route, logger)
    except (ValueError, LookupError, OSError) as error:  # no key to be found, or no name of the current user
        why = "; ".join([*told.messages, str(error)])
        raise SshTunnelError(f"{route}: {why} {_NAME_THEM}") from error
    try:
        forwarder.start()
    except Exception as error:
        if not forwarder.is_active:
            raise SshTunnelError(_explained(ssh, route, forwarder.ssh_username, told.messages or [error])) from error
        forwarder.stop(force=True)  # logged in, but nothing listens
        if ssh.local_port is None:
            raise SshTunnelError(f"{route}: cannot listen on {ssh.local_address}; mend local_address") from error
        _LOGGER.info("local port %s is taken; the SSH tunnel listens on a free one", ssh.local_port)
        return open_tunnel(replace(ssh, local_port=None), host, port)
    # From now on there is nobody to raise to.
    logger.removeHandler(told)
    logger.parent = _LOGGER
    return Tunnel(forwarder)


def _forwarder(ssh: SshConfig, route: str, logger: logging.Logger) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of ciphers that paramiko still names
            import sshtunnel
    except ImportError as error:
        raise SshTunnelError(f"{route}: {error}; pip install pyexperimenter[ssh]") from error
    if not logging.getLogger("paramiko").hasHandlers():
        logging.getLogger("paramiko").addHandler(logging.NullHandler())  # else its tracebacks go to stderr

    return sshtunnel.SSHTunnelForwarder(
        ssh.address,
        ssh_port=None if ssh.port == 22 else ssh.port,  # the default leaves it to ~/.ssh/config
        ssh_username=ssh.user,
        ssh_password=_revealed(ssh.password),
        ssh_pkey=_key(ssh, route, sshtunnel.SSHTunnelForwarder.read_private_key_file),
        ssh_private_key_password=_revealed(ssh.private_key_password),
        allow_agent=ssh.private_key is None,
        host_pkey_directories=None if ssh.private_key is None else [],
        local_bind_address=(ssh.local_address, ssh.local_port or 0),
        remote_bind_address=(ssh.remote_address, ssh.remote_port),
        logger=logger,
    )


def _key(ssh: SshConfig, route: str, read: Any) -> Any:
    """Return the key that the configuration means; None if it leaves the choice to agent and ``~/.ssh``."""
    passphrase = _revealed(ssh.private_key_password)
    if ssh.private_key is None:
        # Those without a passphrase are found by sshtunnel itself.
        default = [path for path in (Path.home() / ".ssh" / name for name in _DEFAULT_KEYS) if path.is_file()]
        return next(filter(None, (read(str(path), passphrase) for path in default if passphrase)), None)
    path = Path(ssh.private_key).expanduser()
    try:
        key = read(str(path), passphrase)
    except (OSError, ValueError) as error:
        raise SshTunnelError(f"{route}: cannot read the key file {path}: {error}; mend ssh_private_key") from error
    if key is None:
        what = "its passphrase is wrong" if passphrase else "it needs a passphrase"
        raise SshTunnelError(f"{route}: {what}, or it is no private key: {path}; mend ssh_private_key_password")
    return key


def _explained(ssh: SshConfig, route: str, user: str, reasons: list[Any]) -> str:
    why = "; ".join(str(reason) for reason in reasons if reason != _REFUSED)
    if _REFUSED not in reasons:
        return f"{route}: {why}; check address and port, and that this machine may reach it"
    keys = f"the key {ssh.private_key}" if ssh.private_key else "the keys of the agent and of ~/.ssh"
    tried = f"{keys} and the password" if ssh.password else keys
    return f"{route}: {user!r} with {tried} was refused{why and f' ({why})'}; check user and ssh_private_key"


def _revealed(secret: Secret | None) -> str | None:
    return None if secret is None else secret.reveal()


class _Collector(logging.Handler):
    """Keeps what sshtunnel only logs: the reasons for its failures."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
