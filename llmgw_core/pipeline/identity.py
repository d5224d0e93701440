"""Ids of a call: its request id, and the W3C trace context that it takes part in.

Request ids begin with the time, so that they sort; trace context is read from and written to
`traceparent` (https://www.w3.org/TR/trace-context/, version 00).
"""

from __future__ import annotations

import random
import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmgw_core.domain.call import Call

_PARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")
_random = random.SystemRandom()
# One seed from the system per process; ids have to be unique, not secret.
_bits = random.Random(_random.getrandbits(256)).getrandbits  # noqa: S311 -- not a secret
_IDS_AT_ONCE = 64


def new_id(started_ns: int) -> str:
    """`req_` and 32 hexadecimal digits: 48 bits of milliseconds, 80 random ones."""
    return _beginning(started_ns // 1_000_000) + _next_digits()


@lru_cache(maxsize=8)
def _beginning(milliseconds: int) -> str:
    return f"req_{milliseconds:012x}"


def _digits() -> Iterator[str]:
    """80 random bits each time, in hexadecimal digits; to make those of many ids at once takes
    half the time."""
    size = 10 * _IDS_AT_ONCE
    while True:
        digits = _bits(8 * size).to_bytes(size, "little").hex()
        for start in range(0, 2 * size, 20):
            yield digits[start : start + 20]


_next_digits = _digits().__next__


def join_trace(call: Call, given: bytes) -> None:
    """Give `call` its place in the caller's trace, if `given` is a usable `traceparent`."""
    found = _PARENT.fullmatch(given)
    if found is not None and found[1].strip(b"0") and found[2].strip(b"0"):
        call.trace_id = found[1].decode()
        call.parent_span = found[2].decode()
