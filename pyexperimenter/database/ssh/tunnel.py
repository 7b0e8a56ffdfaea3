"""The way to a database behind an SSH server: a local port that leads there, by the package paramiko (an extra)."""

from __future__ import annotations

import atexit
import getpass
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyexperimenter.config.model import Secret, SshConfig
from pyexperimenter.database.ssh.known_hosts import KnownKey, known_keys
from pyexperimenter.exceptions import SshTunnelError

_LOGGER = logging.getLogger("py-experimenter")
_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
_GLOBAL_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts"
_NAME_THEM = "name user and ssh_private_key (with its ssh_private_key_password), or load a key into an agent"
_TIMEOUT = 15.0  # seconds for each step of logging in, and of opening a channel
_KEEP_ALIVE = 10  # seconds
_DEAF = 60  # seconds without acknowledgement after which a connection counts as cut
_PAUSE = 1.0  # seconds from one failure to log in to the next try
_CHUNK = 64 * 1024  # bytes


class Tunnel:
    """An open tunnel: connections to a local port are forwarded through SSH.

    The port is the tunnel's until it is closed. If the connection to the SSH server breaks, those that run through it
    end, and the next one opens it anew. It is closed when Python ends; a forked child leaves its parent's alone.

    Parameters
    ----------
    ssh : SshConfig
        The SSH server, the way to log in there, and both ends of the tunnel.
    route : str
        What messages begin with.

    Attributes
    ----------
    host : str
        Where it listens on this machine.
    port : int
        The port there.
    """

    def __init__(self, ssh: SshConfig, route: str) -> None:
        self._ssh = ssh
        self._route = route
        self._login: _Login | None = None
        self._opening = threading.Lock()
        self._failed: tuple[float, str] | None = None  # when and why
        self._told: str | None = None  # the failure that was logged last
        self._closed = threading.Event()
        self.check()
        try:
            self._listener = _listen(ssh)
        except OSError as error:
            self._end_login()
            why = f"cannot listen on {ssh.local_address}: {error.strerror}; mend local_address"
            raise SshTunnelError(f"{route}: {why}") from error
        self.host: str
        self.port: int
        self.host, self.port = self._listener.getsockname()[:2]
        _OPEN.append(self)
        threading.Thread(target=self._serve, name=f"SSH tunnel {self.port}", daemon=True).start()
        atexit.register(self.close)

    def check(self) -> None:
        """Make sure that the SSH server is connected.

        Raises
        ------
        SshTunnelError
            If it is away, or refuses.
        """
        self._transport()

    def close(self) -> None:
        """Close it, and with it every connection through it; to do so again does nothing."""
        if self._closed.is_set() or self not in _OPEN:
            return
        atexit.unregister(self.close)
        self._closed.set()
        _OPEN.remove(self)
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes who waits there
        self._listener.close()
        self._end_login()

    def _abandon(self) -> None:
        """In the child of a fork: leave all to the parent, whose port would else be open for as long as the child."""
        self._listener.close()
        if self._login is not None and isinstance(self._login.sock, socket.socket):  # a ProxyCommand would be killed
            self._login.sock.close()

    def _transport(self) -> Any:
        with self._opening:
            if self._login is not None and self._login.transport.is_active():
                return self._login.transport
            # Those who wait for each other here are not to wait for one vain try each.
            if self._failed is not None and time.monotonic() - self._failed[0] < _PAUSE:
                raise SshTunnelError(self._failed[1])
            self._end_login()
            try:
                login = _Login(self._ssh, self._route)
            except SshTunnelError as error:
                self._failed = (time.monotonic(), str(error))
                raise
            self._login = login
        if self._closed.is_set():  # meanwhile
            self._end_login()
            raise SshTunnelError(f"{self._route}: it was closed")
        return login.transport

    def _end_login(self) -> None:
        login, self._login = self._login, None
        if login is not None:
            login.close()

    def _serve(self) -> None:
        while not self._closed.is_set():
            try:
                client, origin = self._listener.accept()
            except OSError:  # closed; or there are too many open files
                time.sleep(0 if self._closed.is_set() else 0.1)
                continue
            threading.Thread(target=self._forward, args=[client, origin], name="SSH forward", daemon=True).start()

    def _forward(self, client: socket.socket, origin: tuple[Any, ...]) -> None:
        with client:
            try:
                channel = self._channel(origin[:2])
            except Exception as error:
                if not self._closed.is_set() and self._told != str(error):  # once, however many try
                    self._told = str(error)
                    _LOGGER.error("%s", error)
                return
            self._told = None
            with channel:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                back = threading.Thread(target=_copy, args=[channel, client], name="SSH back", daemon=True)
                back.start()
                _copy(client, channel)
                back.join()

    def _channel(self, origin: tuple[Any, ...]) -> Any:
        import paramiko

        transport = self._transport()
        there = (self._ssh.remote_address, self._ssh.remote_port)
        try:
            return transport.open_channel("direct-tcpip", there, origin, timeout=_TIMEOUT)
        except paramiko.ChannelException as error:  # the database is away, the SSH server is not
            why = f"{self._ssh.address} does not reach {there[0]}:{there[1]}: {error.text}"
            raise SshTunnelError(f"{self._route}: {why}; check remote_address and remote_port") from error
        except Exception as error:
            transport.close()  # whatever is wrong with it, a new one is not
            why = str(error) or type(error).__name__
            raise SshTunnelError(f"{self._route}: the SSH server is away: {why}") from error


