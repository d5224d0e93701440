"""`users`: users of organisations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.tenancy.records import ORGANIZATION, USER, UserInfo
from llmgw_server.cli.database import actor, on_tenancy
from llmgw_server.cli.levels import Actions, print_levels
from llmgw_server.cli.options import add_grants, add_organization, grants_of

if TYPE_CHECKING:
    import argparse

    from llmgw_core.tenancy.service import Tenancy


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the actions."""
    actions = Actions(parser, USER)

    def create(args: argparse.Namespace) -> None:
        info = on_tenancy(
            args,
            lambda tenancy: tenancy.create_user(
                args.org, args.name, email=args.email, actor=actor(), **grants_of(args)
            ),
        )
        actions.report("Created", info)

    new = actions.add("create", "make a user", create)
    new.add_argument("name")
    new.add_argument("--email")
    add_organization(new, required=True)
    add_grants(new)
    add_organization(actions.add_list(_list))
    actions.add_common()


def _list(args: argparse.Namespace) -> None:
    async def read(tenancy: Tenancy) -> tuple[list[UserInfo], dict[str, str]]:
        organizations = {info.id: info.name for info in await tenancy.find_all(ORGANIZATION)}
        return await tenancy.find_all(USER, organization=args.org), organizations

    infos, organizations = on_tenancy(args, read)
    print_levels(
        args,
        infos,
        organisation=lambda info: organizations.get(info.organization_id),
        email=lambda info: info.email,
    )
