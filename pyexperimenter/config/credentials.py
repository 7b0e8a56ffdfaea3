"""User, password and address of the server, from the credential file and the environment.

No message here quotes a value or an unknown key of the file: either may be (part of) a password.
"""

from __future__ import annotations

import logging
import os
import shlex
import stat
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, InstanceOf, ValidationError, ValidationInfo

from pyexperimenter.config.document import Document, parsed
from pyexperimenter.config.interpolation import ENVIRONMENT, interpolate
from pyexperimenter.config.messages import KeyPath, problems_of
from pyexperimenter.config.model import Credentials, Secret, SshConfig, TlsConfig
from pyexperimenter.config.schema import Section, Whole
from pyexperimenter.config.source import FileProblem
from pyexperimenter.exceptions import DuplicateKeyError, InvalidConfigError, InvalidCredentialsError, UnknownKeyError
from pyexperimenter.paths import candidates, found

_LOGGER = logging.getLogger("py-experimenter")
_warned_of: set[str] = set()
_PREFIX = "PYEXPERIMENTER_DB_"
_SECRET_KEYS = ("password", "ssh_private_key_password", "passphrase")

_USER: KeyPath = ("CREDENTIALS", "Database")
_STANDARD: KeyPath = ("CREDENTIALS", "Connection", "Standard")

Port = Annotated[Whole, Field(ge=1, le=65535)]
SecretText = InstanceOf[Secret]


class User(Section):
    """The user of the database."""

    user: str | None = None
    password: SecretText | None = None
    password_command: str | None = None


