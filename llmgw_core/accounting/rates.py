"""What a usage is worth at given rates, in integers from end to end.

An amount is a number of nano-units (1e-9 of the currency). One amount is one sum of products,
divided by a million and rounded once (half to even). Nothing here knows what a float is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from llmgw_core.accounting.price_sheet import CLASSES, MILLION, PARTS
from llmgw_core.domain.usage import Usage, UsageDetails

if TYPE_CHECKING:
    from llmgw_core.accounting.price_sheet import ClassRates

MAX_AMOUNT: Final = 10**18
"""The largest amount of one attempt in nano-units. An upstream that reports absurd numbers of
tokens must not produce an amount that cannot be written down."""

_INPUT_PARTS: Final = ("cache_write_tokens", "audio_input_tokens", "image_input_tokens")
_MEDIA: Final = frozenset(("audio_input", "image_input"))
_OUTPUT_PARTS: Final = (
    "audio_output_tokens",
    "image_output_tokens",
    "accepted_prediction_tokens",
    "rejected_prediction_tokens",
)


class Rates:
    """One side of a price, of which only input, cached input, output and the call have prices of
    their own: the usual case."""

    __slots__ = ("cached", "call", "input", "output")

    def __init__(self, rates: ClassRates) -> None:
        self.input = rates.input
        self.output = rates.output
        self.cached = rates.cached_input
        self.call = rates.call

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


class DetailedRates(Rates):
    """One side of a price that has prices for rarer classes. A part is priced by what it costs
    more, or less, than what it is a part of."""

    __slots__ = ("_details", "_image", "_reasoning")

    def __init__(self, rates: ClassRates) -> None:
        super().__init__(rates)
        self._reasoning = rates.reasoning - rates.output
        self._image = rates.image
        self._details = tuple(
            (each.column, difference)
            for each in CLASSES
            if each.column in UsageDetails.__struct_fields__ and each.parent
            if (difference := getattr(rates, each.name) - getattr(rates, each.parent))
        )

    def amount(self, usage: Usage) -> int:
        """As that of `Rates`, for every class."""
        usage = capped(usage)
        total = usage.input_tokens * self.input + usage.output_tokens * self.output
        total += usage.cached_input_tokens * (self.cached - self.input)
        total += usage.reasoning_tokens * self._reasoning
        units = self.call
        details = usage.details
        if details is not None:
            units += details.images * self._image
            for column, difference in self._details:
                total += getattr(details, column) * difference
        whole, rest = divmod(total, MILLION)
        if rest > 500_000 or (rest == 500_000 and whole & 1):
            whole += 1
        return max(-MAX_AMOUNT, min(MAX_AMOUNT, whole + units))


def rates_of(rates: ClassRates) -> Rates:
    """The fastest arithmetic for `rates`."""
    ordinary = rates.image == 0 and all(
        getattr(rates, part.name) == getattr(rates, parent)
        for parent, parts in PARTS.items()
        for part in parts
        if part.name != "cached_input"
    )
    return Rates(rates) if ordinary else DetailedRates(rates)


def dearest(rates: ClassRates, *, media: bool) -> ClassRates:
    """`rates` with every token at the price of the dearest class that it may turn out to be of.
    `media`: the request has sounds or images; without them no input is theirs."""
    found: dict[str, int] = {}
    for parent, parts in PARTS.items():
        names = [parent, *(each.name for each in parts if media or each.name not in _MEDIA)]
        most = max(getattr(rates, name) for name in names)
        found |= dict.fromkeys((parent, *(each.name for each in parts)), most)
    return msgspec.structs.replace(rates, **found)


def odd(usage: Usage) -> bool:
    """Whether `usage` has to be looked at by `capped` before it is booked."""
    return (
        usage.details is not None
        or usage.cached_input_tokens > usage.input_tokens
        or usage.reasoning_tokens > usage.output_tokens
    )


def capped(usage: Usage) -> Usage:
    """`usage` with parts that are, all together, no more than what they are parts of: what a
    provider reports beyond that is a slip, and would be charged twice."""
    if not odd(usage):
        return usage
    left_in, left_out = usage.input_tokens, usage.output_tokens
    cached = _part(usage.cached_input_tokens, left_in)
    reasoning = _part(usage.reasoning_tokens, left_out)
    left_in, left_out = left_in - cached, left_out - reasoning
    details = usage.details
    if details is not None:
        parts = {"images": max(0, details.images)}
        for name in _INPUT_PARTS:
            parts[name] = _part(getattr(details, name), left_in)
            left_in -= parts[name]
        for name in _OUTPUT_PARTS:
            parts[name] = _part(getattr(details, name), left_out)
            left_out -= parts[name]
        details = UsageDetails(**parts)
    return Usage(
        usage.input_tokens,
        usage.output_tokens,
        cached,
        reasoning,
        usage.source,
        usage.method,
        details,
    )


def _part(tokens: int, room: int) -> int:
    return max(0, min(tokens, room))
