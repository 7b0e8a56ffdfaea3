"""Every code block of the README and of docs/ is put to the test; a language that this file does not know fails.

python   The blocks of a page run one after the other in one process and an empty directory, every warning an error.
text     What the Python block before it prints; a line ``...`` stands for any lines, spaces at line ends for nothing.
yaml     A configuration, a credential file, or a part of a configuration: it has to load. If the first line is a
         comment that names a file, the Python blocks behind it find that file.
ini      The same, in the predecessor's form.
bash     Only commands of a known kind: a make target that exists, an install with extras that exist, ...
mermaid  A diagram of the states of an experiment, and of no others.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pyexperimenter import ExperimentStatus
from pyexperimenter.config import ExperimentConfig, load_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]

FENCE = re.compile(r"^( *)(`{3,}|~{3,})(.*)$")
FILE_NAME = re.compile(r"#\s+([\w.-]+\.(?:ya?ml|cfg|ini))")
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(?:#[^)]*)?\)")


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
        return match[1] if match else None


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


def some(language: str) -> list[Block]:
    return [block for page in PAGES for block in blocks_of(page) if block.language == language]


def test_pages_have_blocks_in_known_languages_only() -> None:
    known = {"python", "text", "yaml", "ini", "bash", "mermaid"}
    unknown = [f"{b}: {b.language!r}" for page in PAGES for b in blocks_of(page) if b.language not in known]
    assert unknown == []
    assert {b.language for page in PAGES for b in blocks_of(page)} == known  # or a test below tests nothing


# Python and what it prints

RUNNER = """\
import json, sys
from pathlib import Path
for step in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
    if step["language"] == "python":
        exec(compile("\\n" * (step["line"] - 1) + step["code"], step["page"], "exec"), globals())
        print(step["mark"], flush=True)
    else:
        Path(step["file"]).write_text(step["code"], encoding="utf-8")
