"""Which rows of the ledger somebody wants to see, as conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from sqlalchemy import or_

from llmgw_core.store.ledger_tables import ledger

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

_EXACT: Final = ("organization_id", "team_id", "user_id", "key_id", "status", "parent")


class CallFilter(msgspec.Struct, frozen=True):
    """What is given must be so; ids are internal ones. `model`: as it was asked for, or as it
    answered. `deployment`: one of the attempts was on it. `unsuccessful`: everything that was not
    completed. `longer_us`: took at least so many microseconds. `since_ns`, `until_ns`: began at or
    after, and before, these nanoseconds since the epoch."""

    organization_id: str = ""
    team_id: str = ""
    user_id: str = ""
    key_id: str = ""
    status: str = ""
    parent: str = ""
    model: str = ""
    deployment: str = ""
    unsuccessful: bool = False
    longer_us: int = 0
    since_ns: int = 0
    until_ns: int = 0


EVERYTHING: Final = CallFilter()


def conditions(wanted: CallFilter) -> list[ColumnElement[bool]]:
    """What a row must fulfil."""
    found: list[ColumnElement[bool]] = [
        ledger.c[name] == value for name in _EXACT if (value := getattr(wanted, name))
    ]
    if wanted.model:
        found.append(or_(ledger.c.model == wanted.model, ledger.c.served_model == wanted.model))
    if wanted.deployment:
        # The first field of an attempt is its deployment, as a JSON text.
        quoted = msgspec.json.encode(wanted.deployment).decode()
        found.append(ledger.c.attempts.contains("[" + quoted + ",", autoescape=True))
    if wanted.unsuccessful:
        found.append(ledger.c.status != "completed")
    if wanted.longer_us:
        found.append(ledger.c.duration_us >= wanted.longer_us)
    if wanted.since_ns:
        found.append(ledger.c.started_ns >= wanted.since_ns)
    if wanted.until_ns:
        found.append(ledger.c.started_ns < wanted.until_ns)
    return found
