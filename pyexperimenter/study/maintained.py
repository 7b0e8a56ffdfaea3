"""The part of the facade that changes what a study has: filling, resetting, removing and copying experiments."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyexperimenter import __version__
from pyexperimenter.config import load_database
from pyexperimenter.config.model import ExperimentConfig
from pyexperimenter.database.copying import StudyCopy
from pyexperimenter.database.records import FillCount
from pyexperimenter.database.selection import Latest, States, Where, statuses
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import (
    CopyError,
    EmptyFillDatabaseCallError,
    InvalidRowError,
    InvalidValueError,
    MissingTableError,
    ParameterCombinationError,
    ReadOnlyDatabaseError,
)
from pyexperimenter.execution.provenance import caller, worker_info
from pyexperimenter.experiment_status import ExperimentStatus
from pyexperimenter.grid import Combinations
from pyexperimenter.grid.membership import identity
from pyexperimenter.jsonable import counted, is_missing, jsonable, records, unwrap
from pyexperimenter.study.analyzed import AnalyzedStudy
from pyexperimenter.study.primary import keep_primary
from pyexperimenter.study.progress import fill_bar
from pyexperimenter.study.status import outside_grid_text

if TYPE_CHECKING:
    import pandas as pd

_FINISHED = (ExperimentStatus.DONE, ExperimentStatus.ERROR, ExperimentStatus.PAUSED)


class MaintainedStudy(AnalyzedStudy):
    """The methods that change which experiments a study has, and which of them are open.

    Parameters
    ----------
    config, codecarbon
        As for `Study`.
    name : str
        Stored with experiments whose results are imported.
    logger : logging.Logger
        Receives what was changed.
    """

    def __init__(
        self, config: ExperimentConfig, codecarbon: Mapping[str, Any] | None, name: str, logger: logging.Logger
    ) -> None:
        super().__init__(config, codecarbon)
        self.name = name
        self.logger = logger

    # Creating and filling the table

    def create_table(self, create_database: bool = False) -> None:
        """Create the table and its side tables if they are missing. Filling does this automatically.

        Parameters
        ----------
        create_database : bool
            Whether to create the database on the server, too.

        Raises
        ------
        TableHasWrongStructureError
            If a table of this name exists and differs from the configuration.
        DuplicateExperimentsError
            If an existing table has rows with equal keyfields.
        DatabaseCreationError
            If the database cannot be created.
        """
        if create_database:
            self._store.database.create_if_missing()
        self._store.tables.create(codecarbon=self._codecarbon is not None)
        self._store.keep_config(__version__)

    def fill_table_from_config(self) -> FillCount:
        """Insert the rows of the grid that are missing from the table.

        A warning says how many other rows the table has; see `prune`. With a design, the rows are inserted block by
        block, and so executed block by block. With ``replicate``, only the first values of its keyfield are used.

        Returns
        -------
        FillCount
            ``(added, skipped)``: the number of rows inserted, and of rows that already existed.

        Raises
        ------
        ParameterCombinationError
            If the configuration gives no values for the keyfields.
        """
        grid = self.config.table.grid
        if grid is None:
            raise ParameterCombinationError(
                f"{self.config.source} gives no values for the keyfields, so there is no grid; "
                "add values, or use fill_table_from_combination or fill_table_with_rows"
            )
        rows: Iterator[tuple[Any, ...]] = grid.tuples(self._store.keyfield_encoders)
        total: int | None = len(grid)
        if self.config.table.replicate is not None:
            rows, total = self._first(rows), None
        count = self._fill(rows, total)
        self._warn_of_continued_blocks(count)
        if others := self.counts(outside_grid=True):
            advice = "prune() removes open ones, and only_grid=True leaves them out"
            self.logger.warning("%s: %s", outside_grid_text(others), advice)
        return count

    def replicate(self, dry_run: bool = False) -> pd.DataFrame:
        """Insert experiments with more seeds where intervals are still too wide, as the key ``replicate`` says.

        Whole blocks are added. Call it again after these have been executed. What was found and decided is recorded in
        the database, and is said below all tables and tests of the study.

        Parameters
        ----------
        dry_run : bool
            Only report.

        Returns
        -------
        pandas.DataFrame
            The intervals, and how many seeds were (or would be) added; a row for each interval: the keyfields of
            the cell, ``of``, ``n``, ``mean``, ``half_width``, ``state`` and ``add``, the number of new seeds.

        Raises
        ------
        ParameterCombinationError
            If the configuration has no ``replicate``.
        """
        from pyexperimenter.analysis.replication import further_values, look

        grid, design, rule = self.config.table.grid, self.config.table.design, self.config.table.replicate
        if grid is None or design is None or rule is None:
            raise ParameterCombinationError(
                f"{self.config.source} does not say when there are enough seeds; add replicate to the table, as in "
                "replicate: {over: seed, of: accuracy, until: {ci95: 0.01}, min: 10, max: 50}"
            )
        cells = [name for name in design.blocks if name != rule.over]
        settings = [*design.compare, *(name for name in grid.columns if name not in {*design.blocks, *design.compare})]
        table = self.get_table(only_grid=True)
        found = look(table, rule, cells, settings)
        if not dry_run:
            further = further_values(table, found, rule, cells, grid.values_of(rule.over))
            rows = (row for row in grid if row[rule.over] in further[identity([row[name] for name in cells])])
            encoded = [self._store.encode_row(row, "the grid") for row in rows]
            if encoded:
                self._fill(encoded, len(encoded))
            if not (found["state"] == "open").all():
                details = {"rule": asdict(rule), "intervals": records(found)}
                self._store.keep_event(__version__, "replication", details)
        return found

    def fill_table_from_combination(
        self,
        fixed_parameter_combinations: Iterable[Mapping[str, Any]] | pd.DataFrame | None = None,
        parameters: Mapping[str, Iterable[Any]] | None = None,
    ) -> FillCount:
        """Insert the Cartesian product of fixed combinations and the values of the other keyfields.

        Parameters
        ----------
        fixed_parameter_combinations : iterable of mappings or DataFrame, optional
            Keyfield -> value.
        parameters : Mapping of str to iterable, optional
            Keyfield -> values, for the keyfields that are not in the combinations.

        Returns
        -------
        FillCount
            ``(added, skipped)``.

        Raises
        ------
        ParameterCombinationError
            If combinations and parameters together do not give each keyfield exactly once, or a value does not fit.
        EmptyFillDatabaseCallError
            If nothing is given.
        """
        combinations = [] if fixed_parameter_combinations is None else list(_rows(fixed_parameter_combinations))
        parameters = {} if parameters is None else dict(parameters)
        if not combinations and not parameters:
            raise EmptyFillDatabaseCallError("neither combinations nor parameters are given; give at least one of them")
        rows = Combinations(tuple(self.config.table.keyfields), combinations or [{}], parameters)
        return self._fill(rows.encoded(self._store.encode_row), len(rows))

    def fill_table_with_rows(self, rows: Iterable[Mapping[str, Any]] | pd.DataFrame) -> FillCount:
        """Insert rows. All of them are checked before the first is written.

        Parameters
        ----------
        rows : iterable of mappings, or DataFrame
            Keyfield -> value. Omitted keyfields are NULL.

        Returns
        -------
        FillCount
            ``(added, skipped)``.

        Raises
        ------
        InvalidRowError
            If a row is not valid. The message names row and field, and nothing was written.
        EmptyFillDatabaseCallError
            If there are no rows.
        """
        encoded = [self._store.encode_row(row, f"row {number}") for number, row in enumerate(_rows(rows))]
        return self._fill(encoded, len(encoded))

    def migrate(self, dry_run: bool = False, defaults: Mapping[str, Any] | None = None) -> list[str]:
        """Add the columns and logtables of the configuration that the existing tables lack.

        Parameters
        ----------
        dry_run : bool
            Report the changes without applying them.
        defaults : Mapping of str to object, optional
            Value of each new keyfield for the existing rows.

        Returns
        -------
        list of str
            The changes made (or planned), one line each.

        Raises
        ------
        TableHasWrongStructureError
            If a new keyfield has no default, or the tables differ in a way that adding columns cannot resolve.
        """
        done = self._store.tables.migrate(dry_run, defaults or {}, codecarbon=self._codecarbon is not None)
        for line in done:
            self.logger.info("%s%s", "would " if dry_run else "", line)
        return done

    # Resetting

    def reset_experiments(
        self,
        *states: str | ExperimentStatus,
        where: Where = None,
        ids: Sequence[int] | None = None,
        dry_run: bool = False,
        error: str | None = None,
        commit: str | None = None,
        job: str | int | None = None,
        outcome: str | None = None,
    ) -> int:
        """Open experiments again, with the same IDs, without results and errors. Their attempts and logs are kept.

        Parameters
        ----------
        *states : str or ExperimentStatus
            Only experiments in these states; ``"all"`` for every state. If no state is given, another parameter must
            select among the experiments that are done, paused or in error. After a reset, the worker of a running
            experiment can no longer write.
        where : mapping or str, optional
            Only experiments with these values, or that match this SQL condition.
        ids : sequence of int, optional
            Only experiments with these IDs.
        dry_run : bool
            Only count the experiments.
        error : str, optional
            Only experiments whose error contains this text, ignoring case.
        commit, job, outcome : str, optional
            Only experiments whose last execution was like this; see `get_table`.

        Returns
        -------
        int
            Number of experiments that were (or would be) reset.

        Raises
        ------
        InvalidValueError
            If a state, commit or outcome is not valid.
        """
        wanted, latest = statuses(states), Latest(commit, job, outcome)
        if not wanted:
            if where is None and ids is None and error is None and latest == Latest():
                self.logger.warning(
                    "nothing is reset: name states ('error', 'all', ...), where, ids, error, commit, job or outcome"
                )
                return 0
            wanted = list(_FINISHED)
        self._prepare_execution()
        rows = self._store.reset(wanted, where, ids, dry_run, error, cause=f"reset by {caller()}", latest=latest)
        if rows and not dry_run:  # attempts that had ended do not say so
            which = {"states": wanted, "where": where, "ids": ids, "error": error}
            self._keep_change("reset", rows, which | {"commit": commit, "job": job, "outcome": outcome})
        self.logger.info("%s %s", "would reset" if dry_run else "reset", counted(rows, "experiment"))
        return rows

    def release_experiments(self, where: Where = None, ids: Sequence[int] | None = None, dry_run: bool = False) -> int:
        """Open running experiments again, as if they had never been claimed.

        Use it when you know that their workers are gone and do not want to wait for the leases to expire. A worker that
        is still alive can no longer write, and is stopped soon.

        Parameters
        ----------
        where : mapping or str, optional
            Only experiments with these values, or that match this SQL condition.
        ids : sequence of int, optional
            Only experiments with these IDs.
        dry_run : bool
            Only count the experiments.

        Returns
        -------
        int
            Number of experiments that were (or would be) released.
        """
        self._prepare_execution()
        cause = f"released by {caller()}"
        return self._store.reset([ExperimentStatus.RUNNING.value], where, ids, dry_run, None, "released", cause)

    # Removing

    def prune(
        self, states: States = ExperimentStatus.CREATED, dry_run: bool = False, ids: Sequence[int] | None = None
    ) -> int:
        """Remove experiments that are not in the grid of the configuration, with their attempts and logs.

        Parameters
        ----------
        states : str, ExperimentStatus or sequence of them
            Only experiments in these states, by default those that are open; ``"all"`` for every state. A worker cannot
            write results of an experiment that was removed.
        dry_run : bool
            Only count the experiments.
        ids : sequence of int, optional
            Only experiments with these IDs.

        Returns
        -------
        int
            Number of experiments that were (or would be) removed.

        Raises
        ------
        ParameterCombinationError
            If the configuration has no grid, as it gives no values for the keyfields.
        InvalidValueError
            If a state is not valid.
        """
        return self._remove(states, None, ids, dry_run, outside_grid=True)

    def prune_files(self, dry_run: bool = False) -> int:
        """Remove the files of experiments that were reset or removed, and of executions that were lost.

        Files that were saved in the last hour stay, since their experiment may be about to name them. So do files that
        another experiment has, too.

        Parameters
        ----------
        dry_run : bool
            Only count the files.

        Returns
        -------
        int
            Number of files that were (or would be) removed.

        Raises
        ------
        InvalidValueError
            If the configuration has no folder for files.
        """
        removed = self._store.contents.prune(set(self.get_files()["sha256"]), dry_run)
        self.logger.info("%s %s", "would remove" if dry_run else "removed", counted(removed, "file"))
        return removed

    def remove_experiments(
        self, where: Where = None, ids: Sequence[int] | None = None, states: States = None, dry_run: bool = False
    ) -> int:
        """Remove experiments with their attempts and logs.

        Parameters
        ----------
        where : mapping or str, optional
            Only experiments with these values, or that match this SQL condition.
        ids : sequence of int, optional
            Only experiments with these IDs.
        states : str, ExperimentStatus or sequence of them, optional
            Only experiments in these states, by default all but those that are running; ``"all"`` for every state. A
            worker cannot write results of an experiment that was removed.
        dry_run : bool
            Only count the experiments.

        Returns
        -------
        int
            Number of experiments that were (or would be) removed.

        Raises
        ------
        InvalidValueError
            If a state is not valid, or neither `where` nor `ids` nor `states` is given.
        """
        if where is None and ids is None and states is None:
            raise InvalidValueError("nothing says which experiments to remove; give where, ids or states")
        return self._remove((ExperimentStatus.CREATED, *_FINISHED) if states is None else states, where, ids, dry_run)

    def _remove(
        self, states: States, where: Where, ids: Sequence[int] | None, dry_run: bool, outside_grid: bool = False
    ) -> int:
        self._prepare_execution()
        rows = self._store.remove(states, where, ids, dry_run, outside_grid)
        if rows and not dry_run:  # nothing else is left of them
            self._keep_change(
                "removal", rows, {"states": states, "where": where, "ids": ids, "outside_grid": outside_grid}
            )
        self.logger.info("%s %s", "would remove" if dry_run else "removed", counted(rows, "experiment"))
        return rows

    def _keep_change(self, kind: str, rows: int, which: dict[str, Any]) -> None:
        """Record who has changed how many experiments, and how they were chosen."""
        self._store.keep_event(__version__, kind, {"by": caller(), "experiments": rows, **jsonable(which)})

    # Copying

    def import_results(self, rows: Iterable[Mapping[str, Any]] | pd.DataFrame) -> int:
        """Write results that were computed elsewhere into the open experiments with those keyfields.

        Each experiment is done then, with an attempt of the outcome ``imported``. If anything is wrong, nothing is
        written.

        Parameters
        ----------
        rows : iterable of mappings, or DataFrame
            Keyfield or resultfield -> value. Omitted keyfields are NULL.

        Returns
        -------
        int
            Number of experiments.

        Raises
        ------
        InvalidRowError
            If a row is not valid or has the keyfields of another one. The message names row and field.
        InvalidExperimentError
            If there is no experiment with the keyfields of a row; `ExperimentExistsError` if it is not open.
        """
        results: dict[tuple[Any, ...], Mapping[str, Any]] = {}
        for number, row in enumerate(_rows(rows)):
            keyfields = {name: value for name, value in row.items() if name in self.config.table.keyfields}
            encoded = self._store.encode_row(keyfields, f"row {number}")
            if encoded in results:
                raise InvalidRowError(f"row {number} has the keyfields of an earlier row: {keyfields}")
            others = {name: value for name, value in row.items() if name not in keyfields and not is_missing(value)}
            results[encoded] = self._store.encode_results(others, f"row {number}")
        self._prepare_execution()
        worker = replace(worker_info(self.name, uuid.uuid4().hex), git_commit=None, git_dirty=None, git_diff_hash=None)
        self._store.import_results(results, worker)
        self.logger.info("imported the results of %s", counted(len(results), "experiment"))
        return len(results)

    def copy_to(
        self,
        database: str | Path,
        provider: str = "sqlite",
        database_credential_file_path: str | Path = "config/database_credentials.yml",
        use_ssh_tunnel: bool = False,
        snapshot: bool = False,
    ) -> int:
        """Copy the study to another database, with IDs, attempts, logs, emissions and configurations.

        All rows are compared with the original. A copy that was interrupted is completed by another call.

        Parameters
        ----------
        database : str or Path
            Path of the SQLite file, or name of the database on the server, which must exist.
        provider : str
            ``"sqlite"``, ``"mysql"`` (also for MariaDB) or ``"postgresql"``.
        database_credential_file_path, use_ssh_tunnel
            As for `PyExperimenter`, for that database.
        snapshot : bool
            Copy a study of which experiments are running. In the copy, they are lost when their leases end, and then
            executed again.

        Returns
        -------
        int
            Number of experiments in the copy.

        Raises
        ------
        CopyError
            If experiments are running, or if the other database has something else than a part of this study.

        Warns
        -----
        UserWarning
            If tables have columns that are not in the configuration, which are not copied.
        """
        target = load_database(provider, database, database_credential_file_path, use_ssh_tunnel)
        if target == self.config.database:
            raise CopyError(f"{self._store.database} is the database of the study itself; name another one")
        # One transaction for all is more than a study that is only read allows.
        source = ExperimentStore(self.config) if self._store.database.only_reads else self._store
        other = ExperimentStore(replace(self.config, database=target))
        try:
            with fill_bar(sum(self.counts().values())) as progress:
                return StudyCopy(source, other).run(snapshot, progress)
        finally:
            other.database.close()

    # Ending

    def delete_table(self) -> None:
        """Drop the table and all its side tables, with their contents."""
        self._store.tables.drop()

    # Helpers

    def _fill(self, rows: Iterable[tuple[Any, ...]], total: int | None) -> FillCount:
        self.create_table()
        with fill_bar(total) as progress:
            count = self._store.fill(rows, progress)
        self.logger.info("added %s, skipped %d that already existed", counted(count.added, "row"), count.skipped)
        return count

    def _first(self, rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        """Yield the encoded rows of the grid that are filled in before any result is looked at."""
        rule, grid = self.config.table.replicate, self.config.table.grid
        assert rule is not None and grid is not None
        encode = self._store.keyfield_encoders[rule.over]
        first = {encode(value) for value in grid.values_of(rule.over)[: rule.min]}
        at = grid.columns.index(rule.over)
        return (row for row in rows if row[at] in first)

    def _warn_of_continued_blocks(self, count: FillCount) -> None:
        """Say that open rows come before rows which complete blocks, as experiments are executed by their IDs."""
        design = self.config.table.design
        if design and count.added and count.skipped and (n := self._store.blocks_continued(design, count.added)):
            self.logger.warning(
                "%s got more experiments, which are executed after those that were open before; to go on block by "
                "block, execute with order_by=%s",
                counted(n, "block"),
                list(design.blocks),
            )

    def _prepare_execution(self) -> None:
        """Check that the table exists. Tables of py-experimenter and of older versions get what they lack."""
        if self._store.database.only_reads:  # which other processes would not know
            raise ReadOnlyDatabaseError(f"{self._store.database}: the study was opened for reading only")
        if not self._store.tables.exist():
            raise MissingTableError(
                f"the table {self.config.table.name} does not exist in {self._store.database}; fill it first"
            )
        self._store.tables.create(codecarbon=self._codecarbon is not None, identity=False)
        keep_primary(self._store, self.config.analysis.primary, __version__)


def _rows(rows: Any) -> Iterable[Any]:
    """Return rows, which may be Series, or those of a DataFrame, whose to_dict() would change digits of a float32."""
    if not hasattr(rows, "columns"):
        return (row.to_dict() if hasattr(row, "to_dict") else row for row in rows)
    columns = [unwrap(column) for _, column in rows.items()]
    return (dict(zip(rows.columns, values, strict=True)) for values in zip(*columns, strict=True))
