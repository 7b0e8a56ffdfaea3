"""Workers that `submit` starts on a real SLURM."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from pyexperimenter import PyExperimenter
from pyexperimenter.cli import main
from tests.support.slurm import SlurmCluster
from tests.support.study import experimenter, study, wait_until
from tests.support.target import Target

EXECUTION = {"isolation": "process", "heartbeat": 0.5, "lease": 3, "grace": 0.5}


def work(keyfields: dict[str, Any], results: Any, custom: dict[str, Any]) -> dict[str, float]:
    """Return at once, except for the rows to be held, which never end."""
    if keyfields["seed"] in custom["held"]:
        Path(custom["here"], "held").touch()
        threading.Event().wait(300)
    return {"accuracy": keyfields["seed"] / 10}


@pytest.fixture
def workplace(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory for a study; this process is on the cluster, but not in a job."""
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    return tmp_path


def fleet_config(target: Target, here: Path, held: list[int]) -> dict[str, Any]:
    config = study(target, Execution=EXECUTION, Custom={"held": held, "here": str(here)})
    config["PY_EXPERIMENTER"]["Cluster"] = {"default": {"time": "10m", "mem": "400M"}}
    return config


def fleet(target: Target, here: Path, held: list[int]) -> PyExperimenter:
    made = experimenter(target, fleet_config(target, here, held))
    made.fill_table_from_config()
    return made


def test_an_array_executes_all(workplace: Path, mariadb_target: Target) -> None:
    study_ = fleet(mariadb_target, workplace, held=[])
    jobs = study_.submit(work, workers=3, folder=workplace / "jobs", name="tested")
    array = jobs.job_ids[0].partition("_")[0]
    assert jobs.job_ids == [f"{array}_{task}" for task in range(3)]
    assert set(jobs.wait(120).values()) == {"COMPLETED"}
    assert study_.counts()["done"] == 6
    assert set(study_.get_attempts()["job_id"]) <= set(jobs.job_ids)
    assert sorted(path.name for path in jobs.folder.iterdir()) == [f"{array}_{task}.log" for task in range(3)]


def test_a_cancelled_job_gives_its_experiment_back(workplace: Path, mariadb_target: Target) -> None:
    study_ = fleet(mariadb_target, workplace, held=[0])
    jobs = study_.submit(work, folder=workplace / "jobs", where={"seed": 0, "dataset": "iris"})
    wait_until((workplace / "held").exists)
    assert jobs.states() == {jobs.job_ids[0]: "RUNNING"}
    jobs.cancel()
    assert jobs.wait(120) == {jobs.job_ids[0]: "CANCELLED"}
    wait_until(lambda: study_.counts()["running"] == 0)
    assert list(study_.get_attempts()["outcome"]) == ["released"]


def test_the_command_cancels_all_jobs_of_a_study_or_those_that_are_named(
    workplace: Path, slurm: SlurmCluster, mariadb_target: Target
) -> None:
    study_ = fleet(mariadb_target, workplace, held=[0])
    (workplace / "config.yml").write_text(yaml.safe_dump(fleet_config(mariadb_target, workplace, held=[0])))

    def cancel(*options: str, code: int = 0, answer: str = "") -> str:
        credentials = str(mariadb_target.credentials_file)
        arguments = ["-c", str(workplace / "config.yml"), "cancel", "--credentials", credentials, *options]
        done = CliRunner().invoke(main, arguments, input=answer)
        assert done.exit_code == code, done.output
        return done.output

    assert cancel() == "No jobs are executing experiments\n"
    jobs = study_.submit(work, workers=3, folder=workplace / "jobs", array_parallelism=2, where={"seed": 0})
    array = jobs.job_ids[0].partition("_")[0]
    wait_until(lambda: study_.counts()["running"] == 2)
    assert (
        cancel("12; reboot", code=1)
        == "Error: '12; reboot' is not a valid job ID; give it as in 12, 12_5 or 12_[0-4]\n"
    )
    assert "SLURM's queue has no job 999999: it ended long ago" in cancel(array, "999999", code=1)
    assert set(jobs.states().values()) == {"RUNNING", "PENDING"}
    assert "Cancel" in cancel(code=1, answer="n\n")
    assert cancel(f"{array}_0") == f"Cancelled {array}_0\n"
    wait_until(lambda: jobs.states()[f"{array}_0"] == "CANCELLED")
    assert set(jobs.states().values()) == {"CANCELLED", "RUNNING"}
    assert cancel("--yes") == f"Cancelled {array}\n"
    assert set(jobs.wait(120).values()) == {"CANCELLED"}
    assert cancel(array) == f"Cancelled {array}\n"  # it has ended
    wait_until(lambda: study_.counts()["running"] == 0)
    attempts = study_.get_attempts()
    assert set(attempts["outcome"]) == {"released"}
    assert set(attempts["error"]) == {"its worker was stopped by SIGTERM"}


