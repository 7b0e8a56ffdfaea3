"""Commands that execute experiments, or let them be executed anew."""

from __future__ import annotations

import click

from pyexperimenter.cli.printing import experiments, print_status
from pyexperimenter.cli.study_options import (
    NameList,
    StudyOptions,
    check_filled,
    config_and_function,
    load_function_of,
    study_options,
    where_option,
)
from pyexperimenter.exceptions import PyExperimenterError


@click.command()
@click.argument("names", nargs=-1, metavar="[CONFIG] [MODULE:FUNCTION]")
@click.option("-j", "--n-jobs", type=int, metavar="N", help="Workers, instead of the config's; -1: one on each core.")
@click.option("-n", "--max-experiments", type=int, default=-1, metavar="N", help="Most experiments to execute.")
@where_option
@click.option(
    "--order-by", type=NameList(), metavar="COLUMNS", help="Take open experiments in this order; -COLUMN: falling."
)
@click.option("--random-order", is_flag=True, help="Take open experiments from random places.")
@click.option("--stop-after", metavar="DURATION", help="Begin no experiment that this time cannot hold, as in 3h50m.")
@click.option("--wait", is_flag=True, help="Stay until none is running either, and take over what other workers lose.")
@click.option("--name", default="PyExperimenter", metavar="NAME", help="Written into the column name.")
@study_options
def run(
    study: StudyOptions,
    names: tuple[str, ...],
    n_jobs: int | None,
    max_experiments: int,
    where: str | None,
    order_by: list[str] | None,
    random_order: bool,
    stop_after: str | None,
    wait: bool,
    name: str,
) -> None:
    """Execute open experiments until none is left.

    FUNCTION is given as module:function or file.py:function, or as the key function of the config's section Execution.
    That experiments fail is a result, not an error of this command. Ctrl-C gives experiments in execution back.
    """
    config, function_name = config_and_function(names)
    experimenter = study.open(config, name=name)
    function = load_function_of(experimenter, function_name)
    check_filled(experimenter)
    executed = experimenter.execute(
        function,
        random_order,
        n_jobs,
        max_experiments,
        where=where,
        order_by=order_by,
        stop_after=stop_after,
        wait=wait,
    )
    click.echo(f"Executed {experiments(executed)}")
    print_status(experimenter.config.table.name, experimenter.status())


@click.command()
@click.argument("experiment_id", metavar="ID", type=int)
@click.argument("function", metavar="[MODULE:FUNCTION]", required=False)
@click.option("--pdb", is_flag=True, help="Look into an exception with the debugger.")
@study_options
@click.pass_context
def debug(ctx: click.Context, study: StudyOptions, experiment_id: int, function: str | None, pdb: bool) -> None:
    """Execute one experiment here, and write nothing.

    What it reports is printed. Its status does not matter and stays as it is.
    """
    from pyexperimenter.execution.function import user_traceback

    experimenter = study.open()
    loaded = load_function_of(experimenter, function)
    try:
        returned = experimenter.debug(experiment_id, loaded, pdb)
    except PyExperimenterError:
        raise
    except Exception as error:
        click.echo(user_traceback(error), nl=False, err=True)
        ctx.exit(1)
    click.echo(f"returned {returned!r}")


COMMANDS = (run, debug)
