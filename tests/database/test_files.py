"""Files of runs: kept once, by their contents, with the attempt that saved them."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from pyexperimenter import PyExperimenter
from pyexperimenter.cli import main
from pyexperimenter.exceptions import ClaimLostError, DuplicateNameError, InvalidValueError
from pyexperimenter.machine.contents import Contents
from tests.support.study import experimenter, study
from tests.support.target import Target


def with_files(target: Target, folder: Path) -> dict[str, Any]:
    config = study(target)
    config["PY_EXPERIMENTER"]["Database"]["files"] = str(folder)
    return config


def filled(target: Target, folder: Path) -> PyExperimenter:
    opened = experimenter(target, with_files(target, folder))
    opened.fill_table_from_config()
    return opened


def saving(keyfields: dict[str, Any], results: Any, custom: Any) -> None:
    Path("model.bin").write_bytes(f"model of {keyfields['seed']}".encode())
    results.save_file("model.bin")
    results.save_file(b"the same for all", "notes/read me.txt")


def age(folder: Path) -> None:
    """Make all files old."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - 7200,) * 2)


def stored(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_files_are_kept_once_and_pruned_when_no_experiment_has_them(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "kept"
    opened = filled(target, folder)
    opened.execute(saving)
    contents = [b"the same for all", *(f"model of {seed}".encode() for seed in range(3))]
    digests = sorted(hashlib.sha256(content).hexdigest() for content in contents)
    assert stored(folder) == digests  # of 12 files

    files = opened.get_files(1)
    assert files["name"].tolist() == ["model.bin", "notes/read me.txt"]
    assert files["bytes"].tolist() == [10, 16]
    assert Path(files["path"][0]).read_bytes() == b"model of 0"

    opened.reset_experiments("done", where="seed = 0")
    assert opened.get_files(1).empty
    assert len(opened.get_files(1, all_attempts=True)) == 2
    assert opened.prune_files() == 0  # they are young
    age(folder)
    assert opened.prune_files(dry_run=True) == 1
    assert len(stored(folder)) == 4
    assert opened.prune_files() == 1
    assert stored(folder) == sorted(set(digests) - {hashlib.sha256(b"model of 0").hexdigest()})
    assert opened.get_files(1, all_attempts=True)["path"].tolist()[0] == ""
    assert Path(opened.get_files(2)["path"][1]).is_file()  # others have it, too


def test_who_has_lost_an_experiment_saves_nothing(target: Target, tmp_path: Path) -> None:
    opened = filled(target, tmp_path)

    def lose(keyfields: dict[str, Any], results: Any, custom: Any) -> None:
        opened.reset_experiments("running")
        with pytest.raises(ClaimLostError):
            results.save_file(b"late", "late.txt")

    opened.execute(lose, max_experiments=1)
    assert opened.get_files(all_attempts=True).empty
    age(tmp_path)
    assert opened.prune_files() == 1


def test_names_and_folders_that_are_refused(sqlite_target: Target, tmp_path: Path) -> None:
    opened = filled(sqlite_target, tmp_path / "kept")
    refused: list[str] = []

    def wrong(keyfields: dict[str, Any], results: Any, custom: Any) -> None:
        for source, name in ((b"", None), (b"", ""), (b"", "x" * 256), ("missing.bin", None)):
            with pytest.raises((InvalidValueError, FileNotFoundError)) as error:
                results.save_file(source, name)
            refused.append(str(error.value))

    opened.execute(wrong, max_experiments=1)
    assert "name: None is not a name of 1 to 255 characters" in refused[0]
    assert "missing.bin" in refused[3]
    assert not stored(tmp_path / "kept")

    without = experimenter(sqlite_target, study(sqlite_target))
    with pytest.raises(InvalidValueError, match="files: true"):
        without.get_files()
    taken = with_files(sqlite_target, tmp_path)
    taken["PY_EXPERIMENTER"]["Database"]["logtables"] = {"Files": {"x": "INT"}}
    with pytest.raises(DuplicateNameError, match="rename it"):
        experimenter(sqlite_target, taken)


def test_a_folder_beside_the_database(sqlite_target: Target) -> None:
    config = study(sqlite_target)
    config["PY_EXPERIMENTER"]["Database"]["files"] = True
    opened = experimenter(sqlite_target, config)
    assert opened.config.files == f"{opened.config.database.database}.files/study"


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    contents = Contents(tmp_path)
    with pytest.raises(IsADirectoryError):
        contents.add(tmp_path)
    assert not stored(tmp_path)
    digest, size = contents.add(b"x" * 3_000_000)
    assert (size, contents.path(digest).stat().st_size) == (3_000_000, 3_000_000)
    (tmp_path / ".begun").touch()  # by a process that died
    age(tmp_path)
    assert contents.add(b"x" * 3_000_000)[0] == digest  # young again
    assert contents.prune([]) == 1
    assert stored(tmp_path) == [digest]


def test_the_commands(sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opened = filled(sqlite_target, tmp_path / "kept")
    opened.execute(saving)
    assert opened.debug(1, saving) is None  # prints
    Path("config.yml").write_text(yaml.safe_dump(with_files(sqlite_target, tmp_path / "kept")))

    def command(*arguments: str) -> str:
        result = CliRunner().invoke(main, [*arguments, "-c", "config.yml"])
        assert result.exit_code == 0, result.output
        return result.output

    assert "model.bin" in command("files", "1", "-o", "copies")
    assert stored(tmp_path / "copies") == ["model.bin", "read me.txt"]
    command("reset", "done", "--yes")
    assert "The experiment has no files" in command("files", "1")
    age(tmp_path / "kept")
    assert "Removed 4 files" in command("prune", "--files", "--yes")
    assert "No matching files" in command("prune", "--files", "--yes")


def test_files_that_a_run_uses_are_recorded_and_not_kept(target: Target, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("x\n1\n")
    opened = filled(target, tmp_path / "kept")
    opened.execute(lambda keyfields, results, custom: results.uses(tmp_path / "data.csv") and None, max_experiments=1)
    (file,) = opened.get_files().to_dict("records")
    assert (file["name"], file["role"], file["bytes"], file["path"]) == (str(tmp_path / "data.csv"), "used", 4, "")
    assert file["sha256"] == hashlib.sha256(b"x\n1\n").hexdigest()
    assert not (tmp_path / "kept").exists()
