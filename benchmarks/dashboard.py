"""Measure the pages of the dashboard on a large study, the memory of its process, and what watching costs workers.

The table has a million experiments with one attempt each, see large_study.py. Each page is asked for several times,
with addresses that differ, so that no page that was kept is sent. Then a worker executes an empty function for some
seconds, with and without a browser that shows the overview.

Run:  python benchmarks/dashboard.py [--rows 1000000] [--mysql mysql://user:password@host:port]
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import yaml
from common import mysql_config, print_table, raw_mysql, sqlite_config
from large_study import CURVES, large_config, large_study

from pyexperimenter import PyExperimenter

_PAGES = {
    "studies": "/",
    "overview": "/s/study/",
    "grid map": "/s/study/grid?rows=dataset&columns=method&value=accuracy",
    "experiments": "/s/study/experiments",
    "experiments, one state": "/s/study/experiments?state=error",
    "experiments, sorted": "/s/study/experiments?order=-accuracy",
    "experiments, a page in the middle": "/s/study/experiments?after=500000",
    "experiments, by values": "/s/study/experiments?k.dataset=%22d3%22&k.method=%22m4%22",
    "one experiment": "/s/study/experiments/400000",
    "failures": "/s/study/failures",
    "results, of 20,000": "/s/study/results?value=accuracy&rows=method&k.dataset=%22d3%22&k.rate=0.1",
    "parameters": "/s/study/parameters?value=accuracy",
    "curves": f"/s/study/curves?hue=rate&{CURVES}",
    "workers and cost": "/s/study/workers",
    "SQL": "/s/study/sql?sql=SELECT+status,+COUNT(*)+FROM+study+GROUP+BY+status",
}


class Browser:
    """Asks for pages with the cookie that it got."""

    def __init__(self, url: str) -> None:
        self._home = url.partition("/?")[0]
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        self._opener.open(url, timeout=60).read()
        self._number = 0

    def seconds(self, page: str) -> float:
        self._number += 1
        start = time.perf_counter()
        self.get(f"{page}{'&' if '?' in page else '?'}number={self._number}")
        return time.perf_counter() - start

    def get(self, page: str) -> bytes:
        return bytes(self._opener.open(f"{self._home}{page}", timeout=120).read())


@contextmanager
def dashboard(*options: str) -> Iterator[tuple[Browser, int]]:
    """Serve a study in a process of its own; yield a browser, and the process's ID."""
    command = [sys.executable, "-m", "pyexperimenter", "dashboard", "--no-browser", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None
        until = time.monotonic() + 60
        while True:
            try:
                yield Browser(found[0]), process.pid
                return
            except ConnectionRefusedError:
                assert time.monotonic() < until
                time.sleep(0.05)
    finally:
        process.terminate()
        process.wait()


def megabytes(pid: int, name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(database: str, rounds: int, *options: str) -> list[list[Any]]:
    table = []
    with dashboard(*options) as (browser, pid):
        for name, page in _PAGES.items():
            times, before = list[float](), cpu_seconds(pid)
            for _ in range(rounds):
                times.append(browser.seconds(page))
            used = (cpu_seconds(pid) - before) / rounds
            row = [database, name, statistics.median(times), times[0], max(times), used, megabytes(pid, "VmHWM")]
            table.append(row)
    return table


def nothing(keyfields: dict[str, Any], results: Any, custom: dict[str, Any]) -> None:
    """An experiment."""


def executed(study: PyExperimenter, seconds: float) -> float:
    """Return how many experiments one worker executes in a second."""
    start = time.perf_counter()
    number = study.execute(nothing, n_jobs=1, stop_after=seconds)
    if study.counts()["created"] == 0:
        raise SystemExit("no experiment is left for the worker; give it fewer --seconds or more --rows")
    return number / (time.perf_counter() - start)


def watched(database: str, study: PyExperimenter, rounds: int, seconds: float, *options: str) -> list[list[Any]]:
    """Compare a worker alone with one that is watched, in turns."""
    alone, with_browser = list[float](), list[float]()
    study.execute(nothing, n_jobs=1, max_experiments=200)  # otherwise it expects them to take a minute, and starts none
    with dashboard(*options) as (browser, _):
        browser.get("/s/study/")
        for _ in range(rounds):
            alone.append(executed(study, seconds))
            ended = threading.Event()

            def look(ended: threading.Event = ended) -> None:
                while True:  # as the script of the page does
                    browser.get("/s/study/?part=progress")
                    if ended.wait(5):
                        break

            thread = threading.Thread(target=look)
            thread.start()
            with_browser.append(executed(study, seconds))
            ended.set()
            thread.join()
    without, watching = statistics.median(alone), statistics.median(with_browser)
    return [[database, without, watching, watching / without]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10, help="of a worker in each round")
    parser.add_argument("--keep", help="directory of the SQLite file, which is made if it is missing")
    parser.add_argument("--mysql", help="also measure this server")
    arguments = parser.parse_args()
    rows, rounds = arguments.rows, arguments.rounds
    pages, effect = list[list[Any]](), list[list[Any]]()
    with tempfile.TemporaryDirectory() as directory:
        config = large_config(sqlite_config, arguments.keep or directory, rows)
        file = config["PY_EXPERIMENTER"]["Database"]["database"]
        study = PyExperimenter(config, log_level="ERROR")
        if not Path(file).exists():
            large_study(config, rows)
        pages += measured("SQLite", rounds, file)
        effect += watched("SQLite", study, rounds, arguments.seconds, file)
        if arguments.mysql:
            with raw_mysql(arguments.mysql) as (_, database, credentials):
                config = large_config(mysql_config, database, rows)
                path = Path(directory) / "mysql.yml"
                path.write_text(yaml.safe_dump(config, sort_keys=False))
                options = ["-c", str(path), "--credentials", str(credentials)]
                study = large_study(config, rows, database_credential_file_path=credentials)
                pages += measured("MySQL/MariaDB", rounds, *options)
                effect += watched("MySQL/MariaDB", study, rounds, arguments.seconds, *options)
    print_table(["database", "page", "median s", "first s", "slowest s", "CPU s of its process", "peak MB"], pages)
    print_table(["database", "experiments a second", "while watched", "ratio"], effect)


if __name__ == "__main__":
    main()
