"""The dashboard as a server: ports, sockets, addresses, the command, and what the others pay for it."""

from __future__ import annotations

import http.client
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from pyexperimenter import PyExperimenter
from pyexperimenter.cli import main
from pyexperimenter.dashboard.server import Dashboard
from pyexperimenter.exceptions import PyExperimenterError
from tests.support.study import experimenter, wait_until
from tests.support.target import Target

_sockets = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")


@pytest.fixture
def filled(sqlite_target: Target) -> PyExperimenter:
    study_ = experimenter(sqlite_target)
    study_.fill_table_from_config()
    return study_


@contextmanager
def served(board: Dashboard) -> Iterator[Dashboard]:
    try:
        yield board.start()
    finally:
        board.stop()


def get(connection: http.client.HTTPConnection, path: str, **headers: str) -> tuple[int, str]:
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_it_is_served_with_a_token_on_the_loopback_until_it_is_stopped(filled: PyExperimenter) -> None:
    board = filled.dashboard()
    try:
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=([\w-]{40,})", board.url)
        assert found is not None and found[2] not in repr(board) and found[2] in board._repr_html_()
        with closing(http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)) as connection:
            assert get(connection, "/s/study/")[0] == 403
            assert get(connection, f"/s/study/?token={found[2]}")[0] == 200
    finally:
        board.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(found[1])), timeout=60)


def test_too_large_requests_are_refused(filled: PyExperimenter) -> None:
    with served(Dashboard(filled)) as board:
        port = int(re.search(r":(\d+)/", board.url)[1])  # type: ignore[index]
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            status, text = get(connection, "/", cookie="a" * 100_000)
            assert status == 431 and "Traceback" not in text


def test_the_browser_is_not_told_the_token_on_its_command_line(
    filled: PyExperimenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    with served(Dashboard(filled)) as board:
        board.open_browser()
        (url,) = opened
        assert url.startswith("file:///") and "token" not in url
        file = Path(url.removeprefix("file://"))
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert f"url={board.url}" in file.read_text()
    assert not file.exists()


class _OverSocket(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


@_sockets
def test_a_socket_is_for_its_owner_only(filled: PyExperimenter, tmp_path: Path) -> None:
    path = tmp_path / "dashboard.sock"
    with closing(socket.socket(socket.AF_UNIX)) as left_behind:
        left_behind.bind(str(path))
    before = os.umask(0)
    try:
        board = Dashboard(filled, uds=path)
    finally:
        os.umask(before)
    with served(board):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with closing(_OverSocket(path)) as connection:
            status, text = get(connection, "/s/study/")
            assert status == 200 and "6 experiments" in re.sub("<.*?>", "", text)
        with pytest.raises(PyExperimenterError, match="choose a path"):
            Dashboard(filled, uds=path)  # it is in use
    assert not path.exists()


@_sockets
def test_a_file_is_not_replaced_by_a_socket(filled: PyExperimenter, tmp_path: Path) -> None:
    path = tmp_path / "results.txt"
    path.write_text("mine")
    with pytest.raises(PyExperimenterError, match="choose a path that does not exist, in a directory of your own"):
        Dashboard(filled, uds=path)
    assert path.read_text() == "mine"


def test_a_port_in_use_is_explained(filled: PyExperimenter) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        with pytest.raises(PyExperimenterError, match=rf"cannot serve on 127\.0\.0\.1:{port}: .*; choose another"):
            filled.dashboard(port=port)


def test_the_command_serves_and_warns_of_other_hosts(filled: PyExperimenter, sqlite_target: Target) -> None:
    command = [sys.executable, "-m", "pyexperimenter", "dashboard", sqlite_target.database]
    for options, warns in (["--no-browser"], False), (["--no-browser", "--host", "0.0.0.0", "--root-path", "x/"], True):
        process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"is on http://[^/]+:(\d+)(/x)?/\?token=([\w-]+) \(Ctrl-C ends it\)", line)
            assert found is not None and bool(found[2]) is warns, line

            def answers(port: int = int(found[1]), token: str = found[3]) -> bool:
                with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
                    try:
                        return get(connection, f"/?token={token}")[0] == 200
                    except ConnectionError:
                        return False

            wait_until(answers)
        finally:
            process.terminate()
            _, messages = process.communicate(timeout=120)
        assert ("OTHER MACHINES CAN REACH THIS DASHBOARD" in messages) is warns
        assert "Traceback" not in messages


def test_without_the_extra_the_command_says_what_to_install(
    filled: PyExperimenter, sqlite_target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "pyexperimenter.dashboard.server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = CliRunner().invoke(main, ["dashboard", sqlite_target.database])
    assert result.exit_code == 1
    assert "pip install 'pyexperimenter[dashboard]'" in result.stderr


def test_others_do_not_pay_for_it(filled: PyExperimenter, sqlite_target: Target) -> None:
    code = (
        "import sys; from pyexperimenter.cli import main\n"
        f"try: main(['status', {sqlite_target.database!r}])\n"
        "except SystemExit: print({'starlette', 'uvicorn', 'jinja2', 'anyio'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
