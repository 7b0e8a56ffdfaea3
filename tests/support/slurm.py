"""A private SLURM for the tests: real daemons and several nodes on this machine, which can fail and be restarted."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from tests.support.private_server import START_SECONDS, ServerUnavailable, Throwaway, find_program, free_port, launch
from tests.support.server import Server

_NODE = "SLURMD_NODENAME"  # SLURM gives it to jobs; here the daemons of a node have it, too
COMMAND_SECONDS = 60
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}  # of a job's states

CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until the credential of its first run has expired.
AuthInfo=socket={home}/munge/socket,cred_expire=5
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool-%n
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd-%n.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd-%n.log
# Without control groups, so that it needs no rights: SLURM itself looks after the memory of jobs, every second.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherParams=OverMemoryKill,UsePss
JobAcctGatherFrequency=task=1
AccountingStorageType=accounting_storage/{accounting}
MpiDefault=none
MailProg=/bin/true
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
SchedulerParameters=sched_interval=1,sched_min_interval=100000,bf_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=3
MinJobAge=600
InactiveLimit=0
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=2000 State=UNKNOWN\n"
ACCOUNTING = """\
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={home}/munge/socket
"""
SLURMDBD = """\
AuthType=auth/munge
AuthInfo=socket={home}/munge/socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
LogFile={home}/slurmdbd.log
PidFile={home}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost={server.host}
StoragePort={server.port}
StorageUser={server.user}
StoragePass={password}
StorageLoc={database}
"""


class SlurmCluster(Throwaway):
    """A throw-away SLURM with its own directory and ports; all its processes end with it, those of its jobs too.

    Parameters
    ----------
    nodes, cpus : int
        How many nodes, named n0, n1, ..., and how many cores each has. They need not be there.
    accounting : tuple of Server and str, optional
        MySQL server and database for slurmdbd, without which there is no `sacct`.
    """

    def __init__(self, nodes: int, cpus: int, accounting: tuple[Server, str] | None = None) -> None:
        programs = ["munged", "slurmctld", "slurmd", "sbatch", *["slurmdbd", "sacct"][: 2 * bool(accounting)]]
        packages = "slurmctld slurmd slurmdbd slurm-client munge"
        self._programs = {name: find_program(name, packages) for name in programs}
        super().__init__("slurm")
        self.nodes = [f"n{index}" for index in range(nodes)]
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.home.chmod(0o755)  # munged insists
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))},
            "SLURM_CONF": str(self.home / "slurm.conf"),
        }
        try:
            self._configure(cpus, accounting)
            self._start(accounting is not None)
        except BaseException:
            self.close()
            raise

    # What users do

    def run(self, *command: str) -> str:
        """Run a command of SLURM and return its output."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def submit(self, script: Path, *options: str) -> str:
        """Submit a batch script; return the ID of its job."""
        return self.run("sbatch", "--parsable", *options, str(script))

    def states(self, job: str) -> list[str]:
        """Return the states of a job, or of all tasks of an array that are listed separately so far."""
        return self.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").split()

    def wait_for_end(self, job: str, seconds: float = 60) -> list[str]:
        """Wait until nothing of a job runs or is pending; return the states of its tasks."""
        deadline = time.monotonic() + seconds
        while set(states := self.states(job)) - ENDED:  # there are many names for jobs that have not ended
            assert time.monotonic() < deadline, f"after {seconds} s job {job} is {states}"
            time.sleep(0.2)
        return states

    def node_of(self, job: str) -> str:
        """Return the node on which a job runs."""
        return self.run("squeue", "--noheader", f"--jobs={job}", "--format=%N")

    # What happens to machines

    def lose_daemon(self, node: str) -> None:
        """End the daemon of a node, and mark the node as down; its jobs go on."""
        daemon = self._daemons.pop(node)
        daemon.kill()
        daemon.wait()
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")

    def lose(self, node: str) -> None:
        """End a node as a power cut would: no process on it has time to notice the death of another."""
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in self._processes(node):
                with suppress(psutil.Error):
                    process.send_signal(number)
        self.lose_daemon(node)

    def recover(self) -> None:
        """Cancel all jobs, and start the nodes that were lost."""
        for node in self.nodes:
            if node not in self._daemons:
                self._start_node(node)
        self.run("scancel", "--quiet", f"--user={_user()}")
        self._wait_for(self._is_idle, "come to rest")

    def stop(self) -> None:
        """End everything that was started here or by its jobs."""
        while found := self._processes():
            for process in found:
                with suppress(psutil.Error):
                    process.kill()
            for daemon in self._daemons.values():
                daemon.wait()

    # Helpers

    def _configure(self, cpus: int, accounting: tuple[Server, str] | None) -> None:
        home, host, user = self.home, socket.gethostname().partition(".")[0], _user()
        conf = CONF.format(
            home=home, host=host, user=user, port=free_port(), accounting="slurmdbd" if accounting else "none"
        )
        conf += "".join(NODE.format(name=name, host=host, port=free_port(), cpus=cpus) for name in self.nodes)
        if accounting:
            port, (server, database) = free_port(), accounting
            conf += ACCOUNTING.format(port=port, home=home)
            dbd = home / "slurmdbd.conf"
            dbd.touch(mode=0o600)  # slurmdbd insists
            dbd.write_text(
                SLURMDBD.format(
                    home=home,
                    host=host,
                    user=user,
                    port=port,
                    server=server,
                    database=database,
                    password=server.password.replace("#", "\\#"),
                )
            )
            self._accounting_port = port
        (home / "slurm.conf").write_text(conf)
        (home / "cgroup.conf").write_text("CgroupPlugin=autodetect\n")
        (home / "state").mkdir()
        (home / "munge").mkdir(mode=0o755)
        key = home / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))

    def _start(self, with_accounting: bool) -> None:
        munge = self.home / "munge"
        self._launch(
            "munged",
            "--foreground",
            "--num-threads=2",
            f"--key-file={munge / 'key'}",
            f"--socket={munge / 'socket'}",
            f"--pid-file={munge / 'pid'}",
            f"--log-file={self.home / 'munged.log'}",
            f"--seed-file={munge / 'seed'}",
        )
        self._wait_for((munge / "socket").exists, "start munged")
        if with_accounting:
            self._launch("slurmdbd", "-D")
            self._wait_for(lambda: _is_listening(self._accounting_port), "start slurmdbd")
        self._launch("slurmctld", "-D", "-c")
        for node in self.nodes:
            self._start_node(node)
        self._wait_for(self._is_idle, "come up")
        if with_accounting:
            self._wait_for(lambda: "127.0.0.1" in self.run("sacctmgr", "-nP", "show", "cluster"), "register")

    def _start_node(self, node: str) -> None:
        self._launch("slurmd", "-D", "-N", node, node=node)

    def _launch(self, program: str, *arguments: str, node: str | None = None) -> None:
        name = node or program
        environment = {**self.environment, **({_NODE: node} if node else {})}
        command = [self._programs[program], *arguments]
        self._daemons[name] = launch(command, self.home / f"{name}.out", env=environment)

    def _is_idle(self) -> bool:
        """Return whether every node is up and idle."""
        with suppress(AssertionError):  # slurmctld may not answer yet
            found = self.run("sinfo", "--noheader", "--Node", "--format=%N %T").splitlines()
            return sorted(found) == sorted(f"{node} idle" for node in self.nodes)
        return False

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            dead = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            if dead or time.monotonic() > deadline:
                raise ServerUnavailable(f"SLURM did not {what}; ended: {dead}; {self._last_words()}")
            time.sleep(0.05)

    def _last_words(self) -> str:
        lines = []
        for log in [*self.home.glob("*.log"), *self.home.glob("*.out")]:
            lines += [
                line for line in log.read_text(errors="replace").splitlines() if "error" in line or "fatal" in line
            ]
        return " | ".join(lines[-3:]) or "they wrote no error"

    def _processes(self, node: str | None = None) -> list[psutil.Process]:
        """Return the processes of this cluster, or of one of its nodes, with everything that its jobs have started."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                place = self._place(process)
                if place is not None and node in (None, place) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _place(self, process: psutil.Process) -> str | None:
        """Return the node that a process of this cluster is on, or "" for none; None for any other process."""
        environment = process.environ()
        if environment.get("SLURM_CONF") == self.environment["SLURM_CONF"] and process.pid != self._owner:
            return environment.get(_NODE, "")
        if process.name() == "slurmstepd":  # its title overwrites its environment
            logs = {str(self.home / f"slurmd-{node}.log"): node for node in self.nodes}
            return next((logs[file.path] for file in process.open_files() if file.path in logs), None)
        return None


def _user() -> str:
    return psutil.Process().username()


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
