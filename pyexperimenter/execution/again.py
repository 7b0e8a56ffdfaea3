"""Executing a finished experiment once more, for an audit: what it reports is returned, and its row does not change."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyexperimenter.config.model import ExperimentConfig
from pyexperimenter.database.records import Attempt, Usage
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.execution.function import user_traceback
from pyexperimenter.execution.surroundings import restored
from pyexperimenter.execution.task import ExperimentFunction
from pyexperimenter.execution.usage import Meter
from pyexperimenter.execution.worker import copies, interpret
from pyexperimenter.experiment_status import ExperimentStatus
from pyexperimenter.machine.contents import hash_of
from pyexperimenter.result_processor import ResultProcessor


@dataclass(frozen=True)
class Execution:
    """What an execution reported, what it used, and its error if it failed."""

    results: Mapping[str, Any]
    usage: Usage
    error: str | None = None


class _Recording(ResultProcessor):
    """Keeps results, and checks logs."""

    def __init__(self, store: ExperimentStore, experiment_id: int, keyfields: Mapping[str, Any]) -> None:
        super().__init__(store, Attempt(0, experiment_id), keyfields=keyfields)
        self.results: dict[str, Any] = {}

    def process_results(self, results: Mapping[str, Any]) -> None:
        self.results |= self._store.check_results(results)

    def process_logs(self, logs: Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]]) -> None:
        self._store.encode_logs(logs)

    def _keep(self, source: str | os.PathLike[str] | bytes) -> tuple[str, int]:
        return hash_of(source)


def execute_again(
    function: ExperimentFunction, store: ExperimentStore, config: ExperimentConfig, experiment_id: int
) -> Execution:
    """Call the function with the keyfields of an experiment, in this process."""
    keyfields = store.keyfields_of(experiment_id)
    processor, usage = _Recording(store, experiment_id, keyfields), Meter()
    error = None
    try:
        with restored():
            outcome, results = interpret(function(dict(keyfields), processor, copies(config.custom)))
        processor.process_results(results or {})
        if outcome is not ExperimentStatus.DONE:
            error = f"the experiment function returned {outcome}"
    except Exception as raised:
        error = user_traceback(raised)
    return Execution(store.shown_results(processor.results), usage.usage(), error)
