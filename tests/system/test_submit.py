"""Workers as jobs: on this machine, and what is checked before anything is submitted."""

from __future__ import annotations

import base64
import os
import random
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from pyexperimenter import PyExperimenter, Submission
from pyexperimenter.cli import main
from pyexperimenter.cluster.job import check_database_for_slurm
from pyexperimenter.exceptions import (
    DatabaseError,
    DatabaseQueryError,
    ExperimentFunctionError,
    FunctionNotPicklableError,
    InvalidColumnError,
    InvalidValueError,
    SubmissionError,
)
from tests.support.apart import command
from tests.support.study import experimenter, study, wait_until
from tests.support.target import Target

PROCESS = {"isolation": "process", "grace": "1s"}


def work(keyfields: dict[str, Any], results: Any, custom: dict[str, Any]) -> dict[str, float]:
    return {"accuracy": keyfields["seed"] / 10}


def wait_long(keyfields: dict[str, Any], results: Any, custom: dict[str, Any]) -> None:
    Path(custom["file"]).write_text("begun")
    threading.Event().wait(300)


def submit_array(target: Target, folder: Path) -> None:
    experimenter(target).submit(work, workers=2, folder=folder)


@pytest.fixture
def fleet(target: Target) -> PyExperimenter:
    made = experimenter(target, study(target, Execution=PROCESS))
    made.fill_table_from_config()
    return made


def test_jobs_on_this_machine_execute_all(fleet: PyExperimenter, tmp_path: Path) -> None:
    jobs = fleet.submit(work, workers=2, cluster="local", folder=tmp_path / "jobs", where="seed < 2")
    assert len(set(jobs.job_ids)) == 2
    assert repr(jobs) == f"<Submission to local: {', '.join(jobs.job_ids)}>"
    assert set(jobs.wait(120).values()) == {"COMPLETED"}
    assert fleet.counts()["done"] == 4
    assert sorted(fleet.get_table("status = 'done'")["accuracy"]) == [0, 0, 0.1, 0.1]
    assert {*(tmp_path / "jobs").iterdir()} == {jobs.log_file(name) for name in jobs.job_ids}


def test_a_cancelled_job_gives_its_experiment_back(target: Target, tmp_path: Path) -> None:
    fleet = experimenter(target, study(target, Execution=PROCESS, Custom={"file": str(tmp_path / "begun")}))
    fleet.fill_table_from_config()
    jobs = fleet.submit(wait_long, cluster="local", folder=tmp_path / "jobs", where={"seed": 0, "dataset": "iris"})
    wait_until((tmp_path / "begun").exists)
    with pytest.raises(TimeoutError):
        jobs.wait(0)
    jobs.cancel()
    jobs.wait(120)
    assert wait_until(lambda: fleet.counts()["running"] == 0)
    assert list(fleet.get_attempts()["outcome"]) == ["released"]


# Before


WRONG_SELECTIONS = {
    "column": ({"where": {"sed": 1}}, InvalidColumnError, "the table has no column 'sed'"),
    "order": ({"order_by": "-sed"}, InvalidColumnError, "the table has no column 'sed'"),
    "value": ({"where": {"seed": "one"}}, InvalidValueError, "seed"),
    "SQL": ({"where": "sed = 1"}, DatabaseQueryError, "sed"),
}


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG_SELECTIONS.values(), ids=WRONG_SELECTIONS)
def test_wrong_where_or_order_by_starts_nothing(
    fleet: PyExperimenter, tmp_path: Path, wrong: dict[str, Any], error: type[Exception], message: str
) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: fleet.get_table(**wrong),
        lambda: fleet.execute(work, **wrong),
        lambda: fleet.submit(work, cluster="local", folder=tmp_path / "jobs", **wrong),
    ]
    for call in calls:
        with pytest.raises(error, match=message):
            call()
    assert fleet.counts()["created"] == 6
    assert len(fleet.get_attempts()) == 0
    assert not (tmp_path / "jobs").exists()