def test_the_script_of_a_dry_run_can_be_submitted_by_hand(
    workplace: Path, slurm: SlurmCluster, mariadb_target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = study(mariadb_target, Execution={**EXECUTION, "function": "functions_by_hand:train"})
    (workplace / "config.yml").write_text(yaml.safe_dump(config))
    (workplace / "functions_by_hand.py").write_text("def train(keyfields, *_):\n    return {'accuracy': 1}\n")
    study_ = experimenter(mariadb_target, config)
    study_.fill_table_from_config()
    comment = r"""it's 50% # \ "of" $HOME `id` ümlaut"""
    arguments = ["submit", "config.yml", "--credentials", str(mariadb_target.credentials_file), "--dry-run"]
    arguments += ["-n", "2", "--where", "seed < 2", "-o", "mem=400M", "-o", f"comment={comment}"]
    arguments += ["-o", "setup=echo ready", "--folder", "the jobs' logs"]
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(sys, "path", list(sys.path))
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (workplace / "job.sh").write_text(done.stdout, encoding="utf-8")
    monkeypatch.chdir("/")
    job = slurm.submit(workplace / "job.sh")
    shown = slurm.run("squeue", "--noheader", "--states=all", f"--jobs={job}_0", "--Format=name:.40,comment:.90")
    assert shown.split(maxsplit=1) == ["study", comment]
    assert slurm.wait_for_end(job, 120) == ["COMPLETED"] * 2
    assert study_.counts() == {"created": 2, "running": 0, "done": 4, "error": 0, "paused": 0}
    logs = {path.name: path.read_text() for path in (workplace / "the jobs' logs").iterdir()}
    assert {name: text.partition("\n")[0] for name, text in logs.items()} == dict.fromkeys(
        [f"{job}_0.log", f"{job}_1.log"], "ready"
    )


def work_once(keyfields: dict[str, Any], results: Any, custom: dict[str, Any]) -> dict[str, float]:
    """Tell the job, which is the parent of this process, that its time is over."""
    os.kill(os.getppid(), signal.SIGUSR2)
    wait_until(lambda: results.stop_requested)
    return {"accuracy": keyfields["seed"] / 10}


def test_further_jobs_are_submitted_until_nothing_is_open(workplace: Path, mariadb_target: Target) -> None:
    study_ = fleet(mariadb_target, workplace, held=[])
    submitted = study_.keep_submitting(
        work_once, workers=2, folder=workplace / "jobs", where="seed < 2", every=0.2, name="kept"
    )
    assert study_.counts() == {"created": 2, "running": 0, "done": 4, "error": 0, "paused": 0}
    attempts = study_.get_attempts()
    assert submitted >= attempts["job_id"][attempts["outcome"] == "done"].nunique() == 4


def test_before_its_time_is_over_a_job_gives_its_experiment_back(
    workplace: Path, slurm: SlurmCluster, mariadb_target: Target
) -> None:
    study_ = fleet(mariadb_target, workplace, held=[0])
    jobs = study_.submit(work, folder=workplace / "jobs", where={"seed": 0, "dataset": "iris"})
    wait_until((workplace / "held").exists)
    slurm.run("scancel", "--batch", "--signal=USR2", jobs.job_ids[0])  # as --signal of the script asks SLURM to send it
    assert jobs.wait(120) == {jobs.job_ids[0]: "COMPLETED"}, jobs.logs(jobs.job_ids[0])
    assert study_.counts() == {"created": 6, "running": 0, "done": 0, "error": 0, "paused": 0}


@pytest.mark.parametrize("fails", [False, True])
def test_the_array_starts_only_if_the_smoke_test_succeeds(workplace: Path, mariadb_target: Target, fails: bool) -> None:
    study_ = fleet(mariadb_target, workplace, held=[])
    jobs = study_.submit(fail if fails else work, workers=2, folder=workplace / "jobs", smoke=1)
    assert set(jobs.wait(120).values()) == ({"CANCELLED"} if fails else {"COMPLETED"})
    assert study_.counts()["error" if fails else "done"] == (2 if fails else 6)  # one experiment for each data set
    if fails:
        (log,) = jobs.folder.iterdir()
        assert "SmokeTestError: 2 of 2 experiments of the smoke test failed" in log.read_text()


def fail(keyfields: dict[str, Any], results: Any, custom: dict[str, Any]) -> None:
    raise ValueError("no")
