"""Which limits make sense: one set of rules for the configuration and for the tenancy.

Pure; every problem is the name of a field and the end of a sentence about it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmgw_core.domain.limits import Limits

LIMIT_NAMES = (
    "rpm",
    "tpm",
    "parallel",
    "rpd",
    "tpd",
    "input_tpm",
    "output_tpm",
    "input_tpd",
    "output_tpd",
)
"""The fields of `Limits` that are numbers of something."""
BY_THE_MINUTE = ("rpm", "tpm", "input_tpm", "output_tpm")
LARGEST = 10**15
LONGEST_BURST = 3600.0


def problems(limits: Limits) -> Iterator[tuple[str, str]]:
    """What cannot be meant."""
    for name in LIMIT_NAMES:
        value = getattr(limits, name)
        # A bool is an int to Python, but no number to anybody else.
        if value is not None and not (type(value) is int and 1 <= value <= LARGEST):
            yield name, f"is a whole number from 1 to {LARGEST}, or none"
    burst = limits.burst
    if burst is not None:
        if isinstance(burst, bool) or not math.isfinite(burst) or not 0 < burst <= LONGEST_BURST:
            yield "burst", f"is a number of seconds above 0, up to {LONGEST_BURST:g}"
        elif all(getattr(limits, name) is None for name in BY_THE_MINUTE):
            names = ", ".join(BY_THE_MINUTE)
            yield "burst", f"shapes limits by the minute, and there is none: set one of {names}"
    for name in limits.shadow:
        if name not in LIMIT_NAMES:
            yield "shadow", f"knows no `{name[:40]}`; limits are {', '.join(LIMIT_NAMES)}"
        elif getattr(limits, name) is None:
            yield "shadow", f"names {name}, which is not set: set it, or leave it out"
