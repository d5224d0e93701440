"""Comments to clients that wait for what plugins hold or judge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.domain.errors import GatewayError
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.installation import at
from llmgw_core.testing.model_server import DONE, ROLE, STOP, WORD
from llmgw_core.testing.stream_filters import Hold, Pass, filtering
from llmgw_core.testing.waiting_clients import (
    KEPT,
    Listening,
    after,
    error_of,
    without_comments,
)

if TYPE_CHECKING:
    from llmgw_core.domain.reply import Reply
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Scripted


@pytest.mark.parametrize("make", [Pass, Hold])
async def test_what_a_filter_holds_is_waited_for_with_comments(
    installed: Install, scripted: Scripted, make: type[Pass]
) -> None:
    sink = Listening()
    upstream = await scripted(after(sink, WORD, STOP, DONE, at="role"))
    plugins = [("filter", filtering(make))]
    here = await installed({"m": [at(upstream)]}, plugins=plugins, routing=KEPT)
    await here.client.chat("m", stream=True, sink=sink)
    assert sink.comments
    assert without_comments(sink) == ROLE + WORD + STOP + DONE
    assert (await here.only_record()).status == "completed"


@pytest.mark.parametrize("committed", [False, True])
async def test_a_filter_that_rejects_after_comments_is_told_in_an_error_event(
    installed: Install, scripted: Scripted, committed: bool
) -> None:
    class Rejects(Pass):
        def feed(self, event_: Any) -> Any:
            if event_.choices and event_.choices[0].finish_reason:
                raise GatewayError(403, "not_said", "It must not be said.")
            return event_ if committed else None

    sink = Listening()
    upstream = await scripted(after(sink, WORD, STOP, DONE))
    plugins = [("filter", filtering(Rejects))]
    here = await installed({"m": [at(upstream)]}, plugins=plugins, routing=KEPT)
    await here.client.chat("m", stream=True, sink=sink)
    assert error_of(sink)["code"] == "not_said"
    assert (WORD in sink.body) == committed
    record = await here.only_record()
    expected = "incomplete" if committed else "refused"
    assert (record.status, record.http_status) == (expected, 200)


async def test_a_filtered_stream_that_breaks_after_comments_goes_to_the_sibling(
    installed: Install, scripted: Scripted, server: ModelServer
) -> None:
    sink = Listening()
    bad = at(await scripted(after(sink, WORD, ending="cut")), "bad", weight=9)
    here = await installed(
        {"m": [bad, at(server, "good")]}, plugins=[("filter", filtering(Hold))], routing=KEPT
    )
    await here.client.chat("m", stream=True, sink=sink)
    *body, _, end = server.events
    assert without_comments(sink) == b"".join(body) + end
    assert [attempt.outcome for attempt in (await here.only_record()).attempts] == ["cut", "ok"]


async def test_a_judge_of_complete_replies_is_waited_for_with_comments(
    installed: Install, server: ModelServer
) -> None:
    sink = Listening()

    class Judge:
        def __init__(self, config: None, context: Any) -> None:
            pass

        @hookimpl
        async def post_process(self, reply: Reply) -> None:
            await sink.heard(2)
            raise GatewayError(403, "not_said", "It must not be said.")

    here = await installed({"m": [at(server)]}, plugins=[("judge", Judge)], routing=KEPT)
    await here.client.chat("m", stream=True, sink=sink)
    assert error_of(sink)["code"] == "not_said"
    record = await here.only_record()
    assert (record.status, record.http_status, record.usage.source) == (
        "refused",
        200,
        "provider",
    )
