"""Processes are killed at random, again and again: each experiment ends with the results of one execution."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.study import credentials, experimenter, study, wait_until
from tests.support.target import Target

ROWS, WORKERS, KILLS, SEED = 300, 4, 30, 1
EXECUTION = {"isolation": "process", "heartbeat": 0.3, "lease": 2, "grace": 1, "stop_after_errors": 0}
MARK = "PYEXPERIMENTER_TEST_CHAOS"  # in the environment of the scripts, and so of all their descendants

SCRIPT = """
import json, os, random, subprocess, sys, time, uuid
from pathlib import Path
from pyexperimenter import PyExperimenter

def function(keyfields, results, custom):
    token = f"{os.getpid()}-{uuid.uuid4().hex}"
    Path(custom["executions"], f"{results.experiment_id} {token}").touch()
    results.process_results({"first": token})
    if keyfields["seed"] % 5 == 0:
        subprocess.Popen(["sleep", "600"])
    time.sleep(random.Random(keyfields["seed"]).uniform(0.03, 0.15))
    results.process_logs({"tokens": {"token": token}})
    return {"last": token}

def poison(keyfields, results, custom):
    if keyfields["seed"] == custom["poison"]:
        group, supervisor = os.getpgrp(), os.getppid()
        # Stopped first, this process has no time to notice that its supervisor is dead.
        kills = f"kill -s STOP -- -{group}; kill -s KILL {supervisor}; kill -s KILL -- -{group}"
        subprocess.Popen(["sh", "-c", kills], start_new_session=True)
        time.sleep(600)
    return {"last": "harmless"}

if __name__ == "__main__":
    config, options = json.loads(sys.argv[2]), json.loads(sys.argv[3])
    PyExperimenter(config, log_level="ERROR", **options).execute(globals()[sys.argv[1]])
