"""What the prices of one configuration are made of: its entries, the catalogues of its plugins and
its file of exchange rates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llmgw_core.accounting.exchange import PATH, read_rates
from llmgw_core.accounting.prices import PriceBook, PriceSources
from llmgw_core.config.errors import ConfigErrors
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from llmgw_core.accounting.exchange import ExchangeRates
    from llmgw_core.accounting.price_sheet import PriceSheet
    from llmgw_core.config.schema import Config
    from llmgw_core.config.schema_prices import CatalogueEntry

RATES_CHANGED: Final = PATH
"""The path under which a reload says that the file has other rates."""


def exchange_rates(config: Config) -> ExchangeRates:
    """The rates in the file that `config` names, if it names one. Raises `ConfigErrors`."""
    return read_rates(config.accounting.exchange_rates, config.accounting.currency)


def price_sources(
    config: Config,
    catalogue: Mapping[str, Sequence[CatalogueEntry]],
    announce: Callable[[PriceSheet], None] | None = None,
) -> PriceSources:
    """Everything that prices are made of. Raises `ConfigErrors`."""
    return PriceSources(config.accounting.currency, catalogue, exchange_rates(config), announce)


def price_problems(
    config: Config, catalogue: Mapping[str, Sequence[CatalogueEntry]]
) -> list[ConfigError]:
    """Everything that keeps the prices of `config` from being put together."""
    try:
        sources = price_sources(config, catalogue)
    except ConfigErrors as error:
        return list(error.errors)
    errors = []
    for name, section in config.models.items():
        try:
            PriceBook({name: section}, sources)
        except ConfigError as error:
            errors.append(error)
    return errors
