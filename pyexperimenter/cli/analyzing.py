"""Commands that analyze results: tables, tests and figures for a paper."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyexperimenter.cli.printing import echo, print_json
from pyexperimenter.cli.study_options import (
    Command,
    NameList,
    StudyOptions,
    check_filled,
    decorated,
    json_option,
    only_grid_option,
    study_options,
    where_option,
)
from pyexperimenter.jsonable import records

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyexperimenter.analysis import Comparison
    from pyexperimenter.experimenter import PyExperimenter

_RENDERINGS = {"text": "to_text", "latex": "to_latex", "markdown": "to_markdown", "html": "to_html"}
_PICTURES = (".pdf", ".png", ".svg")

_over_option = click.option(
    "--over", type=NameList(), metavar="COLUMNS", help="Keyfields to aggregate over; by default seed, if there is one."
)
_count_options = (
    click.option(
        "--unit", type=NameList(), metavar="COLUMNS", help="Keyfield of what is independent, or seed for each run."
    ),
    click.option(
        "--failures",
        multiple=True,
        default=["error"],
        metavar="[RESULTFIELD=]error|drop|NUMBER",
        help="What failed runs count as: an error of this command, nothing, or this number.",
    ),
    click.option(
        "--pairing",
        type=click.Choice(["common", "all"]),
        help="Average over what all cells of a row have in common, the default, or over all that each has, the default "
        "for complete blocks.",
    ),
    click.option(
        "--test-share", type=float, metavar="SHARE", help="If seeds are random splits: the share of the test part."
    ),
)
_complete_blocks_option = click.option(
    "--complete-blocks", is_flag=True, help="Only blocks of the design in which all experiments are done."
)
_select_options = (
    click.option(
        "--select-on", metavar="RESULTFIELD", help="Take only the best settings, chosen by this other resultfield."
    ),
    click.option(
        "--select-by",
        type=NameList(),
        metavar="COLUMNS",
        help="Choose a setting for each combination of these keyfields.",
    ),
    click.option(
        "--select-better",
        type=click.Choice(["max", "min"]),
        default="max",
        show_default=True,
        help="What the best setting has: the largest or the smallest value.",
    ),
    click.option(
        "--select-failures",
        type=click.Choice(["error", "worst", "drop"]),
        default="error",
        show_default=True,
        help="Whether a failed setting is an error, chosen only if no other is left, or never chosen.",
    ),
)


def _analysis_options(command: Command) -> Command:
    """Add the options that say which runs count; they and those that select rows are passed to the command as `how`."""

    @functools.wraps(command)
    def run(
        *context: Any,
        over: list[str] | None,
        where: str | None,
        only_grid: bool,
        complete_blocks: bool,
        unit: list[str] | None,
        failures: tuple[str, ...],
        pairing: str | None,
        test_share: float | None,
        **arguments: Any,
    ) -> Any:
        how: dict[str, Any] = {"over": over or "seed", "where": where, "only_grid": only_grid, "unit": unit}
        how |= {"complete_blocks": complete_blocks}
        how |= {"failures": _settings(failures, _count), "pairing": pairing, "test_share": test_share}
        return command(*context, how=how, **arguments)

    return decorated(run, _over_option, *_count_options, where_option, only_grid_option, _complete_blocks_option)


def _selecting(command: Command) -> Command:
    """Add the options that choose the best settings, which are added to `how`."""

    @functools.wraps(command)
    def run(
        *context: Any,
        how: dict[str, Any],
        select_on: str | None,
        select_by: list[str] | None,
        select_better: str,
        select_failures: str,
        **arguments: Any,
    ) -> Any:
        if (select_on is None) is not (select_by is None):
            raise click.UsageError("--select-on and --select-by need each other")
        if select_on is not None:
            choice = {"by": select_by, "on": select_on, "better": select_better, "failures": select_failures}
            how = {**how, "select": choice}
        return command(*context, how=how, **arguments)

    return decorated(run, *_select_options)


def _picture_options(command: Command) -> Command:
    """Add the options of figures. The command returns the axes, whose figure is saved."""

    @functools.wraps(command)
    def run(study: StudyOptions, output: str, size: tuple[float, float] | None, **arguments: Any) -> None:
        if Path(output).suffix.lower() not in _PICTURES:
            raise click.UsageError(
                f"--output: {output} does not end with {', '.join(_PICTURES[:-1])} or {_PICTURES[-1]}"
            )
        experimenter = study.open_for_reading()
        check_filled(experimenter)
        figure = command(experimenter, **arguments).figure
        if size is not None:
            figure.set_size_inches(size)
        figure.savefig(output)

    return decorated(
        run,
        click.option("-o", "--output", metavar="FILE", required=True, help="File to write, .png, .svg or .pdf."),
        click.option(
            "--size",
            type=click.FloatRange(0.5, 100),
            nargs=2,
            metavar="WIDTH HEIGHT",
            help="Size in inches; by default 6.4 4.8, and for ranks what they need.",
        ),
        study_options,
    )


def _comparison_options(command: Command) -> Command:
    """Add the options that say what is compared, and how."""
    return decorated(
        command,
        click.option(
            "--by", required=True, metavar="COLUMN", help="Keyfield whose levels are compared, such as the method."
        ),
        click.option(
            "--blocks",
            type=NameList(),
            required=True,
            metavar="COLUMNS",
            help="Keyfields of the blocks, such as the data set.",
        ),
        _analysis_options,
        _selecting,
        click.option(
            "--better", type=click.Choice(["max", "min"]), default="max", show_default=True, help="What gets rank 1."
        ),
        click.option(
            "--test",
            type=click.Choice(["wilcoxon", "nemenyi"]),
            default="wilcoxon",
            show_default=True,
            help="How the pairs of three or more levels are tested.",
        ),
        click.option(
            "--correction",
            type=click.Choice(["holm", "shaffer"]),
            default="holm",
            show_default=True,
            help="How the p-values of pairs are adjusted.",
        ),
        click.option(
            "--rope",
            type=float,
            metavar="SIZE",
            help="Also test for equivalence: the largest difference without relevance.",
        ),
    )


def _stat_option(default: str) -> Callable[[Command], Command]:
    return click.option(
        "--stat", default=default, show_default=True, help="mean±std, median±iqr, ci95, mean±bca95, mean or median."
    )


@click.command()
@click.argument("values", nargs=-1, required=True, metavar="RESULTFIELD...")
@click.option("--rows", type=NameList(), required=True, metavar="COLUMNS", help="Keyfields whose values form the rows.")
@click.option("--columns", type=NameList(), metavar="COLUMNS", help="Keyfields whose values form the columns.")
@_analysis_options
@_selecting
@_stat_option("mean±std")
@click.option(
    "--format",
    "kind",
    type=click.Choice(list(_RENDERINGS)),
    default="text",
    show_default=True,
    help="Format of the table.",
)
@click.option(
    "--digits",
    default="3",
    show_default=True,
    metavar="N|auto",
    callback=lambda context, option, value: _digits(value),
    help="Number of decimals; auto: two significant digits of each spread.",
)
@click.option(
    "--best",
    multiple=True,
    metavar="[RESULTFIELD=]max|min|indistinguishable",
    help="Mark the best cells, or those that tests do not distinguish from the best (see --better); with several "
    "resultfields, once for each that has a best.",
)
@click.option(
    "--better",
    multiple=True,
    metavar="[RESULTFIELD=]max|min",
    help="Test which cells of a row differ from the best one.",
)
@click.option(
    "--best-per", type=click.Choice(["row", "column"]), help="Compare the cells of each row or of each column."
)
@click.option(
    "--scale",
    multiple=True,
    metavar="[RESULTFIELD=]NUMBER",
    help="Multiply what is shown; 100 makes shares percentages.",
)
@click.option("--environment", metavar="NAME", help="Environment of the LaTeX table, such as table*.")
@click.option("--siunitx", is_flag=True, help="Align the numbers of the LaTeX table with the package siunitx.")
@click.option("--caption", metavar="TEXT", help="Caption of the LaTeX table.")
@click.option("--label", metavar="TEXT", help="Label of the LaTeX table.")
@click.option("-o", "--output", metavar="FILE", help="Write the table to this file instead of printing it.")
@json_option
@study_options
def table(
    study: StudyOptions,
    values: tuple[str, ...],
    rows: list[str],
    columns: list[str] | None,
    stat: str,
    kind: str,
    digits: int | str,
    best: tuple[str, ...],
    better: tuple[str, ...],
    best_per: str | None,
    scale: tuple[str, ...],
    environment: str | None,
    siunitx: bool,
    caption: str | None,
    label: str | None,
    output: str | None,
    as_json: bool,
    how: dict[str, Any],
) -> None:
    """Summarize results as a table for a paper.

    Each cell aggregates RESULTFIELD for one combination of rows and columns. Incomplete cells are marked.
    """
    experimenter = study.open_for_reading()
    check_filled(experimenter)
    better_of = _settings(better, str)
    summary = experimenter.summarize(list(values), rows, columns, stat=stat, better=better_of, **how)
    if as_json:
        print_json(records(summary))
        return
    from pyexperimenter import analysis

    options: dict[str, Any] = {"digits": digits, "best": _settings(best, str), "best_per": best_per}
    if scale:
        options["scale"] = _settings(scale, _count)
    if kind == "latex":
        options |= {"caption": caption, "label": label, "environment": environment or "table", "siunitx": siunitx}
    elif caption or label or environment or siunitx:
        raise click.UsageError("--caption, --label, --environment and --siunitx are for --format latex")
    text = getattr(analysis, _RENDERINGS[kind])(summary, **options)
    if output is None:
        echo(text)
        return
    with open(output, "w", encoding="utf-8") as file:
        file.write(f"{text}\n")


def _settings(settings: tuple[str, ...], read: Callable[[str], Any]) -> Any:
    """Return the last of several settings, or a dict if they are for resultfields, or None if there is none."""
    if not any("=" in setting for setting in settings):
        return read(settings[-1]) if settings else None
    named = (setting.rpartition("=")[::2] for setting in settings)
    return {name: read(setting) for name, setting in named}


def _digits(text: str) -> str | int:
    """Return a number of decimals; the renderer refuses what is neither a number nor auto."""
    try:
        return int(text)
    except ValueError:
        return text


def _count(text: str) -> str | float:
    """Return what a failed run counts as."""
    try:
        return float(text)
    except ValueError:
        return text


@click.command()
@click.argument("value", metavar="RESULTFIELD")
@_comparison_options
@click.option("--describe", is_flag=True, help="Print sentences for a paper instead.")
@json_option
@study_options
def compare(
    study: StudyOptions,
    value: str,
    by: str,
    blocks: list[str],
    better: str,
    describe: bool,
    as_json: bool,
    how: dict[str, Any],
    **tests: Any,
) -> None:
    """Test whether the levels of a keyfield differ.

    Compares RESULTFIELD in each block, with paired tests over the blocks.
    """
    experimenter = study.open_for_reading()
    check_filled(experimenter)
    comparison = experimenter.compare(value, by, blocks, better, **tests, **how)
    if as_json:
        print_json(_comparison_as_json(comparison))
    else:
        echo(comparison.describe() if describe else str(comparison))


@click.command()
@click.option("--describe", is_flag=True, help="Print sentences for a paper instead.")
@json_option
@study_options
def primary(study: StudyOptions, describe: bool, as_json: bool) -> None:
    """Do the primary test that the config declares.

    Says whether it was fixed before the first run. All other tests are exploratory.
    """
    experimenter = study.open_for_reading()
    check_filled(experimenter)
    comparisons = experimenter.primary_test()
    if as_json:
        print_json([{"value": found.value, **_comparison_as_json(found)} for found in comparisons])
    else:
        echo("\n\n".join(found.describe() if describe else str(found) for found in comparisons))


def _comparison_as_json(comparison: Comparison) -> dict[str, Any]:
    return {
        "test": comparison.test,
        "statistic": comparison.statistic,
        "p_value": comparison.p_value,
        "average_ranks": comparison.average_ranks.to_dict(),
        "pairwise_test": comparison.pairwise_test,
        "pairwise": records(comparison.pairwise),
        "notes": comparison.notes,
    }


def _aggregate_options(command: Command) -> Command:
    """Add the options of aggregates of normalized scores; those that do not concern them are left out of `how`."""

    @functools.wraps(command)
    def run(*context: Any, how: dict[str, Any], **arguments: Any) -> Any:
        for name in ("unit", "pairing", "test_share"):  # runs are resampled as they are
            how.pop(name)
        return command(*context, how=how, **arguments)

    return decorated(
        run,
        click.argument("value", metavar="RESULTFIELD"),
        click.option("--by", type=NameList(), required=True, metavar="COLUMNS", help="Keyfields that are compared."),
        click.option("--tasks", type=NameList(), required=True, metavar="COLUMNS", help="Keyfields of the tasks."),
        _analysis_options,
        _selecting,
    )


_better_option = click.option(
    "--better", type=click.Choice(["max", "min"]), default="max", show_default=True, help="What is better."
)


@click.command()
@_aggregate_options
@_better_option
@json_option
@study_options
def aggregate(
    study: StudyOptions,
    value: str,
    by: list[str],
    tasks: list[str],
    better: str,
    as_json: bool,
    how: dict[str, Any],
) -> None:
    """Aggregate normalized scores of several tasks.

    Shows interquartile means of RESULTFIELD, and how likely a run of one level is better than one of another.
    """
    experimenter = study.open_for_reading()
    check_filled(experimenter)
    tables = {
        "interquartile_means": experimenter.interquartile_means(value, by, tasks, **how),
        "improvement_probabilities": experimenter.improvement_probabilities(value, by, tasks, better=better, **how),
    }
    if as_json:
        print_json({name: records(found) for name, found in tables.items()})
    else:
        echo("\n\n".join(found.to_string(index=False, float_format="{:.4f}".format) for found in tables.values()))


class _NumberList(NameList):
    """Numbers separated by commas."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Split a text into numbers."""
        try:
            return [float(number) for number in super().convert(value, param, ctx)]
        except ValueError:
            self.fail(f"{value!r} are not numbers separated by commas", param, ctx)


