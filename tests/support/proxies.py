"""A proxy for network faults: connections are cut, refused or go silent, or an answer is lost."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyexperimenter.config import load_config
from pyexperimenter.database.records import Attempt
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.execution.journaling_store import JournalingStore
from tests.support.study import study, worker
from tests.support.target import Target, write_credentials


def through_port(target: Target, port: int) -> Target:
    """Return the same database reached through another port, as of a proxy; the target's own queries go directly."""
    assert target.server is not None
    assert target.credentials_file is not None
    server = target.server.kind(target.name, "127.0.0.1", port, target.server.user, target.server.password)
    file = target.credentials_file.with_name(f"port_{port}_credentials.yml")
    return replace(target, credentials_file=write_credentials(file, server))


def leading_nowhere(target: Target) -> Target:
    """Return the same database as seen by a worker that cannot reach it."""
    if target.server is None:
        return replace(target, database=f"{target.database}.away")
    return through_port(target, 1)  # nothing listens there


class CutOffWorker(JournalingStore):
    """The store of a worker that holds attempts and has been cut off from the database for too long."""

    def __init__(self, target: Target, journals: Path, identity: str = "cut off", **changes: Any) -> None:
        away = leading_nowhere(target)
        execution = {"isolation": "none", "max_outage": 0.001}
        config = load_config(study(away, Execution=execution, **changes), credentials_path=away.credentials_file)
        super().__init__(config, journals, identity)
        self.identity = identity

    def claim_by(self, opened: ExperimentStore) -> Attempt:
        """Claim an experiment, as it did before."""
        experiment = opened.claim(replace(worker(), identity=self.identity))
        assert experiment is not None
        return experiment.attempt

    def die(self) -> None:
        """Release the journal, as a killed process does."""
        self.close()


class Proxy:
    """Forwards connections to a server, with the faults that were requested since the last `heal`."""

    def __init__(self, host: str, port: int) -> None:
        self.server = (host, port)
        self._links: set[_Link] = set()
        self.swallowed, self.holding = threading.Event(), threading.Event()
        self.cuts = 0  # made at random or on a statement
        self.requests = 0  # sent to the server, each of which waits for its answer
        self._forward_all()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.port = 0  # any that is free
        self._listener = self._run(self._listen())
        self.port = self._listener.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Reset all connections."""
        self._run(self._cut())

    def cut_at_random(self, probability: float, seed: int) -> None:
        """Reset a connection instead of forwarding data, in each direction with this probability."""
        self._dice, self._probability = random.Random(seed), probability

    def cut_on(self, *statements: bytes) -> None:
        """Reset each connection that sends one of these; the server does not receive it."""
        self._unwanted = statements

    def swallow_next(self, statement: bytes, then_refuse: bool = False) -> None:
        """Reset the connection that next sends `statement`, once the server has answered: only the answer is lost.

        With `then_refuse`, new connections are refused from that moment on.
        """
        self.swallowed.clear()
        self._refuses_then, self._to_swallow = then_refuse, statement

    def refuse(self) -> None:
        """Reset all connections and refuse new ones, as if the server were down."""
        self._run(self._refuse())

    def blackhole(self, for_good: bool = False) -> None:
        """Accept data and new connections, but forward nothing.

        It is forwarded by `heal`, as TCP would resend it; with `for_good`, never, as if a router had forgotten the
        connection.
        """
        self.holding.clear()
        self._holds, self._forgets = True, for_good

    def heal(self) -> None:
        """Forward all again."""
        self._forward_all()
        if not self._listener.is_serving():
            self._listener = self._run(self._listen())

    def close(self) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _forward_all(self) -> None:
        self._probability, self._dice = 0.0, random.Random(0)
        self._unwanted: tuple[bytes, ...] = ()
        self._to_swallow: bytes | None = None
        self._refuses_then = self._holds = self._forgets = False

    def _run(self, doing: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result(30)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        self._links.add(link)
        try:
            with suppress(OSError):  # the server is down
                answers, link.to_server = await asyncio.open_connection(*self.server)
                await asyncio.gather(
                    self._forward(link, reader, link.to_server), self._forward(link, answers, link.to_client)
                )
        finally:
            link.reset()
            self._links.discard(link)

    async def _forward(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(2**16):
                while not link.ended and (self._holds or link.forgotten):
                    link.forgotten = link.forgotten or self._forgets
                    self.holding.set()
                    await asyncio.sleep(0.01)
                asks = writer is link.to_server
                self.requests += asks
                if asks and self._to_swallow is not None and self._to_swallow in data:
                    self._to_swallow, link.swallows = None, True
                elif link.swallows:
                    if self._refuses_then:
                        await self._refuse()
                    self.swallowed.set()
                    break
                unwanted = asks and any(statement in data for statement in self._unwanted)
                if unwanted or self._dice.random() < self._probability:
                    self.cuts += 1
                    break
                writer.write(data)
                await writer.drain()
        link.reset()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _refuse(self) -> None:
        self._listener.close()
        await self._cut()

    async def _cut(self) -> None:
        for link in self._links:
            link.reset()

    async def _end(self) -> None:
        await self._refuse()
        while len(asyncio.all_tasks()) > 1:  # each forgets its connection
            await asyncio.sleep(0.01)


class _Link:
    """A connection through the proxy: its two ends."""

    def __init__(self, to_client: asyncio.StreamWriter) -> None:
        self.to_client = to_client
        self.to_server: asyncio.StreamWriter | None = None
        self.swallows = self.forgotten = self.ended = False

    def reset(self) -> None:
        self.ended = True
        for end in (self.to_client, self.to_server):
            if end is not None:
                with suppress(OSError):  # it is closed
                    # Without lingering, closing says RST instead of FIN.
                    end.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                end.transport.abort()
