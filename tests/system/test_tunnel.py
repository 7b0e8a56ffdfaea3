"""Tunnels to a real database server through a real, private SSH server."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import paramiko
import psutil
import pymysql
import pytest
import yaml

from pyexperimenter.config.model import Secret, SshConfig
from pyexperimenter.database.ssh.tunnel import Tunnel, open_tunnel
from pyexperimenter.exceptions import SshTunnelError
from tests.support.mysql import MySQLServer
from tests.support.server import Server
from tests.support.sshd import PASSPHRASE, SshServer, answers, make_key, running
from tests.support.study import experimenter, study, wait_until
from tests.support.target import Target

# A connection that fails in paramiko is closed only by the garbage collector, which says so.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

WRONG = "hunter2"


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with running(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of the test's own: a person's keys, agent and ~/.ssh/config stay out of the tests."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # tunnels of others, too
    (tmp_path / ".ssh").mkdir()
    yield tmp_path
    gc.collect()  # here, where the filter above holds


def database(target: Target) -> Server:
    assert target.server is not None
    return target.server


def through(tunnel: Tunnel, target: Target) -> Any:
    """Connect to the database by the tunnel."""
    server = database(target)
    assert tunnel.port != server.port
    return MySQLServer("tunnelled", tunnel.host, tunnel.port, server.user, server.password).connect(target.database)


def check_query(tunnel: Tunnel, target: Target) -> None:
    with through(tunnel, target) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT DATABASE()")
        assert cursor.fetchone() == (target.database,)


def failure(ssh: SshConfig) -> str:
    """Return the message of the error, which must not show a secret, not even with its traceback."""
    with pytest.raises(SshTunnelError) as caught:
        open_tunnel(ssh, "db.example.org", 3307)
    shown = "".join(traceback.format_exception(caught.value))
    assert PASSPHRASE not in shown
    assert WRONG not in shown
    message = str(caught.value)
    assert f"no SSH tunnel to the database db.example.org:3307 through {ssh.address}:{ssh.port}: " in message
    return message


def test_queries_pass_side_by_side(sshd: SshServer, mariadb_target: Target) -> None:
    mariadb_target.query("CREATE TABLE notes (note LONGTEXT)")
    tunnel = open_tunnel(sshd.config(remote_port=database(mariadb_target).port), "localhost", 3306)
    texts = [letter * 300_000 for letter in "abcd"]  # more than fits into one packet

    def write(text: str) -> None:
        with through(tunnel, mariadb_target) as connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO notes VALUES (%s)", (text,))

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with through(tunnel, mariadb_target) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT note FROM notes ORDER BY note")
        assert [note for (note,) in cursor.fetchall()] == texts
    tunnel.close()


def test_close_ends_it_and_what_runs_through_it(sshd: SshServer, mariadb_target: Target) -> None:
    before = set(threading.enumerate())

    def threads() -> list[threading.Thread]:
        new = set(threading.enumerate()) - before
        return [thread for thread in new if isinstance(thread, paramiko.Transport) or thread.name.startswith("SSH")]

    tunnel = open_tunnel(sshd.config(remote_port=database(mariadb_target).port), "localhost", 3306)
    with through(tunnel, mariadb_target) as connection, connection.cursor() as cursor:
        assert threads()
        tunnel.close()
        with pytest.raises(pymysql.Error):
            cursor.execute("SELECT 1")
    assert not answers(tunnel.port)
    wait_until(lambda: not threads())
    tunnel.close()


def test_listens_on_the_local_port_that_is_asked_for_if_it_is_free(sshd: SshServer, mariadb_target: Target) -> None:
    remote = database(mariadb_target).port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = int(probe.getsockname()[1])
    first = open_tunnel(sshd.config(remote_port=remote, local_port=free), "localhost", 3306)
    second = open_tunnel(sshd.config(remote_port=remote, local_port=free), "localhost", 3306)  # as of a second worker
    assert (first.host, first.port) == ("127.0.0.1", free)
    assert second.port != free
    for tunnel in (first, second):
        check_query(tunnel, mariadb_target)
        tunnel.close()
    assert "cannot listen on 203.0.113.1" in failure(sshd.config(local_address="203.0.113.1"))


def test_key_with_passphrase(sshd: SshServer, mariadb_target: Target) -> None:
    port = database(mariadb_target).port
    ssh = sshd.config("locked", remote_port=port, private_key_password=Secret(PASSPHRASE))
    tunnel = open_tunnel(ssh, "localhost", 3306)
    check_query(tunnel, mariadb_target)
    tunnel.close()


@pytest.mark.parametrize("passphrase", ["", PASSPHRASE])
def test_default_key_of_the_home(sshd: SshServer, mariadb_target: Target, empty_home: Path, passphrase: str) -> None:
    shutil.copy(sshd.home / ("locked" if passphrase else "key"), empty_home / ".ssh" / "id_ed25519")
    secret = {"private_key_password": Secret(passphrase)} if passphrase else {}
    tunnel = open_tunnel(sshd.config(None, remote_port=database(mariadb_target).port, **secret), "localhost", 3306)
    check_query(tunnel, mariadb_target)
    tunnel.close()


def test_key_of_the_agent(sshd: SshServer, mariadb_target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    where = str(sshd.home / "agent")
    with subprocess.Popen(["ssh-agent", "-D", "-a", where], stdout=subprocess.DEVNULL) as agent:
        try:
            wait_until(lambda: os.path.exists(where))
            monkeypatch.setenv("SSH_AUTH_SOCK", where)
            subprocess.run(["ssh-add", "-q", str(sshd.home / "key")], check=True)
            ssh = sshd.config(None, remote_port=database(mariadb_target).port)
            tunnel = open_tunnel(ssh, "localhost", 3306)
            check_query(tunnel, mariadb_target)
            tunnel.close()
            assert "was refused" in failure(sshd.config("stranger"))  # a key that is named is the only one tried
        finally:
            agent.terminate()


def test_alias_of_the_ssh_config(sshd: SshServer, mariadb_target: Target, empty_home: Path) -> None:
    (empty_home / ".ssh" / "config").write_text(
        f"Host gateway\n HostName 127.0.0.1\n Port {sshd.port}\n IdentityFile {sshd.home}/locked\n"
    )
    ssh = SshConfig("gateway", private_key_password=Secret(PASSPHRASE), remote_port=database(mariadb_target).port)
    tunnel = open_tunnel(ssh, "localhost", 3306)
    check_query(tunnel, mariadb_target)
    tunnel.close()


def test_proxy_command_of_the_ssh_config(sshd: SshServer, mariadb_target: Target, empty_home: Path) -> None:
    jump = f"ssh -F none -i {sshd.home}/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -p {sshd.port}"
    (empty_home / ".ssh" / "config").write_text(
        f"Host behind\n HostName 127.0.0.1\n Port {sshd.port}\n ProxyCommand {jump} -W %h:%p 127.0.0.1\n"
    )
    logins, before = sshd.logins, set(psutil.Process().children())
    tunnel = open_tunnel(sshd.config(address="behind", port=22, remote_port=database(mariadb_target).port), "db", 3306)
    check_query(tunnel, mariadb_target)
    assert sshd.logins == logins + 2
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    check_query(tunnel, mariadb_target)  # the fork did not end the command
    (command,) = set(psutil.Process().children()) - before
    tunnel.close()
    assert not command.is_running()


def test_jump_of_the_ssh_config(
    sshd: SshServer, mariadb_target: Target, empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = empty_home / ".ssh" / "config"
    keys = f"IdentityFile {sshd.home}/key\n StrictHostKeyChecking no\n UserKnownHostsFile /dev/null"
    hops = [f"Host {name}\n HostName 127.0.0.1\n Port {sshd.port}\n {keys}\n" for name in ("one", "two", "behind")]
    config.write_text("".join(hops) + " ProxyJump one,two\n")
    program = empty_home / "bin" / "ssh"  # which reads ~/.ssh/config of the user, wherever HOME is
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {config} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    logins = sshd.logins
    tunnel = open_tunnel(sshd.config(address="behind", port=22, remote_port=database(mariadb_target).port), "db", 3306)
    check_query(tunnel, mariadb_target)
    tunnel.close()
    assert sshd.logins == logins + 3


class PasswordOnly(paramiko.ServerInterface):
    """An SSH server that takes a password: sshd takes those of the machine's users only."""

    def get_allowed_auths(self, username: str) -> str:
        return "password"

    def check_auth_password(self, username: str, password: str) -> int:
        right = (username, password) == ("somebody", PASSPHRASE)
        return paramiko.AUTH_SUCCESSFUL if right else paramiko.AUTH_FAILED


