"""A TCP proxy between a client and a server, to break their connections in every way.

It runs an event loop in a thread of its own; all methods may be called from any thread, and have
taken effect when they return. Each fault tells what the two ends see:

========== ============================== ============================ =====================
method     open connections: client sees  open connections: server     new connections
========== ============================== ============================ =====================
cut        a reset                        a reset                      work
half_open  silence                        a reset                      work
swallow    silence                        silence                      work
blackhole  silence                        silence                      accepted, but silent
refuse     a reset                        a reset                      refused
========== ============================== ============================ =====================

`restore` ends the last two; connections that fell silent stay so.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Self

#: Seconds that a change may take.
ANSWER_S = 10.0
CHUNK = 65536


class _Link:
    """One connection through the proxy; ``server`` is missing where it was never made."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter | None) -> None:
        self.client = client
        self.server = server
        self.is_silent = server is None


def _reset(end: asyncio.StreamWriter | None) -> None:
    if end is None:
        return
    handle = end.get_extra_info("socket")
    if handle is not None:
        # Without lingering the peer gets a reset instead of an orderly end.
        with suppress(OSError):
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.transport.abort()


class Proxy:
    """Forwards connections on a loopback port to *port*.

    Args:
        port: Of the server, on loopback.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.port = 0
        #: Seconds that each piece of data is held back, in either direction.
        self.delay_s = 0.0
        #: Connections accepted so far.
        self.accepted = 0
        self._links: set[_Link] = set()
        self._is_mute = False
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *error: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(ANSWER_S)
        self._loop.close()

    def cut(self) -> None:
        """Reset all open connections, at both ends."""
        self._call(self._cut)

    def half_open(self) -> None:
        """Reset the server's ends; clients are left with connections to nobody."""
        self._call(self._half_open)

    def swallow(self) -> None:
        """Lose all that open connections carry from now on; both ends stay open."""
        self._call(self._swallow)

    def blackhole(self) -> None:
        """Swallow, and accept new connections without ever answering them."""
        self._is_mute = True
        self._call(self._swallow)

    def refuse(self) -> None:
        """Cut, and refuse new connections."""
        self._do(self._stop_listening())
        self._call(self._cut)

    def restore(self) -> None:
        """Serve new connections again."""
        self._is_mute = False
        self._do(self._listen())

    # -- In the thread of the loop

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(ANSWER_S)

    def _call(self, function: Callable[[], None]) -> None:
        async def call() -> None:
            function()

        self._do(call())

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._listener.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    async def _close(self) -> None:
        await self._stop_listening()
        self._cut()
        # Those whose peer was reset end by themselves, those without a server wait for ever.
        serving = asyncio.all_tasks(self._loop) - {asyncio.current_task()}
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    def _cut(self) -> None:
        for link in list(self._links):
            _reset(link.client)
            _reset(link.server)

    def _half_open(self) -> None:
        for link in self._links:
            link.is_silent = True
            _reset(link.server)

    def _swallow(self) -> None:
        for link in self._links:
            link.is_silent = True

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.accepted += 1
        answers, server = None, None
        if not self._is_mute:
            try:
                answers, server = await asyncio.open_connection("127.0.0.1", self.target)
            except OSError:
                _reset(client)
                return
        link = _Link(client, server)
        self._links.add(link)
        try:
            pumps = [self._pump(reader, server, link)]
            if answers is not None:
                pumps.append(self._pump(answers, client, link))
            await asyncio.gather(*pumps)
        except asyncio.CancelledError:
            # The proxy closes. asyncio would log what is raised here.
            return
        finally:
            self._links.discard(link)
            _reset(server)
            _reset(client)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter | None, link: _Link
    ) -> None:
        with suppress(OSError):
            while data := await source.read(CHUNK):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if link.is_silent or sink is None:
                    continue
                sink.write(data)
                await sink.drain()
        # One end has gone. The other hears of it, except through a silent link.
        if not link.is_silent:
            for end in (link.client, link.server):
                if end is not None:
                    end.close()
