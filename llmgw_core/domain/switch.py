"""An emergency switch: what an operator has taken out of service, or sent elsewhere, for now."""

from __future__ import annotations

import datetime as dt
from typing import Literal

import msgspec

SwitchKind = Literal["deployment", "model", "team", "plugin", "route"]
"""`deployment`, `model`, `team`, `plugin`: it is off. `route`: calls for a model go to another."""


class Switch(msgspec.Struct, frozen=True, kw_only=True):
    """One switch. `name` is what is switched: the id of a deployment (`MODEL/NAME`), a public name
    of a model, the id of a team, the name of a plugin; `target` is where a route leads.

    Times are seconds since the epoch; `expires_at` None: until somebody takes it back. `cut`:
    calls that were running when it came into force were ended as well. `id` grows with every
    change, so that one that replaces another is told apart from it. `label` is the name of a team.
    """

    id: int
    kind: SwitchKind
    name: str
    target: str = ""
    reason: str
    actor: str
    since: float
    expires_at: float | None = None
    cut: bool = False
    label: str = ""

    def holds(self, now: float) -> bool:
        """Whether it is in force at `now`."""
        return self.expires_at is None or now < self.expires_at

    def retry_after(self, now: float) -> float | None:
        """Seconds until it expires, if it does."""
        return None if self.expires_at is None else max(0.0, self.expires_at - now)

    def subject(self) -> str:
        """What is switched, for operators."""
        if self.kind == "route":
            return f"model {self.name}"
        return f"{self.kind} {self.label or self.name}"

    def sentence(self) -> str:
        """What is so, until when and why, for operators."""
        what = f"routed to {self.target}" if self.kind == "route" else "switched off"
        until = ""
        if self.expires_at is not None:
            moment = dt.datetime.fromtimestamp(self.expires_at, dt.UTC)
            until = f" until {moment:%Y-%m-%d %H:%M:%S}Z"
        return f"{what}{until}: {self.reason}"
