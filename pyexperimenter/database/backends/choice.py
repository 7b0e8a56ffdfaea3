"""The backend for a configuration."""

from __future__ import annotations

from pyexperimenter.config.model import DatabaseConfig
from pyexperimenter.database.backends.base import Backend


def backend_of(config: DatabaseConfig) -> Backend:
    """Return the backend for a configuration; only its driver is imported."""
    if config.provider == "sqlite":
        from pyexperimenter.database.backends.sqlite import SqliteFile

        return SqliteFile(config)
    if config.provider == "mysql":
        from pyexperimenter.database.backends.mysql import MySqlServer

        return MySqlServer(config)
    from pyexperimenter.database.backends.postgresql import PostgreSqlServer

    return PostgreSqlServer(config)
