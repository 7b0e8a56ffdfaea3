"""Bars while a study is filled and executed: on a terminal, in a notebook, and nowhere else."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter import logger
from pyexperimenter.exceptions import ServerUnreachableError
from pyexperimenter.logger import _StderrHandler, failure, folded_failures
from pyexperimenter.study import progress
from pyexperimenter.study.progress import execution_bar, fill_bar
from tests.support.study import credentials, experimenter, store, study, wait_until
from tests.support.target import Target


class Terminal(io.StringIO):
    """A stream that a bar treats as a terminal."""

    def isatty(self) -> bool:
        return True


def opened_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Let the test write to a terminal from now on; if a fixture did this, pytest would replace stderr again."""
    opened = Terminal()
    monkeypatch.setattr(sys, "stderr", opened)
    monkeypatch.setattr(progress, "_INTERVAL", 0.01)
    return opened


def bars(text: str) -> list[str]:
    return re.findall(r"experiments: [^\r\n]*\]", text)


def set_status(target: Target, status: str, ids: str) -> None:
    target.query(f"UPDATE study SET status = '{status}' WHERE ID IN ({ids})")


# On a terminal


def seen_on_a_terminal(script: str, *given: str) -> str:
    """Run a script with a terminal as stderr; return what it prints there."""
    ours, theirs = pty.openpty()
    # A terminal without columns has no room for a bar.
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", script, *given], stderr=theirs, env=environment)
    os.close(theirs)
    seen = b""
    deadline = time.monotonic() + 120
    try:
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 1)[0]:
                try:
                    part = os.read(ours, 65536)
                except OSError:  # how Linux reports the end of a terminal
                    break
                if not part:
                    break
                seen += part
        assert process.wait(60) == 0, seen.decode()
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return seen.decode()


FAILING = """
import json, sys, time
from pyexperimenter import PyExperimenter

def fail_at_times(keyfields, results, custom):
    time.sleep(0.4)
    if keyfields["seed"] == 1:
        raise ValueError("seed 1")

PyExperimenter(json.loads(sys.argv[1]), **json.loads(sys.argv[2])).execute(fail_at_times)
"""


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_an_execution_on_a_terminal(target: Target, tmp_path: Path, isolation: str) -> None:
    config = study(target, Execution={"isolation": isolation, "journal": str(tmp_path)})
    experimenter(target, config).fill_table_from_config()
    seen = seen_on_a_terminal(FAILING, json.dumps(config), json.dumps(credentials(target), default=str))
    assert "0/6" in bars(seen)[0]
    assert "error=2" in bars(seen)[-1]
    assert "6/6" in bars(seen)[-1]
    # Messages begin their lines: the bar was erased.
    messages = [
        line
        for line in seen.split("\r\n")
        if re.search("experiment . failed|ValueError in fail_at_times: 1 more", line)
    ]
    assert len(messages) == 2
    assert seen.count("Traceback") == 1
    for message in messages:
        assert re.match(r"\d{4}-\d\d-\d\d ", message.rpartition("\r")[2])


def test_nothing_is_shown_elsewhere(target: Target, capfd: pytest.CaptureFixture[str]) -> None:
    study_ = experimenter(target)
    study_.fill_table_from_config()
    threads = threading.active_count()
    with execution_bar(study_._store):
        assert threading.active_count() == threads
    assert study_.execute(lambda keyfields, results, custom: None) == 6
    with fill_bar(10**6) as moved:
        moved(5)
    assert capfd.readouterr() == ("", "")


def test_a_fill_has_a_bar_if_it_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = opened_terminal(monkeypatch)
    with fill_bar(100) as moved:
        moved(100)
    assert terminal.getvalue() == ""
    with fill_bar(10**6) as moved:
        moved(10**6)
    assert "100%" in terminal.getvalue()


# What it shows


