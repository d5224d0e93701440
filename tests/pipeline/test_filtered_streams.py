"""Stream filters of plugins: they pass, hold, replace and reject, and the books say it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.config.schema import RequestLimits
from llmgw_core.testing.client import error_code, streamed_text
from llmgw_core.testing.installation import USUAL_CHARGE, at
from llmgw_core.testing.model_server import (
    DONE,
    ROLE,
    STOP,
    WORD,
    chat_events,
)
from llmgw_core.testing.stream_filters import (
    TEAPOT,
    Gate,
    Hold,
    Pass,
    RejectAtEnd,
    RejectWord,
    filtering,
    streaming,
    suffixing,
)

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Scripted
    from llmgw_core.wire.stream_event import StreamEvent


async def test_a_filter_that_passes_leaves_every_byte_as_it_was(
    installed: Install, server: ModelServer
) -> None:
    odd = b'id: 7\ndata: {"choices" : [ {"delta":{"content":"x\\u00e9"}}],"more":1.50}\r\n\r\n'
    events = [ROLE, b": keep-alive\n\n", odd, WORD, STOP, b"data:[DONE]\n\n"]
    server.events = events
    opened: list[Pass] = []
    here = await installed({"m": [at(server)]}, plugins=[("p", filtering(Pass, opened))])
    reply = await here.client.chat("m", stream=True)
    assert reply.body == b"".join(events)
    assert [(p.fed, p.finished, p.closed) for p in opened] == [(4, 1, 1)]
    assert (await here.only_record()).status == "completed"


@pytest.mark.parametrize("make", [Pass, Hold])
async def test_usage_and_finish_reason_come_through_and_are_booked(
    installed: Install, server: ModelServer, make: type[Pass]
) -> None:
    opened: list[Pass] = []
    here = await installed({"m": [at(server)]}, plugins=[("p", filtering(make, opened))])
    asking = {"include_usage": True}
    assert (await here.client.chat("m", stream=True, stream_options=asking)).body == b"".join(
        chat_events()
    )
    [plugin] = opened
    assert plugin.fed == 5
    record = await here.only_record()
    assert (record.charge, record.usage.source) == (USUAL_CHARGE, "provider")


async def test_filters_run_in_reverse_order_and_each_ends_after_those_before_it(
    installed: Install, server: ModelServer
) -> None:
    class Late(Hold):
        def feed(self, event: StreamEvent) -> Any:
            return super().feed(event)

    here = await installed(
        {"m": [at(server)]},
        plugins=[
            ("first", filtering(suffixing("1"))),
            ("second", filtering(Late)),
            ("third", filtering(suffixing("3"))),
        ],
    )
    reply = await here.client.chat("m", stream=True)
    assert streamed_text(reply) == "Hello31 there31"
    assert reply.body.endswith(STOP + DONE)


async def test_a_rejection_before_any_content_is_an_ordinary_error_and_is_paid(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    opened: list[Pass] = []
    here = await installed(
        {"m": [at(server, weight=9), at(sibling, "b")]},
        plugins=[("p", filtering(RejectAtEnd, opened))],
    )
    reply = await here.client.chat("m", stream=True)
    assert (reply.status, reply.json()["error"]["code"]) == (418, "guarded")
    assert sibling.requests == []
    assert [each.closed for each in opened] == [1]
    record = await here.only_record()
    assert (record.status, record.http_status, record.error_code) == ("refused", 418, "guarded")
    assert (record.charge, record.attempts[0].outcome) == (USUAL_CHARGE, "rejected")


async def test_a_rejection_after_content_ends_the_stream_truthfully(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    opened: list[Pass] = []
    here = await installed(
        {"m": [at(server, weight=9), at(sibling, "b")]},
        plugins=[("p", filtering(RejectWord, opened))],
    )
    reply = await here.client.chat("m", stream=True)
    assert reply.status == 200
    assert reply.body.startswith(ROLE + WORD)
    assert b"there" not in reply.body
    assert b"[DONE]" not in reply.body
    assert error_code(reply) == "guarded"
    assert reply.finished
    assert [each.closed for each in opened] == [1]
    record = await here.only_record()
    assert (record.status, record.http_status, record.error_code) == (
        "incomplete",
        200,
        "guarded",
    )
    assert record.charge > 0
    assert record.attempts[0].outcome == "rejected"


async def test_while_filters_hold_everything_a_failing_upstream_goes_to_the_sibling(
    installed: Install, scripted: Scripted, server: ModelServer
) -> None:
    upstream = await scripted(streaming(ROLE, WORD, WORD, ending="cut"))
    opened: list[Hold] = []
    here = await installed(
        {"m": [at(upstream, "bad", weight=9), at(server, "good")]},
        plugins=[("p", filtering(Hold, opened))],
    )
    reply = await here.client.chat("m", stream=True)
    *body, _, end = server.events
    assert (reply.status, reply.body) == (200, b"".join(body) + end)
    assert [(each.fed, each.finished, each.closed) for each in opened] == [(3, 0, 1), (4, 1, 1)]
    record = await here.only_record()
    assert [attempt.outcome for attempt in record.attempts] == ["cut", "ok"]


async def test_an_upstream_that_breaks_after_content_is_told_and_what_it_said_is_judged(
    installed: Install, scripted: Scripted, server: ModelServer
) -> None:
    class One(Pass):
        """Always one event late."""

        held: StreamEvent | None = None

        def feed(self, event: StreamEvent) -> Any:
            out, self.held = self.held, event
            return out

        def finish(self) -> Any:
            return [self.held]

    gate = Gate()
    failing = b'data: {"error":{}}\n\n'
    upstream = await scripted(streaming(ROLE, WORD, WORD, WORD + failing, gate=gate))
    here = await installed(
        {"m": [at(upstream, "bad", weight=9), at(server, "good")]},
        plugins=[("p", filtering(One))],
    )
    reply = await here.client.chat("m", stream=True, sink=gate)
    assert reply.body.startswith(ROLE + WORD + WORD + WORD)
    assert error_code(reply) == "stream_cut"
    assert b"[DONE]" not in reply.body
    assert server.requests == []
    assert (await here.only_record()).status == "incomplete"


async def test_of_what_a_broken_stream_had_said_last_the_readable_is_handed_over(
    installed: Install, scripted: Scripted
) -> None:
    gate = Gate()
    odd = b'data: {"choices":[{"index":"x"}]}\n\n'
    failing = b'data: {"error":{}}\n\n'
    upstream = await scripted(streaming(ROLE, WORD, WORD + odd + failing, gate=gate))
    here = await installed({"m": [at(upstream)]}, plugins=[("p", filtering(Pass))])
    reply = await here.client.chat("m", stream=True, sink=gate)
    assert reply.body.startswith(ROLE + WORD + WORD)
    assert error_code(reply) == "stream_cut"


async def test_an_event_whose_end_may_go_on_is_not_lost_at_the_end(
    installed: Install, scripted: Scripted
) -> None:
    odd_end = STOP.removesuffix(b"\n\n") + b"\n\r"
    upstream = await scripted(streaming(ROLE, WORD, odd_end + DONE))
    here = await installed({"m": [at(upstream)]}, plugins=[("p", filtering(Pass))])
    reply = await here.client.chat("m", stream=True)
    assert reply.body == ROLE + WORD + odd_end + DONE


async def test_a_filter_may_reject_what_a_broken_stream_leaves(
    installed: Install, scripted: Scripted
) -> None:
    class Half(Pass):
        def finish(self) -> Any:
            raise TEAPOT

    gate = Gate()
    upstream = await scripted(streaming(ROLE, WORD, b"data: {\n\n", gate=gate))
    here = await installed({"m": [at(upstream)]}, plugins=[("p", filtering(Half))])
    reply = await here.client.chat("m", stream=True, sink=gate)
    assert reply.body.startswith(ROLE + WORD)
    assert error_code(reply) == "guarded"
    record = await here.only_record()
    assert (record.status, record.error_code) == ("incomplete", "guarded")


async def test_an_event_that_only_filters_find_unreadable_is_the_upstreams_fault(
    installed: Install, scripted: Scripted
) -> None:
    gate = Gate()
    odd = b'data: {"choices":[{"index":"x"}]}\n\n'
    upstream = await scripted(streaming(ROLE, WORD, odd + DONE, gate=gate))
    here = await installed({"m": [at(upstream)]}, plugins=[("p", filtering(Pass))])
    reply = await here.client.chat("m", stream=True, sink=gate)
    assert reply.body.startswith(ROLE + WORD)
    assert error_code(reply) == "stream_cut"
    assert (await here.only_record()).attempts[0].outcome == "protocol"


async def test_a_stream_for_which_nobody_has_a_filter_is_an_ordinary_one(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, plugins=[("p", filtering(lambda: None))])
    *body, _, end = server.events
    assert (await here.client.chat("m", stream=True)).body == b"".join(body) + end


async def test_a_filter_that_holds_too_much_fails_the_attempt(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    server.events = chat_events(["word"] * 100)
    here = await installed(
        {"m": [at(server, weight=9), at(sibling, "b")]},
        plugins=[("p", filtering(Hold))],
        requests=RequestLimits(reply_bytes=20_000),
    )
    reply = await here.client.chat("m", stream=True)
    assert streamed_text(reply) == "Hello there"
    record = await here.only_record()
    assert [attempt.outcome for attempt in record.attempts] == ["protocol", "ok"]


async def test_a_stream_without_any_content_left_is_complete(
    installed: Install, server: ModelServer
) -> None:
    class Drop(Pass):
        def feed(self, event: StreamEvent) -> Any:
            return None

    here = await installed({"m": [at(server)]}, plugins=[("p", filtering(Drop))])
    reply = await here.client.chat("m", stream=True)
    assert (reply.status, reply.body) == (200, DONE)
    record = await here.only_record()
    assert (record.status, record.charge) == ("completed", USUAL_CHARGE)


async def test_leading_events_without_content_are_not_held_for_ever(
    installed: Install, scripted: Scripted
) -> None:
    comment = b": " + b"." * 40_000 + b"\n\n"
    upstream = await scripted(streaming(comment, comment, WORD, STOP, DONE))
    here = await installed({"m": [at(upstream)]}, plugins=[("p", filtering(RejectAtEnd))])
    reply = await here.client.chat("m", stream=True)
    assert reply.status == 200
    assert error_code(reply) == "guarded"