def open_tunnel(ssh: SshConfig, host: str, port: int) -> Tunnel:
    """Open a tunnel to `ssh.remote_address` and `ssh.remote_port`, as the SSH server sees them.

    `ssh.address` may be an alias of ``~/.ssh/config``. A key that is named is the only one that is tried; else those
    of ``~/.ssh/config``, of the agent and of ``~/.ssh`` are. An SSH server that is in a file of known hosts must have
    the key that stands there; of another one is told. If the local port is taken, a free one serves instead.

    Parameters
    ----------
    ssh : SshConfig
        The SSH server, the way to log in there, and both ends of the tunnel.
    host, port : str, int
        The database as the configuration names it; only for messages.

    Raises
    ------
    SshTunnelError
        If paramiko is not installed, the key cannot be used, or the server cannot be reached or refuses.
    """
    return Tunnel(ssh, f"no SSH tunnel to the database {host}:{port} through {ssh.address}:{ssh.port}")


class _Login:
    """A connection to the SSH server, on which we are logged in.

    No secret is ever the value of a variable here, and paramiko's frames are cut off: some show variables with a
    traceback.
    """

    def __init__(self, ssh: SshConfig, route: str) -> None:
        try:
            import paramiko
        except ImportError as error:
            raise SshTunnelError(f"{route}: {error}; pip install pyexperimenter[ssh]") from error
        if not logging.getLogger("paramiko").hasHandlers():
            logging.getLogger("paramiko").addHandler(logging.NullHandler())  # else its tracebacks go to stderr

        self._ssh = ssh
        self._options = _ssh_options(ssh.address)
        self._host = str(self._options.get("hostname", ssh.address))
        # The default leaves it to ~/.ssh/config.
        self._port = ssh.port if ssh.port != 22 else int(self._options.get("port", 22))
        self._unusable: list[str] = []  # why keys were not tried
        self.sock: Any = None
        self.transport: Any = None
        refused = f"check address and port, and that this machine may reach {self._host}:{self._port}"
        try:
            self._user = ssh.user or self._options.get("user") or getpass.getuser()
            self._connect()
            self._log_in()
        except SshTunnelError as error:
            self.close()
            raise SshTunnelError(f"{route}: {error}") from error.__cause__
        except (OSError, LookupError, EOFError, paramiko.SSHException) as error:
            self.close()
            why = str(error) or type(error).__name__
            raise SshTunnelError(f"{route}: {why}; {refused}") from error.with_traceback(None)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        if self.transport is not None:
            self.transport.close()
        if self.sock is not None:
            with suppress(OSError):
                self.sock.close()
            if hasattr(self.sock, "process"):  # a ProxyCommand, which the transport's thread signals at its end
                if self.transport is not None and self.transport.is_alive():
                    self.transport.join(_TIMEOUT)
                self.sock.process.communicate()

    def _connect(self) -> None:
        """Connect, and make sure that it is the server that is meant."""
        import paramiko

        self.sock = self._socket()
        self.transport = paramiko.Transport(self.sock)
        self.transport.daemon = True
        self.transport.banner_timeout = self.transport.auth_timeout = _TIMEOUT
        self.transport.use_compression(str(self._options.get("compression", "no")).lower() == "yes")
        name = self._options.get("hostkeyalias", self._host if self._port == 22 else f"[{self._host}]:{self._port}")
        personal = self._options.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")
        known = known_keys(name, [Path(file).expanduser() for file in (*personal.split(), _GLOBAL_KNOWN_HOSTS)])
        kinds = {key.type for key in known}
        kinds |= {"rsa-sha2-512", "rsa-sha2-256"} if "ssh-rsa" in kinds else set()
        options = self.transport.get_security_options()
        options.key_types = sorted(options.key_types, key=lambda kind: kind not in kinds)  # ask for a key that we know
        self.transport.start_client(timeout=_TIMEOUT)
        self.transport.set_keepalive(_KEEP_ALIVE)
        self._check_host_key(name, known)

    def _socket(self) -> Any:
        import paramiko

        command = _proxy_command(self._options, self._host, self._port)
        if command is not None:
            return paramiko.ProxyCommand(command)
        sock = socket.create_connection((self._host, self._port), _TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAF * 1000)
        return sock

    def _check_host_key(self, name: str, known: Sequence[KnownKey]) -> None:
        key = self.transport.get_remote_server_key()
        marks = [known_key.revoked for known_key in known if known_key[:2] == (key.get_name(), key.get_base64())]
        shown = f"{key.get_name()} {key.fingerprint}"
        if any(marks):
            raise SshTunnelError(f"the key that {name} shows ({shown}) is marked as revoked in the known_hosts file")
        if known and not marks:
            raise SshTunnelError(
                f"{name} shows a key ({shown}) that is not the one of the known_hosts file: it may be somebody else; "
                f"if you know that the server has a new key, run: ssh-keygen -R '{name}'"
            )
        if not known and name not in _TOLD:
            _TOLD.add(name)
            _LOGGER.warning(
                "the SSH server %s is in no known_hosts file, so its key (%s) cannot be checked; to have it checked, "
                "connect to it by ssh once",
                name,
                shown,
            )

    def _log_in(self) -> None:
        import paramiko

        agent = paramiko.Agent() if self._ssh.private_key is None else None
        tried = False
        try:
            for key in self._keys(agent):
                self._reconnect()
                tried = True
                with suppress(paramiko.SSHException):
                    self.transport.auth_publickey(self._user, key)
                    break
            if self._ssh.password is not None and not self.transport.is_authenticated():
                self._reconnect()
                tried = True
                with suppress(paramiko.SSHException):
                    self.transport.auth_password(self._user, self._ssh.password.reveal())
        finally:
            if agent is not None:
                agent.close()
        if self.transport.is_authenticated():
            return
        why = f" ({'; '.join(self._unusable)})" if self._unusable else ""
        if not tried:
            raise SshTunnelError(f"there is no key to log in with{why}, and no password; {_NAME_THEM}")
        keys = f"the key {self._ssh.private_key}" if self._ssh.private_key else "the keys of the agent and of ~/.ssh"
        with_what = f"{keys} and the password" if self._ssh.password else keys
        raise SshTunnelError(f"{self._user!r} with {with_what} was refused{why}; check user and ssh_private_key")

    def _reconnect(self) -> None:
        """Connect anew if need be: servers hang up after a few keys."""
        if not self.transport.is_active():
            self.close()
            self._connect()

    def _keys(self, agent: Any) -> Iterator[Any]:
        """Yield the keys that the configuration means."""
        if self._ssh.private_key is not None:
            yield _read_key(Path(self._ssh.private_key).expanduser(), self._ssh.private_key_password)
            return
        named = [Path(file).expanduser() for file in self._options.get("identityfile", [])]
        default = [Path.home() / ".ssh" / name for name in _DEFAULT_KEYS]
        for group in (named, agent.get_keys(), default):
            for key in group:
                if not isinstance(key, Path):
                    yield key
                elif key.is_file():
                    try:
                        yield _read_key(key, self._ssh.private_key_password)
                    except SshTunnelError as error:
                        self._unusable.append(str(error).partition(";")[0])


