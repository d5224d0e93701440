"""Every admitted call has exactly one record, and every reservation ends exactly once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.accounting.prices import PriceBook
from llmgw_core.config.schema import AccountingConfig
from llmgw_core.domain.limits import Limits
from llmgw_core.limits.ticket import Ticket
from llmgw_core.testing.installation import INPUT_PRICE, OUTPUT_PRICE, at, served_by

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer

NO_PRICES = AccountingConfig(move_interval=3600.0, segment_bytes=1 << 20, unpriced="zero")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [200, 400, 500])
async def test_a_reservation_is_settled_once_with_what_was_used(
    installed: Install,
    server: ModelServer,
    monkeypatch: pytest.MonkeyPatch,
    stream: bool,
    status: int,
) -> None:
    settled: list[int] = []
    original = Ticket.settle

    def counted(self: Ticket, tokens: int) -> None:
        settled.append(tokens)
        original(self, tokens)

    monkeypatch.setattr(Ticket, "settle", counted)
    server.status = status
    here = await installed({"m": [at(server)]}, tenant={"limits": Limits(tpm=1000)})
    await here.client.chat("m", stream=stream)
    assert settled == ([10] if status == 200 else [0])
    assert len(await here.records()) == 1


async def test_tokens_that_were_reserved_and_not_used_are_free_again(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, tenant={"limits": Limits(tpm=1000)})
    for used in (10, 20, 30):
        reply = await here.client.chat("m", max_tokens=900)
        assert reply.status == 200
        assert reply.headers["x-ratelimit-remaining-tokens"] == str(1000 - used)
    assert (await here.client.chat("m", max_tokens=980)).status == 429


async def test_several_answers_reserve_several_times_the_bound(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, tenant={"limits": Limits(tpm=1000)})
    assert (await here.client.chat("m", max_tokens=400, n=2)).status == 200
    assert (await here.client.chat("m", max_tokens=400, n=3)).status == 400


async def test_a_call_without_bound_is_possible_within_any_limit_that_holds_its_input(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, tenant={"limits": Limits(tpm=60)})
    assert (await here.client.chat("m")).status == 200


async def test_tokens_that_were_sent_as_tokens_are_counted_exactly(
    installed: Install, server: ModelServer
) -> None:
    here = await installed(
        {"e": served_by(at(server), kind="embedding")}, tenant={"limits": Limits(tpm=6)}
    )
    refused = await here.client.embed("e", [[1, 2, 3], [4, 5, 6, 7]])
    assert refused.json()["error"]["code"] == "request_exceeds_limit"
    assert "7 tokens" in refused.json()["error"]["message"]
    assert (await here.client.embed("e", [1, 2, 3, 4, 5, 6])).status == 200


async def test_nothing_is_admitted_that_could_not_be_booked(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, tenant={"limits": Limits(rpm=5)})
    here.gateway.journal.healthy = False
    reply = await here.client.chat("m")
    assert reply.status == 503
    assert reply.headers["retry-after"] == "1"
    assert reply.headers["x-ratelimit-remaining-requests"] == "5"
    assert server.requests == []
    assert here.gateway.readiness() == ["The journal cannot be written; no call is admitted."]
    assert here.gateway.journal.retry()
    assert (await here.client.chat("m")).status == 200
    assert len(await here.records()) == 1


async def test_a_record_says_who_asked_for_what_and_who_served_it(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server, zone="eu")]})
    reply = await here.client.chat("m")
    [record] = await here.records()
    tenant = here.tenant
    assert record.call_id == reply.headers["x-request-id"]
    assert (record.organization_id, record.team_id) == (tenant.organization_id, tenant.team_id)
    assert (record.user_id, record.key_id) == (tenant.user_id, tenant.key_id)
    assert (record.model, record.served_model, record.deployment) == ("m", "m", "m/a")
    assert (record.zone, record.endpoint, record.currency) == ("eu", "chat.completions", "USD")
    assert 0 < record.attempts[0].duration_us <= record.duration_us
    stats = here.gateway.stats
    [(labels, tally)] = stats.calls.items()
    assert labels == ("chat.completions", "m", 200)
    assert (tally.calls, tally.input_tokens, tally.output_tokens) == (1, 7, 3)
    assert tally.charge_nano == 7 * INPUT_PRICE + 3 * OUTPUT_PRICE
    assert stats.attempts == {("m/a", "ok"): 1}
    assert sum(tally.buckets) == 1


async def test_a_model_without_a_price_may_be_free(installed: Install, server: ModelServer) -> None:
    here = await installed({"m": served_by(at(server), prices=())}, accounting=NO_PRICES)
    assert (await here.client.chat("m")).status == 200
    [record] = await here.records()
    assert (record.charge, record.usage.input_tokens) == (0, 7)


async def test_a_price_that_begins_tomorrow_serves_nobody_today(
    installed: Install, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await installed({"m": [at(server)]})
    monkeypatch.setattr(here.gateway._generation.entrance, "_wall_clock_ns", lambda: 0)
    reply = await here.client.chat("m")
    assert (reply.status, reply.json()["error"]["code"]) == (503, "upstream_unavailable")
    assert server.requests == []


async def test_a_model_that_has_lost_its_price_serves_nobody(
    installed: Install, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PriceBook, "price", lambda *arguments: None)
    here = await installed({"m": [at(server)]})
    reply = await here.client.chat("m")
    assert (reply.status, reply.json()["error"]["code"]) == (503, "model_unpriced")
    assert server.requests == []
    assert await here.records() == []


@pytest.mark.bugs(2)
@pytest.mark.parametrize("stream", [False, True])
async def test_even_a_bug_ends_with_one_record_of_what_was_used(
    installed: Install, server: ModelServer, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    here = await installed({"m": [at(server)]}, tenant={"limits": Limits(parallel=1)})

    def broken(*arguments: Any, **named: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("llmgw_core.backends.canonical.CanonicalSession.reply", broken)
    monkeypatch.setattr("llmgw_core.backends.canonical.CanonicalSession.stream", broken)
    for _ in range(2):
        reply = await here.client.chat("m", stream=stream)
        assert (reply.status, reply.json()["error"]["code"]) == (500, "internal_error")
    for record in await here.records():
        assert (record.status, record.http_status) == ("failed", 500)
        assert record.usage.source == "estimated"
        assert record.charge == record.usage.input_tokens * INPUT_PRICE > 0


@pytest.mark.bugs(1)
async def test_a_bug_after_content_ends_the_stream_truthfully(
    installed: Install, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await installed({"m": [at(server)]})

    def broken(*arguments: Any) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr("llmgw_core.backends.canonical_stream.CanonicalStreamReader.end", broken)
    reply = await here.client.chat("m", stream=True)
    assert reply.status == 200
    assert b"internal_error" in reply.events()[-1]
    assert b"[DONE]" not in reply.body
    [record] = await here.records()
    assert (record.status, record.charge) == ("incomplete", 7 * INPUT_PRICE + 3 * OUTPUT_PRICE)


async def test_the_caller_s_trace_goes_on(installed: Install, server: ModelServer) -> None:
    here = await installed({"m": [at(server)]})
    given = b"00-" + b"ab" * 16 + b"-" + b"cd" * 8 + b"-01"
    await here.client.chat("m", headers=[(b"traceparent", given)])
    await here.client.chat("m", headers=[(b"traceparent", b"nonsense")])
    await here.client.chat("m", headers=[(b"traceparent", b"00-" + b"0" * 32 + given[35:])])
    sent = [dict(request.headers)[b"traceparent"] for request in server.requests]
    assert sent[0].startswith(given[:36])
    assert sent[0][36:52] != given[36:52]
    assert all(not header.startswith(given[:36]) for header in sent[1:])
    assert len({header[3:35] for header in sent}) == 3
