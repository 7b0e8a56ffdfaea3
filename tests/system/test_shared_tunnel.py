"""One SSH tunnel a machine: the first worker that needs it opens it, others use it, and failures do not end it."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
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
from tests.support.apart import command
from tests.support.server import Server
from tests.support.sshd import SshServer, is_free, private_home, running
from tests.support.study import experimenter, isolations, outcomes, study, wait_until
from tests.support.target import Target


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshServer]:
    """An SSH server, and a home and runtime directory of the test's own."""
    with private_home(tmp_path / "home", monkeypatch), running() as server:
        get_reusable_executor().shutdown(wait=True)  # joblib's processes of other tests have another environment
        yield server


@pytest.fixture
def far(sshd: SshServer, mariadb_target: Target, tmp_path: Path) -> Target:
    """The database, reached only through SSH."""
    assert mariadb_target.server is not None
    return behind(sshd, mariadb_target.server, mariadb_target.database, tmp_path)


def behind(sshd: SshServer, server: Server, database: str, tmp_path: Path) -> Target:
    """Return a database that is reached only through SSH."""
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
    return Target(server.provider, server.provider, database, server, file)


def far_study(far: Target, rows: int, tmp_path: Path, isolation: str = "process", **options: Any) -> PyExperimenter:
    seeds = {"seed": {"type": "INT", "values": {"start": 0, "stop": rows}}}
    logging = {name: options.pop(name) for name in ("log_level", "logger_name") if name in options}
    execution = {"isolation": isolation, "max_outage": "60s", "journal": str(tmp_path), **options}
    config = study(far, keyfields=seeds, Execution=execution, Custom={"signs": str(tmp_path)})
    opened = experimenter(far, config, use_ssh_tunnel=True, **logging)
    opened.fill_table_from_config()
    return opened


def wait_for_sign(keyfields: dict[str, Any], results: object, custom: dict[str, Any]) -> dict[str, Any]:
    """Report the start, and run until the test ends it."""
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
    get_reusable_executor().shutdown(wait=True)  # its idle processes use it, too
    wait_until(lambda: not sshd.connections)
    assert far_study_.counts()["done"] == 8  # opened again when needed
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


def execute(far: Target, tmp_path: Path) -> None:
    """Execute the study with two workers."""
    # Processes of pytest-xdist, and a shell's in the background, are started without it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(far_study(far, 6, tmp_path, grace=0.5).execute(wait_for_sign, n_jobs=2))


