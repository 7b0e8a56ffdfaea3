"""Compare this library with the versions of py-experimenter that people come from; see `docs/testing.md`.

Each version is installed in an environment of its own. Configurations are generated in the forms that it reads, in all
their spellings. It fills and executes some of each study; then this library continues in a copy of its table.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyexperimenter import PyExperimenter, PyExperimenterError
from pyexperimenter.jsonable import is_missing

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.mariadb import PrivateMariaDB  # noqa: E402 - found by the line before
from tests.support.private_server import ServerUnavailable  # noqa: E402

VERSIONS = ("1.2.0", "1.3.2", "1.4.2")
RUNS = Path(__file__).with_name("predecessor_runs.py")
USER, PASSWORD = "mover", "secret"  # its INI files cannot hold any password


# Configurations


@dataclass
class Keyfield:
    """A keyfield as generated: its type, and the text of its values in a file."""

    name: str
    declared: str
    values: str


class Generator:
    """Makes configurations of one version, at random.

    Parameters
    ----------
    version : str
        The version of py-experimenter.
    seed : int
        Determines all that is drawn.
    """

    def __init__(self, version: str, seed: int) -> None:
        self._random = random.Random(f"{version} {seed}")
        self.version = version
        self.is_ini = version < "1.4"

    def keyfields(self, provider: str) -> list[Keyfield]:
        """Return some keyfields that this version handles as this library does."""
        names = ["dataset", "Seed", "lr", "flag", "kernel_name", "n_estimators"]
        return [self._keyfield(name, provider) for name in self._random.sample(names, self._random.randint(1, 4))]

    def render(self, provider: str, database: str, keyfields: Sequence[Keyfield]) -> str:
        """Return the text of a configuration with these keyfields."""
        return (self._ini if self.is_ini else self._yaml)(provider, database, keyfields)

    def _keyfield(self, name: str, provider: str) -> Keyfield:
        draw = self._random
        texts = ["iris", "wine", "a_b", "x-1", "3.10", "007", "None", "p.q", "True", "openml:61"]
        if self.is_ini:
            integers = [str(draw.randint(-5, 20)), "7, 9"]
            numbers = {
                "int": draw.choice(["0:4:1", "2:6:2", "1:3", "0:4:1,10", *integers]),
                draw.choice(["INT", "BIGINT", "SMALLINT", "INTEGER"]): draw.choice(integers),
            }
            kinds = {
                **numbers,
                draw.choice(["float", "DOUBLE", "FLOAT", "REAL"]): ", ".join(
                    draw.sample(["0.5", "1", "1e-3", "2.25"], 2)
                ),
                draw.choice(["", "VARCHAR(50)", "LONGTEXT"]): ",".join(draw.sample(texts, draw.randint(1, 3))),
                "str": ",".join(draw.sample(["iris", "a_b", "None", "openml:61"], 2)),
            }
            if provider == "sqlite":  # MariaDB refuses words
                words = [["0", "1"], ["True", "False"], ["yes", "no"], ["on"], ["false"], ["None"]]
                kinds[draw.choice(["bool", "BOOL", "boolean"])] = ", ".join(draw.choice(words))
        else:
            integers = [
                "[1, 2, 5]",
                "{start: 0, stop: 4, step: 1}",
                "{start: 2, stop: 7, step: 2}",
                "{start: 0, stop: 3}",
            ]
            kinds = {
                draw.choice(["int", "INT", "BIGINT", "INTEGER", "SMALLINT"]): draw.choice(integers),
                draw.choice(["float", "DOUBLE", "FLOAT"]): draw.choice(
                    ["[0.5, 2.25]", "[1.0e-3, 1e-2]", "[0.1, .5, 1.0]"]
                ),
                draw.choice(["VARCHAR(50)", "LONGTEXT"]): str(draw.sample(texts, draw.randint(1, 3))),
                draw.choice(["bool", "BOOL", "boolean"]): draw.choice(
                    ["[true, false]", "[True]", "[no, yes]", "[off]"]
                ),
            }
        declared = draw.choice(list(kinds))
        if provider == "mysql" and declared == "str":
            return Keyfield(name, "VARCHAR(50)", kinds[declared])
        return Keyfield(name, declared, kinds[declared])

    def _ini(self, provider: str, database: str, keyfields: Sequence[Keyfield]) -> str:
        draw = self._random
        equals = draw.choice([" = ", "=", ": "])
        comma = draw.choice([", ", ",", " , "])
        score, timestamps = draw.choice(["DOUBLE", "FLOAT", "float"]), draw.choice(["true", "False", "yes", "0"])
        lines = [
            draw.choice(["[PY_EXPERIMENTER]", "# a study\n[PY_EXPERIMENTER]"]),
            f"provider{equals}{provider}",
            f"database{equals}{database}",
            f"table{equals}study",
            draw.choice(["", "\n", "; a comment\n"])
            + f"keyfields{equals}"
            + comma.join(f"{k.name}:{k.declared}" if k.declared else k.name for k in keyfields),
            *(f"{keyfield.name}{equals}{keyfield.values}" for keyfield in keyfields),
            f"resultfields{equals}score:{score}{comma}model:LONGTEXT",
            f"resultfields.timestamps{equals}{timestamps}",
            f"logtables{equals}epochs:log_epochs{comma}best:DOUBLE",
            f"log_epochs{equals}epoch:int{comma}loss:DOUBLE",
            *draw.choice([["n_jobs = 2"], ["cpu.max = 2"], []]),
            *draw.choice([["", "[CUSTOM]", "path = data/"], ["[CUSTOM]"], []]),
        ]
        if self.version >= "1.3":  # before, only these two sections were allowed
            lines += draw.choice([["[codecarbon]", "offline_mode = False", "measure_power_secs = 25"], []])
            lines += draw.choice([["[unused]", "option = 1"], []])
        return "\n".join(lines) + "\n"

    def _yaml(self, provider: str, database: str, keyfields: Sequence[Keyfield]) -> str:
        draw = self._random
        stray = draw.choice(["", "      database: elsewhere\n"])
        timestamps = draw.choice(["", "      result_timestamps: true\n", "      result_timestamps: False\n"])
        fields = "".join(
            draw.choice(
                [
                    f"        {keyfield.name}:\n"
                    f"          type: {keyfield.declared}\n          values: {keyfield.values}\n",
                    f"        {keyfield.name}: {{type: {keyfield.declared}, values: {keyfield.values}}}\n",
                ]
            )
            for keyfield in keyfields
        )
        custom = draw.choice(["", "  Custom:\n    path: data/\n", "  CUSTOM: {path: data/, depth: 3}\n"])
        carbon = draw.choice(["", "  CodeCarbon:\n    offline_mode: False\n    measure_power_secs: 25\n"])
        return (
            f"PY_EXPERIMENTER:\n  n_jobs: {draw.choice([1, 2])}\n  Database:\n    use_ssh_tunnel: false\n"
            f"    provider: {provider}\n    database: {database}\n    table:\n      name: study\n{stray}"
            f"      keyfields:\n{fields}{timestamps}"
            "      resultfields:\n        score: DOUBLE\n        model: LONGTEXT\n"
            "    logtables:\n      epochs:\n        epoch: INT\n        loss: DOUBLE\n      best: {best: DOUBLE}\n"
            f"{custom}{carbon}"
        )


# What is different on purpose, as docs/migrating.md says: keyfields, and their rows there and here


@dataclass
class Difference:
    """A keyfield with other rows, or none, in one of the two. What is refused is a part of the message."""

    ini: bool
    declared: str
    values: str
    there: list[Any] | str
    here: list[Any] | str


DIFFERENCES = [
    Difference(True, "VARCHAR(50)", "a b, c", ["ab", "c"], ["a b", "c"]),
    Difference(True, "VARCHAR(50)", "x, y,", ["x", "y", ""], ["x", "y"]),
    Difference(True, "VARCHAR(50)", "x,\n  y", ["x", "\ny"], ["x", "y"]),
    Difference(True, "str", "3.10, 007", [3.1, 7], ["3.10", "007"]),  # a STR of SQLite holds numbers
    Difference(True, "INT", "0:4:2", ["0:4:2"], [0, 2, 4]),
    Difference(True, "float", "0:1:0.5", ["0:1:0.5"], [0, 0.5, 1]),
    Difference(True, "VARCHAR(50)", "x, x", ["x", "x"], "twice"),
    Difference(True, "int", "5:1:-2", "end of range", [5, 3, 1]),
    Difference(True, "int", "1e3", "invalid literal", [1000]),
    Difference(True, "int", "None", "invalid literal", [None]),
    Difference(
        False,
        "DOUBLE",
        "{start: 1, stop: 1.4, step: 0.1}",
        [1.0, 1.1, 1.2000000000000002, 1.3000000000000003],
        [1.0, 1.1, 1.2, 1.3],
    ),
    Difference(False, "VARCHAR(50)", "[3.10, 007, 1:30]", ["3.1", "7.0", "90.0"], ["3.10", "007", "1:30"]),
    Difference(False, "VARCHAR(50)", "[yes, no]", ["1", "0"], "quote"),
    Difference(False, "VARCHAR(50)", "[true, false]", ["1", "0"], ["true", "false"]),
    Difference(False, "VARCHAR(50)", "[{b: 1}]", ["b"], ['{"b":1}']),
    Difference(False, "INT", "[1, 1]", [1, 1], "twice"),
    Difference(False, "INT", "[1.5]", [1.5], "not an integer"),
    Difference(False, "INT", "3", "UnboundLocalError", [3]),
]


# Comparing


@dataclass
class Study:
    """A study that both versions run: its files, and what py-experimenter said."""

    config: Path
    credentials: Path | None
    answer: dict[str, Any]


class Comparison:
    """Runs studies with one version of py-experimenter and with this library, and counts what they differ in.

    Parameters
    ----------
    version : str
        The version of py-experimenter.
    directory : Path
        Where the files of the studies are written.
    server : PrivateMariaDB or None
        The server, if there is one.
    """

    def __init__(self, version: str, directory: Path, server: PrivateMariaDB | None) -> None:
        self.version = version
        self._directory = directory
        self._server = server
        self._python = environment(version)
        self.failures: list[str] = []
        self.counts: Counter[str] = Counter()

    def compare(self, count: int, seed: int) -> None:
        """Compare generated studies, on SQLite and on MariaDB in turn."""
        generator = Generator(self.version, seed)
        studies = []
        for number in range(count):
            provider = "mysql" if self._server is not None and number % 3 == 2 else "sqlite"
            studies.append(self._study(str(number), provider, generator, generator.keyfields(provider)))
        self._run_there(studies)
        for study in studies:
            self.counts["studies on MariaDB" if study.credentials else "studies on SQLite"] += 1
            try:
                problem = study.answer.get("refused") or self._continue(study)
            except PyExperimenterError as error:
                problem = f"{type(error).__name__}: {error}"
            if problem:
                self.failures.append(f"{problem}\n{study.config.read_text()}")

    def compare_differences(self) -> None:
        """See whether what is different on purpose is different as documented."""
        wanted = [difference for difference in DIFFERENCES if difference.ini == (self.version < "1.4")]
        generator = Generator(self.version, 0)
        studies = []
        for number, difference in enumerate(wanted):
            keyfield = Keyfield("x", difference.declared, difference.values)
            studies.append(self._study(f"difference-{number}", "sqlite", generator, [keyfield]))
        self._run_there(studies)
        for study, difference in zip(studies, wanted, strict=True):
            self.counts["documented differences"] += 1
            there = study.answer.get("refused") or _stored(study.config.with_suffix(".db"))
            try:
                here: Any = [row["x"] for row in _opened(study).config.table.grid or ()]
            except PyExperimenterError as error:
                here = str(error)
            for found, expected in ((there, difference.there), (here, difference.here)):
                if found != expected and not (isinstance(expected, str) and expected in found):
                    self.failures.append(f"{difference}: {found!r} instead of {expected!r}")

    def _study(self, name: str, provider: str, generator: Generator, keyfields: Sequence[Keyfield]) -> Study:
        config = self._directory / f"{self.version}-{name}.{'cfg' if self.version < '1.4' else 'yml'}"
        if provider == "sqlite":
            config.write_text(generator.render(provider, str(config.with_suffix("")), keyfields))
            return Study(config, None, {})
        assert self._server is not None
        database = f"old_{name}"
        for statement in (f"DROP DATABASE IF EXISTS {database}", f"CREATE DATABASE {database}"):
            self._server.run(statement)
        config.write_text(generator.render(provider, database, keyfields))
        host, port = self._server.host, self._server.port
        credentials = config.with_name(f"credentials{config.suffix}")
        credentials.touch(mode=0o600)
        credentials.write_text(
            f"[CREDENTIALS]\nhost = {host}\nport = {port}\nuser = {USER}\npassword = {PASSWORD}\n"
            if config.suffix == ".cfg"
            else f"CREDENTIALS:\n  Database: {{user: {USER}, password: {PASSWORD}}}\n"
            f"  Connection:\n    Standard: {{server: {host}, port: {port}}}\n"
        )
        return Study(config, credentials, {})

    def _run_there(self, studies: Sequence[Study]) -> None:
        listed = self._directory / f"{self.version}.json"
        listed.write_text(
            json.dumps(
                [
                    {
                        "config": str(study.config),
                        "credentials": study.credentials and str(study.credentials),
                        "codecarbon": self.version >= "1.3",
                    }
                    for study in studies
                ]
            )
        )
        port = 0 if self._server is None else self._server.port
        command = [self._python, str(RUNS), str(listed), str(port)]
        done = subprocess.run(command, cwd=self._directory, capture_output=True, text=True, check=False)
        answers = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
        if len(answers) != len(studies):
            raise SystemExit(f"py-experimenter {self.version} ended early:\n{done.stderr[-3000:]}")
        for study, answer in zip(studies, answers, strict=True):
            study.answer = answer

    def _continue(self, study: Study) -> str | None:
        """Continue a study of py-experimenter; return what is wrong."""
        experimenter = _opened(study)
        grid = list(experimenter.config.table.grid or ())
        table = experimenter.get_table()
        before = Counter(tuple(map(_plain, row)) for row in table[list(grid[0])].itertuples(index=False))
        if before != Counter(tuple(map(_plain, row.values())) for row in grid):
            return f"the grids differ: {before}, but here {grid}"
        if list(table.columns) != list(experimenter._store.schema.columns):
            return f"the tables differ: {list(table.columns)}"
        filled = experimenter.fill_table_from_config()
        if filled != (0, len(grid)):
            return f"the fill says {filled}"
        executed = experimenter.execute(_run)
        if executed != len(grid) - study.answer["executed"]:
            return f"{executed} experiments were executed here, and {study.answer['executed']} there, of {len(grid)}"
        table = experimenter.get_table()
        if set(table["status"]) != {"done"} or set(table["score"]) != {0.5} or set(table["model"]) != {"svm"}:
            return f"the results are {table[['status', 'score', 'model', 'error']]}"
        if len(experimenter.get_logtable("epochs")) != len(grid):
            return "logs are missing"
        self.counts["experiments"] += len(grid)
        return None


def _run(keyfields: dict[str, Any], result_processor: Any, custom_fields: dict[str, Any]) -> dict[str, Any]:
    result_processor.process_logs({"epochs": {"epoch": 1, "loss": 0.25}, "best": {"best": 0.5}})
    return {"score": 0.5, "model": "svm"}


def _opened(study: Study) -> PyExperimenter:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is ignored
        return PyExperimenter(study.config, study.credentials, use_codecarbon=False, log_level="ERROR")


def _plain(value: Any) -> Any:
    return None if is_missing(value) else value


def _stored(database: Path) -> list[Any]:
    connection = sqlite3.connect(database)
    rows = [value for (value,) in connection.execute("SELECT x FROM study ORDER BY ID")]
    connection.close()
    return rows


def environment(version: str) -> str:
    """Install a version of py-experimenter in an environment of its own, and return its interpreter."""
    home = ROOT / f".venv-predecessor-{version}"
    python = home / "bin" / "python"
    if not (home / ".installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, f"py-experimenter=={version}"], check=True)
        (home / ".installed").touch()
    return str(python)


def main() -> int:
    """Compare, print what was found, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=30, help="configurations of each version")
    parser.add_argument("--seed", type=int, default=0, help="determines the configurations")
    options = parser.parse_args()
    failed = 0
    server = None
    try:
        server = PrivateMariaDB()
        server.run(f"CREATE USER {USER} IDENTIFIED BY '{PASSWORD}'", f"GRANT ALL ON *.* TO {USER}")
    except ServerUnavailable as error:
        print(f"NOT COMPARED on MariaDB: {error}")
    try:
        for version in VERSIONS:
            with tempfile.TemporaryDirectory() as directory:
                comparison = Comparison(version, Path(directory), server)
                comparison.compare(options.count, options.seed)
                comparison.compare_differences()
            failed += len(comparison.failures)
            counts = ", ".join(f"{number} {what}" for what, number in sorted(comparison.counts.items()))
            print(f"py-experimenter {version}: {counts}; {len(comparison.failures)} differ otherwise", flush=True)
            for failure in comparison.failures:
                print(f"\n{failure}")
    finally:
        if server is not None:
            server.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
