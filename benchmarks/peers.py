"""Compare with other packages that keep experiments or jobs in a database: the same work, each in its own environment.

The work is to fill a table of 1,000, 10,000 and 100,000 rows, and to execute 1,000 empty functions, each with one
result, with one worker and with eight. A worker is a process that runs functions within itself. The time begins when
all have imported what they need, and ends when the last has ended. Databases are those that a package supports. It is
noted if workers fail, or functions are executed twice or not at all.

The packages are installed by pip into `--environments`, once.

Run:  python benchmarks/peers.py [--mysql mysql://user:password@host:port] [--postgresql URL]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.parse
import venv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

SIZES = [1_000, 10_000, 100_000]
EXECUTED = 1_000
LIMIT = 100  # seconds; a fill that would take longer is left out

Call = Callable[[dict[str, Any]], Any]


class Peer:
    """A package; all but `requirements` runs in its environment. `place` is the URL or path of its database."""

    requirements: tuple[str, ...] = ()
    databases: tuple[str, ...] = ()

    def __init__(self, database: str, place: str, directory: str) -> None:
        self.database, self.place, self.directory = database, place, directory
        self.url = urllib.parse.urlsplit(place)

    def open(self, rows: int) -> Any:
        """Import the package and open a study of so many rows, before the time begins."""
        raise NotImplementedError

    def fill(self, study: Any, rows: int) -> None:
        """Add so many open rows."""
        raise NotImplementedError

    def work(self, study: Any, call: Call) -> None:
        """Call a function for each open row until there is none."""
        raise NotImplementedError


class ThisLibrary(Peer):
    databases = ("SQLite", "MariaDB", "PostgreSQL")

    def _config(self, rows: int) -> dict[str, Any]:
        provider = {"SQLite": "sqlite", "MariaDB": "mysql", "PostgreSQL": "postgresql"}[self.database]
        return {
            "PY_EXPERIMENTER": {
                "Database": {
                    "provider": provider,
                    "database": self.url.path[1:] if self.url.scheme else self.place,
                    "table": {
                        "name": "study",
                        "keyfields": {"seed": {"type": "INT", "values": {"start": 0, "stop": rows}}},
                        "resultfields": {"accuracy": "DOUBLE"},
                    },
                },
                "Execution": {"isolation": "none"},
            }
        }

    def open(self, rows: int) -> Any:
        from pyexperimenter import PyExperimenter

        for key, value in (
            ("USER", self.url.username),
            ("PASSWORD", self.url.password),
            ("HOST", self.url.hostname),
            ("PORT", self.url.port),
        ):
            if value is not None:
                os.environ[f"PYEXPERIMENTER_DB_{key}"] = urllib.parse.unquote(str(value))
        return PyExperimenter(self._config(rows), log_level="ERROR")

    def fill(self, study: Any, rows: int) -> None:
        study.fill_table_from_config()

    def work(self, study: Any, call: Call) -> None:
        study.execute(lambda keyfields, results, custom: call(keyfields))


class Predecessor(Peer):
    """The predecessor. On MariaDB, it only finds servers at the usual port, 3306."""

    requirements = ("py-experimenter==1.4.2",)
    databases = ("SQLite", "MariaDB")

    def open(self, rows: int) -> Any:
        from py_experimenter.experimenter import PyExperimenter

        name = self.url.path[1:] if self.url.scheme else self.place.removesuffix(".db")
        database = {
            "provider": "mysql" if self.database == "MariaDB" else "sqlite",
            "database": name,
            "table": {
                "name": "study",
                "keyfields": {"seed": {"type": "INT", "values": {"start": 0, "stop": rows, "step": 1}}},
                "resultfields": {"accuracy": "DOUBLE"},
                "result_timestamps": False,
            },
        }
        config = Path(self.directory, f"config-{os.getpid()}.yml")
        config.write_text(json.dumps({"PY_EXPERIMENTER": {"n_jobs": 1, "Database": database}}))  # which is YAML, too
        credentials = Path(self.directory, f"credentials-{os.getpid()}.yml")
        login = {name: urllib.parse.unquote(getattr(self.url, name) or "") for name in ("username", "password")}
        connection = {"Standard": {"server": self.url.hostname, "port": self.url.port}}
        credentials.touch(0o600)
        content = {"Database": {"user": login["username"], "password": login["password"]}, "Connection": connection}
        credentials.write_text(json.dumps({"CREDENTIALS": content}))
        return PyExperimenter(
            str(config), database_credential_file_path=str(credentials), use_codecarbon=False, log_level="ERROR"
        )

    def fill(self, study: Any, rows: int) -> None:
        study.fill_table_from_config()

    def work(self, study: Any, call: Call) -> None:
        def function(keyfields: dict[str, Any], results: Any, custom: dict[str, Any]) -> None:
            results.process_results(call(keyfields))

        study.execute(function, max_experiments=-1)


class Optuna(Peer):
    """Optuna, whose open rows are trials that wait."""

    requirements = ("optuna==5.0.0", "pymysql", "psycopg[binary]")
    databases = ("SQLite", "MariaDB", "PostgreSQL", "journal file")

    def open(self, rows: int) -> Any:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        if self.database == "journal file":
            from optuna.storages.journal import JournalFileBackend

            storage: Any = optuna.storages.JournalStorage(JournalFileBackend(self.place))
        else:
            drivers = {"SQLite": "sqlite:///", "MariaDB": "mysql+pymysql", "PostgreSQL": "postgresql+psycopg"}
            driver = drivers[self.database]
            storage = driver + self.place if self.database == "SQLite" else driver + self.place[len(self.url.scheme) :]
        sampler = optuna.samplers.RandomSampler()
        return optuna.create_study(study_name="study", storage=storage, sampler=sampler, load_if_exists=True)

    def fill(self, study: Any, rows: int) -> None:
        for seed in range(rows):
            study.enqueue_trial({"seed": seed})

    def work(self, study: Any, call: Call) -> None:
        import optuna

        share = EXECUTED // int(os.environ["WORKERS"])

        def objective(trial: Any) -> float:
            return float(call({"seed": trial.suggest_int("seed", 0, EXECUTED)})["accuracy"])

        study.optimize(objective, n_trials=share, catch=(optuna.exceptions.StorageInternalError,))


class Procrastinate(Peer):
    requirements = ("procrastinate==3.10.0", "psycopg[binary]")
    databases = ("PostgreSQL",)

    def open(self, rows: int) -> Any:
        import procrastinate

        return procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=self.place))

    def fill(self, study: Any, rows: int) -> None:
        from procrastinate import SyncPsycopgConnector

        with study.replace_connector(SyncPsycopgConnector(conninfo=self.place)) as app, app.open():
            app.schema_manager.apply_schema()
            app.configure_task("run").batch_defer(*({"seed": seed} for seed in range(rows)))

    def work(self, study: Any, call: Call) -> None:
        study.task(name="run")(lambda seed: call({"seed": seed}))
        study.run_worker(wait=False, listen_notify=False, install_signal_handlers=False)


PEERS = {
    "PyExperimenter": ThisLibrary,
    "py-experimenter 1.4.2": Predecessor,
    "Optuna 5": Optuna,
    "procrastinate 3.10": Procrastinate,
}


def within(task: dict[str, Any]) -> None:
    """Do a part of the work in the environment of a peer, when told to."""
    peer = PEERS[task["peer"]](task["database"], task["place"], task["directory"])
    calls = 0

    def call(keyfields: dict[str, Any]) -> dict[str, float]:
        nonlocal calls
        calls += 1
        return {"accuracy": 0.5}

    report = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what peers print
    study = peer.open(task["rows"] or EXECUTED)
    report.write("ready\n")
    sys.stdin.readline()
    start = time.perf_counter()
    if task["rows"]:
        peer.fill(study, task["rows"])
    else:
        peer.work(study, call)
    report.write(json.dumps({"seconds": time.perf_counter() - start, "calls": calls}) + "\n")


class Environments:
    """Runs parts of the work in the environments of peers."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def python(self, name: str) -> str:
        requirements = PEERS[name].requirements
        if not requirements:
            return sys.executable
        home = self._directory / name.replace(" ", "-")
        if not (home / "installed").exists():
            venv.create(home, with_pip=True)
            subprocess.run([home / "bin" / "python", "-m", "pip", "install", "--quiet", *requirements], check=True)
            (home / "installed").touch()
        return str(home / "bin" / "python")

    def run(self, workers: int, **task: Any) -> tuple[float, str]:
        """Return the seconds of the slowest of some processes, and what went wrong."""
        command = [self.python(task["peer"]), __file__, "--within", json.dumps(task)]
        with open(os.devnull, "w") as nothing:
            processes = [
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=None if os.environ.get("SHOW") else nothing,
                    text=True,
                    env={**os.environ, "WORKERS": str(workers)},
                )
                for _ in range(workers)
            ]
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        answers = [process.communicate()[0] for process in processes]
        reports = [json.loads(answer) for answer in answers if answer]
        failed = workers - len(reports)
        calls = sum(report["calls"] for report in reports)
        problem = f"{failed} of {workers} workers failed" if failed else f"{calls} calls by {workers}"
        expected = not failed and calls == (0 if task["rows"] else EXECUTED)
        return max((report["seconds"] for report in reports), default=float("nan")), "" if expected else problem