def test_password(sshd: SshServer) -> None:
    transports = []

    def serve() -> None:
        for _ in range(2):
            transport = paramiko.Transport(listener.accept()[0])
            transports.append(transport)
            transport.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(sshd.home / "host")))
            transport.start_server(server=PasswordOnly())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        ssh = sshd.config(None, port=listener.getsockname()[1], user="somebody")
        open_tunnel(replace(ssh, password=Secret(PASSPHRASE)), "localhost", 3306).close()
        message = failure(replace(ssh, password=Secret(WRONG)))
        thread.join(30)
    assert "'somebody' with the keys of the agent and of ~/.ssh and the password was refused" in message
    for transport in transports:
        transport.close()


def known(sshd: SshServer, home: Path, key: str, hashed: bool = False, names: str = "") -> None:
    """Write down that the server has this key."""
    kind, base64 = (sshd.home / f"{key}.pub").read_text().split()[:2]
    file = home / ".ssh" / "known_hosts"
    with file.open("a") as lines:
        lines.write(f"{names or f'[127.0.0.1]:{sshd.port}'} {kind} {base64}\n")
    if hashed:
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, capture_output=True)


@pytest.mark.parametrize("hashed", [False, True])
def test_key_of_a_known_server(
    sshd: SshServer, mariadb_target: Target, empty_home: Path, caplog: pytest.LogCaptureFixture, hashed: bool
) -> None:
    known(sshd, empty_home, "stranger")  # a server of that name may have one key of several
    known(sshd, empty_home, "host", hashed)
    tunnel = open_tunnel(sshd.config(remote_port=database(mariadb_target).port), "localhost", 3306)
    check_query(tunnel, mariadb_target)
    tunnel.close()
    assert "known_hosts" not in caplog.text


