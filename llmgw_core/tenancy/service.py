"""The use cases on organisations, teams, users, memberships and keys.

Every change is one transaction that also writes its audit entry and raises the version that
caches watch. Objects are named by id or by name; a name of a team, user or key may need the
organisation beside it to be unique. All methods raise `TenancyError` (or its subclasses) with
a sentence, and `StoreUnavailable`.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from msgspec import UNSET, UnsetType

from llmgw_core.access import keys
from llmgw_core.domain.brake import NO_BRAKE, Brake
from llmgw_core.domain.limits import NO_LIMITS, Budget, Limits
from llmgw_core.store import tenancy_queries as queries
from llmgw_core.tenancy import brake_rules, budget_rules, rules
from llmgw_core.tenancy.changes import (
    Change,
    change,
    columns,
    public_details,
    record_membership,
    set_columns,
)
from llmgw_core.tenancy.errors import Conflict, TenancyError
from llmgw_core.tenancy.records import (
    KEY,
    ORGANIZATION,
    TEAM,
    USER,
    AuditEntry,
    KeyInfo,
    Kind,
    LevelInfo,
    MembershipInfo,
    OrganizationInfo,
    TeamInfo,
    UserInfo,
)
from llmgw_core.tenancy.references import find, organization_id
from llmgw_core.tenancy.relations import (
    columns_of,
    existing_membership,
    key_owner,
    member,
    membership,
    require_free_key_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from typing import Unpack

    from llmgw_core.store.engine import Store

T = TypeVar("T", bound=LevelInfo)
_ID_PREFIXES = {"organization": "org_", "team": "team_", "user": "user_", "key": "key_"}
_ID_BYTES = 16
_ID_LENGTH = 22


class Grants(TypedDict, total=False):
    """What a new level may use. What is left out is inherited (by an organisation: it may use
    no model, every zone, and has no limit)."""

    models: Sequence[str] | None
    zones: Sequence[str] | None
    limits: Limits
    model_limits: Sequence[tuple[str, Limits]]
    budgets: Sequence[Budget]
    brake: Brake


class Tenancy:
    """See the module. `clock` gives seconds since the epoch, `randomness(n)` n random bytes;
    `changed` is called with the audit entry of every change that is in the database."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float] = time.time,
        randomness: Callable[[int], bytes] = secrets.token_bytes,
        changed: Callable[[AuditEntry], None] | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._randomness = randomness
        self._changed = changed

    # Making.

    async def create_organization(
        self, name: str, *, actor: str, **grants: Unpack[Grants]
    ) -> OrganizationInfo:
        """A new organisation."""
        async with self._change(actor) as doing:
            return await self._create(doing, ORGANIZATION, {"name": rules.name(name)}, grants)

    async def create_team(
        self, organization: str, name: str, *, actor: str, **grants: Unpack[Grants]
    ) -> TeamInfo:
        """A new team of an organisation."""
        async with self._change(actor) as doing:
            parent = await find(doing.connection, ORGANIZATION, organization)
            values = {"organization_id": parent["id"], "name": rules.name(name)}
            return await self._create(doing, TEAM, values, grants)

    async def create_user(
        self,
        organization: str,
        name: str,
        *,
        email: str | None = None,
        actor: str,
        **grants: Unpack[Grants],
    ) -> UserInfo:
        """A new user of an organisation."""
        async with self._change(actor) as doing:
            parent = await find(doing.connection, ORGANIZATION, organization)
            values = {
                "organization_id": parent["id"],
                "name": rules.name(name),
                "email": rules.email(email),
            }
            return await self._create(doing, USER, values, grants)

    async def create_key(
        self,
        *,
        organization: str | None = None,
        team: str | None = None,
        user: str | None = None,
        name: str = "",
        expires_at: float | None = None,
        actor: str,
        **grants: Unpack[Grants],
    ) -> tuple[KeyInfo, str]:
        """A new key of an organisation, of a team, of a user, or of a user in a team (of which
        he must be a member); the plaintext beside it is never shown again. The organisation
        may be left out beside a team or user; `name` is the key's id by default."""
        plaintext = keys.generate(self._randomness)
        async with self._change(actor) as doing:
            values = await key_owner(doing.connection, organization, team, user)
            if name:
                values["name"] = rules.name(name)
                await require_free_key_name(doing.connection, values)
            values["expires_at"] = rules.expiry(expires_at, doing.now)
            values["hint"] = keys.hint(plaintext)
            secret = {"digest": keys.digest(plaintext), "revoked": False}
            info = await self._create(doing, KEY, values, grants, secret)
        return info, plaintext

    # Reading.

    async def get(self, kind: Kind[T], reference: str, *, organization: str | None = None) -> T:
        """One object."""
        async with self._store.connect() as connection:
            inside = await organization_id(connection, organization)
            return kind.read(await find(connection, kind, reference, inside))

    async def find_all(
        self,
        kind: Kind[T],
        *,
        organization: str | None = None,
        team: str | None = None,
        user: str | None = None,
    ) -> list[T]:
        """All objects of a kind, by name; those of an organisation, and keys also those of a
        team or user, if given."""
        async with self._store.connect() as connection:
            where = await columns_of(connection, organization, team, user)
            if not set(where) <= set(kind.info.__struct_fields__):
                raise TenancyError(f"A list of {kind.word}s cannot be narrowed like this.")
            return [kind.read(row) for row in await queries.listed(connection, kind.level, **where)]

    async def list_audit(
        self, *, limit: int = 100, before: int | None = None, object_id: str | None = None
    ) -> list[AuditEntry]:
        """The newest `limit` entries (older than the entry with id `before`; about one object),
        newest first."""
        async with self._store.connect() as connection:
            rows = await queries.listed_audit(connection, limit, before, object_id)
        return [AuditEntry(**row) for row in rows]

    # Changing.

    async def update(
        self,
        kind: Kind[T],
        reference: str,
        *,
        organization: str | None = None,
        name: str | UnsetType = UNSET,
        email: str | UnsetType | None = UNSET,
        models: Sequence[str] | UnsetType | None = UNSET,
        zones: Sequence[str] | UnsetType | None = UNSET,
        limits: Limits | UnsetType = UNSET,
        model_limits: Sequence[tuple[str, Limits]] | UnsetType = UNSET,
        budgets: Sequence[Budget] | UnsetType = UNSET,
        brake: Brake | UnsetType = UNSET,
        expires_at: float | UnsetType | None = UNSET,
        actor: str,
    ) -> T:
        """Set what is given and leave the rest."""
        given = {
            "name": name,
            "email": email,
            "models": models,
            "zones": zones,
            "limits": limits,
            "model_limits": model_limits,
            "budgets": budgets,
            "brake": brake,
            "expires_at": expires_at,
        }
        async with self._change(actor) as doing:
            row = await self._find(doing, kind, reference, organization)
            values = columns(kind, given, doing.now)
            if kind.level == "key" and "name" in values:
                await require_free_key_name(doing.connection, {**row, **values})
            return await set_columns(doing, kind, row, "update", values)

    async def disable(
        self, kind: Kind[T], reference: str, *, organization: str | None = None, actor: str
    ) -> T:
        """Stop it, and all keys below it, until it is enabled again."""
        return await self._switch(kind, reference, organization, actor, disabled=True)

    async def enable(
        self, kind: Kind[T], reference: str, *, organization: str | None = None, actor: str
    ) -> T:
        """Undo `disable`."""
        return await self._switch(kind, reference, organization, actor, disabled=False)

    async def revoke_key(
        self, reference: str, *, organization: str | None = None, actor: str
    ) -> KeyInfo:
        """End a key for good. It stays in lists, so that the books can name it."""
        async with self._change(actor) as doing:
            row = await self._find(doing, KEY, reference, organization)
            return await set_columns(doing, KEY, row, "revoke", {"revoked": True})

    async def delete(
        self, kind: Kind[T], reference: str, *, organization: str | None = None, actor: str
    ) -> T:
        """Erase it with all teams, users, memberships and keys that belong to it. The books
        keep their sums, under ids without names. Returns what it was."""
        async with self._change(actor) as doing:
            row = await self._find(doing, kind, reference, organization)
            lost = await queries.remove(doing.connection, kind.level, row["id"])
            details = {**public_details(kind, {"name": row["name"]}), "with": lost}
            await doing.record("delete", kind.level, row["id"], details)
        return kind.read(row)

    # Memberships.

    async def add_membership(
        self,
        team: str,
        user: str,
        *,
        role: str = "member",
        organization: str | None = None,
        actor: str,
    ) -> MembershipInfo:
        """Make a user a member of a team of his organisation."""
        async with self._change(actor) as doing:
            values = await member(doing.connection, team, user, organization)
            if await membership(doing.connection, values):
                raise Conflict("The user is a member of the team already.")
            values |= {"role": rules.role(role), "created": doing.now}
            await queries.add_membership(doing.connection, values)
            await record_membership(doing, "create", values, {"role": role})
        return MembershipInfo(**values)

    async def set_role(
        self, team: str, user: str, role: str, *, organization: str | None = None, actor: str
    ) -> MembershipInfo:
        """Change the role of a member: `admin` or `member`."""
        async with self._change(actor) as doing:
            row = await existing_membership(doing.connection, team, user, organization)
            values = row | {"role": rules.role(role)}
            await queries.set_role(doing.connection, row["team_id"], row["user_id"], role)
            details = {"role": role, "before": {"role": row["role"]}}
            await record_membership(doing, "update", values, details)
        return MembershipInfo(**values)

    async def remove_membership(
        self, team: str, user: str, *, organization: str | None = None, actor: str
    ) -> list[str]:
        """End a membership and revoke the keys that the user had in the team; their ids."""
        async with self._change(actor) as doing:
            row = await existing_membership(doing.connection, team, user, organization)
            revoked = await queries.remove_membership(
                doing.connection, row["team_id"], row["user_id"]
            )
            await record_membership(doing, "delete", row, {"revoked": revoked})
        return revoked

    async def list_memberships(
        self, *, organization: str | None = None, team: str | None = None, user: str | None = None
    ) -> list[MembershipInfo]:
        """All memberships; those of an organisation, team or user if given."""
        async with self._store.connect() as connection:
            where = await columns_of(connection, organization, team, user)
            rows = await queries.listed_memberships(connection, **where)
        return [MembershipInfo(**row) for row in rows]

    def _change(self, actor: str) -> AbstractAsyncContextManager[Change]:
        return change(self._store, actor, self._clock(), self._changed)

    async def _create(
        self,
        doing: Change,
        kind: Kind[T],
        values: dict[str, Any],
        grants: Grants,
        secret: dict[str, Any] | None = None,
    ) -> T:
        number = int.from_bytes(self._randomness(_ID_BYTES), "big")
        id = _ID_PREFIXES[kind.level] + keys.base62(number, _ID_LENGTH)
        shown = {
            "name": id,
            **values,
            "models": rules.models(grants.get("models")),
            "zones": rules.zones(grants.get("zones")),
            **rules.limits(grants.get("limits", NO_LIMITS)),
            "model_limits": rules.model_limits(grants.get("model_limits", ())),
            "budgets": budget_rules.budgets(grants.get("budgets", ())),
            "brake": brake_rules.brake(grants.get("brake", NO_BRAKE)),
        }
        row = {"id": id, **shown, "disabled": False, "created": doing.now, **(secret or {})}
        await queries.add(doing.connection, kind.level, row)
        await doing.record("create", kind.level, id, public_details(kind, shown))
        return kind.read(row)

    async def _find(
        self, doing: Change, kind: Kind[Any], reference: str, organization: str | None
    ) -> dict[str, Any]:
        inside = await organization_id(doing.connection, organization)
        return await find(doing.connection, kind, reference, inside)

    async def _switch(
        self,
        kind: Kind[T],
        reference: str,
        organization: str | None,
        actor: str,
        *,
        disabled: bool,
    ) -> T:
        async with self._change(actor) as doing:
            row = await self._find(doing, kind, reference, organization)
            action = "disable" if disabled else "enable"
            return await set_columns(doing, kind, row, action, {"disabled": disabled})
