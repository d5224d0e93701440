"""`cost-centers`: cost centres, whose calls go on them and when, and who may choose which."""

from __future__ import annotations

import datetime as dt
import time
from typing import TYPE_CHECKING, Any, get_args

from msgspec import UNSET

from llmgw_core.config.load import load
from llmgw_core.tenancy.cost_records import CostLevel
from llmgw_core.tenancy.costing import Costing
from llmgw_core.tenancy.rebooking import rebook
from llmgw_core.tenancy.records import KEY, ORGANIZATION, TEAM
from llmgw_core.tenancy.service import Tenancy
from llmgw_server.cli.database import actor, on_store
from llmgw_server.cli.errors import CommandError
from llmgw_server.cli.options import (
    add_config,
    add_json,
    add_organization,
    moment,
    run_with,
)
from llmgw_server.cli.output import say, say_json, say_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Sequence
    from typing import TypeVar

    from llmgw_core.store.engine import Store
    from llmgw_core.tenancy.cost_records import CostAssignment, CostCenterInfo
    from llmgw_core.tenancy.records import Kind

    T = TypeVar("T")

_KINDS: tuple[Kind[Any], ...] = (ORGANIZATION, TEAM, KEY)
_WHEN = "a date or time (2026-11-01T00:00+01:00; UTC unless it says otherwise)"


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the actions."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    new = _action(actions, "create", "make a cost centre", _create)
    new.add_argument("code", help="as the accounting department writes it")
    _add_about(new, "")
    change = _action(actions, "set", "change what is given of a cost centre", _set)
    change.add_argument("which", metavar="CENTER", help="code or id")
    change.add_argument("--code", default=UNSET, help="another code")
    _add_about(change, UNSET)
    listing = _action(actions, "list", "list cost centres", _list)
    add_json(listing)
    show = _action(actions, "show", "who has a cost centre, and when", _show)
    show.add_argument("which", metavar="CENTER", nargs="?", help="code or id (default: all)")
    add_json(show)
    assign = _action(actions, "assign", "put calls on a cost centre from an instant on", _assign)
    assign.add_argument("which", metavar="CENTER", help="code or id")
    _add_owner(assign)
    _add_span(assign)
    end = _action(actions, "unassign", "end what is assigned, from an instant on", _unassign)
    _add_owner(end)
    _add_since(end)
    again = _action(
        actions, "rebook", "move calls that are on the books to where they should be", _rebook
    )
    again.add_argument("--from", dest="since", type=_instant, required=True, metavar="WHEN")
    again.add_argument("--until", type=_instant, metavar="WHEN", help=f"{_WHEN}; default: now")
    allow = _action(actions, "allow", "say what calls may choose in their header", _allow)
    allow.add_argument("which", metavar="CENTER", nargs="*", help="codes or ids; none: no list")
    _add_owner(allow, organizations=False)


def _action(
    actions: Any, name: str, summary: str, run: Callable[[argparse.Namespace], None]
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
    )
    add_config(parser)
    run_with(parser, run)
    return parser


def _add_about(parser: argparse.ArgumentParser, default: Any) -> None:
    parser.add_argument("--name", default=default, help="what it is called (default: the code)")
    parser.add_argument("--owner", default=default, help="who answers for it")
    for option, text in (("valid-from", "calls go on it from then on"), ("valid-until", "before")):
        parser.add_argument(
            f"--{option}", type=_instant, default=UNSET, metavar="WHEN", help=f"{text}: {_WHEN}"
        )


def _add_owner(parser: argparse.ArgumentParser, *, organizations: bool = True) -> None:
    whose = parser.add_mutually_exclusive_group(required=True)
    if organizations:
        whose.add_argument("--organization", metavar="ORG", help="all calls of an organisation")
    whose.add_argument("--team", help="calls of a team; goes before the organisation's")
    whose.add_argument("--key", help="calls with a key; goes before the team's")
    add_organization(parser)


def _add_since(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from", dest="since", type=_instant, metavar="WHEN", help=f"{_WHEN}; default: now"
    )


def _add_span(parser: argparse.ArgumentParser) -> None:
    _add_since(parser)
    parser.add_argument("--until", type=_instant, metavar="WHEN", help="default: until changed")


def _instant(text: str) -> int | None:
    """Nanoseconds since the epoch; `none` as None."""
    if text == "none":
        return None
    return round(moment(text, time.time(), ahead=True) * 1e6) * 1000


def _create(args: argparse.Namespace) -> None:
    center = _with(
        args,
        lambda costing: costing.create(
            args.code,
            name=args.name,
            owner=args.owner,
            valid_from_ns=None if args.valid_from is UNSET else args.valid_from,
            valid_until_ns=None if args.valid_until is UNSET else args.valid_until,
            actor=actor(),
        ),
    )
    say(f"Created cost centre {center.code} ({center.id}).")


