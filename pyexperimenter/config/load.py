"""The entry point: load a configuration from a file or a dict."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from pyexperimenter.config.model import DatabaseConfig, ExperimentConfig, KeptConfig
from pyexperimenter.jsonable import listed


def load_config(
    source: str | PathLike[str] | Mapping[str, Any] | KeptConfig,
    *,
    credentials_path: str | PathLike[str] | None = None,
    table_name: str | None = None,
    database_name: str | None = None,
    use_ssh_tunnel: bool | None = None,
) -> ExperimentConfig:
    """Read and check a configuration.

    Parameters
    ----------
    source : path, Mapping or KeptConfig
        A YAML or INI file, or the same content as nested dicts, or as a database keeps it.
    credentials_path : path, optional
        File with the address, user and password of the server. The environment variables
        ``PYEXPERIMENTER_DB_USER``, ``..._PASSWORD``, ``..._HOST`` and ``..._PORT`` override it, and are enough
        without it.
    table_name, database_name, use_ssh_tunnel : optional
        Override the values in the file.

    Raises
    ------
    ConfigError
        If the configuration cannot be used. The subclass says what is wrong; the message says where, and what to
        do about it.

    Examples
    --------
    >>> seed = {"type": "INT", "values": {"start": 0, "stop": 5}}
    >>> table = {"name": "study", "keyfields": {"seed": seed}}
    >>> config = load_config({"PY_EXPERIMENTER": {"Database": {"provider": "sqlite", "database": "d", "table": table}}})
    >>> len(config.table.grid)
    5
    """
    # These import pydantic and yaml, which workers do not need.
    from pyexperimenter.config.build import Overrides, build_config
    from pyexperimenter.config.document import document_of

    provider = source.provider if isinstance(source, KeptConfig) else None
    overrides = Overrides(table_name, database_name, use_ssh_tunnel, provider)
    return build_config(document_of(with_lists(source)), credentials_path, overrides)


def with_lists(config: Any, levels: int = 6) -> Any:
    """Return a dict configuration with lists as the values of keyfields, which may be arrays, ranges and iterators.

    An iterator can be read only once, but a configuration is stored, pickled and read again.
    """
    if not isinstance(config, Mapping) or not levels:
        return config
    return {
        key: _as_in_a_file(item) if str(key).casefold() == "values" else with_lists(item, levels - 1)
        for key, item in config.items()
    }


def _as_in_a_file(values: Any) -> Any:
    if isinstance(values, range):
        return {"start": values.start, "stop": values.stop, "step": values.step}
    return listed(values)


def load_database(
    provider: str,
    name: str | PathLike[str],
    credentials_path: str | PathLike[str] | None = None,
    use_ssh_tunnel: bool = False,
) -> DatabaseConfig:
    """Return where a database is, without the configuration of a study.

    Parameters
    ----------
    provider : str
        ``"sqlite"``, ``"mysql"`` (also for MariaDB) or ``"postgresql"``.
    name : str or path
        Name of the database on the server, or path of the SQLite file.
    credentials_path, use_ssh_tunnel
        As in `load_config`.

    Raises
    ------
    InvalidValueError
        If the provider is unknown.
    ConfigError
        If there are no credentials that can be used.
    """
    from pyexperimenter.config.build import database_config

    return database_config(provider, str(name), credentials_path, use_ssh_tunnel)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the YAML configuration, with which editors complete and check it."""
    from pyexperimenter.config.schema import json_schema as schema_of_the_yaml

    return schema_of_the_yaml()
