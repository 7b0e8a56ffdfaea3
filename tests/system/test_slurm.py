"""On a real SLURM: workers in hand-written jobs, and all the ways in which such jobs die."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from pyexperimenter import PyExperimenter
from tests.support.slurm import SlurmCluster
from tests.support.study import credentials, experimenter, study, wait_until
from tests.support.target import Target

ROWS = 12
EXECUTION = {"isolation": "process", "heartbeat": 0.5, "lease": 3, "grace": 0.5}

WORK = '''
import json, os, signal, time, uuid
from pathlib import Path
from pyexperimenter import PyExperimenter

here = Path(__file__).parent

def wait_for(path):
    while not path.exists():
        time.sleep(0.05)

def work(keyfields, results, custom):
    """Take some time; those to be held wait at their first execution, and one dies there."""
    seed, token = keyfields["seed"], uuid.uuid4().hex
    held = here / f"held {seed}"
    if seed in custom["held"] and not held.exists():
        job, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
        # Not the task's own number: that of the last one stands for the whole array.
        job = f"{job}_{task}" if job else os.environ["SLURM_JOB_ID"]
        (here / "part").write_text(json.dumps({"job": job, "pid": os.getpid(), "here": str(here)}))
        (here / "part").rename(held)
        wait_for(here / "go")
        if hoard := bytearray(int((here / "go").read_text() or 0)):
            wait_for(here / "the end")
    if seed in custom["last"]:
        wait_for(here / "restarted")
    time.sleep(custom["seconds"])
    results.process_logs({"tokens": {"token": token}})
    return {"token": token}

if __name__ == "__main__":
    config, options, arguments = json.loads((here / "arguments.json").read_text())
    PyExperimenter(config, log_level="INFO", **options).execute(work, **arguments)
'''

BATCH = """\
#!/bin/bash
#SBATCH --output={here}/%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
[ -z "$SLURM_RESTART_COUNT" ] || touch {here}/restarted {here}/"restarted $SLURM_ARRAY_TASK_ID"
exec {python} {here}/work.py
"""

EXTRAS = ["codecarbon", "distributed", "matplotlib", "openpyxl", "pyarrow", "scipy", "sklearn"]


class Study:
    """A study on MariaDB, and the scripts for its jobs."""

    def __init__(self, target: Target, cluster: SlurmCluster, here: Path, rows: int = ROWS, **changes: Any) -> None:
        self.target = target
        self.here = here
        self._cluster = cluster
        custom = {name: changes.pop(name, default) for name, default in (("held", []), ("last", []), ("seconds", 0.01))}
        self.config = study(
            target,
            keyfields={"seed": {"type": "INT", "values": {"start": 0, "stop": rows}}},
            resultfields={"token": "VARCHAR(100)"},
            logtables={"tokens": {"token": "VARCHAR(100)"}},
            Custom=custom,
            Execution={**EXECUTION, "journal": str(here), **changes},
        )
        self.experimenter: PyExperimenter = experimenter(target, self.config)
        self.experimenter.fill_table_from_config()
        (here / "work.py").write_text(WORK)
        (here / "job.sh").write_text(BATCH.format(here=here, python=sys.executable))

    def submit(self, *options: str, **arguments: Any) -> str:
        """Submit the job; `arguments` are those of `execute`."""
        options_ = {name: str(value) for name, value in credentials(self.target).items()}
        (self.here / "arguments.json").write_text(json.dumps([self.config, options_, arguments]))
        return self._cluster.submit(self.here / "job.sh", "--time=10", *options)

    def held(self, seed: int) -> dict[str, Any]:
        """Return the job in which a row is held, when it is; `pid` is that of the worker."""
        path = self.here / f"held {seed}"
        wait_until(path.exists)
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def execute_here(self, **arguments: Any) -> int:
        """Execute what is open from this process; return how many executions there were."""
        namespace: dict[str, Any] = {"__file__": str(self.here / "work.py"), "__name__": "work"}
        exec(WORK, namespace)
        return self.experimenter.execute(namespace["work"], **arguments)

    def statuses(self) -> dict[str, int]:
        return dict(self.target.query("SELECT status, COUNT(*) FROM study GROUP BY status"))

    def outcomes(self, seed: int) -> list[tuple[str | None, str | None]]:
        """Return outcome and job of the attempts of a row."""
        return self.target.query(
            "SELECT outcome, job_id FROM study__attempts WHERE experiment_id = ? ORDER BY number", seed + 1
        )

    def error(self, seed: int) -> str:
        """Return what is recorded about the end of a row's first attempt."""
        ((error,),) = self.target.query(
            "SELECT error FROM study__attempts WHERE experiment_id = ? AND number = 1", seed + 1
        )
        return str(error)

    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self.here.glob("*.log")))


