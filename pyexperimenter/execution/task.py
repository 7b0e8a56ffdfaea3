"""What a worker is given to do, and what it reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyexperimenter.config import ExperimentConfig
from pyexperimenter.database.selection import Selection
from pyexperimenter.execution.budget import Allowance
from pyexperimenter.logger import LogSettings
from pyexperimenter.result_processor import ResultProcessor

ExperimentFunction = Callable[[dict[str, Any], ResultProcessor, dict[str, Any]], Any]
"""``function(keyfields, result_processor, custom_fields)`` -> None, an ExperimentStatus, or a mapping of results."""


@dataclass(frozen=True)
class WorkerTask:
    """All that a worker needs to know, wherever it runs.

    Attributes
    ----------
    config : ExperimentConfig
        The experiments.
    function : ExperimentFunction
        The user's function.
    name, identity : str
        As recorded with each attempt; `identity` is unique.
    selection : Selection
        What it may claim.
    limit : int or None
        Most experiments to execute; None for all that are open.
    workers : int
        How many workers share the machine.
    wait : bool
        Whether it stays as long as others execute, to take over what they lose.
    allowance : Allowance or None
        How long it may claim; None for ever.
    errors : int
        Experiments of this worker that failed in a row so far.
    codecarbon : Mapping or None
        Options of CodeCarbon; None if emissions are not measured.
    gpus : str or None
        What ``CUDA_VISIBLE_DEVICES`` is in its process; None to leave it.
    logging : LogSettings
        How the library's logger is set up.
    journal : str
        Directory of the journal.
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


@dataclass(frozen=True)
class WorkerReport:
    """How a worker ended: experiments executed, and the exception that stopped it, if one did."""

    executed: int
    stopped_by: BaseException | None = None
