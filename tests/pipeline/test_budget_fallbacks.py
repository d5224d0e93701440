"""Budgets that lead to another model, and candidates that are dearer than what is reserved for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.budgeted_calls import PRICE, chat, code, count, month, priced
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.model_server import (
    ModelServer,
    chat_chunk,
    event,
    usage_object,
)
from llmgw_core.testing.upstream import Peer, Upstream, chunk, chunked_head, http_reply

if TYPE_CHECKING:
    from llmgw_core.domain.call import Call
    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.testing.installation import Install

BY = "test"


async def test_a_cheaper_model_serves_what_has_no_room_and_says_so(
    installed: Install, metered: ModelServer
) -> None:
    models = {"m": [at(metered)], "own": served_by(at(metered), prices=priced(0, 0))}
    budget = month(1, fallback="own")
    here = await installed(models, tenant={"team_budgets": [budget]})
    replies = [await chat(here) for _ in range(2)]
    replies.append(await chat(here, stream=True))
    assert [reply.status for reply in replies] == [200, 200, 200]
    told = [reply.headers.get("x-llmgw-budget-fallback") for reply in replies]
    assert told == [None, "own", "own"]
    records = await here.records()
    assert [(each.model, each.served_model) for each in records] == [
        ("m", "m"),
        ("m", "own"),
        ("m", "own"),
    ]
    assert count(here).spent == PRICE


@pytest.mark.parametrize("why", ["not granted", "no such model", "too dear as well", "denied"])
async def test_a_fallback_that_the_caller_may_not_use_is_none(
    installed: Install, metered: ModelServer, why: str
) -> None:
    class Denying:
        def __init__(self, config: None, context: PluginContext) -> None:
            pass

        @hookimpl
        def authorize(self, call: Call, model: str) -> str | None:
            return "not that one" if why == "denied" and model == "own" else None

    models = {
        "m": [at(metered)],
        "own": served_by(
            at(metered), prices=priced(1, 2) if why == "too dear as well" else priced(0, 0)
        ),
    }
    budget = month(1, fallback="nobody" if why == "no such model" else "own")
    granted = ("m",) if why == "not granted" else ("*",)
    tenant = {"team_budgets": [budget], "models": granted}
    here = await installed(models, tenant=tenant, plugins=[("denying", Denying)])
    assert (await chat(here)).status == 200
    assert code(await chat(here)) == (429, "budget_exceeded")
    assert len(metered.requests) == 1


async def test_a_hard_budget_holds_behind_one_with_a_fallback(
    installed: Install, metered: ModelServer
) -> None:
    models = {"m": [at(metered)], "small": served_by(at(metered), prices=priced(1, 2))}
    budgets = [month(1, fallback="small"), month(2)]
    here = await installed(models, tenant={"team_budgets": budgets[:1], "budgets": budgets[1:]})
    assert (await chat(here)).status == 200
    # The team's has no room for the other model either: it costs the same.
    assert code(await chat(here)) == (429, "budget_exceeded")


async def test_the_dearest_of_the_first_deployments_is_reserved_for(
    installed: Install, metered: ModelServer
) -> None:
    dear = at(metered, "dear", prices=priced(10, 20))
    models = {"m": served_by(at(metered, "cheap", weight=1000), dear)}
    here = await installed(models, tenant={"team_budgets": [month(9)]})
    assert code(await chat(here)) == (400, "request_exceeds_limit")
    assert (await chat(here, max_tokens=1)).status == 200


async def test_a_dearer_fallback_without_room_is_skipped_and_the_call_goes_on(
    installed: Install, metered: ModelServer
) -> None:
    async with Upstream(failing) as broken:
        models = {
            "m": served_by(at(broken), fallbacks=("dear", "same")),
            "dear": served_by(at(metered), prices=priced(10, 20)),
            "same": served_by(at(metered)),
        }
        here = await installed(models, tenant={"team_budgets": [month(5)]})
        assert (await chat(here)).status == 200
        [record] = await here.records()
        assert [(each.model, each.outcome) for each in record.attempts][-2:] == [
            ("dear", "unavailable"),
            ("same", "ok"),
        ]
        assert len(metered.requests) == 1
        assert (count(here).spent, count(here).reserved) == (PRICE, 0)


async def test_a_dearer_fallback_with_room_reserves_more_first(
    installed: Install, metered: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    async with Upstream(failing) as broken:
        models = {
            "m": served_by(at(broken), fallbacks=("dear",)),
            "dear": served_by(at(metered), prices=priced(10, 20)),
        }
        here = await installed(models, tenant={"team_budgets": [month(10)]})
        book = here.gateway.budgets.book
        settled = book.settled

        def look(record: UsageRecord) -> None:
            seen.append(count(here).reserved)
            settled(record)

        monkeypatch.setattr(book, "settled", look)
        assert (await chat(here)).status == 200
        assert count(here).spent == 10 * PRICE
        # Given back in the very step that charges.
        assert (seen, count(here).reserved) == ([0], 0)
        assert code(await chat(here)) == (429, "budget_exceeded")


async def failing(peer: Peer) -> None:
    while True:
        await peer.request()
        await peer.send(http_reply(500, b"{}", [(b"content-type", b"application/json")]))


async def paid_and_cut(peer: Peer) -> None:
    """A stream that says what it has used, and breaks before there is any content."""
    while True:
        await peer.request()
        await peer.send(chunked_head(200, [(b"content-type", b"text/event-stream")]))
        first = {**chat_chunk({"role": "assistant", "content": ""}), "usage": usage_object(9, 3)}
        await peer.send(chunk(event(first)))
        peer.reset()
        return


@pytest.mark.parametrize(("calls", "status", "spent"), [(2, 200, 2), (1.5, 503, 1)])
async def test_what_failed_attempts_were_charged_is_reserved_beside_the_next(
    installed: Install, metered: ModelServer, calls: float, status: int, spent: int
) -> None:
    async with Upstream(paid_and_cut) as upstream:
        models = {"m": served_by(at(upstream), fallbacks=("n",)), "n": [at(metered)]}
        here = await installed(models, tenant={"team_budgets": [month(calls)]})
        assert (await chat(here, stream=True)).status == status
        [record] = await here.records()
        assert (count(here).spent, count(here).reserved) == (spent * PRICE, 0)
        assert record.charge == spent * PRICE
        assert len(metered.requests) == spent - 1
