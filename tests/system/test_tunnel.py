"""Tunnels to a real database server through a real, private SSH server."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pymysql
import pytest
import yaml

from pyexperimenter import PyExperimenter
from pyexperimenter.config.model import Secret, SshConfig
from pyexperimenter.database.ssh import shared_tunnel
from pyexperimenter.database.ssh import tunnel as tunnel_
from pyexperimenter.database.ssh.shared_tunnel import close_tunnel, tunnel_address
from pyexperimenter.exceptions import DatabaseError, ServerUnreachableError, SshTunnelError
from pyexperimenter.machine.locks import lock_file
from tests.support.mysql import MySQLServer
from tests.support.server import Server
from tests.support.sshd import (
    PASSPHRASE,
    SOON_GONE,
    SshServer,
    answers,
    background_ssh,
    is_free,
    make_key,
    private_home,
    running,
)
from tests.support.study import experimenter, study, wait_until
from tests.support.target import Target

WRONG = "hunter2"


@pytest.fixture(scope="module")
def sshd() -> Iterator[SshServer]:
    with running() as server:
        yield server


@pytest.fixture(autouse=True)
def warnings_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Experimenters of other tests in this process may have set a higher level."""
    caplog.set_level("WARNING", "py-experimenter")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with private_home(tmp_path / "home", monkeypatch):
        yield tmp_path / "home"


class Tunnel:
    """This process's use of a tunnel."""

    def __init__(self, ssh: SshConfig) -> None:
        self._ssh = ssh
        self.host, self.port = tunnel_address(ssh, "db.example.org", 3307)

    def close(self) -> None:
        close_tunnel(self._ssh)


def database(target: Target) -> Server:
    assert target.server is not None
    return target.server


def through(tunnel: Tunnel, target: Target) -> Any:
    """Connect to the database through the tunnel."""
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
        Tunnel(ssh)
    shown = "".join(traceback.format_exception(caught.value))
    assert PASSPHRASE not in shown
    assert WRONG not in shown
    message = str(caught.value)
    assert f"no SSH tunnel to the database db.example.org:3307 through {ssh.address}:{ssh.port}: " in message
    return message


def test_queries_pass_side_by_side(sshd: SshServer, mariadb_target: Target) -> None:
    mariadb_target.query("CREATE TABLE notes (note LONGTEXT)")
    tunnel = Tunnel(sshd.config(remote_port=database(mariadb_target).port))
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


def test_ssh_ends_after_its_last_user(sshd: SshServer, mariadb_target: Target, home: Path) -> None:
    program = home / "bin" / "ssh"
    program.write_text(program.read_text().replace(SOON_GONE, ""))  # after the library's own time
    tunnel = Tunnel(sshd.config(remote_port=database(mariadb_target).port))
    with through(tunnel, mariadb_target) as connection, connection.cursor() as cursor:
        tunnel.close()
        cursor.execute("SELECT 1")  # a connection through it is a user, too
    wait_until(lambda: is_free(tunnel.port))
    tunnel.close()


def test_ssh_leaves_our_terminal_and_files_alone(sshd: SshServer, home: Path) -> None:
    with (home / "file").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        tunnel = Tunnel(sshd.config())
    process = background_ssh(f"[127.0.0.1]:{tunnel.port}:")
    assert process.terminal() is None
    assert os.getsid(process.pid) != os.getsid(0)
    assert process.cwd() == "/"
    assert file.name not in [opened.path for opened in process.open_files()]
    assert [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)] == ["/dev/null"] * 3
    tunnel.close()
    process.wait(60)


def test_listens_on_the_local_port_that_is_asked_for_if_it_is_free(sshd: SshServer, mariadb_target: Target) -> None:
    remote = database(mariadb_target).port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = int(probe.getsockname()[1])
    first = Tunnel(sshd.config(remote_port=remote, local_port=free))
    second = Tunnel(sshd.config(remote_port=remote, local_port=free, remote_address="localhost"))  # another route
    assert (first.host, first.port) == ("127.0.0.1", free)
    assert second.port != free
    for tunnel in (first, second):
        check_query(tunnel, mariadb_target)
        tunnel.close()
    assert "cannot listen on 203.0.113.1" in failure(sshd.config(local_address="203.0.113.1"))


