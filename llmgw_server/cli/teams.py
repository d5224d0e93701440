"""`teams`: teams of organisations, and who is in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.tenancy.records import ORGANIZATION, TEAM, USER, TeamInfo
from llmgw_server.cli.database import actor, on_tenancy
from llmgw_server.cli.levels import Actions, print_levels
from llmgw_server.cli.options import add_grants, add_organization, grants_of
from llmgw_server.cli.output import say

if TYPE_CHECKING:
    import argparse

    from llmgw_core.tenancy.service import Tenancy


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the actions."""
    actions = Actions(parser, TEAM)

    def create(args: argparse.Namespace) -> None:
        info = on_tenancy(
            args,
            lambda tenancy: tenancy.create_team(
                args.org, args.name, actor=actor(), **grants_of(args)
            ),
        )
        actions.report("Created", info)

    new = actions.add("create", "make a team", create)
    new.add_argument("name")
    add_organization(new, required=True)
    add_grants(new)
    add_organization(actions.add_list(_list))
    actions.add_common()
    join = actions.add_named("add-user", "make a user a member of a team", _add_user)
    join.add_argument("user", metavar="USER", help="id or name")
    join.add_argument("--role", choices=("member", "admin"), default="member")
    leave = actions.add_named(
        "remove-user", "end a membership and revoke the user's keys in the team", _remove_user
    )
    leave.add_argument("user", metavar="USER", help="id or name")


def _list(args: argparse.Namespace) -> None:
    async def read(tenancy: Tenancy) -> tuple[list[TeamInfo], dict[str, str], dict[str, list[str]]]:
        organizations = {info.id: info.name for info in await tenancy.find_all(ORGANIZATION)}
        users = {info.id: info.name for info in await tenancy.find_all(USER)}
        members: dict[str, list[str]] = {}
        for membership in await tenancy.list_memberships(organization=args.org):
            members.setdefault(membership.team_id, []).append(users[membership.user_id])
        return await tenancy.find_all(TEAM, organization=args.org), organizations, members

    infos, organizations, members = on_tenancy(args, read)
    print_levels(
        args,
        infos,
        organisation=lambda info: organizations.get(info.organization_id),
        members=lambda info: sorted(members.get(info.id, ())),
    )


def _add_user(args: argparse.Namespace) -> None:
    on_tenancy(
        args,
        lambda tenancy: tenancy.add_membership(
            args.which, args.user, role=args.role, organization=args.org, actor=actor()
        ),
    )
    article = "an" if args.role == "admin" else "a"
    say(f"User {args.user} is now {article} {args.role} of team {args.which}.")


def _remove_user(args: argparse.Namespace) -> None:
    revoked = on_tenancy(
        args,
        lambda tenancy: tenancy.remove_membership(
            args.which, args.user, organization=args.org, actor=actor()
        ),
    )
    keys = f" Revoked keys: {', '.join(revoked)}." if revoked else ""
    say(f"User {args.user} is no longer in team {args.which}.{keys}")
