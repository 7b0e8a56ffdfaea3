"""A stand-in for the connector of py-experimenter, with which people ran SQL of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyexperimenter.database.backends.base import Backend, translated
from pyexperimenter.predecessor import OF_CONNECTOR, no_attribute


class Connector:
    """Connections of the driver, in autocommit mode. New code calls `execute_custom_query`.

    Parameters
    ----------
    backend : Backend
        The database.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        raise no_attribute(self, name, OF_CONNECTOR)

    def connect(self) -> Any:
        """Open a connection of the driver."""
        return self._backend.connect(create=True)

    def cursor(self, connection: Any) -> Any:
        """Return a cursor of a connection."""
        return connection.cursor()

    def execute(self, cursor: Any, sql_statement: str, values: Sequence[Any] | None = None) -> None:
        """Run a statement, whose placeholders are those of the driver.

        Raises
        ------
        DatabaseError
            If it fails.
        """
        try:
            cursor.execute(sql_statement, () if values is None else values)
        except self._backend.errors as error:
            raise translated(error, self._backend, f"running: {sql_statement}", cursor.connection) from error

    def fetchall(self, cursor: Any) -> list[tuple[Any, ...]]:
        """Return the rows of the last statement."""
        return list(cursor.fetchall())

    def commit(self, connection: Any) -> None:
        """Commit what the caller has begun by ``BEGIN``; other statements are committed already."""
        connection.commit()

    def close_connection(self, connection: Any) -> None:
        """Close a connection."""
        connection.close()
