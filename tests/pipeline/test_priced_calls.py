"""Every attempt says which price sheet it was priced by, and the sheets are on the books."""

from __future__ import annotations

import logging
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec
import pytest

from llmgw_core.accounting.exchange import PATH
from llmgw_core.accounting.prices import PriceBook
from llmgw_core.config.schema import AccountingConfig
from llmgw_core.config.schema_prices import PriceEntry, PriceTier, TierPrices, TokenPrices
from llmgw_core.domain.deployment import Deployment
from llmgw_core.domain.errors import ConfigError
from llmgw_core.pipeline.stats import Stats
from llmgw_core.pipeline.unpriced import Unpriced
from llmgw_core.store.price_sheets import read_sheets
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.model_server import ModelServer, completion, event, usage_object

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.accounting.price_sheet import PriceSheet
    from llmgw_core.testing.installation import Install, Installation

BOOKS = AccountingConfig(move_interval=3600.0, segment_bytes=1 << 20)
FAILURE = {"error": {"message": "busy", "code": 503}}
TIERED = (
    PriceEntry(
        cost=TokenPrices(input=Decimal(1), output=Decimal(2), call=Decimal(1)),
        tiers=(PriceTier(above=6, cost=TierPrices(input=Decimal(10))),),
        markup=Decimal(50),
    ),
)


async def stored(here: Installation, id: str) -> PriceSheet:
    async with here.gateway.store.connect() as connection:
        found = await read_sheets(connection, [id])
    return found[id]


async def test_a_row_is_explained_by_the_sheet_that_it_names(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": served_by(at(server), prices=TIERED)})
    assert (await here.client.chat("m")).status == 200
    [record] = await here.records()
    [attempt] = record.attempts
    sheet = await stored(here, attempt.price)
    assert sheet.tier == 6
    usage = record.usage
    sums = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens, "calls": 1}
    lines = sheet.amounts_by_class(sums)
    assert sum(line.cost for line in lines) == record.cost * 10**6
    assert sum(line.charge for line in lines) == record.charge * 10**6
    assert record.cost == 7 * 10_000 + 3 * 2_000 + 10**9
    assert record.charge == record.cost * 3 // 2


async def test_a_failed_attempt_that_reported_usage_is_paid_without_the_price_of_a_call(
    installed: Install, server: ModelServer
) -> None:
    failing = [event({"choices": [], "usage": usage_object(100, 0)}), event(FAILURE)]
    async with ModelServer() as bad:
        bad.events = failing
        deployments = [at(bad, name="bad"), at(server, name="good", priority=2)]
        here = await installed({"m": served_by(*deployments, prices=TIERED)})
        reply = await here.client.chat("m", stream=True)
    assert reply.status == 200
    [record] = await here.records()
    failed, served = record.attempts
    assert failed.usage is not None
    assert (failed.usage.input_tokens, served.usage) == (100, None)
    assert (failed.cost, failed.charge) == (100 * 10_000, 100 * 15_000)
    assert record.cost == failed.cost + served.cost
    assert record.usage.input_tokens == 107
    assert failed.price == served.price != ""


