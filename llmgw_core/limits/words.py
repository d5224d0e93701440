"""Meters in words, for messages to callers and operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmgw_core.limits.port import MeterSpec, MeterState

_PERIODS = {60.0: "minute", 3600.0: "hour", 86_400.0: "day"}


def amount(spec: MeterSpec) -> str:
    """`100 requests per minute`, `5000 input tokens per day`, `8 calls at the same time`."""
    return f"{spec.limit} {unit(spec)}"


def unit(spec: MeterSpec) -> str:
    """The same without the number."""
    if spec.unit == "parallel":
        return "calls at the same time"
    what: str = spec.unit
    if spec.kind != "all":
        what = f"{spec.kind} {what}"
    seconds = f"{spec.window:g} seconds"
    return f"{what} per {_PERIODS.get(spec.window, seconds)}"


def owner(spec: MeterSpec) -> str:
    """`team`, `key on the model gpt-4o`: whose limit it is, as callers may know it."""
    return f"{spec.scope} on the model {spec.model}" if spec.model else spec.scope


def left(spec: MeterSpec, state: MeterState) -> str:
    """`41 of 60 requests per minute are left to the team`, for operators."""
    burst = f", and {spec.capacity} at once" if spec.shape == "bucket" else ""
    how = " (in shadow mode: it refuses nobody)" if spec.shadow else ""
    return f"{state.remaining} of {amount(spec)}{burst} are left to the {owner(spec)}{how}"