@contextmanager
def place_of(database: str, urls: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the place of a fresh database, and a directory for files."""
    from common import raw_mysql, raw_postgresql

    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        if database in urls:
            raw = raw_mysql if database == "MariaDB" else raw_postgresql
            _, name, _ = stack.enter_context(raw(urls[database]))
            yield f"{urls[database]}/{name}", directory
        else:
            yield f"{directory}/study.{'log' if database == 'journal file' else 'db'}", directory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--environments", type=Path, default=Path(tempfile.gettempdir()) / "pyexperimenter-peers")
    parser.add_argument("--mysql", help="also measure this server")
    parser.add_argument("--postgresql", help="also measure this server")
    parser.add_argument("--within", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.within:
        within(json.loads(arguments.within))
        return
    from common import print_table

    environments = Environments(arguments.environments)
    urls = {"MariaDB": arguments.mysql, "PostgreSQL": arguments.postgresql}
    missing = {database for database, url in urls.items() if url is None}
    table = []
    for _ in range(arguments.rounds):
        for name in arguments.peers:
            for database in PEERS[name].databases:
                if database in missing:
                    continue
                row: list[Any] = [database, name]
                predicted = 0.0
                for size in arguments.sizes:
                    if predicted * size > LIMIT:
                        row.append("-")
                        continue
                    with place_of(database, urls) as (place, directory):
                        task = {"peer": name, "database": database, "place": place, "directory": directory}
                        seconds, _ = environments.run(1, **task, rows=size)
                    predicted = seconds / size
                    row.append(seconds)
                notes = []
                for workers in (1, 8):
                    with place_of(database, urls) as (place, directory):
                        task = {"peer": name, "database": database, "place": place, "directory": directory}
                        environments.run(1, **task, rows=EXECUTED)
                        seconds, problem = environments.run(workers, **task, rows=0)
                    row.append(EXECUTED / seconds)
                    notes += [problem] if problem else []
                print(*row, *notes, flush=True)
                table.append([*row, ", ".join(notes)])
    sizes = [f"fill {size:,}, s" for size in arguments.sizes]
    headers = ["database", "package", *sizes, "1 worker, rows/s", "8 workers, rows/s", "problems"]
    print_table(headers, sorted(table, key=lambda row: row[:2]))


if __name__ == "__main__":
    main()
