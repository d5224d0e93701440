"""Calls and the budgets of their callers: reserved before, settled by what was charged."""

from __future__ import annotations

import asyncio
import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec
import pytest

from llmgw_core.domain.access import Level, Principal
from llmgw_core.domain.limits import Budget
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.limits.periods import period_at
from llmgw_core.pipeline.explanation import Question
from llmgw_core.tenancy.records import TEAM as KIND_TEAM
from llmgw_core.testing.budgeted_calls import BODY, PRICE, chat, code, count, month, priced
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.model_server import ModelServer, chat_events
from llmgw_core.testing.upstream import Peer, Upstream, chunk, chunked_head
from llmgw_core.wire.request import decode_request

if TYPE_CHECKING:
    from llmgw_core.domain.access import LevelKind
    from llmgw_core.domain.call import Call
    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.testing.installation import Install
    from llmgw_core.wire.request import RequestView

BY = "test"


def test_what_the_tests_reserve_is_what_is_charged() -> None:
    body = msgspec.json.encode({"model": "m", **BODY})
    assert decode_request(body, "chat.completions").text_bytes == 36


@pytest.mark.parametrize("level", ["organization", "team", "user", "key"])
async def test_what_was_charged_is_spent_and_nothing_stays_reserved(
    installed: Install, metered: ModelServer, level: LevelKind
) -> None:
    field = "budgets" if level == "organization" else f"{level}_budgets"
    budgets = [month(2), Budget("tokens", 10_000, "day")]
    here = await installed({"m": [at(metered)]}, tenant={field: budgets})
    for stream in (False, True):
        assert (await chat(here, stream=stream)).status == 200
    assert code(await chat(here)) == (429, "budget_exceeded")
    records = await here.records()
    account = here.gateway.budgets.book.account((level, getattr(here.tenant, f"{level}_id")))
    assert account is not None
    counts = {measure.unit: counter.current for measure, counter in account.counters.items()}
    assert counts["money"].spent == sum(record.charge for record in records) == 2 * PRICE
    assert counts["tokens"].spent == sum(record.usage.total_tokens for record in records) == 24
    assert counts["money"].reserved == counts["tokens"].reserved == 0


async def test_a_refusal_names_the_level_and_the_reset_and_is_not_worth_a_retry(
    installed: Install, metered: ModelServer
) -> None:
    budget = month(1, timezone="Europe/Berlin")
    here = await installed({"m": [at(metered)]}, tenant={"team_budgets": [budget]})
    assert (await chat(here)).status == 200
    reply = await chat(here)
    end = period_at("month", "Europe/Berlin", int(dt.datetime.now(dt.UTC).timestamp()) * 10**9)
    reset = reply.headers["x-llmgw-budget-reset"]
    assert int(dt.datetime.fromisoformat(reset).timestamp()) * 10**9 == end.end_ns
    message = msgspec.json.decode(reply.body)["error"]["message"]
    assert (
        message
        == f"The money budget of the team of the month is used up. It begins anew at {reset}."
    )
    assert reply.headers["x-should-retry"] == "false"
    left = end.end_ns / 1e9 - dt.datetime.now(dt.UTC).timestamp()
    assert left - 5 <= int(reply.headers["retry-after"]) <= left + 5
    assert metered.requests[1:] == []


async def test_a_total_budget_never_begins_anew(installed: Install, metered: ModelServer) -> None:
    budget = Budget("tokens", 12, "total")
    here = await installed({"m": [at(metered)]}, tenant={"key_budgets": [budget]})
    assert (await chat(here)).status == 200
    reply = await chat(here)
    assert code(reply) == (429, "budget_exceeded")
    assert "retry-after" not in reply.headers
    assert "x-llmgw-budget-reset" not in reply.headers
    assert reply.headers["x-should-retry"] == "false"
    assert b"does not begin anew by itself" in reply.body


