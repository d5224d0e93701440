"""How objects belong together: the owner of a key, the members of a team.

Every function reads inside the transaction that it is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmgw_core.store import tenancy_queries as queries
from llmgw_core.tenancy.errors import Conflict, NotFound, TenancyError
from llmgw_core.tenancy.records import TEAM, USER
from llmgw_core.tenancy.references import find, organization_id

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


async def key_owner(
    connection: AsyncConnection, organization: str | None, team: str | None, user: str | None
) -> dict[str, Any]:
    """The columns that say whose a new key is."""
    inside = await organization_id(connection, organization)
    team_id = user_id = None
    if team is not None:
        row = await find(connection, TEAM, team, inside)
        team_id, inside = row["id"], row["organization_id"]
    if user is not None:
        row = await find(connection, USER, user, inside)
        user_id, inside = row["id"], row["organization_id"]
    if inside is None:
        raise TenancyError("A key needs an organisation, a team or a user.")
    values = {"organization_id": inside, "team_id": team_id, "user_id": user_id}
    if team_id and user_id and not await membership(connection, values):
        raise TenancyError("The user is not a member of the team; make him one first.")
    return values


async def require_free_key_name(connection: AsyncConnection, values: dict[str, Any]) -> None:
    """No constraint of the database can say this: revoked keys free their names."""
    owner = ("organization_id", "team_id", "user_id")
    for row in await queries.by_name(connection, "key", values["name"], values["organization_id"]):
        same_owner = all(row[column] == values[column] for column in owner)
        if same_owner and row["id"] != values.get("id"):
            raise Conflict(f"Its owner has a key named '{values['name']}' already.")


async def columns_of(
    connection: AsyncConnection, organization: str | None, team: str | None, user: str | None
) -> dict[str, str]:
    """The columns that rows must agree with to belong to what is given."""
    where = {}
    inside = await organization_id(connection, organization)
    if inside is not None:
        where["organization_id"] = inside
    if team is not None:
        where["team_id"] = (await find(connection, TEAM, team, inside))["id"]
    if user is not None:
        where["user_id"] = (await find(connection, USER, user, inside))["id"]
    return where


async def member(
    connection: AsyncConnection, team: str, user: str, organization: str | None
) -> dict[str, Any]:
    """The columns that name a membership."""
    inside = await organization_id(connection, organization)
    team_row = await find(connection, TEAM, team, inside)
    inside = team_row["organization_id"]
    user_row = await find(connection, USER, user, inside)
    return {"organization_id": inside, "team_id": team_row["id"], "user_id": user_row["id"]}


async def membership(connection: AsyncConnection, names: dict[str, Any]) -> dict[str, Any] | None:
    """The membership with those columns, or None."""
    return await queries.membership(connection, names["team_id"], names["user_id"])


async def existing_membership(
    connection: AsyncConnection, team: str, user: str, organization: str | None
) -> dict[str, Any]:
    """The membership of a user in a team. Raises `NotFound`."""
    row = await membership(connection, await member(connection, team, user, organization))
    if row is None:
        raise NotFound("The user is not a member of the team.")
    return row
