"""No password is shown anywhere: not in logs, process lists, reprs, tracebacks, the database or on the terminal."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import stat
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import joblib
import psutil
import pytest
import yaml

from pyexperimenter import PyExperimenter, ResultProcessor
from pyexperimenter.config import load_config
from pyexperimenter.exceptions import ConfigError
from pyexperimenter.execution.function import pickled
from pyexperimenter.execution.task import WorkerTask
from tests.support.server import Server
from tests.support.sshd import SshServer, background_ssh, private_home, running
from tests.support.study import study, wait_until
from tests.support.target import Target

DATABASE, SSH, PASSPHRASE = "Sw0rdfish-Database", "Sw0rdfish-Ssh", "open sesame"
SECRETS = (DATABASE, SSH, PASSPHRASE)
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

one_server = pytest.mark.parametrize("target", ["mariadb"], indirect=True)  # where it makes no difference


@pytest.fixture
def secret_target(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    """A database behind three secrets: the passwords of its user, of an SSH server and of a key."""
    server = target.server
    assert server is not None
    user = f"secretive_{target.database}"
    server.create_user(user, DATABASE, target.database)
    with private_home(tmp_path / "home", monkeypatch) as runtime, running() as sshd:
        ssh = ssh_section(sshd, server)
        file = tmp_path / "credentials.yml"
        file.touch(0o600)
        write(file, {"user": user, "password": DATABASE}, ssh)
        yield replace(target, credentials_file=file)
        for path in runtime.iterdir():
            if path.is_file():
                check(path.read_text())
    server.drop_user(user, target.database)


def ssh_section(sshd: SshServer, server: Server) -> dict[str, Any]:
    return {
        "address": "127.0.0.1",
        "port": sshd.port,
        "password": SSH,
        "ssh_private_key": str(sshd.home / "locked"),
        "ssh_private_key_password": PASSPHRASE,
        "remote_port": server.port,
    }


def write(file: Path, user: dict[str, Any], ssh: dict[str, Any]) -> None:
    connection = {"Standard": {"server": "localhost"}, "Ssh": ssh}
    file.write_text(yaml.safe_dump({"CREDENTIALS": {"Database": user, "Connection": connection}}))


def change(file: Path, old: str, new: str) -> None:
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def check(text: str, *needed: str) -> None:
    """Assert that a text contains what it should, and no secret."""
    for part in needed:
        assert part in text
    for secret in SECRETS:
        assert secret not in text


FUNCTIONS = """
import pathlib, time

def run(keyfields, results, custom):
    pathlib.Path(f"began_{keyfields['seed']}").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
    if keyfields["seed"] == 1:
        raise ValueError("as planned")
    if keyfields["seed"] == 2:
        import os
        os.abort()
    results.process_logs({"epochs": {"epoch": 1, "loss": 1.0}})
    return {"accuracy": 1.0}
"""

PROGRAM = """
import logging
logging.basicConfig(level=logging.DEBUG)  # of all libraries, to stderr
from pyexperimenter import PyExperimenter
from functions import run