def test_port_that_is_taken_during_the_login(
    sshd: SshServer, mariadb_target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with monkeypatch.context() as patch:
            patch.setattr(shared_tunnel, "_free_port", lambda *_: taken)
            message = failure(sshd.config())
        assert f"bind [127.0.0.1]:{taken}: Address already in use" in message
        assert "check local_address and local_port" in message
        ports = iter([taken, shared_tunnel._free_port("127.0.0.1", None)])
        monkeypatch.setattr(shared_tunnel, "_free_port", lambda *_: next(ports))
        tunnel = Tunnel(sshd.config(remote_port=database(mariadb_target).port))
    check_query(tunnel, mariadb_target)
    tunnel.close()


def test_key_with_passphrase(sshd: SshServer, mariadb_target: Target) -> None:
    port = database(mariadb_target).port
    ssh = sshd.config("locked", remote_port=port, private_key_password=Secret(PASSPHRASE))
    tunnel = Tunnel(ssh)
    check_query(tunnel, mariadb_target)
    tunnel.close()


@pytest.mark.parametrize("passphrase", ["", PASSPHRASE])
def test_default_key_of_the_home(sshd: SshServer, mariadb_target: Target, home: Path, passphrase: str) -> None:
    shutil.copy(sshd.home / ("locked" if passphrase else "key"), home / ".ssh" / "id_ed25519")
    secret = {"private_key_password": Secret(passphrase)} if passphrase else {}
    tunnel = Tunnel(sshd.config(None, remote_port=database(mariadb_target).port, **secret))
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
            tunnel = Tunnel(ssh)
            check_query(tunnel, mariadb_target)
            tunnel.close()
            assert "Permission denied" in failure(sshd.config("stranger"))  # a key that is named is the only one tried
        finally:
            agent.terminate()


def test_alias_of_the_ssh_config(sshd: SshServer, mariadb_target: Target, home: Path) -> None:
    (home / ".ssh" / "config").write_text(
        f"Host gateway\n HostName 127.0.0.1\n Port {sshd.port}\n IdentityFile {sshd.home}/locked\n"
    )
    ssh = SshConfig("gateway", private_key_password=Secret(PASSPHRASE), remote_port=database(mariadb_target).port)
    tunnel = Tunnel(ssh)
    check_query(tunnel, mariadb_target)
    tunnel.close()


def test_proxy_command_of_the_ssh_config(sshd: SshServer, mariadb_target: Target, home: Path) -> None:
    jump = f"ssh -F none -i {sshd.home}/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -p {sshd.port}"
    (home / ".ssh" / "config").write_text(
        f"Host behind\n HostName 127.0.0.1\n Port {sshd.port}\n ProxyCommand {jump} -W %h:%p 127.0.0.1\n"
    )
    logins = sshd.logins
    tunnel = Tunnel(sshd.config(address="behind", port=22, remote_port=database(mariadb_target).port))
    check_query(tunnel, mariadb_target)
    assert (sshd.logins - logins) % 2 == 0 < sshd.logins - logins  # twice if we took more than SOON_GONE to join
    tunnel.close()
    wait_until(lambda: not sshd.connections)


@pytest.mark.parametrize("passphrase", ["", PASSPHRASE])
def test_jumps_of_the_ssh_config(sshd: SshServer, mariadb_target: Target, home: Path, passphrase: str) -> None:
    config = home / ".ssh" / "config"
    keys = f"IdentityFile {sshd.home}/key\n StrictHostKeyChecking no"
    hops = [f"Host {name}\n HostName 127.0.0.1\n Port {sshd.port}\n {keys}\n" for name in ("one", "two", "behind")]
    config.write_text("".join(hops) + " ProxyJump one,two\n")
    logins = sshd.logins
    secret = {"private_key_password": Secret(passphrase)} if passphrase else {}
    ssh = sshd.config("locked" if passphrase else "key", address="behind", port=22, **secret)
    tunnel = Tunnel(replace(ssh, remote_port=database(mariadb_target).port))
    check_query(tunnel, mariadb_target)
    assert (sshd.logins - logins) % 3 == 0 < sshd.logins - logins  # twice if we took more than SOON_GONE to join
    tunnel.close()
    wait_until(lambda: not sshd.connections)


HASHED = "$6$salt$Y6g9DOGvmKi.rUZj4wYRsu81e/xiQjZOHDVgZQsASfa8nA3EvFKBHUDMWxS2ICbOEloc1kersS3PKn8yosbNh1"  # PASSPHRASE


@contextmanager
def with_passwords() -> Iterator[SshServer]:
    """An SSH server that lets root in with PASSPHRASE: it has its own shadow file."""
    with closing(SshServer()) as server:
        (server.home / "shadow").write_text(f"root:{HASHED}:19000:0:99999:7:::\n")
        script = f'mount --bind {server.home}/shadow /etc/shadow && exec "$@"'
        wrapper = ["unshare", "--mount", "sh", "-c", script, "sh"]
        server.start("PermitRootLogin yes", "PasswordAuthentication yes", wrapper=wrapper)
        yield server


needs_shadow = pytest.mark.skipif(
    os.system("unshare --mount true 2>/dev/null") != 0,
    reason="NOT TESTED: passwords of SSH, as this user cannot give an sshd a shadow file of its own; run it as root",
)


@needs_shadow
def test_password(sshd: SshServer) -> None:
    with with_passwords() as server:
        ssh = server.config(None, user="root")
        message = failure(replace(ssh, password=Secret(WRONG)))
        assert "the password was refused" in message
        assert "check user, password" in message
        Tunnel(replace(ssh, password=Secret(PASSPHRASE))).close()
        assert server.logins == 1


@needs_shadow
def test_jump_host_gets_no_password(sshd: SshServer, home: Path) -> None:
    """The password is of the SSH server itself."""
    with with_passwords() as jump:
        (home / ".ssh" / "config").write_text(
            f"Host jump\n HostName 127.0.0.1\n Port {jump.port}\n User root\n StrictHostKeyChecking no\n"
            f"Host behind\n HostName 127.0.0.1\n Port {sshd.port}\n ProxyJump jump\n"
        )
        assert "Connection closed" in failure(sshd.config(address="behind", port=22, password=Secret(PASSPHRASE)))
        logged = (jump.home / "log").read_text
        wait_until(lambda: "authenticating user root" in logged())  # its last line, after the ssh ended
        log = logged()
        assert "Accepted" not in log
        assert "Failed password" not in log


def known(sshd: SshServer, home: Path, key: str, hashed: bool = False, names: str = "") -> None:
    """Add this key of the server to known_hosts."""
    kind, base64 = (sshd.home / f"{key}.pub").read_text().split()[:2]
    file = home / ".ssh" / "known_hosts"
    with file.open("a") as lines:
        lines.write(f"{names or f'[127.0.0.1]:{sshd.port}'} {kind} {base64}\n")
    if hashed:
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, capture_output=True)


