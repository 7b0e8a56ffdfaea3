"""The studies in a database, as it keeps them itself."""

from __future__ import annotations

from pyexperimenter.config.model import DatabaseConfig
from pyexperimenter.database.connection import Cursor, Database, retried
from pyexperimenter.exceptions import MissingTableError


class Studies:
    """Finds the studies of a database.

    Parameters
    ----------
    config : DatabaseConfig
        Where it is.
    """

    def __init__(self, config: DatabaseConfig) -> None:
        self.database = Database(config)
        self._dialect = self.database.dialect

    def configuration(self, table: str | None = None) -> tuple[str, str]:
        """Return the table of a study, by default of the only one, and the text of its last configuration.

        Raises
        ------
        MissingTableError
            If the study does not exist, or if there are several and no table is named.
        """
        kept = self.configurations()
        if table is None and len(kept) == 1:
            (table,) = kept
        if table in kept:
            return table, kept[table]
        if not kept:
            raise MissingTableError(f"{self.database} has no study that keeps its configuration; open it by its config")
        problem = "has several studies" if table is None else f"has no study {table}"
        raise MissingTableError(f"{self.database} {problem}; name the table of one of: {', '.join(kept)}")

    @retried
    def configurations(self) -> dict[str, str]:
        """Return the text of the last configuration with which each study was filled, by the name of its table."""
        quote, found = self._dialect.quote, dict[str, str]()
        with self.database.query() as cursor:
            for (meta,) in cursor.all(self._dialect.list_with_column, column="schema_version"):
                if "config" in self._columns(cursor, meta):
                    last = cursor.one(f"SELECT config FROM {quote(meta)} ORDER BY {quote('ID')} DESC LIMIT 1")
                    found |= {} if last is None else {self._main_table(cursor, meta): last[0]}
        return dict(sorted(found.items()))

    def _main_table(self, cursor: Cursor, meta: str) -> str:
        """Return the table of a study: that to which its side tables refer."""
        stem = meta.removesuffix("__meta")
        columns = self._columns(cursor, meta)
        if "experiment_id" not in columns:  # that of an older version has no foreign key
            columns = self._columns(cursor, f"{stem}__attempts")
        return columns.get("experiment_id") or stem

    def _columns(self, cursor: Cursor, table: str) -> dict[str, str | None]:
        """Return the columns of a table, and the table to which each refers."""
        return {name: refers_to for name, _, _, refers_to in cursor.all(self._dialect.list_columns, table=table)}
