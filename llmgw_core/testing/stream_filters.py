"""For tests of streams: small filters, plugins that open them, and upstreams that send piece by
piece."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from llmgw_core.domain.errors import GatewayError
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.client import MemorySink
from llmgw_core.testing.model_server import SSE
from llmgw_core.testing.upstream import Peer, chunk, chunked_head

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llmgw_core.domain.call import Call
    from llmgw_core.domain.reply import Reply
    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.wire.stream_event import StreamEvent

TEAPOT = GatewayError(418, "guarded", "Not that.", type="policy_error")
"""What a plugin rejects with."""


class Pass:
    """Lets everything through, and counts what it is asked."""

    def __init__(self) -> None:
        self.fed = 0
        self.finished = 0
        self.closed = 0

    def feed(self, event: StreamEvent) -> Any:
        """The event."""
        self.fed += 1
        return event

    def finish(self) -> Any:
        """Nothing more."""
        self.finished += 1

    def close(self) -> None:
        """Counted."""
        self.closed += 1


class Hold(Pass):
    """Holds everything to the end."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[StreamEvent] = []

    def feed(self, event: StreamEvent) -> Any:
        """Held."""
        self.fed += 1
        self.held.append(event)

    def finish(self) -> Any:
        """Everything."""
        self.finished += 1
        return self.held


class RejectAtEnd(Hold):
    """Rejects when it has seen everything."""

    def finish(self) -> Any:
        """Raises."""
        raise TEAPOT


class RejectWord(Pass):
    """Rejects the first event that says "there"."""

    def feed(self, event: StreamEvent) -> Any:
        """The event, or a rejection."""
        if any("there" in choice.text for choice in event.choices):
            raise TEAPOT
        return event


def suffixing(mark: str) -> type[Pass]:
    """A filter that appends `mark` to every piece of text."""

    class Suffix(Pass):
        def feed(self, event: StreamEvent) -> Any:
            for choice in event.choices:
                if choice.text:
                    event = event.with_delta(choice.index, {"content": choice.text + mark})
            return event

    return Suffix


class _Plugin:
    def __init__(self, config: None, context: PluginContext) -> None:
        self.context = context


def filtering(make: Callable[[], Any], opened: list[Any] | None = None) -> type[Any]:
    """A plugin class that opens what `make` makes for every stream, and appends it to `opened`."""

    class Filtering(_Plugin):
        @hookimpl
        def open_stream(self, call: Call) -> Any:
            made = make()
            if opened is not None:
                opened.append(made)
            return made

    return Filtering


def judging(judgement: Callable[[Reply], Any]) -> type[Any]:
    """A plugin class whose `post_process` gives what `judgement` gives."""

    class Judging(_Plugin):
        @hookimpl
        def post_process(self, reply: Reply) -> Any:
            return judgement(reply)

    return Judging


class Gate(MemorySink):
    """A client that opens the gate when it has got something."""

    def __init__(self) -> None:
        super().__init__(self._opened)
        self.opened = asyncio.Event()

    async def _opened(self, data: bytes) -> None:
        self.opened.set()


def streaming(
    *pieces: bytes, ending: str = "end", gate: Gate | None = None
) -> Callable[[Peer], Awaitable[None]]:
    """An upstream whose streams consist of `pieces`, sent one by one, and then `end`, are `cut`
    or stall (`stuck`). With `gate`, the last piece and the end wait for it."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(chunked_head(200, SSE))
            for number, piece in enumerate(pieces, start=1):
                if gate is not None and number == len(pieces):
                    await gate.opened.wait()
                if piece:
                    await peer.send(chunk(piece))
            if ending == "stuck":
                await peer.stall()
            if ending != "end":
                return
            await peer.send(chunk(b""))

    return script
