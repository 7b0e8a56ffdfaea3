"""Make docs/pictures: of the README, the status of a running study, a table and a figure; of pages, their figures.

Run it from the root of the repository, where `make test` has made the environment: .venv/bin/python docs/pictures.py
"""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

from pyexperimenter import DatabaseError, PyExperimenter

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
CONFIG = "examples/svm_study/config.yml"
# Typed in the root of the repository while `make demo` runs, and after it.
DEMO = [".venv/bin/python", "examples/svm_study/run.py"]
COMMANDS = {
    "status": f".venv/bin/pyexperimenter status -c {CONFIG}",
    "table": f"""\
.venv/bin/pyexperimenter table accuracy -c {CONFIG} \\
    --rows dataset --columns kernel --best max \\
    --where "C = 10 AND (gamma IS NULL OR gamma = 0.1) AND (degree IS NULL OR degree = 2)\"""",
}
GUIDE = ROOT / "docs" / "howto" / "analysis.md"
TUTORIAL = ROOT / "docs" / "tutorial.md"
# The same files each time, with texts instead of the outlines of letters.
MATPLOTLIBRC = "svg.hashsalt: pyexperimenter\nsvg.fonttype: none\n"


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    os.environ["SOURCE_DATE_EPOCH"] = "0"
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        for name in (".venv", "examples"):
            os.symlink(ROOT / name, name)
        Path("matplotlibrc").write_text(MATPLOTLIBRC)
        guide_figures()
        tutorial_figure()
        demo = subprocess.Popen(DEMO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        experimenter = PyExperimenter(CONFIG, log_level="ERROR")
        wait_for(experimenter, done=200)
        picture("status", showing=r"running\s+2")
        demo.wait()
        picture("table")
        figure(experimenter)


def wait_for(experimenter: PyExperimenter, done: int) -> None:
    """Wait until the table exists and this many experiments are done."""
    while True:
        try:
            if experimenter.counts()["done"] >= done:
                return
        except DatabaseError:
            pass  # not filled yet
        time.sleep(0.1)


def picture(name: str, showing: str = "") -> None:
    """Draw a terminal that shows a command and all that it prints; repeat the command until this matches `showing`."""
    command = COMMANDS[name]
    printed = printed_by(command)
    while not re.search(showing, Text.from_ansi(printed).plain):
        printed = printed_by(command)
    text = Text.from_ansi(anonymous(f"$ {command}\n{printed}"))
    width = max(len(line) for line in text.plain.splitlines()) + 2
    console = Console(record=True, width=width, file=StringIO(), force_terminal=True)
    console.print(text)
    svg = console.export_svg(title="PyExperimenter", unique_id=name)
    # No fonts from elsewhere: every viewer has one of fixed width.
    (PICTURES / f"{name}.svg").write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))


def printed_by(command: str) -> str:
    """Return what a command prints on a terminal, on stdout and stderr."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(["bash", "-c", command], stdout=theirs, stderr=theirs)
    os.close(theirs)
    parts = []
    while True:
        try:
            parts.append(os.read(ours, 65536))
        except OSError:  # the other side is closed
            break
    os.close(ours)
    assert process.wait() == 0
    return b"".join(parts).decode().replace("\r\n", "\n")


def anonymous(text: str) -> str:
    """Replace the name of this machine, and remove the path of the temporary directory."""
    machine = re.escape(os.uname().nodename)
    text = re.sub(rf"\b{machine}\b *", lambda match: "node1".ljust(len(match[0])), text)
    return text.replace(os.getcwd() + "/", "")


def figure(experimenter: PyExperimenter) -> None:
    """Draw the accuracies over C, one line per kernel."""
    import matplotlib as mpl

    mpl.rc_file("matplotlibrc")
    where = "dataset = 'digits' AND (gamma IS NULL OR gamma = 0.01) AND (degree IS NULL OR degree = 2)"
    axes = experimenter.plot_result("accuracy", x="C", hue="kernel", where=where)
    axes.set_xscale("log")
    axes.set_title("SVMs on the digits data")
    axes.figure.set_size_inches(6.4, 3.6)
    axes.figure.savefig(PICTURES / "figure.svg")


def guide_commands() -> dict[str, str]:
    """Return the commands by which the guide draws figures, by the names of their files."""
    lines = re.findall(r"^(pyexperimenter plot .* -o (\w+)\.pdf.*)$", GUIDE.read_text(encoding="utf-8"), re.M)
    return {name: command for command, name in lines}


def guide_figures() -> None:
    """Draw the figures of the guide by its own commands, on its own study."""
    blocks = re.findall(r"^```(yaml|python)\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.M | re.S)
    config, study = (next(code for language, code in blocks if language == wanted) for wanted in ("yaml", "python"))
    Path("config").mkdir()
    Path("config/experiment_configuration.yml").write_text(config)
    subprocess.run([".venv/bin/python", "-c", study], check=True)
    for name, command in guide_commands().items():
        words = shlex.split(command.replace(f"{name}.pdf", str(PICTURES / f"{name}.svg")))
        subprocess.run([f".venv/bin/{words[0]}", *words[1:]], check=True)


def tutorial_figure() -> None:
    """Draw the figure of the tutorial by running the page, as its test does."""
    sys.path.insert(0, str(ROOT))
    from tests.system.test_documentation import blocks_of, run_page

    page = TUTORIAL.relative_to(ROOT).as_posix()
    blocks = blocks_of(page)
    saving = replace(blocks[-1], code=f"axes.figure.savefig({str(PICTURES / 'tutorial.svg')!r})")
    Path("tutorial").mkdir()
    run_page(page, [*blocks, saving], Path("tutorial").resolve(), {"MATPLOTLIBRC": os.path.abspath("matplotlibrc")})


if __name__ == "__main__":
    main()
