"""Journals with entries that cannot be written: the others are written, these are set aside, and nothing blocks."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter import ExperimentStatus
from pyexperimenter.database.records import Attempt
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import JournalError, MissingTableError
from pyexperimenter.execution.journal_file import open_journal
from pyexperimenter.execution.journaling_store import replay_journals
from tests.support.outages import again
from tests.support.proxies import CutOffWorker
from tests.support.study import experimenter, statuses, store, study
from tests.support.target import Target

LOGGER = logging.getLogger("test")


@pytest.fixture
def journals(tmp_path: Path) -> Path:
    return tmp_path / "journals"


@pytest.fixture
def opened(target: Target) -> Iterator[ExperimentStore]:
    opened = store(target)
    yield opened
    opened.database.close()


def ended_in_a_journal(target: Target, opened: ExperimentStore, journals: Path) -> tuple[Attempt, Path]:
    """Return an attempt whose results, log and end are in a journal, and the journal."""
    journaling = CutOffWorker(target, journals)
    attempt = journaling.claim_by(opened)
    journaling.write_results(attempt, {"accuracy": 0.25, "model": "tree"})
    journaling.write_logs(attempt, {"epochs": {"epoch": 1, "loss": 0.5}})
    journaling.finish(attempt, ExperimentStatus.DONE, results={"accuracy": 0.5})
    journaling.die()
    (journal,) = journals.iterdir()
    return attempt, journal


def changed(line: bytes, part: str, **changes: Any) -> bytes:
    entry = json.loads(line)
    entry[part] |= {"token": "bad", **changes} if part == "note" else changes
    return json.dumps(entry).encode()


BAD = {
    "not UTF-8": lambda line: line[:-9] + b"\xff\xfe" + line[-9:],
    "not an object": lambda line: b"[1, 2]",
    "no entry": lambda line: b'{"worker": "cut off"}',
    "a list for a number": lambda line: changed(line, "attempt", id=[1]),
    "a field of a newer version": lambda line: changed(line, "note", priority=1),
    "an attempt of a newer version": lambda line: changed(line, "attempt", cell=1),
    "a logtable that was removed": lambda line: changed(line, "note", logs={"gone": [["a"], [[1]]]}),
    "a column that was removed": lambda line: changed(line, "note", logs={"epochs": [["gone"], [[1]]]}),
    "a resultfield that was removed": lambda line: changed(line, "note", results={"gone": 1}),
    "rows that are none": lambda line: changed(line, "note", logs={"epochs": 5}),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_line_costs_no_other(
    target: Target, opened: ExperimentStore, journals: Path, caplog: pytest.LogCaptureFixture, bad: str
) -> None:
    _, journal = ended_in_a_journal(target, opened, journals)
    lines = journal.read_bytes().splitlines()
    bad_line = BAD[bad](lines[1])
    journal.write_bytes(b"\n".join([lines[0], bad_line, *lines[1:]]) + b"\n")
    study_ = experimenter(target, study(target, Execution={"isolation": "none", "journal": str(journals)}))
    assert study_.execute(again) == 5
    assert target.query("SELECT status, accuracy, model, error FROM study WHERE ID = 1") == [
        ("done", 0.5, "tree", None)
    ]
    assert statuses(target) == {"done": 6}
    assert target.query("SELECT epoch, loss FROM study__epochs WHERE experiment_id = 1") == [(1, 0.5)]
    (kept,) = journals.iterdir()
    assert kept.name == f"{journal.name}.rejected"
    assert kept.read_bytes() == bad_line + b"\n"
    caplog.clear()
    assert replay_journals(opened, journals, LOGGER) == 0
    assert caplog.records == []
    assert kept.exists()


def test_a_warning_says_where_what_and_why(
    sqlite_target: Target, journals: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = store(sqlite_target)
    _, journal = ended_in_a_journal(sqlite_target, opened, journals)
    with journal.open("ab") as file:
        file.write(b"\xff\n[1, 2]\n")
    assert replay_journals(opened, journals, LOGGER) == 1
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    for part in (f"{journal}: 2 of 5 entries cannot be written", f"kept in {journal}.rejected", "UnicodeDecodeError"):
        assert part in record.message
    opened.database.close()


def test_lines_that_are_set_aside_later_do_not_replace_others(sqlite_target: Target, journals: Path) -> None:
    opened = store(sqlite_target)
    for number in (1, 2):
        journaling = CutOffWorker(sqlite_target, journals)
        journaling.write_results(journaling.claim_by(opened), {"accuracy": 0.5})
        journaling.die()
        journal = journals / "study.cut off.journal.jsonl"
        with journal.open("a") as file:
            file.write(f"[{number}]\n")
        assert replay_journals(opened, journals, LOGGER) == 1
    (kept,) = journals.iterdir()
    assert kept.read_text() == "[1]\n[2]\n"
    opened.database.close()


def test_an_end_that_the_table_refuses_is_an_error(target: Target, opened: ExperimentStore, journals: Path) -> None:
    """The row does not stay as it is until its lease ends."""
    if target.name == "sqlite":
        target.query(
            "CREATE TRIGGER own BEFORE UPDATE ON study WHEN NEW.model = 'bad' BEGIN SELECT RAISE(ABORT, 'own'); END"
        )
    else:
        target.query("ALTER TABLE study ADD CONSTRAINT own CHECK (model <> 'bad')")
    journaling = CutOffWorker(target, journals)
    attempt = journaling.claim_by(opened)
    journaling.write_logs(attempt, {"epochs": {"epoch": 1, "loss": 0.5}})
    journaling.finish(attempt, ExperimentStatus.DONE, results={"accuracy": 0.5, "model": "bad"}, output="printed")
    journaling.die()
    (journal,) = journals.iterdir()
    last = journal.read_bytes().splitlines()[-1]
    assert replay_journals(opened, journals, LOGGER) == 1
    ((status, accuracy, error),) = target.query("SELECT status, accuracy, error FROM study WHERE ID = 1")
    assert (status, accuracy) == ("error", 0.5)
    assert "own" in error
    assert target.query("SELECT outcome, output FROM study__attempts") == [("error", "printed")]
    assert target.query("SELECT epoch FROM study__epochs") == [(1,)]
    (kept,) = journals.iterdir()
    assert kept.read_bytes() == last + b"\n"


def test_a_result_that_the_table_refuses_is_set_aside_others_kept(
    target: Target, opened: ExperimentStore, journals: Path
) -> None:
    if target.server is None:
        pytest.skip("its columns hold anything")
    journaling = CutOffWorker(target, journals)
    attempt = journaling.claim_by(opened)
    journaling.write_results(attempt, {"accuracy": 0.5, "model": "too long"})
    journaling.finish(attempt, ExperimentStatus.DONE)
    journaling.die()
    narrow = "MODIFY model VARCHAR(3)" if target.provider == "mysql" else "ALTER COLUMN model TYPE VARCHAR(3)"
    target.query(f"ALTER TABLE study {narrow}")
    assert replay_journals(opened, journals, LOGGER) == 1
    assert target.query("SELECT status, accuracy, model FROM study WHERE ID = 1") == [("done", 0.5, None)]
    (kept,) = journals.iterdir()
    assert "too long" in kept.read_text()


def test_a_lost_claim_and_a_bad_entry_lose_nothing(target: Target, opened: ExperimentStore, journals: Path) -> None:
    ended_in_a_journal(target, opened, journals)
    target.query("DROP TABLE study__epochs")
    assert opened.reset(["running"], None, None, dry_run=False) == 1
    assert replay_journals(opened, journals, LOGGER) == 0
    ((late,),) = target.query("SELECT late_results FROM study__attempts")
    assert json.loads(late) == {"accuracy": 0.5, "model": "tree"}
    (kept,) = journals.iterdir()
    assert json.loads(kept.read_text())["note"]["logs"] == {"epochs": [["epoch", "loss"], [[1, 0.5]]]}


def test_without_the_table_nothing_is_set_aside(target: Target, opened: ExperimentStore, journals: Path) -> None:
    _, journal = ended_in_a_journal(target, opened, journals)
    content = journal.read_bytes()
    opened.tables.drop()
    with pytest.raises(MissingTableError):
        replay_journals(opened, journals, LOGGER)
    assert list(journals.iterdir()) == [journal]
    assert journal.read_bytes() == content


# Files that are no journals, or of others


def planted(journals: Path, what: str) -> Path:
    other = journals / "study.another.journal.jsonl"
    if what == "directory":
        other.mkdir()
    elif what == "dangling link":
        other.symlink_to(journals / "nowhere")
    elif what == "pipe":
        os.mkfifo(other)
    elif what == "link":
        file = journals.parent / "precious"
        file.write_text("precious\n")
        other.symlink_to(file)
    else:
        other.write_text("[1]\n")
        other.chmod(0)
    return other


@pytest.mark.parametrize("what", ["directory", "link", "dangling link", "pipe"])
def test_what_is_no_file_is_left_alone(
    sqlite_target: Target, journals: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    opened = store(sqlite_target)
    ended_in_a_journal(sqlite_target, opened, journals)
    other = planted(journals, what)
    study_ = experimenter(
        sqlite_target, study(sqlite_target, Execution={"isolation": "none", "journal": str(journals)})
    )
    study_.logger.setLevel("WARNING")
    assert study_.execute(again) == 5
    assert list(journals.iterdir()) == [other]
    assert f"{other}: what is in it was not written to the database: it is not a file" in caplog.text
    assert what != "link" or other.read_text() == "precious\n"
    opened.database.close()


def test_no_journal_is_written_through_a_link(tmp_path: Path) -> None:
    """Which another user of a shared directory may have put there in the meantime."""
    (tmp_path / "precious").write_text("precious\n")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        open_journal(tmp_path / "link", wait=True)
    assert (tmp_path / "precious").read_text() == "precious\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_journal_is_left_to_them(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)
        target = Target("sqlite", "sqlite", f"{directory}/study.db")
        opened, journals = store(target), Path(directory) / "journals"
        _, journal = ended_in_a_journal(target, opened, journals)
        opened.database.close()
        other = planted(journals, "file")
        for path in (journals, journal, Path(target.database)):
            os.chown(path, 65534, 65534)
        os.seteuid(65534)
        try:
            assert replay_journals(opened, journals, LOGGER) == 1
        finally:
            opened.database.close()
            os.seteuid(0)
        assert f"{other}: what is in it was not written to the database: [Errno 13] Permission denied" in caplog.text
        assert "let its owner call sync()" in caplog.text
        assert not journal.exists()
        assert other.read_text() == "[1]\n"
        assert stat.S_IMODE(other.stat().st_mode) == 0
        assert target.query("SELECT status FROM study WHERE ID = 1") == [("done",)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_journal_that_cannot_be_deleted_is_an_error(tmp_path: Path) -> None:
    """Only on Windows, where another process may have it open, it is left for later without a word."""
    journal = open_journal(tmp_path / "one", wait=True)
    assert journal is not None
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            journal.close([])
    finally:
        os.seteuid(0)
        journal.close()


# File systems without locks


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_can_have_journals(
    sqlite_target: Target, journals: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    opened = store(sqlite_target)
    ended_in_a_journal(sqlite_target, opened, journals)
    assert replay_journals(opened, journals, LOGGER) == 1
    assert list(journals.iterdir()) == []
    assert sqlite_target.query("SELECT status FROM study WHERE ID = 1") == [("done",)]
    opened.database.close()


def test_a_lock_that_fails_otherwise_is_reported(
    sqlite_target: Target, journals: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = store(sqlite_target)
    _, journal = ended_in_a_journal(sqlite_target, opened, journals)

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert replay_journals(opened, journals, LOGGER) == 0
    assert f"{journal}: what is in it was not written to the database: [Errno 5]" in caplog.text
    assert journal.exists()
    opened.database.close()


# No room for a journal


def make_full(path: Path) -> None:
    """Make a file that can be opened, and not written to."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.stat("/dev/full").st_rdev)
    except (FileNotFoundError, PermissionError) as error:
        pytest.skip(f"no device can be made that is full: {error}")


