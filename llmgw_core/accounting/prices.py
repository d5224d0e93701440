"""Which price holds: by deployment, by the time of the call, by the length of its input."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

from llmgw_core.accounting.exchange import NEVER, NO_RATES
from llmgw_core.accounting.price_entries import Offer
from llmgw_core.accounting.rates import dearest, rates_of
from llmgw_core.config.errors import join, suggestion
from llmgw_core.config.schema_prices import starts_at
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from decimal import Decimal

    from llmgw_core.accounting.exchange import ExchangeRates
    from llmgw_core.accounting.price_sheet import PriceSheet
    from llmgw_core.config.schema import ModelConfig
    from llmgw_core.config.schema_prices import CatalogueEntry, Moment, PriceEntry
    from llmgw_core.domain.usage import Usage

_SECOND_NS: Final = 10**9


class Price:
    """What holds for one call on one deployment: the provider's bill and the tenant's. `id` is
    that of its sheet. `images`: those in requests have a price, and so have to be counted.
    `media`: tokens of sounds or images in requests may be dearer than all others."""

    __slots__ = ("_charge", "_cost", "_most", "id", "images", "media", "sheet")

    def __init__(self, sheet: PriceSheet) -> None:
        self.sheet = sheet
        self.id = sheet.id
        self.images = bool(sheet.cost.image or sheet.charge.image)
        self._cost = rates_of(sheet.cost)
        self._charge = self._cost if sheet.charge == sheet.cost else rates_of(sheet.charge)
        text, any_ = (dearest(sheet.charge, media=media) for media in (False, True))
        self._most = rates_of(text), rates_of(any_)
        self.media = text != any_

    def priced(self, usage: Usage) -> tuple[int, int, str]:
        """Cost and charge of `usage` in nano-units, and the id of the sheet that they are from.
        Worked out once where both sides have the same price. The charge is never negative."""
        cost = self._cost.amount(usage)
        return cost, cost if self._charge is self._cost else self._charge.amount(usage), self.id

    def tokens_priced(self, usage: Usage) -> tuple[int, int, str]:
        """As `priced`, without the price of a call: that is paid once, by what served it."""
        cost, charge, id = self.priced(usage)
        sheet = self.at(usage).sheet
        return cost - sheet.cost.call, charge - sheet.charge.call, id

    def cost(self, usage: Usage) -> int:
        """What the provider bills for `usage`, in nano-units."""
        return self.priced(usage)[0]

    def charge(self, usage: Usage) -> int:
        """What the tenant pays for `usage`, in nano-units; never negative."""
        return self.priced(usage)[1]

    def most(self, usage: Usage, *, media: bool) -> int:
        """What the tenant pays for so many tokens at most, whatever classes they turn out to be
        of. `media`: there are sounds or images in the request."""
        return self._most[media].amount(usage)

    def at(self, usage: Usage) -> Price:
        """The price for calls as long as this one."""
        return self

    @property
    def sheets(self) -> tuple[PriceSheet, ...]:
        """The sheets of all lengths of calls."""
        return (self.sheet,)


class TieredPrice(Price):
    """A price that depends on the length of the input: `prices` are those for more than as many
    tokens as their sheets say."""

    __slots__ = ("_above", "_prices")

    def __init__(self, sheets: Sequence[PriceSheet]) -> None:
        super().__init__(sheets[0])
        self._prices = (Price(sheets[0]), *map(Price, sheets[1:]))
        self._above = [sheet.tier for sheet in sheets[1:]]
        self.images = any(price.images for price in self._prices)
        self.media = any(price.media for price in self._prices)

    def priced(self, usage: Usage) -> tuple[int, int, str]:
        """As that of `Price`, the whole call at the rates of its tier."""
        return self._prices[bisect_left(self._above, usage.input_tokens)].priced(usage)

    def most(self, usage: Usage, *, media: bool) -> int:
        """As that of `Price`, at the rates of the tier."""
        return self.at(usage).most(usage, media=media)

    def at(self, usage: Usage) -> Price:
        """The price of the tier."""
        return self._prices[bisect_left(self._above, usage.input_tokens)]

    @property
    def sheets(self) -> tuple[PriceSheet, ...]:
        """Of all tiers."""
        return tuple(price.sheet for price in self._prices)


def price_of(sheets: Sequence[PriceSheet]) -> Price:
    """The price on these sheets, by growing tier."""
    return Price(sheets[0]) if len(sheets) == 1 else TieredPrice(sheets)


class Converted:
    """An offer in another currency: a price for every rate of exchange."""

    def __init__(self, offer: Offer, currency: str, rates: ExchangeRates) -> None:
        self.offer = offer
        self._currency = currency
        self._rates = rates
        self._last: tuple[Decimal, Price] | None = None

    def during(self, at_ns: int) -> tuple[int, int, Price | None]:
        """From when until when the price at `at_ns` holds, and the price; None where no rate is
        known."""
        since, until, rate = self._rates.during(self.offer.currency, at_ns)
        if rate is None:
            return since, until, None
        if self._last is None or self._last[0] != rate:
            self._last = rate, price_of(self.offer.sheets(self._currency, rate))
        return since, until, self._last[1]


class PriceSources(NamedTuple):
    """What prices are made of besides the configured ones. `currency` is the installation's;
    `catalogue` what plugins offer, by name; `exchange` the rates of other currencies. `announce`
    is told every sheet before a call is priced by it."""

    currency: str = "USD"
    catalogue: Mapping[str, Sequence[CatalogueEntry]] = {}
    exchange: ExchangeRates = NO_RATES
    announce: Callable[[PriceSheet], None] | None = None


class Schedule:
    """The dated prices of one deployment. The entry found last is tried first: calls come in
    the order of time, and prices change a few times a year."""

    __slots__ = ("_announce", "_entries", "_starts", "price", "since", "until")

    def __init__(
        self,
        entries: Mapping[int, Price | Converted],
        announce: Callable[[PriceSheet], None] | None = None,
    ) -> None:
        self._starts = sorted(entries)
        self._entries = [entries[start] for start in self._starts]
        self._announce = announce
        self.since = self.until = 0
        """Between these two (nanoseconds since the epoch), `price` is the price."""
        self.price: Price | None = None

    def at(self, at_ns: int) -> Price | None:
        """The price at `at_ns` (nanoseconds since the epoch); None before the first entry, and
        where an exchange rate is missing."""
        if not self.since <= at_ns < self.until:
            self._seek(at_ns)
        return self.price

    def reason(self, at_ns: int) -> str:
        """Why there is no price at `at_ns`, "" if there is one."""
        if self.at(at_ns) is not None:
            return ""
        index = bisect_right(self._starts, at_ns)
        entry = self._entries[index - 1] if index else None
        if isinstance(entry, Converted):
            return f"there is no exchange rate for {entry.offer.currency} on or before that day"
        return "its prices begin later" if self._starts else "it has no price"

    def _seek(self, at_ns: int) -> None:
        index = bisect_right(self._starts, at_ns)
        since = self._starts[index - 1] if index else -NEVER
        until = self._starts[index] if index < len(self._starts) else NEVER
        price = self._entries[index - 1] if index else None
        if isinstance(price, Converted):
            begins, ends, price = price.during(at_ns)
            since, until = max(since, begins), min(until, ends)
        self.since, self.until, self.price = since, until, price
        if price is not None and self._announce is not None:
            for sheet in price.sheets:
                self._announce(sheet)


class PriceBook:
    """The prices of every configured deployment. Raises `ConfigError` with the path of the
    culprit for a price that is negative, finer than a nano-unit, absurd or dated twice, and for a
    name that no catalogue has."""

    def __init__(
        self, models: Mapping[str, ModelConfig], sources: PriceSources | None = None
    ) -> None:
        self._sources = sources or PriceSources()
        self._deployments: dict[str, Schedule] = {}
        self._models: dict[str, Schedule] = {}
        for name, model in models.items():
            path = join("models", name)
            general = self._models[name] = self._schedule(model.prices, f"{path}.prices")
            for index, deployment in enumerate(model.deployments):
                own = general
                if deployment.prices:
                    place = f"{path}.deployments[{index}].prices"
                    own = self._schedule(deployment.prices, place)
                self._deployments[f"{name}/{deployment.name}"] = own

    def price(self, model: str, deployment: str, at_ns: int) -> Price | None:
        """The price of `deployment` (`MODEL/NAME`) at `at_ns`; for a deployment that is not
        configured the price of `model`. None: there is no price for that time."""
        schedule = self._deployments.get(deployment) or self._models.get(model)
        if schedule is None:
            return None
        if schedule.since <= at_ns < schedule.until:
            return schedule.price
        return schedule.at(at_ns)

    def reason(self, model: str, deployment: str, at_ns: int) -> str:
        """Why there is no price, "" if there is one."""
        schedule = self._deployments.get(deployment) or self._models.get(model)
        return "it is not configured" if schedule is None else schedule.reason(at_ns)

    def unpriced(self, at_ns: int) -> tuple[str, ...]:
        """The configured deployments that have no price at `at_ns`."""
        return tuple(id for id, schedule in self._deployments.items() if schedule.at(at_ns) is None)

    def _schedule(self, entries: Sequence[PriceEntry], path: str) -> Schedule:
        starts: dict[int, str] = {}
        for index, entry in enumerate(entries):
            place = join(join(path, index), "from")
            start = _start_ns(entry.valid_from, place)
            if start in starts:
                moment = f"on {entry.valid_from}" if entry.valid_from else "at the beginning"
                raise ConfigError(f"two entries start {moment}; keep one of them.", path=place)
            starts[start] = join(path, index)
        offers: dict[int, Offer] = {}
        ends = sorted(starts)
        for entry, (start, place) in zip(entries, starts.items(), strict=True):
            later = ends[ends.index(start) + 1 :]
            offers.update(self._offers(entry, start, later[0] if later else NEVER, place))
        return Schedule(
            {start: self._priced(offer) for start, offer in offers.items()},
            self._sources.announce,
        )

    def _offers(
        self, entry: PriceEntry, start: int, end: int, path: str
    ) -> Iterator[tuple[int, Offer]]:
        """What holds from when, in the time of `entry`: several where a catalogue has several."""
        changes = (entry.discount, entry.markup, path)
        if entry.cost is not None:
            currency = entry.currency or self._sources.currency
            yield start, Offer(entry.cost, entry.charge, entry.tiers, currency, *changes)
            return
        for found in sorted(self._listed(entry.catalogue, path), key=_begin):
            begins = max(start, _begin(found))
            if begins < end:
                offer = Offer(found.cost, entry.charge, found.tiers, found.currency, *changes)
                yield begins, offer

    def _listed(self, name: str, path: str) -> Sequence[CatalogueEntry]:
        if not name:
            raise ConfigError("needs `cost`, or `catalogue` with the name of an entry.", path=path)
        catalogue = self._sources.catalogue
        if name not in catalogue:
            hint = suggestion(name, catalogue) or "; `llmgw-server prices catalogue` lists them."
            if not catalogue:
                hint = ": no enabled plugin brings a catalogue of prices."
            message = f"no catalogue has a price `{name}`{hint}"
            raise ConfigError(message, path=join(path, "catalogue"))
        return catalogue[name]

    def _priced(self, offer: Offer) -> Price | Converted:
        """Raises `ConfigError` where the offer cannot be booked."""
        currency = self._sources.currency
        price = price_of(offer.sheets(currency))
        if offer.currency == currency:
            return price
        return Converted(offer, currency, self._sources.exchange)


def _start_ns(moment: Moment, path: str = "") -> int:
    try:
        found = starts_at(moment)
    except ValueError as error:
        raise ConfigError(str(error), path=path) from None
    whole = int(found.replace(microsecond=0).timestamp())
    return whole * _SECOND_NS + found.microsecond * 1000 if moment else -NEVER


def _begin(entry: CatalogueEntry) -> int:
    return _start_ns(entry.valid_from)
