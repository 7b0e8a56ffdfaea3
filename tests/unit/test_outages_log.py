"""Outages of a database are logged once, even if several processes report them."""

from __future__ import annotations

import logging
import time

from pyexperimenter.database.outages import is_news


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
