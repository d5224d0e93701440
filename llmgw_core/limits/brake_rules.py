"""What brakes of several levels come to for one key: of every bound the tightest holds. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.domain.access import LevelKind
    from llmgw_core.domain.brake import Brake

Scope = Literal["key", "session"]
Bound = Literal["money", "calls", "seconds", "repeats", "velocity"]
_BOUNDS: tuple[Bound, ...] = ("money", "calls", "seconds", "repeats")


class Rule(NamedTuple):
    """One bound of a run. With `shadow` it never refuses."""

    bound: Bound
    limit: float
    shadow: bool


class Speed(NamedTuple):
    """Spending in ten minutes: `factor` times the history, at least `floor` nano-units."""

    floor: int
    factor: float
    shadow: bool


class BrakeRules(NamedTuple):
    """What holds for one caller: `owner` is the key, else the lowest level that there is."""

    owner: tuple[LevelKind, str]
    key: tuple[Rule, ...]
    session: tuple[Rule, ...]
    speeds: tuple[Speed, ...]
    lifted_until: float

    @property
    def counts_money(self) -> bool:
        """Whether somebody wants to know what a call may cost."""
        return bool(self.speeds) or any(each.bound == "money" for each in self.key + self.session)

    @property
    def compares(self) -> bool:
        """Whether somebody wants to know if two requests are the same."""
        return any(each.bound == "repeats" for each in self.key + self.session)


def rules_of(owner: tuple[LevelKind, str], brakes: Sequence[Brake]) -> BrakeRules | None:
    """The rules of all `brakes` together; None if there is nothing to watch."""
    key, session = _scope("key", brakes), _scope("session", brakes)
    speeds = tuple(
        dict.fromkeys(
            Speed(each.velocity_floor, each.velocity_factor, "velocity_floor" in each.shadow)
            for each in brakes
            if each.velocity_floor is not None
        )
    )
    if not key and not session and not speeds:
        return None
    lifted = max((each.lifted_until or 0.0 for each in brakes), default=0.0)
    return BrakeRules(owner, key, session, speeds, lifted)


def _scope(scope: Scope, brakes: Sequence[Brake]) -> tuple[Rule, ...]:
    found = []
    for bound in _BOUNDS:
        name = f"{scope}_{bound}"
        tightest: dict[bool, float] = {}
        for brake in brakes:
            limit = getattr(brake, name)
            if limit is not None:
                shadow = name in brake.shadow
                tightest[shadow] = min(limit, tightest.get(shadow, limit))
        found += [Rule(bound, limit, shadow) for shadow, limit in sorted(tightest.items())]
    return tuple(found)
