"""How far a loop may go before it is stopped: bounds of a key and of a session. Values only;
`limits` counts, and makes one of several levels' brakes: of every bound the tightest holds.
"""

from __future__ import annotations

import msgspec


class Brake(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one level asks for, for each key below it and each session of such a key. `None` = no
    bound of its own.

    The calls of a key, and those of a session, are a *run* as long as no pause between them is too
    long. Of each run, `..._money` (nano-units of what tenants are charged), `..._calls` and
    `..._seconds` (from its first call) are bounds, and `..._repeats` is how many identical requests
    may come one after the other. `velocity_floor` (nano-units) has the spending of the last ten
    minutes compared with the key's own history: refused is beyond `velocity_factor` times that, and
    never below the floor. `shadow`: names of bounds that are counted and reported, and never
    refuse. `lifted_until` (seconds since the epoch), of a key: until then velocity refuses nothing.
    """

    session_money: int | None = None
    session_calls: int | None = None
    session_seconds: float | None = None
    session_repeats: int | None = None
    key_money: int | None = None
    key_calls: int | None = None
    key_seconds: float | None = None
    key_repeats: int | None = None
    velocity_floor: int | None = None
    velocity_factor: float = 10.0
    shadow: tuple[str, ...] = ()
    lifted_until: float | None = None


NO_BRAKE = Brake()
