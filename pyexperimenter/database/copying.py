"""Copying a study to another database, with all its tables and IDs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from pyexperimenter.database.connection import Cursor, retried
from pyexperimenter.database.reader import BEFORE_ALL
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.database.values import Encoder, decode
from pyexperimenter.exceptions import CopyError
from pyexperimenter.fieldtypes import FieldType, Kind

_CHUNK = 2_000  # rows; an attempt may have 64 KiB of output
_AFTER_ALL = 2**63 - 1
_AS_IT_IS = {Kind.INTEGER: int, Kind.REAL: float, Kind.TEXT: str}

Rows = list[tuple[Any, ...]]


class StudyCopy:
    """Copies a study to another database, or completes a copy that was interrupted.

    All is read in one transaction, so the copy is the study at one moment. Rows are written in the order of their IDs,
    each chunk in one transaction. What is in the target before and afterwards is compared with the original.

    Parameters
    ----------
    source, target : ExperimentStore
        The study, and the same study in the other database.
    """

    def __init__(self, source: ExperimentStore, target: ExperimentStore) -> None:
        self._source = source
        self._target = target

    def run(self, snapshot: bool, progress: Callable[[int], object] = lambda _: None) -> int:
        """Copy what the target lacks, and return the number of experiments in the copy.

        Parameters
        ----------
        snapshot : bool
            Whether to copy a study of which experiments are running. In the copy, they are lost when their leases end.
        progress : callable
            Called after each chunk of experiments with their number.

        Raises
        ------
        CopyError
            If experiments are running, or if the target contains something else than a part of this study.

        Warns
        -----
        UserWarning
            If a table has columns that are not in the configuration, which are not copied.
        """
        schema = self._source.schema
        existing = {table: self._source.tables.columns(table) for table in (schema.table, *schema.suffixes)}
        unknown = [
            f"{table}.{name}" for table, names in existing.items() for name in {*names} - {*schema.types_of(table)}
        ]
        if unknown:
            message = f"columns that are not in the configuration are not copied: {', '.join(sorted(unknown))}"
            warnings.warn(message, stacklevel=3)
        self._target.tables.create(codecarbon=bool(existing[schema.codecarbon]))
        with self._source.database.snapshot() as cursor:
            [(running,)] = cursor.all(f"SELECT COUNT(*) FROM {schema.q(schema.table)} WHERE status = 'running'")
            if running and not snapshot:
                raise CopyError(f"experiments are running ({running}); wait for their end, or copy a snapshot")
            experiments = self._copy(cursor, schema.table, existing.pop(schema.table), progress)
            for table, columns in existing.items():
                if columns:
                    self._copy(cursor, table, columns)
        return experiments

    def _copy(
        self, cursor: Cursor, table: str, columns: Sequence[str], progress: Callable[[int], object] = lambda _: None
    ) -> int:
        return _TableCopy(self._source, self._target, table, columns).run(cursor, progress)


class _TableCopy:
    def __init__(self, source: ExperimentStore, target: ExperimentStore, table: str, existing: Sequence[str]) -> None:
        self.database = target.database
        self._table = table
        types = source.schema.types_of(table)
        self._fields = {name: field for name, field in types.items() if name in existing}
        self._read = self._query(source)
        self._read_back = self._query(target)
        self._q, self._dialect = target.schema.q, target.database.dialect
        keeps_infinity = self._dialect.keeps_infinity
        self._encoders = {name: Encoder(name, field, keeps_infinity) for name, field in self._fields.items()}
        self._is_other = source.database.dialect is not self._dialect

    def _query(self, store: ExperimentStore) -> str:
        q = store.schema.q
        columns, name, key = ", ".join(map(q, self._fields)), q(self._table), q("ID")
        return f"SELECT {columns} FROM {name} WHERE {key} > :after AND {key} <= :last ORDER BY {key} LIMIT {_CHUNK}"

    def run(self, cursor: Cursor, progress: Callable[[int], object]) -> int:
        copied, after = 0, BEFORE_ALL
        while rows := self._converted(cursor.all(self._read, after=after, last=_AFTER_ALL)):
            last = rows[-1][0]
            there = self._there(after, last)
            if len(there) < len(rows):
                self._check(rows[: len(there)], there)
                self._add(rows[len(there) :])
                there = self._there(after, last)
            self._check(rows, there)
            copied, after = copied + len(rows), last
            progress(len(rows))
        self._check([], self._there(after, _AFTER_ALL))
        if copied and self._dialect.advance_ids is not None:
            self._advance_ids()
        return copied

    @retried
    def _there(self, after: int, last: int) -> Rows:
        """Return the rows of the target in a range of IDs."""
        with self.database.query() as cursor:
            return self._converted(cursor.all(self._read_back, after=after, last=last))

    @retried
    def _add(self, rows: Rows) -> None:
        with self.database.transaction() as cursor:
            where = f"{self._q(self._table)} ({', '.join(map(self._q, self._fields))})"
            if self._dialect.copies:
                cursor.copy(f"COPY {where} FROM STDIN", rows)
            else:
                cursor.run_many(f"INSERT INTO {where} VALUES (:row)", rows)

    @retried
    def _advance_ids(self) -> None:
        """Let the IDs of new rows begin after those of the copied ones, where the database does not do that itself."""
        table = self._q(self._table)
        with self.database.transaction() as cursor:
            cursor.all((self._dialect.advance_ids or "").format(table=table), table=table)

    def _check(self, rows: Rows, there: Rows) -> None:
        if there == rows or repr(there) == repr(rows):  # NaN does not equal itself
            return
        wrong = min(row[0] for row in {*map(_hashable, rows)} ^ {*map(_hashable, there)})
        raise CopyError(
            f"ID {wrong} of {self._table} in {self.database} is not that of the original, so this is another study, or "
            "one of the two was changed; copy to another database, or delete that table first"
        )

    def _converted(self, rows: Rows) -> Rows:
        """Return rows with the target's column values."""
        if not self._is_other or not rows:
            return rows
        columns = zip(*rows, strict=True)
        return list(zip(*map(self._column, self._fields, self._fields.values(), columns), strict=True))

    def _column(self, name: str, field: FieldType, values: Sequence[Any]) -> Sequence[Any]:
        as_it_is = _AS_IT_IS.get(field.kind)
        is_plain = {*map(type, values)} <= {as_it_is, type(None)}
        if is_plain and (as_it_is is not float or all(map(math.isfinite, filter(None, values)))):
            return values
        encode = self._encoders[name]
        return [None if value is None else encode(decode(name, field, value)) for value in values]


def _hashable(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return row[0], repr(row)