"""
MARK = "== the block at {} ends =="


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_print_what_stands_behind_them(page: str, tmp_path: Path) -> None:
    steps = [
        {
            "language": block.language,
            "page": page,
            "line": block.line,
            "code": block.code,
            "file": block.file_name,
            "mark": MARK.format(block),
        }
        for block in blocks_of(page)
        if block.language == "python" or (block.language in ("yaml", "ini") and block.file_name)
    ]
    if not any(step["language"] == "python" for step in steps):
        return
    directory = tmp_path / "empty"
    directory.mkdir()
    (tmp_path / "runner.py").write_text(RUNNER)
    (tmp_path / "steps.json").write_text(json.dumps(steps))
    done = subprocess.run(
        [sys.executable, tmp_path / "runner.py", tmp_path / "steps.json"],
        cwd=directory,
        env={**os.environ, "PYTHONWARNINGS": "error", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    for block, expected in python_and_text(page):
        output, mark, printed = printed.partition(MARK.format(block) + "\n")
        assert mark
        if expected is not None:
            assert matches(output, expected.code), f"{expected}: printed was\n{output}"
    assert "Warning" not in done.stderr


def python_and_text(page: str) -> Iterator[tuple[Block, Block | None]]:
    blocks = blocks_of(page)
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        if block.language == "python":
            yield block, following if following is not None and following.language == "text" else None


def matches(output: str, expected: str) -> bool:
    patterns = [
        r"(?:.*\n)*?" if line.strip() == "..." else re.escape(line.rstrip()) + r"[ \t]*\n"
        for line in expected.splitlines()
    ]
    return re.fullmatch("".join(patterns), output.rstrip("\n") + "\n") is not None


def test_text_blocks_stand_behind_python_blocks() -> None:
    for page in PAGES:
        blocks = blocks_of(page)
        for before, block in zip([None, *blocks], blocks, strict=False):
            if block.language == "text":
                assert before is not None and before.language == "python", f"{block}: output of what?"


# Configurations

TABLE = {"name": "study", "keyfields": {"dataset": {"type": "VARCHAR(50)", "values": ["iris", "wine"]}}}
CONFIG: dict[str, Any] = {"PY_EXPERIMENTER": {"Database": {"provider": "sqlite", "database": "study", "table": TABLE}}}
SERVER: dict[str, Any] = {"PY_EXPERIMENTER": {"Database": {"provider": "mysql", "database": "study", "table": TABLE}}}
CREDENTIALS = "CREDENTIALS: {Database: {user: me, password: secret}, Connection: {Ssh: {address: gateway}}}"
# A part of a configuration belongs where its keys do.
PARTS = {
    (): {"PY_EXPERIMENTER"},
    ("PY_EXPERIMENTER",): {"n_jobs", "Database", "logtables", "Execution", "Custom", "CodeCarbon"},
    ("PY_EXPERIMENTER", "Database", "table"): {
        "keyfields",
        "exclude",
        "include",
        "zip",
        "resultfields",
        "result_timestamps",
    },
}


@pytest.mark.parametrize("block", some("yaml") + some("ini"), ids=str)
def test_configurations_load(block: Block, tmp_path: Path) -> None:
    file = tmp_path / (block.file_name or f"block.{'cfg' if block.language == 'ini' else 'yml'}")
    credentials = tmp_path / "credentials.yml"
    credentials.write_text(CREDENTIALS)
    if re.search(r"^\[?CREDENTIALS\b", block.code, re.M):
        file.write_text(block.code)
        config = load_config(SERVER, credentials_path=file, use_ssh_tunnel="Ssh" in block.code)
        assert config.database.credentials.user
        return
    file.write_text(block.code if block.language == "ini" else yaml.safe_dump(whole(block), sort_keys=False))
    config = load_config(file, credentials_path=credentials)
    assert isinstance(config, ExperimentConfig)


def whole(block: Block) -> Any:
    part = yaml.safe_load(block.code)
    place = next((place for place, keys in PARTS.items() if set(part) <= keys), None)
    assert place is not None, f"{block}: is no part of a configuration"
    for key in reversed(place):
        part = {key: part}
    return merged(CONFIG, part)


def merged(base: Any, part: Any) -> Any:
    """Sections are merged, but what lists columns is replaced."""
    if not (isinstance(base, Mapping) and isinstance(part, Mapping)):
        return part
    return {
        key: merged(base.get(key), part[key]) if key in part and key != "keyfields" else part.get(key, base.get(key))
        for key in {**base, **part}
    }


# Commands and diagrams


@pytest.mark.parametrize("block", some("bash"), ids=str)
def test_commands_are_of_a_known_kind(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    assignments: dict[str, str] = {}
    for line in block.code.splitlines():
        match shlex.split(line, comments=True):
            case ["export", *words] if words:
                assignments |= dict(word.split("=", 1) for word in words)
            case words:
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
        case []:
            pass
        case ["make", *rest] if rest:
            targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
            unknown = [word for word in rest if word not in targets and not re.fullmatch(r"ARGS=.*", word)]
            assert not unknown, f"{where}: make has no {unknown}"
        case ["pip", "install", what]:
            package = re.fullmatch(r"(?:\.|pyexperimenter)(?:\[([\w,]+)\])?", what)
            assert package, f"{where}: {what} is not this package"
            extras = re.findall(r"^(\w+) = \[", project.partition("[project.optional-dependencies]")[2], re.M)
            assert set((package[1] or "").split(",")) <= {"", *extras}, f"{where}: no such extra"
        case ["python", script, *options]:
            assert (ROOT / script).is_file(), f"{where}: there is no {script}"
            assert all(option in (ROOT / script).read_text() for option in options)
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


def test_named_blocks_do_not_overwrite_each_other() -> None:
    for page in PAGES:
        names = [block.file_name for block in blocks_of(page) if block.language in ("yaml", "ini") and block.file_name]
        assert len(names) == len(set(names)), page