def _read_key(path: Path, passphrase: Secret | None) -> Any:
    import paramiko

    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            return kind.from_private_key_file(str(path), None if passphrase is None else passphrase.reveal())
        except paramiko.PasswordRequiredException:
            break
        except paramiko.SSHException:
            continue  # it is of another kind, or the passphrase is wrong
        except (OSError, ValueError) as error:
            why = f"cannot read the key file {path}: {error}"
            raise SshTunnelError(f"{why}; mend ssh_private_key") from error.with_traceback(None)
    what = "needs a passphrase" if passphrase is None else "has another passphrase"
    raise SshTunnelError(f"the key {path} {what}, or is no private key; mend ssh_private_key_password")


def _ssh_options(address: str) -> dict[str, Any]:
    """Return what ``~/.ssh/config`` says of a host."""
    import paramiko

    config = paramiko.SSHConfig()
    with suppress(OSError), (Path.home() / ".ssh" / "config").open() as file:
        config.parse(file)
    return dict(config.lookup(address))


def _proxy_command(options: Mapping[str, Any], host: str, port: int) -> str | None:
    """Return the command that leads to a host which cannot be reached directly; None if it can.

    To jump over others is left to the program ssh, which does the same with its own.

    >>> _proxy_command({"proxyjump": "me@gate:2222,inner"}, "db", 22)
    'ssh -o BatchMode=yes -J me@gate:2222 -W [db]:22 ssh://inner'
    >>> _proxy_command({"proxyjump": "none"}, "db", 22)
    """
    if "proxycommand" in options or options.get("proxyjump", "none") == "none":
        return options.get("proxycommand")
    before, _, last = options["proxyjump"].rpartition(",")
    over = f"-J {before} " if before else ""
    return f"ssh -o BatchMode=yes {over}-W [{host}]:{port} ssh://{last.removeprefix('ssh://')}"


def _listen(ssh: SshConfig) -> socket.socket:
    try:
        return socket.create_server((ssh.local_address, ssh.local_port or 0))
    except OSError:
        if ssh.local_port is None:
            raise
    listener = socket.create_server((ssh.local_address, 0))
    _LOGGER.info("local port %s is taken; the SSH tunnel listens on a free one", ssh.local_port)
    return listener


def _copy(source: Any, sink: Any) -> None:
    """Hand on what comes until one side ends; then end both."""
    try:
        with suppress(Exception):  # whatever it is, the connection is over
            while data := source.recv(_CHUNK):
                sink.sendall(data)
    finally:
        for end in (source, sink):
            with suppress(Exception):
                end.shutdown(socket.SHUT_RDWR)


_OPEN: list[Tunnel] = []
_TOLD: set[str] = set()  # hosts whose key cannot be checked


def _abandon_all() -> None:
    for tunnel in _OPEN:
        tunnel._abandon()
    _OPEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