"""


class Scripts:
    """Runs the script that executes a study, one process of it at a time, and kills it or parts of it."""

    def __init__(self, target: Target, config: dict[str, Any], function: str, directory: Path) -> None:
        self.log = directory / "log"
        (directory / "script.py").write_text(SCRIPT)
        options = {name: str(value) for name, value in credentials(target).items()}
        arguments = [function, json.dumps(config), json.dumps(options)]
        self._command = [sys.executable, str(directory / "script.py"), *arguments]
        self._mark = str(directory)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("a") as log:
            environment = {**os.environ, MARK: self._mark}
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait(self) -> int:
        assert self._process is not None
        return self._process.wait(120)

    def children(self) -> list[int]:
        assert self._process is not None
        try:
            return sorted(child.pid for child in psutil.Process(self._process.pid).children())
        except psutil.NoSuchProcess:
            return []

    def kill_child(self, moments: random.Random) -> bool:
        children = self.children()
        if children:
            with suppress(ProcessLookupError):  # it ended a moment ago
                os.kill(moments.choice(children), signal.SIGKILL)
        return bool(children)

    def kill_supervisor(self) -> bool:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        return True

    def kill_everything(self) -> bool:
        """As in a power cut: no process has time to notice the death of another."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        children = self.children()
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for child in children:
                with suppress(ProcessLookupError, PermissionError):  # so young that it has no group yet
                    os.killpg(child, number)
                with suppress(ProcessLookupError):
                    os.kill(child, number)
        return self.kill_supervisor()

    def remains(self) -> list[str]:
        """Return all processes started here that still run."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == self._mark:
                    found.append(" ".join(process.cmdline()))
        return found


@contextmanager
def scripts(target: Target, config: dict[str, Any], function: str, directory: Path) -> Iterator[Scripts]:
    running = Scripts(target, config, function, directory)
    try:
        yield running
    finally:
        if running.is_running():
            running.kill_everything()


def by_status(target: Target) -> dict[str, int]:
    return dict(target.query("SELECT status, COUNT(*) FROM study GROUP BY status"))


def by_outcome(target: Target) -> dict[str | None, int]:
    return dict(target.query("SELECT outcome, COUNT(*) FROM study__attempts GROUP BY outcome"))


@pytest.mark.timeout(600)
def test_every_row_is_done_once_whatever_is_killed(target: Target, tmp_path: Path) -> None:
    executions = tmp_path / "executions"
    executions.mkdir()
    config = study(
        target,
        keyfields={"seed": {"type": "INT", "values": {"start": 0, "stop": ROWS}}},
        resultfields={"first": "VARCHAR(100)", "last": "VARCHAR(100)"},
        logtables={"tokens": {"token": "VARCHAR(100)"}},
        Custom={"executions": str(executions)},
        Execution=EXECUTION,
        n_jobs=WORKERS,
    )
    study_ = experimenter(target, config)
    study_.fill_table_from_config()
    assert by_status(target) == {"created": ROWS}
    moments = random.Random(SEED)
    kills: Counter[str] = Counter()
    attempts_before_reset: dict[int, int] = defaultdict(int)  # of rows that this test has reset

    def reset(condition: str) -> None:
        rows = target.query(f"SELECT ID, error FROM study WHERE {condition}")
        ids = [row for row, _ in rows]
        assert all(error is None or error.startswith(("killed by SIGKILL", "lost 3 times")) for _, error in rows), rows
        attempts_before_reset.update(
            (row, number)
            for row, number in target.query("SELECT experiment_id, MAX(number) FROM study__attempts GROUP BY 1")
            if row in ids
        )
        assert study_.reset_experiments(ids=ids) == len(ids)

    def executed_so_far() -> int:
        return len(list(executions.iterdir()))

    with scripts(target, config, "function", tmp_path) as script:
        while kills.total() < KILLS:
            if by_status(target).get("created", 0) < ROWS // 10:
                reset("status = 'error' OR status = 'done' AND ID % 2 = 0")
            if not script.is_running():
                script.start()
            before = executed_so_far()
            # It may also end by itself if only rows of dead workers were left.
            wait_until(lambda before=before: executed_so_far() > before or not script.is_running())
            time.sleep(moments.uniform(0, 0.3))  # not for synchronization: it picks a random moment
            if script.is_running():
                kind = moments.choices(["child", "supervisor", "everything"], [6, 3, 2])[0]
                killed = {
                    "child": lambda: script.kill_child(moments),
                    "supervisor": script.kill_supervisor,
                    "everything": script.kill_everything,
                }[kind]()
                kills[kind] += killed
        left = by_status(target)
        if script.is_running():
            script.wait()  # with any exit code: workers whose processes die too often in a row give up
        for _ in range(20):  # rows of dead workers wait for the end of their lease
            if by_status(target) == {"done": ROWS}:
                break
            reset("status = 'error'")
            script.start()
            assert script.wait() == 0, f"seed {SEED}: {script.log.read_text()[-3000:]}"
        wait_until(lambda: not script.remains())
    outcomes = by_outcome(target)
    files = [path.name.split() for path in executions.iterdir()]
    print(f"\n{target.name}: kills {dict(kills)}, rows then {left}, executions {len(files)}, attempts {outcomes}")

    told = f"seed {SEED}"
    assert left.keys() & {"created", "running"}, f"{told}: at the last kill rows were still open"
    assert min(kills[kind] for kind in ("child", "supervisor", "everything")) > 0, told
    # All ways to die occurred: reported by the supervisor, by the child itself, and not at all.
    assert outcomes.keys() == {"done", "error", "released", "lost"}, told
    attempts: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for row, *attempt in target.query(
        "SELECT experiment_id, number, pid, outcome, ended, ID FROM study__attempts ORDER BY experiment_id, number"
    ):
        attempts[row].append(tuple(attempt))
    logged: dict[int, list[str]] = defaultdict(list)
    for attempt, token in target.query("SELECT attempt_id, token FROM study__tokens"):
        logged[attempt].append(token)
    executed: dict[int, list[str]] = defaultdict(list)
    for row, token in files:
        executed[int(row)].append(token)
    rows = target.query("SELECT ID, status, first, last, error FROM study ORDER BY ID")
    assert len(rows) == ROWS
    for row, status, first, last, error in rows:
        told = f"seed {SEED}, row {row}: {first}, {last}, {attempts[row]}, {executed[row]}"
        assert (status, error) == ("done", None), told
        assert [number for number, *_ in attempts[row]] == list(range(1, len(attempts[row]) + 1)), told
        assert all(ended is not None for _, _, _, ended, _ in attempts[row]), told
        _, pid, outcome, _, last_attempt = attempts[row][-1]
        assert outcome == "done", told
        assert first == last, told
        assert last in executed[row], told
        assert last.startswith(f"{pid}-"), told
        assert logged[last_attempt] == [last], told
        done = [number for number, _, outcome, *_ in attempts[row] if outcome == "done"]
        assert len([number for number in done if number > attempts_before_reset[row]]) == 1, told
        # An execution that is not in the database would be one too many in the files.
        assert not Counter(token.split("-")[0] for token in executed[row]) - Counter(str(a[1]) for a in attempts[row])
        for _, pid, outcome, _, attempt in attempts[row]:
            tokens = logged[attempt]
            assert len(tokens) == 1 if outcome == "done" else len(tokens) <= 1, told
            assert all(token.startswith(f"{pid}-") for token in tokens), told


def test_an_experiment_that_kills_its_workers_becomes_an_error(target: Target, tmp_path: Path) -> None:
    config = study(
        target,
        keyfields={"seed": {"type": "INT", "values": {"start": 0, "stop": 4}}},
        resultfields={"last": "VARCHAR(100)"},
        Custom={"poison": 1},
        Execution={**EXECUTION, "max_lost": 2},
    )
    experimenter(target, config).fill_table_from_config()
    assert by_status(target) == {"created": 4}
    exit_codes = []
    with scripts(target, config, "poison", tmp_path) as script:
        # A worker that finds nothing open while the leases of dead ones are valid ends; it takes a few.
        while len(exit_codes) < 30 and by_status(target).keys() & {"created", "running"}:
            script.start()
            exit_codes.append(script.wait())
    assert Counter(exit_codes)[-signal.SIGKILL] == 2
    assert set(exit_codes) == {-signal.SIGKILL, 0}, script.log.read_text()[-3000:]
    assert by_status(target) == {"done": 3, "error": 1}
    assert by_outcome(target) == {"done": 3, "lost": 2}
    ((error,),) = target.query("SELECT error FROM study WHERE seed = 1")
    assert error.startswith("lost 2 times: its workers died or could not reach the database")
    assert target.query("SELECT COUNT(*) FROM study WHERE last = 'harmless'") == [(3,)]
    assert script.remains() == []
