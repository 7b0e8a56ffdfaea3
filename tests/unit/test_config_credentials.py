"""Credentials from files and the environment; secrets are never shown."""

# ruff: noqa: E501 - a table reads better with a case on one line

import copy
import pickle
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyexperimenter.config import Credentials, Secret, SshConfig, TlsConfig, load_config
from pyexperimenter.config.model import secrets_in_pickles
from pyexperimenter.config.yaml_file import read
from pyexperimenter.exceptions import InvalidCredentialsError

CONFIG = """\
PY_EXPERIMENTER:
  Database:
    provider: mysql
    database: study
    table: {name: t, keyfields: {seed: INT}}
"""
FULL = """\
CREDENTIALS:
  Database:
    user: me
    password: geheim
  Connection:
    Standard:
      server: db.example.org
      port: 3307
      unix_socket: /run/mysqld.sock
      tls: {ca: ca.pem, cert: c.pem, key: k.pem, verify: no}
    Ssh:
      server: db.internal
      address: gate.example.org
      port: 2222
      user: sshme
      ssh_private_key: ~/.ssh/id
      ssh_private_key_password: geheim2
      password: geheim3
      remote_port: 3308
      local_address: 127.0.0.2
      local_port: 3309
"""


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in ("USER", "PASSWORD", "HOST", "PORT"):
        monkeypatch.delenv(f"PYEXPERIMENTER_DB_{name}", raising=False)


