"""`orgs`: organisations."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from llmgw_core.tenancy.records import ORGANIZATION
from llmgw_server.cli.database import actor, on_tenancy
from llmgw_server.cli.levels import Actions, print_levels
from llmgw_server.cli.options import add_grants, grants_of
from llmgw_server.cli.output import remark

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the actions."""
    actions = Actions(parser, ORGANIZATION)

    def create(args: argparse.Namespace) -> None:
        info = on_tenancy(
            args,
            lambda tenancy: tenancy.create_organization(
                args.name, actor=actor(), **grants_of(args)
            ),
        )
        actions.report("Created", info)
        if info.models is None:
            name = shlex.quote(info.name)
            remark(f"It may use no model yet: llmgw-server orgs set {name} --models '*'")

    new = actions.add("create", "make an organisation", create)
    new.add_argument("name")
    add_grants(new)
    actions.add_list(_list)
    actions.add_common()


def _list(args: argparse.Namespace) -> None:
    print_levels(args, on_tenancy(args, lambda tenancy: tenancy.find_all(ORGANIZATION)))
