"""The configuration of an experiment, read and checked: frozen dataclasses, the same for every file format."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from pyexperimenter.exceptions import ConfigError
from pyexperimenter.fieldtypes import FieldType
from pyexperimenter.predecessor import OF_CONFIG, no_attribute

if TYPE_CHECKING:
    from pyexperimenter.grid import Design, Grid

FILES = "files"
"""The logtable of the files that runs have saved."""
FILE_COLUMNS: Mapping[str, FieldType] = {
    "name": FieldType.parse("VARCHAR(255)"),
    "sha256": FieldType.parse("VARCHAR(64)"),
    "bytes": FieldType.parse("BIGINT"),
    "role": FieldType.parse("VARCHAR(10)"),
}
_pickling = threading.local()


@contextmanager
def secrets_in_pickles() -> Iterator[None]:
    """Let this thread's pickles have secrets: those that are sent to a worker, and not those that are stored."""
    before = getattr(_pickling, "with_secrets", False)
    _pickling.with_secrets = True
    try:
        yield
    finally:
        _pickling.with_secrets = before


def pickles_have_secrets() -> bool:
    """Return whether pickles of this thread have secrets."""
    return getattr(_pickling, "with_secrets", False)


class Secret:
    """A string that never appears in reprs, logs, tracebacks or stored pickles. `reveal` returns it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the secret string."""
        return self._text

    def __reduce__(self) -> tuple[Any, ...]:
        return (Secret, (self._text,)) if pickles_have_secrets() else (_Withheld, ())

    def __copy__(self) -> Secret:
        return self  # and not by way of a pickle

    def __deepcopy__(self, _: object) -> Secret:
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "Secret('***')"


class _Withheld(Secret):
    """What a secret becomes in a pickle."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("")

    def reveal(self) -> str:
        """Raise an error.

        Raises
        ------
        ConfigError
            Always.
        """
        raise ConfigError(
            "this configuration was pickled, and pickles have no passwords; pickle the experimenter instead, "
            "which reads its files again"
        )


@dataclass(frozen=True)
class TlsConfig:
    """Encryption of the connection: paths of PEM files, and whether to verify the server's certificate."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = True


@dataclass(frozen=True)
class SshConfig:
    """The SSH server in front of the database, as in the credential file of py-experimenter."""

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
    """Address and user of the server. For SQLite, all but `host` and `port` may be None."""

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
    """Which database to use: `provider` is ``sqlite``, ``mysql`` (also for MariaDB) or ``postgresql``.

    `database` is the name of the database on the server; for SQLite, the absolute path of the file.
    """

    provider: str
    database: str
    credentials: Credentials = field(default_factory=Credentials)
    use_ssh_tunnel: bool = False


@dataclass(frozen=True)
class KeptConfig:
    """A configuration that a database keeps: its text, where it is kept, and the provider of that database."""

    text: str
    source: str
    provider: str


@dataclass(frozen=True)
class Requirement:
    """Resources (name -> amount) needed by the experiments that meet the condition `when`."""

    when: Mapping[str, Sequence[Any]]
    resources: Mapping[str, float]


@dataclass(frozen=True)
class ReplicationConfig:
    """When a study has enough seeds: the values of `over` that are used, and the interval that ends it.

    Attributes
    ----------
    over : str
        Keyfield whose values are the replicates, such as the seed. They are used in the order of its domain.
    of : str
        Resultfield that is averaged.
    ci95 : float
        The largest half width of an interval.
    paired : bool
        Whether the intervals are those of differences between what is compared, or those of means.
    reference : object
        The value that all others are compared with; None for all pairs.
    min, max, step : int
        The number of values at first, at most, and added at a time.
    """

    over: str
    of: str
    ci95: float
    max: int
    paired: bool = True
    reference: Any = None
    min: int = 10
    step: int = 5


@dataclass(frozen=True)
class TableConfig:
    """The experiment table: its columns in order, and the grid that its rows come from.

    `grid` is None if no keyfield has values; such a table can only be filled from combinations or rows. `design` is
    None if its rows are not divided into blocks, and `replicate` if all rows of the grid are filled in at once.
    """

    name: str
    keyfields: Mapping[str, FieldType]
    resultfields: Mapping[str, FieldType] = field(default_factory=dict)
    result_timestamps: bool = False
    grid: Grid | None = None
    design: Design | None = None
    replicate: ReplicationConfig | None = None
    requires: Sequence[Requirement] = ()


@dataclass(frozen=True)
class ExecutionConfig:
    """How workers run experiments. Durations are in seconds."""

    isolation: Literal["process", "none"] = "process"
    time_limit: float | None = None
    experiments_per_process: int | None = None
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
class PrimaryConfig:
    """The test that a study fixes before its first run; see `pyexperimenter.analysis.compare`.

    Attributes
    ----------
    value : tuple of str
        Resultfields; the p-values of several are adjusted as one family.
    better : tuple of str
        ``"max"`` or ``"min"`` for each of them.
    """

    value: tuple[str, ...]
    by: str
    blocks: tuple[str, ...]
    better: tuple[str, ...]
    over: tuple[str, ...] = ("seed",)
    test: Literal["wilcoxon", "nemenyi"] = "wilcoxon"
    correction: Literal["holm", "shaffer"] = "holm"
    failures: Literal["error", "worst", "drop"] = "error"


@dataclass(frozen=True)
class AnalysisConfig:
    """What is independent, which share of a data set is in the test part of its random splits, and the primary test."""

    unit: tuple[str, ...] = ()
    test_share: float | None = None
    primary: PrimaryConfig | None = None


@dataclass(frozen=True)
class ExperimentConfig:
    """Everything that a configuration file defines.

    Attributes
    ----------
    source : str
        Path of the file, or ``<dict>``.
    text : str
        The text of the file, or the dict as JSON, stored for reference. It never contains credentials.
    n_jobs : int
        Number of workers that a call of ``execute`` starts.
    logtables : Mapping of str to Mapping of str to FieldType
        Columns of each logtable, by its short name in the configuration (without ``<table>__``).
    files : str or None
        Absolute path of the folder for files of the runs, whose names are in the logtable ``files``; None if none are
        kept.
    cluster : Mapping of str to Mapping
        Profiles with options for submitting workers.
    custom : Mapping
        The custom fields, passed to every run.
    codecarbon : Mapping or None
        Options in the section CodeCarbon; None without such a section.
    """

    source: str
    text: str
    n_jobs: int
    database: DatabaseConfig
    table: TableConfig
    logtables: Mapping[str, Mapping[str, FieldType]] = field(default_factory=dict)
    files: str | None = None
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    custom: Mapping[str, Any] = field(default_factory=dict)
    cluster: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    codecarbon: Mapping[str, Any] | None = None
    analysis: AnalysisConfig = field(default_factory=AnalysisConfig)

    if not TYPE_CHECKING:  # type checkers should go on finding misspelled names

        def __getattr__(self, name: str) -> Any:
            if name != "database_configuration":
                raise no_attribute(self, name, OF_CONFIG)
            warnings.warn(
                "config.database_configuration is deprecated; read config.table", DeprecationWarning, stacklevel=2
            )
            return SimpleNamespace(
                provider=self.database.provider,
                database_name=self.database.database,
                table_name=self.table.name,
                keyfields=self.table.keyfields,
                resultfields=self.table.resultfields,
                result_timestamps=self.table.result_timestamps,
                logtables=self.logtables,
                use_ssh_tunnel=self.database.use_ssh_tunnel,
            )
