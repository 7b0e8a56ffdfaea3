"""One SSH tunnel a machine: whoever needs it first opens it, the others use it, and it survives what happens to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import psutil
import pytest
import yaml
from joblib.externals.loky import get_reusable_executor

from pyexperimenter import PyExperimenter
from pyexperimenter.database.ssh import shared_tunnel
from pyexperimenter.exceptions import SshTunnelError
from tests.support.sshd import SshServer, answers, running
from tests.support.study import experimenter, isolations, outcomes, study, wait_until
from tests.support.target import Target

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshServer]:
    """An SSH server, and a home and runtime directory of the test's own."""
    for name in ("sshd", "home", "home/.ssh", "run"):
        (tmp_path / name).mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with running(tmp_path / "sshd") as server:
        get_reusable_executor().shutdown(wait=True)  # joblib's processes of other tests have another environment
        yield server


@pytest.fixture
def far(sshd: SshServer, mariadb_target: Target, tmp_path: Path) -> Target:
    """The database, for those who reach it by SSH only."""
    server = mariadb_target.server
    assert server is not None
    ssh = {
        "server": "127.0.0.1",
        "address": "127.0.0.1",
        "port": sshd.port,
        "remote_address": "127.0.0.1",
        "remote_port": server.port,
        "ssh_private_key": str(sshd.home / "key"),
    }
    connection = {"Standard": {"server": "not.reached.directly"}, "Ssh": ssh}
    file = tmp_path / "far_credentials.yml"
    file.touch(0o600)
    user = {"user": server.user, "password": server.password}
    file.write_text(yaml.safe_dump({"CREDENTIALS": {"Database": user, "Connection": connection}}))
    return Target("mariadb", "mysql", mariadb_target.database, server, file)


def far_study(far: Target, rows: int, tmp_path: Path, isolation: str = "process", **options: Any) -> PyExperimenter:
    seeds = {"seed": {"type": "INT", "values": {"start": 0, "stop": rows}}}
    execution = {"isolation": isolation, "max_outage": "60s", "journal": str(tmp_path), **options}
    config = study(far, keyfields=seeds, Execution=execution, Custom={"signs": str(tmp_path)})
    opened = experimenter(far, config, use_ssh_tunnel=True)
    opened.fill_table_from_config()
    return opened


def wait_for_sign(keyfields: dict[str, Any], results: object, custom: dict[str, Any]) -> dict[str, Any]:
    """Tell that it runs, and run until the test says so."""
    from pathlib import Path
    from time import sleep

    (Path(custom["signs"]) / f"began_{keyfields['seed']}").touch()
    while not (Path(custom["signs"]) / "go").exists():
        sleep(0.01)
    return {"accuracy": 1.0}


def began(tmp_path: Path) -> int:
    return len(list(tmp_path.glob("began_*")))


@isolations
def test_all_workers_use_one(sshd: SshServer, far: Target, tmp_path: Path, isolation: str) -> None:
    far_study_ = far_study(far, 8, tmp_path, isolation)
    assert far_study_.execute(lambda *_: {"accuracy": 1.0}, n_jobs=4) == 8
    assert far_study_.counts()["done"] == 8
    assert sshd.logins == 1
    far_study_.close_ssh()
    assert far_study_.counts()["done"] == 8  # opened anew when needed
    assert sshd.logins == 2
    far_study_.close_ssh()


def test_workers_of_a_joblib_cluster_use_it(sshd: SshServer, far: Target, tmp_path: Path) -> None:
    """Processes that are not our children; on another machine they would open one there."""
    from dask.distributed import Client

    opened = far_study(far, 4, tmp_path)
    with (
        Client(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None),
        joblib.parallel_config(backend="dask"),
    ):
        assert opened.execute(lambda *_: {"accuracy": 1.0}, n_jobs=2) == 4
    assert sshd.logins == 1
    opened.close_ssh()


