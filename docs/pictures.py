"""Makes the pictures of the README, in docs/pictures: of a study at work, of its table and of a figure.

Run it from the root of the repository: python docs/pictures.py
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import time
from io import StringIO
from pathlib import Path

import matplotlib as mpl
from rich.console import Console
from rich.text import Text

from pyexperimenter import PyExperimenter

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
STUDY = ROOT / "examples" / "svm_study"
CONFIG = ("-c", "config.yml")
SETTING = "C = 10 AND (gamma IS NULL OR gamma = 0.1) AND (degree IS NULL OR degree = 2)"


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        for name in ("config.yml", "run.py"):
            shutil.copy(STUDY / name, name)
        program("fill", *CONFIG)
        running = subprocess.Popen([*PROGRAM, "run", "config.yml", "run.py:train_svm"], stderr=subprocess.DEVNULL)
        experimenter = PyExperimenter("config.yml", log_level="ERROR")
        while experimenter.counts()["done"] < 200:
            time.sleep(0.1)
        picture("status", "pyexperimenter status --watch", program("status", *CONFIG))
        running.wait()
        command = ("table", "accuracy", "--rows", "dataset", "--columns", "kernel", "--best", "max")
        picture("table", f"pyexperimenter {' '.join(command)}", program(*command, *CONFIG, "-w", SETTING))
        figure(experimenter)


PROGRAM = [sys.executable, "-m", "pyexperimenter"]


def program(*arguments: str) -> str:
    """Return what a command prints on a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([*PROGRAM, *arguments], stdout=theirs, stderr=subprocess.DEVNULL)
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


def picture(name: str, title: str, printed: str) -> None:
    """Draw a terminal that shows what was printed, without what tells of this machine."""
    machine = os.uname().nodename
    printed = re.sub(rf"\b{re.escape(machine)}\b *", lambda match: "node1".ljust(len(match[0])), printed)
    text = Text.from_ansi(printed.replace(os.getcwd() + "/", ""))
    width = max(len(line) for line in text.plain.splitlines()) + 2
    console = Console(record=True, width=width, file=StringIO(), force_terminal=True)
    console.print(text)
    svg = console.export_svg(title=title, unique_id=name)
    # Without fonts from elsewhere: whoever looks at the picture has one of fixed width.
    (PICTURES / f"{name}.svg").write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))


def figure(experimenter: PyExperimenter) -> None:
    """Draw accuracies over C, a line a kernel."""
    mpl.rcParams["svg.hashsalt"] = "pyexperimenter"  # the same file each time
    where = "dataset = 'digits' AND (gamma IS NULL OR gamma = 0.01) AND (degree IS NULL OR degree = 2)"
    axes = experimenter.plot_result("accuracy", x="C", hue="kernel", where=where)
    axes.set_xscale("log")
    axes.set_title("SVMs on the digits data, mean and standard deviation over 5 seeds")
    axes.figure.set_size_inches(6.4, 3.6)
    axes.figure.savefig(PICTURES / "figure.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
