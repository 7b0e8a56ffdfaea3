"""The facade: one object per configuration, a few lines per method."""

from __future__ import annotations

import logging
import math
import os
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from operator import index
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from pyexperimenter import __version__
from pyexperimenter.config import load_config, load_database
from pyexperimenter.config.load import with_lists
from pyexperimenter.config.model import ExperimentConfig, KeptConfig, pickles_have_secrets
from pyexperimenter.database.outages import is_away
from pyexperimenter.database.records import Attempt
from pyexperimenter.database.selection import OrderBy, Where
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.database.studies import Studies
from pyexperimenter.durations import seconds
from pyexperimenter.exceptions import (
    InvalidValueError,
    PyExperimenterError,
    SmokeTestError,
)
from pyexperimenter.execution.budget import allowance
from pyexperimenter.execution.environment import environment
from pyexperimenter.execution.function import check_function, pickled
from pyexperimenter.execution.journaling_store import journals_of, replay_journals
from pyexperimenter.execution.pool import number_of_workers, run_pool, split_limit
from pyexperimenter.execution.provenance import code_state, source_directory, uncommitted_changes, worker_info
from pyexperimenter.execution.task import ExperimentFunction, WorkerTask
from pyexperimenter.execution.worker import run_one
from pyexperimenter.experiment_status import ExperimentStatus
from pyexperimenter.jsonable import counted, unwrap, whole_number
from pyexperimenter.logger import LogSettings, folded_failures
from pyexperimenter.machine.gpus import allocate_gpus
from pyexperimenter.paths import DEFAULT_CONFIG, DEFAULT_CREDENTIALS, absolute_path, found
from pyexperimenter.predecessor import OF_EXPERIMENTER, advising, no_attribute
from pyexperimenter.result_processor import PrintingResultProcessor, ResultProcessor
from pyexperimenter.study.maintained import MaintainedStudy
from pyexperimenter.study.progress import execution_bar

if TYPE_CHECKING:
    from pyexperimenter.analysis.auditing import Audit
    from pyexperimenter.cluster.job import Job
    from pyexperimenter.cluster.submission import Submission
    from pyexperimenter.dashboard.server import Dashboard

__all__ = ["ExperimentStatus", "PyExperimenter"]

_R = TypeVar("_R")
_Source: TypeAlias = str | Path | Mapping[str, Any] | KeptConfig


