"""CONTRIBUTING.md names all that there is: folders, tests and make targets."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_table_has_each_folder_and_each_file_of_tests() -> None:
    table = TEXT.partition("| module | tests |")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    package = ROOT / "pyexperimenter"
    folders = {f"{path.parent.relative_to(package)}/" for path in package.rglob("*/__init__.py")}
    modules = {path.stem for path in package.glob("*.py")} - {"__main__"}
    named = set(re.findall(r"`([\w/]+)`", " ".join(modules_of for modules_of, _ in rows)))
    assert folders | modules <= named
    assert all(not name.endswith("/") or (package / name).is_dir() or (ROOT / name).is_dir() for name in named)
    assert set(re.findall(r"`(test_\w+)`", table)) == {path.stem for path in (ROOT / "tests").rglob("test_*.py")}


def test_commands_are_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"^make ([a-z-]+)", TEXT, re.M)) == targets - {"help", "clean"}


def test_mutants_names_modules_and_their_tests() -> None:
    text = (ROOT / ".ci" / "mutants.py").read_text().partition("\nTESTS = {")[2].partition("\n}")[0]
    modules = re.findall(r'^    "([\w/]+)":', text, re.M)
    assert modules and [name for name in modules if not (ROOT / "pyexperimenter" / f"{name}.py").is_file()] == []
    tests = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert set(re.findall(r"\btest_\w+", text)) <= tests


def test_links_and_paths_exist() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", TEXT)
    paths = re.findall(r"`((?:pyexperimenter|tests|docs|\.github|database|config|cli|grid|study)/[\w/.]*)`", TEXT)
    package = ROOT / "pyexperimenter"
    assert links and paths
    assert [name for name in links + paths if not (ROOT / name).exists() and not (package / name).exists()] == []
