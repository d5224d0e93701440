"""The use cases of the brake: setting, removing, and lifting it for a while.

Every change is one transaction with its audit entry, and raises the version that caches watch. All
methods raise `TenancyError` (or its subclasses) with a sentence, and `StoreUnavailable`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmgw_core.domain.brake import NO_BRAKE, Brake
from llmgw_core.tenancy import brake_rules
from llmgw_core.tenancy.changes import change, set_columns
from llmgw_core.tenancy.errors import NotFound, TenancyError
from llmgw_core.tenancy.records import KEY, KINDS
from llmgw_core.tenancy.references import find, organization_id
from llmgw_core.tenancy.service import Tenancy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from llmgw_core.store.engine import Store
    from llmgw_core.tenancy.changes import Change
    from llmgw_core.tenancy.records import AuditEntry, KeyInfo, Kind, LevelInfo

HOUR: Final = 3600.0
LONGEST_LIFT: Final = 86_400.0
"""Seconds: what is lifted for longer should be set otherwise."""


class Brakes:
    """See the module. `clock` gives seconds since the epoch; `changed` is called with the audit
    entry of every change that is in the database, and then `applied` is awaited, which brings it
    into force in this process."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float] = time.time,
        changed: Callable[[AuditEntry], None] | None = None,
        applied: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._changed = changed
        self._applied = applied

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
        async with self._doing(actor) as doing:
            row, old = await _brake(doing, kind, reference, organization)
            wanted = msgspec.structs.replace(old, **given)
            info: LevelInfo = await _put(doing, kind, row, "brake", wanted)
        await self._apply()
        return info

    async def remove(
        self, kind: Kind[Any], reference: str, *, organization: str | None = None, actor: str
    ) -> LevelInfo:
        """Take the brake of a level away. Raises `NotFound` if it has none."""
        async with self._doing(actor) as doing:
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
        async with self._doing(actor) as doing:
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

    def _doing(self, actor: str) -> Any:
        return change(self._store, actor, self._clock(), self._changed)

    async def _apply(self) -> None:
        if self._applied is not None:
            await self._applied()


async def _brake(
    doing: Change, kind: Kind[Any], reference: str, organization: str | None
) -> tuple[dict[str, Any], Brake]:
    inside = await organization_id(doing.connection, organization)
    row = await find(doing.connection, kind, reference, inside)
    return row, msgspec.convert(row["brake"] or {}, Brake)


async def _put(
    doing: Change, kind: Kind[Any], row: dict[str, Any], action: str, brake: Brake
) -> Any:
    return await set_columns(doing, kind, row, action, {"brake": brake_rules.brake(brake)})
