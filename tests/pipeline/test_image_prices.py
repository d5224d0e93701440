"""Images in requests are counted where they have a price, and nowhere else."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from llmgw_core.config.schema_prices import PriceEntry, TokenPrices
from llmgw_core.domain.usage import Usage, UsageDetails
from llmgw_core.testing.installation import INPUT_PRICE, OUTPUT_PRICE, at, served_by

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer

PRICED = TokenPrices(input=Decimal(1), output=Decimal(2), image=Decimal("0.001"))
SEEN = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
            {"type": "image_url", "image_url": {"url": "https://example.com/b.png"}},
        ],
    }
]


@pytest.mark.parametrize("stream", [False, True])
async def test_images_are_booked_and_charged_where_they_have_a_price(
    installed: Install, server: ModelServer, stream: bool
) -> None:
    prices = (PriceEntry(dt.date(2020, 1, 1), PRICED),)
    here = await installed(
        {"seeing": served_by(at(server), prices=prices), "blind": served_by(at(server))}
    )
    for model in ("seeing", "blind"):
        await here.client.chat(model, stream=stream, messages=SEEN)
    await here.client.chat("seeing", stream=stream)
    records = await here.records()
    seeing, blind, text = sorted(records, key=lambda record: record.started_ns)
    tokens = 7 * INPUT_PRICE + 3 * OUTPUT_PRICE
    assert seeing.usage == Usage(7, 3, details=UsageDetails(images=2))
    assert (seeing.cost, seeing.charge) == (tokens + 2_000_000, tokens + 2_000_000)
    assert (blind.usage, blind.cost) == (Usage(7, 3), tokens)
    assert (text.usage, text.cost) == (Usage(7, 3), tokens)


async def test_what_never_reached_an_upstream_has_no_images(
    installed: Install, server: ModelServer
) -> None:
    prices = (PriceEntry(dt.date(2020, 1, 1), PRICED),)
    server.status = 500
    here = await installed({"m": served_by(at(server), prices=prices)})
    await here.client.chat("m", messages=SEEN)
    [record] = await here.records()
    assert (record.usage.details, record.cost) == (None, 0)