@pytest.fixture
def workplace(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory for a study; this process is on the cluster, but not in a job."""
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    return tmp_path


# Ordinary runs


def test_the_tasks_of_an_array_need_nothing_but_the_database(
    slurm: SlurmCluster, mariadb_target: Target, workplace: Path
) -> None:
    study_ = Study(mariadb_target, slurm, workplace)
    # As if no extra were installed, in the workers' own processes, too.
    (workplace / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({EXTRAS}))\n")
    environment = os.pathsep.join(path for path in [str(workplace), os.environ.get("PYTHONPATH", "")] if path)
    job = study_.submit("--array=0-3", f"--export=ALL,PYTHONPATH={environment}", max_experiments=ROWS // 4)
    assert slurm.wait_for_end(job) == ["COMPLETED"] * 4, study_.log()
    assert study_.statuses() == {"done": ROWS}
    jobs = mariadb_target.query("SELECT job_id, COUNT(*) FROM study__attempts WHERE outcome = 'done' GROUP BY job_id")
    assert sorted(jobs) == [(f"{job}_{task}", ROWS // 4) for task in range(4)]


def test_a_requeued_job_gives_its_row_back_and_takes_one_again(
    slurm: SlurmCluster, mariadb_target: Target, workplace: Path
) -> None:
    study_ = Study(mariadb_target, slurm, workplace, held=[3])
    job = study_.submit()
    assert study_.held(3)["job"] == job
    slurm.run("scontrol", "requeue", job)
    wait_until(lambda: study_.outcomes(3) == [("released", job)])
    assert slurm.wait_for_end(job) == ["COMPLETED"], study_.log()
    assert study_.statuses() == {"done": ROWS}
    assert study_.outcomes(3) == [("released", job), ("done", f"{job} restart 1")]
    assert study_.outcomes(0) == [("done", job)]


def test_the_signal_before_the_end_gives_the_row_back(
    slurm: SlurmCluster, mariadb_target: Target, workplace: Path
) -> None:
    study_ = Study(mariadb_target, slurm, workplace, held=[3])
    job = study_.submit("--signal=B:TERM@60", "--no-requeue")
    study_.held(3)
    slurm.run("scontrol", "update", f"JobId={job}", "EndTime=now+80")  # SLURM looks twice a minute, and is early
    assert slurm.wait_for_end(job, 100) == ["FAILED"], study_.log()  # by the exit code of SIGTERM
    assert study_.outcomes(3) == [("released", job)]
    assert study_.statuses() == {"done": 3, "created": ROWS - 3}
    assert study_.execute_here(wait=True) == ROWS - 3
    assert study_.outcomes(3) == [("released", job), ("done", None)]
    assert study_.statuses() == {"done": ROWS}


def test_nothing_is_started_that_the_job_has_no_time_for(
    slurm: SlurmCluster, mariadb_target: Target, workplace: Path
) -> None:
    """The job has 10 minutes: too few for min_time, then enough, then too few for the time that others took."""
    for min_time, before, executed in [("11m", 0, 0), ("5m", 0, 6), ("1s", 6, 0), ("1s", 6, 6)]:
        here = workplace / f"{min_time} {before} {executed}".replace(" ", "-")
        here.mkdir()
        study_ = Study(mariadb_target, slurm, here, min_time=min_time)
        usual = 660 if executed == 0 else 1
        mariadb_target.query("UPDATE study__attempts SET wall_seconds = ?", usual)
        assert study_.statuses().get("done", 0) == before
        job = study_.submit(max_experiments=6)
        assert slurm.wait_for_end(job) == ["COMPLETED"], study_.log()
        assert study_.statuses().get("done", 0) == before + executed
        told = re.search(r"starts no more experiments: .* left, but (.*)", study_.log())
        why = "min_time is 11m" if before == 0 else "experiments usually take 11m"
        assert (told and told[1]) == (why if executed == 0 else None)


# Death


def time_limit(cluster: SlurmCluster, held: dict[str, Any]) -> None:
    cluster.run("scontrol", "update", f"JobId={held['job']}", "EndTime=now+1")


def cancel(cluster: SlurmCluster, held: dict[str, Any]) -> None:
    cluster.run("scancel", held["job"])


def cancel_by_kill(cluster: SlurmCluster, held: dict[str, Any]) -> None:
    cluster.run("scancel", "--signal=KILL", held["job"])


def kill_script(cluster: SlurmCluster, held: dict[str, Any]) -> None:
    cluster.run("scancel", "--batch", "--signal=KILL", held["job"])


def lose_node(cluster: SlurmCluster, held: dict[str, Any]) -> None:
    cluster.lose(cluster.node_of(held["job"]))


def use_up_memory(cluster: SlurmCluster, held: dict[str, Any]) -> None:
    part = Path(held["here"], "much")
    part.write_text(str(1 << 30))  # bytes; jobs have half of that
    part.rename(Path(held["here"], "go"))


def kill_worker(cluster: SlurmCluster, held: dict[str, Any]) -> None:
    os.kill(held["pid"], 9)  # as the kernel does when memory is used up


@pytest.mark.parametrize(
    ("die", "state", "outcomes"),
    [
        # They were killed together: the worker may have had time to give its row back.
        (time_limit, "TIMEOUT", {"lost", "released"}),
        (cancel, "CANCELLED", {"lost", "released"}),
        (cancel_by_kill, "CANCELLED", {"lost", "released"}),
        (kill_script, "FAILED", {"lost", "released"}),
        (lose_node, "NODE_FAIL", {"lost"}),
        (use_up_memory, "FAILED", {"lost", "error"}),  # OUT_OF_MEMORY only where control groups report it
        (kill_worker, "COMPLETED", {"error"}),
    ],
)
def test_a_dead_jobs_row_is_open_again_or_an_error_that_says_why(
    slurm: SlurmCluster, mariadb_target: Target, workplace: Path, die: Any, state: str, outcomes: set[str]
) -> None:
    # With a grace longer than SLURM's, so that a job that should stop is killed.
    study_ = Study(mariadb_target, slurm, workplace, held=[3], grace=600)
    job = study_.submit("--no-requeue")
    die(slurm, study_.held(3))
    assert slurm.wait_for_end(job, 150) == [state], study_.log()
    study_.execute_here(wait=True)
    ((outcome, _), *following) = study_.outcomes(3)
    assert outcome in outcomes
    if outcome == "error":
        assert study_.error(3).startswith("killed by SIGKILL")
        assert following == []
        assert study_.statuses() == {"done": ROWS - 1, "error": 1}
    else:
        assert following == [("done", None)]
        assert study_.statuses() == {"done": ROWS}
    if outcome == "lost":  # and nothing more, since this SLURM has no accounting
        assert re.fullmatch(r"the last heartbeat of its worker was at [-0-9:. ]+ UTC", study_.error(3))


def test_slurms_beliefs_take_no_row_from_a_living_worker(
    slurm: SlurmCluster, mariadb_target: Target, workplace: Path
) -> None:
    study_ = Study(mariadb_target, slurm, workplace, held=[3])
    job = study_.submit("--no-requeue")
    study_.held(3)
    slurm.lose_daemon(slurm.node_of(job))
    assert slurm.wait_for_end(job) == ["NODE_FAIL"]
    silence = "SELECT TIMESTAMPDIFF(SECOND, started, heartbeat) FROM study__attempts WHERE ended IS NULL"
    wait_until(lambda: mariadb_target.query(silence)[0][0] > 2 * EXECUTION["lease"])
    assert study_.execute_here() == ROWS - 4
    assert study_.statuses() == {"done": ROWS - 1, "running": 1}
    (workplace / "go").touch()
    wait_until(lambda: study_.statuses() == {"done": ROWS})
    assert study_.outcomes(3) == [("done", job)]


def test_the_accounting_says_why_a_worker_fell_silent(
    mariadb_target: Target, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mariadb_target.server is not None
    cluster = SlurmCluster(nodes=1, cpus=2, accounting=(mariadb_target.server, mariadb_target.database))
    try:
        monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
        study_ = Study(mariadb_target, cluster, workplace, held=[3])
        job = study_.submit("--array=5")
        study_.held(3)
        lose_node(cluster, study_.held(3))
        assert cluster.states(job) == ["PENDING"]  # it will run again, and the accounting has its first run
        assert study_.execute_here(wait=True) == ROWS - 3
        assert study_.outcomes(3) == [("lost", f"{job}_5"), ("done", None)]
        assert study_.error(3).endswith(f" UTC; SLURM reports job {job}_5 as NODE_FAIL")
    finally:
        cluster.close()


# All at once


@pytest.mark.timeout(240)
def test_an_array_finishes_a_study_whatever_happens_to_its_tasks(
    slurm: SlurmCluster, mariadb_target: Target, workplace: Path
) -> None:
    """400 rows, 8 tasks on 4 nodes; a node is lost, a task is cancelled, and another one requeued."""
    rows, last = 400, 10
    dying = {"lost": 40, "cancelled": 100, "requeued": 160}
    study_ = Study(
        mariadb_target,
        slurm,
        workplace,
        rows,
        held=list(dying.values()),
        last=list(
            range(rows - last, rows)
        ),  # these wait until a task has been restarted, so that it finds something to do
        seconds=0.2,
        heartbeat=1,
        lease=5,
    )
    assert study_.statuses() == {"created": rows}
    job = study_.submit("--array=0-7", wait=True)
    slurm.lose(slurm.node_of(study_.held(dying["lost"])["job"]))
    slurm.run("scancel", study_.held(dying["cancelled"])["job"])
    requeued = study_.held(dying["requeued"])["job"]
    left = study_.statuses()
    slurm.run("scontrol", "requeue", requeued)
    states = Counter(slurm.wait_for_end(job, 180))
    outcomes = Counter(outcome for (outcome,) in mariadb_target.query("SELECT outcome FROM study__attempts"))
    print(f"\nat the last blow {left}; then {study_.statuses()}, tasks {states}, attempts {outcomes}")

    assert left["created"] > rows // 4
    assert study_.statuses() == {"done": rows}
    assert states == {"COMPLETED": 7, "CANCELLED": 1}
    assert set(outcomes) <= {"done", "released", "lost"}
    found = {what: study_.outcomes(row) for what, row in dying.items()}
    assert [outcome for outcome, _ in found["lost"]] == ["lost", "done"]
    for what in ("cancelled", "requeued"):
        assert [outcome for outcome, _ in found[what]] in (["released", "done"], ["lost", "done"]), found
    jobs = {job_id for (job_id,) in mariadb_target.query("SELECT DISTINCT job_id FROM study__attempts")}
    assert jobs >= {f"{job}_{task}" for task in range(8)}
    assert any(job_id.endswith(" restart 1") for job_id in jobs), jobs

    attempts: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for row, *attempt in mariadb_target.query(
        "SELECT experiment_id, ID, outcome FROM study__attempts ORDER BY experiment_id, number"
    ):
        attempts[row].append((attempt[0], attempt[1]))
    logged: dict[int, list[str]] = defaultdict(list)
    for attempt_id, token in mariadb_target.query("SELECT attempt_id, token FROM study__tokens"):
        logged[attempt_id].append(token)
    tokens = dict(mariadb_target.query("SELECT ID, token FROM study"))
    assert len(set(tokens.values())) == len(tokens) == rows
    for row, token in tokens.items():
        done = [attempt_id for attempt_id, outcome in attempts[row] if outcome == "done"]
        assert done == [attempts[row][-1][0]], (row, attempts[row])
        assert logged[done[0]] == [token], (row, attempts[row])