experimenter = PyExperimenter(
    "config.yml", "credentials.yml", log_level="DEBUG", log_file="study.log", use_ssh_tunnel=True
)
experimenter.fill_table_from_config()
print(experimenter.execute(run, n_jobs=2))
"""


@pytest.mark.parametrize(
    ("target", "from_environment"), [("mariadb", False), ("mariadb", True), ("postgresql", False)], indirect=["target"]
)
def test_a_whole_study(secret_target: Target, tmp_path: Path, from_environment: bool) -> None:
    """Log at DEBUG level, terminal, process list and environment of all processes, database, journals."""
    seeds = {"seed": {"type": "INT", "values": {"start": 0, "stop": 3}}}
    config = study(secret_target, keyfields=seeds, Execution={"isolation": "process"})
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    if from_environment:
        change(tmp_path / "credentials.yml", DATABASE, "of nobody")
        environment["PYEXPERIMENTER_DB_PASSWORD"] = DATABASE
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    wait_until(lambda: process.poll() is not None or len(list(tmp_path.glob("began_*"))) == 2)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    assert len(family) == 3
    ssh = background_ssh(str(tmp_path))
    for member in [*family, ssh]:
        check(" ".join(member.cmdline()), "ssh" if member is ssh else sys.executable)
        inherited = {**member.environ(), "PYEXPERIMENTER_DB_PASSWORD": ""}  # the user's environment stays as it is
        check(str(inherited), "PYTHONPATH")
    (tmp_path / "go").touch()
    printed, errors = process.communicate(timeout=60)
    assert printed == "3\n", errors
    check(errors, "DEBUG:", "starts: {'seed': 0}", "as planned")
    check((tmp_path / "study.log").read_text(), "DEBUG", "as planned", "SIGABRT")
    left = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert not any(name.endswith(".jsonl") for name in left)
    check(database_as_text(secret_target), "as planned", "PY_EXPERIMENTER", "study__meta")


def database_as_text(target: Target) -> str:
    named = "SELECT table_name FROM information_schema.tables WHERE table_schema IN (?, 'public') ORDER BY table_name"
    tables = [table for (table,) in target.query(named, target.database)]
    return "\n".join(f"{table}: {target.query(f'SELECT * FROM {table}')}" for table in tables)


@pytest.mark.parametrize("target", ["mariadb", "postgresql"], indirect=True)
def test_reprs(secret_target: Target) -> None:
    file = secret_target.credentials_file
    opened = PyExperimenter(study(secret_target), file, use_ssh_tunnel=True, log_level="ERROR")
    opened.fill_table_from_config()
    backend = opened._store.database._backend
    task = WorkerTask(opened.config, print, "name", "identity")
    for thing in (opened.config, opened.config.database, opened, opened._store, opened._store.database, backend, task):
        check(f"{thing!r} {thing!s} {thing!a} {thing}", type(thing).__name__ if thing is task else "")
    opened.close_ssh()


def failing(doing: Callable[[], object]) -> tuple[BaseException, str]:
    """Return an error, and its traceback with the variables of each frame of ours, as pytest and rich show them."""
    with pytest.raises(BaseException) as caught:
        doing()
    shown, errors = "".join(traceback.format_exception(caught.value)), [caught.value]
    for error in errors:  # grows
        for frame, _ in traceback.walk_tb(error.__traceback__):
            # This test holds the secrets itself.
            if frame.f_code.co_filename != __file__:
                shown += f"{frame.f_code.co_filename}: {[_repr(value) for value in frame.f_locals.values()]}\n"
        errors += [cause for cause in (error.__cause__, error.__context__) if cause is not None]
    return caught.value, shown


def _repr(value: object) -> str:
    try:
        return repr(value)
    except AttributeError as error:  # it was not fully constructed
        return str(error)


def trouble(target: Target, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], object]:
    """Return something that fails."""
    file, config = target.credentials_file, study(target)
    assert file is not None
    tunnel = True
    match kind:
        case "refused by the database":
            change(file, "user: secretive", "user: stranger")
        case "refused by the SSH server":
            change(file, "/locked", "/stranger")
        case "wrong passphrase":
            change(file, PASSPHRASE, f"{PASSPHRASE} {SSH}")
        case "no SSH server":
            change(file, "address: 127.0.0.1", "address: no-such-host.invalid")
        case "no database server":
            tunnel = False
            change(file, "server: localhost", "server: no-such-host.invalid")
        case "no such database":
            config["PY_EXPERIMENTER"]["Database"]["database"] = "missing"
        case "broken file":
            change(file, f"password: {DATABASE}", f"password: '{DATABASE}")
        case "unknown key":
            change(file, "password: ", f"{DATABASE}: ")
        case "unresolved variable":
            change(file, DATABASE, f"{DATABASE} ${{NOBODY_SET_THIS}}")
        case "port of the environment":
            monkeypatch.setenv("PYEXPERIMENTER_DB_PASSWORD", DATABASE)
            monkeypatch.setenv("PYEXPERIMENTER_DB_PORT", "none")
        case "unresolved variable of the config":
            monkeypatch.setenv("PYEXPERIMENTER_DB_PASSWORD", DATABASE)
            config["PY_EXPERIMENTER"]["Custom"] = {"path": "${NOBODY_SET_THIS}"}
        case "password_command":
            change(file, f"password: {DATABASE}", f"password_command: cat {tmp_path}/secret; false")
            (tmp_path / "secret").write_text(DATABASE)
        case "unpicklable function":
            config["PY_EXPERIMENTER"]["Execution"]["isolation"] = "process"
    opened: list[PyExperimenter] = []

    def fail() -> None:
        opened.append(PyExperimenter(config, file, use_ssh_tunnel=tunnel, log_level="ERROR"))
        opened[0].fill_table_from_config()
        lock = threading.Lock()
        opened[0].execute(lambda *_: lock)

    def fail_and_close() -> None:
        try:
            fail()
        finally:
            if opened:
                opened[0].close_ssh()

    return fail_and_close


TROUBLES = {
    "refused by the database": "check user, password and the user's grants",
    "refused by the SSH server": "Permission denied",
    "wrong passphrase": "does not have the passphrase that was given",
    "no SSH server": "no-such-host.invalid",
    "no database server": "no-such-host.invalid",
    "no such database": "missing",
    "broken file": "neither YAML nor INI",
    "unknown key": "credentials.yml",
    "unresolved variable": "cannot be resolved",
    "port of the environment": "PYEXPERIMENTER_DB_PORT",
    "unresolved variable of the config": "NOBODY_SET_THIS",
    "password_command": "password_command exited with 1",
    "unpicklable function": "cannot be sent to a worker's process",
}


@pytest.mark.parametrize(
    ("target", "kind"),
    [("mariadb", kind) for kind in TROUBLES] + [("postgresql", kind) for kind in TROUBLES if "database" in kind],
    indirect=["target"],
)
def test_tracebacks(
    secret_target: Target,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG):
        error, shown = failing(trouble(secret_target, kind, monkeypatch, tmp_path))
    check(str(error), TROUBLES[kind])
    check(shown, TROUBLES[kind])
    check(caplog.text)


@one_server
def test_the_command_line_with_debug(secret_target: Target, tmp_path: Path) -> None:
    config = study(secret_target, Execution={"function": "functions:run"})
    config["PY_EXPERIMENTER"]["Database"]["use_ssh_tunnel"] = True
    (tmp_path / "config").mkdir()
    (tmp_path / "config/experiment_configuration.yml").write_text(yaml.safe_dump(config))
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    (tmp_path / "go").touch()
    (tmp_path / "credentials.yml").rename(tmp_path / "config/database_credentials.yml")

    def call(*arguments: str) -> str:
        command = [sys.executable, "-m", "pyexperimenter", *arguments, "--debug"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        return f"{done.stdout}{done.stderr}"

    check(call("validate"), "6")
    check(call("fill"), "6")
    check(call("run", "--n-jobs", "2"))
    check(call("status"), "done")
    change(tmp_path / "config/database_credentials.yml", DATABASE, f"{DATABASE}-wrong")
    check(call("status"), "Traceback", "check user, password and the user's grants")
    change(tmp_path / "config/database_credentials.yml", "/locked", "/stranger")
    check(call("status"), "Traceback", "Permission denied")


@one_server
def test_a_worker_elsewhere_that_cannot_be_pickled_or_fails(secret_target: Target) -> None:
    """Joblib reports where a worker failed, and what it could not send."""
    file = secret_target.credentials_file
    config = load_config(study(secret_target), credentials_path=file, use_ssh_tunnel=True)
    lock = threading.Lock()
    task = WorkerTask(config, lambda *_: lock, "name", "identity")

    def fail(task: WorkerTask) -> None:
        raise ValueError(task)

    def run(task: WorkerTask) -> str:
        return failing(lambda: joblib.Parallel(n_jobs=2)(joblib.delayed(fail)(task) for _ in range(2)))[1]

    check(run(task), "pickle")
    check(run(WorkerTask(config, print, "name", "identity")), "WorkerTask")


@one_server
def test_ssh_and_its_askpass(secret_target: Target, tmp_path: Path) -> None:
    """While ssh asks for a passphrase, no command line or environment shows it."""
    shown, head = tmp_path / "shown", shutil.which("head")
    spy = tmp_path / "home" / "bin" / "head"  # which askpass runs; its parent is ssh
    files = " ".join(f"/proc/{pid}/{file}" for pid in ("$$", "$PPID") for file in ("cmdline", "environ"))
    spy.write_text(f'#!/bin/sh\ncat {files} >>{shown}\nexec {head} "$@"\n')
    spy.chmod(0o755)
    opened = PyExperimenter(study(secret_target), secret_target.credentials_file, use_ssh_tunnel=True)
    opened.fill_table_from_config()
    opened.close_ssh()
    check(shown.read_text(), "head", "-fNM", "SSH_ASKPASS_REQUIRE")


@one_server
def test_pickles_that_may_be_stored(secret_target: Target, tmp_path: Path) -> None:
    """Of an experimenter, of its configuration, and of what jobs load."""
    file = secret_target.credentials_file
    assert file is not None
    study_ = PyExperimenter(study(secret_target), file, use_ssh_tunnel=True, log_level="ERROR")
    for value in (study_, study_.config, study_.config.database.credentials, lambda *_: (study_, study_.config)):
        assert not [secret for secret in SECRETS if secret.encode() in cloudpickle.dumps(value)]
        assert not [secret for secret in SECRETS if secret.encode() in pickled(value)]  # type: ignore[arg-type]
    assert pickle.loads(cloudpickle.dumps(study_)).config.database == study_.config.database
    password = pickle.loads(pickle.dumps(study_.config)).database.credentials.password
    with pytest.raises(ConfigError, match="pickles have no passwords"):
        password.reveal()
    task = WorkerTask(study_.config, print, "name", "identity")
    assert pickle.loads(cloudpickle.dumps(task)).config.database == study_.config.database  # it is sent, not stored


def noop(keyfields: dict[str, Any], results: ResultProcessor, custom: dict[str, Any]) -> None:
    pass


def test_logs_of_jobs_are_readable_by_their_user_only(sqlite_target: Target, tmp_path: Path) -> None:
    study_ = PyExperimenter(study(sqlite_target), log_level="ERROR")
    study_.fill_table_from_config()
    study_.submit(noop, cluster="local", folder=tmp_path / "new" / "jobs").wait()
    assert study_.counts()["done"] == 6
    assert stat.S_IMODE((tmp_path / "new" / "jobs").stat().st_mode) == 0o700
    logs = (tmp_path / "new" / "jobs").iterdir()
    assert {stat.S_IMODE(path.stat().st_mode) for path in logs} == {0o600}
