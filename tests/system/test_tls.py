"""Encrypted connections to a real server, whose certificates come from an authority made here."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from servers import PrivateMariaDB, Target
from sshd import running
from study import study

from pyexperimenter import PyExperimenter
from pyexperimenter.exceptions import AccessDeniedError, DatabaseConnectionError, DatabaseError


class Authority:
    """Signs certificates, which it writes as PEM files."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self.certificate = self._write(name, self._signed(self._name, self._key, authority=True), self._key)[0]

    def issue(self, name: str, *names: x509.GeneralName) -> tuple[str, str]:
        """Return the files of a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self._write(name, self._signed(_name(name), key, names=names), key)

    def _signed(self, subject: x509.Name, key: Any, names: Any = (), authority: bool = False) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def _write(self, name: str, certificate: x509.Certificate, key: Any) -> tuple[str, str]:
        pem = serialization.Encoding.PEM
        files = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(pem))
        plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        files[1].write_bytes(key.private_bytes(pem, *plain))
        return str(files[0]), str(files[1])


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[PrivateMariaDB]:
    """A server that takes encrypted connections only; its certificate is for localhost, not for 127.0.0.1."""
    cert, key = authority.issue("server", x509.DNSName("localhost"), x509.DNSName("db.example.org"))
    server = PrivateMariaDB(f"--ssl-ca={authority.certificate}", f"--ssl-cert={cert}", f"--ssl-key={key}")
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE pe")
        cursor.execute("SET GLOBAL require_secure_transport = ON")
        cursor.execute("CREATE USER certified@localhost IDENTIFIED BY 'x' REQUIRE X509")
        cursor.execute("CREATE USER certified@'127.0.0.1' IDENTIFIED BY 'x' REQUIRE X509")
        cursor.execute("GRANT ALL ON pe.* TO certified@localhost, certified@'127.0.0.1'")
    yield server
    server.close()


@pytest.fixture
def connect(server: PrivateMariaDB, tmp_path: Path) -> Any:
    def opened(tls: Any = None, host: str = "localhost", ssh: Any = None, **user: str) -> PyExperimenter:
        standard = {"server": host, "port": server.port} | ({} if tls is None else {"tls": tls})
        login = user or {"user": server.user, "password": server.password}
        connection = {"Standard": standard} | ({} if ssh is None else {"Ssh": ssh})
        file = tmp_path / "credentials.yml"
        file.touch(0o600)
        file.write_text(yaml.safe_dump({"CREDENTIALS": {"Database": login, "Connection": connection}}))
        target = Target("mariadb", "mysql", "pe", server, file)
        return PyExperimenter(study(target), file, use_ssh_tunnel=ssh is not None, log_level="ERROR")

    return opened


def cipher(opened: PyExperimenter) -> str:
    """Return how the connection is encrypted; empty if it is not."""
    ((_, name),) = opened.execute_custom_query("SHOW STATUS LIKE 'Ssl_cipher'")
    return str(name)


def refusal(opened: PyExperimenter, kind: type[DatabaseError] = DatabaseConnectionError) -> str:
    with pytest.raises(kind) as caught:
        opened.execute_custom_query("SELECT 1")
    assert type(caught.value) is kind  # neither waited for nor tried again
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_unencrypted_connections_are_refused(server: PrivateMariaDB) -> None:
    """What the other tests stand on."""
    with pytest.raises(pymysql.Error, match=r"insecure transport|Access denied"):
        pymysql.connect(
            host=server.host, port=server.port, user=server.user, password=server.password, ssl_disabled=True
        )


def test_right_authority(connect: Any, authority: Authority) -> None:
    opened = connect({"ca": authority.certificate})
    assert cipher(opened).startswith("TLS_")
    assert opened.fill_table_from_config() == (6, 0)
    assert opened.execute(lambda *_: {"accuracy": 1.0}, n_jobs=2) == 6  # by the workers' connections, too
    opened.delete_table()


def test_wrong_authority(connect: Any, tmp_path: Path) -> None:
    message = refusal(connect({"ca": Authority(tmp_path, "stranger").certificate}))
    assert "certificate verify failed" in message
    assert "the server's certificate is not of the given ca, or another host's; check 'tls'" in message
    assert "certificate verify failed" in refusal(connect({"verify": True}))  # of the system's


def test_another_host(connect: Any, authority: Authority) -> None:
    assert "not valid for '127.0.0.1'" in refusal(connect({"ca": authority.certificate}, host="127.0.0.1"))


def test_not_verified(connect: Any) -> None:
    assert cipher(connect({"verify": False}, host="127.0.0.1"))


def test_server_decides(connect: Any) -> None:
    """Without a word on TLS, a server that wants it gets it."""
    opened = connect()
    assert [bool(cipher(opened)) for _ in range(2)] == [True, True]
    opened._store.database.close()
    assert cipher(opened)


def test_client_certificate(connect: Any, authority: Authority, tmp_path: Path) -> None:
    user = {"user": "certified", "password": "x"}
    cert, key = authority.issue("client")
    assert cipher(connect({"ca": authority.certificate, "cert": cert, "key": key}, **user))
    assert "Access denied" in refusal(connect({"ca": authority.certificate}, **user), AccessDeniedError)
    wrong, key = Authority(tmp_path, "stranger").issue("wrong")
    stranger = connect({"ca": authority.certificate, "cert": wrong, "key": key}, **user)
    with pytest.raises(DatabaseError):
        stranger._store.database._backend.connect(False)  # without trying again: the server hangs up without a word


@pytest.mark.parametrize("tls", [{"ca": "missing.pem"}, {"ca": __file__}, {"cert": __file__, "key": __file__}])
def test_files_that_cannot_be_used(connect: Any, tls: dict[str, str]) -> None:
    assert "give PEM files that exist" in refusal(connect(tls))


def test_plain_server(connect: Any, mariadb_target: Target, authority: Authority, tmp_path: Path) -> None:
    """A server without TLS is refused if TLS was asked for."""
    plain = mariadb_target.server
    assert plain is not None
    with plain.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT @@have_ssl")
        if cursor.fetchone() == ("YES",):
            pytest.skip("this MariaDB makes itself a certificate")
    opened = connect({"ca": authority.certificate}, user=plain.user, password=plain.password)
    file = tmp_path / "credentials.yml"
    file.write_text(file.read_text().replace(str(opened.config.database.credentials.port), str(plain.port)))
    opened = PyExperimenter(study(mariadb_target), file, log_level="ERROR")
    assert "SSL is required but the server doesn't support it; let the server encrypt" in refusal(opened)


def test_through_ssh(
    connect: Any, server: PrivateMariaDB, authority: Authority, tmp_path: Path, monkeypatch: Any
) -> None:
    """The certificate is of the server, not of this end of the tunnel."""
    for name in ("sshd", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    tls = {"ca": authority.certificate}
    with running(tmp_path / "sshd") as sshd:
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
        assert "not valid for 'other.example.org'" in refusal(other)
        other.close_ssh()
