"""Who pays inside a company: the cost centres that hold for one caller, and when.

A caller carries its whole calendar, the future included, so that a change that was dated in
advance holds from its instant on, however old the cached caller is. Instants are nanoseconds since
the epoch.
"""

from __future__ import annotations

from typing import Final

import msgspec

FOREVER: Final = 2**63 - 1
"""The end of what has no end."""


class CostSpan(msgspec.Struct, frozen=True, array_like=True):
    """The cost centre with the internal id `id` holds from `since_ns` until before `until_ns`."""

    since_ns: int
    until_ns: int
    id: str


class CostChoice(msgspec.Struct, frozen=True, array_like=True):
    """A caller may choose the cost centre with this code in that time."""

    code: str
    since_ns: int
    until_ns: int
    id: str


class CostCenters(msgspec.Struct, frozen=True):
    """The calendar of one caller: `spans` do not overlap and are in their order; `choices` are what
    a header may name. A code that a caller has by its calendar may be named as well."""

    spans: tuple[CostSpan, ...] = ()
    choices: tuple[CostChoice, ...] = ()
    codes: tuple[tuple[str, str], ...] = ()
    """Id and code of everything in `spans`."""

    def at(self, at_ns: int) -> str:
        """The id of the one that holds at that instant; "" if there is none."""
        for span in self.spans:
            if at_ns < span.until_ns:
                return span.id if at_ns >= span.since_ns else ""
        return ""

    def chosen(self, code: str, at_ns: int) -> str:
        """The id of the one with `code`, if the caller may choose it at that instant, else ""."""
        for choice in self.choices:
            if choice.code == code and choice.since_ns <= at_ns < choice.until_ns:
                return choice.id
        held = self.at(at_ns)
        return held if held and (held, code) in self.codes else ""

    @classmethod
    def always(cls, id: str) -> CostCenters:
        """One that holds at all times."""
        return cls((CostSpan(-FOREVER, FOREVER, id),))
