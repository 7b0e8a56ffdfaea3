"""Archives: all of a study in one zip file, with checksums, which can be read like the study."""

from __future__ import annotations

import subprocess
import sys
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pyexperimenter import PyExperimenter
from pyexperimenter.cli import main
from pyexperimenter.exceptions import (
    CopyError,
    InvalidValueError,
    MissingDatabaseError,
    PyExperimenterError,
    ReadOnlyDatabaseError,
)
from tests.support.study import KEYFIELDS, experimenter, study
from tests.support.target import Target

SECRET = uuid.uuid4().hex  # the code is in archives, too, if it has uncommitted changes


def run(keyfields: dict[str, Any], results: Any, custom: Any) -> dict[str, Any]:
    results.process_logs({"epochs": {"epoch": 1, "loss": 0.5}})
    results.uses(__file__)  # of which only the hash is kept
    results.save_file(f"model of {keyfields['dataset']}".encode(), "model.bin")
    if keyfields["seed"] == 2:
        raise ValueError("the third seed fails")
    return {"accuracy": keyfields["seed"] / 2}


def executed(target: Target, folder: Path) -> PyExperimenter:
    config = study(target)
    config["PY_EXPERIMENTER"]["Database"]["files"] = str(folder / "kept")
    opened = experimenter(target, config)
    opened.fill_table_from_config()
    opened.execute(run)
    opened._store.keep_event("0", "diff", {"hash": "abc", "diff": "--- a\n+++ b\n"})
    opened._store.keep_event("0", "diff", {"hash": "abc", "diff": "--- a\n+++ b\n"})
    return opened


@pytest.fixture
def archived(sqlite_target: Target, tmp_path: Path) -> Path:
    path = tmp_path / "study.zip"
    assert executed(sqlite_target, tmp_path).archive(path) == 6
    return path


def contents(opened: PyExperimenter) -> list[Any]:
    frames = [opened.get_table(), opened.get_attempts(), opened.get_logtable("epochs")]
    return [*(frame.sort_values("ID").to_csv(index=False) for frame in frames), opened.counts()]


