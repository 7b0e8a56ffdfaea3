"""An array of workers on a real SLURM whose database is behind a real SSH server, on a bad day."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from tests.support.mariadb import PrivateMariaDB
from tests.support.slurm import SlurmCluster
from tests.support.sshd import SshServer, background_ssh, private_home, running
from tests.support.study import experimenter, outcomes, statuses, study, wait_until
from tests.support.target import Target

ROWS = 80

FUNCTION = """
import time, uuid
from pathlib import Path

def work(keyfields, results, custom):
    token = uuid.uuid4().hex
    with Path(custom["here"], "executions").open("a") as file:
        file.write(token + "\\n")
    time.sleep(0.2)
    results.process_results({"model": token})
    return {"accuracy": keyfields["seed"] / 4}
"""

BATCH = """\
#!/bin/sh
#SBATCH --output={here}/%a.log
export HOME={home} PATH={path} XDG_RUNTIME_DIR={runtime} PYTHONPATH={here}:{python_path}
exec {python} -m pyexperimenter -c {here}/config.yml run function:work --wait --credentials {here}/credentials.yml
"""


def behind(sshd: SshServer, server: PrivateMariaDB, here: Path) -> Target:
    ssh = {"address": "127.0.0.1", "port": sshd.port, "ssh_private_key": str(sshd.home / "key")}
    ssh |= {"server": "127.0.0.1", "remote_address": "127.0.0.1", "remote_port": server.port}
    connection = {"Standard": {"server": "not.reached.directly"}, "Ssh": ssh}
    file = here / "credentials.yml"
    file.touch(0o600)
    user = {"user": server.user, "password": server.password}
    file.write_text(yaml.safe_dump({"CREDENTIALS": {"Database": user, "Connection": connection}}))
    server.create_database("far")
    return Target("mariadb", "mysql", "far", server, file)


def test_nothing_is_lost_doubled_or_failed_on_a_bad_day(
    slurm: SlurmCluster, private_mariadb: PrivateMariaDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with private_home(tmp_path / "home", monkeypatch) as runtime, running() as sshd:
        target = behind(sshd, private_mariadb, tmp_path)
        seeds = {"seed": {"type": "INT", "values": {"start": 0, "stop": ROWS}}}
        execution = {"heartbeat": 1, "lease": 15, "grace": 0.5, "journal": str(tmp_path)}
        config = study(target, keyfields=seeds, Execution=execution, Custom={"here": str(tmp_path)}, n_jobs=1)
        config["PY_EXPERIMENTER"]["Database"]["use_ssh_tunnel"] = True
        (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
        (tmp_path / "function.py").write_text(FUNCTION)
        places = {"home": os.environ["HOME"], "path": os.environ["PATH"], "runtime": runtime, "here": tmp_path}
        batch = BATCH.format(**places, python=sys.executable, python_path=os.pathsep.join(filter(None, sys.path)))
        (tmp_path / "job.sh").write_text(batch)
        opened = experimenter(target, config)
        opened.fill_table_from_config()
        opened.close_ssh()
        wait_until(lambda: not sshd.connections)
        logins = sshd.logins

        def wait_for(done: int) -> None:
            wait_until(lambda: statuses(target).get("done", 0) >= done)

        job = slurm.submit(tmp_path / "job.sh", "--array=0-3", "--time=10", "--mem=200M")
        wait_for(8)
        private_mariadb.kill()
        private_mariadb.start()
        wait_for(20)
        sshd.stop()
        sshd.start()
        wait_for(32)
        ssh = background_ssh(f"-p {sshd.port}")
        opener = ssh.environ()["SLURM_ARRAY_TASK_ID"]
        slurm.run("scontrol", "suspend", f"{job}_{opener}")
        ssh.suspend()  # as it is where control groups hold all processes of a job
        wait_for(44)
        slurm.run("scontrol", "resume", f"{job}_{opener}")
        wait_for(52)
        stays = background_ssh(f"-p {sshd.port}").environ()["SLURM_ARRAY_TASK_ID"]
        cancelled = next(task for task in "0123" if task not in (opener, stays))
        slurm.run("scancel", f"{job}_{cancelled}")
        states = Counter(slurm.wait_for_end(job, 120))

        log = "".join(path.read_text() for path in sorted(tmp_path.glob("[0-3].log")))
        assert statuses(target) == {"done": ROWS}, log
        assert states == {"COMPLETED": 3, "CANCELLED": 1}, log
        ended = outcomes(target)
        assert ended.pop("done") == ROWS
        assert set(ended) <= {"released", "lost"}
        executions = (tmp_path / "executions").read_text().split()
        assert len(executions) <= ROWS + sum(ended.values())  # what was released may not have begun
        right = "SELECT COUNT(DISTINCT model) FROM study WHERE accuracy * 4 = seed"
        assert target.query(right) == [(ROWS,)]
        assert " - ERROR " not in log
        assert sshd.logins == logins + 3, log  # the first, and after each end of the SSH connection
