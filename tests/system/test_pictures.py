"""Pictures show commands that can be typed, and what they print or draw."""

from __future__ import annotations

import html
import importlib.util
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pictures = script("pictures")


@pytest.fixture(scope="module")
def root_after_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a repository as the demo leaves it, with made-up results."""
    root = tmp_path_factory.mktemp("root")
    shutil.copytree(ROOT / "examples" / "svm_study", root / "examples" / "svm_study")
    (root / ".venv").symlink_to(sys.prefix)
    subprocess.run([root / ".venv/bin/pyexperimenter", "fill", "-c", pictures.CONFIG], cwd=root, check=True)
    with closing(sqlite3.connect(root / "svm_study.db")) as connection, connection:
        connection.execute("UPDATE svm SET status = 'done', accuracy = 0.9")
    return root


def lines_of(name: str) -> list[str]:
    svg = (pictures.PICTURES / f"{name}.svg").read_text(encoding="utf-8")
    by_height: dict[str, str] = {}
    for height, text in re.findall(r'<text class="\w+-r\d+" x="[\d.]+" y="([\d.]+)"[^>]*>([^<]*)</text>', svg):
        by_height[height] = by_height.get(height, "") + html.unescape(text).replace("\xa0", " ")
    return list(by_height.values())


@pytest.mark.parametrize("name", pictures.COMMANDS)
def test_a_picture_shows_its_command_and_output(name: str, root_after_demo: Path) -> None:
    command = pictures.COMMANDS[name].splitlines()
    shown = [line.rstrip() for line in lines_of(name) if line.strip()]
    shown[0] = shown[0].removeprefix("$ ")
    assert shown[: len(command)] == command
    done = subprocess.run(
        ["bash", "-c", pictures.COMMANDS[name]], cwd=root_after_demo, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert shown[len(command)].split()[0] == done.stdout.split()[0]


@pytest.mark.parametrize(("name", "command"), pictures.guide_commands().items())
def test_a_figure_of_the_guide_shows_what_its_command_draws(name: str, command: str) -> None:
    svg = (pictures.PICTURES / f"{name}.svg").read_text(encoding="utf-8")
    shown = set(re.findall(r"<text [^>]*>([^<]+)</text>", svg))
    words = shlex.split(command)
    for option, texts in {
        "--x": {words[words.index("--x") + 1]} if "--x" in words else set(),
        "--hue": {"baseline", "ours", "theirs"},
        "--y": {"baseline", "ours", "theirs"},
        "--blocks": {"Bars: no significant difference"},
    }.items():
        assert option not in words or texts <= shown
    assert len(svg) < 40_000


def test_each_command_has_a_picture_and_each_picture_is_shown() -> None:
    made = {path.name for path in pictures.PICTURES.glob("*.svg")}
    wanted = {f"{name}.svg" for name in [*pictures.COMMANDS, "figure", "tutorial", *pictures.guide_commands()]}
    assert made == wanted, "run .venv/bin/python docs/pictures.py"
    pages = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "README.md", pictures.GUIDE, pictures.TUTORIAL)
    )
    assert made == set(re.findall(r"pictures/(\w+\.svg)\)", pages))


def test_each_screen_of_the_dashboard_has_pictures_and_each_is_shown() -> None:
    made = {path.name for path in pictures.PICTURES.glob("dashboard-*.png")}
    dashboard = script("dashboard_pictures")
    wanted = {f"dashboard-{name}.png" for name in [*dashboard.SCREENS, *dashboard.LARGE_SCREENS]}
    assert made == wanted, "run .venv/bin/python docs/dashboard_pictures.py"
    assert wanted == {f"dashboard-{size}{name}.png" for size in ("", "large-") for name in dashboard.SCREENS}
    page = (ROOT / "docs" / "howto" / "dashboard-screens.md").read_text(encoding="utf-8")
    assert made == set(re.findall(r"pictures/([\w-]+\.png)\)", page))
    assert sum(path.stat().st_size for path in pictures.PICTURES.glob("*.png")) < 3_000_000
