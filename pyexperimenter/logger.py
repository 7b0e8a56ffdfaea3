"""The library's logger."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from pyexperimenter.paths import absolute_path

_FORMAT = "%(asctime)s | %(name)s - %(levelname)-8s | %(message)s"


@dataclass(frozen=True)
class LogSettings:
    """How the library logs, in any of its processes.

    Attributes
    ----------
    name : str
        Name of the logger.
    level : int or str
        Minimum level of logged messages.
    file : str or None
        File that also receives the messages.
    """

    name: str = "py-experimenter"
    level: int | str = logging.INFO
    file: str | None = None

    def logger(self) -> logging.Logger:
        """Return the logger with its handlers attached; handlers that the user attached stay as they are."""
        logger = logging.getLogger(self.name)
        logger.setLevel(self.level)
        if not logger.hasHandlers():
            logger.addHandler(_StderrHandler())
        if self.file is not None:
            _add_file(logger, absolute_path(self.file))
        return logger

    def experiment_logger(self) -> logging.Logger:
        """Return the logger for experiments. It has the library's level and writes to stderr only."""
        logger = logging.getLogger(f"{self.name}.experiment")
        if not logger.handlers:
            logger.addHandler(_StderrHandler())
            logger.propagate = False
        logger.setLevel(self.level)
        return logger


def _add_file(logger: logging.Logger, path: Path) -> None:
    if any(getattr(handler, "baseFilename", None) == str(path) for handler in logger.handlers):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(_FORMAT))
    logger.addHandler(handler)


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to the current sys.stderr, which notebooks and test runners replace."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter(_FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message."""
        self.stream = sys.stderr
        super().emit(record)
