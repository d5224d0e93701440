from __future__ import annotations

from decimal import Decimal

from llmgw_core.accounting.call_price import call_prices
from llmgw_core.accounting.prices import PriceBook
from llmgw_core.accounting.repricing import repriced
from llmgw_core.config.schema import DeploymentConfig, ModelConfig
from llmgw_core.config.schema_prices import PriceEntry, TokenPrices
from llmgw_core.domain.usage import NO_USAGE, AttemptRecord, Usage
from llmgw_core.testing.usage_records import usage_record

MILLION = 10**6


def test_the_lines_of_every_attempt_add_up_to_what_is_on_the_books() -> None:
    cost = TokenPrices(Decimal(1), Decimal(2), Decimal("0.5"), call=Decimal(1))
    model = ModelConfig((DeploymentConfig("a", "b", "z"),), prices=(PriceEntry(cost=cost),))
    price = PriceBook({"m": model}).price("m", "m/a", 0)
    assert price is not None
    lost, own = Usage(1_000, 10), Usage(2_000, 500, 1_000)
    failed, served = price.tokens_priced(lost), price.priced(own)
    attempts = (
        AttemptRecord("m/a", "m", "connect", 0, 1, 0, 0),
        AttemptRecord("m/a", "m", "server", 500, 1, *failed[:2], "", failed[2], lost),
        AttemptRecord("m/a", "m", "ok", 200, 1, *served[:2], "", served[2]),
    )
    record = usage_record(usage=own.plus(lost), attempts=attempts, cost=failed[0] + served[0])
    first, second = call_prices(record, {price.id: price.sheet})
    for told, amounts in ((first, failed), (second, served)):
        assert (told.cost, told.charge, told.price) == amounts
        assert sum(line.cost for line in told.lines) == told.cost * MILLION
    assert [line.name for line in first.lines] == ["input", "output"]
    assert [line.name for line in second.lines] == ["input", "cached_input", "output", "call"]
    dear = TokenPrices(Decimal(7))
    new = PriceBook({"m": ModelConfig(model.deployments, prices=(PriceEntry(cost=dear),))})
    reversal, _ = repriced(record, new).entries(1)
    back = call_prices(reversal, {price.id: price.sheet})[1]
    assert [(line.name, line.quantity) for line in back.lines][-1] == ("call", -1)
    assert sum(line.cost for line in back.lines) == back.cost * MILLION


def test_what_cannot_be_known_has_no_lines() -> None:
    attempt = AttemptRecord("m/a", "m", "ok", 200, 1, 1, 1, "", "gone")
    [told] = call_prices(usage_record(attempts=(attempt,)), {})
    assert (told.price, told.sheet, told.lines) == ("gone", None, [])
    assert call_prices(usage_record(usage=NO_USAGE, attempts=(attempt,)), {}) == []