def _set(args: argparse.Namespace) -> None:
    center = _with(
        args,
        lambda costing: costing.update(
            args.which,
            code=args.code,
            name=args.name,
            owner=args.owner,
            valid_from_ns=args.valid_from,
            valid_until_ns=args.valid_until,
            actor=actor(),
        ),
    )
    say(f"Changed cost centre {center.code} ({center.id}).")


def _list(args: argparse.Namespace) -> None:
    centers: list[CostCenterInfo] = _with(args, lambda costing: costing.find_all())
    if args.json:
        say_json(centers)
        return
    rows = [
        (each.code, each.name, each.owner, *map(_shown, (each.valid_from_ns, each.valid_until_ns)))
        for each in centers
    ]
    say_table(("CODE", "NAME", "OWNER", "VALID FROM", "UNTIL"), rows)


def _show(args: argparse.Namespace) -> None:
    async def read(store: Store) -> tuple[list[CostAssignment], dict[str, str]]:
        tenancy = Tenancy(store)
        names: dict[str, str] = {}
        for kind in _KINDS:
            names |= {info.id: info.name for info in await tenancy.find_all(kind)}
        return await Costing(store).assigned(args.which), names

    found, names = on_store(args, read)
    if args.json:
        say_json(found)
        return
    _table(found, names)


def _table(found: Sequence[CostAssignment], names: dict[str, str]) -> None:
    rows = [
        (
            each.code,
            each.level,
            names.get(each.object_id, each.object_id),
            _shown(each.since_ns),
            _shown(each.until_ns),
        )
        for each in found
    ]
    say_table(("CODE", "LEVEL", "WHOSE", "FROM", "UNTIL"), rows)


def _assign(args: argparse.Namespace) -> None:
    level, whose = _owner(args)
    made = _with(
        args,
        lambda costing: costing.assign(
            args.which,
            level,
            whose,
            organization=args.org,
            since_ns=args.since,
            until_ns=args.until,
            actor=actor(),
        ),
    )
    until = "" if made.until_ns is None else f" until {_shown(made.until_ns)}"
    say(f"Calls of the {level} {whose} go on {made.code} from {_shown(made.since_ns)}{until}.")
    _say_when(args)
    _move(args, made.since_ns)


def _unassign(args: argparse.Namespace) -> None:
    level, whose = _owner(args)
    ended = _with(
        args,
        lambda costing: costing.unassign(
            level, whose, organization=args.org, since_ns=args.since, actor=actor()
        ),
    )
    codes = ", ".join(dict.fromkeys(each.code for each in ended))
    say(f"The {level} {whose} has no cost centre of its own any more; it had {codes}.")
    _say_when(args)
    if args.since is not None:
        _move(args, args.since)


def _rebook(args: argparse.Namespace) -> None:
    found = on_store(args, lambda store: rebook(store, args.since, args.until, actor=actor()))
    say(f"{found.moved:,} of {found.calls:,} calls have moved.")


def _move(args: argparse.Namespace, since_ns: int) -> None:
    """A change that is dated in the past is about calls that are on the books."""
    if since_ns >= (time.time() - load(args.config).store.staleness) * 1e9:
        return
    found = on_store(args, lambda store: rebook(store, since_ns, actor=actor()))
    say(
        f"Of {found.calls:,} calls since then that are on the books, {found.moved:,} have moved;"
        " `cost-centers rebook` does it again for what comes late."
    )


def _allow(args: argparse.Namespace) -> None:
    level, whose = _owner(args)
    view = _with(
        args,
        lambda costing: costing.allow(
            level, whose, args.which, organization=args.org, actor=actor()
        ),
    )
    chosen = ", ".join(view.choices)
    say(
        f"Calls of the {level} {whose} may choose {chosen} in x-llmgw-cost-center."
        if chosen
        else f"The {level} {whose} has no list of its own any more."
    )
    _say_when(args)


def _owner(args: argparse.Namespace) -> tuple[CostLevel, str]:
    level: CostLevel
    for level in get_args(CostLevel):
        whose = getattr(args, level, None)
        if whose is not None:
            return level, whose
    raise CommandError("Say whose: --organization, --team or --key.")


def _shown(instant: int | None) -> str | None:
    """To the second; nothing for no beginning and no end."""
    if not instant:
        return None
    return dt.datetime.fromtimestamp(instant // 10**9, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _say_when(args: argparse.Namespace) -> None:
    say(f"A gateway that runs knows within {load(args.config).store.staleness:g} s.")


def _with(args: argparse.Namespace, work: Callable[[Costing], Awaitable[T]]) -> T:
    return on_store(args, lambda store: work(Costing(store)))