def test_what_others_finish_and_add_counts_too(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = opened_terminal(monkeypatch)
    opened = store(target)
    set_status(target, "done", "1, 2")
    with execution_bar(opened):
        wait_until(lambda: "0/4" in terminal.getvalue())
        set_status(target, "done", "3")
        wait_until(lambda: "1/4" in terminal.getvalue())
        set_status(target, "running", "4")
        target.query("INSERT INTO study (dataset, seed, status) VALUES ('new', 1, 'created')")
        wait_until(lambda: "1/5" in terminal.getvalue())
        set_status(target, "error", "4")
        set_status(target, "paused", "5")
        wait_until(lambda: "3/5" in terminal.getvalue())
        assert re.search(r"<\d\d:\d\d", bars(terminal.getvalue())[-1])
        set_status(target, "created", "1, 2, 3, 4, 5")
        wait_until(lambda: "0/7" in terminal.getvalue())
        set_status(target, "done", "1, 2, 3, 4, 5, 6")
    assert "4/5" in bars(terminal.getvalue())[-1]


def test_there_is_no_bar_for_nothing(sqlite_target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = opened_terminal(monkeypatch)
    opened = store(sqlite_target)
    set_status(sqlite_target, "done", "1, 2, 3, 4, 5, 6")
    with execution_bar(opened):
        pass
    assert terminal.getvalue() == ""


def test_a_bar_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, bar = opened_terminal(monkeypatch), progress._bar
    monkeypatch.setattr(progress, "_bar", lambda **options: bar(ncols=79, **options))
    table: Any = Watched()
    table.counts = {"created": 600_000, "running": 0, "done": 0, "error": 0, "paused": 0}
    with execution_bar(table):
        table.counts = {"created": 399_000, "running": 0, "done": 189_000, "error": 12_000, "paused": 0}
        wait_until(lambda: "201000/600000" in terminal.getvalue())
    last = bars(terminal.getvalue())[-1]
    assert len(last) <= 79
    assert last.endswith("error=12000]")


# What it costs


class Watched:
    """A table whose counting takes long, fails, or never ends."""

    def __init__(self) -> None:
        self.looks: list[float] = []
        self.takes = 0.0
        self.error: Exception | None = None
        self.counts = {"created": 5, "running": 0, "done": 0, "error": 0, "paused": 0}
        self.answers = threading.Event()
        self.answers.set()

    def counts_at_once(self) -> dict[str, int]:
        self.looks.append(time.monotonic())
        time.sleep(self.takes)
        assert self.answers.wait(60)
        if self.error:
            raise self.error
        return self.counts


def test_what_takes_long_is_done_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    opened_terminal(monkeypatch)
    table: Any = Watched()
    table.takes = 0.05
    with execution_bar(table):
        wait_until(lambda: len(table.looks) == 3)
    assert table.looks[2] - table.looks[1] >= 20 * 0.05


def test_trouble_with_the_database_is_not_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = opened_terminal(monkeypatch)
    table: Any = Watched()
    with execution_bar(table):
        table.error = ServerUnreachableError("away")
        wait_until(lambda: len(table.looks) > 5)
        table.error = None
        shown = len(bars(terminal.getvalue()))
        wait_until(lambda: len(bars(terminal.getvalue())) > shown)
    table.error = ServerUnreachableError("away")
    with execution_bar(table):
        pass
    assert "0/5" in bars(terminal.getvalue())[-1]


def test_a_server_that_never_answers_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = opened_terminal(monkeypatch)
    monkeypatch.setattr(progress, "_LAST_LOOK", 0.05)
    table: Any = Watched()
    with execution_bar(table):
        table.answers.clear()
        looks = len(table.looks)
        wait_until(lambda: len(table.looks) > looks)
    (watcher,) = [thread for thread in threading.enumerate() if thread.name == "progress"]
    shown = terminal.getvalue()
    table.answers.set()
    watcher.join(60)
    assert not watcher.is_alive()
    assert terminal.getvalue() == shown  # a late answer is not shown


def test_an_exception_passes_and_ends_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = opened_terminal(monkeypatch)
    with pytest.raises(KeyboardInterrupt), execution_bar(Watched()):  # type: ignore[arg-type]
        raise KeyboardInterrupt
    assert "progress" not in [thread.name for thread in threading.enumerate()]
    assert terminal.getvalue().endswith("\n")


def test_messages_of_any_handler_there_begin_their_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = opened_terminal(monkeypatch)
    logger = logging.getLogger("of a user")
    handler = logging.StreamHandler(terminal)
    logger.addHandler(handler)
    logger.propagate = False
    table: Any = Watched()
    with execution_bar(table):
        wait_until(lambda: bars(terminal.getvalue()))
        for number in range(100):
            logger.error("message %d", number)
    logger.removeHandler(handler)
    assert handler.filters == []
    lines = [line.rpartition("\r")[2] for line in terminal.getvalue().split("\n")]
    assert [line for line in lines if "message" in line] == [f"message {number}" for number in range(100)]


# Failures


def failing(log: logging.Logger, kind: str, details: str) -> None:
    log.error("%s: %s", kind, details, extra=failure(kind, details))


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """A logger that writes to what is stderr then."""
    log = logging.getLogger("of a test of failures")
    log.propagate = False
    log.addHandler(_StderrHandler())
    yield log
    log.handlers.clear()


def test_failures_are_printed_once_and_counted(monkeypatch: pytest.MonkeyPatch, log: logging.Logger) -> None:
    terminal, file = opened_terminal(monkeypatch), io.StringIO()
    log.addHandler(logging.StreamHandler(file))
    with pytest.raises(KeyboardInterrupt), folded_failures():
        for kind, details in [
            ("E in f", "a"),
            ("E in f", "b"),
            *[("E in f", "a")] * 3,
            ("F in g", "a"),
            ("E in f", "b"),
        ]:
            failing(log, kind, details)
        log.error("something else")
        raise KeyboardInterrupt
    messages = [line.rpartition(" | ")[2] for line in terminal.getvalue().splitlines()]
    assert messages == ["E in f: a", "E in f: b", "F in g: a", "something else", "E in f: 4 more"]
    assert len(file.getvalue().splitlines()) == 8
    failing(log, "E in f", "a")
    assert terminal.getvalue().endswith("E in f: a\n")


def test_failures_are_counted_while_they_go_on(monkeypatch: pytest.MonkeyPatch, log: logging.Logger) -> None:
    terminal = opened_terminal(monkeypatch)
    with folded_failures():
        for _ in range(3):
            failing(log, "E in f", "a")
        monkeypatch.setattr(logger, "_COUNTED_EVERY", -1)
        failing(log, "E in f", "a")
        assert terminal.getvalue().endswith("E in f: 3 more\n")
    assert terminal.getvalue().count("more") == 1


# In a notebook


def test_a_notebook_is_known_by_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not progress._in_notebook()
    assert "IPython" not in sys.modules
    for shell, expected in [
        (None, False),
        (types.SimpleNamespace(), False),
        (types.SimpleNamespace(kernel=None), False),
        (types.SimpleNamespace(kernel="a kernel"), True),
    ]:
        monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda shell=shell: shell))
        assert progress._in_notebook() is expected


def test_an_execution_in_a_notebook(sqlite_target: Target, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    config = study(sqlite_target)
    code = (
        "import warnings; warnings.simplefilter('always')\n"
        "from pyexperimenter import PyExperimenter\n"
        f"study = PyExperimenter({config!r}, log_level='WARNING')\n"
        "def fail_at_times(keyfields, results, custom):\n"
        "    if keyfields['seed'] > 0: raise ValueError(keyfields['seed'])\n"
        "    return {'accuracy': 0.5}\n"
        "_ = study.fill_table_from_config(), study.execute(fail_at_times)\n"
        "study"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(tmp_path))
    outputs = notebook.cells[0].outputs
    text = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    assert "6/6" in text
    assert "Warning" not in text
    assert text.count("Traceback") == 1  # other failures of this kind are counted
    assert "ValueError in fail_at_times: 3 more" in text
    lines = [line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n")]
    assert len([line for line in lines if line.startswith("experiments:")]) == 1  # updated in place
    assert "all experiments</th>" in outputs[-1]["data"]["text/html"]
