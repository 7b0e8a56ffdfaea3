"""The command that shows a study in the browser."""

from __future__ import annotations

from typing import Any

import click

from pyexperimenter.cli.printing import echo
from pyexperimenter.cli.study_options import StudyOptions, check_filled, study_file, study_options, where_option


@click.command()
@study_file
@click.option("--host", default="127.0.0.1", show_default=True, metavar="HOST", help="Address to serve on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="Port; 0 for any that is free."
)
@click.option(
    "--uds", type=click.Path(), metavar="PATH", help="Serve on a Unix socket that only you can open, instead."
)
@click.option("--root-path", default="", metavar="PATH", help="Path below which a proxy makes the dashboard available.")
@click.option("--allow-changes", is_flag=True, help="Allow experiments to be reset, released and removed there.")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@study_options
def dashboard(study: StudyOptions, no_browser: bool, **options: Any) -> None:
    """Show a study in the browser until Ctrl-C.

    The printed address has a token, with which anyone can see the study, so keep it to yourself.
    """
    experimenter = study.open()
    board = experimenter._dashboard(*(options[name] for name in ("host", "port", "uds", "root_path", "allow_changes")))
    if board.is_public:
        warning = (
            "WARNING: OTHER MACHINES CAN REACH THIS DASHBOARD, and what passes between it and a browser is not "
            "encrypted. Leave out --host, and use: ssh -L"
        )
        echo(click.style(warning, fg="red", bold=True), err=True)
    echo(f"The dashboard is on {board.url} (Ctrl-C ends it)")
    board.serve(board.open_browser if not (no_browser or options["uds"]) else lambda: None)


@click.command()
@study_file
@where_option
@click.option("-o", "--output", metavar="FILE", required=True, help="File to write, such as report.html.")
@study_options
def report(study: StudyOptions, where: str | None, output: str) -> None:
    """Write progress, failures and results to an HTML file.

    The file needs no server, script or network, so you can mail it to people who cannot reach the database. Only
    experiments that match --where count in its results.
    """
    experimenter = study.open_for_reading()
    check_filled(experimenter)
    experimenter.report(output, where)


COMMANDS = (dashboard, report)
