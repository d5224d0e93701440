"""The life of a public name: preview, active, deprecated, retired.

The dates are those of the announcement (RFC 9745 `Deprecation`, RFC 8594 `Sunset`); what the
gateway does follows from `state` alone, so that no model disappears because a day has come.
"""

from __future__ import annotations

import datetime  # noqa: ICN001, TC003 -- msgspec reads the annotations at run time
from typing import Literal

import msgspec

State = Literal["preview", "active", "deprecated", "retired"]


class Life(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`deprecated` and `sunset`: the days (UTC) from which on the name should not be used any
    more, and on which it will go. `successor`: the public name to use instead. `link`: a page
    about it."""

    state: State = "active"
    deprecated: datetime.date | None = None
    sunset: datetime.date | None = None
    successor: str = ""
    link: str = ""


ACTIVE = Life()
