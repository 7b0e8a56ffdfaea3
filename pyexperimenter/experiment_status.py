"""The states an experiment can be in."""

from __future__ import annotations

from enum import Enum


class ExperimentStatus(str, Enum):
    """Status of an experiment, as stored in the column ``status``.

    Members are strings: ``ExperimentStatus.DONE == "done"`` holds, and both are accepted wherever a status is
    expected. ``ALL`` means every status where several may be given; no row ever has it.

    >>> ExperimentStatus("done") is ExperimentStatus.DONE
    True
    >>> f"{ExperimentStatus.PAUSED}"
    'paused'
    """

    CREATED = "created"
    RUNNING = "running"
    DONE = "done"
    ERROR = "error"
    PAUSED = "paused"
    ALL = "all"

    def __str__(self) -> str:
        return self.value
