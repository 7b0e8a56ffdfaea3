"""Runs the core of the tests where the library finds only what macOS or Windows has (`tests/support/systems`)."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyexperimenter.machine import processes

ROOT = Path(__file__).resolve().parents[2]
CORE = {
    "database/test_claim.py": "test_claims_go_by_id_and_end_with_none test_a_stopped_worker_gives_back_all_it_holds",
    "database/test_journal.py": """
        test_results_logs_and_the_end_are_written test_a_journal_of_a_deleted_experiment_is_kept_and_reported
        test_a_living_workers_journal_is_written_before_its_next_write
        """,
    "system/test_cli.py": """
        test_a_starter_is_written_checked_filled_run_and_summarized test_status test_reset_asks_with_the_count
        """,
    "system/test_execute.py": """
        test_the_function_gets_keyfields_a_processor_and_custom_fields test_what_the_function_returns_decides_the_status
        """,
    "system/test_gpus.py": "test_calls_share_the_machine_and_a_killed_one_frees_its_gpus",
    "system/test_leases.py": "test_resetting_a_running_row_stops_it_and_the_next_run_is_fine",
    "system/test_output.py": """
        test_the_last_64_kib_of_output_are_kept_and_the_rest_counted test_many_lines_do_no_harm
        test_echo_shows_lines_live_and_says_whose_they_are
        """,
    "system/test_signals.py": """
        test_a_signal_releases_what_does_not_end_within_its_grace[sqlite-SIGTERM-first-process-1]
        test_a_signal_releases_what_does_not_end_within_its_grace[sqlite-SIGINT-first-none-2]
        """,
    "system/test_supervision.py": """
        test_a_death_between_two_experiments_fails_neither test_a_death_does_not_touch_what_other_workers_hold
        test_a_row_that_exceeds_time_limit_is_killed_with_its_traceback
        test_nothing_that_an_experiment_started_outlives_its_worker
        """,
    "system/test_surroundings.py": "test_what_a_run_leaves_running_is_ended_and_named",
}
NOT_THERE = {  # docs/systems.md says so
    "darwin": "orphan",
    "win32": "SIGUSR1 or backtrack or orphan or death]",
}
if sys.platform == "win32":
    NOT_THERE["win32"] += " or a_signal_releases"  # os.kill sends no signals there

systems = pytest.mark.parametrize("system", NOT_THERE if sys.platform == "linux" else [sys.platform])


def python(system: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python where the library finds what the system has."""
    environment = dict(os.environ)
    if system != sys.platform:
        path = [str(ROOT / "tests" / "support" / "systems"), os.environ.get("PYTHONPATH", "")]
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, path)), "PYEXPERIMENTER_TEST_SYSTEM": system}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, cwd=ROOT, check=False
    )


@systems
@pytest.mark.timeout(1200)
def test_the_core_works(system: str) -> None:
    tests = [f"tests/{file}::{name}" for file, names in CORE.items() for name in names.split()]
    options = ["-q", "-p", "no:cacheprovider", "-m", "not server", "-k", f"not ({NOT_THERE[system]})"]
    done = python(system, "-m", "pytest", *options, *tests)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " skipped" not in done.stdout


@systems
def test_every_module_can_be_imported(system: str) -> None:
    code = """
import importlib, pkgutil, pyexperimenter
for module in pkgutil.walk_packages(pyexperimenter.__path__, "pyexperimenter."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
    done = python(system, "-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform == "darwin", reason="nothing is missing there")
def test_what_is_missing_is_said_with_a_remedy() -> None:
    code = """
from pyexperimenter.config.model import SshConfig
from pyexperimenter.database.ssh.shared_tunnel import tunnel_address
tunnel_address(SshConfig("gateway"), "db", 3306)
"""
    error = python("win32", "-c", code).stderr
    assert "SshTunnelError" in error and "ssh -N -L 3306:127.0.0.1:3306 gateway" in error


def test_only_the_process_that_was_started_is_listened_to() -> None:
    """Any process of the machine can connect to the port of a supervisor."""
    token = secrets.token_hex().encode()
    started = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with started, socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as pool:
        accepted = pool.submit(processes._accept, server, token, started)
        for said in (b"", b"x" * len(token), token[:-1]):
            with socket.create_connection(server.getsockname()) as stranger:
                stranger.sendall(said)
        with socket.create_connection(server.getsockname()) as own:
            own.sendall(token + b"message")
            with accepted.result() as connection:
                assert connection.getpeername() == own.getsockname()
                assert connection.recv(100) == b"message"
        ended = pool.submit(processes._accept, server, token, started)
        started.communicate()
        with ended.result() as connection:
            assert connection.recv(1) == b""