@pytest.fixture
def credentials(tmp_path, monkeypatch):
    """Return the credentials in a file with this text (None: no file)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yml").write_text(CONFIG, encoding="utf-8")

    def credentials(text, name="credentials.yml", tunnel=False):
        if text is not None:
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        config = load_config("config.yml", credentials_path=name, use_ssh_tunnel=tunnel)
        assert "geheim" not in repr(config) + str(config) + config.text
        return config.database.credentials

    return credentials


def with_password(password):
    return f"CREDENTIALS:\n  Database:\n    user: me\n    password: {password}\n"


def test_everything(credentials):
    assert credentials(FULL, tunnel=True) == Credentials(
        host="db.example.org",
        port=3307,
        user="me",
        password=Secret("geheim"),
        unix_socket="/run/mysqld.sock",
        tls=TlsConfig("ca.pem", "c.pem", "k.pem", verify=False),
        ssh=SshConfig(
            address="gate.example.org",
            port=2222,
            user="sshme",
            private_key="~/.ssh/id",
            private_key_password=Secret("geheim2"),
            password=Secret("geheim3"),
            remote_address="db.internal",
            remote_port=3308,
            local_address="127.0.0.2",
            local_port=3309,
        ),
    )


def test_files_of_py_experimenter(credentials):
    yaml = credentials(
        "CREDENTIALS:\n  Database: {user: me, password: geheim}\n  Connection:\n    Standard: {server: db}\n"
        "    Ssh: {server: 127.0.0.1, address: gate}\n"
    )
    ini = credentials("[CREDENTIALS]\nhost = db\nuser = me\npassword = geheim\n", "credentials.cfg")
    assert yaml == ini == Credentials(host="db", user="me", password=Secret("geheim"))
    assert credentials("[CREDENTIALS]\nhost=db\nuser=me\npassword=a%%b=c\nport=1\n", "other") == Credentials(
        host="db", user="me", password=Secret("a%b=c"), port=1
    )


def test_a_file_may_leave_everything_to_the_environment(credentials, monkeypatch):
    monkeypatch.setenv("PYEXPERIMENTER_DB_USER", "me")
    assert credentials("[CREDENTIALS]\n", "credentials.cfg") == credentials("CREDENTIALS: {}") == Credentials(user="me")


def test_ssh_by_its_other_names_and_defaults(credentials):
    text = "CREDENTIALS: {Database: {user: me}, Connection: {Ssh: {address: gate, passphrase: geheim, keyfile: id}}}"
    assert credentials(text, tunnel=True).ssh == SshConfig(
        "gate", private_key="id", private_key_password=Secret("geheim")
    )
    text = "CREDENTIALS: {Database: {user: me}, Connection: {Ssh: {address: gate, server: a, remote_address: b}}}"
    assert credentials(text, tunnel=True).ssh.remote_address == "b"


def test_an_unused_ssh_section_is_ignored(credentials):
    text = "CREDENTIALS: {Database: {user: me}, Connection: {Ssh: {port: optional_ssh_port, password: geheim}}}"
    assert credentials(text).ssh is None


@pytest.mark.parametrize(
    "password", ["1234", "0123", "1e5", "no", "2024-01-31", "0x1F", "1_000", "geheim#5", "'a ''b'''"]
)
def test_passwords_stay_strings(credentials, password):
    expected = "a 'b'" if password.startswith("'") else password
    assert credentials(with_password(password)).password.reveal() == expected


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])))
def test_quoted_strings_are_read_verbatim(password):
    quoted = "'" + password.replace("'", "''") + "'"
    assert read(f"password: {quoted}", as_text=True)[0] == {"password": password}


def test_password_from_the_environment_by_interpolation(credentials, monkeypatch):
    monkeypatch.setenv("MY_PASSWORD", "geheim${X}")
    assert credentials(with_password("${MY_PASSWORD}")).password == Secret("geheim${X}")
    assert credentials(with_password("a\\${b")).password == Secret("a${b")


def test_password_command_is_kept_for_later(credentials):
    found = credentials("CREDENTIALS: {Database: {user: me, password_command: pass show db}}")
    assert (found.password, found.password_command) == (None, "pass show db")


def test_the_environment_is_enough(credentials, monkeypatch):
    for name, value in (("USER", "me"), ("PASSWORD", "geheim"), ("HOST", "db"), ("PORT", "3307")):
        monkeypatch.setenv(f"PYEXPERIMENTER_DB_{name}", value)
    expected = Credentials(host="db", port=3307, user="me", password=Secret("geheim"))
    assert credentials(None) == expected
    assert load_config("config.yml").database.credentials == expected


def test_the_environment_overrides_the_file(credentials, monkeypatch):
    monkeypatch.setenv("PYEXPERIMENTER_DB_HOST", "elsewhere")
    monkeypatch.setenv("PYEXPERIMENTER_DB_PASSWORD", "other")
    monkeypatch.setenv("PYEXPERIMENTER_DB_USER", "")  # the same as not set
    found = credentials(FULL, tunnel=True)
    assert (found.host, found.port, found.user, found.password) == ("elsewhere", 3307, "me", Secret("other"))
    assert found.unix_socket is None
    assert (found.ssh.remote_address, found.ssh.remote_port) == ("elsewhere", 3308)
    found = credentials("CREDENTIALS: {Database: {user: me, password_command: pass}}")
    assert (found.password, found.password_command) == (Secret("other"), None)


def test_sqlite_needs_no_credentials(tmp_path):
    config, broken = tmp_path / "config.yml", tmp_path / "credentials.yml"
    config.write_text(CONFIG.replace("mysql", "sqlite"), encoding="utf-8")
    broken.write_text("{[", encoding="utf-8")
    for path in (None, broken, tmp_path / "nothing"):
        assert load_config(config, credentials_path=path, use_ssh_tunnel=True).database.credentials == Credentials()


def error_of(credentials, *arguments, **keywords):
    with pytest.raises(InvalidCredentialsError) as caught:
        credentials(*arguments, **keywords)
    return caught.value


def test_missing_credentials_name_both_remedies(credentials, tmp_path):
    for text in (None, "CREDENTIALS: {Database: {password: geheim}}", "[CREDENTIALS]\nhost = db\n"):
        message = str(error_of(credentials, text))
        assert str(tmp_path / "credentials.yml") in message
        assert "CREDENTIALS: {Database: {user: ..., password: ...}" in message
        assert "PYEXPERIMENTER_DB_USER" in message
        assert ("does not exist" in message) == (text is None)
    with pytest.raises(InvalidCredentialsError, match="no credential file was given"):
        load_config("config.yml")


def test_a_file_that_cannot_be_read(credentials, tmp_path):
    (tmp_path / "credentials.yml").mkdir()
    assert str(error_of(credentials, None)) == "credentials.yml: the credential file cannot be read: Is a directory"


def test_tunnel_without_a_server_for_it(credentials):
    assert "Ssh: {address: ..." in str(error_of(credentials, with_password("x"), tunnel=True))


@pytest.mark.parametrize(
    "text, start, fragment",
    [
        ("CREDENTIALS: {Database: {user: me, pasword: x}}", "credentials.yml:1: CREDENTIALS.Database: ", "did you mean 'password'"),
        ("CREDENTIALS:\n  Connection: {Standard: {port: x}}", "credentials.yml:2: CREDENTIALS.Connection.Standard.port: ", "integer"),
        ("CREDENTIALS:\n  Connection: {Standard: {port: 99999}}", "credentials.yml:2: CREDENTIALS.Connection.Standard.port: ", "at most 65535"),
        ("CREDENTIALS:\n  Connection: {Standard: {tls: {cert: c}}}", "credentials.yml:2: CREDENTIALS.Connection.Standard.tls: ", "cert and key"),
        ("CREDENTIALS:\n  Connection: {Standard: {tls: {verify: maybe}}}", "credentials.yml:2: ", "true or false"),
        (with_password("geheim\n    password_command: pass"), "credentials.yml:5: CREDENTIALS.Database.password_command: ", "keep one"),
        (with_password("geheim\n    password: geheim"), "credentials.yml:5: ", "twice"),
        (with_password("${PYEXPERIMENTER_UNSET}"), "credentials.yml:4: ", "set the environment variable"),
        ("[CREDENTIALS]\nuser = me\npasword = x\n", "credentials.yml:3: ", "did you mean 'password'"),
        ("", "credentials.yml: ", "'CREDENTIALS' is missing"),
        (b"\x00\xff", "credentials.yml:1: ", "neither YAML nor INI"),
    ],
)  # fmt: skip
def test_errors_name_file_line_and_key(credentials, text, start, fragment):
    message = str(error_of(credentials, text))
    assert message.startswith(start)
    assert fragment in message


@pytest.mark.parametrize(
    "text",
    [
        with_password("*geheim"),
        with_password("!geheim x"),
        with_password("@geheim"),
        with_password("%geheim"),
        with_password('"geheim'),
        with_password("geheim: x"),
        with_password("{geheim: x}"),
        with_password("[geheim]"),
        with_password("geheim\n  geheim"),
        with_password("geheim\n    geheim: 1"),
        with_password("${geheim"),
        with_password("${geheim}"),
        with_password("x${.geheim}"),
        with_password("geheim\n    {geheim}: x"),
        with_password("geheim\x01"),
        "CREDENTIALS: {Database: {user: me, password:geheim}}",
        "CREDENTIALS: {Database: {user: me, password:geheim, password:geheim}}",
        "CREDENTIALS: {user: me, password: geheim}",
        "CREDENTIALS: {Database: geheim}",
        "CREDENTIALS: {Database: {user: [geheim]}}",
        "password:geheim",
        "- geheim",
        "[CREDENTIALS]\nuser = me\ngeheim\n",
        "[CREDENTIALS]\nuser = me\ngeheim = x\n",
        "[CREDENTIALS]\nuser = me\npassword = geheim\npassword = geheim\n",
        "[CREDENTIALS]\nuser = me\npassword = %(geheim)s\n",
        "[CREDENTIALS]\nport = geheim\n",
        "[geheim]\nuser = me\n",
        b"geheim" + b"\xff",
    ],
)
def test_nothing_of_the_file_is_in_any_error(credentials, text):
    error = error_of(credentials, text)
    shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    # The text is a parameter in the frames of this test; the frames of the library must not contain it.
    library = shown[shown.rindex("in load_config") :]
    assert "geheim" not in library
    assert "geheim" not in str(error) + repr(error) + repr(error.path)
    assert error.__cause__ is error.__context__ is None


@pytest.mark.parametrize("port", ["1", "65535"])
def test_the_least_and_the_largest_port(credentials, monkeypatch, port):
    monkeypatch.setenv("PYEXPERIMENTER_DB_PORT", port)
    assert credentials(with_password("x")).port == int(port)


def test_a_bad_port_in_the_environment(credentials, monkeypatch):
    monkeypatch.setenv("PYEXPERIMENTER_DB_PORT", "geheim")
    message = str(error_of(credentials, with_password("x")))
    assert "PYEXPERIMENTER_DB_PORT" in message
    assert "geheim" not in message


def test_a_secret_is_never_shown():
    secret = Secret("geheim")
    assert "geheim" not in f"{secret} {secret!r} {[secret]} {Credentials(password=secret)}"
    assert secret.reveal() == copy.copy(secret).reveal() == copy.deepcopy(secret).reveal() == "geheim"
    with secrets_in_pickles():
        assert pickle.loads(pickle.dumps(secret)).reveal() == "geheim"
    assert secret == Secret("geheim") != Secret("other")
    assert secret != "geheim"


@pytest.mark.parametrize(("mode", "told"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_a_file_that_others_may_read_is_warned_about_once(credentials, tmp_path, caplog, mode, told):
    file = tmp_path / "credentials.yml"
    file.write_text(with_password("geheim"))
    file.chmod(mode)
    caplog.set_level("WARNING", "py-experimenter")
    for _ in range(2):
        credentials(None)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == told
    assert all(message.endswith("run: chmod 600 credentials.yml") for message in messages)
