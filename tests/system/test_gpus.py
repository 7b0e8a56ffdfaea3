"""No two workers of a user on one machine get the same GPU, even if they belong to different calls."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter import PyExperimenter
from pyexperimenter.exceptions import ExecutionError
from pyexperimenter.machine.gpus import VARIABLE, allocate_gpus, gpu_environment
from pyexperimenter.machine.locks import lock_file
from tests.support.apart import command
from tests.support.study import experimenter, study, wait_until
from tests.support.target import Target

PROCESS = {"isolation": "process", "grace": "1s"}


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of the test's own, with four GPUs and without SLURM and nvidia-smi."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # of other processes
    monkeypatch.setenv(VARIABLE, "0,1,2,GPU-8f")
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    nvidia_smi(tmp_path, [])
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


def nvidia_smi(machine: Path, uuids: Sequence[str]) -> None:
    lines = "".join(f"GPU {number}: NVIDIA T4 (UUID: {uuid})\n" for number, uuid in enumerate(uuids))
    (machine / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '{lines}'\n")
    (machine / "nvidia-smi").chmod(0o755)


def fleet(target: Target, machine: Path, gpus: int = 1, **changes: Any) -> PyExperimenter:
    changes = {"Execution": PROCESS | {"gpus": gpus}, "Custom": {"signs": str(machine)}} | changes
    made = experimenter(target, study(target, **changes))
    made.fill_table_from_config()
    return made


def see_gpus(keyfields: dict[str, Any], results: Any, custom: dict[str, Any]) -> dict[str, str]:
    return {"model": os.environ["CUDA_VISIBLE_DEVICES"]}


def wait_for_go(keyfields: dict[str, Any], results: Any, custom: dict[str, Any]) -> dict[str, str]:
    """Report the visible GPUs, and run until the test ends it."""
    signs = Path(custom["signs"])
    (signs / f"began_{os.getpid()}").touch()
    wait_until((signs / "go").exists)
    return see_gpus(keyfields, results, custom)


def began(machine: Path) -> int:
    return len(list(machine.glob("began_*")))


def taken(each: int = 1, workers: int = 1, **environment: str) -> list[str | None]:
    with allocate_gpus({**os.environ, **environment}, each, workers) as gpus:
        return gpus


def test_each_worker_has_its_own(sqlite_target: Target, machine: Path) -> None:
    study_ = fleet(sqlite_target, machine, gpus=2, n_jobs=2)
    assert study_.execute(see_gpus) == 6
    assert set(study_.get_table()["model"]) <= {"0,1", "2,GPU-8f"}
    study_.reset_experiments("done")
    with pytest.raises(ExecutionError, match=r"3 workers with 2 .* need 6, but this process sees 4 .*, 4 of them free"):
        study_.execute(see_gpus, n_jobs=3)
    assert study_.counts()["created"] == 6


@pytest.mark.parametrize(("gpus", "options"), [(1, {}), (0, {"gpus": 1}), (0, {"gpus": "t4:1"})])
def test_each_local_job_has_its_own(sqlite_target: Target, machine: Path, gpus: int, options: dict[str, Any]) -> None:
    study_ = fleet(sqlite_target, machine, gpus)
    jobs = study_.submit(wait_for_go, 4, "local", folder=machine / "jobs", where="ID <= 4", **options)
    wait_until(lambda: began(machine) == 4)
    with pytest.raises(ExecutionError, match="0 of them free"):
        study_.submit(wait_for_go, 1, "local", folder=machine / "more", **options)
    (machine / "go").touch()
    jobs.wait(120)
    assert sorted(study_.get_table("ID <= 4")["model"]) == ["0", "1", "2", "GPU-8f"]


def test_a_local_job_shares_its_gpus_among_its_workers(sqlite_target: Target, machine: Path) -> None:
    study_ = fleet(sqlite_target, machine, 1, n_jobs=2)
    with allocate_gpus(os.environ, 1, 1):
        jobs = study_.submit(wait_for_go, 1, "local", folder=machine / "jobs", where="ID <= 2", gpus=3)
        wait_until(lambda: began(machine) == 2)
        with pytest.raises(ExecutionError, match="0 of them free"):  # the job has all three
            taken()
    (machine / "go").touch()
    jobs.wait(120)
    assert sorted(study_.get_table("ID <= 2")["model"]) == ["1", "2"]


def execute(target: Target, machine: Path) -> None:
    print(fleet(target, machine).execute(wait_for_go, max_experiments=1))


def start(target: Target, machine: Path) -> subprocess.Popen[str]:
    """Start a process that executes the study."""
    return subprocess.Popen(
        command(partial(execute, target, machine)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_calls_share_the_machine_and_a_killed_one_frees_its_gpus(
    sqlite_target: Target, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "0,1")
    study_ = fleet(sqlite_target, machine)
    first = start(sqlite_target, machine)
    wait_until(lambda: began(machine) == 1)
    second = start(sqlite_target, machine)
    wait_until(lambda: began(machine) == 2)
    third = start(sqlite_target, machine)
    assert "1 workers with 1 GPUs each need 1, but this process sees 2 (0, 1), 0 of them free" in third.communicate()[1]
    first.kill()
    first.wait()
    assert taken() == ["0"]  # although its child may not have ended yet
    first.communicate()
    (machine / "go").touch()
    assert second.communicate(timeout=60)[0] == "1\n"
    assert list(study_.get_table("status = 'done'")["model"]) == ["1"]
    wait_until(lambda: study_.counts()["running"] == 0)  # given back by the child of the first


def test_a_fork_neither_keeps_nor_gives_them_back(machine: Path) -> None:
    """A process that a function leaves behind, and one that leaves the block as well."""
    held, release = os.pipe()
    with allocate_gpus(os.environ, 3, 1) as (gpus,):
        left = os.fork()
        if not left:
            os.close(release)
            os.read(held, 1)
            os._exit(0)
        leaves = allocate_gpus(os.environ, 1, 1)
        leaves.__enter__()
        leaver = os.fork()
        if not leaver:
            code = 1
            try:
                leaves.__exit__(None, None, None)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(leaver, 0)[1] == 0
        with pytest.raises(ExecutionError, match="0 of them free"):
            taken()
        leaves.__exit__(None, None, None)
    assert gpus == "0,1,2"
    assert taken(4) == ["0,1,2,GPU-8f"]
    os.close(release)
    os.waitpid(left, 0)
    os.close(held)


def test_to_ask_for_too_many_leaves_them_to_others(machine: Path) -> None:
    with pytest.raises(ExecutionError, match="5 workers"):
        taken(1, 5)
    assert taken(2, 2) == ["0,1", "2,GPU-8f"]


def test_who_asks_in_vain_does_not_make_others_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyexperimenter.machine.gpus._uuids", dict)  # so that they collide more often

    def ask_in_vain() -> None:
        with pytest.raises(ExecutionError, match="need 4"):
            taken(4)

    with allocate_gpus(os.environ, 1, 1), ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(lambda ask=ask: [ask() for _ in range(300)]) for ask in (ask_in_vain, *[taken] * 3)]
        for thread in asking:
            thread.result()


def test_who_asks_waits_until_another_has_asked(machine: Path) -> None:
    assert taken() == ["0"]
    with ThreadPoolExecutor(1) as threads:
        with lock_file(machine / f"pyexperimenter-{os.getuid()}" / "pyexperimenter-gpus"):
            asking = threads.submit(taken)
            assert not wait([asking], 0.2).done
        assert asking.result() == ["0"]


def test_given_gpus_are_allocated_again_by_the_worker(machine: Path) -> None:
    with allocate_gpus(os.environ, 2, 1) as (gpus,):
        inside = gpu_environment(gpus, "the worker")
        assert taken(1, 2, **inside) == ["0", "1"]
        with allocate_gpus({**os.environ, **inside}, 2, 1), pytest.raises(ExecutionError, match="0 of them free"):
            taken(**inside)


# What a GPU is


def test_one_gpu_of_two_names_is_one(machine: Path) -> None:
    nvidia_smi(machine, ["GPU-8932f937-d72c", "GPU-2bd9faed-a9f6"])
    with allocate_gpus({**os.environ, VARIABLE: "1"}, 1, 1):
        for name in ("GPU-2bd9faed-a9f6", "GPU-2b"):
            with pytest.raises(ExecutionError, match="0 of them free"):
                taken(CUDA_VISIBLE_DEVICES=name)
        without = {name: value for name, value in os.environ.items() if name != VARIABLE}
        with allocate_gpus(without, 1, 1) as gpus:
            assert gpus == ["0"]


def test_two_gpus_of_one_name_are_two(machine: Path) -> None:
    """If a job or container may use only one, its number is 0."""
    nvidia_smi(machine, ["GPU-8932f937-d72c"])
    with allocate_gpus({**os.environ, VARIABLE: "0"}, 1, 1):
        nvidia_smi(machine, ["GPU-2bd9faed-a9f6"])
        assert taken(CUDA_VISIBLE_DEVICES="0") == ["0"]


def test_without_nvidia_smi_the_gpus_of_slurm_jobs_are_their_own(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine / "nvidia-smi").unlink()
    monkeypatch.setenv("PATH", str(machine))
    with allocate_gpus({**os.environ, "SLURM_JOB_ID": "7"}, 4, 1):
        assert taken(4, SLURM_JOB_ID="8") == ["0,1,2,GPU-8f"]
        with pytest.raises(ExecutionError, match="0 of them free"):  # another task of it
            taken(SLURM_JOB_ID="7")


def test_an_nvidia_smi_that_fails_knows_no_gpus(machine: Path) -> None:
    (machine / "nvidia-smi").write_text("#!/bin/sh\necho no driver\nexit 9\n")
    assert taken(4) == ["0,1,2,GPU-8f"]


@pytest.mark.parametrize("name", ["MIG-GPU-8932f937-d72c/1/0", "MIG-55c5b8a1-7c1f"])
def test_parts_of_gpus(machine: Path, name: str) -> None:
    with allocate_gpus({**os.environ, VARIABLE: name}, 1, 1) as gpus:
        assert gpus == [name]
        with pytest.raises(ExecutionError, match="0 of them free"):
            taken(CUDA_VISIBLE_DEVICES=name)


def test_a_directory_that_others_may_write_to_is_not_trusted(machine: Path) -> None:
    assert taken() == ["0"]
    own = machine / f"pyexperimenter-{os.getuid()}"
    assert [path.stat().st_mode & 0o077 for path in (own, *own.iterdir())] == [0, 0, 0]
    own.chmod(0o777)
    with pytest.raises(ExecutionError, match=r"GPUs cannot be allocated: .* other users can write .*; set TMPDIR"):
        taken()
