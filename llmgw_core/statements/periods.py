"""Calendar months of a time zone as exact spans of time. Pure.

A month is as long as its zone makes it: March in Berlin has 743 hours, October 745.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from llmgw_core.statements.errors import StatementError

if TYPE_CHECKING:
    from collections.abc import Iterable

HOUR_NS: Final = 3_600 * 10**9
_SECOND_NS: Final = 10**9
_MONTH: Final = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])")


class Period(NamedTuple):
    """From `start_ns` until before `end_ns` (nanoseconds since the epoch)."""

    name: str
    timezone: str
    start_ns: int
    end_ns: int

    @property
    def hours(self) -> str:
        """Its length in hours, as a decimal number."""
        whole, rest = divmod(self.end_ns - self.start_ns, HOUR_NS)
        return str(whole) if not rest else f"{whole + rest / HOUR_NS:g}"

    @property
    def begin(self) -> str:
        """The first moment, with its offset from UTC."""
        return _iso(self.start_ns, self.timezone)

    @property
    def end(self) -> str:
        """The first moment behind it, likewise."""
        return _iso(self.end_ns, self.timezone)


class Standing(NamedTuple):
    """A statement that there is, as far as others have to fit to it."""

    scope: str
    period: Period
    state: str


def month(name: str, timezone: str) -> Period:
    """The month `YYYY-MM` of a time zone. Raises `StatementError`."""
    found = _MONTH.fullmatch(name)
    if found is None or not 1970 < int(found[1]) < 9999:
        raise StatementError(f"'{name[:20]}' is no month; write it like 2026-10.")
    year, number = int(found[1]), int(found[2])
    after = (year + 1, 1) if number == 12 else (year, number + 1)
    zone = _zone(timezone)
    return Period(
        name,
        timezone,
        midnight_ns(dt.date(year, number, 1), zone),
        midnight_ns(dt.date(*after, 1), zone),
    )


def midnight_ns(day: dt.date, zone: ZoneInfo | str) -> int:
    """The beginning of a day. Raises `StatementError` for a zone that is none."""
    where = _zone(zone) if isinstance(zone, str) else zone
    return int(dt.datetime.combine(day, dt.time(), where).timestamp()) * _SECOND_NS


def fit(period: Period, scope: str, standing: Iterable[Standing]) -> None:
    """Raise `StatementError` unless `period` stands beside the statements that there are without
    an overlap or a gap, so that every call is billed once."""
    others = [each for each in standing if (each.scope, each.period) != (scope, period)]
    for each in others:
        other = each.period
        if each.scope != scope and "" not in (each.scope, scope):
            continue
        if period.start_ns < other.end_ns and other.start_ns < period.end_ns:
            raise StatementError(_overlap(period, scope, each))
    own = [each.period for each in others if each.scope == scope]
    if not own or any(
        period.start_ns == other.end_ns or period.end_ns == other.start_ns for other in own
    ):
        return
    nearest = min(own, key=lambda other: abs(other.start_ns - period.start_ns))
    if nearest.timezone != period.timezone:
        raise StatementError(
            f"{period.name} of {period.timezone} begins {period.begin}, and there would be a gap"
            f" beside {nearest.name} of {nearest.timezone}, which lasts from {nearest.begin} until"
            f" {nearest.end}: calls in between would be billed by nobody. Use the same time zone."
        )
    raise StatementError(
        f"There is a statement of {nearest.name}, and none of the months between it and"
        f" {period.name}: make them one after the other."
    )


def _overlap(period: Period, scope: str, each: Standing) -> str:
    other = each.period
    if each.scope != scope:
        whose = "an organisation" if each.scope else "everybody"
        return (
            f"There is a statement of {whose} of {other.name} ({other.timezone}): the same calls"
            " would be billed twice."
        )
    if other.timezone != period.timezone:
        return (
            f"{period.name} of {period.timezone} and {other.name} of {other.timezone} overlap:"
            " calls in between would be billed twice. Use the same time zone."
        )
    return f"There is a statement of {other.name} already."


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise StatementError(
            f"'{name[:60]}' is no time zone that this machine knows; write one like Europe/Berlin."
        ) from None


def _iso(instant_ns: int, timezone: str) -> str:
    moment = dt.datetime.fromtimestamp(instant_ns // _SECOND_NS, _zone(timezone))
    return moment.isoformat(timespec="minutes")
