"""Encrypted connections to real servers with certificates from an authority of our own."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
import yaml
from cryptography import x509

from pyexperimenter import PyExperimenter
from pyexperimenter.exceptions import AccessDeniedError, DatabaseConnectionError, DatabaseError
from tests.support.authority import Authority
from tests.support.mariadb import PrivateMariaDB
from tests.support.postgresql import PrivatePostgreSQL
from tests.support.server import Server
from tests.support.sshd import private_home, running
from tests.support.study import study
from tests.support.target import Target

MISFIT = "the server's certificate is not signed by the given ca, or is for another host; check 'tls'"
ANOTHER_HOST = r"""(?:not valid for|does not match host name) ['"]{}['"]"""
CIPHER = {
    "mysql": "SHOW STATUS LIKE 'Ssl_cipher'",
    "postgresql": "SELECT cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
}

only_postgresql = pytest.mark.parametrize("server", ["postgresql"], indirect=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module", params=["mariadb", "postgresql"])
def server(request: pytest.FixtureRequest, authority: Authority) -> Iterator[Server]:
    """A server that takes encrypted connections only; its certificate is for localhost, not for 127.0.0.1.

    Its user `certified` needs a certificate, too.
    """
    files = authority.issue(request.param, x509.DNSName("localhost"), x509.DNSName("db.example.org"))
    server = {"mariadb": _mariadb, "postgresql": _postgresql}[request.param](authority, *files)
    yield server
    server.close()


def _mariadb(authority: Authority, cert: str, key: str) -> PrivateMariaDB:
    server = PrivateMariaDB(f"--ssl-ca={authority.certificate}", f"--ssl-cert={cert}", f"--ssl-key={key}")
    server.create_database("pe")
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET GLOBAL require_secure_transport = ON")
        cursor.execute("CREATE USER certified@localhost IDENTIFIED BY 'x' REQUIRE X509")
        cursor.execute("CREATE USER certified@'127.0.0.1' IDENTIFIED BY 'x' REQUIRE X509")
        cursor.execute("GRANT ALL ON pe.* TO certified@localhost, certified@'127.0.0.1'")
    return server


def _postgresql(authority: Authority, cert: str, key: str) -> PrivatePostgreSQL:
    names = {"ssl_ca_file": authority.certificate, "ssl_cert_file": cert, "ssl_key_file": key}
    # In its own directory, since it may run as a user who cannot read others.
    files = {name: Path(file).read_text() for name, file in names.items()}
    files["pg_hba.conf"] = (
        "hostssl all certified all scram-sha-256 clientcert=verify-ca\nhostssl all all all scram-sha-256\n"
    )
    server = PrivatePostgreSQL("ssl=on", *(f"{name}={name}" for name in names), files=files)
    server.create_database("pe")
    with server.connect() as connection:
        connection.execute("CREATE USER certified PASSWORD 'x'")
    return server


@pytest.fixture
def connect(server: Server, tmp_path: Path) -> Any:
    def opened(tls: Any = None, host: str = "localhost", ssh: Any = None, **user: str) -> PyExperimenter:
        standard = {"server": host, "port": server.port} | ({} if tls is None else {"tls": tls})
        login = user or {"user": server.user, "password": server.password}
        connection = {"Standard": standard} | ({} if ssh is None else {"Ssh": ssh})
        file = tmp_path / "credentials.yml"
        file.touch(0o600)
        file.write_text(yaml.safe_dump({"CREDENTIALS": {"Database": login, "Connection": connection}}))
        target = Target(server.name, server.provider, "pe", server, file)
        return PyExperimenter(study(target), file, use_ssh_tunnel=ssh is not None, log_level="ERROR")

    return opened


def cipher(opened: PyExperimenter) -> str:
    """Return how the connection is encrypted; empty if it is not."""
    (row,) = opened.execute_custom_query(CIPHER[opened.config.database.provider])
    return row[-1] or ""


def refusal(opened: PyExperimenter, kind: type[DatabaseError] = DatabaseConnectionError) -> str:
    with pytest.raises(kind) as caught:
        opened.execute_custom_query("SELECT 1")
    assert type(caught.value) is kind  # neither waited for nor retried
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_unencrypted_connections_are_refused(server: Server) -> None:
    """The other tests rely on this."""
    login = {"host": server.host, "port": server.port, "user": server.user, "password": server.password}
    if server.provider == "mysql":
        with pytest.raises(pymysql.Error, match=r"insecure transport|Access denied"):
            pymysql.connect(**login, ssl_disabled=True)
    else:
        with pytest.raises(psycopg.Error, match="no encryption"):
            psycopg.connect(**login, sslmode="disable")


def test_right_authority(connect: Any, authority: Authority) -> None:
    opened = connect({"ca": authority.certificate})
    assert cipher(opened).startswith("TLS_")
    assert opened.fill_table_from_config() == (6, 0)
    assert opened.execute(lambda *_: {"accuracy": 1.0}, n_jobs=2) == 6  # by the workers' connections, too
    opened.delete_table()


def test_wrong_authority(connect: Any, tmp_path: Path) -> None:
    message = refusal(connect({"ca": Authority(tmp_path, "stranger").certificate}))
    assert "certificate verify failed" in message
    assert MISFIT in message
    assert "certificate verify failed" in refusal(connect({"verify": True}))  # of the system's


@only_postgresql
def test_authority_of_the_system(connect: Any, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that Python finds: psycopg may include its own OpenSSL, which looks in another place."""
    paths = ssl.get_default_verify_paths()._replace(cafile=authority.certificate)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    assert cipher(connect({"verify": True}))


def test_another_host(connect: Any, authority: Authority) -> None:
    message = refusal(connect({"ca": authority.certificate}, host="127.0.0.1"))
    assert re.search(ANOTHER_HOST.format("127.0.0.1"), message)
    assert MISFIT in message


def test_not_verified(connect: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor with an authority in the default location of PostgreSQL's own programs."""
    (tmp_path / ".postgresql").mkdir()
    os.rename(Authority(tmp_path, "stranger").certificate, tmp_path / ".postgresql" / "root.crt")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cipher(connect({"verify": False}, host="127.0.0.1"))


def test_server_decides(connect: Any) -> None:
    """Without any setting, a server that requires TLS gets it."""
    opened = connect()
    assert [bool(cipher(opened)) for _ in range(2)] == [True, True]
    opened._store.database.close()
    assert cipher(opened)


def test_client_certificate(connect: Any, authority: Authority, tmp_path: Path) -> None:
    user = {"user": "certified", "password": "x"}
    cert, key = authority.issue("client")
    assert cipher(connect({"ca": authority.certificate, "cert": cert, "key": key}, **user))
    message = refusal(connect({"ca": authority.certificate}, **user), AccessDeniedError)
    assert re.search(r"Access denied|requires a valid client certificate; .* give 'cert' and 'key'", message)
    wrong, key = Authority(tmp_path, "stranger").issue("wrong")
    stranger = connect({"ca": authority.certificate, "cert": wrong, "key": key}, **user)
    with pytest.raises(DatabaseError):
        stranger._store.database._backend.connect(False)  # no retry: MariaDB closes the connection without an answer


@only_postgresql
def test_key_that_others_may_read(connect: Any, authority: Authority) -> None:
    cert, key = authority.issue("careless")
    os.chmod(key, 0o644)
    assert "chmod 600" in refusal(connect({"ca": authority.certificate, "cert": cert, "key": key}))


@pytest.mark.parametrize("tls", [{"ca": "missing.pem"}, {"ca": __file__}, {"cert": __file__, "key": __file__}])
def test_files_that_cannot_be_used(connect: Any, tls: dict[str, str]) -> None:
    assert "give PEM files that exist" in refusal(connect(tls))


@pytest.mark.parametrize("target", ["mariadb", "postgresql"], indirect=True)
def test_plain_server(target: Target, authority: Authority) -> None:
    """A server without TLS is refused if TLS was asked for."""
    file = target.credentials_file
    assert file is not None
    if target.name == "mariadb" and target.query("SELECT @@have_ssl") == [("YES",)]:
        pytest.skip("this MariaDB makes itself a certificate")
    for tls in ({"ca": authority.certificate}, {"verify": False}):
        content = yaml.safe_load(file.read_text())
        content["CREDENTIALS"]["Connection"]["Standard"]["tls"] = tls
        file.write_text(yaml.safe_dump(content))
        message = refusal(PyExperimenter(study(target), file, log_level="ERROR"))
        assert re.search(r"SSL .*; enable TLS on the server, or remove 'tls'", message)


def test_through_ssh(connect: Any, server: Server, authority: Authority, tmp_path: Path, monkeypatch: Any) -> None:
    """The certificate is checked for the server, not for the local end of the tunnel."""
    tls = {"ca": authority.certificate}
    with private_home(tmp_path / "home", monkeypatch), running() as sshd:
        ssh = {
            "address": "127.0.0.1",
            "port": sshd.port,
            "remote_port": server.port,
            "ssh_private_key": str(sshd.home / "key"),
        }
        for host, remote in (("db.example.org", "127.0.0.1"), ("localhost", "localhost")):
            opened = connect(tls, host=host, ssh=ssh | {"remote_address": remote})
            assert cipher(opened)
            opened.close_ssh()
        other = connect(tls, host="other.example.org", ssh=ssh | {"remote_address": "127.0.0.1"})
        assert re.search(ANOTHER_HOST.format("other.example.org"), refusal(other))
        other.close_ssh()
