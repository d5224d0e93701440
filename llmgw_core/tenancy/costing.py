"""The use cases of cost centres: what there is, whose they are and when, who may choose which.

Every change is one transaction with its audit entry, and raises the version that caches of
principals watch. An assignment ends the one before it at its instant; what was is kept. The time of
closed statements is refused. All methods raise `TenancyError` (or its subclasses) with a sentence,
and `StoreUnavailable`.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType

from llmgw_core.access import keys
from llmgw_core.store import cost_queries as queries
from llmgw_core.store.statement_queries import closed_periods
from llmgw_core.tenancy import cost_rules, rules
from llmgw_core.tenancy.changes import Change, change
from llmgw_core.tenancy.cost_records import CostAssignment, CostCenterInfo, CostView
from llmgw_core.tenancy.errors import NotFound, TenancyError
from llmgw_core.tenancy.records import KINDS
from llmgw_core.tenancy.references import find, organization_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.store.engine import Store
    from llmgw_core.tenancy.cost_records import CostLevel
    from llmgw_core.tenancy.records import AuditEntry

_KIND = "cost_center"
_MOST_CHOICES = 100


class Costing:
    """See the module. `clock` gives seconds since the epoch, `randomness(n)` n random bytes;
    `changed` is called with the audit entry of every change that is in the database, and then
    `applied` is awaited, which brings it into force in this process."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float] = time.time,
        randomness: Callable[[int], bytes] = secrets.token_bytes,
        changed: Callable[[AuditEntry], None] | None = None,
        applied: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._randomness = randomness
        self._changed = changed
        self._applied = applied

    async def create(
        self,
        code: str,
        *,
        name: str = "",
        owner: str = "",
        valid_from_ns: int | None = None,
        valid_until_ns: int | None = None,
        actor: str,
    ) -> CostCenterInfo:
        """A new cost centre, valid at all times unless it says otherwise."""
        since = cost_rules.instant(valid_from_ns, 0)
        async with self._change(actor) as doing:
            values: dict[str, Any] = {
                "code": cost_rules.code(code),
                "name": rules.name(name or code),
                "owner": cost_rules.owner(owner),
                "valid_from_ns": since,
                "valid_until_ns": cost_rules.end(valid_until_ns, since),
            }
            number = int.from_bytes(self._randomness(16), "big")
            row: dict[str, Any] = {
                "id": f"cc_{keys.base62(number, 22)}",
                **values,
                "created_ns": _ns(doing.now),
            }
            await queries.add_center(doing.connection, row)
            await doing.record("create", _KIND, row["id"], values)
        await self._apply()
        return CostCenterInfo(**row)

    async def update(
        self,
        reference: str,
        *,
        code: str | UnsetType = UNSET,
        name: str | UnsetType = UNSET,
        owner: str | UnsetType = UNSET,
        valid_from_ns: int | UnsetType | None = UNSET,
        valid_until_ns: int | UnsetType | None = UNSET,
        actor: str,
    ) -> CostCenterInfo:
        """Set what is given. When it is valid decides about calls from now on; what is on the
        books stays there."""
        async with self._change(actor) as doing:
            row = await _center(doing.connection, reference)
            values: dict[str, Any] = {}
            if code is not UNSET:
                values["code"] = cost_rules.code(code)
            if name is not UNSET:
                values["name"] = rules.name(name)
            if owner is not UNSET:
                values["owner"] = cost_rules.owner(owner)
            if valid_from_ns is not UNSET:
                values["valid_from_ns"] = cost_rules.instant(valid_from_ns, 0)
            if valid_until_ns is not UNSET:
                values["valid_until_ns"] = valid_until_ns
            if not values:
                raise TenancyError("Nothing to change was given.")
            after = {**row, **values}
            cost_rules.end(after["valid_until_ns"], after["valid_from_ns"])
            await queries.change_center(doing.connection, row["id"], values)
            before = {field: row[field] for field in values}
            await doing.record("update", _KIND, row["id"], {**values, "before": before})
        await self._apply()
        return CostCenterInfo(**after)

    async def find_all(self) -> list[CostCenterInfo]:
        """Every cost centre, by code."""
        async with self._store.connect() as connection:
            return [CostCenterInfo(**row) for row in await queries.all_centers(connection)]

    async def get(self, reference: str) -> CostCenterInfo:
        """One, by code or id."""
        async with self._store.connect() as connection:
            return CostCenterInfo(**await _center(connection, reference))

    async def assigned(self, reference: str | None = None) -> list[CostAssignment]:
        """Who has the cost centre, or any, and when."""
        async with self._store.connect() as connection:
            id = None if reference is None else (await _center(connection, reference))["id"]
            return _assignments(await queries.assignments(connection, center_id=id))

    async def view(
        self, level: CostLevel, reference: str, *, organization: str | None = None
    ) -> CostView:
        """What is said of one organisation, team or key."""
        async with self._store.connect() as connection:
            owner = await _owner(connection, level, reference, organization)
            codes = {row["id"]: row["code"] for row in await queries.all_centers(connection)}
            return CostView(
                level=level,
                object_id=owner[1],
                assignments=tuple(_assignments(await queries.assignments(connection, owner))),
                choices=tuple(sorted(codes[id] for id in await queries.choices(connection, owner))),
            )

    async def assign(
        self,
        reference: str,
        level: CostLevel,
        whose: str,
        *,
        organization: str | None = None,
        since_ns: int | None = None,
        until_ns: int | None = None,
        actor: str,
    ) -> CostAssignment:
        """From `since_ns` (default: now) until `until_ns` calls of that organisation, team or key
        go on the cost centre. What was assigned for that time ends, or begins, at these instants.
        """
        async with self._change(actor) as doing:
            row = await _center(doing.connection, reference)
            owner = await _owner(doing.connection, level, whose, organization)
            since, end = await self._cut(doing, owner, since_ns, until_ns)
            await queries.add_assignment(doing.connection, owner, row["id"], since, end)
            details = {"level": level, "object": owner[1], "since_ns": since, "until_ns": end}
            await doing.record("assign", _KIND, row["id"], details)
        await self._apply()
        return CostAssignment(
            level=level,
            object_id=owner[1],
            center_id=row["id"],
            code=row["code"],
            since_ns=since,
            until_ns=end,
        )

    async def unassign(
        self,
        level: CostLevel,
        whose: str,
        *,
        organization: str | None = None,
        since_ns: int | None = None,
        actor: str,
    ) -> list[CostAssignment]:
        """From `since_ns` (default: now) on nothing is assigned to it itself any more. Returns
        what was, and ends there."""
        async with self._change(actor) as doing:
            owner = await _owner(doing.connection, level, whose, organization)
            before = _assignments(await queries.assignments(doing.connection, owner))
            since, _ = await self._cut(doing, owner, since_ns, None)
            ended = [each for each in before if each.until_ns is None or each.until_ns > since]
            if not ended:
                raise NotFound(f"The {KINDS[level].word} has no cost centre of its own then.")
            details = {"level": level, "object": owner[1], "since_ns": since}
            await doing.record("unassign", _KIND, ended[-1].center_id, details)
        await self._apply()
        return ended

    async def allow(
        self,
        level: CostLevel,
        whose: str,
        references: Sequence[str],
        *,
        organization: str | None = None,
        actor: str,
    ) -> CostView:
        """Calls of that team or key may choose among these in the header; none: it has no list of
        its own. A key that has a list does not use that of its team."""
        if level == "organization":
            raise TenancyError("What a header may choose is said of a team or a key.")
        if len(references) > _MOST_CHOICES:
            raise TenancyError(f"A list holds at most {_MOST_CHOICES} cost centres.")
        async with self._change(actor) as doing:
            owner = await _owner(doing.connection, level, whose, organization)
            rows = [await _center(doing.connection, reference) for reference in references]
            ids = {row["id"]: row["code"] for row in rows}
            before = await queries.choices(doing.connection, owner)
            await queries.set_choices(doing.connection, owner, ids)
            details = {"level": level, "choices": list(ids), "before": {"choices": before}}
            await doing.record("allow", _KIND, owner[1], details)
        await self._apply()
        return await self.view(level, owner[1])

    async def _cut(
        self, doing: Change, owner: queries.Owner, since_ns: int | None, until_ns: int | None
    ) -> tuple[int, int | None]:
        since = cost_rules.instant(since_ns, _ns(doing.now))
        end = cost_rules.end(until_ns, since)
        cost_rules.open_time(since, await closed_periods(doing.connection), end)
        await queries.cut_assignments(doing.connection, owner, since, end, _ns(doing.now))
        return since, end

    def _change(self, actor: str) -> AbstractAsyncContextManager[Change]:
        return change(self._store, actor, self._clock(), self._changed)

    async def _apply(self) -> None:
        if self._applied is not None:
            await self._applied()


async def _center(connection: AsyncConnection, reference: str) -> dict[str, Any]:
    row = await queries.center(connection, reference) if reference.isprintable() else None
    if row is None:
        raise NotFound(f"There is no cost centre '{reference[:50]}'.")
    return row


async def _owner(
    connection: AsyncConnection, level: CostLevel, reference: str, organization: str | None
) -> queries.Owner:
    if level not in {"organization", "team", "key"}:
        raise TenancyError("A cost centre is assigned to an organisation, a team or a key.")
    inside = await organization_id(connection, organization)
    return level, (await find(connection, KINDS[level], reference, inside))["id"]


def _assignments(rows: Sequence[dict[str, Any]]) -> list[CostAssignment]:
    fields = CostAssignment.__struct_fields__
    return [CostAssignment(**{name: row[name] for name in fields}) for row in rows]


def _ns(seconds: float) -> int:
    return round(seconds * 1e6) * 1000
