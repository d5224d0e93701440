"""`keys`: API keys. A new key goes to standard output, alone, and is never shown again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from msgspec import UNSET

from llmgw_core.tenancy.brakes import HOUR
from llmgw_core.tenancy.records import KEY, ORGANIZATION, TEAM, USER, KeyInfo, LevelInfo
from llmgw_server.cli import brakes
from llmgw_server.cli.database import actor, on_tenancy
from llmgw_server.cli.levels import GRANT_NUMBERS, GRANT_TITLES, Actions, grant_cells
from llmgw_server.cli.options import add_grants, add_organization, expiry, grants_of, seconds
from llmgw_server.cli.output import moment, remark, say, say_json, say_table

if TYPE_CHECKING:
    import argparse

    from llmgw_core.tenancy.service import Tenancy

EXPIRES = "a date (2027-01-31, UTC), a span from now (90d, 12h) or `never`"


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the actions."""
    actions = Actions(parser, KEY)
    new = actions.add("create", "make a key and show it once", _create)
    new.add_argument("--name", default="", help="default: its id")
    _add_owner(new)
    new.add_argument("--expires", type=expiry, metavar="WHEN", help=EXPIRES)
    add_grants(new)
    listing = actions.add_list(_list)
    _add_owner(listing)
    actions.add_common()
    actions.expires.add_argument(
        "--expires", type=expiry, default=UNSET, metavar="WHEN", help=EXPIRES
    )

    def revoke(args: argparse.Namespace) -> None:
        info = on_tenancy(
            args,
            lambda tenancy: tenancy.revoke_key(args.which, organization=args.org, actor=actor()),
        )
        actions.report("Revoked", info)

    actions.add_named("revoke", "end one key for good", revoke)
    lifting = actions.add_named("lift", "have the velocity of one key refuse nothing", brakes.lift)
    lifting.add_argument(
        "--for",
        dest="seconds",
        type=seconds,
        default=HOUR,
        metavar="SECONDS",
        help="how long (default: an hour); 0 takes it back",
    )


def _add_owner(parser: argparse.ArgumentParser) -> None:
    add_organization(parser)
    parser.add_argument("--team", metavar="TEAM", help="id or name of a team")
    parser.add_argument("--user", metavar="USER", help="id or name of a user")


def _create(args: argparse.Namespace) -> None:
    info, key = on_tenancy(
        args,
        lambda tenancy: tenancy.create_key(
            organization=args.org,
            team=args.team,
            user=args.user,
            name=args.name,
            expires_at=args.expires,
            actor=actor(),
            **grants_of(args),
        ),
    )
    until = f" until {moment(info.expires_at)}" if info.expires_at else ""
    remark(f"Created key {info.name} ({info.id}){until}. It is shown only now:")
    say(key)


def _list(args: argparse.Namespace) -> None:
    async def read(tenancy: Tenancy) -> tuple[list[KeyInfo], dict[str, str]]:
        owners: list[LevelInfo] = [
            *await tenancy.find_all(ORGANIZATION),
            *await tenancy.find_all(TEAM),
            *await tenancy.find_all(USER),
        ]
        names = {info.id: info.name for info in owners}
        found = await tenancy.find_all(KEY, organization=args.org, team=args.team, user=args.user)
        return found, names

    infos, names = on_tenancy(args, read)
    if args.json:
        say_json(infos)
        return
    titles = ("ID", "NAME", "ENDS IN", "ORGANISATION", "TEAM", "USER", *GRANT_TITLES)
    rows = (
        (
            info.id,
            info.name,
            info.hint,
            *(names.get(id or "") for id in (info.organization_id, info.team_id, info.user_id)),
            *grant_cells(info),
            _state(info),
            moment(info.expires_at),
        )
        for info in infos
    )
    say_table((*titles, "STATE", "EXPIRES"), rows, right=GRANT_NUMBERS)


def _state(info: KeyInfo) -> str:
    if info.revoked:
        return "revoked"
    if info.expires_at is not None and info.expires_at <= time.time():
        return "expired"
    return "disabled" if info.disabled else "active"
