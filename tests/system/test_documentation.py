"""Every code block of the README and of docs/ is tested; a language that this file does not know fails.

python   The blocks of a page run one after the other in one process and an empty directory, every warning an error. A
         block whose first line is a comment that names a file is written to that file instead.
bash     Runs between them in the same directory and must succeed, if it consists of commands of RUN. Other commands
         are checked only: a make target that exists, an install with extras that exist, options that the command
         line has, ...
sql      Runs between them, on the page's `experimenter`, and prints its rows as a table. Pages with such blocks also
         run on MariaDB and PostgreSQL, and must print the same.
text     What the block before it prints to stdout, and a second one after it what it prints to stderr. A line
         ``...`` matches any lines, ``...`` within a line any text. Spaces at line ends are ignored.
yaml     A configuration, a credential file, or a part of a configuration: it has to load. If the first line is a
         comment that names a file, the blocks behind it find that file.
ini      The same, in the predecessor's form.
mermaid  A diagram of the states of an experiment, and of no others.

A page with a file that says `provider: mysql` gets a MariaDB, one that says `provider: postgresql` a PostgreSQL. The
address is in the environment. A block of sql that begins with CREATE DATABASE is piped into the server's client.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml

from pyexperimenter import ExperimentStatus, PyExperimenter
from pyexperimenter.cli import main
from pyexperimenter.config import ExperimentConfig, load_config
from pyexperimenter.config.schema import ConfigFile, Experiment, Table
from pyexperimenter.config.source import is_for_anchors
from tests.support.editor_schema import refusals
from tests.support.server import Server
from tests.support.target import Target

ROOT = Path(__file__).resolve().parents[2]
MADE = {"_build", "_generated"}
PAGES = [
    "README.md",
    *sorted(
        page.relative_to(ROOT).as_posix()
        for page in (ROOT / "docs").rglob("*.md")
        if not MADE & set(page.relative_to(ROOT).parts)
    ),
]

FENCE = re.compile(r"^( *)(`{3,}|~{3,})(.*)$")
FILE_NAME = re.compile(r"#\s+([\w.-]+(?:/[\w.-]+)*\.(?:ya?ml|cfg|ini|py))")
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(?:#[^)]*)?\)")
RUN = {"pyexperimenter", "python"}


@dataclass(frozen=True)
class Block:
    page: str
    line: int  # of its first line of code
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file_name(self) -> str | None:
        match = FILE_NAME.fullmatch(self.code.partition("\n")[0].strip())
        return match[1] if match and self.language in ("python", "yaml", "ini") else None

    @property
    def commands(self) -> list[list[str]]:
        lines = self.code.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]

    @property
    def is_administrators(self) -> bool:
        return self.language == "sql" and self.code.startswith("CREATE DATABASE")

    @property
    def is_run(self) -> bool:
        if self.language == "bash":
            return all(words[0] in RUN and not needs_more(words) for words in self.commands)
        return self.language in ("python", "sql") and not self.file_name and not self.is_administrators


def needs_more(words: list[str]) -> bool:
    """Return whether a command needs a person or SLURM."""
    return bool({"--watch", "--pdb", "cancel", "dashboard"} & set(words)) or (
        "submit" in words and "--dry-run" not in words
    )


def blocks_of(page: str) -> list[Block]:
    blocks: list[Block] = []
    opened: tuple[str, str, int] | None = None  # fence, language, line
    code: list[str] = []
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), start=1):
        fence = FENCE.match(line)
        if opened is None:
            if fence:
                opened, code = (fence[2], fence[3].strip(), number + 1), []
        elif fence and fence[2].startswith(opened[0]) and not fence[3].strip():
            blocks.append(Block(page, opened[2], opened[1], "".join(f"{text}\n" for text in code)))
            opened = None
        else:
            code.append(line)
    assert opened is None, f"{page}:{opened and opened[2]}: this block is not closed"
    return blocks


def some(language: str, pages: Sequence[str] = PAGES) -> list[Block]:
    return [block for page in pages for block in blocks_of(page) if block.language == language]


def test_pages_have_blocks_in_known_languages_only() -> None:
    known = {"python", "text", "yaml", "ini", "bash", "mermaid", "sql"}
    unknown = [f"{b}: {b.language!r}" for page in PAGES for b in blocks_of(page) if b.language not in known]
    assert unknown == []
    assert {b.language for page in PAGES for b in blocks_of(page)} == known  # otherwise a test below tests nothing


# What is run, and what it prints

RUNNER = """\
import json, subprocess, sys
from pathlib import Path
from tabulate import tabulate
for step in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
    if step["file"]:
        Path(step["file"]).parent.mkdir(parents=True, exist_ok=True)
        Path(step["file"]).write_text(step["code"], encoding="utf-8")
        continue
    if step["language"] == "bash":
        subprocess.run(["bash", "-e", "-o", "pipefail", "-c", step["code"]], check=True)
    elif step["language"] == "sql":
        columns, rows = experimenter._store.query(step["code"])
        print(tabulate(rows, columns))
    else:
        exec(compile("\\n" * (step["line"] - 1) + step["code"], step["page"], "exec"), globals())
    for stream in (sys.stdout, sys.stderr):
        print(step["mark"], file=stream, flush=True)
