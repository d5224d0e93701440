"""Tiers, discounts, other currencies and catalogues: what prices are made of."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.accounting.exchange import ExchangeRates
from llmgw_core.accounting.prices import PriceBook, PriceSources
from llmgw_core.config.schema import DeploymentConfig, ModelConfig
from llmgw_core.config.schema_prices import (
    CatalogueEntry,
    PriceEntry,
    PriceTier,
    TierPrices,
    TokenPrices,
)
from llmgw_core.domain.errors import ConfigError
from llmgw_core.domain.usage import Usage

DAY = 86_400 * 10**9
MILLION = Usage(input_tokens=10**6)
SEEN = dt.date(2026, 1, 1)


def at(moment: str) -> int:
    return int(dt.datetime.fromisoformat(moment).timestamp()) * 10**9


def listed(price: int | str, *, since: str = "", **more: object) -> CatalogueEntry:
    given = {"source": "https://prices.example", "seen": SEEN, "valid_from": since, **more}
    return CatalogueEntry(cost=TokenPrices(Decimal(price)), **given)  # type: ignore[arg-type]


def book(*entries: PriceEntry, **sources: object) -> PriceBook:
    model = ModelConfig((DeploymentConfig(name="a", backend="b", zone="z"),), prices=entries)
    return PriceBook({"m": model}, PriceSources(**sources))  # type: ignore[arg-type]


def amounts(priced: PriceBook, moment: str, usage: Usage = MILLION) -> tuple[int, int] | None:
    """Cost and charge in whole units, which these must be."""
    price = priced.price("m", "m/a", at(moment))
    if price is None:
        return None
    cost, charge, _ = price.priced(usage)
    assert cost % 10**9 == charge % 10**9 == 0
    return cost // 10**9, charge // 10**9


def test_a_tier_says_only_what_differs() -> None:
    prices = TokenPrices(Decimal(1), Decimal(2))
    entry = PriceEntry(
        cost=prices,
        tiers=(PriceTier(above=200_000, cost=TierPrices(input=Decimal(3))),),
    )
    found = book(entry).price("m", "m/a", 0)
    assert found is not None
    low, high = found.sheets
    assert (low.tier, high.tier) == (0, 200_000)
    assert (low.cost.input, low.cost.cached_input, low.cost.output) == (10**9, 10**9, 2 * 10**9)
    assert (high.cost.input, high.cost.cached_input) == (3 * 10**9, 3 * 10**9)
    assert high.cost.output == 2 * 10**9


def test_tenants_pay_their_own_price_in_every_tier() -> None:
    entry = PriceEntry(
        cost=TokenPrices(Decimal(1)),
        charge=TokenPrices(Decimal(10)),
        tiers=(
            PriceTier(above=10, cost=TierPrices(input=Decimal(2))),
            PriceTier(above=100, charge=TierPrices(input=Decimal(30))),
        ),
    )
    found = book(entry).price("m", "m/a", 0)
    assert found is not None
    sides = [(sheet.cost.input, sheet.charge.input) for sheet in found.sheets]
    assert sides == [(10**9, 10 * 10**9), (2 * 10**9, 10 * 10**9), (10**9, 30 * 10**9)]


def test_a_discount_is_taken_off_the_cost_and_a_markup_is_put_on_the_rest() -> None:
    entry = PriceEntry(cost=TokenPrices(Decimal(100)), discount=Decimal(20), markup=Decimal(10))
    assert amounts(book(entry), "2026-01-01T00:00:00Z") == (80, 88)
    own = PriceEntry(
        cost=TokenPrices(Decimal(100)), charge=TokenPrices(Decimal(90)), discount=Decimal(20)
    )
    assert amounts(book(own), "2026-01-01T00:00:00Z") == (80, 90)
    dear = PriceEntry(cost=TokenPrices(Decimal(100)), discount=Decimal(-5))
    assert amounts(book(dear), "2026-01-01T00:00:00Z") == (105, 105)


@given(
    st.decimals(min_value=0, max_value=1_000, places=9),
    st.decimals(min_value=-100, max_value=100, places=3),
    st.decimals(min_value=-100, max_value=1_000, places=3),
    st.decimals(min_value=Decimal("0.001"), max_value=1_000, places=6),
)
def test_a_rate_is_exact_but_for_one_rounding(
    price: Decimal, discount: Decimal, markup: Decimal, rate: Decimal
) -> None:
    exchange = ExchangeRates({"EUR": {SEEN: rate}})
    entry = PriceEntry(cost=TokenPrices(price), currency="EUR", discount=discount, markup=markup)
    found = book(entry, exchange=exchange).price("m", "m/a", at("2026-01-01T00:00:00Z"))
    assert found is not None
    cost = Fraction(price) * 10**9 * Fraction(rate) * (100 - Fraction(discount)) / 100
    assert found.sheet.cost.input == round(cost)
    assert found.sheet.charge.input == round(cost * (100 + Fraction(markup)) / 100)


def test_a_call_has_the_exchange_rate_of_its_day() -> None:
    exchange = ExchangeRates(
        {"EUR": {dt.date(2026, 1, 2): Decimal("1.5"), dt.date(2026, 1, 5): Decimal("2.0")}}
    )
    entry = PriceEntry(cost=TokenPrices(Decimal(2)), charge=TokenPrices(Decimal(7)), currency="EUR")
    priced = book(entry, exchange=exchange)
    moments = ["2026-01-06T00:00:00Z", "2026-01-01T23:59:59Z", "2026-01-04T23:59:59Z"]
    assert [amounts(priced, moment) for moment in moments] == [(4, 7), None, (3, 7)]
    price = priced.price("m", "m/a", at(moments[0]))
    assert price is not None
    assert (price.sheet.currency, price.sheet.exchange) == ("USD", "EUR 2")
    assert priced.price("m", "m/a", at(moments[0]) + 1) is price
    assert priced.reason("m", "m/a", at(moments[0])) == ""
    assert priced.reason("m", "m/a", at(moments[1])) == (
        "there is no exchange rate for EUR on or before that day"
    )
    assert priced.unpriced(at(moments[1])) == ("m/a",)


def test_the_installation_s_own_currency_may_be_named() -> None:
    entry = PriceEntry(cost=TokenPrices(Decimal(2)), currency="USD")
    assert amounts(book(entry), "2026-01-01T00:00:00Z") == (2, 2)


def test_why_there_is_no_price_is_said() -> None:
    later = book(PriceEntry("2026-02-01", TokenPrices(Decimal(1))))
    assert later.reason("m", "m/a", at("2026-01-01T00:00:00Z")) == "its prices begin later"
    assert book().reason("m", "m/a", 0) == "it has no price"
    assert book().reason("x", "x/a", 0) == "it is not configured"


def test_a_price_may_begin_at_an_instant_of_some_zone() -> None:
    first = PriceEntry(cost=TokenPrices(Decimal(1)))
    second = PriceEntry("2026-03-01T00:00:00+01:00", TokenPrices(Decimal(2)))
    third = PriceEntry("2026-03-01T12:00:00.000001Z", TokenPrices(Decimal(3)))
    priced = book(first, second, third)
    moments = [
        "1969-01-01T00:00:00Z",
        "2026-02-28T22:59:59Z",
        "2026-02-28T23:00:00Z",
        "2026-03-01T12:00:00Z",
        "2026-03-01T12:00:01Z",
    ]
    assert [amounts(priced, moment) for moment in moments] == [
        (1, 1),
        (1, 1),
        (2, 2),
        (2, 2),
        (3, 3),
    ]


def test_an_entry_may_stand_for_what_a_catalogue_has_all_of_its_dates() -> None:
    catalogue = {
        "p/x": (listed(9, since="2026-03-01"), listed(5), listed(7, since="2026-02-01")),
    }
    own = PriceEntry("2026-04-01", TokenPrices(Decimal(1)))
    entry = PriceEntry("2026-01-01", catalogue="p/x", markup=Decimal(100))
    priced = book(entry, own, catalogue=catalogue)
    months = [f"2026-{month:02}-01T00:00:00Z" for month in range(1, 5)]
    assert [amounts(priced, month) for month in months] == [(5, 10), (7, 14), (9, 18), (1, 1)]
    assert amounts(priced, "2025-12-31T00:00:00Z") is None
    early = book(
        PriceEntry(catalogue="p/x"), PriceEntry("2026-02-15", TokenPrices()), catalogue=catalogue
    )
    assert [amounts(early, month) for month in months] == [(5, 5), (7, 7), (0, 0), (0, 0)]


def test_a_catalogue_in_another_currency_is_converted() -> None:
    exchange = ExchangeRates({"USD": {SEEN: Decimal("0.5")}})
    priced = book(
        PriceEntry(catalogue="p/x"),
        catalogue={"p/x": (listed(4),)},
        currency="EUR",
        exchange=exchange,
    )
    assert amounts(priced, "2026-01-02T00:00:00Z") == (2, 2)


def test_a_name_that_no_catalogue_has_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean `openai/gpt-4o`") as caught:
        book(PriceEntry(catalogue="openai/gpt4o"), catalogue={"openai/gpt-4o": (listed(1),)})
    assert caught.value.path == "models.m.prices[0].catalogue"
    with pytest.raises(ConfigError, match="no enabled plugin brings a catalogue"):
        book(PriceEntry(catalogue="openai/gpt4o"))
    with pytest.raises(ConfigError, match="needs `cost`, or `catalogue`"):
        book(PriceEntry())


def test_a_moment_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="neither a date") as caught:
        book(PriceEntry("tomorrow", TokenPrices()))
    assert caught.value.path == "models.m.prices[0].from"


def test_a_price_in_another_currency_is_looked_at_before_it_is_used() -> None:
    entry = PriceEntry(cost=TokenPrices(Decimal(-1)), currency="EUR")
    with pytest.raises(ConfigError, match="negative") as caught:
        book(entry)
    assert caught.value.path == "models.m.prices[0].cost.input"
    tier = PriceTier(above=5, cost=TierPrices(call=Decimal("0.0000000001")))
    with pytest.raises(ConfigError, match="too fine") as caught:
        book(PriceEntry(cost=TokenPrices(), tiers=(tier,)))
    assert caught.value.path == "models.m.prices[0].tiers[0].cost.call"


def test_every_sheet_is_announced_before_a_call_is_priced_by_it() -> None:
    told: list[str] = []
    exchange = ExchangeRates({"EUR": {SEEN: Decimal(1), dt.date(2026, 1, 3): Decimal(2)}})
    entry = PriceEntry(cost=TokenPrices(Decimal(1)), currency="EUR", tiers=(PriceTier(above=100),))
    priced = book(entry, exchange=exchange, announce=lambda sheet: told.append(sheet.id))
    assert told == []
    for day in ("01", "02", "03"):
        price = priced.price("m", "m/a", at(f"2026-01-{day}T00:00:00Z"))
        assert price is not None
        assert {price.priced(Usage(1))[2], price.priced(Usage(200))[2]} <= set(told)
    assert len(told) == 4
