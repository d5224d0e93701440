"""What the prices of one configuration are made of: its entries, the catalogues of its plugins and
its file of exchange rates."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from llmgw_core.accounting.exchange import PATH, read_rates
from llmgw_core.accounting.prices import PriceBook, PriceSources
from llmgw_core.config.errors import ConfigErrors, join, listed
from llmgw_core.config.validate_prices import unpriced
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from llmgw_core.accounting.exchange import ExchangeRates
    from llmgw_core.accounting.price_sheet import PriceSheet
    from llmgw_core.config.schema import Config
    from llmgw_core.config.schema_prices import CatalogueEntry, PriceEntry

RATES_CHANGED: Final = PATH
"""The path under which a reload says that the file has other rates."""
OLD_RATE_DAYS: Final = 7
OLD_PRICE_DAYS: Final = 180
NAMED: Final = 5


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
    config: Config, catalogue: Mapping[str, Sequence[CatalogueEntry]], today: dt.date
) -> list[ConfigError]:
    """Everything that keeps the prices of `config` from being put together; and where calls
    without a price are refused, what has none `today` (UTC) although entries seem to give one."""
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
    if not errors and config.accounting.unpriced == "refuse":
        errors += _refused(config, sources, today)
    return errors


def price_warnings(
    config: Config, catalogue: Mapping[str, Sequence[CatalogueEntry]], today: dt.date
) -> list[ConfigError]:
    """What works and is hardly meant, as of `today` (UTC): calls that are booked at zero, prices
    and exchange rates that nobody has looked at for long. `price_problems` come before."""
    return [
        *_at_zero(config, price_sources(config, catalogue), today),
        *_old_rates(config, today),
        *_old_prices(config, catalogue, today),
    ]


def catalogue_note(
    config: Config, catalogue: Mapping[str, Sequence[CatalogueEntry]], today: dt.date
) -> str:
    """How old the prices are that are taken from a catalogue; "" if none is."""
    seen = {name: max(each.seen for each in catalogue[name]) for _, name in _named(config)}
    if not seen:
        return ""
    name, day = min(seen.items(), key=lambda item: item[1])
    return (
        f"{len(seen)} {'price' if len(seen) == 1 else 'prices'} of a catalogue, seen on {day} or"
        f" later; the oldest (`{name}`) is {(today - day).days} days old."
    )


def _named(config: Config) -> Iterator[tuple[str, str]]:
    """Where entries name a catalogue's, and the names."""
    for place, entries in _entries(config):
        for index, entry in enumerate(entries):
            if entry.catalogue:
                yield join(join(place, index), "catalogue"), entry.catalogue


def _entries(config: Config) -> Iterator[tuple[str, Sequence[PriceEntry]]]:
    for name, model in config.models.items():
        path = join("models", name)
        yield join(path, "prices"), model.prices
        for index, deployment in enumerate(model.deployments):
            yield join(join(join(path, "deployments"), index), "prices"), deployment.prices


def _without_price(
    config: Config, sources: PriceSources, today: dt.date
) -> Iterator[tuple[str, int, str]]:
    """Model, number of the deployment and reason, for everything that has no price at the end of
    the day."""
    midnight = dt.datetime.combine(today, dt.time(), dt.UTC) + dt.timedelta(days=1)
    last_ns = int(midnight.timestamp()) * 10**9 - 1
    prices = PriceBook(config.models, sources)
    for name, model in config.models.items():
        for index, deployment in enumerate(model.deployments):
            if reason := prices.reason(name, f"{name}/{deployment.name}", last_ns):
                yield name, index, reason


def _refused(config: Config, sources: PriceSources, today: dt.date) -> Iterator[ConfigError]:
    for name, index, reason in _without_price(config, sources, today):
        model = config.models[name]
        if not unpriced(model, model.deployments[index], today):  # else it has been said
            message = (
                f"has no price today ({today}), so its calls would be refused: {reason}; give it"
                " one, or set `accounting.unpriced: zero` to book such calls at zero."
            )
            yield ConfigError(message, path=join(join(join("models", name), "deployments"), index))


def _at_zero(config: Config, sources: PriceSources, today: dt.date) -> Iterator[ConfigError]:
    if config.accounting.unpriced != "zero":
        return
    free = [
        f"{name}/{config.models[name].deployments[index].name}"
        for name, index, _ in _without_price(config, sources, today)
    ]
    if free:
        more = f" and {len(free) - NAMED} more" if len(free) > NAMED else ""
        message = f"has no price and is booked at zero: {listed(free[:NAMED])}{more}."
        yield ConfigError(message, path="accounting.unpriced")


def _old_rates(config: Config, today: dt.date) -> Iterator[ConfigError]:
    rates = exchange_rates(config)
    foreign = {entry.currency for _, entries in _entries(config) for entry in entries}
    for currency in sorted(foreign - {"", config.accounting.currency}):
        day = rates.last_day(currency)
        if day is None:
            yield ConfigError(f"has no rate for {currency}, which a price is in.", path=PATH)
        elif (today - day).days > OLD_RATE_DAYS:
            message = f"the last rate for {currency} is of {day}; calls of today are priced by it."
            yield ConfigError(message, path=PATH)


def _old_prices(
    config: Config, catalogue: Mapping[str, Sequence[CatalogueEntry]], today: dt.date
) -> Iterator[ConfigError]:
    for path, name in _named(config):
        day = max(each.seen for each in catalogue[name])
        if (today - day).days > OLD_PRICE_DAYS:
            message = f"the price is as it was seen on {day}; is there a newer catalogue?"
            yield ConfigError(message, path=path)
