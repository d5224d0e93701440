"""LiteLLM's public price map (`model_prices_and_context_window.json`) as prices of a configuration.

The map has dollars per token, mostly as floats. A float is taken for the decimal number that it is
written as, so that 2.5e-06 becomes exactly 2.5 per million tokens. Pure.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PER_MILLION: Final = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "audio_input",
    "output_cost_per_audio_token": "audio_output",
    "input_cost_per_image_token": "image_input",
    "output_cost_per_image_token": "image_output",
}
EACH: Final = {"input_cost_per_image": "image", "input_cost_per_request": "call"}
DECIMALS: Final = 9
"""The finest price that can be booked."""
_ABOVE: Final = re.compile(r"(.+)_above_(\d+)k_tokens")
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_EXAMPLE: Final = "sample_spec"

Prices = dict[str, Decimal]


class Imported(msgspec.Struct):
    """The prices of one entry of the map. `tiers` by more than how many tokens; `left_out` are
    costs that prices of a configuration cannot say, `rounded` those that were too fine."""

    model: str
    cost: Prices = {}
    tiers: dict[int, Prices] = {}
    left_out: list[str] = []
    rounded: list[str] = []


def read_map(text: str) -> dict[str, Any]:
    """The map. Raises `ValueError` with a sentence."""
    try:
        found = json.loads(text, parse_float=_shortest)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON.") from None
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        raise ValueError("it is no mapping of model names to what is known of them.")
    return found


def _shortest(text: str) -> Decimal:
    """The shortest decimal number that is the same float."""
    return Decimal(repr(float(text)))


def imported(found: Mapping[str, Any], globs: Sequence[str]) -> list[Imported]:
    """The entries whose names fit one of `globs` (all, if there is none), by name. Entries without
    any price that can be taken have no `cost`."""
    names = [
        name
        for name in sorted(found)
        if name != _EXAMPLE and (not globs or any(fnmatchcase(name, glob) for glob in globs))
    ]
    return [_entry(name, found[name]) for name in names]


def _entry(name: str, said: Mapping[str, Any]) -> Imported:
    entry = Imported(name)
    for key, value in said.items():
        if "cost" not in key or value is None:
            continue
        above = _ABOVE.fullmatch(key)
        plain = above[1] if above else key
        amount = _amount(value)
        if (plain not in PER_MILLION and (above or plain not in EACH)) or amount is None:
            entry.left_out.append(key)
            continue
        price = amount * 10**6 if plain in PER_MILLION else amount
        if price != (fine := round(price, DECIMALS)):
            entry.rounded.append(key)
            price = fine
        if above:
            entry.tiers.setdefault(int(above[2]) * 1000, {})[PER_MILLION[plain]] = price
        else:
            entry.cost[PER_MILLION.get(plain) or EACH[plain]] = price
    return entry


def _amount(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        return None
    try:
        amount = Decimal(value)
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and 0 <= amount < 10**9 else None


def as_yaml(entries: Sequence[Imported], since: str = "") -> str:
    """`prices` for the section `models` of a configuration, by model."""
    return "".join(f"{line}\n" for entry in entries for line in _lines(entry, since))


def _lines(entry: Imported, since: str) -> Iterator[str]:
    yield f"{_key(entry.model)}:"
    yield "  prices:"
    yield f"    - from: {since}" if since else "    - currency: USD"
    if since:
        yield "      currency: USD"
    yield f"      cost: {_mapping(entry.cost)}"
    if entry.tiers:
        yield "      tiers:"
    for above, prices in sorted(entry.tiers.items()):
        yield f"        - {{above: {above}, cost: {_mapping(prices)}}}"


def _mapping(prices: Prices) -> str:
    shown = (f"{name}: {price.normalize():f}" for name, price in prices.items())
    return "{" + ", ".join(shown) + "}"


def _key(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else json.dumps(name)
