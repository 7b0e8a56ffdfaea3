"""What the heartbeats of waiting workers cost the server, in statements."""

from __future__ import annotations

import logging

from servers import Target
from study import store, study, wait_until, worker

from pyexperimenter.config import load_config
from pyexperimenter.heartbeat import heart_of


def test_a_beat_is_one_statement_and_every_second_one_looks_for_the_silent(mariadb_target: Target) -> None:
    """At 60 s, 64 processes of a worker each ask 1.6 statements a second, one of 64 workers 0.03."""
    execution = {"isolation": "none", "heartbeat": 0.5, "lease": 60}
    opened = store(mariadb_target, Execution=execution)
    held = [opened.claim(worker(name)) for name in ("a", "b", "c")]
    connection = mariadb_target.connect()
    cursor = connection.cursor()

    def one(sql: str) -> str:
        cursor.execute(sql)
        return str(cursor.fetchone()[-1])

    questions = "SHOW GLOBAL STATUS LIKE 'Questions'"
    last_beat = "SELECT MIN(heartbeat) FROM study__attempts"

    config = load_config(study(mariadb_target, Execution=execution), credentials_path=mariadb_target.credentials_file)
    beats, ours = 8, 0
    with heart_of(config, logging.getLogger("heart")) as heart:
        for experiment in held:
            assert experiment is not None
            heart.watch(experiment.attempt)
        seen = one(last_beat)
        before = int(one(questions))
        for _ in range(beats):

            def beaten(seen: str = seen) -> bool:
                nonlocal ours
                ours += 1
                return one(last_beat) > seen

            wait_until(beaten)
            seen = one(last_beat)
            ours += 1
        asked = int(one(questions)) - before - ours - 1
    connection.close()
    assert beats <= asked <= 1.5 * beats + 2, "a beat or look may be under way at either end"