async def test_an_attempt_that_used_nothing_names_no_sheet(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": served_by(at(server), prices=TIERED)})
    server.status, server.reply = 400, b'{"error": {"message": "no"}}'
    assert (await here.client.chat("m")).status == 400
    [record] = await here.records()
    assert [(each.price, each.usage, each.cost) for each in record.attempts] == [("", None, 0)]


async def test_what_a_provider_says_twice_is_on_the_books_once(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    details = {"cached_tokens": 7, "audio_tokens": 7}
    usage = {**usage_object(), "prompt_tokens_details": details}
    server.reply = msgspec.json.encode({**completion(), "usage": usage})
    assert (await here.client.chat("m")).status == 200
    [record] = await here.records()
    audio = 0 if record.usage.details is None else record.usage.details.audio_input_tokens
    assert record.usage.cached_input_tokens + audio == record.usage.input_tokens == 7


async def test_calls_without_a_price_are_counted_and_said_once_an_hour(
    installed: Install, server: ModelServer, caplog: pytest.LogCaptureFixture
) -> None:
    accounting = AccountingConfig(move_interval=3600.0, segment_bytes=1 << 20, unpriced="zero")
    here = await installed({"m": served_by(at(server), prices=())}, accounting=accounting)
    with caplog.at_level(logging.WARNING, "llmgw_core.pipeline.unpriced"):
        for _ in range(3):
            assert (await here.client.chat("m")).status == 200
    told = [each.getMessage() for each in caplog.records]
    assert told == ["calls of m/a are booked at zero: it has no price"]
    assert here.gateway.stats.unpriced == {"m": 3}
    records = await here.records()
    assert {record.attempts[0].price for record in records} == {""}
    assert {record.cost for record in records} == {0}


async def test_new_exchange_rates_come_with_a_reload(
    installed: Install, server: ModelServer, tmp_path: Path
) -> None:
    rates = tmp_path / "rates.csv"
    rates.write_text("date,currency,rate\n2026-01-01,EUR,2\n", encoding="utf-8")
    entry = PriceEntry(cost=TokenPrices(input=Decimal(1)), currency="EUR")
    accounting = msgspec.structs.replace(BOOKS, exchange_rates=str(rates))
    here = await installed({"m": served_by(at(server), prices=(entry,))}, accounting=accounting)
    assert (await here.client.chat("m")).status == 200
    assert (await here.gateway.reload(here.gateway.config)).changed == ()
    rates.write_text("date,currency,rate\n2026-01-01,EUR,3\n", encoding="utf-8")
    assert (await here.gateway.reload(here.gateway.config)).changed == (PATH,)
    assert (await here.client.chat("m")).status == 200
    records = await here.records()
    assert [record.cost for record in records] == [7 * 2_000, 7 * 3_000]
    sheets = [await stored(here, record.attempts[0].price) for record in records]
    assert [sheet.exchange for sheet in sheets] == ["EUR 2", "EUR 3"]
    rates.write_text("date,currency,rate\n2026-01-01,EUR,x\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"rates.csv, line 2: `x` is no number"):
        await here.gateway.reload(here.gateway.config)
    assert (await here.client.chat("m")).status == 200


async def test_with_no_rate_the_gateway_does_not_start_or_books_at_zero(
    installed: Install, server: ModelServer, tmp_path: Path
) -> None:
    rates = tmp_path / "rates.csv"
    rates.write_text("date,currency,rate\n2999-01-01,EUR,2\n", encoding="utf-8")
    entry = PriceEntry(cost=TokenPrices(input=Decimal(1)), currency="EUR")
    accounting = msgspec.structs.replace(BOOKS, exchange_rates=str(rates))
    models = {"m": served_by(at(server), prices=(entry,))}
    with pytest.raises(ConfigError, match="there is no exchange rate for EUR on or before"):
        await installed(models, accounting=accounting)
    zero = msgspec.structs.replace(accounting, unpriced="zero")
    here = await installed(models, accounting=zero)
    assert (await here.client.chat("m")).status == 200
    [record] = await here.records()
    assert record.cost == 0
    assert here.gateway.stats.unpriced == {"m": 1}


def test_the_log_is_told_again_after_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    stats, now = Stats(), 0.0
    unpriced = Unpriced(PriceBook({}), stats, lambda: now)
    deployments = [Deployment(f"{name}/a", name, "b", "z", name) for name in "mn"]
    for now in (0.0, 1.0, 3_599.0, 3_600.0):  # noqa: B007 -- the clock reads it
        for each in deployments:
            unpriced.booked(each, 0)
    told = [each.getMessage() for each in caplog.records]
    assert told == [
        f"calls of {model}/a are booked at zero: it is not configured" for model in "mnmn"
    ]
    assert stats.unpriced == {"m": 4, "n": 4}
