"""How long an upstream asks to be left alone, in whatever form it says so.

The plainest statement goes first: `retry-after-ms`, `retry-after` (seconds or an HTTP date,
RFC 9110 section 10.2.3), then the reset times of rate limits as OpenAI and others send them:
durations (`120ms`, `1s`, `6m0s`), plain seconds, or seconds or milliseconds since the epoch.
"""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llmgw_core.domain.call import Headers

LONGEST: Final = 366 * 86_400.0
"""Seconds; whatever asks for more is not understood rather than believed."""
_EPOCH: Final = 1e9
"""Numbers from here on are moments and not lengths of time: a length of 31 years is none."""
_EPOCH_MS: Final = 1e12
_NUMBER: Final = re.compile(r"\d{1,15}(?:\.\d{1,9})?")
_PART: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|us|µs|ns|d|h|m|s)")
_SECONDS: Final = {
    "d": 86_400.0,
    "h": 3600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "ns": 1e-9,
}
_METERS: Final = ("requests", "tokens")


def waiting_time(headers: Headers, now: float, *, resets: bool = False) -> float | None:
    """Seconds to wait from `now` (seconds since the epoch), 0 if the moment has passed; None when
    the reply does not say. `resets`: the reply says that a limit is reached, so that the times at
    which limits are reset count, too."""
    fields = _texts(headers)
    after = _number(fields.get("retry-after-ms", ""))
    if after is not None:
        return _believed(after / 1000.0)
    text = fields.get("retry-after", "")
    after = _number(text)
    if after is None and text:
        after = _until(text, now)
    elif after is not None and after >= _EPOCH:
        after = _from_epoch(after, now)
    if after is not None:
        return _believed(after)
    return _reset(fields, now) if resets else None


def duration(text: str) -> float | None:
    """Seconds in `text`: `120ms`, `1s`, `6m0s`, `1h2m3.5s`; None if it is none of that."""
    seconds, position = 0.0, 0
    for part in _PART.finditer(text):
        if part.start() != position:
            return None
        seconds += float(part[1]) * _SECONDS[part[2]]
        position = part.end()
    return seconds if position and position == len(text) else None


def _reset(fields: dict[str, str], now: float) -> float | None:
    """The latest reset among the limits that are used up; when none is said to be, the earliest
    of all, since whatever is waited in vain is lost and asking again costs little."""
    times: dict[str, float] = {}
    for meter in _METERS:
        time = _moment(fields.get(f"x-ratelimit-reset-{meter}", ""), now)
        if time is not None:
            times[meter] = time
    if not times:
        return _moment(fields.get("x-ratelimit-reset", ""), now)
    spent = [times[m] for m in times if _spent(fields.get(f"x-ratelimit-remaining-{m}", ""))]
    return max(spent) if spent else min(times.values())


def _moment(text: str, now: float) -> float | None:
    """Seconds from now until a reset."""
    seconds = _number(text)
    if seconds is None:
        seconds = duration(text)
    elif seconds >= _EPOCH:
        seconds = _from_epoch(seconds, now)
    return None if seconds is None else _believed(seconds)


def _from_epoch(number: float, now: float) -> float:
    moment = number / 1000.0 if number >= _EPOCH_MS else number
    return max(0.0, moment - now)


def _spent(remaining: str) -> bool:
    number = _number(remaining)
    return number is not None and number < 1


def _until(text: str, now: float) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError):
        return duration(text)
    try:
        return max(0.0, moment.timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _believed(seconds: float) -> float | None:
    return seconds if seconds <= LONGEST else None


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) else None


def _texts(headers: Headers) -> dict[str, str]:
    """The fields that matter, the first of each name."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name.startswith((b"retry-after", b"x-ratelimit-re")):
            found.setdefault(name.decode("latin-1"), value.decode("latin-1").strip())
    return found
