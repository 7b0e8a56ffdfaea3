"""The library's logger."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

_FORMAT = "%(asctime)s | %(name)s - %(levelname)-8s | %(message)s"


@dataclass(frozen=True)
class LogSettings:
    """How the library logs, in whatever process it runs.

    Attributes
    ----------
    name : str
        Name of the logger.
    level : int or str
        Least level that is told.
    file : str or None
        File that gets the messages too.
    """

    name: str = "py-experimenter"
    level: int | str = logging.INFO
    file: str | None = None

    def logger(self) -> logging.Logger:
        """Return the logger, with its handlers in place; handlers that others attached are left alone."""
        logger = logging.getLogger(self.name)
        logger.setLevel(self.level)
        if not logger.hasHandlers():
            logger.addHandler(_StderrHandler())
        if self.file is not None:
            _add_file(logger, Path(self.file).expanduser().absolute())
        return logger

    def experiment_logger(self) -> logging.Logger:
        """Return the logger for experiments, which writes to stderr only, with the library's level."""
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
    """Writes to what is sys.stderr at the time, as notebooks and test runners replace it."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter(_FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message."""
        self.stream = sys.stderr
        super().emit(record)
