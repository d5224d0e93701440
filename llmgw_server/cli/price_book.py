"""The prices that a configuration says, for commands that work without a gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from llmgw_core.accounting.prices import PriceBook
from llmgw_core.config.load import load_file
from llmgw_core.gateway import load_plugins
from llmgw_core.pricing import price_sources

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmgw_core.config.schema import Config
    from llmgw_core.config.schema_prices import CatalogueEntry


class Priced(NamedTuple):
    """A configuration, its prices, and the catalogue that its plugins bring."""

    config: Config
    prices: PriceBook
    catalogue: Mapping[str, Sequence[CatalogueEntry]]


def priced(path: str) -> Priced:
    """What the configuration in the file `path` says. Nothing is started. Raises `ConfigError`."""
    file = load_file(path)
    with file.locating():
        host = load_plugins(file.config, file.path.parent)
        sources = price_sources(file.config, host.prices)
        return Priced(file.config, PriceBook(file.config.models, sources), host.prices)
