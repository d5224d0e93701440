"""What the types cannot say about prices. Pure: a `Config` in, errors out.

Whether an amount is one that can be booked, and whether a catalogue has an entry, is found out
where prices are put together (`accounting`).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from llmgw_core.config.errors import join
from llmgw_core.config.schema_prices import starts_at
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Sequence
    from decimal import Decimal

    from llmgw_core.config.schema import Config, DeploymentConfig, ModelConfig
    from llmgw_core.config.schema_prices import (
        Moment,
        PriceEntry,
        PriceTier,
        TierPrices,
        TokenPrices,
    )

LARGEST_PERCENT: Final = 1000
_REMEDY: Final = (
    "add `prices` to the model or the deployment,"
    " or set `accounting.unpriced: zero` to book such calls at zero."
)


def price_errors(config: Config, today: dt.date) -> Iterator[ConfigError]:
    """Every error in the prices of models and deployments; where calls without a price are
    refused, `today` (UTC) every deployment must have one."""
    for name, model in config.models.items():
        path = join("models", name)
        yield from _prices(config, model.prices, join(path, "prices"))
        for index, deployment in enumerate(model.deployments):
            place = join(join(path, "deployments"), index)
            yield from _prices(config, deployment.prices, join(place, "prices"))
            if config.accounting.unpriced == "refuse" and (
                problem := unpriced(model, deployment, today)
            ):
                yield ConfigError(f"{problem}: {_REMEDY}", path=place)


def unpriced(model: ModelConfig, deployment: DeploymentConfig, today: dt.date) -> str:
    """Why a deployment has no price `today`, "" if it has one."""
    prices = deployment.prices or model.prices
    if not prices:
        return "has no price"
    starts = [start for entry in prices if (start := _start(entry.valid_from)) is not None]
    if starts and min(starts).date() > today:
        return f"has no price that is valid today ({today})"
    return ""


def _start(moment: Moment) -> dt.datetime | None:
    try:
        return starts_at(moment)
    except ValueError:
        return None


def _prices(config: Config, prices: Sequence[PriceEntry], path: str) -> Iterator[ConfigError]:
    for index, entry in enumerate(prices):
        try:
            starts_at(entry.valid_from)
        except ValueError as error:
            yield ConfigError(str(error), path=join(join(path, index), "from"))
    for index, (earlier, later) in enumerate(itertools.pairwise(prices), start=1):
        before, after = _start(earlier.valid_from), _start(later.valid_from)
        place = join(join(path, index), "from")
        if before is None or after is None:
            continue
        if after == before:
            moment = later.valid_from or "the beginning"
            message = f"there are two entries from {moment}; only one can hold."
            yield ConfigError(message, path=place)
        elif after < before:
            message = "entries must be in the order of their dates, the earliest first."
            yield ConfigError(message, path=place)
    for index, entry in enumerate(prices):
        yield from _entry(config, entry, join(path, index))


def _entry(config: Config, entry: PriceEntry, path: str) -> Iterator[ConfigError]:
    if entry.cost is None and not entry.catalogue:
        yield ConfigError("needs `cost`, or `catalogue` with the name of an entry.", path=path)
    if entry.catalogue:
        for key in ("cost", "currency", "tiers"):
            if getattr(entry, key):
                message = f"`{key}` cannot be given beside `catalogue`, which says it."
                yield ConfigError(message, path=join(path, key))
    foreign = entry.currency and entry.currency != config.accounting.currency
    if foreign and not config.accounting.exchange_rates:
        message = (
            f"is not the installation's currency ({config.accounting.currency}): name a file with"
            " exchange rates in `accounting.exchange_rates`."
        )
        yield ConfigError(message, path=join(path, "currency"))
    if entry.cost is not None:
        payable = entry.charge is None
        yield from _amounts(entry.cost, join(path, "cost"), negative=not payable)
    if entry.charge is not None:
        yield from _amounts(entry.charge, join(path, "charge"), negative=False)
        if entry.markup:
            message = "cannot be given beside `charge`, which says what tenants pay."
            yield ConfigError(message, path=join(path, "markup"))
    yield from _percent(entry.discount, join(path, "discount"), -LARGEST_PERCENT, 100)
    yield from _percent(entry.markup, join(path, "markup"), -100, LARGEST_PERCENT)
    yield from _tiers(entry, path)


def _tiers(entry: PriceEntry, path: str) -> Iterator[ConfigError]:
    above = 0
    for index, tier in enumerate(entry.tiers):
        place = join(join(path, "tiers"), index)
        if tier.above <= above:
            message = f"must be more than {above}: tiers come by growing `above`."
            yield ConfigError(message, path=join(place, "above"))
        above = max(above, tier.above)
        yield from _tier(entry, tier, place)


def _tier(entry: PriceEntry, tier: PriceTier, path: str) -> Iterator[ConfigError]:
    yield from _amounts(tier.cost, join(path, "cost"), negative=entry.charge is not None)
    if tier.charge is None:
        return
    if entry.charge is None:
        message = "give the entry a `charge`, too, from which this one can differ."
        yield ConfigError(message, path=join(path, "charge"))
    yield from _amounts(tier.charge, join(path, "charge"), negative=False)


def _amounts(
    prices: TokenPrices | TierPrices, path: str, *, negative: bool
) -> Iterator[ConfigError]:
    """A provider may pay something back; a tenant is never paid."""
    for field in prices.__struct_fields__:
        amount = getattr(prices, field)
        if amount is None or (amount.is_finite() and amount >= 0):
            continue
        if not amount.is_finite():
            yield ConfigError("a price cannot be infinite.", path=join(path, field))
        elif not negative:
            message = (
                "a price that tenants pay cannot be negative; what a provider pays back stands in"
                " `cost`, with a `charge` of its own beside it."
            )
            yield ConfigError(message, path=join(path, field))


def _percent(value: Decimal, path: str, least: int, most: int) -> Iterator[ConfigError]:
    if not (value.is_finite() and least <= value <= most):
        yield ConfigError(f"must be percent, from {least} to {most}.", path=path)
