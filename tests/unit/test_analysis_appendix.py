"""The appendix: what it says about a study, and that names cannot break it."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from test_analysis_rendering import NASTY

from pyexperimenter.analysis.appendix import appendix
from pyexperimenter.config import load_config
from pyexperimenter.config.model import TableConfig
from pyexperimenter.exceptions import InvalidValueError

KEYFIELDS = {
    "method": {"type": "VARCHAR(9)", "values": ["a", "b"]},
    "seed": {"type": "INT", "values": {"start": 0, "stop": 100}},
}
NONE = pd.DataFrame(columns=["cpu", "cpus", "gpus", "platform", "imported"])


def table(**more: Any) -> TableConfig:
    database = {"provider": "sqlite", "database": "d", "table": {"name": "study", "keyfields": KEYFIELDS, **more}}
    return load_config({"PY_EXPERIMENTER": {"Database": database}}).table


def attempts(*rows: dict[str, Any]) -> pd.DataFrame:
    usual = {
        **{"outcome": "done", "machine": "node1", "started": pd.Timestamp("2026-11-20 12:00")},
        **{"wall_seconds": 3600.0, "cpu_seconds": 7200.0, "git_commit": "3f2a9c1d0e7b", "git_dirty": False},
        **{"git_diff_hash": None, "python": "3.12.3", "library_version": "2.0.0"},
    }
    return pd.DataFrame([{**usual, **row} for row in rows], columns=[*usual])


def environment(**changes: Any) -> dict[str, Any]:
    return {
        **{"cpu": "EPYC", "cpus": 8, "gpus": ["A100, 550.1"], "platform": "Linux-6"},
        **{"imported": {"numpy": "1.26.4", "torch": "2.1"}, **changes},
    }


def facts(text: str) -> dict[str, str]:
    """Return the rows of the table of Markdown."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {name: value for name, value in rows[1:]}


def hostile() -> list[str]:
    """Return appendices in LaTeX whose names are nasty."""
    made = []
    for name in NASTY:
        executed = attempts({"machine": name, "git_commit": name, "python": name, "library_version": name})
        environments = pd.DataFrame([environment(cpu=name, gpus=[name], platform=name, imported={name: name})])
        made.append(appendix(table(), {"done": 1}, executed, environments, (0.1, 0.5), [name], "latex"))
    return made


def test_it_says_how_the_results_came_about() -> None:
    executed = attempts(
        {},
        {"machine": "node2", "outcome": "lost", "wall_seconds": None, "cpu_seconds": None},
        {"outcome": "retried", "git_dirty": True, "git_diff_hash": "9d0c"},
        {"outcome": None, "started": pd.Timestamp("2026-11-22"), "wall_seconds": None, "cpu_seconds": None},
    )
    environments = pd.DataFrame([environment(), environment(imported={"numpy": "2.0.0"})])
    text = appendix(
        table(design={"blocks": "seed", "compare": "method"}),
        {"created": 0, "running": 1, "done": 190, "error": 9},
        executed,
        environments,
        (0.1234, 0.5),
        ["The number of seeds depends on the results"],
    )
    assert facts(text) == {
        "Experiments": "200 experiments (1 running, 190 done, 9 error)",
        "Grid": "method (2 values) × seed (100 values)",
        "Blocks": "by seed, comparing method, in random order (seed 0)",
        "Executions": "4 executions (1 done, 1 lost, 1 retried, 1 running)",
        "Time": "from 2026-11-20 to 2026-11-22",
        "Cost": "4.00 CPU hours and 2.00 hours of run time",
        "Machines": "node1 (3), node2 (1)",
        "Code": "git commit 3f2a9c1d0e (3), git commit 3f2a9c1d0e+9d0c with uncommitted changes (1)",
        "Python": "3.12.3",
        "PyExperimenter": "2.0.0",
        "Energy": "0.5 kWh (0.123 kg CO2 equivalents)",
        "Hardware": "EPYC, 8 cores, A100, 550.1; Linux-6",
        "Packages": "numpy 1.26.4 or 2.0.0, torch 2.1",
        "Remarks": "The number of seeds depends on the results",
    }
    paragraph = text.partition("\n")[0]
    for part in ("190 done, 9 error", "1 lost, 1 retried", "CodeCarbon measured 0.5 kWh", "4.00 CPU hours"):
        assert part in paragraph
    assert paragraph.endswith("The number of seeds depends on the results.")


def test_a_study_that_was_not_executed() -> None:
    text = appendix(table(), {"created": 200}, attempts(), NONE)
    assert text.partition("\n")[0] == (
        "The study has 200 experiments (200 created). Its grid is method (2 values) × seed (100 values)."
    )
    assert list(facts(text)) == ["Experiments", "Grid", "Executions"]


def test_grids_that_are_not_all_combinations() -> None:
    excluded = table(exclude=[{"method": "b", "seed": [0, 1]}])
    text = appendix(excluded, {"created": 198}, attempts(), NONE)
    assert facts(text)["Grid"] == "method (2 values) × seed (100 values); with conditions, 198 combinations"


@pytest.mark.parametrize("name", NASTY)
def test_names_do_not_break_a_table_of_markdown(name: str) -> None:
    text = appendix(table(), {"done": 1}, attempts({"machine": name}), NONE)
    (line,) = (line for line in text.splitlines() if line.startswith("| Machines"))
    assert line.replace("\\|", "").count("|") == 3


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="'html' is not a format of the appendix; choose from markdown, latex"):
        appendix(table(), {}, attempts(), NONE, format="html")