def start(far: Target, tmp_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(partial(execute, replace(far, server=None), tmp_path)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_several_calls_use_one_that_survives_its_opener(sshd: SshServer, far: Target, tmp_path: Path) -> None:
    far_study(far, 6, tmp_path).close_ssh()
    wait_until(lambda: not sshd.connections)
    logins = sshd.logins
    first = start(far, tmp_path)
    wait_until(lambda: began(tmp_path) == 2)
    second = start(far, tmp_path)
    wait_until(lambda: began(tmp_path) == 4)
    orphans = psutil.Process(first.pid).children()
    first.kill()
    first.communicate()
    assert len(orphans) == 2
    psutil.wait_procs(orphans, 60)  # they give back what they had
    (tmp_path / "go").touch()
    printed, errors = second.communicate(timeout=60)
    assert printed == "6\n", errors
    assert outcomes(far) == {"done": 6, "released": 2}
    assert not any(orphan.is_running() for orphan in orphans)
    assert sshd.logins == logins + 1
    wait_until(lambda: not sshd.connections)


def test_a_suspended_process_that_opened_it_holds_up_no_other(sshd: SshServer, far: Target, tmp_path: Path) -> None:
    far_study(far, 6, tmp_path).close_ssh()
    wait_until(lambda: not sshd.connections)
    logins = sshd.logins
    first = start(far, tmp_path)
    wait_until(lambda: began(tmp_path) == 2)
    family = [psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)]
    for process in family:
        process.suspend()
    second = start(far, tmp_path)
    wait_until(lambda: began(tmp_path) == 4)
    (tmp_path / "go").touch()
    printed, errors = second.communicate(timeout=60)
    assert printed == "4\n", errors
    assert sshd.logins == logins + 1
    for process in family:
        process.resume()
    printed, errors = first.communicate(timeout=60)
    assert printed == "2\n", errors
    assert outcomes(far) == {"done": 6}
    wait_until(lambda: not sshd.connections)


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
        wait_until(lambda: is_free(sshd.port))
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


@pytest.mark.parametrize("private_server", ["mariadb", "postgresql"])
@pytest.mark.parametrize("away", ["database", "ssh", "both"])
def test_an_outage_is_logged_once_at_its_beginning_and_at_its_end(
    sshd: SshServer,
    private_server: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    away: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO", "py-experimenter")  # other studies of this process may have set it up
    monkeypatch.setattr(logging.getLogger("py-experimenter"), "propagate", True)
    server = request.getfixturevalue(f"private_{private_server}")
    server.create_database("far")
    far = behind(sshd, server, "far", tmp_path)
    opened = far_study(far, 6, tmp_path, log_level="INFO", logger_name="named by the user")
    executed: list[int] = []
    execution = threading.Thread(target=lambda: executed.append(opened.execute(wait_for_sign, n_jobs=2)))
    execution.start()
    wait_until(lambda: began(tmp_path) == 2)
    logins = sshd.logins
    if away != "ssh":
        server.kill()
    if away != "database":
        sshd.stop()
    (tmp_path / "go").touch()
    wait_until(lambda: "waiting" in caplog.text)
    if away != "database":
        sshd.start()
    if away != "ssh":
        server.start()
    execution.join(60)
    assert executed == [6]
    assert outcomes(far) == {"done": 6}
    began_, ended = (record.getMessage() for record in caplog.records if hasattr(record, "outage"))
    assert {record.levelname for record in caplog.records} == {"INFO", "WARNING"}
    study_ = f"{server.provider} far on not.reached.directly:"
    assert began_.startswith(f"waiting up to 1m for {study_}")
    if away == "database":
        assert f"the SSH server 127.0.0.1:{sshd.port} cannot connect to 127.0.0.1:{server.port}: connect" in began_
    else:
        assert f"through 127.0.0.1:{sshd.port}: ssh: connect to host 127.0.0.1 port {sshd.port}: Connection" in began_
    assert ended.startswith(study_)
    assert "works again, after" in ended
    assert sshd.logins == logins + (away != "database")
    opened.close_ssh()


def wait_and_write(keyfields: dict[str, Any], results: Any, custom: dict[str, Any]) -> None:
    wait_for_sign(keyfields, results, custom)
    results.process_results({"accuracy": 1.0})


@pytest.mark.parametrize("way", ["direct", "jump"])
def test_a_tunnel_opened_during_a_run_is_not_ended_after_it(
    sshd: SshServer, far: Target, tmp_path: Path, way: str
) -> None:
    if way == "jump":  # ssh starts another one, which gets another parent when ssh goes to the background
        known = f"HostName 127.0.0.1\n Port {sshd.port}\n IdentityFile {sshd.home}/key\n StrictHostKeyChecking no\n"
        (tmp_path / "home" / ".ssh" / "config").write_text(f"Host jump\n {known}Host behind\n {known} ProxyJump jump\n")
        assert far.credentials_file is not None
        changed = yaml.safe_load(far.credentials_file.read_text())
        changed["CREDENTIALS"]["Connection"]["Ssh"] |= {"address": "behind", "port": 22}
        far.credentials_file.write_text(yaml.safe_dump(changed))
    opened = far_study(far, 6, tmp_path)
    executed: list[int] = []
    execution = threading.Thread(target=lambda: executed.append(opened.execute(wait_and_write, n_jobs=1)))
    execution.start()
    wait_until(lambda: began(tmp_path) == 1)
    sshd.cut()
    wait_until(lambda: not sshd.connections)
    logins = sshd.logins
    (tmp_path / "go").touch()
    execution.join(60)
    assert executed == [6]
    assert sshd.logins == logins + (1 if way == "direct" else 2)
    opened.close_ssh()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_of_an_interrupted_call(sshd: SshServer, far: Target, tmp_path: Path, number: int) -> None:
    process = start(far, tmp_path)
    wait_until(lambda: began(tmp_path) == 2)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert outcomes(far) == {"released": 2}, errors
    assert not any(child.is_running() for child in children)
    wait_until(lambda: not sshd.connections)


def test_an_ssh_that_ends_right_after_its_login_is_replaced(
    sshd: SshServer, far: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "first" / "ssh"
    program.parent.mkdir()
    ends = f'{shutil.which("ssh")} -S "$3" -O exit -q none'  # -S is our second argument
    program.write_text(f'#!/bin/sh\n{shutil.which("ssh")} "$@" && mkdir {tmp_path}/ended 2>/dev/null && {ends}\ntrue\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    opened = far_study(far, 2, tmp_path)
    assert (tmp_path / "ended").is_dir()
    assert opened.execute(lambda *_: None, n_jobs=1) == 2
    opened.close_ssh()


def test_a_directory_whose_path_is_too_long_for_a_socket(
    sshd: SshServer, far: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    opened = far_study(far, 2, tmp_path)
    assert opened.execute(lambda *_: None, n_jobs=1) == 2
    assert list(long.iterdir()) == []
    assert shared_tunnel._directory_of_this_process().stat().st_mode & 0o077 == 0
    assert sshd.logins == 2  # the worker has its own
    opened.close_ssh()


def test_a_directory_that_others_may_write_to_is_not_trusted(
    sshd: SshServer, far: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(os.environ["XDG_RUNTIME_DIR"])
    temporary = run / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))  # of the workers
    ours = temporary / f"pyexperimenter-{os.getuid()}"
    run.chmod(0o777)
    opened = far_study(far, 2, tmp_path)
    assert {path.stat().st_mode & 0o077 for path in (ours, *ours.iterdir())} == {0}  # that of TMPDIR serves
    assert opened.execute(lambda *_: None, n_jobs=1) == 2
    assert sshd.logins == 1
    opened.close_ssh()
    ours.chmod(0o777)
    opened.reset_experiments("done")
    assert opened.execute(lambda *_: None, n_jobs=1) == 2
    assert list(run.iterdir()) == [temporary]
    assert sshd.logins == 3  # the worker has its own
    opened.close_ssh()
