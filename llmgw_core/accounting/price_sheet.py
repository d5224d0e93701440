"""A price sheet: what every class of tokens costs and is charged at, after everything has been
chosen (date, context tier, exchange rate, discount). It is what an old call is explained with.

Rates are nano-units per million tokens; those of a call and an image nano-units each. The id of a
sheet is derived from its content: equal prices have one id, and an id means one thing for ever.
Amounts of a class are exact numerators, in millionths of a nano-unit, and linear in the quantities:
those of sums are the sums of those of single calls.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

MILLION: Final = 10**6
"""Numerators of one nano-unit."""


class TokenClass(NamedTuple):
    """`column`: where its quantity stands in the sums of the books, the parts included that have a
    class of their own. `parent`: the class that it is a part of, "" if it is none."""

    name: str
    column: str
    parent: str


CLASSES: Final = (
    TokenClass("input", "input_tokens", ""),
    TokenClass("cached_input", "cached_input_tokens", "input"),
    TokenClass("cache_write", "cache_write_tokens", "input"),
    TokenClass("audio_input", "audio_input_tokens", "input"),
    TokenClass("image_input", "image_input_tokens", "input"),
    TokenClass("output", "output_tokens", ""),
    TokenClass("reasoning", "reasoning_tokens", "output"),
    TokenClass("audio_output", "audio_output_tokens", "output"),
    TokenClass("image_output", "image_output_tokens", "output"),
    TokenClass("accepted_prediction", "accepted_prediction_tokens", "output"),
    TokenClass("rejected_prediction", "rejected_prediction_tokens", "output"),
    TokenClass("image", "images", ""),
    TokenClass("call", "calls", ""),
)
"""Every class that can have a rate, in the order of statements."""
UNITS: Final = frozenset({"image", "call"})
"""Classes whose rate is for one, not for a million."""
PARTS: Final = {
    parent: tuple(each for each in CLASSES if each.parent == parent)
    for parent in ("input", "output")
}
"""The classes that are parts of another one."""


class ClassRates(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One side of a sheet: a rate for every class."""

    input: int
    cached_input: int
    cache_write: int
    audio_input: int
    image_input: int
    output: int
    reasoning: int
    audio_output: int
    image_output: int
    accepted_prediction: int
    rejected_prediction: int
    image: int
    call: int


class ClassAmount(NamedTuple):
    """What one class comes to. `quantity`: tokens, images or calls of this class alone, so that
    those of all classes add up. `cost` and `charge` are numerators: nano-units are a millionth of
    them, rounded as late as possible."""

    name: str
    quantity: int
    cost_rate: int
    charge_rate: int
    cost: int
    charge: int


class PriceSheet(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Both sides. `tier`: the calls that it is for have more input tokens than this; 0 for all that
    no higher tier is for. `exchange`: the currency that the provider bills in and the rate that it
    was converted at (`EUR 1.0845`), "" if there was nothing to convert."""

    currency: str
    cost: ClassRates
    charge: ClassRates
    tier: int = 0
    exchange: str = ""

    @property
    def id(self) -> str:
        """32 hexadecimal digits, the same for the same content."""
        return hashlib.sha256(self.json()).hexdigest()[:32]

    def json(self) -> bytes:
        """The sheet as it is stored; `read_sheet` reads it."""
        return msgspec.json.encode(self, order="sorted")

    def amounts_by_class(self, sums: Mapping[str, int]) -> list[ClassAmount]:
        """What the quantities `sums` (by column, as in the books; what is absent is 0) come to,
        class by class, without those of which there is nothing."""
        found = []
        for each in CLASSES:
            quantity = sums.get(each.column, 0) - sum(
                sums.get(part.column, 0) for part in PARTS.get(each.name, ())
            )
            if quantity:
                found.append(self._amount(each.name, quantity))
        return found

    def _amount(self, name: str, quantity: int) -> ClassAmount:
        cost, charge = getattr(self.cost, name), getattr(self.charge, name)
        factor = quantity * MILLION if name in UNITS else quantity
        return ClassAmount(name, quantity, cost, charge, cost * factor, charge * factor)


read_sheet = msgspec.json.Decoder(PriceSheet).decode
"""A stored sheet. Raises `msgspec.DecodeError`."""


def rounded(numerator: int) -> int:
    """Nano-units of an exact amount, half to even."""
    units, rest = divmod(numerator, MILLION)
    if rest * 2 > MILLION or (rest * 2 == MILLION and units & 1):
        units += 1
    return units