class Tls(Section):
    """The encryption of the connection."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = TlsConfig.verify


class Standard(Section):
    """The address of the server."""

    server: str | None = None
    port: Port | None = None
    unix_socket: str | None = None
    tls: Tls | None = None


class Ssh(Section):
    """The SSH server in front of the database; ignored without a tunnel."""

    server: str | None = None
    address: str
    port: Port | None = None
    user: str | None = None
    password: SecretText | None = None
    ssh_private_key: str | None = None
    keyfile: str | None = None
    ssh_private_key_password: SecretText | None = None
    passphrase: SecretText | None = None
    remote_address: str | None = None
    remote_port: Port | None = None
    local_address: str | None = None
    local_port: Port | None = None


def _if_used(value: Any, info: ValidationInfo) -> Any:
    # Templates from py-experimenter have placeholders here, which must not matter without a tunnel.
    return value if info.context else None


class Connection(Section):
    """How to reach the server: directly, or through SSH."""

    standard: Standard = Field({}, alias="Standard", validate_default=True)
    ssh: Annotated[Ssh | None, BeforeValidator(_if_used)] = Field(None, alias="Ssh")


class CredentialsSection(Section):
    """The content of the credential file."""

    database: User = Field({}, alias="Database", validate_default=True)
    connection: Connection = Field({}, alias="Connection", validate_default=True)


class CredentialsFile(Section):
    """The credential file."""

    credentials: CredentialsSection = Field(alias="CREDENTIALS")


def credentials_of(path: str | PathLike[str] | None, use_ssh_tunnel: bool, port: int) -> Credentials:
    """Read the credential file, if it exists, and apply the environment variables; `port` is the default.

    Raises
    ------
    InvalidCredentialsError
        If both together do not say how to reach the database. The message contains no secret.
    """
    credentials = Credentials(port=port)
    if path is not None and found(path).exists():
        credentials = _from_file(found(path), use_ssh_tunnel, port)
    credentials = _overridden(credentials, _from_environment())
    if credentials.user is None:
        raise InvalidCredentialsError(
            f"no user for the database server: {_searched(path)}. Add one to the credential file:\n"
            "    CREDENTIALS: {Database: {user: ..., password: ...}, Connection: {Standard: {server: ...}}}\n"
            f"or set the environment variables {_PREFIX}USER, {_PREFIX}PASSWORD and {_PREFIX}HOST",
            ("CREDENTIALS", "Database", "user"),
        )
    if use_ssh_tunnel and credentials.ssh is None:
        raise InvalidCredentialsError(
            f"no SSH server for the tunnel: {_searched(path)}. Add one to the credential file:\n"
            "    CREDENTIALS: {Connection: {Ssh: {address: ..., server: ...}}}\n"
            "or set use_ssh_tunnel to false",
            ("CREDENTIALS", "Connection", "Ssh"),
        )
    return credentials


def _searched(path: str | PathLike[str] | None) -> str:
    if path is None:
        return "no credential file was given"
    if found(path).exists():
        return f"{os.path.abspath(found(path))} names none"
    return f"the credential file {' or '.join(map(os.path.abspath, candidates(path)))} does not exist"


# The file


def _from_file(path: Path, use_ssh_tunnel: bool, port: int) -> Credentials:
    outcome = _read_credentials(path, use_ssh_tunnel, port)
    if isinstance(outcome, InvalidCredentialsError):
        # Raised here, outside of any `except`, so that no error that contains values of the file is its context.
        raise outcome
    return outcome


def _read_credentials(path: Path, use_ssh_tunnel: bool, port: int) -> Credentials | InvalidCredentialsError:
    try:
        document = _read(path)
    except OSError as error:
        return InvalidCredentialsError(f"{path}: the credential file cannot be read: {error.strerror}")
    except FileProblem as problem:
        return InvalidCredentialsError(f"{path}:{problem.line}: {problem}")
    try:
        file = CredentialsFile.model_validate(document.data, context=use_ssh_tunnel)
        return _credentials(file.credentials, port)
    except ValidationError as error:
        found = document.first(problems_of(error, quote=False))
    except InvalidConfigError as error:
        found = error
    return InvalidCredentialsError(str(document.locate(found)), found.path)


def _read(path: Path) -> Document:
    """Return the content of the file with its passwords hidden; `text` stays empty for the same reason."""
    _warn_if_others_may_read(path)
    try:
        document = parsed(path.read_bytes(), path, credentials=True)
    except FileProblem as problem:
        if problem.kind is UnknownKeyError:
            raise  # its message quotes no key
        if problem.kind is DuplicateKeyError:
            raise FileProblem("a key appears twice in a section; delete one", problem.line) from None
        raise FileProblem(
            "this is neither YAML nor INI (the line may be secret and is not shown); "
            "put quotes around values with special characters",
            problem.line,
        ) from None
    try:
        data = interpolate(document.data, ENVIRONMENT)
    except InvalidConfigError as error:
        raise FileProblem(
            "a '${...}' cannot be resolved; set the environment variable, or write \\${ for a literal ${",
            document.lines.of(error.path) or 1,
        ) from None
    return Document(document.source, "", _hidden(data), document.lines)


def _warn_if_others_may_read(path: Path) -> None:
    mode = path.stat().st_mode
    where = str(path.absolute())
    if os.name == "posix" and mode & 0o077 and where not in _warned_of:
        _warned_of.add(where)
        _LOGGER.warning(
            "%s: other users of this machine can read your passwords (%s); run: chmod 600 %s",
            path,
            stat.filemode(mode),
            shlex.quote(str(path)),
        )


def _hidden(data: Any) -> Any:
    """Wrap all passwords before anything else sees them."""
    if isinstance(data, Mapping):
        return {
            key: Secret(value) if isinstance(value, str) and str(key).lower() in _SECRET_KEYS else _hidden(value)
            for key, value in data.items()
        }
    return [_hidden(item) for item in data] if isinstance(data, list) else data


def _credentials(section: CredentialsSection, port: int) -> Credentials:
    user, standard, ssh = section.database, section.connection.standard, section.connection.ssh
    if user.password is not None and user.password_command is not None:
        raise InvalidConfigError("there is also a password; keep one of the two", (*_USER, "password_command"))
    return Credentials(
        user=user.user,
        password=user.password,
        password_command=user.password_command,
        unix_socket=standard.unix_socket,
        tls=None if standard.tls is None else _tls(standard.tls),
        ssh=None if ssh is None else _ssh(ssh, port),
        port=standard.port or port,
        **_given(host=standard.server),
    )


def _tls(section: Tls) -> TlsConfig:
    if (section.cert is None) != (section.key is None):
        raise InvalidConfigError("cert and key belong together; give both or neither", (*_STANDARD, "tls"))
    return TlsConfig(section.ca, section.cert, section.key, section.verify)


def _ssh(section: Ssh, port: int) -> SshConfig:
    return SshConfig(
        address=section.address,
        user=section.user,
        password=section.password,
        private_key=section.ssh_private_key or section.keyfile,
        private_key_password=section.ssh_private_key_password or section.passphrase,
        local_port=section.local_port,
        remote_port=section.remote_port or port,
        **_given(
            port=section.port,
            # `server` is the host of the database as seen from the SSH server.
            remote_address=section.remote_address or section.server,
            local_address=section.local_address,
        ),
    )


def _given(**values: Any) -> dict[str, Any]:
    """Return the values that are set; the model has defaults for the others."""
    return {key: value for key, value in values.items() if value is not None}


# The environment


def _from_environment() -> dict[str, Any]:
    """Return the settings in the variables ``PYEXPERIMENTER_DB_...``; empty variables do not count."""
    names = ("user", "password", "host", "port")
    settings = _given(**_hidden({name: os.environ.get(f"{_PREFIX}{name.upper()}") or None for name in names}))
    return settings | ({"port": _port(settings["port"])} if "port" in settings else {})


def _overridden(credentials: Credentials, settings: Mapping[str, Any]) -> Credentials:
    """Return the credentials, with these settings in place of their own."""
    changes = dict(settings)
    if "password" in settings:
        changes["password_command"] = None
    if credentials.ssh is not None:
        address = _given(remote_address=settings.get("host"), remote_port=settings.get("port"))
        changes["ssh"] = replace(credentials.ssh, **address)
    if "host" in settings:
        changes["unix_socket"] = None  # the socket in the file belongs to another server
    return replace(credentials, **changes)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise InvalidCredentialsError(
            f"the environment variable {_PREFIX}PORT is not a port; give a number from 1 to 65535"
        )
    return int(text)
