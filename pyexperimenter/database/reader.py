"""Reading an experiment's tables. A reader never writes and takes no locks."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pyexperimenter.config.model import ExperimentConfig
from pyexperimenter.database.connection import Database, retried
from pyexperimenter.database.schema import COLUMNS_OF_EVERY_STUDY, Schema
from pyexperimenter.database.selection import Condition, Latest, OrderBy, Selector, States, Where, statuses
from pyexperimenter.database.statements import Statements
from pyexperimenter.database.values import decode
from pyexperimenter.exceptions import (
    DatabaseQueryError,
    InvalidLogtableError,
    InvalidValueError,
    MissingTableError,
    ParameterCombinationError,
    TableHasWrongStructureError,
    TransientDatabaseError,
    UndecodableValueError,
)
from pyexperimenter.experiment_status import ExperimentStatus
from pyexperimenter.fieldtypes import FieldType
from pyexperimenter.jsonable import whole_number
from pyexperimenter.machine.contents import Contents

if TYPE_CHECKING:
    from pyexperimenter.grid import Design, Grid

Rows = tuple[list[str], list[tuple[Any, ...]]]
"""Names of columns, and rows."""
_T = TypeVar("_T")
Parts = Iterable[Sequence[tuple[Any, ...]]]
"""Some rows, and some more."""
Take = Callable[[Sequence[str], Parts], _T]
"""What is done with the names of columns and the rows, which come in parts; it may be called again."""


def all_rows(columns: Sequence[str], parts: Parts) -> Rows:
    """Return the names of columns, and all rows together."""
    return list(columns), [row for part in parts for row in part]


_ERRORS = 500  # rows with their errors that are read at a time
_STATES = 8  # more than there are, with some that people have made up
_SAMPLE = 900  # executions; SQLite takes 999 parameters
_READ = 50_000  # rows with their keyfields that are read at a time
_MOST_CENTERS = 8  # from which squares are measured
_MANY = 200_000  # rows, of which parts are read at the same time
BEFORE_ALL = -(2**63)
"""An ID before all others: a person may have given a row a negative one."""


class ExperimentReader:
    """What can be read from the tables of one study.

    Parameters
    ----------
    config : ExperimentConfig
        The configuration of the study.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        self.database = Database(config.database)
        self.schema = Schema(config, self.database.dialect)
        self._sql = Statements(self.schema)
        self._selector = Selector(self.schema)
        self.design = config.table.design
        self._grid = config.table.grid
        self._memory: dict[str, tuple[Any, float, Any]] = {}
        self._files = config.files

    @retried
    def count(self, condition: Condition) -> int:
        """Count the rows that meet a condition, without locks."""
        with self.database.query() as cursor:
            [(rows,)] = cursor.all(self._sql.read.count_rows.format(condition=condition.sql), **condition.parameters)
            return int(rows)

    @retried
    def counts(self) -> dict[str, int]:
        """Count the rows of each status."""
        return self.counts_at_once()

    def counts_at_once(self) -> dict[str, int]:
        """Count the rows of each status, without retries."""
        with self.database.query() as cursor:
            found = {status: int(rows) for status, rows in cursor.all(self._sql.read.counts)}
        known = {status.value: 0 for status in ExperimentStatus if status is not ExperimentStatus.ALL}
        return known | {str(status): rows for status, rows in found.items()}

    def in_grid(self) -> Condition:
        """Return the condition for rows that are in the grid of the configuration.

        Raises
        ------
        ParameterCombinationError
            If the configuration has no grid.
        """
        if self._grid is None:
            raise ParameterCombinationError(
                "the configuration gives no values for the keyfields, so it has no grid; add values to some"
            )
        condition = self._selector.meeting(self._grid.membership)
        if condition is None:
            outside = list(self._outside(self._grid))
            condition = Condition("ID NOT IN (:outside)", {"outside": outside}) if outside else Condition()
        return condition

    def _outside(self, grid: Grid) -> Iterator[int]:
        """Yield the IDs of rows that are not in the grid, where SQL cannot find them."""
        for experiment_id, keyfields in self._all_keyfields():
            if keyfields is None or not grid.membership.holds(keyfields):
                yield experiment_id

    def _all_keyfields(self) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """Yield the ID of each row with its keyfields; None if they cannot be read."""
        last = BEFORE_ALL
        while rows := self.query(self._sql.read.keyfields_from, last=last, limit=_READ)[1]:
            for row in rows:
                try:
                    yield row[0], self._decode_keyfields(row)
                except UndecodableValueError:
                    yield row[0], None
            last = rows[-1][0]

    def counts_outside_grid(self, total: int | None = None) -> dict[str, int]:
        """Count the rows that are not in the grid, by status. Without a grid, and before a migrate, none are.

        This reads the whole table. A study that is only read, and whose `total` is given, remembers for some minutes
        that there were none, as long as no row is added or removed: only a person could have changed keyfields.
        """
        if self._grid is None or not {*self._grid.columns} <= {*self.table_rows(limit=0)[0]}:
            return {}
        if total is None or not self.database.only_reads:
            return self._counts_outside()
        rows = (total, *self.query(self._sql.read.last_row)[1])
        return self.remembered("outside", 600, self._counts_outside, rows, keep=lambda found: not found)

    def _counts_outside(self) -> dict[str, int]:
        counts = Counter[str]()
        for status, number in self._in_parts(self._sql.read.counts_where.format, ~self.in_grid()):
            counts[status] += number
        return dict(counts)

    def _in_parts(
        self, statement: Callable[..., str], condition: Condition, **parameters: Any
    ) -> list[tuple[Any, ...]]:
        """Return the rows of a statement for rows that meet a condition, or those for several parts of a large table.

        Parts are read at the same time, by servers that use one core for each statement.
        """

        def of(part: Condition) -> list[tuple[Any, ...]]:
            both = condition & part
            return self.query(statement(condition=both.sql), **both.parameters, **parameters)[1]

        if self.database.dialect.uses_one_core:
            ((first, last),) = self.query(self._sql.read.first_and_last_id)[1]
            if first is not None and last - first >= _MANY:
                from concurrent.futures import ThreadPoolExecutor

                middle = {"middle": (first + last) // 2}
                with ThreadPoolExecutor(2) as pool:
                    halves = pool.map(of, [Condition("ID < :middle", middle), Condition("ID >= :middle", middle)])
                    return [row for half in halves for row in half]
        return of(Condition())

    def remembered(
        self,
        name: str,
        seconds: float,
        compute: Callable[[], _T],
        of: Any = None,
        keep: Callable[[_T], bool] = lambda _: True,
    ) -> _T:
        """Return what was computed `of` the same at most so many seconds ago, if this study is only read."""
        before, until, found = self._memory.get(name, (None, 0.0, None))
        if time.monotonic() >= until or before != of:
            start, found = time.monotonic(), compute()
            if self.database.only_reads and keep(found):
                self._memory[name] = (of, start + seconds, found)
        return cast("_T", found)

    def block_counts(self, design: Design) -> tuple[int, int, int, int]:
        """Return how many blocks are complete, have a failed row, are begun without one, and all."""
        statement = self._sql.read.block_counts.format(blocks=self._blocks(design))
        ((complete, failed, begun, total),) = self.query(statement)[1]
        return complete, failed, begun, total

    def blocks_continued(self, design: Design, added: int) -> int:
        """Count the blocks that have some of the last `added` rows and others, if any of the rows before is open."""
        before = self.query(self._sql.read.id_before_last, added=added)[1]
        if not before:
            return 0
        statement = self._sql.read.blocks_continued.format(blocks=self._blocks(design))
        ((number,),) = self.query(statement, last=before[0][0])[1]
        return int(number)

    def _blocks(self, design: Design) -> str:
        """Return what GROUP BY needs to keep the blocks apart."""
        return ", ".join(part for name in design.blocks for part in self._selector.grouped(name))

    def _decode_keyfields(self, row: tuple[Any, ...]) -> dict[str, Any]:
        """Return the keyfields of a row of ID and keyfields."""
        named = zip(self.schema.keyfields.items(), row[1:], strict=True)
        return {name: decode(name, kind, value) for (name, kind), value in named}

    @retried
    def latest_attempt(self) -> int:
        """Return the ID of the attempt that was started last; 0 if there is none."""
        with self.database.query() as cursor:
            [(latest,)] = cursor.all(self._sql.read.latest_attempt)
            return int(latest)

    @retried
    def last_durations(self) -> list[float]:
        """Return the durations in seconds of the last experiments that are done, up to a hundred."""
        with self.database.query() as cursor:
            return [seconds for (seconds,) in cursor.all(self._sql.read.last_durations)]

    @retried
    def query(self, sql: str, /, **parameters: Any) -> Rows:
        """Run any statement and return the names of its columns and its rows; both are empty if it has none."""
        with self.database.query() as cursor:
            rows = cursor.all(sql, **parameters)
            return cursor.columns, rows

    @retried
    def stream(self, take: Take[_T], sql: str, /, **parameters: Any) -> _T:
        """Run a query, hand its rows over in parts, and return what becomes of them."""
        with self.database.query() as cursor, cursor.stream(sql, **parameters) as (columns, parts):
            return take(columns, parts)

    @retried
    def run_once(self, sql: str) -> list[tuple[Any, ...]] | int:
        """Run any statement; return its rows, or the number of rows that it changed if it is not a query.

        It is not repeated unless the database has done nothing.

        Raises
        ------
        DatabaseQueryError
            If it fails, or if it is not known whether it was executed.
        """
        with self.database.query() as cursor:
            try:
                (result,) = cursor.run_together((sql, {}))
            except TransientDatabaseError as error:
                if not cursor.is_lost:
                    raise
                raise DatabaseQueryError(
                    "the connection was lost before the answer came: the statement may have been executed, so it is "
                    f"not repeated; look what it has changed before you run it again (while running: {sql})"
                ) from error
            return result.rows if cursor.columns else max(result.changed, 0)  # -1 if it cannot change rows

    def table_rows(
        self,
        where: Where = None,
        columns: Sequence[str] | None = None,
        order_by: OrderBy = None,
        limit: int | None = None,
        ids: Sequence[int] | None = None,
        states: States = None,
        latest: Latest = Latest(),  # noqa: B008 - frozen
        only_grid: bool = False,
        after: int | None = None,
        before: int | None = None,
        take: Take[Any] = all_rows,
    ) -> Any:
        """Return columns and rows of the main table, or what `take` makes of them; with `before`, the last row first.

        Raises
        ------
        InvalidColumnError
            If the table does not have one of the columns.
        TableHasWrongStructureError
            If it is not the table of a study.
        InvalidValueError
            If a state is not a valid status, `latest` is not valid, or the limit is not a whole number.
        """
        condition = self._selector.rows(states, where, ids, latest=latest)
        if only_grid:
            condition &= self.in_grid()
        if after is not None:
            condition &= self._selector.after(order_by, after)
        if before is not None:
            condition &= self._selector.before(order_by, before)
        backwards = before is not None
        order = self._selector.order(order_by, backwards)
        statement = self._sql.read.table.format(
            columns="*" if columns is None else self._selector.columns(columns),
            condition=condition.sql,
            order=f"{order}, " if order else "",
            direction="DESC" if backwards else "ASC",
            limit="" if limit is None else f" LIMIT {whole_number('limit', limit, least=0)}",
        )

        def checked(found: Sequence[str], parts: Parts) -> Any:
            missing = [] if columns is not None else sorted(COLUMNS_OF_EVERY_STUDY - {*found})
            if missing:
                raise TableHasWrongStructureError(
                    f"the table {self.schema.table} is not that of a study: it has no column {missing[0]}; check its "
                    "name"
                )
            return take(found, parts)

        return self.stream(checked, statement, **condition.parameters)

    def attempt_rows(
        self,
        experiment_ids: Sequence[int] | None = None,
        columns: Sequence[str] | None = None,
        last: int | None = None,
        take: Take[Any] = all_rows,
    ) -> Any:
        """Return columns and rows of the attempts, or what `take` makes of them.

        A table of py-experimenter may have none yet.

        Of `columns`, only those are returned that the table has: one of an older version may lack some.
        """
        condition = self._of_experiments(experiment_ids)
        if last is not None:
            condition &= Condition(self._sql.read.last_attempts, {"last": whole_number("last", last, least=0)})
        try:
            names = "*" if columns is None else self._of_attempts(columns)
            statement = self._sql.read.attempts.format(columns=names, condition=condition.sql)
            return self.stream(take, statement, **condition.parameters)
        except MissingTableError:
            self.count(Condition())
            self._refuse_renamed()
            return take(list(self.schema.types_of(self.schema.attempts)), [])

    @staticmethod
    def _of_experiments(ids: Sequence[int] | None) -> Condition:
        """Return the condition for the attempts of some experiments."""
        return Condition() if ids is None else Condition("experiment_id IN (:of)", {"of": list(ids) or [None]})

    def _of_attempts(self, columns: Sequence[str]) -> str:
        """Return those of the columns that the attempts have, for a SELECT."""
        existing, _ = self.query(self._sql.read.attempts.format(columns="*", condition="1 = 0"))
        return ", ".join(self.schema.q(name) for name in columns if name in existing)

    def attempts_differ(self, experiment_ids: Sequence[int] | None, columns: Sequence[str]) -> bool:
        """Return whether the attempts that ended well may differ in these columns."""
        condition = self._of_experiments(experiment_ids) & Condition("outcome = 'done'")
        try:
            names = self._of_attempts(columns)
            statement = self._sql.read.some_attempts.format(columns=names, condition=condition.sql)
            return len(self.query(statement, **condition.parameters)[1]) > 1
        except MissingTableError:
            return True  # `attempt_rows` says more

    def _refuse_renamed(self) -> None:
        """Raise if the main table was renamed, and its side tables were not yet."""
        references = self.query(self.database.dialect.list_references, table=self.schema.table)[1]
        attempts = [name for (name,) in references if name.endswith("__attempts")]
        if attempts and self.schema.attempts not in attempts:
            raise MissingTableError(
                f"{self.schema.table} was renamed, but {attempts[0]} has kept its name; create_table() renames it, too"
            )

    def error_rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield ID, keyfields and error of each experiment in error, by ID, with a few of them in memory at a time."""
        last = BEFORE_ALL
        while rows := self.query(self._sql.read.errors, last=last, limit=_ERRORS)[1]:
            yield from rows
            last = rows[-1][0]

    def newest_errors(self, limit: int) -> list[int]:
        """Return the IDs of so many experiments in error, the newest first."""
        try:
            found = [experiment_id for (experiment_id,) in self.query(self._sql.read.newest_errors, limit=limit)[1]]
        except MissingTableError:
            found = []  # a table of py-experimenter
        if len(found) == limit:
            return found
        rows = partial(self.table_rows, columns=["ID"], order_by=["-end_date", "-ID"], limit=limit, states="error")
        # If many failed, but none of late, this reads all of those.
        return [experiment_id for (experiment_id,) in self.remembered("errors", 60, rows, (limit, found))[1]]

    def has_other(self, keyfield: str, experiment_id: int) -> bool:
        """Return whether some experiment has another value of this keyfield than this one."""
        column, own = (self._selector.comparable(keyfield, row) for row in ("t", "one"))
        statement = self._sql.read.other_value.format(column=column, own=own)
        return bool(self.query(statement, experiment_id=experiment_id)[1])

    def activity(self) -> tuple[datetime, list[tuple[datetime, datetime]], list[tuple[Any, ...]]]:
        """Return the database's time, starts and ends of the last executions, and what is running.

        The last is a list of experiment, worker, machine, process, cluster job, start, last heartbeat and end of lease.
        """
        ((now,),) = self.query(self._sql.read.now_exactly)[1]
        try:
            ended, running = self.query(self._sql.read.last_executions)[1], self.query(self._sql.read.running)[1]
        except MissingTableError:
            ended, running = [], []  # a table of py-experimenter
        workers = [(*row[:5], *(None if value is None else _moment(value) for value in row[5:])) for row in running]
        return _moment(now), [(_moment(start), _moment(end)) for start, end in ended], workers

    def sampled_executions(self, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        """Return columns, start and end of some executions from the whole study that have ended."""
        ((first, last),) = self.query(self._sql.read.first_and_last_attempt)[1]
        if first is None:
            return []
        probes = sorted({first + (last - first) * index // (_SAMPLE - 1) for index in range(_SAMPLE)})
        names = ", ".join(f"t.{self.schema.q(name)}" for name in columns)
        rows = self.query(self._sql.read.executions_among.format(columns=names), probes=probes)[1]
        return [(*row[:-2], _moment(row[-2]), _moment(row[-1])) for row in rows]

    def groups(
        self, by: Sequence[str], value: str | None, states: States, where: Where, limit: int | None
    ) -> list[tuple[Any, ...]]:
        """Return rows of values of `by`, a status, and how many experiments have them.

        And the number of values, their mean, and the sum of the squares of their distances to it.
        """
        condition = self._selector.rows(states if value is None else None, where)
        wanted = [status.value for status in statuses(states)]
        if value is not None and ExperimentStatus.ALL.value not in wanted:
            # With a result, most rows are read, and faster one after the other than by way of the index on the status.
            condition &= Condition("COALESCE(status, '') IN (:states)", {"states": wanted})
        # A statement needs a number even where no result is asked for.
        dialect, center = self.database.dialect, 0.0
        result = "NULLIF(1.0, 1.0)" if value is None else dialect.number.format(self._selector.columns([value]))
        if value is not None and ":center" in dialect.squares:
            near = self._sql.read.center.format(value=result, condition=condition.sql)
            center = float(self.query(near, **condition.parameters)[1][0][0] or 0)
        named = dict[str, str]()
        for number, name in enumerate(by):
            for part, expression in enumerate(self._selector.grouped(name)):
                named[f"by_{number}_{part}"] = expression
        statement = partial(
            self._sql.read.groups.format,
            shown=", ".join(f"by_{number}_0" for number in range(len(by))),
            columns=", ".join(f"{expression} AS {name}" for name, expression in named.items()),
            value=result,
            squares=dialect.squares.format(result),
            groups=", ".join(named.values()),
            order=", ".join(named),
            limit="" if limit is None else f" LIMIT {whole_number('limit', limit, least=0) * _STATES}",
        )
        rows = self._in_parts(statement, condition, center=center)
        if ":center" in dialect.squares:
            rows = _by_nearer_centers(rows, center, lambda other: self._in_parts(statement, condition, center=other))
        if dialect.uses_one_core:
            rows.sort(key=lambda row: [_place(one) for one in row[: len(by)]])
        return rows

    def ended(self, parts: int) -> list[tuple[datetime, int]]:
        """Return how many executions ended in each of some parts of the time in which any did, with the part's end."""
        try:
            ((first, last),) = self.query(self._sql.read.first_and_last_end)[1]
        except MissingTableError:
            return []  # a table of py-experimenter
        if first is None:
            return []
        first, last = _moment(first), _moment(last)
        ends = [first + (last - first) * (part / parts) for part in range(parts + 1)]
        ends[0] -= timedelta(seconds=1)  # the first itself counts, too
        bounds = {f"since_{part}": ends[part].isoformat(" ", "microseconds") for part in range(parts)}
        bounds |= {f"until_{part}": ends[part + 1].isoformat(" ", "microseconds") for part in range(parts)}
        counting = " UNION ALL ".join(self._sql.read.ended_until.format(number=part) for part in range(parts))
        counts = dict[int, int](self.query(counting, **bounds)[1])
        return [(ends[part + 1], int(counts[part])) for part in range(parts)]

    def versions(self) -> list[tuple[str | None, bool | None, int]]:
        """Return which commits the last executions ran, whether with changes, and how many executions; most first."""
        try:
            rows = self.query(self._sql.read.versions)[1]
        except MissingTableError:
            return []  # a table of py-experimenter
        return [(commit, None if dirty is None else bool(dirty), int(number)) for commit, dirty, number in rows]

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return what was recorded of this kind, in order, with the time as ``created``."""
        # Tables of older versions have no column for events.
        events = [(row["created"], json.loads(row["event"])) for row in self._meta() if row.get("event")]
        return [{"created": _moment(created), **event} for created, event in events if event["kind"] == kind]

    def configs(self) -> list[str]:
        """Return the texts of the configurations with which the table was created or filled, in order, each once."""
        return list(dict.fromkeys(row["config"] for row in self._meta() if row.get("config")))

    def _meta(self) -> list[dict[str, Any]]:
        try:
            columns, rows = self.query(self._sql.read.meta)
        except MissingTableError:
            return []  # a table of py-experimenter
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def usage(self) -> list[tuple[str | None, int, float, float, int]]:
        """Return executions, wall-clock and CPU seconds, and the most memory of one in bytes, for each outcome."""
        try:
            rows = self.query(self._sql.read.usage)[1]
        except MissingTableError:
            return []  # a table of py-experimenter
        return [
            (outcome, int(number), float(wall or 0), float(cpu or 0), int(most or 0))
            for outcome, number, wall, cpu, most in rows
        ]

    def emissions(self) -> tuple[float, float]:
        """Return the emissions in kg of CO2 equivalents, and the energy in kWh, that CodeCarbon has measured."""
        ((emissions, energy),) = self.query(self._sql.read.emissions)[1]
        return float(emissions or 0), float(energy or 0)

    def environment_counts(self) -> dict[str, int]:
        """Return how many attempts there were in each environment, by its hash."""
        try:
            if "environment" not in self.query(self._sql.read.attempts.format(columns="*", condition="1 = 0"))[0]:
                return {}  # a table of an older version
            return {name: int(count) for name, count in self.query(self._sql.read.environment_counts)[1] if name}
        except MissingTableError:
            return {}  # a table of py-experimenter

    def audits(self, audit: str) -> dict[int, tuple[dict[str, Any], str | None]]:
        """Return what the experiments of an audit reported again: ID -> results and error; of several, the first."""
        found: dict[int, tuple[dict[str, Any], str | None]] = {}
        for experiment_id, results, error in self.query(self._sql.read.audits, below=f"{audit}.%")[1]:
            found.setdefault(experiment_id, (json.loads(results), error))
        return found

    def emission_rows(self, take: Take[Any] = all_rows) -> Any:
        """Return columns and rows of CodeCarbon's table, or what `take` makes of them."""
        return self.stream(take, self._sql.read.side_table.format(side=self.schema.q(self.schema.codecarbon)))

    def logtable(self, name: str) -> str:
        """Return the name of a logtable in the database.

        Raises
        ------
        InvalidLogtableError
            If there is no such logtable.
        """
        if name not in self.schema.logtables:
            known = ", ".join(self.schema.logtables) or "none"
            raise InvalidLogtableError(f"{name!r} is not a logtable; configured are {known}")
        return self.schema.logtables[name]

    @property
    def contents(self) -> Contents:
        """The folder with the files of the runs.

        Raises
        ------
        InvalidValueError
            If none is configured.
        """
        if self._files is None:
            raise InvalidValueError(
                "the configuration has no folder for files; add one to the section Database, as in files: true"
            )
        return Contents(self._files)

    def log_rows(self, name: str, condition: str | None, all_attempts: bool, take: Take[Any] = all_rows) -> Any:
        """Return columns and rows of a logtable, or what `take` makes of them."""
        table = self.schema.q(self.logtable(name))
        where = f"({condition}\n)" if condition else "1 = 1"
        if not all_attempts:
            try:
                return self.stream(take, self._sql.read.current_logs.format(side=table, condition=where))
            except MissingTableError:
                self._refuse_renamed()
                # A table of py-experimenter without attempts: all its logs are current.
        return self.stream(take, self._sql.read.all_logs.format(side=table, condition=where))


def _by_nearer_centers(
    rows: list[tuple[Any, ...]], center: float, measured: Callable[[float], list[tuple[Any, ...]]]
) -> list[tuple[Any, ...]]:
    """Return groups with squares that are measured again from means of groups, where they were from far away.

    Squares of distances much larger than the values have no digits left for these: of losses around 0.5, if some
    others have diverged to 1e9. One more pass does for all groups of the same size.
    """
    centers = {row[:-3]: center for row in rows}
    for _ in range(_MOST_CENTERS):
        far = [row[-2] for row in rows if _is_far(row, centers[row[:-3]])]
        if not far:
            break
        others = {row[:-3]: row for row in measured(far[0])}
        for at, row in enumerate(rows):
            key, mean = row[:-3], row[-2]
            if key in others and mean is not None and abs(mean - far[0]) < abs(mean - centers[key]):
                rows[at], centers[key] = others[key], far[0]
    return rows


def _is_far(row: tuple[Any, ...], center: float) -> bool:
    number, mean, squares = row[-3:]
    if number < 2 or mean is None or squares is None:
        return False
    distance = abs(mean - center)
    return bool(100 * abs(mean) < distance < math.inf and squares < 1e-6 * number * distance * distance)


def _place(value: Any) -> tuple[bool, Any]:
    """Return by what MySQL sorts a value: NULL is the smallest, and a time of zeros comes as text."""
    return value is not None, str(value) if isinstance(value, date) else value


def _moment(value: Any) -> datetime:
    moment: datetime = decode("time", _DATETIME, value)
    return moment


_DATETIME = FieldType.parse("DATETIME")
