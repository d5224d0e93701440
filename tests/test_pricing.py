"""What `check` says of prices, and the errors of a configuration's prices."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING

from llmgw_core.checking import check_text
from llmgw_core.config.schema import AccountingConfig, Config, DeploymentConfig, ModelConfig
from llmgw_core.config.schema_prices import CatalogueEntry, PriceEntry, TokenPrices
from llmgw_core.pricing import catalogue_note, price_problems, price_warnings

if TYPE_CHECKING:
    from pathlib import Path

TODAY = dt.date(2026, 11, 23)
CHEAP = TokenPrices(Decimal(1))


def seen(*days: str) -> tuple[CatalogueEntry, ...]:
    return tuple(
        CatalogueEntry(CHEAP, "https://x.example", dt.date.fromisoformat(day)) for day in days
    )


CATALOGUE = {"p/old": seen("2026-01-01"), "p/new": seen("2025-01-01", "2026-11-01")}


def config(accounting: AccountingConfig | None = None, **prices: PriceEntry | None) -> Config:
    return Config(
        models={
            name: ModelConfig(
                (DeploymentConfig("a", "b", "z"),), prices=() if entry is None else (entry,)
            )
            for name, entry in prices.items()
        },
        accounting=accounting or AccountingConfig(),
    )


def told(found: Config) -> list[str]:
    return [str(each) for each in price_warnings(found, CATALOGUE, TODAY)]


def test_the_age_of_what_is_used_of_a_catalogue_is_said() -> None:
    both = config(m=PriceEntry(catalogue="p/old"), n=PriceEntry(catalogue="p/new"))
    assert catalogue_note(both, CATALOGUE, TODAY) == (
        "2 prices of a catalogue, seen on 2026-01-01 or later;"
        " the oldest (`p/old`) is 326 days old."
    )
    assert catalogue_note(config(m=PriceEntry(cost=CHEAP)), CATALOGUE, TODAY) == ""
    assert told(both) == [
        (
            "models.m.prices[0].catalogue: the price is as it was seen on 2026-01-01;"
            " is there a newer catalogue?"
        )
    ]


def test_what_is_booked_at_zero_is_named_a_few_of_them() -> None:
    zero = AccountingConfig(unpriced="zero")
    free = config(zero, m=None, n=PriceEntry(cost=CHEAP))
    assert told(free) == ["accounting.unpriced: has no price and is booked at zero: `m/a`."]
    many = config(zero, **{f"m{n}": None for n in range(7)})
    assert told(many)[0].endswith("`m0/a`, `m1/a`, `m2/a`, `m3/a`, `m4/a` and 2 more.")
    assert told(config(m=None)) == []


def test_rates_that_are_missing_or_old_are_named(tmp_path: Path) -> None:
    file = tmp_path / "rates.csv"
    file.write_text("date,currency,rate\n2026-11-10,EUR,1.1\n2026-11-20,GBP,1.3\n")
    found = config(
        AccountingConfig(exchange_rates=str(file)),
        m=PriceEntry(cost=CHEAP, currency="EUR"),
        n=PriceEntry(cost=CHEAP, currency="GBP"),
        o=PriceEntry(cost=CHEAP, currency="JPY"),
        p=PriceEntry(cost=CHEAP, currency="USD"),
    )
    assert told(found) == [
        (
            "accounting.exchange_rates: the last rate for EUR is of 2026-11-10; calls of today are"
            " priced by it."
        ),
        "accounting.exchange_rates: has no rate for JPY, which a price is in.",
    ]


def test_every_model_whose_prices_cannot_be_is_named(tmp_path: Path) -> None:
    broken = config(
        m=PriceEntry(catalogue="p/none"),
        n=PriceEntry(cost=TokenPrices(Decimal("1e-12"))),
        o=PriceEntry(cost=CHEAP),
    )
    paths = [each.path for each in price_problems(broken, CATALOGUE, TODAY)]
    assert paths == ["models.m.prices[0].catalogue", "models.n.prices[0].cost.input"]
    lost = config(AccountingConfig(exchange_rates=str(tmp_path / "none.csv")))
    assert [each.path for each in price_problems(lost, CATALOGUE, TODAY)] == [
        "accounting.exchange_rates"
    ]


def test_what_would_be_refused_for_lack_of_a_price_is_an_error_and_at_zero_a_warning() -> None:
    entry = CatalogueEntry(CHEAP, "https://x.example", TODAY, "USD", "2026-11-24")
    later, dear = {"p/later": (entry,)}, seen("2026-11-01")
    catalogue = {**later, "p/dollars": dear}
    prices = {"m": PriceEntry(catalogue="p/later"), "n": PriceEntry(catalogue="p/dollars")}
    found = price_problems(config(AccountingConfig(currency="EUR"), **prices), catalogue, TODAY)
    assert [each.path for each in found] == ["models.m.deployments[0]", "models.n.deployments[0]"]
    assert "calls would be refused: its prices begin later; give it one" in found[0].message
    assert "no exchange rate for USD on or before that day; give it one" in found[1].message
    zero = config(AccountingConfig(currency="EUR", unpriced="zero"), **prices)
    assert price_problems(zero, catalogue, TODAY) == []
    assert str(price_warnings(zero, catalogue, TODAY)[0]).endswith("at zero: `m/a`, `n/a`.")
    tomorrow = config(m=prices["m"])
    assert price_problems(tomorrow, later, dt.date(2026, 11, 24)) == []


def test_check_tells_of_prices_only_when_they_are_in_order(tmp_path: Path) -> None:
    text = """
accounting: {unpriced: zero, exchange_rates: none.csv}
models: {m: {deployments: []}}
"""
    found = check_text(text, "f.yaml", tmp_path)
    assert any("none.csv cannot be read" in str(error) for error in found.errors)
    assert (found.notes, found.warnings) == ([], [])
