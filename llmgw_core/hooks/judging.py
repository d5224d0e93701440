"""What plugins make of a reply, on the way back: the last plugin first, whatever it can judge.

A plugin judges complete replies (`post_process`), streams (`open_stream`), or both, and what it
cannot judge is made into what it can. A stream for a plugin that knows complete replies only is
read whole and folded; a complete reply for a plugin that knows streams only is unfolded into
events. So nothing passes a plugin unseen because of the form that it has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.domain.reply import Reply
from llmgw_core.hooks.dispatch import applying, invoke
from llmgw_core.hooks.filters import FilterChain, FilterLink, run_through
from llmgw_core.hooks.foreign import plugin_error
from llmgw_core.wire.fold import fold_chunks, unfold
from llmgw_core.wire.sse import EventSplitter
from llmgw_core.wire.stream_event import UNREADABLE, StreamEvent, read_event

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmgw_core.domain.call import Call
    from llmgw_core.hooks.compile import CompiledHook

_ODD_SHAPE = (AttributeError, TypeError)
"""What walking through a plugin's JSON raises when a value has another type than it should."""


class Judge(NamedTuple):
    """What one plugin has for replies; one of the two is there."""

    plugin: str
    open_stream: CompiledHook | None
    post_process: CompiledHook | None


def judges_of(
    hooks: Mapping[str, Sequence[CompiledHook]], order: Sequence[str]
) -> tuple[Judge, ...]:
    """The plugins that judge replies, in the order of execution. `order` names all plugins in
    the order of the configuration."""
    filters = {hook.plugin: hook for hook in hooks["open_stream"]}
    whole = {hook.plugin: hook for hook in hooks["post_process"]}
    judges = (Judge(name, filters.get(name), whole.get(name)) for name in reversed(order))
    return tuple(judge for judge in judges if judge.open_stream or judge.post_process)


async def judge_reply(
    judges: tuple[Judge, ...], reply: Reply, call: Call, held_bytes: int
) -> Reply:
    """A complete reply after all plugins. Raises `GatewayError`, and `UpstreamFailure` when it
    is none that a stream could be made of."""
    for judge in applying(judges, call):
        if judge.post_process is not None:
            reply = await invoke(judge.post_process, reply, call) or reply
        elif judge.open_stream is not None and call.endpoint == "chat.completions":
            link = await _open(judge.open_stream, call, held_bytes)
            if link is not None:
                reply = await _filtered(link, reply)
    return reply


async def _open(hook: CompiledHook, call: Call, held_bytes: int) -> FilterLink | None:
    opened = await invoke(hook, call)
    return None if opened is None else FilterLink(hook, opened, held_bytes)


async def _filtered(link: FilterLink, reply: Reply) -> Reply:
    """A complete reply through one filter; the same object if the filter let it pass."""
    try:
        before = _read(_unfolded(reply.body, usage_wanted=True))
        after = (*await run_through(link, before), *await link.finish())
    finally:
        link.close()
    if after == before:
        return reply
    try:
        body = _without_indices(_folded(after, own=True))
    except _ODD_SHAPE:
        raise _fault(own=True) from None
    return Reply(body, reply.usage, reply.output_bytes)


class StreamJudges:
    """The judges of one attempt that streams; `close` when it is over."""

    __slots__ = ("_steps", "call", "links")

    def __init__(self, call: Call) -> None:
        self.links: list[FilterLink] = []
        self._steps: list[FilterLink | CompiledHook] = []
        self.call = call

    async def open(self, judges: tuple[Judge, ...], held_bytes: int) -> None:
        """Ask every plugin for its filter. One that has none for this stream judges the stream
        as a complete reply if it can. Raises `GatewayError`."""
        for judge in applying(judges, self.call):
            link = None
            if judge.open_stream is not None:
                link = await _open(judge.open_stream, self.call, held_bytes)
            if link is not None:
                self.links.append(link)
                self._steps.append(link)
            elif judge.post_process is not None:
                self._steps.append(judge.post_process)

    @property
    def chain(self) -> FilterChain | None:
        """The filters, if the stream can go through them while it runs; None if somebody has to
        see it whole."""
        return FilterChain(self.links) if len(self.links) == len(self._steps) else None

    def close(self) -> None:
        """Close every filter."""
        for link in self.links:
            link.close()

    async def judge(self, reply: Reply, events: bytes, *, usage_wanted: bool) -> bytes:
        """A whole stream after all plugins, each in its turn: a filter sees all events and the
        end, `post_process` the folded reply. `reply` has what the upstream reported of it.
        Raises `GatewayError`, and `UpstreamFailure` when the stream is not valid."""
        form: Sequence[StreamEvent] | Reply = _read(events)
        own = False
        for step in self._steps:
            before = form
            if isinstance(step, FilterLink):
                if isinstance(form, Reply):
                    form = _read(_unfolded(form.body, usage_wanted=usage_wanted, own=own), own=own)
                form = (*await run_through(step, form), *await step.finish())
            else:
                if not isinstance(form, Reply):
                    body = _folded(form, own=own)
                    form = Reply(body, reply.usage, reply.output_bytes)
                form = await invoke(step, form, self.call) or form
            own = own or form != before
        if isinstance(form, Reply):
            return _unfolded(form.body, usage_wanted=usage_wanted, own=own)
        return b"".join([event.raw for event in form])


def _fault(own: bool) -> Exception:
    """What is not valid is the upstream's fault, unless plugins have had it in hand."""
    return plugin_error() if own else UpstreamFailure("protocol", "the reply is no valid chat")


def _read(events: bytes, *, own: bool = False) -> Sequence[StreamEvent]:
    try:
        found = [read_event(raw) for raw in EventSplitter().feed(events)]
    except UNREADABLE:
        raise _fault(own) from None
    return tuple(event for event in found if event is not None)


def _folded(events: Sequence[StreamEvent], *, own: bool) -> bytes:
    try:
        return fold_chunks(b"".join([event.raw for event in events]))
    except msgspec.DecodeError:
        raise _fault(own) from None


def _unfolded(body: bytes, *, usage_wanted: bool, own: bool = False) -> bytes:
    try:
        return unfold(body, usage_wanted=usage_wanted)
    except msgspec.DecodeError:
        raise _fault(own) from None


def _without_indices(body: bytes) -> bytes:
    """Tool calls are numbered in streams only."""
    document = msgspec.json.decode(body)
    for choice in document["choices"]:
        for tool_call in choice["message"].get("tool_calls") or ():
            tool_call.pop("index", None)
    return msgspec.json.encode(document)
