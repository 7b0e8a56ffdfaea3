"""The output of experiments: kept with each attempt, shown on request; and where the library's own messages go."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import re
import signal
import stat
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter import ExperimentStatus, PyExperimenter, ResultProcessor
from pyexperimenter.execution.supervision.echo import Echo
from pyexperimenter.machine.processes import Printed
from tests.support.study import credentials, experimenter, statuses, study, wait_until
from tests.support.supervision import await_note, note
from tests.support.target import A_FILE_AND_A_SERVER, Target

DATABASES = A_FILE_AND_A_SERVER

KIB64 = 64 * 1024


def configured(
    target: Target, directory: Path, rows: int = 3, execution: dict[str, Any] | None = None, **custom: Any
) -> dict[str, Any]:
    """Return a study with the seeds 0, 1, ...; its functions and the test communicate by files in `directory`."""
    keyfields = {"seed": {"type": "INT", "values": {"start": 0, "stop": rows}}}
    execution = {"isolation": "process", "heartbeat": 0.5, "lease": 5, "journal": str(directory), **(execution or {})}
    return study(target, keyfields=keyfields, Execution=execution, Custom={"directory": str(directory), **custom})


def filled(target: Target, directory: Path, **options: Any) -> PyExperimenter:
    study_ = experimenter(target, configured(target, directory, **options))
    study_.fill_table_from_config()
    return study_


def attempts(target: Target) -> list[tuple[int, str, str | None]]:
    """Return seed, outcome and output of each, in order."""
    joined = "study t JOIN study__attempts a ON a.experiment_id = t.ID"
    return target.query(f"SELECT t.seed, a.outcome, a.output FROM {joined} ORDER BY t.seed, a.ID")


def outputs(target: Target) -> list[str | None]:
    return [output for _, _, output in attempts(target)]


def first_time(custom: dict[str, Any], name: object) -> bool:
    try:
        Path(custom["directory"], f"has begun {name}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


# What is kept


def print_in_many_ways(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    seed = keyfields["seed"]
    print(f"print {seed}")
    print(f"stderr {seed}", file=sys.stderr)
    os.write(1, f"descriptor {seed}\n".encode())
    subprocess.run(["sh", "-c", f"echo child {seed}; echo child error {seed} >&2"], check=True)
    print(f"no newline {seed}", end="")
    ctypes.CDLL(None).puts(f" C {seed}".encode())  # buffered by C


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_each_attempt_has_its_own_output_whatever_wrote_it(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_jobs: int
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # with it, neither Python nor C buffers
    study_ = filled(target, tmp_path, rows=6)
    assert statuses(target) == {"created": 6}
    assert study_.execute(print_in_many_ways, n_jobs=n_jobs) == 6
    assert statuses(target) == {"done": 6}
    assert attempts(target) == [
        (
            seed,
            "done",
            f"print {seed}\nstderr {seed}\ndescriptor {seed}\nchild {seed}\nchild error {seed}\n"
            f"no newline {seed} C {seed}\n",
        )
        for seed in range(6)
    ]


def print_at_once(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    print(f"seed {keyfields['seed']}")
    note(custom, f"printed {keyfields['seed']}")


def test_what_the_next_experiment_prints_at_once_is_not_lost(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.read

    def read_late(descriptor: int, length: int) -> bytes:
        """Give a worker the time to begin the next experiment before its output is read."""
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            printed, deadline = len(list(tmp_path.glob("printed *"))), time.monotonic() + 0.3
            while len(list(tmp_path.glob("printed *"))) == printed and time.monotonic() < deadline:
                time.sleep(0.01)
        return read(descriptor, length)

    study_ = filled(sqlite_target, tmp_path, rows=4)
    monkeypatch.setattr(os, "read", read_late)
    assert study_.execute(print_at_once) == 4
    assert outputs(sqlite_target) == [f"seed {seed}\n" for seed in range(4)]


def warn(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    warnings.warn(f"seed {keyfields['seed']} is odd", stacklevel=1)


def test_warnings_of_an_experiment_are_its_output(
    sqlite_target: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled(sqlite_target, tmp_path, rows=2).execute(warn)
    for seed, output in enumerate(outputs(sqlite_target)):
        assert output is not None
        assert f"UserWarning: seed {seed} is odd\n" in output
    assert caplog.records == []


def print_sometimes(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    if keyfields["seed"] == 1:
        print()


def test_a_process_knows_without_its_supervisor_that_nothing_was_printed() -> None:
    (output, printed), (marks, mark) = os.pipe(), os.pipe()
    for descriptor in (output, marks):
        os.set_blocking(descriptor, False)
    known = Printed([output, marks])
    assert not known.is_something()
    os.write(printed, b"here")
    assert known.is_something()
    os.write(mark, b"-")
    os.read(output, 100)
    assert known.is_something(), "the supervisor has read it"
    known.forget()
    assert not known.is_something()
    os.dup2(printed, marks)
    assert known.is_something(), "this is not known if the function has closed the pipe, and opened another file"
    for descriptor in (output, printed, marks, mark):
        os.close(descriptor)


def print_now_and_then(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    if keyfields["seed"] % 3 == 0:
        print("seed", keyfields["seed"])
    if keyfields["seed"] % 30 == 0:
        subprocess.run(["echo", "of a program"], check=True)


def test_what_some_of_many_short_experiments_print_is_the_output_of_these(
    sqlite_target: Target, tmp_path: Path
) -> None:
    filled(sqlite_target, tmp_path, rows=100).execute(print_now_and_then)
    expected = [f"seed {n}\n" + "of a program\n" * (n % 30 == 0) if n % 3 == 0 else None for n in range(100)]
    assert outputs(sqlite_target) == expected


def test_no_output_is_null(target: Target, tmp_path: Path) -> None:
    filled(target, tmp_path).execute(print_sometimes)
    assert attempts(target) == [(0, "done", None), (1, "done", "\n"), (2, "done", None)]


def log(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any]:
    results.log.info("told to nobody")
    results.log.warning("seed %d is odd", keyfields["seed"])
    return {"accuracy": 0.5}


def test_the_log_of_an_experiment_is_output_with_its_level(
    target: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configured(target, tmp_path)
    study_ = PyExperimenter(config, **credentials(target), log_level="WARNING", log_file=tmp_path / "log")
    study_.fill_table_from_config()
    study_.execute(log)
    for seed, output in enumerate(outputs(target)):
        assert output is not None
        line = rf"[-\d:, ]+ \| py-experimenter\.experiment - WARNING  \| seed {seed} is odd\n"
        assert re.fullmatch(line, output), output
    assert caplog.records == []
    assert (tmp_path / "log").read_text() == ""


PRINTED = {
    "just fits": b"a" * (KIB64 - 1) + b"\n",
    "one too many": b"a" * KIB64 + b"\n",
    "lines": b"".join(b"line %d\n" % number for number in range(20_000)) + b"the end\n",
    "one line": b"a" * 1_000_000 + b" and its end",
    "wide letters": "😀".encode() * 100_000 + b"!",
    "no UTF-8": b"\xff\0" * 100_000 + b"and the rest",
}


def print_all(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    data = memoryview(PRINTED[custom["what"]])
    while data:
        data = data[os.write(1, data) :]


@pytest.mark.parametrize("what", list(PRINTED))
def test_the_last_64_kib_of_output_are_kept_and_the_rest_counted(target: Target, tmp_path: Path, what: str) -> None:
    filled(target, tmp_path, rows=1, what=what).execute(print_all)
    assert statuses(target) == {"done": 1}
    (output,) = outputs(target)
    assert output is not None
    assert len(output.encode()) <= KIB64
    printed = PRINTED[what].decode(errors="replace").replace("\0", "\\0")
    if what == "just fits":
        assert output == printed
        return
    mark = re.match(r"\.\.\. (\d+) bytes left out \.\.\.\n", output)
    assert mark is not None, output[:100]
    kept = output[mark.end() :]
    assert printed.endswith(kept)
    assert len(kept.encode()) > KIB64 - 200
    if what != "no UTF-8":
        assert int(mark[1]) + len(kept.encode()) == len(PRINTED[what])


def print_odd_letters(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    os.write(1, b"\xff\xfe and \0 and \xe2\x82 end\n")
    print("a lone \ud800, é and 😀")


@pytest.mark.parametrize("encoding", [None, "latin-1", "ascii"])
def test_odd_letters_and_encodings_do_no_harm(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str | None
) -> None:
    if encoding is not None:
        monkeypatch.setenv("PYTHONIOENCODING", encoding)
    filled(target, tmp_path, rows=1).execute(print_odd_letters)
    assert attempts(target) == [
        (0, "done", "\ufffd\ufffd and \\0 and \ufffd end\na lone \\ud800, é and 😀\n"),
    ]


def print_many_lines(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    for number in range(100_000):
        print("line", number)


def test_many_lines_do_no_harm(target: Target, tmp_path: Path) -> None:
    """A writer that waits for a reader would hang here: a pipe holds 64 KiB."""
    assert filled(target, tmp_path, rows=2).execute(print_many_lines, n_jobs=2) == 2
    assert statuses(target) == {"done": 2}
    for output in outputs(target):
        assert output is not None
        assert output.endswith("line 99998\nline 99999\n")


def print_without_end(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    if keyfields["seed"] == 1:
        subprocess.run(["yes", "y" * 10_000], check=True)


@pytest.mark.parametrize("echo", [True, False])
def test_who_prints_without_end_is_stopped_by_the_time_limit(sqlite_target: Target, tmp_path: Path, echo: bool) -> None:
    script = "import json, sys; from pyexperimenter import PyExperimenter; from test_output import print_without_end\n"
    script += "print('executed', PyExperimenter(json.loads(sys.argv[1])).execute(print_without_end), file=sys.stderr)"
    execution = {"time_limit": "1s", "echo": echo}
    filled(sqlite_target, tmp_path, execution=execution)
    command = [sys.executable, "-c", script, json.dumps(configured(sqlite_target, tmp_path, execution=execution))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True
    )
    assert "executed 3" in done.stderr
    assert statuses(sqlite_target) == {"done": 2, "error": 1}


# However an attempt ends


def print_and_end(
    keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]
) -> ExperimentStatus | None:
    is_first = first_time(custom, keyfields["seed"])
    print(f"seed {keyfields['seed']}, {'first' if is_first else 'second'} execution")
    if keyfields["seed"] == 1 and is_first:
        match custom["end"]:
            case "paused":
                return ExperimentStatus.PAUSED
            case "retried" | "error":
                raise ValueError("bad")
            case "killed":
                os._exit(3)
            case "stopped":
                os.kill(os.getppid(), signal.SIGINT)
                time.sleep(600)
            case "reset":
                Path(custom["directory"], "is to be reset").touch()
                time.sleep(600)
    return None


FIRST, SECOND = "seed 1, first execution\n", "seed 1, second execution\n"


@pytest.mark.parametrize(
    ("end", "execution", "expected"),
    [
        ("paused", {}, [("paused", FIRST)]),
        ("error", {}, [("error", FIRST)]),
        ("killed", {}, [("error", FIRST)]),
        ("retried", {"retries": 1}, [("retried", FIRST), ("done", SECOND)]),
    ],
)
def test_output_is_kept_however_an_attempt_ends(
    target: Target, tmp_path: Path, end: str, execution: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    study_ = filled(target, tmp_path, end=end, execution=execution)
    assert study_.execute(print_and_end) == 2 + len(expected)
    assert attempts(target) == [
        (0, "done", "seed 0, first execution\n"),
        *((1, *attempt) for attempt in expected),
        (2, "done", "seed 2, first execution\n"),
    ]


def test_output_of_what_is_released_is_kept(target: Target, tmp_path: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which processes of pytest-xdist do not have
    study_ = filled(target, tmp_path, end="stopped", execution={"grace": 0.1})
    with pytest.raises(KeyboardInterrupt):
        study_.execute(print_and_end)
    assert statuses(target) == {"done": 1, "created": 2}
    first = [(0, "done", "seed 0, first execution\n"), (1, "released", FIRST)]
    assert attempts(target) == first
    assert study_.execute(print_and_end) == 2
    assert attempts(target) == [*first, (1, "done", SECOND), (2, "done", "seed 2, first execution\n")]


def test_output_of_what_is_reset_while_it_runs_is_kept(target: Target, tmp_path: Path) -> None:
    study_ = filled(target, tmp_path, end="reset")
    with ThreadPoolExecutor() as pool:
        executed = pool.submit(study_.execute, print_and_end)
        wait_until(lambda: (tmp_path / "is to be reset").exists() or executed.done())
        assert study_.reset_experiments("running") == 1
        assert executed.result() == 4
    assert statuses(target) == {"done": 3}
    assert attempts(target) == [
        (0, "done", "seed 0, first execution\n"),
        (1, "reset", FIRST),
        (1, "done", SECOND),
        (2, "done", "seed 2, first execution\n"),
    ]


# What is shown


def print_and_wait(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    print(f"seed {keyfields['seed']}\nis at work")
    wait_until(Path(custom["directory"], "go").exists)
    print("is at its end", file=sys.stderr)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_echo_shows_lines_live_and_says_whose_they_are(
    sqlite_target: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str], n_jobs: int
) -> None:
    study_ = filled(sqlite_target, tmp_path, execution={"echo": True})
    shown = ""

    def is_shown() -> bool:
        nonlocal shown
        shown += capsys.readouterr().out
        return shown.count("is at work\n") == n_jobs

    with ThreadPoolExecutor() as pool:
        executed = pool.submit(study_.execute, print_and_wait, n_jobs=n_jobs)
        try:
            wait_until(lambda: is_shown() or executed.done())
            assert statuses(sqlite_target)["running"] == n_jobs
        finally:
            (tmp_path / "go").touch()
        assert executed.result() == 3
    rest = capsys.readouterr()
    assert rest.err == ""
    assert sorted((shown + rest.out).splitlines()) == sorted(
        f"[experiment {seed + 1}] {line}"
        for seed in range(3)
        for line in (f"seed {seed}", "is at work", "is at its end")
    )
    assert outputs(sqlite_target) == [f"seed {seed}\nis at work\nis at its end\n" for seed in range(3)]


def print_parts_of_lines(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    print(f"seed {keyfields['seed']}", end=" ", flush=True)
    print("and no newline", end="")
    if keyfields["seed"] == 1:
        sys.stdout.flush()
        os._exit(3)


def test_echo_shows_the_last_line_even_if_it_has_no_end(
    sqlite_target: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(sqlite_target, tmp_path, execution={"echo": True}).execute(print_parts_of_lines)
    assert capsys.readouterr().out.splitlines() == [
        f"[experiment {seed + 1}] seed {seed} and no newline" for seed in range(3)
    ]


def print_a_long_line(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    for _ in range(16):
        print("a" * 2**20, end="")
    print(" and its end")


def test_echo_copes_with_a_long_line(sqlite_target: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As progress bars do, which never end a line."""
    filled(sqlite_target, tmp_path, rows=1, execution={"echo": True}).execute(print_a_long_line)
    assert statuses(sqlite_target) == {"done": 1}
    assert capsys.readouterr().out.endswith(" and its end\n")


