"""What a usage is worth: dated prices turned into amounts, in integers from end to end.

An amount is a number of nano-units (1e-9 of the currency). A price per million tokens is held
as nano-units per million tokens, so one amount is one sum of products, divided by a million
and rounded once (half to even). Nothing here knows what a float is.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from typing import TYPE_CHECKING

from llmgw_core.config.errors import join
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    from llmgw_core.config.schema import ModelConfig, PriceEntry, TokenPrices
    from llmgw_core.domain.usage import Usage

NANO = 10**9
"""Nano-units in one unit of the currency."""

MILLION = 10**6

MAX_PRICE = 10**9
"""The dearest price in whole units: a million tokens of it are the largest amount."""

MAX_AMOUNT = 10**18
"""The largest amount of one attempt in nano-units. An upstream that reports absurd numbers of
tokens must not produce an amount that cannot be written down."""

_EPOCH = dt.date(1970, 1, 1)
_DAY_NS = 86_400 * NANO
_NEVER = 2**63


class Rates:
    """One set of prices: nano-units per million tokens of each class, and nano-units per call."""

    __slots__ = ("cached", "call", "input", "output")

    def __init__(self, input: int, output: int, cached: int, call: int) -> None:
        self.input = input
        self.output = output
        self.cached = cached
        self.call = call

    def amount(self, usage: Usage) -> int:
        """Nano-units for `usage`: tokens rounded once, half to even, plus the price of a call.

        Cached tokens beyond the input tokens (a provider's slip) count as input no further than
        there is input.
        """
        total = usage.input_tokens * self.input + usage.output_tokens * self.output
        if usage.cached_input_tokens:
            cached = min(usage.cached_input_tokens, usage.input_tokens)
            total += cached * (self.cached - self.input)
        units = total // MILLION
        rest = total - units * MILLION
        if rest > 500_000 or (rest == 500_000 and units & 1):
            units += 1
        units += self.call
        if -MAX_AMOUNT <= units <= MAX_AMOUNT:
            return units
        return MAX_AMOUNT if units > 0 else -MAX_AMOUNT


class Price:
    """What holds for one deployment at one time: the provider's bill and the tenant's."""

    __slots__ = ("_charge", "_cost")

    def __init__(self, cost: Rates, charge: Rates) -> None:
        self._cost = cost
        self._charge = charge

    def amounts(self, usage: Usage) -> tuple[int, int]:
        """Cost and charge of `usage`; worked out once where they have the same price."""
        cost = self._cost.amount(usage)
        return cost, cost if self._charge is self._cost else self._charge.amount(usage)

    def cost(self, usage: Usage) -> int:
        """What the provider bills for `usage`, in nano-units."""
        return self._cost.amount(usage)

    def charge(self, usage: Usage) -> int:
        """What the tenant pays for `usage`, in nano-units; never negative."""
        return self._charge.amount(usage)


class Schedule:
    """The dated prices of one deployment. The entry found last is tried first: calls come in
    the order of time, and prices change a few times a year."""

    __slots__ = ("_prices", "_starts", "price", "since", "until")

    def __init__(self, entries: Sequence[tuple[int, Price]]) -> None:
        ordered = sorted(entries, key=lambda entry: entry[0])
        self._starts = [start for start, _ in ordered]
        self._prices = [price for _, price in ordered]
        self.since = self.until = 0
        """Between these two (nanoseconds since the epoch), `price` is the price."""
        self.price: Price | None = None

    def at(self, at_ns: int) -> Price | None:
        """The price at `at_ns` (nanoseconds since the epoch); None before the first entry."""
        if not self.since <= at_ns < self.until:
            self._seek(at_ns)
        return self.price

    def _seek(self, at_ns: int) -> None:
        index = bisect_right(self._starts, at_ns)
        self.since = self._starts[index - 1] if index else -_NEVER
        self.until = self._starts[index] if index < len(self._starts) else _NEVER
        self.price = self._prices[index - 1] if index else None


class PriceBook:
    """The prices of every configured deployment. Raises `ConfigError` with the path of the
    culprit for a price that is negative, finer than a nano-unit, absurd or dated twice."""

    def __init__(self, models: Mapping[str, ModelConfig]) -> None:
        self._deployments: dict[str, Schedule] = {}
        self._models: dict[str, Schedule] = {}
        for name, model in models.items():
            path = join("models", name)
            general = self._models[name] = _schedule(model.prices, f"{path}.prices")
            for index, deployment in enumerate(model.deployments):
                own = _schedule(deployment.prices, f"{path}.deployments[{index}].prices")
                self._deployments[f"{name}/{deployment.name}"] = (
                    own if deployment.prices else general
                )

    def price(self, model: str, deployment: str, at_ns: int) -> Price | None:
        """The price of `deployment` (`MODEL/NAME`) at `at_ns`; for a deployment that is not
        configured the price of `model`. None: there is no price for that time."""
        schedule = self._deployments.get(deployment) or self._models.get(model)
        if schedule is None:
            return None
        if schedule.since <= at_ns < schedule.until:
            return schedule.price
        return schedule.at(at_ns)

    def unpriced(self, at_ns: int) -> tuple[str, ...]:
        """The configured deployments that have no price at `at_ns`."""
        return tuple(id for id, schedule in self._deployments.items() if schedule.at(at_ns) is None)


def _schedule(entries: Sequence[PriceEntry], path: str) -> Schedule:
    priced: dict[int, Price] = {}
    for index, entry in enumerate(entries):
        start = (entry.valid_from - _EPOCH).days * _DAY_NS
        if start in priced:
            raise ConfigError(
                f"two entries start on {entry.valid_from}; keep one of them.",
                path=f"{path}[{index}].from",
            )
        priced[start] = _price(entry, f"{path}[{index}]")
    return Schedule(list(priced.items()))


def _price(entry: PriceEntry, path: str) -> Price:
    cost = _rates(entry.cost, f"{path}.cost", rebate=True)
    if entry.charge is None:
        _rates(entry.cost, f"{path}.cost", rebate=False)  # the tenant's side has a rule more
        return Price(cost, cost)
    return Price(cost, _rates(entry.charge, f"{path}.charge", rebate=False))


def _rates(prices: TokenPrices, path: str, *, rebate: bool) -> Rates:
    """`rebate`: a provider may pay something back for cached input; a tenant is never paid."""
    input = _nano(prices.input, f"{path}.input")
    cached = prices.cached_input
    return Rates(
        input=input,
        output=_nano(prices.output, f"{path}.output"),
        cached=input if cached is None else _nano(cached, f"{path}.cached_input", signed=rebate),
        call=_nano(prices.call, f"{path}.call"),
    )


def _nano(price: Decimal, path: str, *, signed: bool = False) -> int:
    if not price.is_finite() or price.copy_abs() > MAX_PRICE:
        raise ConfigError(f"{price} is not a price; the largest is {MAX_PRICE}.", path=path)
    if price < 0 and not signed:
        raise ConfigError(f"{price} is negative; a price is 0 or more.", path=path)
    if price.adjusted() < -400 and price:
        raise ConfigError(f"{price} is too fine; the smallest step is 0.000000001.", path=path)
    numerator, denominator = price.as_integer_ratio()
    nano, rest = divmod(numerator * NANO, denominator)
    if rest:
        raise ConfigError(f"{price} is too fine; the smallest step is 0.000000001.", path=path)
    return nano
