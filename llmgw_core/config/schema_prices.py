"""The typed prices of models and deployments, and what a catalogue of prices has."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import msgspec

if TYPE_CHECKING:
    Moment = dt.date | str
    """A date, which is its start in UTC, or a date and time with zone; "" is since ever."""
else:
    # In a file it is text, and msgspec cannot tell a date from a date with time.
    Moment = Annotated[
        str,
        msgspec.Meta(extra_json_schema={"pattern": r"^([0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].*)?)?$"}),
    ]


class TokenPrices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Amounts in whole units of a currency: `call` per call, `image` per image in a request, all
    others per million tokens. A class that has no price of its own costs what it is a part of:
    `cached_input`, `cache_write`, `audio_input` and `image_input` what `input` does, `reasoning`,
    `audio_output`, `image_output`, `accepted_prediction` and `rejected_prediction` what `output`
    does. The price of `audio_input` is for audio that was not read from a cache."""

    input: Decimal = Decimal(0)
    output: Decimal = Decimal(0)
    cached_input: Decimal | None = None
    call: Decimal = Decimal(0)
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None
    audio_input: Decimal | None = None
    audio_output: Decimal | None = None
    image_input: Decimal | None = None
    image_output: Decimal | None = None
    accepted_prediction: Decimal | None = None
    rejected_prediction: Decimal | None = None
    image: Decimal = Decimal(0)


class TierPrices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What differs from the prices of the entry for calls of this tier. Classes as in the
    entry."""

    input: Decimal | None = None
    output: Decimal | None = None
    cached_input: Decimal | None = None
    call: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None
    audio_input: Decimal | None = None
    audio_output: Decimal | None = None
    image_input: Decimal | None = None
    image_output: Decimal | None = None
    accepted_prediction: Decimal | None = None
    rejected_prediction: Decimal | None = None
    image: Decimal | None = None


class PriceTier(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Calls with more than `above` input tokens, cached ones included, are priced by this tier as
    a whole. `cost` and `charge` say what differs from those of the entry."""

    above: int
    cost: TierPrices = TierPrices()
    charge: TierPrices | None = None


class PriceEntry(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"valid_from": "from"}
):
    """Prices that hold from `from` until the next entry; a call has the price of the time when it
    started. `from` is a date (its start in UTC) or a date and time with zone
    (`2026-03-01T00:00:00+01:00`); without it the entry holds since ever.

    `cost` is what the provider bills, in `currency` (default: the installation's; another one
    needs `accounting.exchange_rates`). In its place `catalogue` names an entry of a price
    catalogue, which a plugin brings. `discount` is taken off the cost, in percent. `charge` is what
    tenants pay, in the installation's currency; without it they pay the cost, changed by `markup`
    in percent. `tiers`, by growing `above`, are for longer calls."""

    valid_from: Moment = ""
    cost: TokenPrices | None = None
    charge: TokenPrices | None = None
    catalogue: str = ""
    currency: str = ""
    discount: Decimal = Decimal(0)
    markup: Decimal = Decimal(0)
    tiers: tuple[PriceTier, ...] = ()


class CatalogueEntry(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"valid_from": "from"}
):
    """A price as a provider publishes it: on the page `source`, as seen on the day `seen`. What
    else, as in `PriceEntry`."""

    cost: TokenPrices
    source: str
    seen: dt.date
    currency: str = "USD"
    valid_from: Moment = ""
    tiers: tuple[PriceTier, ...] = ()


def starts_at(moment: Moment) -> dt.datetime:
    """The instant at which an entry begins. Raises `ValueError` with a sentence."""
    if not moment:
        return dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    text = moment if isinstance(moment, str) else moment.isoformat()
    try:
        if len(text) == len("2026-01-01"):
            day = dt.date.fromisoformat(text)
            return dt.datetime.combine(day, dt.time(), dt.UTC)
        found = dt.datetime.fromisoformat(text)
        utc = found.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        message = (
            "is neither a date (2026-03-01, from its start in UTC)"
            " nor a date and time with zone (2026-03-01T00:00:00+01:00)."
        )
        raise ValueError(message) from None
    if found.tzinfo is None:
        raise ValueError("has a time without a zone; add one, e.g. `+01:00` or `Z`.")
    return utc