def print_without_newlines(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    for percent in (50, 100):
        print(f"\r{percent} %", end="", flush=True)
        note(custom, f"shown {percent}")
    await_note(custom, "seen")


def test_echo_shows_a_line_before_its_end(
    sqlite_target: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study_ = filled(sqlite_target, tmp_path, rows=1, execution={"echo": True})
    shown = ""

    def is_shown() -> bool:
        nonlocal shown
        shown += capsys.readouterr().out
        return "100 %" in shown

    with ThreadPoolExecutor() as pool:
        executed = pool.submit(study_.execute, print_without_newlines)
        try:
            wait_until(lambda: is_shown() or executed.done())
            assert not executed.done()
        finally:
            note(study_.config.custom, "seen")
        assert executed.result() == 1
    assert shown + capsys.readouterr().out == "[experiment 1] \r[experiment 1] 50 %\r[experiment 1] 100 %\n"


def test_echo_never_continues_the_line_of_another_process(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = Echo(), Echo()
    first.label, second.label = "1", "2"
    for echo, data in [
        (first, b"a"),
        (second, b"b\n"),
        (first, b"\xc3"),
        (first, b"\xa4"),
        (second, b"c"),
        (first, b"d\n"),
    ]:
        echo.show(data)
    second.end()
    assert capsys.readouterr().out == "[1] a\n[2] b\n[1] \u00e4\n[2] c\n[1] d\n"


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_without_echo_nothing_is_shown(
    sqlite_target: Target, tmp_path: Path, capfd: pytest.CaptureFixture[str], n_jobs: int
) -> None:
    filled(sqlite_target, tmp_path).execute(print_in_many_ways, n_jobs=n_jobs)
    assert statuses(sqlite_target) == {"done": 3}
    assert capfd.readouterr() == ("", "")


def test_what_is_executed_here_prints_here(target: Target, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    filled(target, tmp_path, execution={"isolation": "none"}).execute(print_sometimes)
    assert attempts(target) == [(seed, "done", None) for seed in range(3)]
    assert capfd.readouterr() == ("\n", "")


# Messages of the library


def give_trouble(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> dict[str, Any] | None:
    logging.basicConfig()  # of the experiment, whose output does not include the library's messages
    print("an output")
    match keyfields["seed"]:
        case 0:
            raise ValueError("too low")
        case 1:
            os._exit(3)
        case 2:
            return {"accuracy": float("nan")}
    return None


MESSAGES = (
    "experiment 1 failed:\nTraceback (most recent call last):",
    "experiment 2 failed: its process ended with exit code 3, as by os._exit(3)",
    "accuracy: nan is stored as NULL",
)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_messages_of_workers_reach_handlers_and_log_file_once(
    target: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture, n_jobs: int
) -> None:
    config = configured(target, tmp_path)
    file = tmp_path / "logs" / "study.log"
    options = {"logger_name": f"told.{n_jobs}.{target.name}", "log_level": "WARNING", "log_file": file}
    study_ = PyExperimenter(config, **credentials(target), **options)
    study_.fill_table_from_config()
    assert study_.execute(give_trouble, n_jobs=n_jobs) == 3
    assert statuses(target) == {"error": 2, "done": 1}
    told = [record.getMessage() for record in caplog.records if record.name == options["logger_name"]]
    assert len(told) == len(caplog.records) == 3
    levels = [record.levelname for record in caplog.records]
    assert sorted(levels) == ["ERROR", "ERROR", "WARNING"]
    written = file.read_text()
    assert written.count(f"| {options['logger_name']} - ") == 3
    for message in MESSAGES:
        assert sum(one.startswith(message) for one in told) == 1
        assert written.count(message) == 1
    assert outputs(target) == ["an output\n"] * 3


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_script_without_handlers_shows_workers_messages_once(target: Target, tmp_path: Path, n_jobs: int) -> None:
    filled(target, tmp_path)
    script = (
        "import json, sys; from pyexperimenter import PyExperimenter; from test_output import give_trouble\n"
        "study = PyExperimenter(json.loads(sys.argv[1]), **json.loads(sys.argv[2]), log_level='WARNING')\n"
        f"study.execute(give_trouble, n_jobs={n_jobs})"
    )
    given = [json.dumps(configured(target, tmp_path)), json.dumps(credentials(target), default=str)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, *given]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert statuses(target) == {"error": 2, "done": 1}
    assert done.stdout == ""
    assert done.stderr.count("| py-experimenter - ") == 3
    for message in MESSAGES:
        assert done.stderr.count(message) == 1


def test_a_level_that_is_not_logged_is_not_logged_by_workers(
    target: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configured(target, tmp_path)
    study_ = PyExperimenter(config, **credentials(target), logger_name="quiet", log_level="CRITICAL")
    study_.fill_table_from_config()
    assert study_.execute(give_trouble) == 3
    assert caplog.records == []
