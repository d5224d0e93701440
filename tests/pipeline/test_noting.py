"""What is noted of calls under way: what they would be on the books as, were the process killed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.accounting.notes import noted
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.pipeline.noting import LOOK_TICKS, WAITING
from llmgw_core.testing.installation import INPUT_PRICE, OUTPUT_PRICE, at, served_by
from llmgw_core.testing.model_server import JSON, SSE, chat_chunk, completion, event
from llmgw_core.testing.upstream import Peer, Upstream, chunk, chunked_head, http_reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.testing.installation import Install, Installation

WORD = event(chat_chunk({"content": "Hello"}))


class Held:
    """An upstream that has said `pieces` of a stream and goes on when it is told to."""

    def __init__(self, *pieces: bytes) -> None:
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()
        self.again = asyncio.Event()
        self.pieces = pieces

    async def __call__(self, peer: Peer) -> None:
        body = msgspec.json.decode((await peer.request()).body)
        self.asked.set()
        if body.get("stream"):
            await peer.send(chunked_head(200, SSE))
            for piece in self.pieces:
                await peer.send(chunk(piece))
            await self.again.wait()
            await peer.send(chunk(WORD * 50))
            await self.go_on.wait()
            await peer.send(chunk(event(chat_chunk({}, "stop")) + b"data: [DONE]\n\n") + chunk(b""))
        else:
            await self.go_on.wait()
            await peer.send(http_reply(200, msgspec.json.encode(completion()), JSON))


def take_note(gateway: Installation, ticks: int = 2) -> list[UsageRecord]:
    """What is noted after so many ticks: new calls are seen at the first, and noted later."""
    for _ in range(ticks):
        gateway.gateway.books.noting.note()
    return list(noted(gateway.gateway.journal.directory.path).values())


async def until(condition: Callable[[], object]) -> None:
    """Wait for what another task or process does."""
    while not condition():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.001)


async def until_content(gateway: Installation) -> None:
    """The one call under way has delivered something."""
    await until(lambda: any(each.first_content for each in gateway.gateway.books.open))


async def test_a_document_is_noted_when_its_request_was_sent(installed: Install) -> None:
    held = Held()
    async with Upstream(held) as upstream:
        gateway = await installed({"m": [at(upstream)]})
        calling = asyncio.create_task(gateway.client.chat("m"))
        await held.asked.wait()
        [note] = take_note(gateway)
        assert (note.status, note.http_status, note.error_code) == ("failed", 500, "interrupted")
        assert (note.usage.source, note.usage.method) == ("estimated", "ratio")
        assert note.usage.input_tokens > 0 == note.usage.output_tokens
        assert note.cost == note.usage.input_tokens * INPUT_PRICE
        [attempt] = note.attempts
        assert (attempt.outcome, attempt.deployment, attempt.cost) == (
            "interrupted",
            "m/a",
            note.cost,
        )
        assert attempt.price
        assert (note.model, note.served_model, note.zone) == ("m", "", "onprem")
        held.go_on.set()
        await calling
        record = await gateway.only_record()
    same = ("call_id", "started_ns", "organization_id", "team_id", "key_id", "deployment")
    assert [getattr(record, name) for name in same] == [getattr(note, name) for name in same]
    assert record.status == "completed"


async def test_a_running_stream_is_noted_again_with_what_it_has_delivered(
    installed: Install,
) -> None:
    held = Held(WORD)
    async with Upstream(held) as upstream:
        gateway = await installed({"m": [at(upstream)]})
        calling = asyncio.create_task(gateway.client.chat("m", stream=True))
        await until_content(gateway)
        [first] = take_note(gateway)
        held.again.set()
        [settlement] = gateway.gateway.books.open
        assert settlement.attempt is not None
        reader = settlement.attempt.reader
        assert reader is not None
        await until(lambda: reader.output_bytes >= 51 * 5)
        settlement.noted -= 1  # a second ago
        for _ in range(LOOK_TICKS):
            [last] = take_note(gateway)
        assert (first.status, first.served_model) == ("incomplete", "m")
        assert 0 < first.usage.output_tokens < last.usage.output_tokens
        assert last.usage.output_tokens == -(-51 * 5 // 4)
        assert last.cost == (
            last.usage.input_tokens * INPUT_PRICE + last.usage.output_tokens * OUTPUT_PRICE
        )
        held.go_on.set()
        await calling


async def test_what_the_upstream_has_reported_so_far_is_an_estimate_of_the_whole(
    installed: Install,
) -> None:
    told = {
        **chat_chunk({"content": "Hello"}),
        "usage": {"prompt_tokens": 9, "completion_tokens": 4},
    }
    held = Held(event(told))
    async with Upstream(held) as upstream:
        gateway = await installed({"m": [at(upstream)]})
        calling = asyncio.create_task(gateway.client.chat("m", stream=True))
        await until_content(gateway)
        [note] = take_note(gateway)
        assert (note.usage.input_tokens, note.usage.output_tokens) == (9, 4)
        assert (note.usage.source, note.usage.method) == ("estimated", "reported")
        held.again.set()
        held.go_on.set()
        await calling


async def test_the_next_attempt_is_noted_as_soon_as_it_is_sent(installed: Install) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.request()
        first_asked.set()
        await refused.wait()
        await peer.send(http_reply(503, b"{}", JSON))

    first_asked, refused, held = asyncio.Event(), asyncio.Event(), Held()
    async with Upstream(refuse) as bad, Upstream(held) as good:
        models: dict[str, Any] = {"m": served_by(at(bad), fallbacks=("n",)), "n": [at(good, "b")]}
        gateway = await installed(models)
        calling = asyncio.create_task(gateway.client.chat("m"))
        await first_asked.wait()
        [note] = take_note(gateway)
        assert [each.deployment for each in note.attempts] == ["m/a"]
        [settlement] = gateway.gateway.books.open
        refused.set()
        await held.asked.wait()
        assert settlement.noted == WAITING
        [note] = take_note(gateway)
        assert [each.outcome for each in note.attempts][-1] == "interrupted"
        assert (note.deployment, len(note.attempts)) == ("n/b", 2)
        held.go_on.set()
        await calling


@pytest.mark.parametrize("looks", [1, 3])
async def test_a_call_that_waits_for_its_turn_is_noted_later(
    installed: Install, looks: int
) -> None:
    held, hooked, go = Held(), asyncio.Event(), asyncio.Event()

    class Waiting:
        name = "waiting"

        def __init__(self, config: Any, context: Any) -> None: ...

        @hookimpl
        async def pre_route(self, request: Any, call: Any) -> None:
            hooked.set()
            await go.wait()

    async with Upstream(held) as upstream:
        gateway = await installed({"m": [at(upstream)]}, plugins=[("waiting", Waiting)])
        calling = asyncio.create_task(gateway.client.chat("m"))
        await hooked.wait()
        for _ in range(looks):
            assert take_note(gateway) == []
        go.set()
        await held.asked.wait()
        assert len(take_note(gateway)) == 1
        held.go_on.set()
        await calling


async def test_notes_are_taken_in_the_background_while_anything_is_under_way(
    installed: Install,
) -> None:
    held = Held()
    async with Upstream(held) as upstream:
        gateway = await installed({"m": [at(upstream)]})
        noting, folder = gateway.gateway.books.noting, gateway.gateway.journal.directory.path
        await until(lambda: noting.asleep)
        calling = asyncio.create_task(gateway.client.chat("m"))
        await until(lambda: noted(folder))
        await until(lambda: not noting.asleep)
        held.go_on.set()
        await calling
        await until(lambda: noting.asleep)


async def test_a_call_that_is_over_at_the_next_tick_is_not_noted(installed: Install) -> None:
    held = Held()
    async with Upstream(held) as upstream:
        gateway = await installed({"m": [at(upstream)]})
        books = gateway.gateway.books
        await until(lambda: books.noting.asleep)
        books.noting.asleep = False  # so that nobody wakes it: there are no ticks but these
        calling = asyncio.create_task(gateway.client.chat("m"))
        await held.asked.wait()
        assert take_note(gateway, ticks=1) == []
        held.go_on.set()
        await calling
        assert take_note(gateway) == []
        assert not books.unnoted


async def test_a_call_between_two_attempts_is_noted_once_as_having_failed(
    installed: Install,
) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.request()
        await peer.send(http_reply(503, b"{}", (*JSON, (b"retry-after", b"1"))))

    async with Upstream(refuse) as bad:
        gateway = await installed({"m": [at(bad)]})
        calling = asyncio.create_task(gateway.client.chat("m"))
        books = gateway.gateway.books
        await until(lambda: any(each.attempts and not each.attempt for each in books.open))
        for _ in range(3):
            [note] = take_note(gateway)
            assert (note.usage.source, note.cost, len(note.attempts)) == ("none", 0, 1)
            assert len(books.unnoted) == 1
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert not books.unnoted
