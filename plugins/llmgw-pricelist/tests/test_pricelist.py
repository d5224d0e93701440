from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec
import pytest

from llmgw_core import Config, DeploymentConfig, ModelConfig, PluginConfig, PriceEntry
from llmgw_core.config.schema_prices import starts_at
from llmgw_core.gateway import Gateway
from llmgw_core.testing.canonical_plugin import CanonicalPlugin
from llmgw_pricelist import PriceListPlugin
from llmgw_pricelist.catalogue import catalogue, read_file

if TYPE_CHECKING:
    from pathlib import Path

CATALOGUE = catalogue()


def test_a_file_says_what_is_common_to_its_prices_once() -> None:
    found = read_file("""
source = "https://prices.example"
seen = 2026-11-01
currency = "EUR"
[[price]]
model = "small"
cost = {input = 0.1, output = 1}
[[price]]
model = "small"
from = "2026-12-01"
source = "https://news.example"
seen = 2026-11-02
cost = {input = 0.2}
tiers = [{above = 1000, cost = {input = 0.3}}]
""")
    first, second = found["small"]
    assert (first.source, first.seen, first.currency) == (
        "https://prices.example",
        dt.date(2026, 11, 1),
        "EUR",
    )
    assert (first.cost.input, first.cost.output) == (Decimal("0.1"), Decimal(1))
    assert (second.source, second.seen) == ("https://news.example", dt.date(2026, 11, 2))
    assert (second.valid_from, second.tiers[0].above) == ("2026-12-01", 1000)
    assert second.tiers[0].cost.input == Decimal("0.3")


def test_a_word_that_means_nothing_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        read_file('source = "x"\nseen = 2026-11-01\n[[price]]\nmodel = "m"\ncost = {inpt = 1}\n')


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_price_has_a_source_and_a_day_and_is_plausible(name: str) -> None:
    starts = [starts_at(entry.valid_from) for entry in CATALOGUE[name]]
    assert starts == sorted(set(starts))
    for entry in CATALOGUE[name]:
        assert entry.source.startswith("https://")
        assert dt.date(2025, 1, 1) < entry.seen <= dt.date(2026, 12, 31)
        cost = entry.cost
        assert 0 < cost.input <= 200
        assert 0 <= cost.output <= 1_000
        assert cost.cached_input is None or cost.cached_input <= cost.input
        assert cost.cache_write is None or cost.cache_write >= cost.input


def test_the_well_known_are_there() -> None:
    assert CATALOGUE["openai/gpt-4o"][0].cost.cached_input == Decimal("1.25")
    assert CATALOGUE["anthropic/claude-opus-4-8"][0].cost.cache_write == Decimal("6.25")
    [gemini] = CATALOGUE["google/gemini-2.5-pro"]
    assert [(tier.above, tier.cost.input) for tier in gemini.tiers] == [(200_000, Decimal("2.5"))]
    assert {name.partition("/")[0] for name in CATALOGUE} == {
        *("anthropic", "cohere", "google", "mistral", "openai", "voyage", "xai"),
    }


async def test_every_price_can_be_booked(tmp_path: Path) -> None:
    deployments = (DeploymentConfig("a", "canonical", "eu", options={"port": 1}),)
    models = {
        name.replace("/", "-"): ModelConfig(deployments, prices=(PriceEntry(catalogue=name),))
        for name in CATALOGUE
    }
    config = Config(models=models, plugins=(PluginConfig("pricelist"),))
    plugins = [("canonical", CanonicalPlugin), ("pricelist", PriceListPlugin)]
    async with Gateway.open(config, base_dir=tmp_path, plugins=plugins) as gateway:
        assert gateway.books.prices.unpriced(2**60) == ()
        price = gateway.books.prices.price("openai-gpt-4o", "openai-gpt-4o/a", 2**60)
        assert price is not None
        assert price.sheet.cost.output == 10 * 10**9
