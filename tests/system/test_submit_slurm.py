"""Workers that `submit` starts on a real SLURM."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter import PyExperimenter
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


def fleet(target: Target, here: Path, held: list[int]) -> PyExperimenter:
    config = study(target, Execution=EXECUTION, Custom={"held": held, "here": str(here)})
    config["PY_EXPERIMENTER"]["Cluster"] = {"default": {"time": "10m", "mem": "400M"}}
    made = experimenter(target, config)
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
    assert "Job completed successfully" in jobs.logs(f"{array}_0")


def test_a_cancelled_job_gives_its_experiment_back(workplace: Path, mariadb_target: Target) -> None:
    study_ = fleet(mariadb_target, workplace, held=[0])
    jobs = study_.submit(work, folder=workplace / "jobs", where={"seed": 0, "dataset": "iris"})
    wait_until((workplace / "held").exists)
    assert jobs.states() == {jobs.job_ids[0]: "RUNNING"}
    jobs.cancel()
    assert jobs.wait(120) == {jobs.job_ids[0]: "CANCELLED"}
    wait_until(lambda: study_.counts()["running"] == 0)
    assert list(study_.get_attempts()["outcome"]) == ["released"]


def test_before_its_time_is_over_a_job_gives_its_experiment_back(
    workplace: Path, slurm: SlurmCluster, mariadb_target: Target
) -> None:
    study_ = fleet(mariadb_target, workplace, held=[0])
    jobs = study_.submit(work, folder=workplace / "jobs", where={"seed": 0, "dataset": "iris"})
    wait_until((workplace / "held").exists)
    slurm.run("scancel", "--signal=USR2", jobs.job_ids[0])  # as --signal of the script asks SLURM to send it
    assert jobs.wait(120) == {jobs.job_ids[0]: "COMPLETED"}, jobs.logs(jobs.job_ids[0])
    assert study_.counts() == {"created": 6, "running": 0, "done": 0, "error": 0, "paused": 0}
