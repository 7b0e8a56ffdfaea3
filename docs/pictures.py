"""Make the README's pictures in docs/pictures: the status of a running study, a table and a figure.

Run it from the root of the repository, where `make test` has made the environment: .venv/bin/python docs/pictures.py
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import tempfile
import time
from io import StringIO
from pathlib import Path

import matplotlib as mpl
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


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        for name in (".venv", "examples"):
            os.symlink(ROOT / name, name)
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
    mpl.rcParams["svg.hashsalt"] = "pyexperimenter"  # the same file each time
    where = "dataset = 'digits' AND (gamma IS NULL OR gamma = 0.01) AND (degree IS NULL OR degree = 2)"
    axes = experimenter.plot_result("accuracy", x="C", hue="kernel", where=where)
    axes.set_xscale("log")
    axes.set_title("SVMs on the digits data, mean and standard deviation over 5 seeds")
    axes.figure.set_size_inches(6.4, 3.6)
    axes.figure.savefig(PICTURES / "figure.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