def _anytime_options(command: Command) -> Command:
    """Add the arguments and options of an analysis over a budget."""
    return decorated(
        command,
        click.argument("logtable"),
        click.argument("value", metavar="COLUMN"),
        click.option(
            "--budget", required=True, metavar="COLUMN", help="Column of the logtable that says what was spent so far."
        ),
        click.option("--by", type=NameList(), required=True, metavar="COLUMNS", help="Keyfields that are compared."),
        click.option("--unit", type=NameList(), metavar="COLUMNS", help="Keyfields of the problems."),
        _over_option,
        click.option(
            "--better", type=click.Choice(["max", "min"]), default="max", show_default=True, help="What is better."
        ),
        where_option,
        only_grid_option,
        _complete_blocks_option,
    )


@click.command()
@_anytime_options
@click.option("--at", type=_NumberList(), metavar="NUMBERS", help="Show the best values so far at these budgets.")
@click.option("--targets", type=_NumberList(), metavar="NUMBERS", help="Show the budgets that it takes to reach these.")
@click.option("--auc", is_flag=True, help="Show the areas under the curves.")
@json_option
@study_options
def anytime(
    study: StudyOptions,
    logtable: str,
    value: str,
    at: list[float] | None,
    targets: list[float] | None,
    auc: bool,
    over: list[str] | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Show how good runs are at any time.

    Takes the best COLUMN so far of what experiments logged in LOGTABLE.
    """
    experimenter = study.open_for_reading()
    check_filled(experimenter)
    if not (at or targets or auc):
        raise click.UsageError("nothing to show: give budgets (--at), targets (--targets) or --auc")
    curves = experimenter.anytime(logtable, value, over=over or "seed", **how)
    tables = ({"at": curves.at(at)} if at else {}) | ({"targets": curves.targets(targets)} if targets else {})
    tables |= {"auc": curves.auc()} if auc else {}
    if as_json:
        print_json({name: records(found) for name, found in tables.items()} | {"notes": curves.notes})
        return
    for found in tables.values():
        echo(f"{found.to_string(index=False, float_format='{:.6g}'.format)}\n")
    for note in curves.notes:
        echo(f"{note}.")


def _pareto_options(command: Command) -> Command:
    """Add the objectives, passed to the command as a dict, and the options that say what they are means of."""

    @functools.wraps(command)
    def run(*context: Any, objectives: tuple[str, ...], how: dict[str, Any], **arguments: Any) -> Any:
        how.pop("test_share")  # means do not depend on it
        aims = dict(objective.partition("=")[::2] for objective in objectives)
        return command(*context, objectives=aims, how=how, **arguments)

    return decorated(
        run,
        click.argument("objectives", nargs=-1, required=True, metavar="RESULTFIELD=min|max..."),
        click.option(
            "--by", type=NameList(), metavar="COLUMNS", help="Keyfields of the settings; by default all but --over."
        ),
        _analysis_options,
    )


@click.command()
@_pareto_options
@click.option("--all", "dominated", is_flag=True, help="Also show the settings that are not on the front.")
@json_option
@study_options
def pareto(study: StudyOptions, dominated: bool, as_json: bool, how: dict[str, Any], **what: Any) -> None:
    """Show the settings that no other beats in all objectives.

    Each objective is the mean of a RESULTFIELD.
    """
    experimenter = study.open_for_reading()
    check_filled(experimenter)
    found = experimenter.pareto(**what, **how)
    found = found if dominated else found[found["front"]].drop(columns="front")
    if as_json:
        print_json(records(found))
    else:
        echo(found.to_string(index=False, float_format="{:.6g}".format))


@click.group()
def plot() -> None:
    """Draw a figure of the results."""


@plot.command()
@click.argument("value", metavar="RESULTFIELD")
@click.option("--x", required=True, metavar="COLUMN", help="Keyfield of the horizontal axis.")
@click.option("--hue", type=NameList(), metavar="COLUMNS", help="Keyfields whose values get a line each.")
@_stat_option("mean±ci95")
@_analysis_options
@_selecting
@_picture_options
def result(experimenter: PyExperimenter, value: str, how: dict[str, Any], **roles: Any) -> Axes:
    """Draw a resultfield over a keyfield."""
    return experimenter.plot_result(value, **roles, **how)


@plot.command()
@click.argument("value", metavar="RESULTFIELD")
@click.option("--x", required=True, metavar="COLUMN", help="Keyfield of the horizontal axis.")
@click.option("--y", required=True, metavar="COLUMN", help="Keyfield of the vertical axis.")
@_stat_option("mean")
@_analysis_options
@_selecting
@_picture_options
def heatmap(experimenter: PyExperimenter, value: str, how: dict[str, Any], **roles: Any) -> Axes:
    """Draw a resultfield over two keyfields, as colors and numbers."""
    return experimenter.plot_heatmap(value, **roles, **how)


@plot.command()
@click.argument("logtable")
@click.argument("value", metavar="COLUMN")
@click.option("--index", required=True, metavar="COLUMN", help="Column of the logtable that counts, such as the epoch.")
@click.option("--hue", type=NameList(), metavar="COLUMNS", help="Keyfields whose values get a line each.")
@_stat_option("mean±ci95")
@_analysis_options
@_picture_options
def curves(experimenter: PyExperimenter, logtable: str, value: str, how: dict[str, Any], **roles: Any) -> Axes:
    """Draw what experiments logged."""
    return experimenter.plot_curves(logtable, value, **roles, **how)


@plot.command("anytime")
@_anytime_options
@click.option(
    "--show",
    type=click.Choice(["values", "ecdf", "targets", "ranks"]),
    default="values",
    show_default=True,
    help="Best values so far, shares of targets reached, expected running times, or average ranks.",
)
@click.option(
    "--points", type=_NumberList(), metavar="NUMBERS", help="The budgets, or for ecdf and targets the targets."
)
@_picture_options
def plot_anytime(
    experimenter: PyExperimenter,
    logtable: str,
    value: str,
    over: list[str] | None,
    show: str,
    points: list[float] | None,
    **how: Any,
) -> Axes:
    """Draw how good runs are at any time."""
    return experimenter.anytime(logtable, value, over=over or "seed", **how).plot(show, points=points)


@plot.command("pareto")
@_pareto_options
@click.option("--hue", type=NameList(), metavar="COLUMNS", help="Keyfields whose values get a color each.")
@_picture_options
def plot_pareto(experimenter: PyExperimenter, how: dict[str, Any], **what: Any) -> Axes:
    """Draw the means of two objectives, and the Pareto front."""
    return experimenter.plot_pareto(**what, **how)


@plot.command()
@_aggregate_options
@_better_option
@_picture_options
def profiles(experimenter: PyExperimenter, how: dict[str, Any], **what: Any) -> Axes:
    """Draw the shares of runs with scores above each threshold."""
    return experimenter.plot_profiles(**what, **how)


@plot.command()
@where_option
@only_grid_option
@_picture_options
def progress(experimenter: PyExperimenter, where: str | None, only_grid: bool) -> Axes:
    """Draw the number of finished experiments over time."""
    return experimenter.plot_progress(where=where, only_grid=only_grid)


@plot.command()
@click.argument("value", metavar="RESULTFIELD")
@_comparison_options
@_picture_options
def ranks(experimenter: PyExperimenter, how: dict[str, Any], **what: Any) -> Axes:
    """Draw average ranks as a critical difference diagram."""
    return experimenter.compare(**what, **how).critical_difference_diagram()


COMMANDS = (table, compare, primary, aggregate, anytime, pareto, plot)