async def test_what_calls_under_way_have_reserved_is_worth_another_try(
    installed: Install, metered: ModelServer
) -> None:
    """They may use less; nobody has spent anything yet."""
    gate = asyncio.Event()
    arrived = asyncio.Event()

    class Waiting:
        def __init__(self, config: None, context: PluginContext) -> None:
            pass

        @hookimpl
        async def pre_route(self, request: RequestView, call: Call) -> None:
            arrived.set()
            await gate.wait()

    here = await installed(
        {"m": [at(metered)]}, tenant={"team_budgets": [month(1)]}, plugins=[("waiting", Waiting)]
    )
    first = asyncio.create_task(chat(here))
    await arrived.wait()
    reply = await chat(here)
    assert code(reply) == (429, "budget_exceeded")
    assert b"calls under way have reserved the rest" in reply.body
    assert (reply.headers["retry-after"], reply.headers["x-should-retry"]) == ("1", "true")
    assert "x-llmgw-budget-reset" in reply.headers
    gate.set()
    assert (await first).status == 200


async def test_a_call_that_needs_more_than_the_whole_budget_is_told_to_be_shorter(
    installed: Install, metered: ModelServer
) -> None:
    here = await installed({"m": [at(metered)]}, tenant={"team_budgets": [month(1)]})
    assert code(await chat(here, max_tokens=1000)) == (400, "request_exceeds_limit")
    assert (await chat(here)).status == 200


async def test_what_images_and_the_call_itself_cost_is_reserved(
    installed: Install, metered: ModelServer
) -> None:
    own = {"call": Decimal("0.00001"), "image": Decimal("0.001")}
    here = await installed(
        {"m": served_by(at(metered), prices=priced(1, 2, **own))},
        tenant={"team_budgets": [month(10)]},
    )
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    messages = [{"role": "user", "content": [image]}]
    assert code(await chat(here, messages=messages)) == (400, "request_exceeds_limit")
    assert (await chat(here)).status == 200
    assert count(here).spent == PRICE + 10_000


@pytest.mark.parametrize(("audio", "status"), [(False, 200), (True, 429)])
async def test_dearer_classes_that_a_call_may_turn_out_to_be_of_are_reserved(
    installed: Install, metered: ModelServer, *, audio: bool, status: int
) -> None:
    """As long as it is under way: its ordinary price is what it is charged."""
    arrived, gate = asyncio.Event(), asyncio.Event()

    class Waiting:
        def __init__(self, config: None, context: PluginContext) -> None:
            pass

        @hookimpl
        async def pre_route(self, request: RequestView, call: Call) -> None:
            arrived.set()
            await gate.wait()

    here = await installed(
        {"m": served_by(at(metered), prices=priced(1, 2, audio_input=Decimal(5)))},
        tenant={"team_budgets": [month(3)]},
        plugins=[("waiting", Waiting)],
    )
    text = "audio" if audio else "Hello"
    first = asyncio.create_task(chat(here, messages=[{"role": "user", "content": text}]))
    await arrived.wait()
    second = asyncio.create_task(chat(here))
    if audio:
        await asyncio.wait({second})
    gate.set()
    assert [(await each).status for each in (first, second)] == [200, status]
    assert (count(here).spent, count(here).reserved) == (PRICE * (1 if audio else 2), 0)


async def test_a_guess_of_the_output_makes_no_call_impossible(
    installed: Install, metered: ModelServer
) -> None:
    """256 expected tokens cost more than there is."""
    here = await installed({"m": [at(metered)]}, tenant={"team_budgets": [month(2)]})
    assert (await chat(here, max_tokens=None)).status == 200
    assert count(here).spent == PRICE


async def test_what_costs_nothing_is_within_every_budget_in_money(
    installed: Install, metered: ModelServer
) -> None:
    models = {"m": [at(metered)], "own": served_by(at(metered), prices=priced(0, 0))}
    here = await installed(models, tenant={"team_budgets": [month(1)]})
    assert (await chat(here)).status == 200
    assert (await chat(here)).status == 429
    assert (await chat(here, "own")).status == 200


async def test_a_budget_in_shadow_is_counted_and_lets_everything_through(
    installed: Install, metered: ModelServer
) -> None:
    here = await installed({"m": [at(metered)]}, tenant={"team_budgets": [month(1, shadow=True)]})
    for _ in range(3):
        assert (await chat(here)).status == 200
    assert count(here).spent == 3 * PRICE
    assert here.gateway.budgets.book.refused == {("team", "money", "month", True): 2}


async def cut_stream(peer: Peer) -> None:
    """Content and usage of a stream, and no end."""
    while True:
        await peer.request()
        await peer.send(chunked_head(200, [(b"content-type", b"text/event-stream")]))
        for piece in chat_events()[:2]:
            await peer.send(chunk(piece))
        peer.reset()
        return


