"""For tests of probes: an engine's own pages on a real socket, and sleeps that end when a test says
so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from llmgw_core.testing.model_server import completion
from llmgw_core.testing.upstream import Upstream, http_reply

if TYPE_CHECKING:
    from llmgw_core.testing.upstream import Peer


class EnginePages:
    """An engine on a real socket. `pages` are (status, body) by path, and `answer` is that to every
    call; None: no answer, the connection is reset."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, bytes] | None] = {
            "/health": (200, b'{"status":"ok"}'),
            "/v1/models": (200, b'{"data":[{"id":"m"}]}'),
            "/metrics": (200, b"tgi_batch_current_size 0\ntgi_queue_size 0\n"),
        }
        self.answer: tuple[int, bytes] | None = (200, msgspec.json.encode(completion()))
        self.upstream = Upstream(self._serve)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.upstream.port

    async def _serve(self, peer: Peer) -> None:
        while True:
            request = await peer.request()
            page = self.pages[request.target] if request.method == "GET" else self.answer
            if page is None:
                peer.reset()
                return
            await peer.send(http_reply(*page))

    def asked(self) -> list[str]:
        """The paths of the requests since the last time."""
        paths = [request.target for request in self.upstream.requests]
        self.upstream.requests.clear()
        return paths


class Ticker:
    """Sleeps that end when the test says so."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        """Of every sleep so far."""
        self._sleepers: list[asyncio.Future[None]] = []
        self._more = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        """Until the next `round`."""
        self.seconds.append(seconds)
        sleeper = asyncio.get_running_loop().create_future()
        self._sleepers.append(sleeper)
        self._more.set()
        await sleeper

    async def asleep(self, count: int) -> None:
        """Wait until so many sleep."""
        while sum(not each.done() for each in self._sleepers) < count:
            self._more.clear()
            await self._more.wait()

    async def round(self, count: int = 1) -> None:
        """Let `count` tasks, which are all there are, do one round each."""
        await self.asleep(count)
        for sleeper in self._sleepers:
            if not sleeper.done():
                sleeper.set_result(None)
        self._sleepers.clear()
        await self.asleep(count)