class PyExperimenter(MaintainedStudy):
    """A study: its experiments in a database, filled from a configuration and executed by workers.

    Creating an instance does not touch the database.

    Parameters
    ----------
    experiment_configuration_file_path : str, Path or dict
        Path of a YAML or INI file, or the contents of such a YAML file as a dict. By default
        ``config/experiment_configuration.yml``, or ``.cfg`` if there is only that.
    database_credential_file_path : str, Path or None
        Path of a YAML or INI file with the credentials for a database server; the default also has both endings. None
        is needed for SQLite, or if the environment has ``PYEXPERIMENTER_DB_USER``, ``_PASSWORD``, ``_HOST`` and
        ``_PORT``.
    use_ssh_tunnel : bool, optional
        Whether to reach the server through SSH; overrides the configuration.
    table_name, database_name : str, optional
        Override the configuration.
    use_codecarbon : bool, optional
        Whether to measure emissions. By default, they are measured if the configuration has a section CodeCarbon.
    name : str
        Stored in the column ``name`` of the experiments that are executed.
    logger_name : str
        Name of the library's logger.
    log_level : int or str
        Minimum level of logged messages.
    log_file : str or Path, optional
        File that also receives the messages.

    Raises
    ------
    ConfigError
        If a file is missing or something in it is wrong. The message names the file, line and key.

    Examples
    --------
    >>> import tempfile
    >>> directory = tempfile.TemporaryDirectory()
    >>> experimenter = PyExperimenter({"PY_EXPERIMENTER": {"Database": {
    ...     "provider": "sqlite",
    ...     "database": f"{directory.name}/study",
    ...     "table": {
    ...         "name": "squares",
    ...         "keyfields": {"x": {"type": "INT", "values": {"start": 1, "stop": 4}}},
    ...         "resultfields": {"square": "INT"},
    ...     },
    ... }}}, log_level="WARNING")
    >>> experimenter.fill_table_from_config()
    FillCount(added=3, skipped=0)
    >>> experimenter.execute(lambda keyfields, results, custom: {"square": keyfields["x"] ** 2})
    3
    >>> experimenter.get_table()[["x", "square", "status"]].values.tolist()
    [[1, 1, 'done'], [2, 4, 'done'], [3, 9, 'done']]
    >>> directory.cleanup()
    """

    @advising(
        config_file="experiment_configuration_file_path",
        config_path="experiment_configuration_file_path",
        credential_path="database_credential_file_path",
    )
    def __init__(
        self,
        experiment_configuration_file_path: _Source = DEFAULT_CONFIG,
        database_credential_file_path: str | Path | None = DEFAULT_CREDENTIALS,
        use_ssh_tunnel: bool | None = None,
        table_name: str | None = None,
        database_name: str | None = None,
        use_codecarbon: bool | None = None,
        name: str = "PyExperimenter",
        logger_name: str = "py-experimenter",
        log_level: int | str = logging.INFO,
        log_file: str | Path | None = None,
    ) -> None:
        experiment_configuration_file_path = with_lists(experiment_configuration_file_path)
        # What is needed to create the same experimenter in a job: paths, never secrets.
        self._made_of: dict[str, Any] = {
            "experiment_configuration_file_path": _absolute(experiment_configuration_file_path),
            "database_credential_file_path": (
                None if database_credential_file_path is None else _absolute(database_credential_file_path)
            ),
            "use_ssh_tunnel": use_ssh_tunnel,
            "table_name": table_name,
            "use_codecarbon": use_codecarbon,
            "name": name,
            "logger_name": logger_name,
            "log_level": log_level,
            "log_file": None if log_file is None else _absolute(log_file),
        }
        self._recorded: tuple[str, str | None] | None = None
        self._log_settings = LogSettings(logger_name, log_level, None if log_file is None else str(log_file))
        config = load_config(
            experiment_configuration_file_path,
            credentials_path=database_credential_file_path,
            table_name=table_name,
            database_name=None if database_name is None else str(database_name),
            use_ssh_tunnel=use_ssh_tunnel,
        )
        wanted = config.codecarbon is not None if use_codecarbon is None else use_codecarbon
        super().__init__(config, (config.codecarbon or {}) if wanted else None, name, self._log_settings.logger())

    @classmethod
    def open(
        cls,
        database: str | Path,
        table: str | None = None,
        provider: str = "sqlite",
        database_credential_file_path: str | Path = "config/database_credentials.yml",
        use_ssh_tunnel: bool = False,
        **options: Any,
    ) -> PyExperimenter:
        """Open a study by the configuration that its database keeps, without a configuration file.

        Parameters
        ----------
        database : str or Path
            Path of the SQLite file or of an `archive`, or name of the database on the server. An archive is extracted
            to a temporary folder until the process ends, and can only be read.
        table : str, optional
            Table of the study, needed if the database has several studies.
        provider : str
            ``"sqlite"``, ``"mysql"`` (also for MariaDB) or ``"postgresql"``.
        database_credential_file_path, use_ssh_tunnel, **options
            As for `PyExperimenter`.

        Raises
        ------
        MissingTableError
            If the database has no such study, or several and `table` names none of them.
        MissingDatabaseError
            If the database does not exist.
        CopyError
            If an archive is damaged or was changed.
        """
        from pyexperimenter.study.archive import DATABASE, FILES, extracted, is_archive

        folder = extracted(database) if provider == "sqlite" and is_archive(database) else None
        database = database if folder is None else folder / DATABASE
        where = load_database(provider, database, database_credential_file_path, use_ssh_tunnel)
        name, text = Studies(where).configuration(table)
        opened = cls(
            KeptConfig(text, f"{where.database} ({name})", provider),
            database_credential_file_path,
            use_ssh_tunnel,
            table_name=name,
            database_name=where.database,
            **options,
        )
        if folder is None:
            return opened
        files = opened.config.files and str(folder / FILES)
        return opened._reading(replace(opened.config, files=files), math.inf)

    def __reduce__(self) -> str | tuple[Any, ...]:
        # A pickle that may be stored has no passwords. Where it is loaded, they are found as they were here.
        return super().__reduce__() if pickles_have_secrets() else (self._made_again, ())

    @property
    def _made_again(self) -> Callable[[], PyExperimenter]:
        return partial(PyExperimenter, **self._made_of, database_name=self.config.database.database)

    if not TYPE_CHECKING:  # type checkers should go on finding misspelled names

        def __getattr__(self, name: str) -> Any:
            if name != "db_connector":
                raise no_attribute(self, name, OF_EXPERIMENTER)
            warnings.warn("db_connector is deprecated; call execute_custom_query()", DeprecationWarning, stacklevel=2)
            return self._store.database.connector()

    def __repr__(self) -> str:
        return f"<PyExperimenter {self.name!r}: table {self.config.table.name} in {self._store.database}>"

    def read_only(self, time_limit: float = 60.0, most_analyzed: int | None = None) -> PyExperimenter:
        """Return this study for reading only: the database itself refuses to change anything.

        Use it to run SQL that you do not trust, or that must not keep the database busy for long. Its `status` may
        notice ten minutes late that a person has moved experiments out of the grid by changing their keyfields, and its
        `newest_errors` a minute late that a person has changed experiments that failed long ago. Several analyses of
        the same experiments within five seconds read them once.

        Parameters
        ----------
        time_limit : float
            Seconds after which a statement is stopped, with an error.
        most_analyzed : int, optional
            Number of experiments that are in memory for an analysis; an error if more are selected.
        """
        reading = self._reading(self.config, time_limit)
        reading._most_analyzed = most_analyzed
        return reading

    def _reading(self, config: ExperimentConfig, time_limit: float) -> PyExperimenter:
        """Return this study with another configuration, for reading only."""
        reading = object.__new__(type(self))
        vars(reading).update(vars(self), config=config, _store=ExperimentStore(config))
        reading._store.database.only_read(time_limit)
        return reading

    def studies(self) -> list[str]:
        """Return the tables of the studies that the database has, as far as they keep their configuration."""
        return list(self._studies.configurations())

    def other_study(self, table: str) -> PyExperimenter:
        """Return another study of the same database, by the configuration that the database keeps.

        Raises
        ------
        MissingTableError
            If the database has no such study.
        """
        name, text = self._studies.configuration(table)
        made_of = {**self._made_of, "experiment_configuration_file_path": self._kept(name, text), "table_name": name}
        return PyExperimenter(**made_of, database_name=self.config.database.database)

    @property
    def _studies(self) -> Studies:
        return Studies(self.config.database)

    def _kept(self, table: str, text: str) -> KeptConfig:
        database = self.config.database
        return KeptConfig(text, f"{database.database} ({table})", database.provider)

    def journals(self) -> list[Path]:
        """Return the journals of this study in the configured directory, of workers that are alive, too; see `sync`."""
        return journals_of(self._store, self._journal)

    def dashboard(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        uds: str | Path | None = None,
        root_path: str = "",
        allow_changes: bool = False,
    ) -> Dashboard:
        """Show the study in the browser, served by a thread of this process until it ends, or until `Dashboard.stop`.

        Needs the extra ``dashboard``.

        Parameters
        ----------
        host : str
            Address to serve on. With another one than the default, users of other machines can try to get in.
        port : int
            Port; 0 for any that is free.
        uds : str or Path, optional
            Path of a Unix socket instead, which only you can open.
        root_path : str
            Path below which a proxy makes the dashboard available.
        allow_changes : bool
            Whether experiments can be reset, released and removed there.

        Returns
        -------
        Dashboard
            Its ``url`` has the token that opens it. In a notebook, it is displayed as a link.
        """
        return self._dashboard(host, port, uds, root_path, allow_changes).start()

    def report(self, target: str | Path, where: str | None = None) -> None:
        """Write the progress, failures and results of the study to one HTML file, which needs no server or script.

        Needs the extra ``dashboard``.

        Parameters
        ----------
        target : str or Path
            The file.
        where : str, optional
            Only results of experiments that match this SQL condition.
        """
        with _dashboard_extra():
            from pyexperimenter.dashboard.report import report
        text = report(self, where)
        absolute_path(target).write_text(text, encoding="utf-8")

    def archive(self, path: str | Path, snapshot: bool = False) -> int:
        """Write all of the study to one zip file, which `open` reads.

        It has the database, as a SQLite file; the configurations with which the table was filled; uncommitted changes
        of the code; the files of the runs; the `appendix`, in Markdown; and ``SHA256SUMS``, the checksums of all these.
        There are no credentials in it.

        Parameters
        ----------
        path : str or Path
            The zip file, which is written completely or not at all. One that exists is replaced.
        snapshot : bool
            Archive a study of which experiments are running.

        Returns
        -------
        int
            Number of experiments.

        Raises
        ------
        CopyError
            If experiments are running.
        InvalidValueError
            If the name does not end in ``.zip``, or the directory does not exist.

        Warns
        -----
        UserWarning
            If files of runs are missing, or tables have columns that are not in the configuration, which are not
            copied.
        """
        from pyexperimenter.database.backends.sqlite import as_one_file
        from pyexperimenter.study.archive import DATABASE, archive_path, members_of, write_archive

        target = archive_path(path)
        with TemporaryDirectory(prefix="pyexperimenter-") as folder:
            database = Path(folder, DATABASE)
            experiments = self.copy_to(database, snapshot=snapshot)
            config = replace(self.config, database=load_database("sqlite", database))
            copy = ExperimentStore(config)
            copy.keep_config(__version__)
            copy.database.close()
            as_one_file(database)
            study = self._reading(config, math.inf)
            files = None if config.files is None else study.get_files(all_attempts=True)
            write_archive(target, members_of(study._store, study.appendix("markdown"), files, database))
            study._store.database.close()
        return experiments

    def _dashboard(self, *options: Any) -> Dashboard:
        with _dashboard_extra():
            from pyexperimenter.dashboard.server import Dashboard
        return Dashboard(self, *options)

    # Executing

    def execute(
        self,
        experiment_function: ExperimentFunction,
        random_order: bool = False,
        n_jobs: int | None = None,
        max_experiments: int = -1,
        where: Where = None,
        order_by: OrderBy = None,
        stop_after: float | str | None = None,
        resources: Mapping[str, float] | None = None,
        wait: bool = False,
        only_grid: bool = False,
        smoke: int = 0,
    ) -> int:
        """Execute open experiments until none are left.

        Each worker runs them in its own process, unless the configuration says ``isolation: none``. SIGTERM, SIGINT
        (Ctrl-C) and SIGUSR1 ask the workers to stop; a second signal stops them at once. Results that could not be
        written during an earlier outage of the database are written first, as by `sync`.

        Parameters
        ----------
        experiment_function : callable
            ``function(keyfields, result_processor, custom_fields)``. It returns None, an ExperimentStatus (DONE,
            ERROR or PAUSED) or a mapping of results. An exception makes the experiment's status ``error``.
        random_order : bool
            Whether to claim open experiments in random order.
        n_jobs : int, optional
            Number of workers, or -1 for one per core; overrides the configuration. joblib places them on this machine,
            or where ``joblib.parallel_config`` says.
        max_experiments : int
            Maximum number of experiments to execute, over all workers; -1 for no limit.
        where : mapping or str, optional
            Only experiments with these values (column -> value or list of values), or that match this SQL condition.
        order_by : str or sequence of str, optional
            Columns that give the order of claims. A leading ``-`` or a trailing ``DESC`` means descending.
        stop_after : float or str, optional
            Seconds, or a duration such as ``"3h50m"``. No experiment is started when less time is left than
            ``min_time`` in the configuration, or than the median duration of recent experiments. In a SLURM job the
            end of the job limits the time, too.
        resources : Mapping of str to number, optional
            What a worker has, such as ``{"gpus": 1}``. Only experiments that need no more, according to ``requires`` in
            the configuration, are executed. By default, all are.
        wait : bool
            Whether workers that find nothing open stay while other workers are still running experiments, to take over
            what those lose or release. They check once per `heartbeat`.
        only_grid : bool
            Only experiments that are in the grid of the configuration.
        smoke : int
            1 or 2: first execute a few experiments in which every value of each keyfield occurs, or every pair of
            values; those that need few resources first. Go on only if all are done. The seed is not covered, nor is
            what occurs in experiments that are done.

        Returns
        -------
        int
            Number of executions.

        Raises
        ------
        MissingTableError
            If the table does not exist yet.
        InvalidColumnError, InvalidValueError, DatabaseQueryError
            If `where` or `order_by` names a column that the table does not have, or is not valid SQL. Nothing was
            started.
        ExperimentFunctionError
            If the function cannot be called with what an experiment passes, or is asynchronous or a generator.
            Nothing was claimed.
        FunctionNotPicklableError
            If the function cannot be sent to another process.
        InvalidValueError
            If `stop_after` is not a valid duration, or `smoke` is not 0, 1 or 2.
        SmokeTestError
            If an experiment of the smoke test failed; the message says which values the failed ones have.
        DatabaseError, ExecutionError
            What stopped a worker: the database, too many errors in a row, ... The other workers finish first. Also if
            there are too few GPUs; nothing was claimed then.
        KeyboardInterrupt
            After SIGINT. Running experiments were released.
        SystemExit
            After SIGTERM. Running experiments were released.
        """
        if not isinstance(unwrap(random_order), bool):
            raise InvalidValueError(
                f"random_order: {random_order!r} is not true or false; the second argument of py-experimenter 1.3, the "
                "number of experiments, is now max_experiments=..."
            )
        run = partial(
            self._execute,
            experiment_function,
            n_jobs=n_jobs,
            stop_after=stop_after,
            resources=resources,
            only_grid=only_grid,
        )
        before = 0
        if whole_number("smoke", smoke, least=0, most=2):
            check_function(experiment_function)
            self._check_selection(where, order_by, only_grid)
            before = self._smoke_test(run, smoke, where, only_grid)
        return before + run(
            max_experiments=max_experiments, wait=wait, where=where, order_by=order_by, random_order=random_order
        )

    def submit(
        self,
        experiment_function: ExperimentFunction,
        workers: int = 1,
        cluster: str = "slurm",
        profile: str | None = None,
        folder: str | Path = "cluster_jobs",
        where: Where = None,
        order_by: OrderBy = None,
        random_order: bool = False,
        resources: Mapping[str, float] | None = None,
        only_grid: bool = False,
        smoke: int = 0,
        **options: Any,
    ) -> Submission:
        """Start workers as cluster jobs. Each executes open experiments until none are left or its time is up.

        Before anything is submitted, `submit` checks that the table exists, that `where` and
        `order_by` are valid, that another process can load the function, and that the machines share the database.

        Parameters
        ----------
        experiment_function : callable
            As for `execute`. A function from a module is imported by the jobs, so every machine needs the module; a
            function defined in a script or notebook is sent along.
        workers : int
            Number of jobs, each with ``n_jobs`` workers as configured.
        cluster : {"slurm", "local"}
            A SLURM job array, or processes on this machine.
        profile : str, optional
            Profile in the section ``Cluster`` of the configuration to take options from. By default ``default``, if
            there is one.
        folder : str or Path
            Where the logs of the jobs are. All machines must be able to access it.
        where, order_by, random_order, resources, only_grid
            As for `execute`. By default, `resources` are the GPUs and CPUs that the jobs request.
        smoke : int
            As for `execute`: a job of its own executes the smoke test, and the others start only if that succeeds. With
            ``cluster="local"``, this call waits for it.
        **options
            ``time`` (``"4h"``), ``cpus_per_task``, ``mem`` (``"8G"``), ``gpus``, ``partition``, ``array_parallelism``,
            ``name`` of the jobs, by default that of the table, ``setup`` (lines of the shell to execute first, as
            ``"module load cuda"``), and any other option of sbatch, with ``_`` instead of ``-``. Local jobs use
            ``time`` and ``gpus`` only.

        Returns
        -------
        Submission
            The submitted jobs: their IDs, states and logs, and methods to wait for and cancel them.

        Raises
        ------
        MissingTableError, DatabaseConnectionError
            If the database cannot be reached from here, or the table does not exist yet.
        InvalidColumnError, InvalidValueError, DatabaseQueryError
            If `where` or `order_by` is not valid, as for `execute`.
        ExperimentFunctionError, FunctionNotPicklableError
            If another process cannot load the function.
        InvalidValueError
            If the cluster or profile does not exist, or an option is not valid.
        SubmissionError
            If SLURM is missing or reports an error, or the database is a file that the machines do not share. Nothing
            is left behind.
        SmokeTestError
            If the smoke test of local jobs fails. If one on SLURM fails, SLURM cancels the other jobs.
        ExecutionError
            If this machine has fewer free GPUs than the local jobs need.
        """
        from pyexperimenter.cluster.job import check_machines
        from pyexperimenter.cluster.submission import submit

        job, options = self._job(
            experiment_function, profile, cluster, options, where, order_by, random_order, resources, only_grid
        )
        check_machines(self.config.database, job.gpus, workers, cluster)
        self._prepare_execution()
        self._check_selection(where, order_by, only_grid)
        place = (cluster, absolute_path(folder))
        if whole_number("smoke", smoke, least=0, most=2):
            first = submit(replace(job, smoke=smoke), 1, *place, options, self.config.execution.grace)
            self.logger.info("submitted the smoke test, before which no other job starts: %s", first.job_ids[0])
            options = first.condition_of_others(options)
        submission = submit(job, workers, *place, options, self.config.execution.grace)
        jobs = ", ".join(submission.job_ids)
        self.logger.info("submitted %s to %s: %s", counted(workers, "worker"), cluster, jobs)
        return submission

    def keep_submitting(
        self,
        experiment_function: ExperimentFunction,
        workers: int = 1,
        profile: str | None = None,
        folder: str | Path = "cluster_jobs",
        where: Where = None,
        order_by: OrderBy = None,
        random_order: bool = False,
        resources: Mapping[str, float] | None = None,
        only_grid: bool = False,
        max_jobs: int | None = None,
        every: float | str = 30,
        **options: Any,
    ) -> int:
        """Submit SLURM jobs until no experiment is open or running: further ones when jobs have ended.

        It looks at SLURM's queue and at the table, and remembers nothing. If it is interrupted, the jobs continue, and
        another call goes on.

        Parameters
        ----------
        experiment_function, profile, folder, where, order_by, random_order, resources, only_grid, **options
            As for `submit`. The jobs in the queue are recognized by their name.
        workers : int
            Maximum number of jobs in the queue. There are fewer if fewer experiments are open.
        max_jobs : int, optional
            Maximum number of jobs to submit. By default, there is no limit.
        every : float or str
            How long to wait before looking again, in seconds or as in ``"1m"``.

        Returns
        -------
        int
            The number of jobs that were submitted.

        Raises
        ------
        SubmissionError
            As raised by `submit`. Later, jobs that SLURM refuses are tried again. It is also raised if all jobs have
            ended and the last ones started no experiment.
        MissingTableError, DatabaseError, ExperimentFunctionError, FunctionNotPicklableError, InvalidValueError
            As raised by `submit`.
        """
        from pyexperimenter.cluster.refilling import keep_submitting
        from pyexperimenter.machine.slurm import queue_of

        workers = whole_number("workers", workers, least=1)
        job, all_options = self._job(
            experiment_function, profile, "slurm", options, where, order_by, random_order, resources, only_grid
        )
        self._prepare_execution()
        selection = self._store.selection(**job.selected)
        return keep_submitting(
            lambda jobs: self.submit(
                experiment_function,
                jobs,
                "slurm",
                profile,
                folder,
                where,
                order_by,
                random_order,
                resources,
                only_grid,
                **options,
            ),
            lambda: self._store.unfinished(selection),
            self._store.latest_attempt,
            lambda: queue_of(all_options["name"]),
            workers,
            math.inf if max_jobs is None else whole_number("max_jobs", max_jobs, least=1),
            _seconds("every", every),
            self.logger,
        )

    def cancel_jobs(self, job_ids: Sequence[str] = (), dry_run: bool = False) -> list[str]:
        """Cancel SLURM jobs, wherever they were submitted. Their workers release what they execute.

        Parameters
        ----------
        job_ids : sequence of str, optional
            Jobs (``"12"``), or tasks of arrays (``"12_5"``). By default, the jobs that are executing experiments of
            this study, with the other tasks of their arrays, also those that are pending.
        dry_run : bool
            Only return the jobs.

        Returns
        -------
        list of str
            The jobs that were (or would be) cancelled.

        Raises
        ------
        SubmissionError
            If an ID is not valid or unknown, or SLURM is missing or refuses.
        """
        from pyexperimenter.machine.slurm import cancel, whole_jobs

        chosen = list(job_ids) or whole_jobs(worker.job_id or "" for worker in self.status().workers)
        if chosen and not dry_run:
            cancel(chosen)
            self.logger.info("cancelled %s", ", ".join(chosen))
        return chosen

    def sbatch_script(
        self,
        experiment_function: ExperimentFunction,
        workers: int = 1,
        profile: str | None = None,
        folder: str | Path = "cluster_jobs",
        where: Where = None,
        order_by: OrderBy = None,
        random_order: bool = False,
        resources: Mapping[str, float] | None = None,
        only_grid: bool = False,
        **options: Any,
    ) -> str:
        """Return the script that `submit` would pass to sbatch, so that you can change it and submit it yourself.

        It contains all that the jobs need, but no passwords. The database is not asked for anything. The folder for
        the logs is created, because SLURM fails jobs whose logs it cannot open.

        The parameters are those of `submit`.

        Raises
        ------
        ExperimentFunctionError, FunctionNotPicklableError
            If another process cannot load the function.
        InvalidValueError
            If the profile does not exist, or an option is not valid.
        """
        from pyexperimenter.cluster.engine import new_folder
        from pyexperimenter.cluster.submission import sbatch_script

        job, options = self._job(
            experiment_function, profile, "slurm", options, where, order_by, random_order, resources, only_grid
        )
        with new_folder(absolute_path(folder)):
            return sbatch_script(job, workers, absolute_path(folder), options, self.config.execution.grace)

    def add_experiment_and_execute(
        self, keyfield_values: Mapping[str, Any], experiment_function: ExperimentFunction
    ) -> int:
        """Insert one experiment and execute it in this process. If it exists and is open, execute that one.

        Returns
        -------
        int
            ID of the experiment.

        Raises
        ------
        InvalidRowError
            If a keyfield is unknown or a value does not fit.
        ExperimentExistsError
            If the experiment exists and is not open.
        ExperimentFunctionError
            If the function cannot be called with what an experiment passes.
        """
        check_function(experiment_function)
        row = self._store.encode_row(keyfield_values, "keyfield_values")
        self.create_table()
        task = self._task(experiment_function)
        return run_one(task, lambda worker: worker.store.add_and_claim(row, worker.info))

    def unpause_experiment(self, experiment_id: int, experiment_function: ExperimentFunction) -> None:
        """Resume a paused experiment: execute the function on it in this process.

        Raises
        ------
        NoPausedExperimentsException
            If no experiment with this ID is paused.
        UndecodableValueError
            If its keyfields cannot be read. It stays paused.
        ExperimentFunctionError
            If the function cannot be called with what an experiment passes.
        """
        check_function(experiment_function)
        self._prepare_execution()
        task = self._task(experiment_function)
        run_one(task, lambda worker: worker.store.resume(index(experiment_id), worker.info))

    def attach(self, experiment_function: Callable[[ResultProcessor], _R], experiment_id: int) -> _R:
        """Let a function write results and logs of an experiment that is running elsewhere, or has finished.

        Parameters
        ----------
        experiment_function : callable
            ``function(result_processor)``.
        experiment_id : int
            ID of the experiment.

        Returns
        -------
        object
            What the function returns. The status of the experiment does not change.

        Raises
        ------
        InvalidExperimentError
            If the experiment does not exist.
        """
        check_function(experiment_function, ["result_processor"])
        self._prepare_execution()
        worker = worker_info(self.name, uuid.uuid4().hex, experiment_function)
        attempt, opened = self._store.attach(index(experiment_id), worker)
        try:
            return experiment_function(ResultProcessor(self._store, attempt, self._log_settings))
        finally:
            if opened:
                self._store.detach(attempt)

    def debug(self, experiment_id: int, experiment_function: ExperimentFunction, pdb: bool = False) -> Any:
        """Run one experiment in this process, and print what it reports instead of writing it.

        The experiment may have any status. Nothing is written to the database.

        Parameters
        ----------
        experiment_id : int
            ID of the experiment.
        experiment_function : callable
            As for `execute`.
        pdb : bool
            Whether to start the debugger where an exception is raised.

        Returns
        -------
        object
            What the function returns.

        Raises
        ------
        InvalidExperimentError
            If the experiment does not exist.
        """
        check_function(experiment_function)
        attempt = Attempt(0, index(experiment_id))
        keyfields = self._store.keyfields_of(attempt.experiment_id)
        processor = PrintingResultProcessor(self._store, attempt, self._log_settings, keyfields=keyfields)
        try:
            return experiment_function(keyfields, processor, dict(self.config.custom))
        except Exception as error:
            if pdb:
                from pdb import post_mortem

                post_mortem(error.__traceback__)
            raise

    def audit(
        self,
        experiment_function: ExperimentFunction,
        size: int = 59,
        seed: int = 0,
        where: Where = None,
        failed: bool = False,
        tolerances: Mapping[str, float] | None = None,
        ignore: Sequence[str] = (),
    ) -> Audit:
        """Execute some finished experiments again, in this process, and compare the results.

        The experiments are drawn at random, from each machine and each level of what the design compares as many as its
        share. Their rows do not change; each execution is an attempt with the outcome ``audit``. If the same call is
        repeated, it goes on where it was interrupted; several processes may make it at the same time and share the
        work.

        Parameters
        ----------
        experiment_function : callable
            As for `execute`.
        size : int
            How many experiments. If 59 give the same results, at least 95 % of all do, with a confidence of 95 %.
        seed : int
            Seed of the choice.
        where : mapping or str, optional
            Only experiments with these values, or that match this SQL condition.
        failed : bool
            Also experiments that are in error; they should fail again, with the same exception.
        tolerances : Mapping of str to float, optional
            Resultfield -> largest absolute difference that counts as the same. It is recorded when the audit begins,
            and cannot be changed afterwards.
        ignore : sequence of str
            Resultfields that are not compared, such as durations. Times are never compared.

        Returns
        -------
        Audit
            What was found so far.

        Raises
        ------
        InvalidColumnError
            If a name is not a resultfield.
        InvalidValueError
            If the audit was begun with other tolerances, or no experiment is finished.
        """
        from pyexperimenter.study.audit import audit, compared_fields

        check_function(experiment_function)
        self._prepare_execution()
        tolerances = dict(tolerances or {})
        rules = {"fields": compared_fields(self.config, tolerances, ignore), "tolerances": tolerances}
        plan = {"size": whole_number("size", size, least=1), "seed": seed, "where": where, "failed": failed}
        states = [ExperimentStatus.DONE, *([ExperimentStatus.ERROR] if failed else [])]
        finished = partial(self.get_table, where, states=states)
        return audit(self._store, self.config, experiment_function, finished, plan, rules, self.name)

    def sync(self) -> int:
        """Write the results that are in journal files because the database was unavailable.

        Calling it twice is safe. If an experiment has been executed again since, the journaled results are stored with
        their own attempt and do not change its row.

        Returns
        -------
        int
            Number of executions whose results were written.

        Raises
        ------
        DatabaseError
            If the database is unavailable. Nothing is lost.
        """
        if not journals_of(self._store, self._journal):
            return 0
        self._prepare_execution()
        return replay_journals(self._store, self._journal, self.logger)

    # Ending

    def close_ssh(self) -> None:
        """Stop using the SSH tunnel if there is one. It closes a few seconds after its last use."""
        self._store.database.close_tunnel()

    def close_ssh_tunnel(self) -> None:
        """Close the SSH tunnel. Deprecated: call `close_ssh`."""
        warnings.warn("close_ssh_tunnel() is deprecated; call close_ssh()", DeprecationWarning, stacklevel=2)
        self.close_ssh()

    # Helpers

    def _execute(
        self,
        function: ExperimentFunction,
        n_jobs: int | None = None,
        max_experiments: int = -1,
        stop_after: float | str | None = None,
        wait: bool = False,
        where: Where = None,
        order_by: OrderBy = None,
        random_order: bool = False,
        resources: Mapping[str, float] | None = None,
        only_grid: bool = False,
        signals: Sequence[str] = (),
    ) -> int:
        """Do what `execute` does. A cluster job adds `signals` to those on which its workers stop."""
        check_function(function)
        supervised = self._is_supervised()
        if supervised:
            pickled(function)  # raises here what every child would
        self._prepare_execution()
        self._check_selection(where, order_by, only_grid)
        self.sync()
        limits = split_limit(max_experiments, number_of_workers(self.config.n_jobs if n_jobs is None else n_jobs))
        task = self._task(
            function,
            signals,
            selection=self._store.selection(where, order_by, random_order, resources, only_grid),
            wait=wait,
            allowance=allowance(None if stop_after is None else _seconds("stop_after", stop_after), os.environ),
        )
        with (
            allocate_gpus(os.environ, self.config.execution.gpus, len(limits)) as gpus,
            folded_failures(),
            execution_bar(self._store),
        ):
            reports = run_pool(task, limits, gpus, self._store, supervised)
        self._warn_of_resultless(sum(report.resultless for report in reports))
        for report in reports:
            if report.stopped_by is not None:
                raise report.stopped_by
        if is_away(str(self._store.database)):
            self._store.counts()  # logs that it is back: perhaps only processes that have ended had seen that
        executed = sum(report.executed for report in reports)
        self.logger.info("%s executed", counted(executed, "experiment"))
        return executed

    def _job(
        self,
        function: ExperimentFunction,
        profile: str | None,
        cluster: str,
        options: Mapping[str, Any],
        where: Where,
        order_by: OrderBy,
        random_order: bool,
        resources: Mapping[str, float] | None,
        only_grid: bool,
    ) -> tuple[Job, dict[str, Any]]:
        """Return what each job of a cluster does, and its options, with those of the profile."""
        from pyexperimenter.cluster.job import job_of
        from pyexperimenter.cluster.options import options_of

        options = options_of(self.config, profile, cluster, options)
        selected = {
            "where": where,
            "order_by": order_by,
            "random_order": random_order,
            "resources": resources,
            "only_grid": only_grid,
        }
        return job_of(self._made_again, self.config, function, selected, cluster, options), options

    def _smoke_test(self, run: Callable[..., int], strength: int, where: Where, only_grid: bool) -> int:
        """Execute a few experiments in which all values occur, cheap ones first; raise if one fails."""
        from pyexperimenter.analysis.covering import covering, failures_by_value

        names = list(self.config.table.keyfields)
        table = self.get_table(where, ["ID", *names, "status"], only_grid=only_grid).assign(needs=0)
        for requirement in self.config.table.requires:
            needy = self.get_table(dict(requirement.when), ["ID"])["ID"]
            table["needs"] += table["ID"].isin(needy) * sum(requirement.resources.values())
        chosen = covering(table.sort_values("needs", kind="stable"), names, strength)
        self.logger.info("smoke test with %s", counted(len(chosen), "experiment"))
        executed = 0
        for _, group in chosen.sort_values("ID").groupby("needs"):
            ids = {"ID": group["ID"].tolist()}
            executed += run(where=ids, wait=True)
            states = self.get_table(ids, ["ID", "status"])["status"]
            failed = int((states == "error").sum())
            if failed:
                found = failures_by_value(group.assign(status=states.to_numpy()), names)
                raise SmokeTestError(
                    f"{failed} of {counted(len(group), 'experiment')} of the smoke test failed, so no others were "
                    f"started; those that failed have {found}; look at the errors, fix the cause and reset them"
                )
        return executed

    def _warn_of_resultless(self, count: int) -> None:
        fields = self.config.table.resultfields
        if count and fields:
            ended = "1 experiment is" if count == 1 else f"{count} experiments are"
            self.logger.warning(
                "%s done without any result; perhaps the function lacks a return: it should return a mapping such as "
                "{%r: ...}, or pass one to result_processor.process_results()",
                ended,
                next(iter(fields)),
            )

    def _check_selection(self, where: Where, order_by: OrderBy, only_grid: bool) -> None:
        """Raise here what each worker's first claim would raise. The query returns no rows."""
        self._store.table_rows(where, ["ID"], order_by, limit=0, only_grid=only_grid)

    def _is_supervised(self) -> bool:
        execution = self.config.execution
        if execution.isolation == "process":
            return True
        if execution.time_limit is not None:
            self.logger.warning("time_limit has no effect with isolation: none, because only a process can be stopped")
        if execution.experiments_per_process is not None:
            self.logger.warning("experiments_per_process has no effect with isolation: none")
        return False

    @property
    def _journal(self) -> str:
        """Directory of the journals: as configured, or that of the log file, or the working directory."""
        beside = absolute_path(self._log_settings.file).parent if self._log_settings.file else "."
        return str(absolute_path(self.config.execution.journal or beside))

    def _task(self, function: ExperimentFunction, signals: Sequence[str] = (), **details: Any) -> WorkerTask:
        execution = self.config.execution
        return WorkerTask(
            config=replace(self.config, execution=replace(execution, signals=(*execution.signals, *signals))),
            function=function,
            name=self.name,
            identity=uuid.uuid4().hex,
            codecarbon=self._codecarbon,
            logging=self._log_settings,
            journal=self._journal,
            environment=self._recorded_environment(function),
            **details,
        )

    def _recorded_environment(self, function: ExperimentFunction) -> str:
        """Record what this process runs in, and the changes of the function's code; return the environment's hash."""
        found, directory = environment(), source_directory(function)
        recorded = (str(found["hash"]), code_state(directory).diff_hash)
        if recorded != self._recorded:
            self._store.keep_event_once(__version__, "environment", found["hash"], found)
            if recorded[1] is not None:
                self._store.keep_event_once(__version__, "diff", recorded[1], {"diff": uncommitted_changes(directory)})
            self._recorded = recorded
        return recorded[0]


@contextmanager
def _dashboard_extra() -> Iterator[None]:
    """Say what to install if a package is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise PyExperimenterError(
            f"the dashboard needs the package {error.name}: pip install 'pyexperimenter[dashboard]'"
        ) from error


def _absolute(path: _Source) -> _Source:
    return path if isinstance(path, (Mapping, KeptConfig)) else str(absolute_path(found(path)))


def _seconds(name: str, duration: float | str) -> float:
    try:
        return seconds(duration)
    except ValueError as error:
        raise InvalidValueError(f"{name}: {error}") from None