"""
MARK = "== the block at {} ends =="


def pages_that(is_so: Callable[[Block], bool]) -> list[str]:
    return [page for page in PAGES if any(map(is_so, blocks_of(page)))]


def needs_server(block: Block, providers: str = "mysql|postgresql") -> bool:
    return block.file_name is not None and re.search(rf"provider: (?:{providers})", block.code) is not None


RUN_PAGES = pages_that(lambda block: block.is_run)
MYSQL_PAGES = pages_that(lambda block: needs_server(block, "mysql"))
POSTGRESQL_PAGES = pages_that(lambda block: needs_server(block, "postgresql"))
SQL_PAGES = pages_that(lambda block: block.language == "sql" and block.is_run)


@pytest.mark.parametrize("page", [page for page in RUN_PAGES if page not in MYSQL_PAGES + POSTGRESQL_PAGES])
def test_blocks_print_what_follows_them(page: str, tmp_path: Path) -> None:
    run_page(page, blocks_of(page), tmp_path)


def test_the_queries_of_the_guide_to_sql_are_examples_for_any_study(tmp_path: Path) -> None:
    config, *_ = some("yaml", ["docs/howto/sql.md"])
    queries = [block.code.strip() for block in some("sql", ["docs/howto/sql.md"]) if block.code.startswith("SELECT")]
    (tmp_path / "config.yml").write_text(config.code, encoding="utf-8")
    examples = PyExperimenter(tmp_path / "config.yml").example_queries()
    assert [query.replace('"', "") for query in examples.values()] == queries  # names are quoted


@pytest.mark.parametrize("page", MYSQL_PAGES)
def test_pages_about_mysql_are_right(page: str, mariadb_target: Target, tmp_path: Path) -> None:
    run_page_on_server(page, blocks_of(page), mariadb_target.server, tmp_path)


@pytest.mark.parametrize("page", POSTGRESQL_PAGES)
def test_pages_about_postgresql_are_right(page: str, postgresql_target: Target, tmp_path: Path) -> None:
    run_page_on_server(page, blocks_of(page), postgresql_target.server, tmp_path)


@pytest.mark.parametrize("page", SQL_PAGES)
def test_sql_does_the_same_on_mariadb(page: str, mariadb_target: Target, tmp_path: Path) -> None:
    run_page_on_server(page, moved(blocks_of(page), "mysql"), mariadb_target.server, tmp_path)


@pytest.mark.parametrize("page", SQL_PAGES)
def test_sql_does_the_same_on_postgresql(page: str, postgresql_target: Target, tmp_path: Path) -> None:
    run_page_on_server(page, moved(blocks_of(page), "postgresql"), postgresql_target.server, tmp_path)


def moved(blocks: list[Block], provider: str) -> list[Block]:
    """Return the blocks of a page about SQLite, with another database in its configuration."""
    return [replace(block, code=block.code.replace("provider: sqlite", f"provider: {provider}")) for block in blocks]


def run_page_on_server(page: str, blocks: list[Block], server: Server | None, folder: Path) -> None:
    with on_server(server, blocks) as environment:
        run_page(page, blocks, folder, environment)


@contextmanager
def on_server(server: Server | None, blocks: list[Block]) -> Iterator[dict[str, str]]:
    """Create the databases that a page mentions; yield its environment."""
    assert server is not None
    environment = {"PYEXPERIMENTER_DB_HOST": server.host, "PYEXPERIMENTER_DB_PORT": str(server.port)}
    preparation = "".join(block.code for block in blocks if block.is_administrators)
    names = {name for block in blocks if needs_server(block) for name in re.findall(r"\n +database: (\w+)", block.code)}
    if not preparation:
        environment |= {"PYEXPERIMENTER_DB_USER": server.user, "PYEXPERIMENTER_DB_PASSWORD": server.password}
        preparation = "".join(f"CREATE DATABASE {name};" for name in names)
    users = re.findall(r"CREATE USER (\S+)", preparation)
    with server.connect() as connection, connection.cursor() as cursor:
        try:
            pipe_into_client(server, preparation)
            yield environment
        finally:
            for name in names:
                cursor.execute(f"DROP DATABASE IF EXISTS {name}")
            for user in users:
                cursor.execute(f"DROP USER IF EXISTS {user}")


def pipe_into_client(server: Server, sql: str) -> None:
    """Run statements as an administrator."""
    address = [f"--host={server.host}", f"--port={server.port}"]
    client = {
        "mysql": ["mariadb", *address, f"--user={server.user}"],
        "postgresql": ["psql", *address, f"--username={server.user}", "--set=ON_ERROR_STOP=1", "postgres"],
    }
    passwords = {"MYSQL_PWD": server.password, "PGPASSWORD": server.password}
    environment = {**os.environ, **passwords}
    done = subprocess.run(
        client[server.provider], input=sql, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def run_page(
    page: str, blocks: list[Block], folder: Path, environment: Mapping[str, str] = MappingProxyType({})
) -> None:
    steps = [
        {**asdict(block), "file": block.file_name, "mark": MARK.format(block)}
        for block in blocks
        if block.is_run or block.file_name
    ]
    directory = folder / "empty"
    directory.mkdir()
    (folder / "steps.json").write_text(json.dumps(steps))
    (directory / ".runner.py").write_text(RUNNER)  # where a script of the user would lie, and import what lies there
    here = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONIOENCODING": "utf-8",
        "PYTHONWARNINGS": "error",
        "COLUMNS": "120",
    }
    done = subprocess.run(
        [sys.executable, ".runner.py", folder / "steps.json"],
        cwd=directory,
        env={**os.environ, **here, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = {"stdout": done.stdout, "stderr": done.stderr}
    for number, block in enumerate(blocks):
        if block.is_run:
            shown = itertools.takewhile(lambda following: following.language == "text", blocks[number + 1 :])
            for stream, rest in printed.items():
                output, mark, printed[stream] = rest.partition(MARK.format(block) + "\n")
                assert mark
                following = next(shown, None)
                assert following is None or matches(output, following.code), f"{following}: printed was\n{output}"
    assert "Warning" not in done.stderr


def matches(output: str, expected: str) -> bool:
    patterns = [
        r"(?:.*\n)*?" if line.strip() == "..." else re.escape(line.rstrip()).replace(r"\.\.\.", ".*") + r"[ \t]*\n"
        for line in expected.splitlines()
    ]
    return re.fullmatch("".join(patterns), output.rstrip("\n") + "\n") is not None


def test_text_blocks_follow_blocks_that_are_run() -> None:
    for page in PAGES:
        printing = 0  # streams of the last block that is run and not shown yet
        for block in blocks_of(page):
            if block.language == "text":
                assert printing > 0, f"{block}: output of what?"
                printing -= 1
            else:
                printing = 2 * block.is_run


# Configurations

TABLE = {"name": "study", "keyfields": {"dataset": {"type": "VARCHAR(50)", "values": ["iris", "wine"]}}}
CONFIG: dict[str, Any] = {"PY_EXPERIMENTER": {"Database": {"provider": "sqlite", "database": "study", "table": TABLE}}}
SERVER: dict[str, Any] = {"PY_EXPERIMENTER": {"Database": {"provider": "mysql", "database": "study", "table": TABLE}}}
CREDENTIALS = "CREDENTIALS: {Database: {user: me, password: secret}, Connection: {Ssh: {address: gateway}}}"
# A part of a configuration belongs where its keys do.
PARTS = {
    (): set(ConfigFile.spellings()),
    ("PY_EXPERIMENTER",): set(Experiment.spellings()),
    ("PY_EXPERIMENTER", "Database", "table"): set(Table.spellings()),
}


@pytest.mark.parametrize("block", some("yaml") + some("ini"), ids=str)
def test_configurations_load(block: Block, tmp_path: Path) -> None:
    file = tmp_path / (block.file_name or f"block.{'cfg' if block.language == 'ini' else 'yml'}")
    file.parent.mkdir(exist_ok=True)
    credentials = tmp_path / "credentials.yml"
    credentials.write_text(CREDENTIALS)
    if re.search(r"^\[?CREDENTIALS\b", block.code, re.M):
        file.write_text(block.code)
        config = load_config(SERVER, credentials_path=file, use_ssh_tunnel="Ssh" in block.code)
        assert config.database.credentials.user
        return
    text = block.code if block.language == "ini" else yaml.safe_dump(whole(block), sort_keys=False)
    file.write_text(text)
    config = load_config(file, credentials_path=credentials)
    assert isinstance(config, ExperimentConfig)
    assert block.language == "ini" or refusals(text) == []


def whole(block: Block) -> Any:
    part = yaml.safe_load(block.code)
    keys_of_part = {key for key in part if not is_for_anchors(key)}
    place = next((place for place, keys in PARTS.items() if keys_of_part <= keys), None)
    assert place is not None, f"{block}: is not part of a configuration"
    for key in reversed(place):
        part = {key: part}
    return merged(CONFIG, part)


def merged(base: Any, part: Any) -> Any:
    """Sections are merged, but lists of columns are replaced."""
    if not (isinstance(base, Mapping) and isinstance(part, Mapping)):
        return part
    return {
        key: merged(base.get(key), part[key]) if key in part and key != "keyfields" else part.get(key, base.get(key))
        for key in {**base, **part}
    }


# Commands and diagrams


@pytest.mark.parametrize("block", [block for block in some("bash") if not block.is_run], ids=str)
def test_commands_that_are_not_run_are_of_a_known_kind(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["bash", "-n", "-c", block.code], check=True)
    assignments: dict[str, str] = {}
    for words in block.commands:
        if words[0] == "export":
            assignments |= dict(word.split("=", 1) for word in words[1:])
        else:
            check_command(words, str(block))
    check_environment(assignments, monkeypatch)


def check_environment(assignments: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    if not assignments:
        return
    for name, value in assignments.items():
        monkeypatch.setenv(name, value)
    credentials = load_config(SERVER).database.credentials
    assert credentials.password is not None
    known = {
        "USER": credentials.user,
        "PASSWORD": credentials.password.reveal(),
        "HOST": credentials.host,
        "PORT": str(credentials.port),
    }
    assert assignments == {f"PYEXPERIMENTER_DB_{name}": value for name, value in known.items()}


def check_command(words: list[str], where: str) -> None:
    project = (ROOT / "pyproject.toml").read_text()
    match words:
        case ["make", *rest] if rest:
            targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
            unknown = [word for word in rest if word not in targets and not re.fullmatch(r"[A-Z]+=.*", word)]
            assert not unknown, f"{where}: make has no {unknown}"
        case ["pip", "install", what]:
            package = re.fullmatch(r"(?:\.|pyexperimenter)(?:\[([\w,]+)\])?", what)
            assert package, f"{where}: {what} is not this package"
            extras = re.findall(r"^(\w+) = \[", project.partition("[project.optional-dependencies]")[2], re.M)
            assert set((package[1] or "").split(",")) <= {"", *extras}, f"{where}: no such extra"
        case ["pyexperimenter", name, *rest]:
            command = main.commands.get(name)
            assert command, f"{where}: there is no command {name}"
            options = {option for parameter in command.params for option in parameter.opts}
            assert {word for word in rest if word.startswith("-")} <= options, f"{where}: no such option"
        case ["exec", *rest]:
            check_command(rest, where)
        case ["module" | "ssh" | "sbatch" | "squeue" | "scancel" | "source" | "git", *_]:
            pass  # other programs
        case _:
            pytest.fail(f"{where}: this test does not know the command {shlex.join(words)}")


@pytest.mark.parametrize("block", some("mermaid"), ids=str)
def test_state_diagrams_have_the_states_there_are(block: Block) -> None:
    first, *lines = block.code.splitlines()
    assert first == "stateDiagram-v2"
    states: set[str] = set()
    for line in filter(str.strip, lines):
        edge = re.fullmatch(r"\s*(\w+|\[\*\]) --> (\w+|\[\*\])\s*:.*", line)
        assert edge, f"{block}: {line}"
        states |= {edge[1], edge[2]}
    assert states - {"[*]"} == {status.value for status in ExperimentStatus} - {"all"}


# Links


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    broken = [link for link in LINK.findall(text) if not (ROOT / page).parent.joinpath(link).exists()]
    assert broken == []


def test_named_configurations_do_not_overwrite_each_other() -> None:
    for page in PAGES:
        names = [block.file_name for block in blocks_of(page) if block.language in ("yaml", "ini") and block.file_name]
        assert len(names) == len(set(names)), page