def changed(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """Return another archive, with changed contents."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    other = path.with_name("changed.zip")
    with zipfile.ZipFile(other, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return other


def test_an_archive_is_the_study(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYEXPERIMENTER_DB_PASSWORD" if target.server is None else "OTHER_PASSWORD", SECRET)
    original = executed(target, tmp_path)
    path = tmp_path / "study.zip"
    assert original.archive(path) == 6
    folder = tmp_path / "extracted"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        archive.extractall(folder)
    assert {name for name in names if not name.startswith(("files/", "diffs/"))} == {
        *("study.db", "APPENDIX.md", "SHA256SUMS", "configurations/1.yml")
    }
    assert sum(name.startswith("files/") for name in names) == 2
    assert (folder / "diffs" / "abc.diff").read_text() == "--- a\n+++ b\n"
    assert (folder / "configurations" / "1.yml").read_text() == original.config.text
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)

    secrets = [SECRET, *([] if target.server is None else [target.server.password])]
    assert all(secret.encode() not in (folder / name).read_bytes() for name in names for secret in secrets if secret)

    opened = PyExperimenter.open(path)
    assert contents(opened) == contents(original)
    assert (folder / "APPENDIX.md").read_text() == opened.appendix() == original.appendix()
    files = opened.get_files()
    kept = files["path"][files["role"] == "saved"]
    assert {Path(path).read_bytes() for path in kept} == {b"model of iris", b"model of wine"}
    assert not any(path.startswith(str(tmp_path)) for path in kept), "those in the archive"


def test_an_archive_is_only_read(archived: Path, tmp_path: Path) -> None:
    opened = PyExperimenter.open(archived, log_level="ERROR")
    for write in (
        lambda: opened.execute(run),
        lambda: opened.reset_experiments("error"),
        opened.delete_table,
        lambda: opened.execute_custom_query("DELETE FROM study"),
    ):
        with pytest.raises(ReadOnlyDatabaseError, match="for reading only"):
            write()
    assert opened.counts()["done"] == 4
    opened.copy_to(tmp_path / "again.db")
    again = PyExperimenter.open(tmp_path / "again.db", log_level="ERROR")
    assert again.reset_experiments("error") == 2
    opened.archive(tmp_path / "again.zip")
    assert contents(PyExperimenter.open(tmp_path / "again.zip")) == contents(opened)


def test_what_was_extracted_is_removed_at_the_end(archived: Path) -> None:
    code = (
        "import sys; from pyexperimenter import PyExperimenter; study = PyExperimenter.open(sys.argv[1]); "
        "print(study.config.database.database)"
    )
    done = subprocess.run([sys.executable, "-c", code, archived], capture_output=True, text=True, check=True)
    assert not Path(done.stdout.strip()).parent.exists()


@pytest.mark.parametrize(
    "command", ["status", "list", "show 1", "errors", "logs 1", "files 1", "appendix", "environments"]
)
def test_commands_that_read_open_it(archived: Path, command: str) -> None:
    result = CliRunner().invoke(main, ["-c", str(archived), *command.split()], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.stdout


def test_the_command_writes_one(archived: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["-c", str(archived), "archive", str(tmp_path / "other.zip")])
    assert result.output == f"Archived 6 experiments in {tmp_path}/other.zip\n"
    refused = CliRunner().invoke(main, ["-c", str(archived), "reset", "error", "-y"])
    assert refused.exit_code == 1
    assert "the study was opened for reading only" in refused.output


def add(name: str, content: bytes = b"") -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.update({name: content})


def add_with_checksum(name: str) -> Callable[[dict[str, bytes]], None]:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

    def change(members: dict[str, bytes]) -> None:
        members[name] = b""
        members["SHA256SUMS"] += f"{empty}  {name}\n".encode()

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add("study.db", b"SQLite format 3\0"), "'study.db' was changed: its SHA-256 is not that in SHA256SUMS"),
        (add("APPENDIX.md"), "'APPENDIX.md' was changed"),
        (add("more.txt"), "'more.txt' was added or removed"),
        (lambda members: members.pop("APPENDIX.md"), "'APPENDIX.md' was added or removed"),
        (lambda members: members.pop("SHA256SUMS"), "not the archive of a study"),
        *(
            (add_with_checksum(name), "would be extracted to another folder")
            for name in ("../evil", "/tmp/evil", "files/../../evil", "..\\evil", "C:evil")
        ),
    ],
)
def test_a_changed_archive_is_refused(archived: Path, change: Any, message: str) -> None:
    with pytest.raises(CopyError, match="get another copy") as caught:
        PyExperimenter.open(changed(archived, change))
    assert message in str(caught.value)
    assert "changed.zip" in str(caught.value)


def test_a_damaged_archive_is_refused(archived: Path, tmp_path: Path) -> None:
    whole = archived.read_bytes()
    damaged = tmp_path / "damaged.zip"
    half = len(whole) // 2
    for content in (whole[:half], whole[:half] + bytes([whole[half] ^ 255]) + whole[half + 1 :]):
        damaged.write_bytes(content)
        with pytest.raises(CopyError, match="damaged"):
            PyExperimenter.open(damaged)
    with pytest.raises(MissingDatabaseError):
        PyExperimenter.open(tmp_path / "missing.zip")


def test_it_is_written_whole_or_not_at_all(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = executed(sqlite_target, tmp_path)
    path = tmp_path / "study.zip"
    path.write_text("the one before")
    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr(zipfile.ZipFile, "writestr", fail)
    with pytest.raises(OSError, match="no space"):
        opened.archive(path)
    assert path.read_text() == "the one before"
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def fail(*_: Any) -> None:
    raise OSError("no space")


def test_odd_places_are_refused(sqlite_target: Target, tmp_path: Path) -> None:
    opened = executed(sqlite_target, tmp_path)
    for path, message in (
        (sqlite_target.database, "let it end in .zip"),
        (tmp_path / "missing" / "study.zip", "does not exist; create it first"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            opened.archive(path)
    assert opened.counts()["done"] == 4


def test_files_that_are_missing_are_named(sqlite_target: Target, tmp_path: Path) -> None:
    opened = executed(sqlite_target, tmp_path)
    gone = opened.get_files()["path"].max()
    Path(gone).unlink()
    with pytest.warns(UserWarning, match=f"files of runs are missing: {Path(gone).name}"):
        opened.archive(tmp_path / "study.zip")
    assert "" in set(PyExperimenter.open(tmp_path / "study.zip").get_files()["path"])


def test_running_experiments_need_a_snapshot(sqlite_target: Target, tmp_path: Path) -> None:
    opened = executed(sqlite_target, tmp_path)
    sqlite_target.query("UPDATE study SET status = 'running' WHERE ID = 1")
    with pytest.raises(PyExperimenterError, match="experiments are running"):
        opened.archive(tmp_path / "study.zip")
    assert opened.archive(tmp_path / "study.zip", snapshot=True) == 6


def test_the_appendix_of_a_study_knows_how_it_was_planned(sqlite_target: Target) -> None:
    keyfields = {**KEYFIELDS, "seed": {"type": "INT", "values": {"start": 0, "stop": 10}}}
    design = {"blocks": "seed", "compare": "dataset"}
    rule = {"over": "seed", "of": "accuracy", "min": 10, "max": 10, "step": 5}
    config = study(sqlite_target, keyfields=keyfields, design=design, replicate={**rule, "until": {"ci95": 0.1}})
    config["PY_EXPERIMENTER"]["Analysis"] = {"primary": {"value": "accuracy", "by": "dataset", "blocks": "seed"}}
    opened = experimenter(sqlite_target, config, use_codecarbon=True)
    opened.fill_table_from_config()
    experimenter(sqlite_target, config).execute(lambda *_: {"accuracy": 0.5})
    assert "CodeCarbon" not in opened.appendix(), "nothing was measured"
    sqlite_target.query(
        "INSERT INTO study_codecarbon (experiment_id, emissions_kg, energy_consumed_kw) "
        "VALUES (1, 0.5, 2), (2, 0.25, 1)"
    )
    rule |= {"ci95": 0.1, "paired": True}
    opened._store.keep_event("0", "replication", {"rule": rule, "intervals": [{"n": 10, "state": "attained"}]})
    text = opened.appendix()
    for part in (
        "CodeCarbon measured 3 kWh (0.75 kg CO2 equivalents).",
        "until the 97% t intervals of differences of accuracy were at most ±0.1 (looks: 1; at the last one 10)",
        "Primary test, fixed before the first run (hash ",
        "wilcoxon of accuracy by dataset, blocks seed, correction holm",
    ):
        assert part in text


def test_the_appendix_of_a_table_without_attempts(sqlite_target: Target) -> None:
    opened = experimenter(sqlite_target)
    opened.fill_table_from_config()
    for name in ("study__attempts", "study__meta"):
        sqlite_target.query("PRAGMA foreign_keys = OFF")
        sqlite_target.query(f"DROP TABLE {name}")
    assert "6 experiments (6 created)" in opened.appendix()


def test_a_study_that_is_only_read_executes_nothing_in_other_processes(target: Target) -> None:
    opened = experimenter(target, study(target, Execution={"isolation": "process"}))
    opened.fill_table_from_config()
    opened.execute(constant, max_experiments=1)  # records the environment, which is then not written again
    with pytest.raises(ReadOnlyDatabaseError, match="for reading only"):
        opened.read_only().execute(constant)
    assert opened.counts()["created"] == 5


def constant(*_: Any) -> dict[str, Any]:
    return {"accuracy": 0.5}
