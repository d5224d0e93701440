"""Stream filters: what a plugin does to a chat stream while it runs, event by event.

A filter lives for one attempt. The filters of several plugins form a chain, the last plugin
first, as `post_process` does; what one gives out is what the next one gets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.hooks.dispatch import measured
from llmgw_core.hooks.foreign import Foreign
from llmgw_core.wire.stream_event import StreamEvent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Sequence

    from llmgw_core.hooks.compile import CompiledHook

Emitted = StreamEvent | list[StreamEvent] | tuple[StreamEvent, ...] | None
"""What a filter gives out now: nothing, one event, or several."""

_OBJECT: Final = 256
"""Bytes that an event is counted with beside its own: what it costs as an object."""


@runtime_checkable
class StreamFilter(Protocol):
    """What `open_stream` returns. Both methods may be coroutines. A filter may also have a plain
    function `close()`, called once when its attempt is over, however it ended."""

    def feed(self, event: StreamEvent) -> Emitted | Awaitable[Emitted]:
        """Take one event. Return it to pass it on, nothing to hold or drop it, others to replace
        it. Raise `GatewayError` to end the stream: before any content has reached the client as
        an ordinary error reply, after it as an error event without `[DONE]`."""
        ...

    def finish(self) -> Emitted | Awaitable[Emitted]:
        """The upstream has said everything: give out what is still held, or raise."""
        ...


class FilterLink:
    """One plugin's filter in one attempt, under the plugin's failure policy and timeout.

    `held_bytes` bounds what it may take in without giving anything out. With `on_error: open` a
    failure takes the filter out, and what it took in since it last gave something out is passed
    on as it came."""

    __slots__ = ("_cost", "_filter", "_hook", "_keeps", "_limit", "_off", "_taken")

    def __init__(self, hook: CompiledHook, opened: StreamFilter, held_bytes: int) -> None:
        self._hook = hook
        self._filter = opened
        self._limit = held_bytes
        self._keeps = hook.on_failure == "continue"
        self._taken: list[StreamEvent] = []
        self._cost = 0
        self._off = False

    async def feed(self, event: StreamEvent) -> Sequence[StreamEvent]:
        """What comes out when `event` goes in. Raises `GatewayError`, and `UpstreamFailure` when
        the filter holds too much."""
        if self._off:
            return (event,)
        out = await self._ask(self._filter.feed, event)
        if out is None:
            return self._released(event)
        if out:
            self._taken.clear()
            self._cost = 0
            return out
        if self._keeps:
            self._taken.append(event)
        self._cost += len(event.raw) + _OBJECT
        if self._cost > self._limit:
            raise UpstreamFailure("protocol", f"{self._hook.plugin} holds too much of the stream")
        return out

    async def finish(self) -> Sequence[StreamEvent]:
        """What comes out at the end. Raises `GatewayError`."""
        if self._off:
            return ()
        out = await self._ask(self._filter.finish)
        return self._released() if out is None else out

    def close(self) -> None:
        """The attempt is over. Failures are logged and counted."""
        close = getattr(self._filter, "close", None)
        if close is not None:
            border = Foreign(self._hook.plugin, self._hook.hook, "continue")
            with border:
                close()
            self._hook.failures += border.failures

    def _released(self, *events: StreamEvent) -> Sequence[StreamEvent]:
        self._off = True
        return (*self._taken, *events)

    async def _ask(
        self, method: Callable[..., Any], *arguments: StreamEvent
    ) -> Sequence[StreamEvent] | None:
        """The checked answer; None when the filter failed and may."""
        return await measured(self._hook, method, arguments, _checked)


def _checked(result: object) -> Sequence[StreamEvent]:
    if result is None:
        return ()
    if isinstance(result, StreamEvent):
        return (result,)
    if isinstance(result, (list, tuple)) and all(isinstance(each, StreamEvent) for each in result):
        return tuple(result)
    message = f"a stream filter gave {type(result).__name__} instead of StreamEvent"
    raise TypeError(message)


LetOut = Callable[[StreamEvent], None]


class FilterChain:
    """The filters of one attempt, in the order in which they see an event. What leaves the last
    one is given to `let_out` at once, so that it is out if a later event is rejected."""

    __slots__ = ("_links",)

    def __init__(self, links: Iterable[FilterLink]) -> None:
        self._links = tuple(links)

    async def feed(self, event: StreamEvent, let_out: LetOut, at: int = 0) -> None:
        """Let `event` enter the filter number `at`."""
        if at == len(self._links):
            let_out(event)
            return
        for each in await self._links[at].feed(event):
            await self.feed(each, let_out, at + 1)

    async def finish(self, let_out: LetOut) -> None:
        """The end: each filter ends after all that those before it had left."""
        for at, link in enumerate(self._links, start=1):
            for each in await link.finish():
                await self.feed(each, let_out, at)


async def run_through(link: FilterLink, events: Sequence[StreamEvent]) -> Sequence[StreamEvent]:
    """What comes out of one filter when `events` go in one after the other."""
    if len(events) == 1:
        return await link.feed(events[0])
    out: list[StreamEvent] = []
    for event in events:
        out += await link.feed(event)
    return out
