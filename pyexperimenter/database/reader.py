"""Reading an experiment's tables. A reader never writes and takes no locks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyexperimenter.config.model import ExperimentConfig
from pyexperimenter.database.connection import Database, retried
from pyexperimenter.database.schema import Schema
from pyexperimenter.database.selection import Condition
from pyexperimenter.database.statements import Statements
from pyexperimenter.exceptions import InvalidLogtableError, MissingTableError
from pyexperimenter.experiment_status import ExperimentStatus

Rows = tuple[list[str], list[tuple[Any, ...]]]
"""Names of columns, and rows."""


class ExperimentReader:
    """What can be read of the experiments of one configuration.

    Parameters
    ----------
    config : ExperimentConfig
        What they are and where.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        self.database = Database(config.database)
        self.schema = Schema(config, self.database.dialect)
        self._sql = Statements(self.schema)

    @retried
    def count(self, condition: Condition) -> int:
        """Count rows under a condition, without locks."""
        with self.database.query() as cursor:
            (rows,) = cursor.one(self._sql.count_rows.format(condition.sql), condition.parameters) or (0,)
            return int(rows)

    @retried
    def counts(self) -> dict[str, int]:
        """Count rows by status; every status is in it."""
        with self.database.query() as cursor:
            found = {status: int(rows) for status, rows in cursor.all(self._sql.counts)}
        known = {status.value: 0 for status in ExperimentStatus if status is not ExperimentStatus.ALL}
        return known | {str(status): rows for status, rows in found.items()}

    @retried
    def last_durations(self) -> list[float]:
        """Return the seconds that the experiments done last took, a hundred at most."""
        with self.database.query() as cursor:
            return [seconds for (seconds,) in cursor.all(self._sql.last_durations)]

    @retried
    def query(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """Run any statement and return the names of its columns and its rows, both empty if it has none."""
        with self.database.query() as cursor:
            rows = cursor.all(sql, parameters)
            return cursor.columns, rows

    def table_rows(self) -> Rows:
        """Return columns and rows of the main table."""
        return self.query(self._sql.table)

    def attempt_rows(self) -> Rows:
        """Return columns and rows of the attempts; there are none yet for a table of the predecessor."""
        try:
            return self.query(self._sql.attempts)
        except MissingTableError:
            self.count(Condition())
            return list(self.schema.types_of(self.schema.attempts)), []

    def emission_rows(self) -> Rows:
        """Return columns and rows of CodeCarbon's table."""
        return self.query(self._sql.side_table.format(self.schema.q(self.schema.codecarbon)))

    def log_rows(self, name: str, condition: str | None, all_attempts: bool) -> Rows:
        """Return columns and rows of a logtable.

        Raises
        ------
        InvalidLogtableError
            If there is no such logtable.
        """
        if name not in self.schema.logtables:
            known = ", ".join(self.schema.logtables) or "none"
            raise InvalidLogtableError(f"{name!r} is no logtable; logtables are {known}")
        table = self.schema.q(self.schema.logtables[name])
        where = f"({condition}\n)" if condition else "1 = 1"
        if not all_attempts:
            try:
                return self.query(self._sql.current_logs.format(table, where))
            except MissingTableError:
                pass  # a table of the predecessor that has no attempts yet: all its logs are current
        return self.query(self._sql.all_logs.format(table, where))