@pytest.mark.parametrize("hashed", [False, True])
def test_key_of_a_known_server(
    sshd: SshServer, mariadb_target: Target, home: Path, caplog: pytest.LogCaptureFixture, hashed: bool
) -> None:
    known(sshd, home, "stranger")  # a server of that name may have one key of several
    known(sshd, home, "host", hashed)
    ssh = sshd.config(remote_port=database(mariadb_target).port)
    tunnel = Tunnel(ssh)
    check_query(tunnel, mariadb_target)
    tunnel.close()
    assert caplog.messages == []


@pytest.mark.parametrize("hashed", [False, True])
def test_known_server_with_another_key_is_refused(sshd: SshServer, home: Path, hashed: bool) -> None:
    known(sshd, home, "stranger", hashed)
    logins = sshd.logins
    message = failure(sshd.config(password=Secret(WRONG)))
    assert "The fingerprint for the ED25519 key sent by the remote host is SHA256:" in message
    assert f"run: ssh-keygen -R '[127.0.0.1]:{sshd.port}'" in message
    assert "\n" not in message
    assert sshd.logins == logins


def test_revoked_key_is_refused(sshd: SshServer, home: Path) -> None:
    known(sshd, home, "host")
    known(sshd, home, "host", names="@revoked *")
    message = failure(sshd.config())
    assert "is marked as revoked" in message
    assert "check the known_hosts file" in message


