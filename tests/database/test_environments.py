"""What made results: the environment of each attempt, and uncommitted changes, kept once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from pyexperimenter.analysis.versions import differing_packages
from pyexperimenter.cli import main
from pyexperimenter.execution import environment as module
from pyexperimenter.execution.environment import environment
from tests.support.study import experimenter, study
from tests.support.target import Target


def constant(keyfields: dict[str, Any], results: Any, custom: Any) -> dict[str, Any]:
    return {"accuracy": 0.5}


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes this another environment, with another version of numpy."""

    def change(version: str) -> None:
        found = dict(environment())
        found |= {"hash": f"env-{version}", "imported": {**found["imported"], "numpy": version}}
        found["packages"] = {**found["packages"], "numpy": version}
        monkeypatch.setattr("pyexperimenter.experimenter.environment", lambda: found)

    return change


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_each_attempt_has_its_environment(target: Target, isolation: str) -> None:
    opened = experimenter(target, study(target, Execution={"isolation": isolation}))
    opened.fill_table_from_config()
    opened.execute(constant, max_experiments=2)
    opened.execute(constant)
    (row,) = opened.get_environments().to_dict("records")
    assert row["environment"] == environment()["hash"]
    assert row["attempts"] == 6
    assert row["python"].endswith(sys.version.split()[0])
    assert row["packages"]["pandas"] == row["imported"]["pandas"]
    assert opened.get_attempts()["environment"].eq(row["environment"]).all()
    assert len(opened._store.events("environment")) == 1  # once, not once a call


def test_summaries_warn_of_other_versions_of_packages(
    target: Target, elsewhere: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = experimenter(target)
    opened.fill_table_from_config()
    elsewhere("1.26")
    opened.execute(constant, where="dataset = 'iris'")
    elsewhere("2.0")
    opened.execute(constant)
    with pytest.warns(UserWarning, match="results come from different environments: numpy 1.26 .*; numpy 2.0 "):
        opened.summarize("accuracy", "dataset")

    monkeypatch.chdir(tmp_path)
    Path("config.yml").write_text(yaml.safe_dump(study(target)))
    credentials = [] if target.credentials_file is None else ["--credentials", str(target.credentials_file)]
    shown = CliRunner().invoke(main, ["environments", "-c", "config.yml", *credentials])
    assert shown.exit_code == 0, shown.output
    assert "env-1.26: numpy 1.26" in shown.output
    assert "env-2.0: numpy 2.0" in shown.output


def test_uncommitted_changes_are_kept_once(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=tmp_path, check=True)

    git("init", "-q")
    (tmp_path / "function.py").write_text("def run(keyfields, results, custom):\n    return {'accuracy': 0.5}\n")
    (tmp_path / ".gitignore").write_text("secret.py\n")
    git("add", "function.py", ".gitignore")
    git("commit", "-qm", "all")
    (tmp_path / "function.py").write_text("def run(keyfields, results, custom):\n    return {'accuracy': 0.6}\n")
    for name in ("secret.py", "new.py"):
        (tmp_path / name).write_text("password = 'swordfish'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    from function import run  # type: ignore[import-not-found]

    opened = experimenter(sqlite_target)
    opened.fill_table_from_config()
    opened.execute(run, max_experiments=1)
    experimenter(sqlite_target).execute(run)
    (event,) = opened._store.events("diff")
    assert event["hash"] == opened.get_attempts()["git_diff_hash"].unique().tolist()[0]
    assert "-    return {'accuracy': 0.5}\n+    return {'accuracy': 0.6}\n" in event["diff"]
    assert event["diff"].endswith("untracked: new.py\n")
    assert "swordfish" not in event["diff"]
    assert "secret" not in event["diff"]


def test_old_tables_have_no_environments(sqlite_target: Target) -> None:
    opened = experimenter(sqlite_target)
    opened.fill_table_from_config()
    opened.execute(constant)
    for table, column in (("attempts", "environment"), ("meta", "event")):
        sqlite_target.query(f"ALTER TABLE study__{table} DROP COLUMN {column}")
    assert opened.get_environments().empty
    opened.summarize("accuracy", "dataset")
    opened.reset_experiments("all")
    opened = experimenter(sqlite_target)
    opened.execute(constant)
    assert opened.get_environments()["attempts"].tolist() == [6]


def test_what_is_installed_is_found_by_the_names_of_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("Some_Package-1.2.post3.dist-info", "old-0.1-py3.11.egg-info", "no version.egg-info"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "missing"), ""])
    assert dict(module._packages()) == {"some-package": "1.2.post3", "old": "0.1", "no version": ""}


def test_equal_versions_are_not_named() -> None:
    assert differing_packages({"a": {"numpy": "1"}, "b": {"numpy": "1", "torch": "2"}}) == {}
