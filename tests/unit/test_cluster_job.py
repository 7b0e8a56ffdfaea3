"""What a job does when it runs, and what is fixed when it is submitted."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import cloudpickle
import pytest

from pyexperimenter.cluster import job
from pyexperimenter.cluster.job import Job, job_of
from pyexperimenter.exceptions import ExperimentFunctionError
from tests.support.study import experimenter, study
from tests.support.target import Target

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR2") if hasattr(signal, name)]


def work(keyfields: dict[str, Any], results: Any, custom: dict[str, Any]) -> None: ...


class Recorder:
    """In place of the experimenter: notes how it was called, and what it was called in."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def _execute(self, function: Callable[..., Any], **options: Any) -> int:
        handlers = [signal.getsignal(number) for number in SIGNALS]
        self.calls.append((function, options, list(sys.path), handlers, os.environ.get("CUDA_VISIBLE_DEVICES")))
        return 3

    def _smoke_test(self, run: partial[int], strength: int, where: Any, only_grid: bool) -> int:
        self.calls.append((strength, where, only_grid, run.keywords["resources"]))
        return 4


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restores what a job changes."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    previous = [signal.signal(number, signal.SIG_IGN) for number in SIGNALS]
    yield
    for number, handler in zip(SIGNALS, previous, strict=True):
        signal.signal(number, handler)


def test_a_job_finds_the_same_modules_and_ends_at_the_usual_signals(
    surroundings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def allocate(environment: Any, each: int, workers: int) -> Iterator[list[str | None]]:
        assert (each, workers) == (2, 1)
        yield ["2,3"]

    monkeypatch.setattr(job, "allocate_gpus", allocate)
    recorder = Recorder()
    path = [*sys.path, "/where the function was"]
    assert Job(lambda: recorder, cloudpickle.dumps(work), {"where": None}, 2, path)() == 3
    ((function, options, found, handlers, gpus),) = recorder.calls
    assert function.__name__ == "work"
    assert options == {"signals": ["SIGUSR2"], "stop_after": None, "where": None}
    assert (found, handlers, gpus) == (path, [signal.SIG_DFL] * len(SIGNALS), "2,3")


@pytest.mark.parametrize(("selected", "only_grid"), [({}, False), ({"only_grid": True}, True)])
def test_a_smoke_test_is_of_what_the_jobs_execute(surroundings: None, selected: Any, only_grid: bool) -> None:
    recorder = Recorder()
    selected = {"where": {"seed": 1}, "resources": {"gpus": 0}, **selected}
    assert Job(lambda: recorder, cloudpickle.dumps(work), selected, 0, smoke=2)() == 4
    assert recorder.calls == [(2, {"seed": 1}, only_grid, {"gpus": 0})]


def made(target: Target, cluster: str, options: Any, function: Any = work, **changes: Any) -> Job:
    selected = {"resources": changes.pop("resources", None)}
    config = experimenter(target, study(target, **changes)).config
    return job_of(lambda: None, config, function, selected, cluster, options)


def test_a_local_job_minds_its_gpus_and_its_time(sqlite_target: Target) -> None:
    """Those of SLURM get both from there."""
    changes: dict[str, Any] = {"Execution": {"gpus": 2}, "n_jobs": 3}
    several = made(sqlite_target, "local", {"time": "1h"}, **changes)
    assert (several.gpus, several.seconds) == (6, 3600)
    assert made(sqlite_target, "local", {"gpus": "a100:3"}, **changes).gpus == 3
    elsewhere = made(sqlite_target, "slurm", {"time": "1h", "gpus": 3}, **changes)
    assert (elsewhere.gpus, elsewhere.seconds) == (0, None)


def test_what_jobs_have_is_what_they_ask_for(sqlite_target: Target) -> None:
    needs: dict[str, Any] = {"requires": [{"resources": {"gpus": 1}}]}
    asked = {"gpus": "a100:2", "cpus_per_task": 4}
    assert made(sqlite_target, "slurm", asked, **needs).selected["resources"] == {"gpus": 2, "cpus": 4}
    assert made(sqlite_target, "slurm", {}, **needs).selected["resources"] == {"gpus": 0, "cpus": 1}
    assert made(sqlite_target, "slurm", asked, **needs, resources={"gpus": 7}).selected["resources"] == {"gpus": 7}
    assert made(sqlite_target, "slurm", asked).selected["resources"] is None


def test_a_function_that_executes_nothing_is_not_submitted(sqlite_target: Target) -> None:
    def generator(keyfields: Any, results: Any, custom: Any) -> Iterator[int]:
        yield 1

    with pytest.raises(ExperimentFunctionError, match="generator contains yield"):
        made(sqlite_target, "slurm", {}, generator)