@pytest.mark.parametrize("hashed", [False, True])
def test_known_server_with_another_key_is_refused(sshd: SshServer, empty_home: Path, hashed: bool) -> None:
    known(sshd, empty_home, "stranger", hashed)
    logins = sshd.logins
    message = failure(sshd.config(password=Secret(WRONG)))
    assert f"[127.0.0.1]:{sshd.port} shows a key (ssh-ed25519 SHA256:" in message
    assert f"run: ssh-keygen -R '[127.0.0.1]:{sshd.port}'" in message
    assert "\n" not in message
    assert sshd.logins == logins


def test_revoked_key_is_refused(sshd: SshServer, empty_home: Path) -> None:
    known(sshd, empty_home, "host")
    known(sshd, empty_home, "host", names="@revoked *")
    assert "is marked as revoked" in failure(sshd.config())


def test_server_of_several_keys_shows_the_one_that_is_known(
    sshd: SshServer, empty_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with running(tmp_path_factory.mktemp("several")) as server:
        make_key(server.home / "rsa", kind="rsa")
        server.stop()
        server.start(f"HostKey {server.home}/rsa")
        known(server, empty_home, "rsa")
        open_tunnel(server.config(), "localhost", 3306).close()
        make_key(server.home / "other", kind="rsa")
        (empty_home / ".ssh" / "known_hosts").unlink()
        known(server, empty_home, "other")
        assert "shows a key (ssh-rsa" in failure(server.config())


def test_unknown_server_is_told_once(
    sshd: SshServer, empty_home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pyexperimenter.database.ssh.tunnel._TOLD", set())
    caplog.set_level("WARNING", "py-experimenter")
    known(sshd, empty_home, "stranger", names="other.example.org,127.0.0.1")  # at another port, another server
    for _ in range(2):
        open_tunnel(sshd.config(), "localhost", 3306).close()
    (told,) = [record.getMessage() for record in caplog.records if "known_hosts" in record.getMessage()]
    assert f"the SSH server [127.0.0.1]:{sshd.port} is in no known_hosts file" in told


def test_refused_key(sshd: SshServer) -> None:
    message = failure(sshd.config("stranger", user="somebody"))
    assert f"'somebody' with the key {sshd.home}/stranger was refused; check user and ssh_private_key" in message
    assert "and the password was refused" in failure(sshd.config("stranger", password=Secret(WRONG)))


def test_key_of_the_home_is_not_tried_if_another_is_named(sshd: SshServer, empty_home: Path) -> None:
    shutil.copy(sshd.home / "key", empty_home / ".ssh" / "id_ed25519")
    assert "was refused" in failure(sshd.config("stranger"))


def test_key_that_cannot_be_used(sshd: SshServer) -> None:
    assert "has another passphrase" in failure(sshd.config("locked", private_key_password=Secret(WRONG)))
    assert "needs a passphrase" in failure(sshd.config("locked"))
    assert "or is no private key" in failure(sshd.config("config"))
    assert f"cannot read the key file {sshd.home}/missing: [Errno 2]" in failure(sshd.config("missing"))
    assert "there is no key to log in with, and no password; name user" in failure(sshd.config(None))


def test_locked_default_key_is_named(sshd: SshServer, empty_home: Path) -> None:
    """One that needs a passphrase is skipped; whoever gets no further should learn of it."""
    shutil.copy(sshd.home / "locked", empty_home / ".ssh" / "id_rsa")
    assert "id_rsa needs a passphrase" in failure(sshd.config(None))
    shutil.copy(sshd.home / "stranger", empty_home / ".ssh" / "id_ed25519")
    assert f"was refused (the key {empty_home}/.ssh/id_rsa needs a passphrase" in failure(sshd.config(None))


def test_unreachable_server(sshd: SshServer) -> None:
    with socket.socket() as reserved:  # bound, but not listening
        reserved.bind(("127.0.0.1", 0))
        message = failure(sshd.config(port=reserved.getsockname()[1]))
    assert "Connection refused" in message
    assert "check address and port" in message
    assert "no-such-host.invalid" in failure(sshd.config(address="no-such-host.invalid"))


def test_database_that_the_server_cannot_reach_is_told(sshd: SshServer, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        tunnel = open_tunnel(sshd.config(remote_port=port), "localhost", 3306)
        with caplog.at_level(logging.ERROR), pytest.raises(pymysql.OperationalError):
            MySQLServer("nowhere", tunnel.host, tunnel.port, "anybody", WRONG).connect()
        wait_until(lambda: str(port) in caplog.text)
    tunnel.close()


def test_missing_package(sshd: SshServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paramiko", None)
    assert "pip install pyexperimenter[ssh]" in failure(sshd.config())


def test_import_is_lazy() -> None:
    code = "import sys, pyexperimenter.database.ssh.tunnel; sys.exit('paramiko' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=_environment())


def test_forked_child_leaves_it_open_and_the_end_closes_it(sshd: SshServer, mariadb_target: Target) -> None:
    code = """
        import gc, os, signal, socket, sys
        from pyexperimenter.config.model import SshConfig
        from pyexperimenter.database.ssh.tunnel import open_tunnel

        key, ssh_port, remote_port = sys.argv[1], *map(int, sys.argv[2:])
        ssh = SshConfig("127.0.0.1", ssh_port, private_key=key, remote_port=remote_port)
        tunnel = open_tunnel(ssh, "localhost", 3306)

        def greeted():
            with socket.create_connection((tunnel.host, tunnel.port), timeout=30) as connection:
                return b"MariaDB" in connection.recv(200)

        for close in (True, False):
            child = os.fork()
            if not child:
                signal.alarm(30)  # ends it if it waits for threads that only its parent has
                ok = greeted()
                if close:
                    tunnel.close()
                del tunnel
                gc.collect()
                sys.exit(0 if ok else 1)
            assert os.waitpid(child, 0)[1] == 0, "child"
            assert greeted()
        print(tunnel.port)
    """
    arguments = [str(sshd.home / "key"), str(sshd.port), str(database(mariadb_target).port)]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # A connection that is on its way when all ends may be told of, but nothing breaks.
    assert "Traceback" not in done.stderr
    assert not answers(int(done.stdout))


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONWARNINGS": "ignore"}


@pytest.mark.parametrize("target", ["mariadb", "postgresql"], indirect=True)
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_experimenter_reaches_its_server_through_ssh(
    sshd: SshServer, target: Target, tmp_path: Path, n_jobs: int
) -> None:
    server = database(target)
    ssh = {
        "server": "127.0.0.1",  # as seen from the SSH server
        "address": "127.0.0.1",
        "port": sshd.port,
        "remote_address": "127.0.0.1",
        "remote_port": server.port,
        "ssh_private_key": str(sshd.home / "key"),
    }
    connection = {"Standard": {"server": "not.reached.directly"}, "Ssh": ssh}
    user = {"user": server.user, "password": server.password}
    (tmp_path / "credentials.yml").write_text(
        yaml.safe_dump({"CREDENTIALS": {"Database": user, "Connection": connection}})
    )
    tunnelled = replace(target, credentials_file=tmp_path / "credentials.yml")
    study_ = experimenter(tunnelled, study(target, n_jobs=n_jobs), use_ssh_tunnel=True)
    assert study_.fill_table_from_config() == (6, 0)
    assert study_.execute(lambda *_: {"accuracy": 1}) == 6
    assert target.query("SELECT status, COUNT(*) FROM study GROUP BY status") == [("done", 6)]
    study_.close_ssh()
    assert study_.counts()["done"] == 6  # opened anew when needed
    study_.close_ssh()


def test_the_predecessors_credentials(
    sshd: SshServer, mariadb_target: Target, tmp_path: Path, empty_home: Path
) -> None:
    server = database(mariadb_target)
    shutil.copy(sshd.home / "locked", empty_home / ".ssh" / "id_ed25519")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = int(probe.getsockname()[1])
    ssh = {
        "server": "127.0.0.1",
        "address": "127.0.0.1",
        "port": sshd.port,
        "ssh_private_key_password": PASSPHRASE,
        "remote_address": "127.0.0.1",
        "remote_port": server.port,
        "local_address": "127.0.0.1",
        "local_port": free,
    }
    file = tmp_path / "credentials.yml"
    file.touch(0o600)
    user = {"user": server.user, "password": server.password}
    connection = {"Standard": {"server": "not.reached.directly"}, "Ssh": ssh}
    file.write_text(yaml.safe_dump({"CREDENTIALS": {"Database": user, "Connection": connection}}))
    target = Target("mariadb", "mysql", mariadb_target.database, server, file)
    study_ = experimenter(target, study(target), use_ssh_tunnel=True)
    assert study_.fill_table_from_config() == (6, 0)
    assert answers(free)
    study_.close_ssh()
    assert not answers(free)
