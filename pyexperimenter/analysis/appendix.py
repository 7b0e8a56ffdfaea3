"""The appendix of a paper: what was executed, where, with which versions, and what it took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyexperimenter.analysis.cells import as_text, some_of
from pyexperimenter.analysis.rendering import escape_latex, escape_markdown
from pyexperimenter.analysis.versions import commits_of
from pyexperimenter.exceptions import InvalidValueError

if TYPE_CHECKING:
    from pyexperimenter.config.model import TableConfig

COLUMNS = (
    *("ID", "outcome", "machine", "started", "wall_seconds", "cpu_seconds"),
    *("git_commit", "git_dirty", "git_diff_hash", "python", "library_version"),
)
"""The columns of attempts that are needed here."""


def appendix(
    table: TableConfig,
    counts: Mapping[str, int],
    attempts: pd.DataFrame,
    environments: pd.DataFrame,
    energy: tuple[float, float] | None = None,
    notes: Sequence[str] = (),
    format: str = "markdown",
) -> str:
    r"""Write a paragraph and a table that say how the results of a study came about.

    Parameters
    ----------
    table : TableConfig
        What the configuration says about the table: the grid, and its blocks.
    counts : Mapping of str to int
        Number of experiments by status.
    attempts : pandas.DataFrame
        All executions, as returned by `get_attempts`.
    environments : pandas.DataFrame
        As returned by `get_environments`.
    energy : tuple of float, optional
        Emissions in kg of CO2 equivalents, and energy in kWh.
    notes : sequence of str
        What else a reader should know, such as how the number of seeds was chosen; without a period.
    format : {"markdown", "latex"}
        The format. LaTeX begins with a comment that names the packages which it needs. Names and strings are escaped.

    Raises
    ------
    InvalidValueError
        If the format is unknown.
    """
    if format not in ("markdown", "latex"):
        raise InvalidValueError(f"{format!r} is not a format of the appendix; choose from markdown, latex")
    facts = {
        "Experiments": _by_kind(counts, "experiment"),
        **_design_of(table),
        **_execution_of(attempts),
        **_environment_of(environments),
    }
    if energy is not None:
        emissions_kg, energy_kwh = energy
        facts["Energy"] = f"{energy_kwh:.3g} kWh ({emissions_kg:.3g} kg CO2 equivalents)"
    if notes:
        facts["Remarks"] = "; ".join(notes)
    facts = {name: as_text(fact) for name, fact in facts.items()}  # on one line
    paragraph = as_text(" ".join(_sentences(facts, notes)))
    if format == "markdown":
        rows = [f"| {name} | {escape_markdown(fact)} |" for name, fact in facts.items()]
        return "\n".join([escape_markdown(paragraph), "", "| Property | Value |", "|:--|:--|", *rows])
    lines = [rf"{name} & {escape_latex(fact)} \\" for name, fact in facts.items()]
    begin = [r"\par\smallskip\noindent", r"\begin{tabular}{lp{0.75\linewidth}}", r"\toprule"]
    end = [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([r"% needs \usepackage{booktabs}", escape_latex(paragraph), *begin, *lines, *end])


def _sentences(facts: Mapping[str, str], notes: Sequence[str]) -> Iterator[str]:
    yield f"The study has {facts['Experiments']}. Its grid is {facts['Grid']}."
    if "Blocks" in facts:
        yield f"It was executed in blocks {facts['Blocks']}."
    if "Time" not in facts:
        return
    yield f"There were {facts['Executions']}, {facts['Time']}, on {facts['Machines']}. They took {facts['Cost']}."
    if "Energy" in facts:
        yield f"CodeCarbon measured {facts['Energy']}."
    yield f"They ran {facts['Code']}, with Python {facts['Python']} and PyExperimenter {facts['PyExperimenter']}."
    yield from (f"{note}." for note in notes)


def _design_of(table: TableConfig) -> dict[str, str]:
    grid, design = table.grid, table.design
    if grid is None:
        return {"Grid": f"not declared; the parameters are {', '.join(table.keyfields)}"}
    factors = " × ".join(f"{name} ({_counted(len(grid.values_of(name)), 'value')})" for name in grid.columns)
    found = {
        "Grid": factors if grid.is_product else f"{factors}; with conditions, {_counted(len(grid), 'combination')}"
    }
    if design is not None:
        order = "in the order of the grid" if design.shuffle is None else f"in random order (seed {design.shuffle})"
        compared = f", comparing {', '.join(design.compare)}" if design.compare else ""
        found["Blocks"] = f"by {', '.join(design.blocks)}{compared}, {order}"
    return found


def _execution_of(attempts: pd.DataFrame) -> dict[str, str]:
    found = {"Executions": _by_kind(attempts["outcome"].fillna("running").value_counts(), "execution")}
    executed = attempts[attempts["started"].notna() & (attempts["outcome"] != "imported")]
    if executed.empty:
        return found
    first, last = (f"{moment:%Y-%m-%d}" for moment in (executed["started"].min(), executed["started"].max()))
    return {
        **found,
        "Time": f"on {first}" if first == last else f"from {first} to {last}",
        "Cost": f"{_hours(executed['cpu_seconds'])} CPU hours and {_hours(executed['wall_seconds'])} hours of run time",
        "Machines": some_of(_each(executed["machine"])),
        "Code": ", ".join(_each(commits_of(executed))),
        "Python": ", ".join(_each(executed["python"])),
        "PyExperimenter": ", ".join(_each(executed["library_version"])),
    }


def _environment_of(environments: pd.DataFrame) -> dict[str, str]:
    if environments.empty:
        return {}
    hardware = [
        f"{cpu}, {cpus} cores{''.join(f', {gpu}' for gpu in gpus)}; {platform}"
        for cpu, cpus, gpus, platform in environments[["cpu", "cpus", "gpus", "platform"]].itertuples(index=False)
    ]
    versions: dict[str, dict[str, None]] = {}
    for imported in environments["imported"]:
        for name, version in imported.items():
            versions.setdefault(name, {})[version] = None
    return {
        "Hardware": "; or ".join(dict.fromkeys(hardware)),
        "Packages": ", ".join(f"{name} {' or '.join(versions[name])}" for name in sorted(versions, key=str.casefold)),
    }


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _by_kind(counts: Any, noun: str) -> str:
    """Return a number, and of which kinds these are.

    >>> _by_kind({"done": 1190, "error": 10, "paused": 0}, "experiment")
    '1,200 experiments (1,190 done, 10 error)'
    """
    found = {kind: int(count) for kind, count in counts.items() if count}
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in found.items())
    return _counted(sum(found.values()), noun) + (f" ({kinds})" if kinds else "")


def _each(values: pd.Series[Any]) -> list[str]:
    """Return all values, the most frequent first, with their numbers if there are several."""
    counts = values.map(as_text).value_counts().to_dict()
    return [f"{name} ({count:,})" if len(counts) > 1 else str(name) for name, count in counts.items()]


def _hours(seconds: pd.Series[float]) -> str:
    hours = float(seconds.sum()) / 3600
    return f"{hours:,.2f}" if hours >= 0.01 else "less than 0.01"
