"""The configuration of an experiment once read and checked: plain frozen values, whatever file they came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pyexperimenter.fieldtypes import FieldType
from pyexperimenter.grid import Grid


class Secret:
    """A text that is never shown: not in reprs, logs or tracebacks. `reveal` gives it out."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the secret text."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "Secret('***')"


@dataclass(frozen=True)
class TlsConfig:
    """How to encrypt the way to the server: paths of PEM files, and whether the server's certificate is checked."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = True


@dataclass(frozen=True)
class SshConfig:
    """The SSH server in front of the database, as the predecessor's credential file gives it."""

    address: str
    port: int = 22
    user: str | None = None
    private_key: str | None = None
    private_key_password: Secret | None = None
    password: Secret | None = None
    remote_address: str = "127.0.0.1"
    remote_port: int = 3306
    local_address: str = "127.0.0.1"
    local_port: int | None = None


@dataclass(frozen=True)
class Credentials:
    """Where the server is and who asks. All but `host` and `port` may be None for SQLite."""

    host: str = "localhost"
    port: int = 3306
    user: str | None = None
    password: Secret | None = None
    password_command: str | None = None
    unix_socket: str | None = None
    tls: TlsConfig | None = None
    ssh: SshConfig | None = None


@dataclass(frozen=True)
class DatabaseConfig:
    """Which database to use: `provider` is ``sqlite``, ``mysql`` (MariaDB too) or ``postgresql``.

    `database` is the name of the database on the server, or for SQLite the absolute path of the file.
    """

    provider: str
    database: str
    credentials: Credentials = field(default_factory=Credentials)
    use_ssh_tunnel: bool = False


@dataclass(frozen=True)
class Requirement:
    """What experiments need whose keyfields have one of these values: resource -> amount."""

    when: Mapping[str, Sequence[Any]]
    resources: Mapping[str, float]


@dataclass(frozen=True)
class TableConfig:
    """The experiment table: columns in their order, and the grid its rows come from.

    `grid` is None when no keyfield has values; such a table is filled with combinations or rows only.
    """

    name: str
    keyfields: Mapping[str, FieldType]
    resultfields: Mapping[str, FieldType] = field(default_factory=dict)
    result_timestamps: bool = False
    grid: Grid | None = None
    requires: Sequence[Requirement] = ()


@dataclass(frozen=True)
class ExecutionConfig:
    """How workers run experiments. Durations are in seconds."""

    isolation: Literal["process", "none"] = "process"
    time_limit: float | None = None
    min_time: float | None = None
    retries: int = 0
    retry_on: tuple[str, ...] = ()
    no_retry_on: tuple[str, ...] = ()
    max_lost: int = 3
    heartbeat: float = 60.0
    lease: float = 300.0
    grace: float = 20.0
    signals: tuple[str, ...] = ("SIGTERM", "SIGINT", "SIGUSR1")
    stop_after_errors: int = 20
    echo: bool = False
    max_outage: float = 600.0
    journal: str | None = None
    function: str | None = None
    gpus: int = 0


@dataclass(frozen=True)
class ExperimentConfig:
    """Everything one configuration file says.

    Attributes
    ----------
    source : str
        Path of the file, or ``<dict>``.
    text : str
        The file's text as read (for the record), or the dict as JSON; it never holds credentials.
    n_jobs : int
        Number of workers of one call of ``execute``.
    logtables : Mapping of str to Mapping of str to FieldType
        Columns of each logtable, by the short name used in the configuration (without ``<table>__``).
    cluster : Mapping of str to Mapping
        Profiles of options for submitting workers.
    custom : Mapping
        The custom fields, passed to every run.
    codecarbon : Mapping or None
        Options of the section CodeCarbon; None where there is no such section.
    """

    source: str
    text: str
    n_jobs: int
    database: DatabaseConfig
    table: TableConfig
    logtables: Mapping[str, Mapping[str, FieldType]] = field(default_factory=dict)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    custom: Mapping[str, Any] = field(default_factory=dict)
    cluster: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    codecarbon: Mapping[str, Any] | None = None
