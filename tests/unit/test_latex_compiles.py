"""All LaTeX of the tests, the documentation and the examples is compiled by a real LaTeX."""

from __future__ import annotations

import json
import re
from pathlib import Path

from test_analysis_appendix import hostile
from test_analysis_rendering import NASTY, different, grid, methods, named, several_values, summary

from pyexperimenter.analysis import to_latex

ROOT = Path(__file__).resolve().parents[2]
MADE = {"_build", "_generated"}
OPTIONS = [
    {},
    {"caption": "A caption, $n = 5$", "label": "tab:x"},
    {"caption": "Over both columns", "environment": "table*"},
    {"caption": "Sideways", "environment": "sidewaystable"},
]


def rendered():
    """Render tables of each kind, with and without siunitx."""
    extreme = {
        ("a", "x"): (-1e9, 0.0, 5, 0),
        ("b", "x"): (float("inf"), float("nan"), 5, 0),
        ("c", "x"): (0.5, 9, 4, 1),
    }
    incomplete = summary(extreme, columns=["kernel"])
    intervals = methods([[0.25, 0.5], [0.75, 1.0]], rows="dataset", columns="method", stat="median±iqr")
    tested = methods(different(), rows="method", over=["dataset", "seed"], better="max")
    made = [
        (grid(), {"best": "max"}),
        (several_values(), {"best": {"accuracy": "max", "seconds": "min"}, "scale": {"accuracy": 100}}),
        (several_values(), {"stat": "mean", "digits": {"accuracy": "auto", "seconds": 0}}),
        (incomplete, {"digits": "auto"}),
        (intervals, {"best": "max"}),
        (tested, {"best": "indistinguishable"}),
        *((named(text), {}) for text in NASTY),
    ]
    return [
        to_latex(table, **how, **options, siunitx=siunitx)
        for table, how in made
        for options in OPTIONS
        for siunitx in (False, True)
    ]


def shown():
    """Return the tables of the documentation and of the outputs of notebooks."""
    pages = [page for page in (ROOT / "docs").rglob("*.md") if not MADE & set(page.parts)]
    notebooks = [json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "examples").rglob("*.ipynb")]
    outputs = [output for notebook in notebooks for cell in notebook["cells"] for output in cell.get("outputs", ())]
    texts = [page.read_text(encoding="utf-8") for page in pages] + ["".join(o.get("text", ())) for o in outputs]
    return [table for text in texts for table in re.findall(r"^% needs .*?(?=^```|\Z)", text, re.M | re.S)]


def test_tables_compile_with_the_packages_that_they_name(latex, tmp_path):
    assert len(shown()) >= 3
    by_packages: dict[str, list[str]] = {}
    for text in rendered() + hostile() + shown():
        comment, _, _ = text.partition("\n")
        by_packages.setdefault(comment.removeprefix("% needs "), []).append(text)
    assert len(by_packages) == 4
    for number, (preamble, snippets) in enumerate(by_packages.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        latex.compile(preamble, snippets, folder)