async def test_a_stream_that_is_cut_is_charged_and_nothing_stays_reserved(
    installed: Install,
) -> None:
    async with Upstream(cut_stream) as upstream:
        here = await installed({"m": [at(upstream)]}, tenant={"team_budgets": [month(3)]})
        await chat(here, stream=True)
        [record] = await here.records()
        assert record.status == "incomplete"
        assert (count(here).spent, count(here).reserved) == (record.charge, 0)
        assert record.charge > 0


async def test_a_call_that_a_hook_refuses_gives_everything_back(
    installed: Install, metered: ModelServer
) -> None:
    class Refusing:
        def __init__(self, config: None, context: PluginContext) -> None:
            pass

        @hookimpl
        async def pre_route(self, request: RequestView, call: Call) -> None:
            raise RuntimeError

    here = await installed(
        {"m": [at(metered)]}, tenant={"team_budgets": [month(1)]}, plugins=[("refusing", Refusing)]
    )
    for _ in range(2):
        assert (await chat(here)).status == 500
    assert (count(here).spent, count(here).reserved) == (0, 0)


async def test_a_hook_that_makes_a_call_longer_needs_room_for_that(
    installed: Install, metered: ModelServer
) -> None:
    wanted = 3

    class Changing:
        def __init__(self, config: None, context: PluginContext) -> None:
            pass

        @hookimpl
        async def pre_route(self, request: RequestView, call: Call) -> RequestView:
            return request.replace("chat.completions", {"max_tokens": wanted})

    here = await installed(
        {"m": [at(metered)]}, tenant={"team_budgets": [month(2)]}, plugins=[("changing", Changing)]
    )
    assert (await chat(here)).status == 200
    wanted = 7
    assert code(await chat(here, max_tokens=1)) == (429, "budget_exceeded")
    wanted = 1
    assert (await chat(here)).status == 200
    assert (count(here).spent, count(here).reserved) == (2 * PRICE, 0)


async def test_principals_of_applications_have_budgets_too(
    installed: Install, metered: ModelServer
) -> None:
    here = await installed({"m": [at(metered)]})
    level = Level("organization", "app", ("*",), budgets=(month(2),))
    principal = Principal((level,), "app")
    for _ in range(2):
        await here.gateway.chat(model="m", principal=principal, **BODY)
    with pytest.raises(Exception, match="used up") as caught:
        await here.gateway.chat(model="m", principal=principal, **BODY)
    assert getattr(caught.value, "code", None) == "budget_exceeded"


async def test_a_zone_that_nobody_knows_is_refused_and_not_ignored(
    installed: Install, metered: ModelServer
) -> None:
    here = await installed({"m": [at(metered)]})
    level = Level("organization", "app", ("*",), budgets=(month(2, timezone="Mars/Olympus"),))
    with pytest.raises(Exception, match="cannot be counted"):
        await here.gateway.chat(model="m", principal=Principal((level,), "app"), **BODY)


async def test_explain_says_which_budget_would_refuse_and_who_would_serve(
    installed: Install, metered: ModelServer
) -> None:
    models = {"m": [at(metered)], "own": served_by(at(metered), prices=priced(0, 0))}
    here = await installed(models, tenant={"team_budgets": [month(1)]})
    question = Question(model="m", key=here.tenant.key, body=BODY)
    explained = await here.gateway.explain(question)
    [sentence] = [rule.sentence for rule in explained.rules if rule.kind == "budget"]
    assert sentence.startswith(f"team:{here.tenant.team_id}:money:month has 0.000015 of 0.000015")
    assert explained.refusal is None
    assert (await chat(here)).status == 200
    explained = await here.gateway.explain(question)
    assert explained.refusal is not None
    assert (explained.refusal.code, explained.refusal.decided) == (
        "budget_exceeded",
        f"budget team:{here.tenant.team_id}:money:month",
    )
    await here.gateway.budgeting.remove(KIND_TEAM, here.tenant.team_id, actor=BY)
    await here.gateway.budgeting.set(
        KIND_TEAM, here.tenant.team_id, month(1, fallback="own"), actor=BY
    )
    explained = await here.gateway.explain(question)
    assert explained.refusal is None
    assert "own, which is named for that, would serve instead" in {
        rule.sentence for rule in explained.rules
    }
