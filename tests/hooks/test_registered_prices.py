from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core import CatalogueEntry, Config, ConfigError, Gateway, TokenPrices, hookimpl

if TYPE_CHECKING:
    from pathlib import Path

ENTRY = CatalogueEntry(TokenPrices(), "https://x.example", dt.date(2026, 1, 1))
UNDATED = CatalogueEntry(TokenPrices(), "https://x.example", dt.date(2026, 1, 1), "USD", "soon")


def bringing(prices: Any) -> type[Any]:
    class Plugin:
        def __init__(self, config: None, context: Any) -> None:
            pass

        @hookimpl
        def register_prices(self) -> Any:
            return prices

    return Plugin


async def test_prices_of_all_plugins_are_offered_by_name(tmp_path: Path) -> None:
    plugins = [("one", bringing({"a": [ENTRY]})), ("two", bringing({"b": (ENTRY, ENTRY)}))]
    async with Gateway.open(Config(), base_dir=tmp_path, plugins=plugins) as gateway:
        assert gateway.host.prices == {"a": (ENTRY,), "b": (ENTRY, ENTRY)}


@pytest.mark.parametrize(
    ("prices", "sentence"),
    [
        ([ENTRY], "registered list, which is no mapping of names to prices"),
        ({"a": ENTRY}, "registered a price 'a' that is no sequence of CatalogueEntry"),
        ({"a": []}, "registered a price 'a' that is no sequence of CatalogueEntry"),
        ({"a": "text"}, "registered a price 'a' that is no sequence of CatalogueEntry"),
        ({"a": [1]}, "registered a price 'a' that is no sequence of CatalogueEntry"),
        ({1: [ENTRY]}, "registered a price 1 that is no sequence of CatalogueEntry"),
        ({"a": [UNDATED]}, "is neither a date"),
    ],
)
async def test_what_is_no_price_stops_the_start_with_the_name_of_the_plugin(
    tmp_path: Path, prices: Any, sentence: str
) -> None:
    with pytest.raises(ConfigError, match="`odd`") as caught:
        async with Gateway.open(Config(), base_dir=tmp_path, plugins=[("odd", bringing(prices))]):
            raise AssertionError
    assert sentence in str(caught.value)


async def test_a_name_has_one_price(tmp_path: Path) -> None:
    plugins = [("one", bringing({"a": [ENTRY]})), ("two", bringing({"a": [ENTRY]}))]
    with pytest.raises(ConfigError, match="both register a price `a`; enable one of them"):
        async with Gateway.open(Config(), base_dir=tmp_path, plugins=plugins):
            raise AssertionError
