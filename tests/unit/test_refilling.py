"""When further jobs are submitted: the loop, with what SLURM and the database would answer."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

import pytest

from pyexperimenter.cluster import refilling
from pyexperimenter.cluster.refilling import keep_submitting
from pyexperimenter.database.records import Unfinished
from pyexperimenter.exceptions import SubmissionError

DONE = Unfinished(0, 0, 0)


def submissions(
    looks: Iterable[tuple[Unfinished, list[str] | Exception, int]], workers: int = 4, max_jobs: float = 100
) -> list[int]:
    """Return how many jobs are submitted, each time, if each look finds these experiments, jobs and latest attempt."""
    now: tuple[Unfinished, list[str] | Exception, int] = (DONE, [], 0)
    remaining: Iterator[tuple[Unfinished, list[str] | Exception, int]] = iter([*looks, (DONE, [], 0)])
    submitted: list[int] = []

    def unfinished() -> Unfinished:
        nonlocal now
        now = next(remaining)
        return now[0]

    def queue() -> list[str]:
        if isinstance(now[1], Exception):
            raise now[1]
        return now[1]

    total = keep_submitting(
        submitted.append, unfinished, lambda: now[2], queue, workers, max_jobs, 0.001, logging.getLogger("test")
    )
    assert total == sum(submitted)
    return submitted


def test_jobs_that_have_ended_are_replaced_while_experiments_are_open() -> None:
    looks: list[tuple[Unfinished, list[str], int]] = [
        (Unfinished(20, 0, 0), [], 0),
        (Unfinished(16, 4, 0), ["RUNNING"] * 4, 4),
        (Unfinished(10, 2, 0), ["RUNNING"] * 2, 8),
        (Unfinished(1, 4, 0), ["RUNNING"] * 2, 14),
        (Unfinished(0, 3, 0), ["RUNNING"] * 3, 15),
        (Unfinished(0, 0, 2), [], 15),
    ]
    assert submissions(looks) == [4, 2, 1, 2]


def test_after_a_restart_the_jobs_in_the_queue_count() -> None:
    assert submissions([(Unfinished(20, 2, 0), ["RUNNING", "RUNNING", "PENDING"], 5)]) == [1]
    assert submissions([(Unfinished(2, 0, 1), ["PENDING", "PENDING"], 0)]) == [1]
    assert submissions([(Unfinished(20, 2, 0), [], 1)]) == [4]  # the first look knows of no earlier one


def test_it_waits_for_what_others_are_running() -> None:
    assert submissions([(Unfinished(0, 1, 0), [], 3)] * 3) == []


def test_the_limit() -> None:
    looks: list[tuple[Unfinished, list[str], int]] = [(Unfinished(20, 0, 0), [], number) for number in (0, 4, 6)]
    assert submissions(looks, max_jobs=6) == [4, 2]


def test_there_is_a_pause_after_each_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM is asked seldom, by all users together."""
    pauses: list[float] = []
    monkeypatch.setattr(refilling.time, "sleep", pauses.append)
    submissions([(Unfinished(20, 0, 0), [], 0), (Unfinished(0, 1, 0), ["RUNNING"], 4)])
    assert pauses == [0.001, 0.001]


def test_jobs_that_start_nothing_are_not_repeated() -> None:
    """They may need time to start; but once all have ended, something is wrong."""
    starting = (Unfinished(20, 0, 0), ["RUNNING"], 7)
    looks = [(Unfinished(20, 0, 0), [], 7), starting, starting, (Unfinished(20, 0, 0), [], 7)]
    with pytest.raises(SubmissionError, match="ended without starting an experiment"):
        submissions(looks)
    assert submissions([*looks[:3], (Unfinished(19, 0, 0), ["RUNNING"], 8)]) == [4, 3]


def test_slurm_that_is_away_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    away = (Unfinished(20, 0, 0), SubmissionError("squeue did not answer"), 4)
    assert submissions([(Unfinished(20, 0, 0), [], 0), away, away, (Unfinished(20, 0, 0), [], 4)]) == [4, 4]
    assert caplog.text.count("squeue did not answer; trying again in") == 2
    with pytest.raises(SubmissionError, match="did not answer"):
        submissions([away])