def start(far: Target, tmp_path: Path) -> subprocess.Popen[str]:
    """Start a process that executes the study with two workers."""
    code = (
        "import signal, sys; from pathlib import Path\n"
        "from tests.support.target import Target; from test_shared_tunnel import *\n"
        # Processes of pytest-xdist, and a shell's in the background, are started without it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "target = Target('mariadb', 'mysql', sys.argv[1], None, Path(sys.argv[2]))\n"
        "print(far_study(target, 6, Path(sys.argv[3]), grace=0.5).execute(wait_for_sign, n_jobs=2))"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    return subprocess.Popen(
        [sys.executable, "-c", code, far.database, str(far.credentials_file), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def listening(process: subprocess.Popen[str]) -> list[int]:
    return [
        connection.laddr.port
        for connection in psutil.Process(process.pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]


def test_several_calls_use_one_and_go_on_when_its_owner_is_killed(sshd: SshServer, far: Target, tmp_path: Path) -> None:
    far_study(far, 6, tmp_path).close_ssh()
    logins = sshd.logins
    first = start(far, tmp_path)
    wait_until(lambda: began(tmp_path) == 2)
    second = start(far, tmp_path)
    wait_until(lambda: began(tmp_path) == 4)
    assert sshd.logins == logins + 1
    assert (len(listening(first)), len(listening(second))) == (1, 0)
    orphans = psutil.Process(first.pid).children()
    first.kill()
    first.communicate()
    assert len(orphans) == 2
    psutil.wait_procs(orphans, 60)  # they give back what they had, by a tunnel of their own
    (tmp_path / "go").touch()
    printed, errors = second.communicate(timeout=60)
    assert printed == "6\n", errors
    assert outcomes(far) == {"done": 6, "released": 2}
    assert not any(orphan.is_running() for orphan in orphans)
    wait_until(lambda: len(psutil.Process(sshd.pid).children()) == 0)  # nobody is connected


@pytest.mark.parametrize("happens", ["restart", "cut"])
def test_workers_wait_for_it_when_it_breaks(sshd: SshServer, far: Target, tmp_path: Path, happens: str) -> None:
    opened = far_study(far, 6, tmp_path)
    ssh = opened.config.database.credentials.ssh
    assert ssh is not None
    port = shared_tunnel.tunnel_address(ssh, "", 0)[1]
    executed: list[int] = []
    execution = threading.Thread(target=lambda: executed.append(opened.execute(wait_for_sign, n_jobs=2)))
    execution.start()
    wait_until(lambda: began(tmp_path) == 2)
    if happens == "cut":
        sshd.cut()
    else:
        sshd.stop()
        (tmp_path / "go").touch()
        wait_until(lambda: not answers(sshd.port))
        with pytest.raises(SshTunnelError, match="Connection refused"):
            wait_until(lambda: shared_tunnel.tunnel_address(ssh, "", 0) is None)
        sshd.start()
    (tmp_path / "go").touch()
    execution.join(60)
    assert executed == [6]
    assert outcomes(far) == {"done": 6}
    assert shared_tunnel.tunnel_address(ssh, "", 0)[1] == port
    assert sshd.logins == 2
    opened.close_ssh()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_of_an_interrupted_call(sshd: SshServer, far: Target, tmp_path: Path, number: int) -> None:
    process = start(far, tmp_path)
    wait_until(lambda: began(tmp_path) == 2)
    (port,) = listening(process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert outcomes(far) == {"released": 2}, errors
    assert not answers(port)
    assert not any(child.is_running() for child in children)
    wait_until(lambda: len(psutil.Process(sshd.pid).children()) == 0)


def test_threads_end_with_it(sshd: SshServer, far: Target, tmp_path: Path) -> None:
    def threads() -> set[str]:
        return {thread.name for thread in threading.enumerate() if "SSH" in thread.name} | {
            thread.name for thread in threading.enumerate() if type(thread).__name__ == "Transport"
        }

    opened = far_study(far, 2, tmp_path)
    assert threads()
    opened.close_ssh()
    wait_until(lambda: not threads())


def test_a_fork_does_not_keep_it(sshd: SshServer, far: Target, tmp_path: Path) -> None:
    """A process that a function leaves behind holds neither the port nor the lock."""
    opened = far_study(far, 2, tmp_path)
    ssh = opened.config.database.credentials.ssh
    assert ssh is not None
    (own,) = shared_tunnel._own.values()
    listener, login = own.tunnel._listener, own.tunnel._login
    assert login is not None
    held, release = os.pipe()
    child = os.fork()
    if not child:
        os.close(release)
        os.read(held, 1)
        os._exit(0 if listener.fileno() == login.sock.fileno() == -1 else 1)
    try:
        opened.close_ssh()
        shared_tunnel.tunnel_address(ssh, "", 0)
        assert ssh in shared_tunnel._own  # not somebody else's, whose port would be waited for
        opened.close_ssh()
    finally:
        os.close(release)
        _, status = os.waitpid(child, 0)
    assert status == 0


def test_a_directory_that_others_may_write_to_is_not_trusted(
    sshd: SshServer, far: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # of the workers
    ours = tmp_path / f"pyexperimenter-{os.getuid()}"
    (tmp_path / "run").chmod(0o777)
    opened = far_study(far, 2, tmp_path)
    assert [path.stat().st_mode & 0o077 for path in (ours, *ours.iterdir())] == [0, 0]  # that of TMPDIR serves
    assert opened.execute(lambda *_: None, n_jobs=1) == 2
    assert sshd.logins == 1
    opened.close_ssh()
    ours.chmod(0o777)
    opened.reset_experiments("done")
    assert opened.execute(lambda *_: None, n_jobs=1) == 2
    assert list((tmp_path / "run").iterdir()) == []
    assert sshd.logins == 3  # the worker has its own
    opened.close_ssh()