def test_without_room_to_set_aside_the_journal_stays(
    sqlite_target: Target, journals: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = store(sqlite_target)
    _, journal = ended_in_a_journal(sqlite_target, opened, journals)
    with journal.open("a") as file:
        file.write("[1]\n")
    content = journal.read_bytes()
    full = journals / f"{journal.name}.rejected"
    make_full(full)
    assert replay_journals(opened, journals, LOGGER) == 0
    assert "No space left on device" in caplog.text
    assert journal.read_bytes() == content
    full.unlink()
    assert replay_journals(opened, journals, LOGGER) == 1
    assert full.read_text() == "[1]\n"
    assert not journal.exists()
    assert len(sqlite_target.query("SELECT epoch FROM study__epochs")) == 1
    assert sqlite_target.query("SELECT status FROM study WHERE ID = 1") == [("done",)]
    opened.database.close()


def test_a_journal_that_cannot_be_written_names_itself(sqlite_target: Target, journals: Path) -> None:
    opened = store(sqlite_target)
    journaling = CutOffWorker(sqlite_target, journals)
    attempt = journaling.claim_by(opened)
    journals.mkdir()
    journal = journals / "study.cut off.journal.jsonl"
    make_full(journal)
    expected = (
        rf"^\w.+; and the journal {re.escape(str(journal))} cannot be written: .*No space left on device; "
        "results of experiment 1"
    )
    with pytest.raises(JournalError, match=expected):
        journaling.write_results(attempt, {"accuracy": 0.5})
    journaling.close()
    opened.database.close()


PART_OF_A_LINE = """
import resource, signal, sys
from pathlib import Path
from pyexperimenter.database.records import Attempt, Note
from pyexperimenter.execution.journal_file import Entry, open_journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = open_journal(Path(sys.argv[1]), wait=True)
def add(text):
    journal.add(Entry("w", Attempt(1, 1), Note(results={"model": text})))
add("first")
resource.setrlimit(resource.RLIMIT_FSIZE, (journal.size + 100, resource.RLIM_INFINITY))
try:
    add("x" * 1000)
except OSError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
add("last")
print([entry.note.results["model"] for entry in journal.read().entries.values()], journal.read().unreadable)
"""


def test_of_an_entry_without_room_no_part_is_left(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PART_OF_A_LINE, str(tmp_path / "a.journal.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["[Errno 27] File too large", "['first', 'last'] {}"], done.stderr
    assert (tmp_path / "a.journal.jsonl").read_bytes().count(b"\n") == 2
