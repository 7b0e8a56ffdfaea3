"""The command that submits workers to a cluster."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from pyexperimenter.cli.printing import echo
from pyexperimenter.cli.study_options import (
    Assignment,
    NameList,
    StudyOptions,
    check_filled,
    config_and_function,
    load_function_of,
    only_grid_option,
    smoke_option,
    study_options,
    where_option,
    yes_option,
)
from pyexperimenter.jsonable import counted

if TYPE_CHECKING:
    from pyexperimenter.cluster.submission import Submission
    from pyexperimenter.experimenter import PyExperimenter

_SHOWN = 5  # jobs that did not complete


@click.command()
@click.argument("names", nargs=-1, metavar="[CONFIG] [MODULE:FUNCTION]")
@click.option("-n", "--workers", default=1, show_default=True, metavar="N", help="Number of jobs.")
@click.option(
    "--cluster", type=click.Choice(["slurm", "local"]), default="slurm", show_default=True, help="Where the jobs run."
)
@click.option("--profile", metavar="NAME", help="Use the options of this profile in the config's section Cluster.")
@click.option("--time", metavar="DURATION", help="Time limit per job, as in 4h.")
@click.option("--cpus-per-task", type=click.IntRange(1), metavar="N", help="Cores per job.")
@click.option("--mem", metavar="SIZE", help="Memory per job, as in 8G.")
@click.option("--gpus", type=click.IntRange(0), metavar="N", help="GPUs per job.")
@click.option("--partition", metavar="NAME", help="SLURM partition.")
@click.option("--array-parallelism", type=click.IntRange(1), metavar="N", help="Maximum number of jobs at a time.")
@click.option(
    "-o",
    "--option",
    "more",
    type=Assignment(),
    multiple=True,
    metavar="NAME=VALUE",
    help="Another option of sbatch, as in account=me; may be repeated.",
)
@click.option(
    "--folder",
    default="cluster_jobs",
    show_default=True,
    metavar="DIRECTORY",
    help="Directory for the logs of the jobs.",
)
@where_option
@only_grid_option
@click.option(
    "--order-by",
    type=NameList(),
    metavar="COLUMNS",
    help="Take open experiments in this order; -COLUMN for descending.",
)
@click.option("--random-order", is_flag=True, help="Take open experiments at random.")
@smoke_option
@click.option("--dry-run", is_flag=True, help="Print the sbatch script without submitting it.")
@click.option("--wait", is_flag=True, help="Wait until all jobs have ended; fail if some did not complete.")
@click.option(
    "--keep-submitting",
    is_flag=True,
    help="Submit further jobs while experiments are left. --workers is how many may be in the queue.",
)
@click.option("--max-jobs", type=click.IntRange(1), metavar="N", help="Maximum number of jobs that this submits.")
@study_options
def submit(
    study: StudyOptions,
    names: tuple[str, ...],
    workers: int,
    cluster: str,
    profile: str | None,
    more: tuple[tuple[str, Any], ...],
    folder: str,
    where: str | None,
    only_grid: bool,
    order_by: list[str] | None,
    random_order: bool,
    smoke: int,
    dry_run: bool,
    wait: bool,
    keep_submitting: bool,
    max_jobs: int | None,
    **options: Any,
) -> None:
    """Submit workers as jobs of a cluster.

    Each job executes open experiments until none is left or its time is over. Give the function as for run.
    """
    from pyexperimenter.config.source import plain

    if keep_submitting and (cluster == "local" or dry_run or wait or smoke):
        raise click.UsageError("--keep-submitting is for SLURM, and excludes --dry-run, --wait and --smoke")
    if max_jobs is not None and not keep_submitting:
        raise click.UsageError("--max-jobs is for --keep-submitting; for the number of jobs, give --workers")
    config, function_name = config_and_function(names)
    experimenter = study.open(config, logging.INFO if keep_submitting else logging.WARNING)
    options = {name: value for name, value in options.items() if value is not None} | plain(
        dict(more), for_programs=True
    )
    function = load_function_of(experimenter, function_name)
    options |= {"where": where, "order_by": order_by, "random_order": random_order, "only_grid": only_grid}
    if dry_run:
        echo(experimenter.sbatch_script(function, workers, profile, folder, **options), nl=False)
        return
    check_filled(experimenter)
    if keep_submitting:
        submitted = experimenter.keep_submitting(function, workers, profile, folder, max_jobs=max_jobs, **options)
        echo(f"Submitted {counted(submitted, 'job')}")
        echo(_experiments(experimenter), err=True)
        return
    jobs = experimenter.submit(function, workers, cluster, profile, folder, smoke=smoke, **options)
    echo("\n".join(jobs.job_ids))
    echo(f"Logs are in {jobs.folder}; to see the progress: pyexperimenter status", err=True)
    if not wait:
        return
    complete = _all_complete(jobs)
    echo(_experiments(experimenter), err=True)
    if not complete:
        click.get_current_context().exit(1)


def _experiments(experimenter: PyExperimenter) -> str:
    counts = experimenter.counts()
    return f"Experiments: {', '.join(f'{number} {status}' for status, number in counts.items() if number)}"


def _all_complete(jobs: Submission) -> bool:
    """Wait until all jobs have ended, and print how; return whether all have completed, as far as is known."""
    try:
        states = jobs.wait()
    except KeyboardInterrupt:
        program = "pyexperimenter cancel" if jobs.cluster == "slurm" else "kill"
        ids = dict.fromkeys(name.partition("_")[0] for name in jobs.job_ids)
        echo(f"The jobs continue; to stop them: {program} {' '.join(ids)}", err=True)
        raise
    counts = Counter(states.values())
    echo(f"Jobs: {', '.join(f'{number} {state}' for state, number in counts.most_common())}", err=True)
    others = [name for name, state in states.items() if state not in ("COMPLETED", "ENDED")]
    for name in others[:_SHOWN]:
        echo(f"{name} {states[name]}: see {jobs.log_file(name)}", err=True)
    return not others


@click.command()
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@yes_option
@study_options
def cancel(study: StudyOptions, jobs: tuple[str, ...], yes: bool) -> None:
    """Cancel SLURM jobs.

    Running experiments are released. Without JOB, this cancels the jobs that are executing experiments of the study,
    with all tasks of their arrays.
    """
    experimenter = study.open()
    chosen = experimenter.cancel_jobs(jobs, dry_run=True)
    if not chosen:
        echo("No jobs are executing experiments", err=True)
        return
    if not (jobs or yes):
        click.confirm(f"Cancel {', '.join(chosen)}?", abort=True, err=True)
    echo(f"Cancelled {', '.join(experimenter.cancel_jobs(chosen))}")


COMMANDS = (submit, cancel)
