"""Commands that read say at once that the database is away, wait, and go on when it is back."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from tests.support.proxies import Proxy, through_port
from tests.support.study import experimenter, study
from tests.support.target import Target

DATABASES = ["mariadb", "postgresql"]


@pytest.fixture
def proxy(target: Target) -> Iterator[Proxy]:
    assert target.server is not None
    with closing(Proxy(target.server.host, target.server.port)) as proxy:
        yield proxy


def reading(command: str, target: Target, proxy: Proxy, directory: Path) -> subprocess.Popen[str]:
    """Start a command that reads through the proxy."""
    (directory / "config.yml").write_text(yaml.safe_dump(study(target)))
    credentials = through_port(target, proxy.port).credentials_file
    arguments = [*command.split(), "-c", str(directory / "config.yml"), "--credentials", str(credentials)]
    return subprocess.Popen(
        [sys.executable, "-m", "pyexperimenter", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.parametrize("outage", ["refuse", "blackhole"])
@pytest.mark.parametrize("command", ["status", "list", "export -"])
def test_it_says_so_once_and_goes_on(target: Target, proxy: Proxy, tmp_path: Path, outage: str, command: str) -> None:
    experimenter(target).fill_table_from_config()
    getattr(proxy, outage)()
    start = time.monotonic()
    with reading(command, target, proxy, tmp_path) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        waited = time.monotonic() - start
        assert "waiting up to 1m for" in said and f"127.0.0.1:{proxy.port}" in said
        proxy.heal()
        output, more = process.communicate(timeout=60)
    assert process.returncode == 0, more
    assert "waiting" not in more and "works again" in more
    assert "wine" in output or "0 of 6 finished" in output
    assert waited < 20  # 1.5 s on a free machine
