"""The statements on the table of switches. Values only: what is allowed is decided in `tenancy`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, or_, select

from llmgw_core.domain.switch import Switch, SwitchKind
from llmgw_core.store.switch_tables import switches
from llmgw_core.store.tenancy_tables import teams

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

_CURRENT = (
    select(switches, teams.c.name.label("label"))
    .outerjoin(teams, (switches.c.kind == "team") & (teams.c.id == switches.c.name))
    .order_by(switches.c.kind, switches.c.name)
)


async def current(connection: AsyncConnection, now: float) -> tuple[Switch, ...]:
    """What is in force at `now`, by kind and name."""
    unexpired = or_(switches.c.expires_at.is_(None), switches.c.expires_at > now)
    rows = (await connection.execute(_CURRENT.where(unexpired))).mappings()
    return tuple(_switch(dict(row)) for row in rows)


async def put(connection: AsyncConnection, values: dict[str, Any]) -> Switch:
    """Insert a switch in place of one of the same kind and name. Expired ones go."""
    kind, name = values["kind"], values["name"]
    await connection.execute(delete(switches).where(switches.c.expires_at <= values["since"]))
    await remove(connection, kind, name)
    inserted = await connection.execute(insert(switches).values(values))
    key = inserted.inserted_primary_key
    assert key is not None
    return _switch({**values, "id": int(key[0])})


async def remove(connection: AsyncConnection, kind: SwitchKind, name: str) -> None:
    """Delete a switch, if there is one."""
    same = (switches.c.kind == kind) & (switches.c.name == name)
    await connection.execute(delete(switches).where(same))


def _switch(row: dict[str, Any]) -> Switch:
    return Switch(**{**row, "label": row.get("label") or ""})
