"""One change of the tenancy: its transaction, its audit entry, and setting columns."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import UNSET

from llmgw_core.store import tenancy_queries as queries
from llmgw_core.tenancy import rules
from llmgw_core.tenancy.brake_rules import brake
from llmgw_core.tenancy.budget_rules import budgets
from llmgw_core.tenancy.errors import Conflict, TenancyError
from llmgw_core.tenancy.records import AuditEntry, Kind, LevelInfo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.store.engine import Store

T = TypeVar("T", bound=LevelInfo)
_PERSONAL = frozenset({"name", "email"})


class Change:
    """An open write transaction on behalf of `actor` at the moment `now` (epoch seconds)."""

    __slots__ = ("actor", "connection", "entries", "now")

    def __init__(self, connection: AsyncConnection, actor: str, now: float) -> None:
        self.connection = connection
        self.now = now
        self.entries: list[AuditEntry] = []
        self.actor = actor

    async def record(self, action: str, kind: str, object_id: str, details: dict[str, Any]) -> None:
        """Write the audit entry of the change."""
        entry: dict[str, Any] = {
            "at": self.now,
            "actor": self.actor,
            "action": action,
            "kind": kind,
            "object_id": object_id,
            "details": details,
        }
        id = await queries.record(self.connection, entry)
        self.entries.append(AuditEntry(id=id, **entry))


@asynccontextmanager
async def change(
    store: Store, actor: str, now: float, changed: Callable[[AuditEntry], None] | None = None
) -> AsyncIterator[Change]:
    """Begin a change; it is committed at the end, or not at all, and `changed` is called with
    its audit entries after that. Raises `Conflict` when a name is taken."""
    actor = rules.actor(actor)
    try:
        async with store.begin() as connection:
            doing = Change(connection, actor, now)
            yield doing
    except queries.NameTaken as error:
        raise Conflict("The name is taken already, by another object of its kind.") from error
    if changed is not None:
        for entry in doing.entries:
            changed(entry)


def public_details(kind: Kind[Any], values: dict[str, Any]) -> dict[str, Any]:
    """`values` for the audit log. What identifies a person stays out of it, so that erasing a
    user leaves no trace of his name."""
    if kind.level != "user":
        return values
    return {name: "(personal)" if name in _PERSONAL else values[name] for name in values}


def columns(kind: Kind[Any], given: dict[str, Any], now: float) -> dict[str, Any]:
    """The columns to set for those of the `given` values that are not UNSET."""
    values: dict[str, Any] = {}
    for field, value in given.items():
        if value is UNSET:
            continue
        if field not in kind.info.__struct_fields__:
            raise TenancyError(f"A {kind.word} has no {field}.")
        if field == "limits":
            values |= rules.limits(value)
        elif field == "expires_at":
            values[field] = rules.expiry(value, now)
        else:
            values[field] = _RULES[field](value)
    if not values:
        raise TenancyError("Nothing to change was given.")
    return values


_RULES: dict[str, Callable[[Any], Any]] = {
    "name": rules.name,
    "email": rules.email,
    "models": rules.models,
    "zones": rules.zones,
    "model_limits": rules.model_limits,
    "budgets": budgets,
    "brake": brake,
}


async def set_columns(
    doing: Change, kind: Kind[T], row: dict[str, Any], action: str, values: dict[str, Any]
) -> T:
    """Set columns of one object. Raises `Conflict` for a revoked key."""
    if row.get("revoked"):
        raise Conflict("The key is revoked; that is final. Create another one.")
    await queries.change(doing.connection, kind.level, row["id"], values)
    before = {name: row[name] for name in values}
    details = {**public_details(kind, values), "before": public_details(kind, before)}
    await doing.record(action, kind.level, row["id"], details)
    return kind.read({**row, **values})


async def record_membership(
    doing: Change, action: str, member: dict[str, Any], details: dict[str, Any]
) -> None:
    """Write the audit entry of a change of a membership."""
    object_id = f"{member['team_id']}/{member['user_id']}"
    await doing.record(action, "membership", object_id, details)
