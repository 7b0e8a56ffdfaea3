"""The notebooks: each runs with every warning an error, and is stored with the outputs of one run in order."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell: nbformat.NotebookNode) -> list[list[str]]:
    return [sorted(output.get("data", [output.get("name")])) for output in cell.outputs]


def test_the_notebook_runs(path: Path) -> None:
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    before = set(FOLDER.iterdir())
    stored = code_cells(nbformat.read(path, as_version=4))
    executed = code_cells(script.execute(path))
    assert [kinds(cell) for cell in executed] == [kinds(cell) for cell in stored]
    assert set(FOLDER.iterdir()) <= before | {FOLDER / "__pycache__"}


def test_the_stored_notebook_has_the_outputs_of_a_run_in_order(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown"
    titles = [line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    assert [line for line in titles if line.startswith("# ")] == [notebook.cells[0].source.splitlines()[0]]
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    shown = {kind for cell in cells for output in kinds(cell) for kind in output}
    assert {"text/html", "image/png"} <= shown
    html = [
        output.data["text/html"] for cell in cells for output in cell.outputs if "text/html" in output.get("data", {})
    ]
    assert any("<tfoot>" in text and "run" in text for text in html)  # a summary


def test_stored_outputs_do_not_depend_on_the_run_or_the_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.language_info == {"name": "python"}
    for cell in code_cells(notebook):
        assert cell.metadata == {}
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr"
            text = str({kind: value for kind, value in output.get("data", {}).items() if kind != "image/png"})
            text += output.get("text", "")
            assert not re.search(r"/(tmp|home|root|Users|var)/|0x[0-9a-f]{6}|\d\d:\d\d:\d\d|\d{4}-\d\d-\d\d", text)
