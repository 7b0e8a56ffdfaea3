"""The task of a worker, and its report."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from pyexperimenter.config import ExperimentConfig
from pyexperimenter.config.model import secrets_in_pickles
from pyexperimenter.database.selection import Selection
from pyexperimenter.execution.budget import Allowance
from pyexperimenter.execution.pickling import dumps
from pyexperimenter.logger import LogSettings
from pyexperimenter.result_processor import ResultProcessor

ExperimentFunction = Callable[[dict[str, Any], ResultProcessor, dict[str, Any]], Any]
"""``function(keyfields, result_processor, custom_fields)`` -> None, an ExperimentStatus, or a mapping of results."""


@dataclass(frozen=True)
class WorkerTask:
    """Everything that a worker needs to know, wherever it runs.

    Attributes
    ----------
    config : ExperimentConfig
        Describes the experiments and the database.
    function : ExperimentFunction
        The user's function.
    name, identity : str
        Recorded with each attempt; `identity` is unique.
    selection : Selection
        The experiments it may claim.
    limit : int or None
        Maximum number of experiments to execute; None for no limit.
    workers : int
        How many workers share the machine.
    wait : bool
        Whether it waits while other workers execute, to take over what they lose.
    allowance : Allowance or None
        How long it may claim experiments; None for no limit.
    errors : int
        How many experiments of this worker have failed in a row so far.
    codecarbon : Mapping or None
        Options of CodeCarbon; None if emissions are not measured.
    gpus : str or None
        Value of ``CUDA_VISIBLE_DEVICES`` in its process; None to leave it as it is.
    logging : LogSettings
        Settings of the library's logger.
    journal : str
        Directory for the journal.
    environment : str or None
        The hash of the recorded environment.
    """

    config: ExperimentConfig
    function: ExperimentFunction
    name: str
    identity: str
    selection: Selection = field(default_factory=Selection)
    limit: int | None = None
    workers: int = 1
    wait: bool = False
    allowance: Allowance | None = None
    errors: int = 0
    codecarbon: Mapping[str, Any] | None = None
    gpus: str | None = None
    logging: LogSettings = field(default_factory=LogSettings)
    journal: str = "."
    environment: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values["config"] = replace(self.config, table=replace(self.config.table, grid=None))  # which may be large
        with secrets_in_pickles():  # it is sent to a worker, which connects to the database with them
            return _restored, (dumps(values),)


def _restored(data: bytes) -> WorkerTask:
    return WorkerTask(**pickle.loads(data))


@dataclass(frozen=True)
class WorkerReport:
    """What a worker did.

    Attributes
    ----------
    executed : int
        How many experiments it has executed.
    stopped_by : BaseException or None
        What stopped it.
    used_up : bool
        Whether its process should be replaced by a fresh one, which goes on.
    resultless : int
        How many of the experiments are done, although nothing was written to their resultfields.
    """

    executed: int
    stopped_by: BaseException | None = None
    used_up: bool = False
    resultless: int = 0
