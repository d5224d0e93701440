"""The typed section `brake`: what stops loops. Off unless a bound is set, here or at a level."""

from __future__ import annotations

from decimal import Decimal  # noqa: TC003 -- msgspec reads the annotations

import msgspec

from llmgw_core.domain.brake import Brake
from llmgw_core.domain.brake_rules import MONEY


class BrakeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What holds for every key and each of its sessions; levels may set tighter bounds. Money is in
    the installation's currency.

    The calls of a key, and those of a session, are a *run* until a pause of `idle_seconds`. Bounds
    of a run: `..._money`, `..._calls`, `..._seconds` from its first call, and `..._repeats`, the
    number of identical requests in a row. `velocity_floor` has the spending of the last ten minutes
    compared with the key's own history: more than `velocity_factor` times that is refused, but
    nothing below the floor. `shadow`: names of bounds that are counted and reported, and never
    refuse. `session_header` names the session; without it, the first messages do, of which
    `session_bytes` are looked at.
    """

    session_money: Decimal | None = None
    session_calls: int | None = None
    session_seconds: float | None = None
    session_repeats: int | None = None
    key_money: Decimal | None = None
    key_calls: int | None = None
    key_seconds: float | None = None
    key_repeats: int | None = None
    velocity_floor: Decimal | None = None
    velocity_factor: float = 10.0
    shadow: tuple[str, ...] = ()
    idle_seconds: float = 900.0
    session_header: str = "x-session-id"
    session_bytes: int = 16384


OWN = ("idle_seconds", "session_header", "session_bytes")
"""The fields that levels do not have."""


def brake_of(section: BrakeConfig) -> tuple[Brake, bytes, int]:
    """The section as the pipeline takes it: amounts in nano-units, the header in lower case."""
    fields = {name: getattr(section, name) for name in section.__struct_fields__ if name not in OWN}
    for name in MONEY:
        fields[name] = nano(fields[name])
    return (
        Brake(**fields),
        section.session_header.lower().encode("latin-1", "replace"),
        section.session_bytes,
    )


def nano(amount: Decimal | None) -> int | None:
    """Units of the currency as nano-units, rounded down; 0, which is no bound, for what is no
    amount."""
    if amount is None:
        return None
    return int(amount * 10**9) if amount.is_finite() and abs(amount) < 10**20 else 0
