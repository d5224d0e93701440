"""What the commands for organisations, teams, users and keys have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from llmgw_core.tenancy.records import ORGANIZATION
from llmgw_server.cli.database import actor, on_tenancy
from llmgw_server.cli.limit_options import (
    limits_given,
    limits_of,
    model_limits_of,
    other_limits,
)
from llmgw_server.cli.options import (
    add_config,
    add_grants,
    add_json,
    add_organization,
    run_with,
)
from llmgw_server.cli.output import moment, say, say_json, say_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from llmgw_core.tenancy.records import Kind, LevelInfo
    from llmgw_core.tenancy.service import Tenancy

GRANT_TITLES = ("MODELS", "ZONES", "RPM", "TPM", "PARALLEL", "MORE")
GRANT_NUMBERS = "RPM TPM PARALLEL"


class Actions:
    """The subcommands of one kind of object."""

    def __init__(self, parser: argparse.ArgumentParser, kind: Kind[Any]) -> None:
        self.kind = kind
        self._actions = parser.add_subparsers(metavar="ACTION", required=True)

    def add(
        self, name: str, summary: str, run: Callable[[argparse.Namespace], None]
    ) -> argparse.ArgumentParser:
        """A subcommand with `--config`."""
        parser = self._actions.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + "."
        )
        add_config(parser)
        run_with(parser, run)
        return parser

    def add_named(
        self, name: str, summary: str, run: Callable[[argparse.Namespace], None]
    ) -> argparse.ArgumentParser:
        """A subcommand on one existing object."""
        parser = self.add(name, summary, run)
        parser.add_argument("which", metavar=self.kind.word.upper(), help="id or name")
        if self.kind is not ORGANIZATION:
            add_organization(parser)
        return parser

    def add_common(self) -> None:
        """`set`, `disable`, `enable` and `delete`."""
        word = self.kind.word
        parser = self.add_named("set", f"change what is given of one {word}", self._set)
        parser.add_argument("--name", default=UNSET, help="another name")
        if "email" in self.kind.info.__struct_fields__:
            parser.add_argument("--email", default=UNSET)
        add_grants(parser)
        self.expires = parser
        self.add_named("disable", f"stop one {word}, and all keys below it", self._disable)
        self.add_named("enable", f"undo `disable` of one {word}", self._enable)
        self.add_named("delete", f"erase one {word} and what belongs to it", self._delete)

    def add_list(self, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        """`list`."""
        parser = self.add("list", f"list {self.kind.word}s", run)
        add_json(parser)
        return parser

    def _set(self, args: argparse.Namespace) -> None:
        async def change(tenancy: Tenancy) -> LevelInfo:
            limits: Any = UNSET
            model_limits: Any = UNSET
            if limits_given(args):
                old = await tenancy.get(self.kind, args.which, organization=_organization(args))
                limits = limits_of(args, old.limits)
                model_limits = model_limits_of(args, old.model_limits)
            return await tenancy.update(
                self.kind,
                args.which,
                organization=_organization(args),
                name=args.name,
                email=getattr(args, "email", UNSET),
                models=args.models,
                zones=args.zones,
                limits=limits,
                model_limits=model_limits,
                expires_at=getattr(args, "expires", UNSET),
                actor=actor(),
            )

        self.report("Changed", on_tenancy(args, change))

    def _disable(self, args: argparse.Namespace) -> None:
        self._apply("Disabled", args, lambda tenancy: tenancy.disable)

    def _enable(self, args: argparse.Namespace) -> None:
        self._apply("Enabled", args, lambda tenancy: tenancy.enable)

    def _delete(self, args: argparse.Namespace) -> None:
        self._apply("Deleted", args, lambda tenancy: tenancy.delete)

    def _apply(self, done: str, args: argparse.Namespace, method: Callable[[Tenancy], Any]) -> None:
        async def change(tenancy: Tenancy) -> LevelInfo:
            info: LevelInfo = await method(tenancy)(
                self.kind, args.which, organization=_organization(args), actor=actor()
            )
            return info

        self.report(done, on_tenancy(args, change))

    def report(self, done: str, info: LevelInfo) -> None:
        """Say what was done."""
        say(f"{done} {self.kind.word} {info.name} ({info.id}).")


def _organization(args: argparse.Namespace) -> str | None:
    return getattr(args, "org", None)


def grant_cells(info: LevelInfo) -> Sequence[Any]:
    """The cells under `GRANT_TITLES`."""
    limits = info.limits
    return (info.models, info.zones, limits.rpm, limits.tpm, limits.parallel, other_limits(info))


def print_levels(
    args: argparse.Namespace, infos: Sequence[LevelInfo], **more: Callable[[Any], Any]
) -> None:
    """A list of objects; `more` are further columns by title."""
    if args.json:
        say_json(infos)
        return
    titles = ("ID", "NAME", *(title.upper() for title in more), *GRANT_TITLES)
    rows = (
        (
            info.id,
            info.name,
            *(cell(info) for cell in more.values()),
            *grant_cells(info),
            "disabled" if info.disabled else "active",
            moment(info.created),
        )
        for info in infos
    )
    say_table((*titles, "STATE", "CREATED"), rows, right=GRANT_NUMBERS)