def test_server_of_several_keys_shows_the_one_that_is_known(sshd: SshServer, home: Path) -> None:
    with running() as server:
        make_key(server.home / "rsa", kind="rsa")
        server.stop()
        server.start(f"HostKey {server.home}/rsa")
        known(server, home, "rsa")
        Tunnel(server.config()).close()
        make_key(server.home / "other", kind="rsa")
        (home / ".ssh" / "known_hosts").unlink()
        known(server, home, "other")
        assert "The fingerprint for the RSA key" in failure(server.config(remote_port=1))


def test_unknown_server_is_logged_and_added(sshd: SshServer, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    known(sshd, home, "stranger", names="other.example.org,127.0.0.1")  # at another port, another server
    for remote_port in (1, 2):
        Tunnel(sshd.config(remote_port=remote_port)).close()
    (logged,) = [record.getMessage() for record in caplog.records if "known_hosts" in record.getMessage()]
    assert f"The authenticity of host '[127.0.0.1]:{sshd.port}" in logged
    assert "key fingerprint is SHA256:" in logged
    key = (sshd.home / "host.pub").read_text().split()[1]
    assert key in (home / ".ssh" / "known_hosts").read_text()


def test_unknown_server_is_refused_if_the_ssh_config_says_so(sshd: SshServer, home: Path) -> None:
    (home / ".ssh" / "config").write_text("StrictHostKeyChecking yes\n")
    message = failure(sshd.config())
    assert "Host key verification failed" in message
    assert "check the known_hosts file" in message


def test_refused_key(sshd: SshServer) -> None:
    message = failure(sshd.config("stranger", user="somebody"))
    assert "somebody@127.0.0.1: Permission denied" in message
    assert f"check user, password and the private key: {sshd.home}/stranger" in message
    assert "Permission denied" in failure(sshd.config("stranger", password=Secret(WRONG)))


def test_key_of_the_home_is_not_tried_if_another_is_named(sshd: SshServer, home: Path) -> None:
    shutil.copy(sshd.home / "key", home / ".ssh" / "id_ed25519")
    assert "Permission denied" in failure(sshd.config("stranger"))


def test_key_that_cannot_be_used(sshd: SshServer) -> None:
    locked = f"the key '{sshd.home}/locked'"
    wrong = failure(sshd.config("locked", private_key_password=Secret(WRONG)))
    assert f"{locked} does not have the passphrase that was given" in wrong
    assert f"{locked} needs a passphrase" in failure(sshd.config("locked"))
    (sshd.home / "no_key").touch(0o600)
    assert f'Load key "{sshd.home}/no_key": ' in failure(sshd.config("no_key"))
    assert f"cannot read the key file {sshd.home}/missing: [Errno 2]" in failure(sshd.config("missing"))
    assert "the private key: those of the agent and of ~/.ssh" in failure(sshd.config(None))


def test_locked_default_key_is_named(sshd: SshServer, home: Path) -> None:
    """One that needs a passphrase is skipped, and named if no other key is accepted."""
    shutil.copy(sshd.home / "locked", home / ".ssh" / "id_rsa")
    shutil.copy(sshd.home / "stranger", home / ".ssh" / "id_ed25519")
    assert f"the key '{home}/.ssh/id_rsa' needs a passphrase" in failure(sshd.config(None))


def test_unreachable_server(sshd: SshServer) -> None:
    with socket.socket() as reserved:  # bound, but not listening
        reserved.bind(("127.0.0.1", 0))
        message = failure(sshd.config(port=reserved.getsockname()[1]))
    assert "Connection refused" in message
    assert "check address and port" in message
    assert "no-such-host.invalid" in failure(sshd.config(address="no-such-host.invalid"))


@pytest.mark.parametrize("target", ["mariadb", "postgresql"], indirect=True)
def test_database_that_the_ssh_server_cannot_reach(
    sshd: SshServer, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_tunnel, "_LARGEST_LOG", 100)
    with socket.socket() as reserved:  # bound, but not listening
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        study_ = behind_ssh(target, tmp_path, sshd, remote_port=port)
        reason = f"the SSH server 127.0.0.1:{sshd.port} cannot connect to 127.0.0.1:{port}: connect failed: Connection"
        for use in (study_.counts, study_.counts, study_.fill_table_from_config):
            with pytest.raises(ServerUnreachableError, match=f"{reason}.* {target.database} on not.reached.directly:"):
                use()
    (log,) = Path(os.environ["XDG_RUNTIME_DIR"]).glob("*.log")
    assert log.stat().st_size <= 200
    study_.close_ssh()


@pytest.mark.parametrize("target", ["mariadb", "postgresql"], indirect=True)
def test_errors_name_the_server_and_not_the_local_end(sshd: SshServer, target: Target, tmp_path: Path) -> None:
    study_ = behind_ssh(replace(target, database="missing"), tmp_path, sshd)
    with pytest.raises(DatabaseError, match=r"missing on not\.reached\.directly:\d+\)$") as caught:
        study_.counts()
    assert "port" not in str(caught.value)
    study_.close_ssh()


def test_process_that_does_not_open_it_is_not_waited_for_for_ever(
    sshd: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_tunnel, "_LONGEST_WAIT", 0.2)
    ssh = sshd.config()
    stem = shared_tunnel._stem(ssh)
    lock = lock_file(stem)
    assert lock is not None
    with lock:
        assert f"the process that has locked {stem} does not open it; end that process" in failure(ssh)


def test_ssh_that_does_not_stay_in_the_background(sshd: SshServer, home: Path) -> None:
    (home / "bin" / "ssh").write_text("#!/bin/sh\nexit 0\n")
    assert "ssh ended right after the login; try again" in failure(sshd.config())


def test_without_namespaces_all_processes_share_it(sshd: SshServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are Linux's own."""

    def refuse(path: object) -> str:
        raise FileNotFoundError(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "readlink", refuse)
        first = Tunnel(sshd.config())
        assert Tunnel(sshd.config()).port == first.port
        first.close()


def test_missing_program(sshd: SshServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "the program 'ssh' is not on the PATH; install the OpenSSH client" in failure(sshd.config())


def test_suspended_ssh_is_killed_and_replaced(
    sshd: SshServer, mariadb_target: Target, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """For example, of a job that SLURM suspends while another job uses its tunnel."""
    ssh = sshd.config(remote_port=database(mariadb_target).port)
    with monkeypatch.context() as patch:
        patch.setattr(shared_tunnel, "_ROUND", 600)  # only a new connection notices
        first = Tunnel(ssh)
        process = background_ssh(f"[127.0.0.1]:{first.port}:")
        process.suspend()
        second = Tunnel(ssh)
        check_query(second, mariadb_target)
    process.wait(60)
    assert Tunnel(ssh).port == second.port
    (control,) = Path(os.environ["XDG_RUNTIME_DIR"]).glob(f"pe-*-{second.port}")
    assert not shared_tunnel._kill_suspended(control)  # one that runs
    (message,) = [message for message in caplog.messages if "suspended" in message]
    assert f"was suspended (process {process.pid}); opening another tunnel" in message
    second.close()


def test_statement_does_not_wait_for_a_suspended_ssh(
    sshd: SshServer, mariadb_target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_tunnel, "_ROUND", 0.2)
    tunnel = Tunnel(sshd.config(remote_port=database(mariadb_target).port))
    with through(tunnel, mariadb_target) as connection, connection.cursor() as cursor:
        background_ssh(f"[127.0.0.1]:{tunnel.port}:").suspend()
        with pytest.raises(pymysql.OperationalError, match="Lost connection"):
            cursor.execute("SELECT 1")
    tunnel.close()


def test_process_that_is_suspended_during_its_login_holds_up_no_other(
    sshd: SshServer, mariadb_target: Target, home: Path
) -> None:
    program = home / "bin" / "ssh"
    text = program.read_text()
    program.write_text(f"#!/bin/sh\ntouch {home}/began\nexec sleep 600\n")
    code = """
        import sys
        from pyexperimenter.config.model import SshConfig
        from pyexperimenter.database.ssh.shared_tunnel import tunnel_address

        key, ssh_port, remote_port = sys.argv[1], *map(int, sys.argv[2:])
        tunnel_address(SshConfig("127.0.0.1", ssh_port, private_key=key, remote_port=remote_port), "localhost", 3306)
    """
    port = database(mariadb_target).port
    arguments = [str(sshd.home / "key"), str(sshd.port), str(port)]
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *arguments], env=_environment()) as process:
        try:
            wait_until((home / "began").exists)
            process.send_signal(signal.SIGSTOP)
            program.write_text(text)
            tunnel = Tunnel(sshd.config(remote_port=port))
            check_query(tunnel, mariadb_target)
            tunnel.close()
        finally:
            process.kill()


def test_killed_ssh_is_replaced_at_the_same_port(sshd: SshServer, mariadb_target: Target) -> None:
    ssh = sshd.config(remote_port=database(mariadb_target).port)
    first = Tunnel(ssh)
    background_ssh(f"[127.0.0.1]:{first.port}:").kill()
    wait_until(lambda: is_free(first.port))
    second = Tunnel(ssh)
    assert second.port == first.port
    check_query(second, mariadb_target)
    second.close()


def test_connection_that_goes_silent_is_replaced(
    sshd: SshServer, mariadb_target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tunnel_._OPTIONS, "ServerAliveInterval", "1")
    ssh = sshd.config(remote_port=database(mariadb_target).port)
    tunnel = Tunnel(ssh)
    silent = [psutil.Process(pid) for pid in sshd.connections]
    for process in silent:
        process.suspend()
    try:
        wait_until(lambda: is_free(tunnel.port))
        check_query(Tunnel(ssh), mariadb_target)
    finally:
        for process in silent:
            process.resume()
    tunnel.close()


def test_login_that_gets_no_answer(sshd: SshServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ssh = sshd.config(port=silent.getsockname()[1])
        with monkeypatch.context() as patch:
            patch.setitem(tunnel_._OPTIONS, "ConnectTimeout", "1")
            message = failure(ssh)
        assert "timed out" in message
        assert "check address and port" in message
        monkeypatch.setattr(tunnel_, "_LONGEST_LOGIN", 0.5)
        assert "the login took longer than 0.5 seconds" in failure(ssh)


def test_names_with_special_characters(sshd: SshServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.environ["XDG_RUNTIME_DIR"] + "/%h a")
    Path(os.environ["XDG_RUNTIME_DIR"]).mkdir(mode=0o700)
    shutil.copy(sshd.home / "key", home / "my %u 'key'")
    tunnel = Tunnel(sshd.config(None, private_key="~/my %u 'key'"))
    tunnel.close()
    assert "hostname contains invalid characters" in failure(sshd.config(address=f"-oProxyCommand=touch {home}/run"))
    assert not (home / "run").exists()


def test_a_fork_does_not_keep_it_open_and_the_end_closes_it(sshd: SshServer, mariadb_target: Target) -> None:
    code = """
        import os, signal, socket, sys
        from pyexperimenter.config.model import SshConfig
        from pyexperimenter.database.ssh.shared_tunnel import close_tunnel, tunnel_address

        key, ssh_port, remote_port = sys.argv[1], *map(int, sys.argv[2:])
        ssh = SshConfig("127.0.0.1", ssh_port, private_key=key, remote_port=remote_port)
        address = tunnel_address(ssh, "localhost", 3306)

        def greeted():
            with socket.create_connection(address, timeout=30) as connection:
                return b"MariaDB" in connection.recv(200)

        for close in (True, False):
            child = os.fork()
            if not child:
                signal.alarm(30)
                ok = greeted() and tunnel_address(ssh, "localhost", 3306) == address
                if close:
                    close_tunnel(ssh)
                sys.exit(0 if ok else 1)
            assert os.waitpid(child, 0)[1] == 0, "child"
            assert greeted()
        if not os.fork():
            signal.pause()  # until the test ends it
        print(address[1], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    arguments = [str(sshd.home / "key"), str(sshd.port), str(database(mariadb_target).port)]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env=_environment(),
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    process.wait(30)
    try:
        wait_until(lambda: is_free(port))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONWARNINGS": "ignore"}


def behind_ssh(target: Target, folder: Path, sshd: SshServer, n_jobs: int = 1, **changes: Any) -> PyExperimenter:
    """Return an experimenter that reaches the database through SSH."""
    server = database(target)
    ssh = {
        "server": "127.0.0.1",  # as seen from the SSH server
        "address": "127.0.0.1",
        "port": sshd.port,
        "remote_address": "127.0.0.1",
        "remote_port": server.port,
        "ssh_private_key": str(sshd.home / "key"),
    }
    file = folder / "credentials.yml"
    file.touch(0o600)
    user = {"user": server.user, "password": server.password}
    given = {key: value for key, value in (ssh | changes).items() if value is not None}
    connection = {"Standard": {"server": "not.reached.directly"}, "Ssh": given}
    file.write_text(yaml.safe_dump({"CREDENTIALS": {"Database": user, "Connection": connection}}))
    return experimenter(replace(target, credentials_file=file), study(target, n_jobs=n_jobs), use_ssh_tunnel=True)


@pytest.mark.parametrize("target", ["mariadb", "postgresql"], indirect=True)
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_experimenter_reaches_its_server_through_ssh(
    sshd: SshServer, target: Target, tmp_path: Path, n_jobs: int
) -> None:
    study_ = behind_ssh(target, tmp_path, sshd, n_jobs)
    assert study_.fill_table_from_config() == (6, 0)
    assert study_.execute(lambda *_: {"accuracy": 1}) == 6
    assert target.query("SELECT status, COUNT(*) FROM study GROUP BY status") == [("done", 6)]
    study_.close_ssh()
    assert study_.counts()["done"] == 6  # opened again when needed
    study_.close_ssh()


def test_the_predecessors_credentials(sshd: SshServer, mariadb_target: Target, tmp_path: Path, home: Path) -> None:
    shutil.copy(sshd.home / "locked", home / ".ssh" / "id_ed25519")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = int(probe.getsockname()[1])
    local = {"local_address": "127.0.0.1", "local_port": free}
    secret = {"ssh_private_key": None, "ssh_private_key_password": PASSPHRASE}
    study_ = behind_ssh(mariadb_target, tmp_path, sshd, **local, **secret)
    assert study_.fill_table_from_config() == (6, 0)
    assert answers(free)
    study_.close_ssh()
    wait_until(lambda: is_free(free))
