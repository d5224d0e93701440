from __future__ import annotations

import datetime as dt

import pytest

from llmgw_core.config.load import parse
from llmgw_core.config.schema_prices import starts_at
from llmgw_core.domain.errors import ConfigError

TODAY = dt.date(2026, 1, 1)


def errors(prices: str, accounting: str = "") -> list[str]:
    """What is wrong with these prices of the model `m`."""
    text = f"""
accounting: {{{accounting}}}
models:
  m: {{deployments: [{{name: a, backend: b, zone: z}}], prices: [{prices}]}}
"""
    try:
        parse(text, base_dir="/nowhere", env={}, today=TODAY)
    except ConfigError as error:
        return [line.partition("models.m.")[2] or line for line in str(error).splitlines()]
    return []


@pytest.mark.parametrize(
    ("prices", "sentence"),
    [
        (
            "{from: 2026-01-01}",
            "prices[0]: needs `cost`, or `catalogue` with the name of an entry.",
        ),
        (
            "{catalogue: x, cost: {input: 1}}",
            "prices[0].cost: `cost` cannot be given beside `catalogue`, which says it.",
        ),
        (
            "{catalogue: x, tiers: [{above: 1}]}",
            "prices[0].tiers: `tiers` cannot be given beside `catalogue`, which says it.",
        ),
        (
            "{currency: EUR, cost: {input: 1}}",
            (
                "prices[0].currency: is not the installation's currency (USD): name a file with"
                " exchange rates in `accounting.exchange_rates`."
            ),
        ),
        (
            "{cost: {input: 1}, charge: {input: 1}, markup: 5}",
            "prices[0].markup: cannot be given beside `charge`, which says what tenants pay.",
        ),
        (
            "{cost: {input: 1}, discount: 101}",
            "prices[0].discount: must be percent, from -1000 to 100.",
        ),
        (
            "{cost: {input: 1}, markup: -101}",
            "prices[0].markup: must be percent, from -100 to 1000.",
        ),
        (
            "{cost: {input: 1}, tiers: [{above: 200}, {above: 200}]}",
            "prices[0].tiers[1].above: must be more than 200: tiers come by growing `above`.",
        ),
        (
            "{cost: {input: 1}, tiers: [{above: 0}]}",
            "prices[0].tiers[0].above: must be more than 0: tiers come by growing `above`.",
        ),
        (
            "{cost: {input: 1}, tiers: [{above: 1, charge: {input: 1}}]}",
            (
                "prices[0].tiers[0].charge: give the entry a `charge`, too, from which this one can"
                " differ."
            ),
        ),
        (
            "{from: 2025-01-02T10:00:00, cost: {}}",
            "prices[0].from: has a time without a zone; add one, e.g. `+01:00` or `Z`.",
        ),
        (
            "{from: 0001-01-01T00:00:00+14:00, cost: {}}",
            (
                "prices[0].from: is neither a date (2026-03-01, from its start in UTC) nor a date"
                " and time with zone (2026-03-01T00:00:00+01:00)."
            ),
        ),
        (
            "{from: 2025-01-02T01:00:00+01:00, cost: {}}, {from: 2025-01-02, cost: {}}",
            "prices[1].from: there are two entries from 2025-01-02; only one can hold.",
        ),
        (
            "{cost: {}}, {cost: {}}",
            "prices[1].from: there are two entries from the beginning; only one can hold.",
        ),
    ],
)
def test_each_mistake_in_prices_is_one_sentence_with_its_place(prices: str, sentence: str) -> None:
    assert errors(prices) == [sentence]


def test_prices_may_be_everything_at_once() -> None:
    entry = (
        "{from: 2025-06-01T00:00:00+02:00, currency: EUR, discount: 20, cost: {input: -1},"
        " charge: {input: 2, image: 0.1}, tiers: [{above: 1000, charge: {input: 3}}]}"
    )
    catalogue = "{from: 2025-12-01, catalogue: openai/gpt-4o, markup: -10}"
    assert errors(f"{entry}, {catalogue}", "exchange_rates: rates.csv") == []


def test_what_a_provider_pays_back_needs_a_charge_of_its_own() -> None:
    assert errors("{cost: {input: -1}, charge: {}}") == []
    assert "cannot be negative" in errors("{cost: {input: -1}}")[0]
    assert "cannot be infinite" not in errors("{cost: {input: -1}}")[0]


def test_a_price_that_begins_later_today_is_good_enough_to_start() -> None:
    assert errors("{from: 2026-01-01T23:00:00Z, cost: {}}") == []
    assert "no price that is valid today" in errors("{from: 2026-01-02T00:00:00Z, cost: {}}")[0]


def test_a_date_begins_at_midnight_utc_and_a_time_where_its_zone_says() -> None:
    assert starts_at("2026-03-01") == dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
    assert starts_at(dt.date(2026, 3, 1)) == dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
    berlin = starts_at("2026-03-01T00:00:00+01:00")
    assert berlin == dt.datetime(2026, 2, 28, 23, tzinfo=dt.UTC)
    assert starts_at("") == dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
