"""Databases for tests: `target` gives a test a fresh database on each kind in turn; servers start when first needed."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import hypothesis
import pytest

import tests.support
from tests.support.chromium import Chromium
from tests.support.latex import Latex
from tests.support.mariadb import PrivateMariaDB
from tests.support.mysql import MYSQL_URL, MYSQLD, PrivateMySQL, server_from_url
from tests.support.outages import Signs
from tests.support.postgresql import PrivatePostgreSQL
from tests.support.private_server import ServerUnavailable, Throwaway
from tests.support.server import Server
from tests.support.slurm import SlurmCluster
from tests.support.target import Target, write_credentials
from tests.support.yaml_language_server import YamlLanguageServer

# A shell without job control starts what is in the background with SIGINT ignored, and so are all processes below it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The time an example takes means nothing on a shared machine.
hypothesis.settings.register_profile("no_deadline", deadline=None)
hypothesis.settings.load_profile("no_deadline")


class Servers:
    """The servers of a test run, each started on first use, and the reasons why others are unavailable."""

    def __init__(self) -> None:
        self._running: dict[str, Any] = {}
        self.not_tested: dict[str, str] = {}  # name -> the reason, and what to do

    def get(self, name: str) -> Any:
        """Return the server, or skip the test; fail it if the server is required."""
        if name not in self._running and name not in self.not_tested:  # one try is enough
            try:
                self._running[name] = _STARTERS[name]()
            except ServerUnavailable as error:
                self.not_tested[name] = str(error)
        if name in self._running:
            return self._running[name]
        reason = f"no {name} here; the last lines say why and what to do"
        if _is_required(name):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)

    def close(self) -> None:
        for server in self._running.values():
            if isinstance(server, Throwaway):
                server.close()
        self._running.clear()


SERVERS = pytest.StashKey[Servers]()


def _mysql() -> Server:
    url = os.environ.get(MYSQL_URL)
    return server_from_url(url) if url else PrivateMySQL()


_STARTERS: dict[str, Callable[[], Server | SlurmCluster | Latex | YamlLanguageServer | Chromium]] = {
    "mariadb": PrivateMariaDB,
    "mysql": _mysql,
    "postgresql": PrivatePostgreSQL,
    "slurm": lambda: SlurmCluster(nodes=4, cpus=2),
    "pdflatex": Latex,
    "yaml-language-server": YamlLanguageServer,
    "chromium": Chromium,
}


def _is_required(name: str) -> bool:
    """CI must test the servers that can be installed; a server that is configured must be tested, too."""
    if name == "mysql":
        return bool(os.environ.get(MYSQL_URL) or os.environ.get(MYSQLD))
    return name != "yaml-language-server" and os.environ.get("CI", "").lower() in ("1", "true")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("stress test (see docs/testing.md)")
    group.addoption("--stress-seconds", type=float, default=3, help="how long it runs on each database")
    group.addoption("--stress-seed", type=int, help="seed of its random numbers, to repeat a run")


@pytest.fixture(autouse=True)
def no_credentials_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's own credentials, and so their databases, out of the tests."""
    for variable in [name for name in os.environ if name.startswith("PYEXPERIMENTER_DB_")]:
        monkeypatch.delenv(variable)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that ask for a `target` on each kind of database, or on those that their module lists."""
    chosen = any("target" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "target" in metafunc.fixturenames and not chosen:
        kinds = getattr(metafunc.module, "DATABASES", ["sqlite", "mariadb", "mysql", "postgresql"])
        metafunc.parametrize("target", kinds, indirect=True)


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    """A fresh database of each kind in turn."""
    if request.param == "sqlite":
        yield _sqlite(tmp_path)
    else:
        yield from _on_server(request.param, request.config, tmp_path)


@pytest.fixture
def sqlite_target(tmp_path: Path) -> Target:
    """A fresh SQLite database."""
    return _sqlite(tmp_path)


@pytest.fixture
def mariadb_target(pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[Target]:
    """A fresh database on the MariaDB server that all tests share: leave it running."""
    yield from _on_server("mariadb", pytestconfig, tmp_path)


@pytest.fixture
def postgresql_target(pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[Target]:
    """A fresh database on the PostgreSQL server that all tests share: leave it running."""
    yield from _on_server("postgresql", pytestconfig, tmp_path)


@pytest.fixture
def private_postgresql() -> Iterator[PrivatePostgreSQL]:
    """A PostgreSQL server for this test alone, which may stop, kill and start it."""
    server = PrivatePostgreSQL()
    yield server
    server.close()


@pytest.fixture
def private_mariadb() -> Iterator[PrivateMariaDB]:
    """A MariaDB server for this test alone, which may stop, kill and start it."""
    server = PrivateMariaDB()
    yield server
    server.close()


@pytest.fixture
def private_target(private_mariadb: PrivateMariaDB, tmp_path: Path) -> Target:
    """A database on a MariaDB server for this test alone."""
    private_mariadb.create_database("pe")
    return Target("mariadb", "mysql", "pe", private_mariadb, write_credentials(tmp_path / "c.yml", private_mariadb))


@pytest.fixture
def signs(tmp_path: Path) -> Signs:
    """Files by which this test and the functions that it executes notify each other."""
    (tmp_path / "signs").mkdir()
    return Signs(tmp_path / "signs")


@pytest.fixture
def slurm(pytestconfig: pytest.Config) -> Iterator[SlurmCluster]:
    """The SLURM that all tests of this process share: four nodes with two cores each, and no job."""
    cluster: SlurmCluster = pytestconfig.stash[SERVERS].get("slurm")
    yield cluster
    cluster.recover()


@pytest.fixture(scope="session")
def chromium(pytestconfig: pytest.Config) -> Chromium:
    """A real browser."""
    browser: Chromium = pytestconfig.stash[SERVERS].get("chromium")
    return browser


@pytest.fixture
def latex(pytestconfig: pytest.Config) -> Latex:
    """LaTeX, which compiles what the test renders."""
    compiler: Latex = pytestconfig.stash[SERVERS].get("pdflatex")
    return compiler


@pytest.fixture
def yaml_language_server(pytestconfig: pytest.Config) -> YamlLanguageServer:
    """The language server that all tests of this process share."""
    server: YamlLanguageServer = pytestconfig.stash[SERVERS].get("yaml-language-server")
    return server


def _sqlite(directory: Path) -> Target:
    return Target("sqlite", "sqlite", str(directory / "study.db"))


def _on_server(name: str, config: pytest.Config, directory: Path) -> Iterator[Target]:
    server = config.stash[SERVERS].get(name)
    database = f"pe_{uuid.uuid4().hex[:8]}"
    server.create_database(database)
    yield Target(
        name, server.provider, database, server, write_credentials(directory / f"{name}_credentials.yml", server)
    )
    server.drop_database(database)


_FIXTURES = {
    "mariadb_target": "mariadb",
    "private_mariadb": "mariadb",
    "postgresql_target": "postgresql",
    "private_postgresql": "postgresql",
    "slurm": "slurm",
    "latex": "pdflatex",
    "yaml_language_server": "yaml-language-server",
    "chromium": "chromium",
}


def _needed_servers(item: pytest.Item) -> set[str]:
    needed = {_FIXTURES[fixture] for fixture in getattr(item, "fixturenames", ()) if fixture in _FIXTURES}
    callspec = getattr(item, "callspec", None)
    kinds = {callspec.params.get(fixture) for fixture in ("target", "server")} if callspec else set()
    return needed | (kinds & _STARTERS.keys())


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SERVERS] = Servers()


@pytest.hookimpl(tryfirst=True)  # before `-m` selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _needed_servers(item):
            item.add_marker("server")
    # Functions of tests are sent to workers' processes like those of a script. Otherwise each of the many processes
    # would import the module of the test, and pytest with it, which takes longer than all else that it does.
    for module in {tests.support, *(item.module for item in items if isinstance(item, pytest.Function))}:
        cloudpickle.register_pickle_by_value(module)


def pytest_runtest_setup(item: pytest.Item) -> None:
    # Skipped here, all tests for one reason are one line of the summary; skipped in a fixture, they are hundreds.
    for name in sorted(_needed_servers(item)):
        item.config.stash[SERVERS].get(name)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # the outermost wrapper: what it prints comes after pytest's closing line
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    servers = session.config.stash[SERVERS]
    one_of_several = hasattr(session.config, "workeroutput")
    if one_of_several:  # the main process reports what it is sent during the yield
        session.config.workeroutput["not_tested"] = servers.not_tested
    result = yield
    servers.close()  # after the yield, which tears down fixtures that an interrupt left behind
    if one_of_several:
        return result
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    for name, reason in servers.not_tested.items():
        if terminal is not None:
            terminal.write_line(f"NOT TESTED: {name} ({reason})", red=True, bold=True)
    return result


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Gather what the processes of pytest-xdist could not test."""
    node.config.stash[SERVERS].not_tested.update(getattr(node, "workeroutput", {}).get("not_tested", {}))
