"""The use cases of the brake: setting, removing, and lifting it for a while.

Every change is one transaction with its audit entry, and raises the version that caches watch. All
methods raise `TenancyError` (or its subclasses) with a sentence, and `StoreUnavailable`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmgw_core.domain.brake import NO_BRAKE, Brake
from llmgw_core.tenancy import brake_rules
from llmgw_core.tenancy.changes import set_columns
from llmgw_core.tenancy.errors import NotFound, TenancyError
from llmgw_core.tenancy.records import KEY, KINDS
from llmgw_core.tenancy.service import Tenancy
from llmgw_core.tenancy.use_cases import UseCases, level_row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmgw_core.tenancy.changes import Change
    from llmgw_core.tenancy.records import KeyInfo, Kind, LevelInfo

HOUR: Final = 3600.0
LONGEST_LIFT: Final = 86_400.0
"""Seconds: what is lifted for longer should be set otherwise."""


class Brakes(UseCases):
    """See the module."""

    async def set(
        self,
        kind: Kind[Any],
        reference: str,
        given: Mapping[str, Any],
        *,
        organization: str | None = None,
        actor: str,
    ) -> LevelInfo:
        """Set the fields of a level's brake that are `given`, and leave the rest."""
        if not given:
            raise TenancyError("Nothing to change was given.")
        async with self._change(actor) as doing:
            row, old = await _brake(doing, kind, reference, organization)
            wanted = msgspec.structs.replace(old, **given)
            info: LevelInfo = await _put(doing, kind, row, "brake", wanted)
        await self._apply()
        return info

    async def remove(
        self, kind: Kind[Any], reference: str, *, organization: str | None = None, actor: str
    ) -> LevelInfo:
        """Take the brake of a level away. Raises `NotFound` if it has none."""
        async with self._change(actor) as doing:
            row, old = await _brake(doing, kind, reference, organization)
            if old == NO_BRAKE:
                raise NotFound(f"The {kind.word} has no brake of its own.")
            info: LevelInfo = await _put(doing, kind, row, "brake", NO_BRAKE)
        await self._apply()
        return info

    async def lift(
        self,
        reference: str,
        *,
        seconds: float = HOUR,
        organization: str | None = None,
        actor: str,
    ) -> tuple[KeyInfo, float]:
        """For so many seconds the velocity of a key refuses nothing, and what it spends becomes
        usual; 0 takes that back. Returns until when (seconds since the epoch)."""
        if not 0 <= seconds <= LONGEST_LIFT:  # also what is no number
            raise TenancyError(f"Velocity is lifted for 0 to {LONGEST_LIFT:.0f} seconds.")
        async with self._change(actor) as doing:
            until = doing.now + seconds
            row, old = await _brake(doing, KEY, reference, organization)
            lifted = msgspec.structs.replace(old, lifted_until=until if seconds else None)
            info = await _put(doing, KEY, row, "lift", lifted)
        await self._apply()
        return info, until

    async def find_all(self) -> list[tuple[Kind[Any], LevelInfo]]:
        """The levels that have a brake of their own."""
        tenancy = Tenancy(self._store)
        return [
            (kind, info)
            for kind in KINDS.values()
            for info in await tenancy.find_all(kind)
            if info.brake != NO_BRAKE
        ]


async def _brake(
    doing: Change, kind: Kind[Any], reference: str, organization: str | None
) -> tuple[dict[str, Any], Brake]:
    row = await level_row(doing, kind, reference, organization)
    return row, msgspec.convert(row["brake"] or {}, Brake)


async def _put(
    doing: Change, kind: Kind[Any], row: dict[str, Any], action: str, brake: Brake
) -> Any:
    return await set_columns(doing, kind, row, action, {"brake": brake_rules.brake(brake)})