def test_a_function_that_cannot_be_loaded_elsewhere_is_refused(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = experimenter(sqlite_target)
    fleet.fill_table_from_config()
    (tmp_path / "gone.py").write_text("def f(*_): ...")
    monkeypatch.syspath_prepend(tmp_path)
    import gone  # type: ignore[import-not-found]

    (tmp_path / "gone.py").write_text("import no_such_package")
    with pytest.raises(ExperimentFunctionError, match=r"could not load the function: .*no_such_package"):
        fleet.submit(gone.f, cluster="local", folder=tmp_path)
    lock = sqlite3.connect(":memory:")
    with pytest.raises(FunctionNotPicklableError):
        fleet.submit(lambda *_: lock, cluster="local", folder=tmp_path)
    lock.close()


def test_without_a_table_nothing_is_submitted(sqlite_target: Target, tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="fill the table first"):
        experimenter(sqlite_target).submit(work, cluster="local", folder=tmp_path / "jobs")
    assert not (tmp_path / "jobs").exists()


def test_unknown_clusters_and_profiles(sqlite_target: Target, tmp_path: Path) -> None:
    config = study(sqlite_target)
    config["PY_EXPERIMENTER"]["Cluster"] = {"default": {"time": "1h"}, "gpu": {"gpus": 1, "time": "2h"}}
    fleet = experimenter(sqlite_target, config)
    with pytest.raises(InvalidValueError, match="'pbs' is not a valid cluster; choose 'slurm' or 'local'"):
        fleet.submit(work, cluster="pbs")
    with pytest.raises(InvalidValueError, match="no profile 'cpu'; its profiles are default, gpu"):
        fleet.submit(work, profile="cpu")
    assert "--time=60\n" in fleet.sbatch_script(work, folder=tmp_path)
    options = {"time": "1-00:00:00", "mem": "8G", "qos": None, "reservation": "paper"}
    script = fleet.sbatch_script(work, 3, profile="gpu", folder=tmp_path, array_parallelism=2, **options)
    wanted = {"array=0-2%2", "gpus-per-node=1", "time=1440", "mem=8G", "reservation=paper", "signal=B:USR2@50"}
    assert wanted <= set(re.findall(r"^#SBATCH --(\S+)$", script, re.M))
    with pytest.raises(InvalidValueError, match="time: 'soon' is not a positive duration"):
        fleet.sbatch_script(work, folder=tmp_path, time="soon")


def test_scripts_hold_no_secret(mariadb_target: Target, tmp_path: Path) -> None:
    fleet = experimenter(mariadb_target)
    assert mariadb_target.server is not None
    script = fleet.sbatch_script(work, 2, folder=tmp_path)
    packed = script.partition("<<'END'\n")[2].removesuffix("END\n")
    content = zlib.decompress(base64.b64decode(packed)) + f"{script}{fleet._made_of!r}".encode()
    assert b"experiment_configuration_file_path" in content
    assert mariadb_target.server.password.encode() not in content


@pytest.mark.parametrize(
    ("nodes", "mounts", "refused"),
    [
        (
            " ".join(f"NodeName=n{number} NodeHostName=n{number} State=IDLE" for number in range(1, 6)),
            "",
            "a file of this machine, which jobs on n1, n2, n3 cannot see",
        ),
        ("NodeName=n1 NodeHostName=here", "", None),
        ("NodeName=n1 NodeHostName=here", "server:/home / nfs4 rw 0 0", "is on a network file system (nfs4)"),
    ],
)
def test_sqlite_is_for_one_machine_only(
    sqlite_target: Target,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    nodes: str,
    mounts: str,
    refused: str | None,
) -> None:
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho '{nodes}'\n")
    (tmp_path / "scontrol").chmod(0o755)
    (tmp_path / "mounts").write_text(mounts)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("platform.node", lambda: "here.example.org")
    monkeypatch.setattr(
        "pyexperimenter.database.backends.sqlite.network_file_system.__defaults__", (tmp_path / "mounts",)
    )
    database = experimenter(sqlite_target).config.database
    if refused is None:
        check_database_for_slurm(database)
        return
    with pytest.raises(SubmissionError, match=re.escape(refused)):
        check_database_for_slurm(database)


def test_without_slurm_it_says_so(sqlite_target: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fleet = experimenter(sqlite_target)
    fleet.fill_table_from_config()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SubmissionError, match="there is no scontrol here; submit from a machine of the SLURM cluster"):
        fleet.submit(work, folder=tmp_path)


def test_slurm_that_does_not_answer(sqlite_target: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fleet = experimenter(sqlite_target)
    fleet.fill_table_from_config()
    program(tmp_path / "scontrol", "exec sleep 60")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("pyexperimenter.machine.slurm._TIMEOUT", 0.2)
    with pytest.raises(SubmissionError, match=r"^scontrol did not answer in 0.2 s; try again$"):
        fleet.submit(work, folder=tmp_path)


@pytest.fixture
def made_up_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory with programs that answer as SLURM's do: it takes a job, and forgets it."""
    program(tmp_path / "scontrol", "echo NodeName=n1 NodeHostName=here")
    program(tmp_path / "srun", "exit 0")
    program(tmp_path / "sbatch", "cat > /dev/null; echo Welcome; echo '12;here'")
    program(tmp_path / "squeue", "exit 0")
    program(tmp_path / "sacct", "exit 1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("platform.node", lambda: "here")
    return tmp_path


@pytest.mark.parametrize(
    ("sbatch", "message"),
    [
        (
            "echo 'sbatch: error: invalid partition specified: large' >&2; exit 1",
            "nothing was submitted: sbatch: error: invalid partition specified: large",
        ),
        ("echo welcome", "nothing was submitted: welcome"),
        (None, "there is no sbatch here; submit from a machine of the SLURM cluster"),
    ],
    ids=["refused", "an answer without an ID", "missing"],
)
def test_a_failed_submit_leaves_nothing_behind(
    sqlite_target: Target, made_up_slurm: Path, monkeypatch: pytest.MonkeyPatch, sbatch: str | None, message: str
) -> None:
    fleet = experimenter(sqlite_target)
    fleet.fill_table_from_config()
    (made_up_slurm / "sbatch").unlink()
    if sbatch is not None:
        program(made_up_slurm / "sbatch", sbatch)
    monkeypatch.setenv("PATH", str(made_up_slurm))  # without the real one
    before = set(made_up_slurm.rglob("*"))
    with pytest.raises(SubmissionError, match=f"^{re.escape(message)}$"):
        fleet.submit(work, folder=made_up_slurm / "new" / "jobs", partition="large")
    assert set(made_up_slurm.rglob("*")) == before
    (made_up_slurm / "new").mkdir()
    with pytest.raises(SubmissionError):
        fleet.submit(work, 2, folder=made_up_slurm / "new")
    assert list((made_up_slurm / "new").iterdir()) == []  # it was there before


def test_a_killed_submit_leaves_no_files(sqlite_target: Target, made_up_slurm: Path) -> None:
    experimenter(sqlite_target).fill_table_from_config()
    program(made_up_slurm / "scontrol", f"echo NodeName=n1 NodeHostName={os.uname().nodename}")
    program(made_up_slurm / "sbatch", f"touch {made_up_slurm / 'asked'}; exec sleep 300")
    submitting = subprocess.Popen(
        command(partial(submit_array, sqlite_target, made_up_slurm / "jobs")),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,
    )
    try:
        wait_until((made_up_slurm / "asked").exists)
    finally:
        os.killpg(submitting.pid, signal.SIGKILL)
        submitting.wait()
    assert list((made_up_slurm / "jobs").iterdir()) == []


def test_too_much_data_for_a_script(sqlite_target: Target, made_up_slurm: Path) -> None:
    fleet = experimenter(sqlite_target)
    fleet.fill_table_from_config()
    program(made_up_slurm / "sbatch", "cat > /dev/null; echo too long >&2; exit 1")
    data = random.Random(1).randbytes(1_000_000)
    with pytest.raises(SubmissionError, match=r"too long; the script has 1\.\d MB, because .* so much data: load it"):
        fleet.submit(lambda *_: len(data), folder=made_up_slurm / "jobs")


def test_processes_that_cannot_be_started_leave_nothing_behind(
    sqlite_target: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fleet = experimenter(sqlite_target)
    fleet.fill_table_from_config()
    monkeypatch.setattr("pyexperimenter.cluster.engine._COMMAND", [str(tmp_path / "no such program")])
    with pytest.raises(SubmissionError, match=r"^nothing was submitted: .*no such program"):
        fleet.submit(work, cluster="local", folder=tmp_path / "new" / "jobs")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(SubmissionError, match=r"^nothing was submitted: .*file"):
        fleet.submit(work, cluster="local", folder=tmp_path / "file")
    started: list[subprocess.Popen[bytes]] = []
    sessions: list[int] = []

    def start_one(_: Any, **options: Any) -> subprocess.Popen[bytes]:
        if started:
            raise OSError("no more processes")
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], **options))
        sessions.append(os.getsid(started[0].pid))
        return started[0]

    with monkeypatch.context() as patch:
        patch.setattr("pyexperimenter.cluster.engine.subprocess", SimpleNamespace(Popen=start_one, STDOUT=-2))
        with pytest.raises(SubmissionError, match="no more processes"):
            fleet.submit(work, workers=2, cluster="local", folder=tmp_path / "new" / "jobs")
    assert started[0].returncode == -signal.SIGKILL
    assert sessions == [started[0].pid], "its own, so that a terminal's Ctrl-C does not reach it"
    assert not (tmp_path / "new").exists()


def test_several_jobs_are_tasks_of_an_array(sqlite_target: Target, made_up_slurm: Path) -> None:
    fleet = experimenter(sqlite_target)
    fleet.fill_table_from_config()
    folder = made_up_slurm / "jobs"
    assert fleet.submit(work, folder=folder).job_ids == ["12"]
    jobs = fleet.submit(work, workers=2, folder=folder)
    assert jobs.job_ids == ["12_0", "12_1"]
    assert jobs.log_file("12_1") == folder / "12_1.log"
    assert jobs.logs("12_1") == ""
    (folder / "12_1.log").write_text("printed")
    assert jobs.logs("12_1") == "printed"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700, "only the user can read what jobs print"


def test_jobs_that_a_job_submits_do_not_take_themselves_for_it(
    sqlite_target: Target, made_up_slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise their time might be over at once."""
    fleet = experimenter(sqlite_target)
    fleet.fill_table_from_config()
    program(made_up_slurm / "sbatch", f"env > {made_up_slurm / 'environment'}; echo 12")
    for name in ("JOB_ID", "JOB_END_TIME", "ARRAY_JOB_ID", "ARRAY_TASK_ID", "RESTART_COUNT", "CONF"):
        monkeypatch.setenv(f"SLURM_{name}", "5")
    fleet.submit(work, folder=made_up_slurm / "jobs")
    passed = (made_up_slurm / "environment").read_text()
    assert re.findall("^SLURM_.*", passed, re.M) == ["SLURM_CONF=5"]


def test_how_a_job_ended_that_slurm_has_forgotten(sqlite_target: Target, made_up_slurm: Path) -> None:
    fleet = experimenter(sqlite_target)
    fleet.fill_table_from_config()
    jobs = fleet.submit(work, folder=made_up_slurm / "jobs")
    assert jobs.wait(0) == {"12": "ENDED"}  # nothing says how
    program(made_up_slurm / "sacct", "printf '12|CANCELLED by 0|0:15\\n'")
    assert jobs.wait(0) == {"12": "CANCELLED"}
    jobs.cancel()  # nothing is left to cancel


@pytest.fixture
def command_study(sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PyExperimenter:
    """The study of the working directory, whose experiments take long; commands need no options."""
    config = study(sqlite_target, Execution=PROCESS | {"function": "functions_of_command:train"})
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "experiment_configuration.yml").write_text(yaml.safe_dump(config))
    (tmp_path / "functions_of_command.py").write_text(
        "import pathlib, threading\n\n"
        "def train(*_):\n    pathlib.Path('begun').touch()\n    threading.Event().wait(300)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    made = experimenter(sqlite_target, config)
    made.fill_table_from_config()
    return made


def test_the_command_says_which_jobs_did_not_complete(command_study: PyExperimenter, made_up_slurm: Path) -> None:
    states = "12_0 COMPLETED\\n12_1 TIMEOUT\\n12_2 COMPLETED\\n"
    program(made_up_slurm / "squeue", f"printf '{states}'")
    done = CliRunner().invoke(main, ["submit", "-n", "3", "--wait"], catch_exceptions=False)
    assert done.exit_code == 1
    log = made_up_slurm / "cluster_jobs" / "12_1.log"
    report = f"Jobs: 2 COMPLETED, 1 TIMEOUT\n12_1 TIMEOUT: see {log}\nExperiments: 6 created\n"
    assert done.stderr.endswith(report)


def test_the_command_that_keeps_submitting(command_study: PyExperimenter, made_up_slurm: Path) -> None:
    """No job of these starts an experiment, so it may submit only once each time."""
    program(made_up_slurm / "sbatch", f"grep '#SBATCH --array' >> {made_up_slurm / 'asked'}; echo 12")

    def submit(*options: str, code: int = 0) -> str:
        arguments = ["submit", "--keep-submitting", "-n", "4", *options]
        done = CliRunner().invoke(main, arguments, catch_exceptions=False)
        assert done.exit_code == code, done.output
        return done.output

    def asked() -> list[str]:
        return re.findall("--array=(.*)", (made_up_slurm / "asked").read_text())

    assert "Submitted 3 jobs\nExperiments: 6 created\n" in submit("--max-jobs", "3")
    submit("--max-jobs", "2", "--where", "seed = 0")
    program(made_up_slurm / "squeue", "printf 'RUNNING study\\nPENDING study\\nRUNNING other\\nCOMPLETING study\\n'")
    submit("--max-jobs", "2")
    assert asked() == ["0-2", "0-1", "0-1"]  # of four, two were in the queue
    program(made_up_slurm / "squeue", "echo away >&2; exit 1")
    assert "squeue has no answer: away" in submit(code=1)
    for wrong in (["--wait"], ["--dry-run"], ["--cluster", "local"]):
        assert "excludes" in submit(*wrong, code=2)


def test_an_interrupted_command_leaves_its_jobs_alone(command_study: PyExperimenter, tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    with errors.open("w") as stderr:
        waiting = subprocess.Popen(
            [sys.executable, "-m", "pyexperimenter", "submit", "--cluster", "local", "--wait"],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
    try:
        wait_until(lambda: (tmp_path / "begun").exists() and "Logs are in" in errors.read_text())
        os.killpg(waiting.pid, signal.SIGINT)  # as a terminal does
        job, _ = waiting.communicate(timeout=120)
    finally:
        waiting.kill()
    assert waiting.returncode == 130
    assert f"The jobs continue; to stop them: kill {job}" in errors.read_text()
    assert command_study.counts()["running"] == 1
    os.kill(int(job), signal.SIGTERM)
    wait_until(lambda: command_study.counts()["running"] == 0)
    assert list(command_study.get_attempts()["outcome"]) == ["released"]


@pytest.mark.parametrize("state", ["PREEMPTED", "LAUNCH_FAILED", "REVOKED", "RECONFIG_FAIL", "ENDED"])
def test_waiting_ends_with_each_state_in_which_a_job_stays(state: str, tmp_path: Path) -> None:
    submission = Submission("slurm", tmp_path, [])
    submission.states = lambda: {"1": state}  # type: ignore[method-assign] # SLURM can hardly be brought into all
    assert submission.wait(timeout=0) == {"1": state}


def test_who_waits_asks_seldom_and_not_longer_than_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM is asked by all users together."""
    pauses: list[float] = []
    stopped = SimpleNamespace(sleep=pauses.append, monotonic=lambda: 100.0)
    monkeypatch.setattr("pyexperimenter.cluster.submission.time", stopped)
    submission = Submission("slurm", tmp_path, [])
    for timeout, expected in ((None, 2.0), (60, 2.0), (0.5, 0.5)):
        states = iter(["RUNNING", "COMPLETED"])
        submission.states = lambda states=states: {"1": next(states)}  # type: ignore[method-assign,misc]
        assert submission.wait(timeout) == {"1": "COMPLETED"}
        assert pauses.pop() == expected


def test_the_command_does_not_wait_unless_asked(
    sqlite_target: Target, made_up_slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = study(sqlite_target, Execution={"function": "functions_of_slurm:train"})
    (made_up_slurm / "config.yml").write_text(yaml.safe_dump(config))
    (made_up_slurm / "functions_of_slurm.py").write_text("def train(*_): ...")
    experimenter(sqlite_target, config).fill_table_from_config()
    program(made_up_slurm / "squeue", "echo 12 PENDING")  # for ever
    monkeypatch.chdir(made_up_slurm)
    monkeypatch.setattr(sys, "path", list(sys.path))
    done = CliRunner().invoke(main, ["submit", "config.yml"], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.output.startswith("12\nLogs are in ")


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_jobs_take_what_they_have_the_cpus_for(sqlite_target: Target, tmp_path: Path) -> None:
    requires = [{"when": {"dataset": "wine"}, "resources": {"cpus": 2}}]
    fleet = experimenter(sqlite_target, study(sqlite_target, Execution=PROCESS, requires=requires))
    fleet.fill_table_from_config()
    assert fleet.submit(work, cluster="local", folder=tmp_path / "jobs").wait(120)
    assert fleet.get_table(states="done")["dataset"].unique().tolist() == ["iris"]
    assert fleet.submit(work, cluster="local", folder=tmp_path / "jobs", cpus_per_task=2).wait(120)
    assert fleet.counts()["done"] == 6


def test_jobs_execute_only_what_is_in_the_grid(sqlite_target: Target, tmp_path: Path) -> None:
    fleet = experimenter(sqlite_target, study(sqlite_target, Execution=PROCESS, exclude=[{"dataset": "wine"}]))
    fleet.fill_table_with_rows([{"dataset": "wine", "seed": 0}, {"dataset": "iris", "seed": 1}])
    assert fleet.submit(work, cluster="local", folder=tmp_path / "jobs", only_grid=True).wait(120)
    assert fleet.get_table(states="done")["dataset"].tolist() == ["iris"]


# The command


def test_the_command(sqlite_target: Target, tmp_path: Path) -> None:
    config = study(sqlite_target, Execution=PROCESS | {"function": "functions:train"})
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    (tmp_path / "functions.py").write_text("def train(keyfields, *_):\n    return {'accuracy': 1}\n")
    experimenter(sqlite_target, config).fill_table_from_config()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pyexperimenter", "submit", "config.yml", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    dry = run("--dry-run", "-n", "5", "--time", "2h", "-o", "account=me")
    assert dry.stdout.startswith("#!/bin/bash\n") and "#SBATCH --account=me\n" in dry.stdout
    assert list((tmp_path / "cluster_jobs").iterdir()) == []
    done = run("--cluster", "local", "-n", "2", "--wait")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 2
    assert done.stderr.endswith("Jobs: 2 COMPLETED\nExperiments: 6 done\n")
    assert experimenter(sqlite_target, config).counts()["done"] == 6
    wrong = run("functions:nix", "--cluster", "local")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)
