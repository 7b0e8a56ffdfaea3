"""Outages of a database are logged once, even if several processes report them."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest

import pyexperimenter.experimenter
from pyexperimenter.database.outages import is_news
from pyexperimenter.execution.task import WorkerReport
from tests.support.study import experimenter
from tests.support.target import Target


def record(database: str, away: bool, began: float) -> logging.LogRecord:
    return logging.makeLogRecord({"outage": (database, away, began)})


def test_each_outage_begins_and_ends_once_whichever_process_reports_it() -> None:
    began = time.monotonic() - 1
    assert is_news(logging.makeLogRecord({}))  # of something else
    assert is_news(record("one", True, began))
    assert not is_news(record("one", True, began + 0.1))
    assert is_news(record("another", True, began))
    assert is_news(record("one", False, began))
    assert not is_news(record("one", False, began + 0.1))
    assert not is_news(record("one", True, began + 0.1))  # it comes late
    assert is_news(record("one", True, time.monotonic()))  # the next outage
    assert is_news(record("one", False, time.monotonic()))
    assert is_news(record("another", False, began))


def test_a_run_says_at_its_end_that_the_database_is_back(
    sqlite_target: Target, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process of a worker does not know that another one has reported the outage."""
    study_ = experimenter(sqlite_target, logger_name="another")
    study_.fill_table_from_config()
    run = pyexperimenter.experimenter.run_pool

    def run_with_an_outage(*arguments: Any) -> list[WorkerReport]:
        reports = run(*arguments)
        is_news(record(str(study_._store.database), True, time.monotonic()))
        return reports

    monkeypatch.setattr(pyexperimenter.experimenter, "run_pool", run_with_an_outage)
    monkeypatch.setattr(logging.getLogger("py-experimenter"), "handlers", [caplog.handler])
    with caplog.at_level("WARNING", "py-experimenter"):
        assert study_.execute(lambda keyfields, results, custom: None) == 6
    assert "works again" in caplog.text
