"""From prices as somebody writes them to rates: whole units of some currency with discounts and
mark-ups become nano-units of the installation's currency.

What is written without discount, mark-up and conversion must be a whole number of nano-units.
What these make of it is rounded to one, half to even, once per rate; the rates are the price.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from llmgw_core.accounting.price_sheet import CLASSES, ClassRates, PriceSheet
from llmgw_core.config.errors import join
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from decimal import Decimal

    from llmgw_core.config.schema_prices import PriceTier, TierPrices, TokenPrices

NANO: Final = 10**9
"""Nano-units in one unit of the currency."""

MAX_PRICE: Final = 10**9
"""The dearest price in whole units: a million tokens of it are the largest amount."""

_SAME: Final = Fraction(1)


class Offer(NamedTuple):
    """What one entry says. `currency` is that of `cost` and of the costs of tiers. `path` is
    where it says it."""

    cost: TokenPrices
    charge: TokenPrices | None
    tiers: tuple[PriceTier, ...]
    currency: str
    discount: Decimal
    markup: Decimal
    path: str

    def sheets(self, currency: str, rate: Decimal | None = None) -> list[PriceSheet]:
        """The prices in `currency`, those for the longest calls last. `rate`: what one unit of the
        offer's own currency is worth; None where it is the same one. Raises `ConfigError`."""
        exchange = "" if rate is None else f"{self.currency} {rate.normalize():f}"
        factor = _SAME if rate is None else Fraction(rate)
        return [
            PriceSheet(currency=currency, cost=cost, charge=charge, tier=above, exchange=exchange)
            for above, cost, charge in self._sides(factor)
        ]

    def _sides(self, exchange: Fraction) -> Iterator[tuple[int, ClassRates, ClassRates]]:
        cost_factor = exchange * (1 - Fraction(self.discount) / 100)
        charge_factor = cost_factor * (1 + Fraction(self.markup) / 100)
        path = self.path
        for above, cost, charge in self._steps():
            if above:
                index = [tier.above for tier in self.tiers].index(above)
                path = join(join(self.path, "tiers"), index)
            mine = _side(cost, cost_factor, join(path, "cost"), signed=charge is not None)
            if charge is not None:
                theirs = _side(charge, _SAME, join(path, "charge"), signed=False)
            else:
                theirs = mine
                if charge_factor != cost_factor:
                    theirs = _side(cost, charge_factor, join(path, "cost"), signed=False)
            yield above, mine, theirs

    def _steps(self) -> Iterator[tuple[int, TokenPrices, TokenPrices | None]]:
        yield 0, self.cost, self.charge
        for tier in self.tiers:
            charge = self.charge
            if charge is not None and tier.charge is not None:
                charge = _changed(charge, tier.charge)
            yield tier.above, _changed(self.cost, tier.cost), charge


def _changed(prices: TokenPrices, tier: TierPrices) -> TokenPrices:
    """`prices` with what `tier` says instead."""
    given = {
        name: value for name, value in msgspec.structs.asdict(tier).items() if value is not None
    }
    return msgspec.structs.replace(prices, **given)


def _side(prices: TokenPrices, factor: Fraction, path: str, *, signed: bool) -> ClassRates:
    """`signed`: a provider may pay something back; a tenant is never paid."""
    rates: dict[str, int] = {}
    for each in CLASSES:
        price: Decimal | None = getattr(prices, each.name)
        if price is None:
            rates[each.name] = rates[each.parent]
        else:
            rates[each.name] = _nano(price, factor, join(path, each.name), signed=signed)
    return ClassRates(**rates)


def _nano(price: Decimal, factor: Fraction, path: str, *, signed: bool) -> int:
    if not price.is_finite() or price.copy_abs() > MAX_PRICE:
        raise ConfigError(f"{price} is not a price; the largest is {MAX_PRICE}.", path=path)
    if price < 0 and not signed:
        raise ConfigError(f"{price} is negative; a price is 0 or more.", path=path)
    too_fine = f"{price} is too fine; the smallest step is 0.000000001."
    if price.adjusted() < -400 and price:
        raise ConfigError(too_fine, path=path)
    exact = Fraction(price) * NANO * factor
    nano, rest = divmod(exact.numerator, exact.denominator)
    if rest and factor == _SAME:
        raise ConfigError(too_fine, path=path)
    twice = rest * 2
    if twice > exact.denominator or (twice == exact.denominator and nano & 1):
        nano += 1
    return max(-MAX_PRICE * NANO, min(MAX_PRICE * NANO, nano))
