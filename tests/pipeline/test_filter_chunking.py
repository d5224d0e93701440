"""For every stream filter behaviour and every chunking of the upstream's bytes, the client sees
the same: what the filters make of the events, one after the other."""

from __future__ import annotations

import asyncio
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llmgw_core.domain.errors import GatewayError
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.hooks.text_filter import TextFilter
from llmgw_core.testing.installation import at, install
from llmgw_core.testing.model_server import DONE, SSE, chat_chunk, event, usage_object
from llmgw_core.testing.stream_filters import TEAPOT, Hold, Pass, judging, suffixing
from llmgw_core.wire.envelope import error_event
from llmgw_core.wire.mask import mask_words
from llmgw_core.wire.stream_event import StreamEvent, read_event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from llmgw_core.domain.reply import Reply
    from llmgw_core.testing.client import MemorySink
    from llmgw_core.testing.installation import Installation

REQUEST_ID = re.compile(rb"req_[0-9a-f]{32}")
ID = "req_" + "0" * 32


# The upstream: in memory, so that the test says how its bytes are cut


class Pieces:
    """A reply whose body comes in the given pieces."""

    status = 200
    headers = SSE
    reused = False

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]

    async def chunk(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    async def read(self, limit: int) -> bytes:
        raise NotImplementedError

    def whole(self, limit: int) -> None:
        """Nothing is there at once."""

    def abort(self) -> None:
        self._pieces.clear()


class Memory:
    """A transport that answers everything with `pieces`."""

    pieces: Sequence[bytes] = ()

    async def send(self, *arguments: Any, on_sent: Callable[[], None], **options: Any) -> Pieces:
        on_sent()
        return Pieces(self.pieces)


# The filters


class Late(Pass):
    """Always `count` events behind."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count
        self._held: list[StreamEvent] = []

    def feed(self, event: StreamEvent) -> Any:
        self._held.append(event)
        return self._held.pop(0) if len(self._held) > self._count else None

    def finish(self) -> Any:
        return self._held


class InBlocks(Late):
    """Gives out `count` events at a time."""

    def feed(self, event: StreamEvent) -> Any:
        self._held.append(event)
        if len(self._held) < self._count:
            return None
        held, self._held = self._held, []
        return held


class Thinning(Pass):
    """Drops every `count`th event that has no end in it."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def feed(self, event: StreamEvent) -> Any:
        self.fed += 1
        ends = any(choice.finish_reason for choice in event.choices)
        return event if ends or self.fed % self._count else ()


class RejectAt(Pass):
    """Rejects the event `count`, or at the end if there are fewer."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def feed(self, event: StreamEvent) -> Any:
        self.fed += 1
        if self.fed > self._count:
            raise TEAPOT
        return event

    def finish(self) -> Any:
        raise TEAPOT


class Later(Pass):
    """Passes, but not at once."""

    async def feed(self, event: StreamEvent) -> Any:
        await asyncio.sleep(0)
        return event


class Twice(Pass):
    """Says everything but the end twice."""

    def feed(self, event: StreamEvent) -> Any:
        ends = any(choice.finish_reason for choice in event.choices)
        return event if ends or not event.choices else [event, event]


counts = st.integers(1, 5)
makes: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([Pass, Later, Hold, Twice, suffixing("!")]),
    st.just(lambda: TextFilter(lambda: mask_words(("bad", "worse"), "***"))),
    counts.map(lambda count: lambda: Late(count)),
    counts.map(lambda count: lambda: InBlocks(count)),
    counts.map(lambda count: lambda: Thinning(count + 1)),
    st.integers(0, 12).map(lambda count: lambda: RejectAt(count)),
)


# The streams


def _tool(index: int, arguments: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}


deltas = st.one_of(
    st.sampled_from(["b", "ba", "d", " bad ", "wor", "se", "é€", " "]).map(
        lambda word: {"content": word}
    ),
    st.sampled_from(["b", "ad"]).map(lambda word: _tool(0, word)),
    st.just({"reasoning_content": "bad"}),
    st.just({"content": ""}),
)
lines = st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, ...]:
    """The events of a good stream, the last one being the end marker."""
    events = [event(chat_chunk({"role": "assistant", "content": ""}))]
    for delta in draw(st.lists(deltas, max_size=8)):
        document = chat_chunk(delta)
        document["choices"][0]["index"] = draw(st.integers(0, 1))
        events.append(event(document))
    events.insert(draw(st.integers(0, len(events))), b": comment\n\n")
    events.append(event(chat_chunk({}, "stop")))
    events.append(event({**chat_chunk({}), "choices": [], "usage": usage_object()}))
    return (*(raw.removesuffix(b"\n\n") + draw(lines) for raw in events), DONE)


@st.composite
def cut(draw: st.DrawFn) -> tuple[tuple[bytes, ...], list[bytes]]:
    """A stream, and its bytes in pieces."""
    events = draw(streams())
    data = b"".join(events)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return events, [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


# What is expected


async def _called(answer: Any) -> Any:
    answer = await answer if hasattr(answer, "__await__") else answer
    return () if answer is None else [answer] if isinstance(answer, StreamEvent) else answer


async def _fed(filters: Sequence[Any], event: StreamEvent, out: list[Any]) -> None:
    if not filters:
        out.append(event)
        return
    for each in await _called(filters[0].feed(event)):
        await _fed(filters[1:], each, out)


async def _all(filters: Sequence[Any], events: Sequence[bytes], out: list[Any]) -> None:
    """Into `out` goes what leaves the filters, comments as bytes, until one rejects."""
    for raw in events:
        event = read_event(raw)
        if event is None:
            out.append(raw)
        else:
            await _fed(filters, event, out)
    for index, each in enumerate(filters):
        for event in await _called(each.finish()):
            await _fed(filters[index + 1 :], event, out)


class Seen(NamedTuple):
    status: int
    body: bytes

    @classmethod
    def by(cls, sink: MemorySink) -> Seen:
        assert sink.finished
        return cls(sink.status, REQUEST_ID.sub(ID.encode(), sink.body))


async def expected(makes: Sequence[Any], events: Sequence[bytes]) -> Seen | int:
    """What the client sees, or the status of an ordinary error reply."""
    out: list[Any] = []
    try:
        await _all([make() for make in reversed(makes)], events[:-1], out)
        end = events[-1]
    except GatewayError as error:
        if not any(isinstance(each, StreamEvent) and each.substantial for each in out):
            return error.status
        end = error_event(error, ID)
    body = b"".join(each.raw if isinstance(each, StreamEvent) else each for each in out)
    return Seen(200, body + end)


class Bench:
    """A gateway with three filtering plugins and, if wanted, one between them that judges."""

    def __init__(self, here: Installation, runner: asyncio.Runner, slots: list[Any]) -> None:
        self.memory = Memory()
        transport: Any = self.memory
        attempts: Any = here.gateway._generation.entrance._attempts
        attempts._transports = {"m/a": transport}
        self._here = here
        self._slots = slots
        self.run = runner.run

    async def seen(self, makes: Sequence[Any], pieces: Sequence[bytes]) -> Seen:
        self._slots[:] = [*makes, *[None] * (3 - len(makes))]
        self.memory.pieces = pieces
        options = {"include_usage": True}
        sink = await self._here.client.chat("m", stream=True, stream_options=options)
        return Seen.by(sink)


@contextmanager
def bench(directory: Path, *, judge: type[Any] | None = None) -> Iterator[Bench]:
    slots: list[Any] = [None, None, None]

    def slot(index: int) -> type[Any]:
        class Slot:
            def __init__(self, config: None, context: Any) -> None:
                pass

            @hookimpl
            def open_stream(self) -> Any:
                make = slots[index]
                return None if make is None else make()

        return Slot

    plugins = [(f"slot{index}", slot(index)) for index in range(3)]
    if judge is not None:
        plugins.insert(1, ("judge", judge))
    with asyncio.Runner() as runner:
        opening = install(directory, {"m": [at(1)]}, plugins=plugins)
        here = runner.run(opening.__aenter__())
        try:
            yield Bench(here, runner, slots)
        finally:
            runner.run(opening.__aexit__(None, None, None))


thorough = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def test_the_client_sees_the_same_however_the_stream_is_cut(tmp_path: Path) -> None:
    with bench(tmp_path) as here:

        @thorough
        @given(st.lists(makes, max_size=3), cut())
        @example([], ((event(chat_chunk({}, "stop")), DONE), [event(chat_chunk({}, "stop")), DONE]))
        def check(makes: list[Any], stream: tuple[tuple[bytes, ...], list[bytes]]) -> None:
            events, pieces = stream
            wanted = here.run(expected(makes, events))
            for cuts in (pieces, [b"".join(events)]):
                seen = here.run(here.seen(makes, cuts))
                assert (seen.status if isinstance(wanted, int) else seen) == wanted

        check()


def test_one_byte_at_a_time_is_no_different(tmp_path: Path) -> None:
    words = ["a ", "b", "a", "d", " word", " worse"]
    events = [*(event(chat_chunk({"content": word})) for word in words)]
    events += [event(chat_chunk({}, "stop")), DONE]
    data = b"".join(events)
    make = [lambda: TextFilter(lambda: mask_words(("bad", "worse"), "***")), Later]
    with bench(tmp_path) as here:
        seen = here.run(here.seen(make, [data[at : at + 1] for at in range(len(data))]))
        assert seen == here.run(expected(make, events))
        text = [choice.text for choice in _choices(seen.body)]
        assert "".join(text) == "a *** word ***"


def _choices(body: bytes) -> Iterator[Any]:
    for raw in body.split(b"\n\n")[:-2]:
        yield from StreamEvent(raw + b"\n\n").choices


def test_beside_a_judge_of_complete_replies_the_chunking_is_no_different_either(
    tmp_path: Path,
) -> None:
    judged: list[int] = []

    def judge(reply: Reply) -> None:
        judged.append(len(msgspec.json.decode(reply.body)["choices"]))

    with bench(tmp_path, judge=judging(judge)) as here:

        @thorough
        @given(st.lists(makes, max_size=3), cut())
        def check(makes: list[Any], stream: tuple[tuple[bytes, ...], list[bytes]]) -> None:
            events, pieces = stream
            judged.clear()
            seen = here.run(here.seen(makes, pieces))
            # Rejected before its turn: nothing reaches the client, so there is nothing to judge.
            assert judged or seen.status == 418, "never skipped"
            assert seen == here.run(here.seen(makes, [b"".join(events)]))

        check()
