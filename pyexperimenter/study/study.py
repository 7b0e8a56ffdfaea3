"""The part of the facade that reads: tables and progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from html import escape
from itertools import islice
from operator import index
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, TextIO

from pyexperimenter.config import ExperimentConfig
from pyexperimenter.config.model import FILES
from pyexperimenter.database.selection import Latest, OrderBy, States, Where
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import (
    InvalidLogtableError,
    MissingDatabaseError,
    MissingTableError,
    PyExperimenterError,
)
from pyexperimenter.predecessor import advising
from pyexperimenter.study.details import ExperimentDetails, details_of
from pyexperimenter.study.errors import ErrorGroup, error_groups
from pyexperimenter.study.examples import examples
from pyexperimenter.study.groups import ExperimentGroup, grouped
from pyexperimenter.study.status import StudyStatus, status_of

if TYPE_CHECKING:
    import pandas as pd


_OF_ENVIRONMENTS = ("python", "platform", "cpu", "cpus", "gpus", "packages", "imported", "threads")


class Study:
    """The methods that read a study: its tables and its progress.

    Only `execute_custom_query` can write, if its statement does.

    Parameters
    ----------
    config : ExperimentConfig
        The study's configuration.
    codecarbon : Mapping or None
        Options for CodeCarbon, or None if emissions are not measured.
    """

    def __init__(self, config: ExperimentConfig, codecarbon: Mapping[str, Any] | None) -> None:
        self.config = config
        self._codecarbon = codecarbon
        self._store = ExperimentStore(config)

    def _repr_html_(self) -> str:
        try:
            now = self.status()._repr_html_()
        except (MissingTableError, MissingDatabaseError):
            now = "<p>The table does not exist yet; fill it first.</p>"
        except PyExperimenterError as error:  # of which a notebook would show the traceback
            now = f"<p>{escape(str(error))}</p>"
        return f"<p>{escape(repr(self))}</p>{now}"

    # Tables

    @advising(condition="where")
    def get_table(
        self,
        where: Where = None,
        columns: Sequence[str] | None = None,
        order_by: OrderBy = None,
        limit: int | None = None,
        states: States = None,
        commit: str | None = None,
        job: str | int | None = None,
        outcome: str | None = None,
        only_grid: bool = False,
        after: int | None = None,
        before: int | None = None,
    ) -> pd.DataFrame:
        """Return experiments.

        Parameters
        ----------
        where : mapping or str, optional
            Only experiments with these values, or that match this SQL condition; a list of several, if all must hold.
        columns : sequence of str, optional
            Only these columns.
        order_by : str or sequence of str, optional
            Columns to sort by, with ``-`` before or ``DESC`` after them for descending; then by ``ID``.
        limit : int, optional
            Maximum number of rows.
        states : str, ExperimentStatus or sequence of them, optional
            Only experiments in these states; ``"all"`` for every state.
        commit : str, optional
            Only experiments whose last execution ran this git commit, or one whose hash begins like this. With
            ``+`` and a hash, as in ``"3f2a9c+9d0c"``, only those with these uncommitted changes; with only ``+``,
            those with any.
        job : str or int, optional
            Only experiments whose last execution was in this cluster job. ``"12"`` includes all tasks of an array,
            and all restarts.
        outcome : str, optional
            Only experiments whose last execution ended like this: ``"done"``, ``"error"``, ``"paused"``,
            ``"retried"``, ``"released"``, ``"lost"``, ``"reset"`` or ``"superseded"``.
        only_grid : bool
            Only experiments that are in the grid of the configuration.
        after : int, optional
            Only experiments that come after the one with this ID, in the order of `order_by`. With `limit`, this reads
            a large table in pages.
        before : int, optional
            Only experiments that come before the one with this ID. With `limit`, the last of them: the previous page.

        Returns
        -------
        pandas.DataFrame
            One row per experiment, ordered by ``ID``; columns ``ID``, keyfields, ``creation_date``, ``status``,
            ``start_date``, ``name``, ``machine``, resultfields, ``end_date``, ``error``. Its ``attrs`` have what the
            section Analysis declares, if anything, ``uneven`` if a value of a keyfield is in more rows of the grid than
            another, because of conditions, and the ``blocks`` of the design.

        Raises
        ------
        MissingTableError
            If the table does not exist yet.
        InvalidColumnError
            If the table does not have one of the columns.
        InvalidValueError
            If a state, commit or outcome is not valid.
        ParameterCombinationError
            With `only_grid`, if the configuration has no grid.
        """
        latest = Latest(commit, job, outcome)
        rows = partial(
            self._store.table_rows,
            where,
            columns,
            order_by,
            limit,
            states=states,
            latest=latest,
            only_grid=only_grid,
            after=after,
            before=before,
        )
        table = self._frame(rows, self._store.schema.table)
        return self._with_attrs(table if before is None else table[::-1].reset_index(drop=True))

    def _with_attrs(self, table: pd.DataFrame) -> pd.DataFrame:
        """Tell the functions of the analysis, which only see the table, what they have to know."""
        grid, design, analysis = self.config.table.grid, self.config.table.design, self.config.analysis
        declared: dict[str, Any] = {
            "unit": list(analysis.unit),
            "test_share": analysis.test_share,
            "uneven": grid is not None and not grid.is_product,
            "blocks": list(design.blocks) if design else [],
        }
        declared["notes"] = self._remarks()
        table.attrs = {name: setting for name, setting in declared.items() if setting}
        return table

    def _remarks(self) -> list[str]:
        """Say how the number of seeds was chosen, if by results."""
        if self.config.table.replicate is None or not (looks := self._store.events("replication")):
            return []
        from pyexperimenter.analysis.replication import remark_on

        return [remark_on(looks)]

    def get_logtable(
        self, logtable_name: str, condition: str | None = None, all_attempts: bool = False, joined: bool = False
    ) -> pd.DataFrame:
        """Return the rows of a logtable.

        Parameters
        ----------
        logtable_name : str
            Its name in the configuration.
        condition : str, optional
            Only rows that match this SQL condition, in which the logtable is called ``log``.
        all_attempts : bool
            Include logs from before the last reset.
        joined : bool
            Add the keyfields of the experiment to each row.

        Returns
        -------
        pandas.DataFrame
            Columns ``ID``, ``experiment_id``, the keyfields with `joined`, ``timestamp``, those of the configuration,
            ``attempt_id``. A column with the name of a keyfield gets the suffix ``_logged`` with `joined`.

        Raises
        ------
        InvalidLogtableError
            If there is no such logtable.
        """
        table = self._store.logtable(logtable_name)
        rows = partial(self._store.log_rows, logtable_name, condition, all_attempts)
        logs = self._frame(rows, table).drop(columns="write_token", errors="ignore")
        if not joined:
            return logs
        from pyexperimenter.analysis import join_keyfields

        names = ["ID", *self.config.table.keyfields, "creation_date", "status"]
        return join_keyfields(logs, self.get_table(columns=names))

    def get_attempts(
        self, experiment_id: int | None = None, columns: Sequence[str] | None = None, last: int | None = None
    ) -> pd.DataFrame:
        """Return all executions: worker, machine and time, how they ended, and the resources that they used.

        Parameters
        ----------
        experiment_id : int, optional
            Only executions of this experiment.
        columns : sequence of str, optional
            Only these columns, as far as the table has them: ``error`` and ``output`` may be long.
        last : int, optional
            Only executions that began last: so many, or somewhat fewer.

        Returns
        -------
        pandas.DataFrame
            One row per attempt, ordered by ``ID``; times in UTC, durations in seconds, memory in bytes.
        """
        return self._frame(
            partial(self._store.attempt_rows, None if experiment_id is None else [index(experiment_id)], columns, last),
            self._store.schema.attempts,
        )

    def get_files(self, experiment_id: int | None = None, all_attempts: bool = False) -> pd.DataFrame:
        """Return the files that experiments have saved by `ResultProcessor.save_file`, or named by `uses`.

        Parameters
        ----------
        experiment_id : int, optional
            Only those of this experiment.
        all_attempts : bool
            Include files from before the last reset, unless they were pruned.

        Returns
        -------
        pandas.DataFrame
            A row for each file: the columns of a logtable with ``name``, ``sha256``, ``bytes`` and ``role`` (``saved``
            or ``used``), and ``path``, where the saved file is, empty if it is not there.

        Raises
        ------
        InvalidValueError
            If the configuration has no folder for files.
        """
        contents = self._store.contents
        condition = None if experiment_id is None else f"experiment_id = {index(experiment_id)}"
        files = self.get_logtable(FILES, condition, all_attempts)
        paths = [contents.path(digest) for digest in files["sha256"]]
        return files.assign(path=[str(path) if path.is_file() else "" for path in paths])

    def get_environments(self) -> pd.DataFrame:
        """Return the environments in which experiments were executed.

        Returns
        -------
        pandas.DataFrame
            One row for each: ``environment`` (a hash, also in `get_attempts`), ``created``, ``attempts`` (how many),
            ``python``, ``platform``, ``cpu``, ``cpus``, ``gpus`` (a list), ``packages`` (name -> version of what is
            installed), ``imported`` (the same for what was imported when the first execution began) and ``threads``
            (environment variables).
        """
        import pandas as pd

        counts = self._store.environment_counts()
        events = {event.pop("hash"): event for event in reversed(self._store.events("environment"))}
        rows = [{"environment": name, "attempts": counts.get(name, 0), **event} for name, event in events.items()]
        names = ["environment", "created", "attempts", *_OF_ENVIRONMENTS]
        return pd.DataFrame(rows[::-1], columns=names)

    def get_codecarbon_table(self) -> pd.DataFrame:
        """Return the measurements of CodeCarbon, one row per execution.

        Raises
        ------
        InvalidLogtableError
            If emissions are not measured.
        """
        return self._frame(*self._side_table("codecarbon")).drop(columns="write_token", errors="ignore")

    def export(
        self,
        target: str | Path | TextIO,
        what: str = "experiments",
        joined: bool = False,
        where: Where = None,
        kind: str | None = None,
        escape_formulas: bool = False,
        only_grid: bool = False,
    ) -> int:
        """Write a table to a file for other programs.

        Whole tables are in memory only for Excel. The others wait in a temporary file, for which there must be room.

        Parameters
        ----------
        target : str, Path or text file
            The file, which is written completely or not at all; or an open text file, for CSV and JSON.
        what : str
            ``"experiments"``, ``"attempts"``, ``"codecarbon"`` or the name of a logtable.
        joined : bool
            Add the keyfields of the experiment to each row of a side table, after ``experiment_id``.
        where : mapping or str, optional
            Only experiments with these values, or that match this SQL condition, and their rows in side tables.
        kind : {"csv", "json", "parquet", "xlsx"}, optional
            The format; by default the extension of the file.
        escape_formulas : bool
            Put ``'`` before strings that a spreadsheet would read from a CSV file as formulas.
        only_grid : bool
            Only experiments that are in the grid of the configuration, and their rows in side tables.

        Returns
        -------
        int
            Number of rows written.

        Raises
        ------
        InvalidLogtableError
            If there is no such table.
        InvalidValueError
            If the format is unknown, or cannot hold so many rows.
        """
        from pyexperimenter.analysis.export import export_parts
        from pyexperimenter.analysis.frame import FrameInParts

        rows: Callable[..., Any]
        finish: Callable[[pd.DataFrame], pd.DataFrame]
        if what == "experiments":
            rows, name = partial(self._store.table_rows, where, only_grid=only_grid), self._store.schema.table
            finish = self._with_attrs
        else:
            rows, name = self._side_table(what)
            finish = self._chosen(where, only_grid, joined)
        with TemporaryFile() as file:
            parts = FrameInParts(rows, self._store.schema.types_of(name), finish, file)
            return export_parts(parts, target, kind, escape_formulas)

    def counts(self, outside_grid: bool = False) -> dict[str, int]:
        """Return the number of experiments by status: created, running, done, error and paused.

        With `outside_grid`, it is that of experiments that are not in the grid of the configuration, without zeros.
        """
        return self._store.counts_outside_grid() if outside_grid else self._store.counts()

    def status(self) -> StudyStatus:
        """Return the progress of the study: experiments by status, their rate, blocks, and the workers."""
        return status_of(self._store)

    def get_experiment(self, experiment_id: int) -> ExperimentDetails:
        """Return one experiment with all its executions.

        Raises
        ------
        InvalidExperimentError
            If there is no such experiment.
        """
        return details_of(self._store, index(experiment_id))

    def error_groups(self, limit: int | None = None) -> list[ErrorGroup]:
        """Return the experiments in error, grouped by what went wrong, with the largest group first.

        With `limit`, only so many are looked at, those with the smallest IDs.
        """
        return error_groups(self._store, self.config.table.grid, limit)

    def newest_errors(self, limit: int) -> list[int]:
        """Return the IDs of so many experiments in error, those that ended last first."""
        return self._store.newest_errors(limit)

    def group_by(
        self,
        by: str | Sequence[str],
        value: str | None = None,
        where: Where = None,
        states: States = None,
        limit: int | None = None,
    ) -> list[ExperimentGroup]:
        """Return how many experiments have each combination of values, by status. The database does the counting.

        Parameters
        ----------
        by : str or sequence of str
            Columns of the table, for example two keyfields.
        value : str, optional
            A resultfield with numbers, of which mean and standard deviation are computed, too.
        where : mapping or str, optional
            Only experiments with these values, or that match this SQL condition.
        states : str, ExperimentStatus or sequence of them, optional
            Only experiments in these states.
        limit : int, optional
            Maximum number of groups.

        Returns
        -------
        list of ExperimentGroup
            Sorted by the values, as the database sorts them.

        Raises
        ------
        InvalidColumnError
            If the table does not have one of the columns.
        """
        return grouped(self._store, [by] if isinstance(by, str) else by, value, where, states, limit)

    def ended_over_time(self, parts: int = 48) -> list[tuple[datetime, int]]:
        """Return how many executions ended in each of so many equal parts of the time from the first end to the last.

        Returns
        -------
        list of tuple of (datetime.datetime, int)
            The end of each part in UTC, and the number of executions; empty if none has ended.
        """
        return self._store.ended(parts)

    def commits(self) -> list[tuple[str | None, bool | None, int]]:
        """Return which code the last executions ran: git commit, whether it had uncommitted changes, and their number.

        It looks at up to 20,000 executions, whether they have ended or not. None if it is not known.
        """
        return self._store.versions()

    def usage(self) -> dict[str, Any]:
        """Return what all executions took.

        Returns
        -------
        dict of str to object
            ``outcomes``: a dict for each outcome (None: running), with ``outcome``, ``executions``, ``wall_seconds``,
            ``cpu_seconds`` and ``max_rss_bytes``; and if emissions are measured, ``emissions_kg`` and ``energy_kwh``.
        """
        names = ("outcome", "executions", "wall_seconds", "cpu_seconds", "max_rss_bytes")
        found: dict[str, Any] = {"outcomes": [dict(zip(names, row, strict=True)) for row in self._store.usage()]}
        if self._codecarbon is not None:
            found |= dict(zip(("emissions_kg", "energy_kwh"), self._store.emissions(), strict=True))
        return found

    def query(self, sql: str, limit: int | None = None) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run an SQL query, and return the names of its columns and its rows, at most `limit` of them.

        Use it on a study from `PyExperimenter.read_only` if the SQL must not change anything.

        Raises
        ------
        DatabaseQueryError
            If it fails.
        """

        def take(columns: Sequence[str], parts: Any) -> tuple[list[str], list[tuple[Any, ...]]]:
            rows = (row for part in parts for row in part)
            return list(columns), list(islice(rows, limit))

        return self._store.stream(take, sql)

    def execute_custom_query(self, sql: str) -> list[tuple[Any, ...]] | int:
        """Run an SQL statement.

        Returns
        -------
        list of tuple or int
            The rows that it returns, or if it is not a query the number of rows that it inserted, changed or deleted.

        Raises
        ------
        DatabaseQueryError
            If it fails. If the connection is lost before the answer has come, it is not known whether the statement was
            executed, so it is not repeated, and the message says so.
        """
        return self._store.run_once(sql)

    def example_queries(self) -> dict[str, str]:
        """Return queries in SQL that fit this study, by what they show.

        They are those of the guide "Work with the tables in SQL", with the names of this study. A study without what
        one of them needs, for example a logtable of numbers, gets the others.
        """
        return examples(self._store.schema)

    # Helpers

    def _side_table(self, name: str) -> tuple[Callable[..., Any], str]:
        """Return what reads the rows of a side table, and its name in the database."""
        if name == "attempts":
            return self._store.attempt_rows, self._store.schema.attempts
        if name != "codecarbon":
            return partial(self._store.log_rows, name, None, False), self._store.logtable(name)
        if self._codecarbon is None:
            raise InvalidLogtableError(
                "emissions are not measured; add a section CodeCarbon to the configuration, or use_codecarbon=True"
            )
        return self._store.emission_rows, self._store.schema.codecarbon

    def _chosen(self, where: Where, only_grid: bool, joined: bool) -> Callable[[pd.DataFrame], pd.DataFrame]:
        """Return a function that keeps the rows of some experiments in a part of a side table."""
        import pandas as pd

        from pyexperimenter.analysis.cells import keyfields_of
        from pyexperimenter.analysis.joining import join_keyfields

        columns = ["ID"]
        if joined:
            columns += [*keyfields_of(self.get_table(limit=0)), "creation_date", "status"]
        table = self.get_table(where, columns, only_grid=only_grid)
        places = pd.Index(table["ID"])

        def chosen(part: pd.DataFrame) -> pd.DataFrame:
            part = part.drop(columns="write_token", errors="ignore")
            found = places.get_indexer(part["experiment_id"].unique())
            own = table.iloc[found[found >= 0]]
            return join_keyfields(part, own) if joined else part[part["experiment_id"].isin(own["ID"])]

        return chosen

    def _frame(self, rows: Callable[..., Any], table: str) -> pd.DataFrame:
        from pyexperimenter.analysis.frame import read_frame

        return read_frame(rows, self._store.schema.types_of(table))
