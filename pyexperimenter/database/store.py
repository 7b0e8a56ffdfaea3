"""What changes experiments: fill, write, finish and reset. Claims and reading are inherited."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from itertools import islice
from typing import Any, TypeVar, cast

from pyexperimenter.config.model import ExperimentConfig
from pyexperimenter.database.backends.dialect import NO_ID
from pyexperimenter.database.claims import Claim, ClaimStore
from pyexperimenter.database.connection import Cursor, Result, Statement, retried
from pyexperimenter.database.records import (
    NOT_MEASURED,
    Attempt,
    Ending,
    FillCount,
    LogRows,
    Note,
    Usage,
    WorkerInfo,
    Written,
)
from pyexperimenter.database.schema import CODECARBON_COLUMNS, SCHEMA_VERSION
from pyexperimenter.database.selection import Condition, Latest, States, Where
from pyexperimenter.database.statements import RETRIED
from pyexperimenter.database.tables import Tables
from pyexperimenter.database.values import Encoded, Encoder, decode, encode_all
from pyexperimenter.exceptions import (
    ClaimLostError,
    DatabaseError,
    DatabaseFullError,
    DatabaseLimitError,
    EmptyFillDatabaseCallError,
    ExperimentExistsError,
    InvalidExperimentError,
    InvalidLogFieldError,
    InvalidLogtableError,
    InvalidResultFieldError,
    InvalidRowError,
    InvalidValueError,
    PyExperimenterError,
    TransientDatabaseError,
)
from pyexperimenter.experiment_status import ExperimentStatus
from pyexperimenter.fieldtypes import FieldType
from pyexperimenter.jsonable import shown, to_json

_LARGEST_IDS = [(2**bits - 1,) for bits in (31, 32, 63, 64)]  # of the integer types
_CHUNK = 10_000  # rows of one transaction of a fill
_NAMED = 500  # rows named in one statement


class _NotClaimed(PyExperimenterError):
    """An end was not written together with a claim."""


class _NothingAdded(PyExperimenterError):
    """All rows of a chunk exist."""


_Write = TypeVar("_Write", bound=Callable[..., Any])


def _keeping(write: _Write) -> _Write:
    """Keep with the attempt what it cannot write to its row, because it has lost it."""

    @wraps(write)
    def keeping(self: ExperimentStore, attempt: Attempt, *notes: Note, **more: Any) -> Any:
        try:
            return write(self, attempt, *notes, **more)
        except ClaimLostError:
            self._keep_late(attempt, notes)
            raise

    return cast(_Write, keeping)


class ExperimentStore(ClaimStore):
    """The experiments of one study in their database.

    Parameters
    ----------
    config : ExperimentConfig
        The configuration of the study.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        super().__init__(config)
        self.tables = Tables(self.database, self.schema)
        self._config_text = config.text
        self._keyfield_encoders = self._encoders(self.schema.keyfields)
        self._result_encoders = self._encoders(self.schema.resultfields, rounds=True)
        self._log_encoders = {
            name: self._encoders(fields, rounds=True) for name, fields in self.schema.logfields.items()
        }
        self._codecarbon_encoders = self._encoders(CODECARBON_COLUMNS)
        self._sent: set[str] = set()  # tokens of the notes that are being written, and may be in the database

    # Filling

    def encode_row(self, row: Mapping[str, Any], place: str) -> tuple[Any, ...]:
        """Turn a row's keyfields into column values; those left out are NULL.

        Raises
        ------
        InvalidRowError
            If a keyfield is unknown or a value does not fit. The message names `place` and field.
        """
        if not isinstance(row, Mapping):
            raise InvalidRowError(f"{place}: {shown(row)} is not a mapping of keyfields to values")
        for name in row:
            if name not in self._keyfield_encoders:
                raise InvalidRowError(
                    f"{place}: {name!r} is not a keyfield; choose from {', '.join(self.schema.keyfields)}"
                )
        if not row:
            raise InvalidRowError(f"{place}: it has no keyfields")
        try:
            return tuple(encode(row.get(name)) for name, encode in self._keyfield_encoders.items())
        except InvalidValueError as error:
            raise InvalidRowError(f"{place}: {error}") from error

    @property
    def keyfield_encoders(self) -> Mapping[str, Callable[[Any], Any]]:
        """The encoder of each keyfield."""
        return self._keyfield_encoders

    def fill(self, rows: Iterable[tuple[Any, ...]], progress: Callable[[int], object] = lambda _: None) -> FillCount:
        """Insert rows of encoded keyfields, in chunks, except those that exist.

        Parameters
        ----------
        rows : iterable of tuples
            Column values in the order of the keyfields, read chunk by chunk.
        progress : callable
            Called after each chunk with its number of rows.

        Raises
        ------
        EmptyFillDatabaseCallError
            If `rows` is empty.
        """
        added = seen = 0
        iterator, are_new = iter(rows), True
        while chunk := list(islice(iterator, _CHUNK)):
            added_now = self._fill_chunk(chunk, are_new)
            are_new = added_now == len(chunk)  # as the next ones probably are
            added += added_now
            seen += len(chunk)
            progress(len(chunk))
        if not seen:
            raise EmptyFillDatabaseCallError("there are no rows to fill in; give at least one")
        return FillCount(added, seen - added)

    @retried
    def _fill_chunk(self, chunk: Sequence[tuple[Any, ...]], are_new: bool) -> int:
        added = 0
        with suppress(_NothingAdded), self.database.transaction() as cursor:
            try:
                added = self._insert_missing(cursor, chunk, are_new)
            except DatabaseFullError:
                if self.database.dialect.savepoint is None:  # the transaction goes on
                    self._check_ids(cursor, chunk)  # SQLite has one error for no space and for no ID
                raise
            if added < len(chunk):
                self._check_ids(cursor, chunk)
            if not added:
                raise _NothingAdded  # rolled back, so that SQLite spends no IDs on rows that exist
        return added

    def _insert_missing(self, cursor: Cursor, rows: Sequence[tuple[Any, ...]], are_new: bool) -> int:
        write, created = self._sql.write, self._now(cursor)
        fill, triggers = write.fill.format(created=created), self.database.dialect.update_triggers
        if triggers is not None and cursor.one(triggers, table=self.schema.table):
            # They change the rows that exist, which MySQL counts twice.
            return sum(cursor.run_many(fill, [row]) == 1 for row in rows)
        copies, aside = self.database.dialect.copies, self.database.dialect.make_aside

        def through_aside() -> int:
            cursor.run_together(*((sql.format_map(self._sql.write.names), {}) for sql in aside))
            _ = cursor.copy(write.copy_aside, rows) if copies else cursor.run_many(write.insert_aside, rows)
            return cursor.run(write.fill_from_aside.format(created=created))

        # The user may not be allowed to create temporary tables, or be restricted to certain rows.
        ways = [lambda: cursor.run_many(fill, rows)]
        if are_new and copies:
            ways.insert(0, lambda: cursor.copy(write.copy, ((*row, created, "created") for row in rows)))
        elif aside and not are_new:
            ways.insert(0, through_aside)
        return cursor.first_accepted(*ways)

    def _check_ids(self, cursor: Cursor, rows: Sequence[tuple[Any, ...]]) -> None:
        """Raise if rows are missing because no ID is left. MySQL takes that for a row that exists."""
        if cursor.one(self._sql.read.largest_id) not in _LARGEST_IDS:
            return
        try:
            for row in rows:
                self._find(cursor, row)
        except InvalidExperimentError as missing:
            raise DatabaseLimitError(
                f"{missing}, and it cannot be inserted into {self.schema.table}: {NO_ID.advice}"
            ) from None

    # Importing

    @retried
    def import_results(self, rows: Mapping[tuple[Any, ...], Mapping[str, Any]], worker: WorkerInfo) -> None:
        """Write results of open experiments, with an attempt for each: all, or nothing.

        Parameters
        ----------
        rows : Mapping of tuple to Mapping
            Column values of the keyfields -> column values of the results.
        worker : WorkerInfo
            Who imports them; unique to this call.

        Raises
        ------
        InvalidExperimentError
            If the experiment does not exist.
        ExperimentExistsError
            If an experiment is not open.
        """
        ids = self._ids_of(rows)
        with self.database.transaction() as cursor:
            if cursor.one(self._sql.write.has_imported, identity=worker.identity):
                return  # only the answer was lost
            for experiment_id, results in zip(ids, rows.values(), strict=True):
                row = cursor.one(self._sql.claim.await_row, experiment_id=experiment_id, status="created")
                taken = row and self._take(cursor, row, ExperimentStatus.CREATED, worker)
                if not taken:
                    raise ExperimentExistsError(
                        f"experiment {experiment_id} is not open, so nothing was imported; leave it out or reset it"
                    )
                assignments = self._assignments(cursor, results)
                cursor.run_together(
                    self._finishing_row(taken.attempt, "done", None, *assignments),
                    self._finishing(taken.attempt, "imported", concludes=True),
                )

    def _ids_of(self, rows: Collection[tuple[Any, ...]]) -> list[int]:
        """Return the IDs of rows of encoded keyfields, in their order."""
        found: dict[tuple[Any, ...], int] = {}
        for experiment_id, keyfields in self._all_keyfields():
            if keyfields and (encoded := self.encode_row(keyfields, "")) in rows:
                found[encoded] = experiment_id
        missing = next((row for row in rows if row not in found), None)
        if missing is not None:
            raise InvalidExperimentError(
                f"there is no experiment with {self._decode_keyfields((None, *missing))}, so nothing was imported; "
                "insert its row first: fill_table_with_rows"
            )
        return [found[row] for row in rows]

    def encode_results(self, results: Mapping[str, Any], place: str) -> Mapping[str, Any]:
        """Return the column values of results.

        Raises
        ------
        InvalidRowError
            If one is not a resultfield or does not fit. The message begins with `place`.
        """
        encoded = self._encode_results(results)
        if encoded.problem is not None:
            raise InvalidRowError(f"{place}: {encoded.problem}") from encoded.problem
        return encoded.values

    @retried
    def keep_config(self, library: str) -> None:
        """Record the text of the configuration, unless it is that of the last record."""
        with self.database.transaction() as cursor:
            if cursor.one(self._sql.write.last_config) != (self._config_text,):
                cursor.run(
                    self._sql.write.keep_config,
                    schema_version=SCHEMA_VERSION,
                    library=library,
                    config=self._config_text,
                )

    @retried
    def keep_event(self, library: str, kind: str, details: Mapping[str, Any]) -> None:
        """Record that something was done to the study or decided about it; `details` have a JSON form."""
        with self.database.transaction() as cursor:
            cursor.run(
                self._sql.write.keep_event,
                schema_version=SCHEMA_VERSION,
                library=library,
                config=self._config_text,
                event=to_json({"kind": kind, **details}),
            )

    def keep_event_once(self, library: str, kind: str, identity: str, details: Mapping[str, Any]) -> None:
        """Record an event with this ``hash``, unless there is one; two processes may record it at the same time."""
        if all(event["hash"] != identity for event in self.events(kind)):
            self.keep_event(library, kind, {**details, "hash": identity})

    # Writing: values are encoded first, so that wrong ones are reported even while the database is away

    def write_results(self, attempt: Attempt, results: Mapping[str, Any]) -> None:
        """Write results to the attempt's row. Valid ones are written even if others are not valid.

        Raises
        ------
        InvalidResultFieldError
            If a name is not a resultfield.
        InvalidValueError
            If a value does not fit its field.
        ClaimLostError
            If the attempt no longer holds its row. The values are kept with the attempt.
        """
        encoded = self._encode_results(results)
        problem = encoded.problem
        if encoded.values:
            problem = self.put(attempt, Note(results=encoded.values)).problem or problem
        if problem is not None:
            raise problem

    def write_logs(self, attempt: Attempt, logs: Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]]) -> None:
        """Append rows to logtables, in one transaction.

        Parameters
        ----------
        attempt : Attempt
            The attempt that logs.
        logs : Mapping of str to mapping or sequence of mappings
            Logtable -> column -> value; a sequence gives several rows. It is not modified.

        Raises
        ------
        InvalidLogtableError, InvalidLogFieldError, InvalidValueError
            If a logtable or column is unknown, or a value does not fit. Nothing is written then.
        ClaimLostError
            If the attempt no longer holds its row.
        """
        self.put(attempt, Note(logs=self.encode_logs(logs)))

    def finish(
        self,
        attempt: Attempt,
        outcome: ExperimentStatus,
        error: str | None = None,
        usage: Usage = NOT_MEASURED,
        results: Mapping[str, Any] | None = None,
        output: str | None = None,
        retries: int = 0,
        claim: Claim | None = None,
    ) -> Written:
        """End an attempt, write outcome and last results to its row, and claim the next, in one transaction.

        It may be repeated, for example after a commit whose answer was lost. An error opens the row again until
        `retries` executions in a row have failed.

        Returns
        -------
        Written
            How many attempts are left if the row was opened again, as far as is known; and what was claimed, where None
            does not mean that nothing is open.

        Raises
        ------
        InvalidResultFieldError, InvalidValueError
            If a result is not valid. Then nothing is ended, but the other results are written.
        ClaimLostError
            If the attempt no longer holds its row. Results and output are kept with the attempt.
        """
        encoded = self._encode_results(results or {})
        if encoded.problem is not None:
            self.write_results(attempt, results or {})
        ending = Ending(outcome.value, error, usage, output, retries)
        try:
            return self.put(attempt, Note(results=encoded.values, ending=ending), claim=claim)
        except InvalidValueError:
            self.write_results(attempt, results or {})  # writes what fits, and raises for what does not
            raise  # the text of the error did not fit

    @_keeping
    def put(self, attempt: Attempt, note: Note, *, claim: Claim | None = None) -> Written:
        """Write a note. If the table refuses a result, write the others.

        Parameters
        ----------
        attempt : Attempt
            Who writes.
        note : Note
            What it writes.
        claim : Claim, optional
            What to claim in the same transaction, if the note ends the attempt.

        Raises
        ------
        ClaimLostError
            If the attempt no longer holds its row.
        """
        try:
            if claim is not None:
                with suppress(_NotClaimed):
                    return self._end_and_claim(attempt, note, claim)
            return self._put(attempt, note)
        finally:
            self._sent.discard(note.token)

    @retried
    def _end_and_claim(self, attempt: Attempt, note: Note, claim: Claim) -> Written:
        """End an attempt and claim the next row; raise `_NotClaimed` if nothing was done, as the claim may be why."""
        assert note.ending is not None
        try:
            self._find_many(claim.selection)
            search = self._search(claim.selection)
            with self.database.transaction() as cursor:
                left, found = self._end(cursor, attempt, note.ending, note.results, *([search] if search else []))
                if found is None:  # the answer was lost, and with it what was claimed
                    return Written(attempts_left=left, claimed=self._taken_already(cursor, claim.worker))
                row = self._first_open(cursor, claim.selection, found[0] if search else None)
                claimed = None
                if row is not None:
                    claimed = self._take(cursor, row, ExperimentStatus.CREATED, claim.worker, commit=True)
        except TransientDatabaseError:
            self.in_doubt = True
            raise
        except ClaimLostError:
            raise
        except PyExperimenterError as error:
            if isinstance(error, DatabaseError) and error.recovery != "none":
                raise
            raise _NotClaimed from error
        self.in_doubt = False
        return Written(attempts_left=left, claimed=claimed)

    @retried
    def _put(self, attempt: Attempt, note: Note) -> Written:
        with self.database.transaction() as cursor:
            if note.ending is not None:
                return Written(attempts_left=self._end(cursor, attempt, note.ending, note.results)[0])
            _, asked = self._fence(cursor, attempt, *([(self._sql.read.now, {})] if note.logs else []))
            # Only what was sent before may have arrived. This is asked under the lock, as it may arrive until then.
            if note.token not in self._sent or note.token not in self._appended(cursor, attempt, [note]):
                self._sent.add(note.token)
                time = str(asked[0].rows[0][0]) if asked else ""
                self._append(cursor, attempt, note, time, commit=not note.results)
            return Written(self._update_row(cursor, attempt, note.results, commit=True) if note.results else None)

    @_keeping
    @retried
    def replay(self, attempt: Attempt, *notes: Note) -> dict[str, Exception]:
        """Write the notes of a journal, in one transaction; those that were written before are skipped.

        Returns
        -------
        dict of str to Exception
            What the table refuses of results whose others were written, by the token of the note.

        Raises
        ------
        ClaimLostError
            If the attempt no longer holds its row.
        """
        problems: dict[str, Exception] = {}
        last = notes[-1]
        with self.database.transaction() as cursor:
            try:
                # Read under the lock of the fence, as others may be writing a copy of the journal.
                replayed, _ = self._fence(cursor, attempt)
            except ClaimLostError:
                before, outcome = cursor.one(self._sql.write.replayed, **attempt.named) or (None, None)
                if last.ending is not None and outcome in (last.ending.outcome, RETRIED):
                    return problems
                if {note.token for note in notes} <= {*(before or "").split(), *self._appended(cursor, attempt, notes)}:
                    return problems
                raise
            arrived = {*replayed.split(), *self._appended(cursor, attempt, notes)}
            for note in notes:
                if note.token in arrived:
                    continue
                self._append(cursor, attempt, note, note.time)
                if note.ending is not None:
                    self._end(cursor, attempt, note.ending, note.results)
                elif note.results:
                    replayed += f" {note.token}"  # results do not show from which note they are, as rows do
                    if (problem := self._update_row(cursor, attempt, note.results)) is not None:
                        problems[note.token] = problem
            if replayed:
                cursor.run(self._sql.write.keep_replayed, replayed=replayed, **attempt.named)
        return problems

    def _appended(self, cursor: Cursor, attempt: Attempt, notes: Sequence[Note]) -> set[str]:
        """Return the tokens of the notes whose rows are in side tables."""
        tables = {self.schema.logtables.get(name) for note in notes for name in note.logs}
        tables |= {self.schema.codecarbon for note in notes if note.emissions}
        tokens = [note.token for note in notes if note.logs or note.emissions]
        found: set[str] = set()
        for table in filter(None, tables):
            statement = self._sql.write.appended.format(side=self.schema.q(table))
            found.update(
                token for (token,) in cursor.all(statement, tokens=tokens, experiment_id=attempt.experiment_id)
            )
        return found

    def _update_row(
        self, cursor: Cursor, attempt: Attempt, values: Mapping[str, Any], commit: bool = False
    ) -> InvalidValueError | None:
        """Write results; return why some could not be written. With `commit`, the transaction may end with this."""

        def update(values: Mapping[str, Any], commit: bool = False) -> None:
            assignments, parameters = self._assignments(cursor, values)
            statement = self._sql.write.update_row.format(assignments=assignments)
            with cursor.savepoint():
                cursor.run_together((statement, {"experiment_id": attempt.experiment_id, **parameters}), commit=commit)

        problem = None
        try:
            update(values, commit)
        except InvalidValueError:
            # A column of the table may be narrower than the configuration declares: write what fits.
            for name, value in values.items():
                try:
                    update({name: value})
                except InvalidValueError as error:
                    problem = problem or InvalidValueError(f"{name}: {error}")
        return problem

    def _assignments(self, cursor: Cursor, values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return the assignments that write results, and their parameters."""
        columns = dict(values)
        if self.schema.result_timestamps and values:
            columns |= dict.fromkeys((f"{name}_timestamp" for name in values), self._now(cursor))
        assignments = ", ".join(f"{self.schema.q(name)} = :value_{number}" for number, name in enumerate(columns))
        return assignments, {f"value_{number}": value for number, value in enumerate(columns.values())}

    def _append(self, cursor: Cursor, attempt: Attempt, note: Note, time: str, commit: bool = False) -> None:
        """Append the rows of a note to side tables, with its token. With `commit`, the transaction may end there."""
        named = {"experiment_id": attempt.experiment_id, "write_token": note.token}
        sides: list[tuple[str, list[str], list[tuple[Any, ...]]]] = []
        for name, (columns, rows) in note.logs.items():
            if name not in self.schema.logtables:
                raise self._no_logtable(name)
            own = {"timestamp": time, "attempt_id": attempt.id, **named}
            values = tuple(own.values())
            sides.append((self.schema.logtables[name], [*own, *columns], [(*values, *row) for row in rows]))
        if note.emissions:
            own = named | dict(note.emissions)
            sides.append((self.schema.codecarbon, list(own), [tuple(own.values())]))
        for number, (table, names, rows) in enumerate(sides, 1):
            into = self._sql.write.insert_side.format(
                side=self.schema.q(table), columns=", ".join(map(self.schema.q, names))
            )
            cursor.run_many(into, rows, commit=commit and number == len(sides))

    def _end(
        self, cursor: Cursor, attempt: Attempt, ending: Ending, values: Mapping[str, Any], *more: Statement
    ) -> tuple[int, list[Result] | None]:
        """End row and attempt, and run more statements. Neither needs the fence, as each checks what it changes.

        Returns
        -------
        attempts_left : int
            How many attempts are left if the row was opened again.
        results : list of Result or None
            Those of the other statements; None if the attempt had ended before.
        """
        outcome, left = ending.outcome, 0
        if ending.retries and outcome == "error":
            left = max(0, ending.retries - self._setbacks(cursor, attempt.experiment_id, RETRIED))
            outcome = RETRIED if left else outcome
        concludes = outcome != RETRIED
        if outcome == RETRIED:
            row = self._giving_back(attempt)
        else:
            row = self._finishing_row(attempt, outcome, ending.error, *self._assignments(cursor, values))
        finishing = self._finishing(attempt, outcome, ending.error, ending.usage, ending.output, concludes)
        results = cursor.run_together(row, finishing, *more)
        repeated = self._was_repeated(cursor, attempt, results[:2], ending.outcome, RETRIED)
        return left, None if repeated else results[2:]

    def shown_results(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """Return column values of results as plain JSON types."""
        fields = self.schema.resultfields  # a journal may be older than the configuration, and have others
        return {
            name: _as_json(decode(name, fields[name], value) if name in fields else value)
            for name, value in results.items()
        }

    @retried
    def record_audit(
        self, experiment_id: int, worker: WorkerInfo, results: Mapping[str, Any], error: str | None, usage: Usage
    ) -> None:
        """Add an attempt of the outcome ``audit`` with results in plain JSON types. The row stays as it is.

        Raises
        ------
        InvalidExperimentError
            If the experiment does not exist.
        """
        with self.database.transaction() as cursor:
            if cursor.one(self._sql.claim.lock_status, experiment_id=experiment_id) is None:
                raise self._unknown(experiment_id)
            insert, token = self._new_attempt(experiment_id, worker, True, lease=None)
            (inserted,) = cursor.run_together(insert)
            attempt = Attempt(self._inserted(inserted), experiment_id, token=token)
            keeping = (self._sql.write.keep_late_results, {"results": to_json(results), **attempt.named})
            cursor.run_together(keeping, self._finishing(attempt, "audit", error, usage))

    @retried
    def _keep_late(self, attempt: Attempt, notes: Sequence[Note]) -> None:
        """Keep results and output of notes with an attempt that has lost its row."""
        results = self.shown_results({name: value for note in notes for name, value in note.results.items()})
        output = next((note.ending.output for note in notes if note.ending is not None), None)
        if not results and output is None:
            return
        with self.database.transaction() as cursor:
            if output is not None:
                cursor.run(self._sql.write.keep_output, output=output, **attempt.named)
            if results:
                (kept,) = cursor.one(self._sql.write.late_results, **attempt.named) or (None,)
                merged = json.loads(kept or "{}") | results
                cursor.run(self._sql.write.keep_late_results, results=to_json(merged), **attempt.named)

    # Side tables

    def encode_logs(self, logs: Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]]) -> LogRows:
        """Return the column values of logs, with the errors of `write_logs`."""
        return {name: self._encode_logs(name, rows) for name, rows in logs.items()}

    def check_results(self, results: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the column values of results, with the errors of `write_results`."""
        encoded = self._encode_results(results)
        if encoded.problem is not None:
            raise encoded.problem
        return encoded.values

    def _encode_logs(
        self, name: str, rows: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    ) -> tuple[list[str], list[tuple[Any, ...]]]:
        encoders = self._log_encoders.get(name)
        if encoders is None:
            raise self._no_logtable(name)

        def unknown(column: str) -> PyExperimenterError:
            return InvalidLogFieldError(f"logtable {name} has no column {column!r}; it has {', '.join(encoders)}")

        encoded = [encode_all(row, encoders, unknown) for row in ([rows] if isinstance(rows, Mapping) else rows)]
        for row in encoded:
            if row.problem is not None:
                raise row.problem
        columns = list(dict.fromkeys(column for row in encoded for column in row.values))
        return columns, [tuple(row.values.get(column) for column in columns) for row in encoded]

    def write_emissions(self, attempt: Attempt, emissions: Mapping[str, Any]) -> None:
        """Append a row of CodeCarbon's measurements; those without a column are left out.

        Raises
        ------
        ClaimLostError
            If the attempt no longer holds its row.
        """
        known = {name: value for name, value in emissions.items() if name in self._codecarbon_encoders}
        self.put(attempt, Note(emissions=encode_all(known, self._codecarbon_encoders, InvalidLogFieldError).values))

    # Resetting

    @retried
    def reset(
        self,
        states: States,
        where: Where,
        ids: Sequence[int] | None,
        dry_run: bool,
        error: str | None = None,
        outcome: str = "reset",
        cause: str | None = None,
        latest: Latest = Latest(),  # noqa: B008 - frozen
    ) -> int:
        """Open experiments again, with the same IDs, in one transaction. Their open attempts get outcome and cause.

        Returns
        -------
        int
            How many were, or with `dry_run` would be, opened.
        """
        condition = self._selector.rows(states, where, ids, error, latest) & Condition("status <> 'created'")
        if dry_run:
            return self.count(condition)
        with self.database.transaction() as cursor:
            locked = cursor.all(self._sql.write.lock_rows.format(condition=condition.sql), **condition.parameters)
            experiments = [experiment_id for (experiment_id,) in locked]
            for first in range(0, len(experiments), _NAMED):
                named = experiments[first : first + _NAMED]
                self._close_attempts(cursor, named, outcome, cause, concludes=outcome == "reset")
                cursor.run(self._sql.write.reset_rows, experiments=named)
            return len(experiments)

    # Removing

    def remove(
        self, states: States, where: Where, ids: Sequence[int] | None, dry_run: bool, outside_grid: bool = False
    ) -> int:
        """Remove experiments with their attempts and logs, or with `outside_grid` only those that the grid lacks.

        Returns
        -------
        int
            How many were, or with `dry_run` would be, removed.
        """
        condition = self._selector.rows(states, where, ids)
        if outside_grid:
            condition &= ~self.in_grid()
        return self.count(condition) if dry_run else self._remove(condition)

    @retried
    def _remove(self, condition: Condition) -> int:
        with self.database.transaction() as cursor:
            return cursor.run(self._sql.write.remove_rows.format(condition=condition.sql), **condition.parameters)

    # Helpers

    def _no_logtable(self, name: str) -> PyExperimenterError:
        known = ", ".join(self.schema.logtables) or "none"
        return InvalidLogtableError(f"{name!r} is not a logtable; configured are {known}")

    def _encoders(self, fields: Mapping[str, FieldType], rounds: bool = False) -> dict[str, Encoder]:
        keeps_infinity = self.database.dialect.keeps_infinity
        return {name: Encoder(name, kind, keeps_infinity, rounds) for name, kind in fields.items()}

    def _encode_results(self, results: Mapping[str, Any]) -> Encoded:
        return encode_all(results, self._result_encoders, self._no_resultfield)

    def _no_resultfield(self, name: str) -> PyExperimenterError:
        known = ", ".join(self.schema.resultfields) or "none"
        return InvalidResultFieldError(f"{name!r} is not a resultfield; configured are {known}")


def _as_json(value: Any) -> Any:
    try:
        to_json(value)
    except InvalidValueError:
        return repr(value)
    return value
