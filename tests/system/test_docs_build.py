"""Sphinx builds the documentation without warnings, and its reference has all that users can call, catch or type."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sphinx.util.inventory import InventoryFile

from tests.support.public import commands, options, public_objects

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_documentation_builds_and_its_references_are_complete(tmp_path: Path) -> None:
    built = tmp_path / "html"
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-n", "-W", "--keep-going", "-q", "-b", "html", DOCS, built],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with (built / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, path: path)
    names = {name for kind, of_kind in inventory.items() if kind.startswith("py:") for name in of_kind}
    assert sorted(set(public_objects()) - names) == []
    for path, command in commands().items():
        for option in options(command):
            for spelling in option.opts:
                assert f"{path.replace(' ', '-')}.{spelling}" in inventory["std:cmdoption"], f"{path} {spelling}"
