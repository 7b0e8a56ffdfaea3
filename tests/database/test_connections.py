"""How long an idle connection of a worker stays open: long while the server has room, but not in a crowd."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from pyexperimenter.database import connection
from pyexperimenter.database.store import ExperimentStore
from tests.support.proxies import Proxy, through_port
from tests.support.study import store, wait_until, worker
from tests.support.target import Target, write_credentials

LONG = 3600.0
servers = pytest.mark.parametrize("target", ["mariadb", "mysql", "postgresql"], indirect=True)


def set_seconds(patch: pytest.MonkeyPatch, *, of_others: float, with_room: float, in_a_crowd: float) -> None:
    patch.setattr(connection, "_IDLE_SECONDS", of_others)
    patch.setattr(connection, "_IDLE_WITH_ROOM", with_room)
    patch.setattr(connection, "_IDLE_IN_A_CROWD", in_a_crowd)


def used(opened: ExperimentStore) -> ExperimentStore:
    with opened.database.query() as cursor:
        cursor.one("SELECT 1")
    return opened


def used_by_a_worker(target: Target) -> ExperimentStore:
    opened = store(target, filled=False)
    opened.database.keep_connections()
    return used(opened)


def is_open(opened: ExperimentStore) -> bool:
    return opened.database._local.key in connection._IDLE._connections


@servers
def test_with_room_it_stays(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    set_seconds(monkeypatch, of_others=0, with_room=LONG, in_a_crowd=0)
    worker, reader = used_by_a_worker(target), used(store(target, filled=False))
    wait_until(lambda: not is_open(reader))
    assert is_open(worker)


@servers
def test_another_is_opened_for_one_that_is_lost_at_once(target: Target) -> None:
    """As if it was killed while the server was asked how many connections it has."""
    store(target)
    assert target.server is not None
    with closing(Proxy(target.server.host, target.server.port)) as proxy:
        opened = store(through_port(target, proxy.port), filled=False)
        opened.database.keep_connections()
        proxy.swallow_next(b"SELECT LEAST(")
        assert opened.claim(worker()) is not None
        assert proxy.swallowed.is_set()


@servers
def test_with_room_it_is_closed_at_last(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others that wait for a connection get their chance, even if this one is always in use."""
    set_seconds(monkeypatch, of_others=LONG, with_room=LONG, in_a_crowd=LONG)
    monkeypatch.setattr(connection, "_LONGEST_KEPT", 0)
    worker = used_by_a_worker(target)
    wait_until(lambda: not is_open(worker))


@servers
def test_threads_that_take_turns_can_share_one(target: Target) -> None:
    opened = store(target, filled=False)
    own = {"mysql": "SELECT CONNECTION_ID()", "postgresql": "SELECT pg_backend_pid()"}[target.provider]

    def connection_id() -> object:
        with opened.database.query() as cursor:
            return cursor.one(own)

    def of_two_threads() -> set[object]:
        return {ThreadPoolExecutor(1).submit(connection_id).result() for _ in range(2)}

    assert len(of_two_threads()) == 2
    opened.database.share_connection()
    assert len(of_two_threads()) == 1


@pytest.fixture
def limited(target: Target, tmp_path: Path) -> Iterator[Target]:
    """The database, for a user who may have two connections."""
    server, name = target.server, f"few_{target.database}"
    assert server is not None
    server.create_user(name, "secret", target.database)
    few = (
        "ALTER ROLE {} CONNECTION LIMIT 2"
        if target.provider == "postgresql"
        else ("GRANT USAGE ON *.* TO {} WITH MAX_USER_CONNECTIONS 2")
    )
    server.run(few.format(name))
    user = copy.copy(server)
    user.user, user.password = name, "secret"
    yield replace(target, server=user, credentials_file=write_credentials(tmp_path / "few.yml", user))
    server.drop_user(name, target.database)


@servers
def test_in_a_crowd_it_is_given_up(limited: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    set_seconds(monkeypatch, of_others=LONG, with_room=LONG, in_a_crowd=0)
    with limited.session():  # the other of the two
        worker = used_by_a_worker(limited)
        wait_until(lambda: not is_open(worker))
