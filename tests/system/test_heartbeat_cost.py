"""What the heartbeats of waiting workers cost the server, in statements."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from pyexperimenter.config import ExperimentConfig, Secret, load_config
from pyexperimenter.execution.heartbeat import shared_heartbeat
from tests.support.study import store, study, wait_until, worker
from tests.support.target import Target

KINDS = ("Com_update", "Com_select", "Com_set_option", "Com_begin", "Com_commit")  # statements, without our own SHOW


def test_a_beat_is_one_transaction_every_second_looks_for_the_silent(mariadb_target: Target) -> None:
    """At 60 s, 64 processes of a worker each ask 5 statements a second, one of 64 workers 0.08."""
    execution = {"isolation": "none", "heartbeat": 0.5, "lease": 60}
    opened = store(mariadb_target, Execution=execution)
    held = [opened.claim(worker(name)) for name in ("a", "b", "c")]
    connection = mariadb_target.connect()
    cursor = connection.cursor()

    def asked(what: str) -> int:
        cursor.execute(f"SHOW GLOBAL STATUS LIKE '{what}'")
        return int(cursor.fetchone()[1])

    config = load_config(study(mariadb_target, Execution=execution), credentials_path=mariadb_target.credentials_file)
    with shared_heartbeat(config, logging.getLogger("heartbeat")) as heartbeat:
        for experiment in held:
            assert experiment is not None
            heartbeat.keep(experiment.attempt)
        before = {what: asked(what) for what in KINDS}
        wait_until(lambda: asked("Com_update") >= before["Com_update"] + 8)
        statements = {what: asked(what) - before[what] for what in KINDS}
    connection.close()
    assert statements["Com_set_option"] <= statements["Com_update"] + 1  # one for a connection
    del statements["Com_set_option"]
    assert sum(statements.values()) <= 3.5 * statements["Com_update"] + 4, statements
    assert statements["Com_select"] > 0


def test_workers_with_equal_credentials_share_heartbeats(sqlite_target: Target) -> None:
    config = load_config(study(sqlite_target), credentials_path=sqlite_target.credentials_file)

    def with_password(password: str) -> ExperimentConfig:
        credentials = replace(config.database.credentials, password=Secret(password))
        return replace(config, database=replace(config.database, credentials=credentials))

    logger = logging.getLogger("heartbeat")
    with shared_heartbeat(with_password("a"), logger) as first, shared_heartbeat(with_password("a"), logger) as same:
        assert same is first
        with shared_heartbeat(with_password("b"), logger) as other:
            assert other is not first


def test_threads_that_look_for_work_share_a_connection(mariadb_target: Target) -> None:
    opened = store(mariadb_target)
    config = load_config(study(mariadb_target), credentials_path=mariadb_target.credentials_file)
    connection = mariadb_target.connect()
    cursor = connection.cursor()

    def connections() -> int:
        cursor.execute("SHOW GLOBAL STATUS LIKE 'Connections'")
        return int(cursor.fetchone()[1])

    turn = threading.Lock()
    with shared_heartbeat(config, logging.getLogger("heartbeat")) as heartbeat:

        def look() -> float | None:
            with turn:
                return heartbeat.look(opened.selection(), waits=False)

        before = connections()
        with ThreadPoolExecutor(8) as threads:
            assert [future.result() for future in [threads.submit(look) for _ in range(8)]] == [0.0] * 8
        assert connections() - before <= 3  # there may be a pause in which it is closed, and the heart has its own
    connection.close()


def test_looking_for_the_silent_does_not_read_all_that_run(mariadb_target: Target) -> None:
    """All N processes look: if each look read N rows, ten thousand workers would keep a server busy with that alone."""
    running = 500
    opened = store(mariadb_target, keyfields={"seed": {"type": "INT", "values": {"start": 0, "stop": running}}})
    mariadb_target.query("UPDATE study SET status = 'running'")
    mariadb_target.query(
        "INSERT INTO study__attempts (experiment_id, number, run, worker, heartbeat, lease_until) "
        "SELECT ID, 1, 1, 'w', UTC_TIMESTAMP(), UTC_TIMESTAMP() + INTERVAL IF(seed = 7, -1, 1) HOUR FROM study"
    )

    def read() -> int:
        return sum(int(count) for _, count in mariadb_target.query("SHOW GLOBAL STATUS LIKE 'Handler_read%'"))

    opened.silent()  # opens the connection
    before = read()
    assert len(opened.silent()) == 1
    assert read() - before < running / 5
