"""Studies whose database goes away and comes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyexperimenter import PyExperimenter, ResultProcessor
from tests.support.study import credentials, experimenter, outcomes, statuses, study, wait_until
from tests.support.target import Target


@dataclass(frozen=True)
class Signs:
    """Files by which the test and its functions, wherever they run, signal their progress to each other."""

    directory: Path

    def give(self, sign: object) -> None:
        (self.directory / str(sign)).touch()

    def wait_for(self, sign: object) -> None:
        wait_until((self.directory / str(sign)).exists)


def seeds(rows: int) -> dict[str, Any]:
    return {"seed": {"type": "INT", "values": {"start": 0, "stop": rows}}}


def configured(target: Target, signs: Signs, rows: int, **execution: Any) -> dict[str, Any]:
    """Return a study of so many rows, whose journals are next to the signs."""
    return study(
        target,
        keyfields=seeds(rows),
        Custom={"signs": str(signs.directory)},
        Execution={"journal": str(journals_of(signs)), **execution},
    )


def filled(target: Target, signs: Signs, rows: int, **execution: Any) -> PyExperimenter:
    study_ = experimenter(target, configured(target, signs, rows, **execution))
    study_.fill_table_from_config()
    return study_


def journals_of(signs: Signs) -> Path:
    return signs.directory.with_name("journals")


@contextmanager
def executing(study_: PyExperimenter, function: Callable[..., Any], **options: Any) -> Iterator[Future[int]]:
    """Execute in a thread: the main thread belongs to the test, whose servers end with the thread that started them."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(study_.execute, function, **options)


def assert_each_done_once(target: Target, rows: int, logs: int) -> None:
    """Assert that one attempt did each row, with all results and logs; claims whose answer was lost were released."""
    assert statuses(target) == {"done": rows}
    ended = outcomes(target)
    assert ended.pop("released", 0) >= 0
    assert ended == {"done": rows}
    assert target.query("SELECT COUNT(DISTINCT experiment_id) FROM study__attempts WHERE outcome = 'done'") == [(rows,)]
    right = "accuracy * 4 = seed AND model = seed AND error IS NULL"
    assert target.query(f"SELECT COUNT(*) FROM study WHERE {right}") == [(rows,)]
    written = target.query(
        "SELECT a.experiment_id, COUNT(e.ID), COUNT(DISTINCT e.epoch) FROM study__attempts a "
        "LEFT JOIN study__epochs e ON e.attempt_id = a.ID WHERE a.outcome = 'done' GROUP BY a.experiment_id"
    )
    assert {(rows, epochs) for _, rows, epochs in written} == {(logs, logs)}
    assert target.query("SELECT COUNT(*) FROM study__epochs") == [(rows * logs,)]


def measure(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    """Write results, logs and results again; the 10th waits in the middle until the outage has begun."""
    signs, seed = Signs(Path(custom["signs"])), keyfields["seed"]
    results.process_results({"model": str(seed)})
    results.process_logs({"epochs": [{"epoch": epoch, "loss": 0.5} for epoch in (1, 2)]})
    signs.give(f"started {seed}")
    if seed == 9:
        signs.wait_for("the outage began")
    results.process_logs({"epochs": {"epoch": 3, "loss": 0.5}})
    return {"accuracy": seed / 4}


def again(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    results.process_logs({"epochs": {"epoch": 10, "loss": 0.1}})
    return {"accuracy": 0.75, "model": "again"}


SCRIPT = """
import importlib, json, sys
from pyexperimenter import PyExperimenter

config, options = json.loads(sys.argv[2]), json.loads(sys.argv[3])
study = PyExperimenter(config, log_level="ERROR", **options)
if sys.argv[1] == "sync":
    print(study.sync())
else:
    module, _, function = sys.argv[1].partition(":")
    study.execute(getattr(importlib.import_module(module), function))
"""


@contextmanager
def script(target: Target, config: dict[str, Any], doing: str) -> Iterator[subprocess.Popen[str]]:
    """Run a script that syncs, or executes a function named as ``module:name``; it ends with the block."""
    options = {name: str(value) for name, value in credentials(target).items()}
    command = [sys.executable, "-c", SCRIPT, doing, json.dumps(config), json.dumps(options)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()
