"""`calls`: what became of one call, and calls as they come onto the books. Never what was said in
them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from llmgw_core.domain.usage import CallStatus
from llmgw_core.store.ledger import Ledger
from llmgw_core.store.ledger_queries import CallFilter
from llmgw_core.tenancy.errors import NotFound
from llmgw_core.tenancy.records import KEY, ORGANIZATION, TEAM, USER, Kind
from llmgw_core.tenancy.service import Tenancy
from llmgw_server.call_facts import Told, facts
from llmgw_server.cli import sentence_of
from llmgw_server.cli.asking import NotThere, add_gateway, ask_running
from llmgw_server.cli.call_text import columns, described, line
from llmgw_server.cli.database import on_store
from llmgw_server.cli.errors import CommandError
from llmgw_server.cli.options import add_config, add_json, run_with, seconds, whole
from llmgw_server.cli.output import say, say_json, say_now

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable

    from llmgw_core.store.engine import Store
    from llmgw_core.store.row_values import LedgerRow

SECONDS = 1.0
"""Between two looks at the books: as long as a record takes to come there."""
_MOST = 100_000
"""Lines that `tail` begins with."""
_LEVELS: dict[str, Kind[Any]] = {"org": ORGANIZATION, "team": TEAM, "user": USER, "key": KEY}


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the actions."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    text = "what became of one call: attempts, tokens, price, and what decided"
    one = actions.add_parser("show", help=text, description=sentence_of(text))
    one.add_argument("call", metavar="ID", help="the call's id: x-request-id of its reply")
    add_config(one)
    add_gateway(
        one, "ask the gateway there instead of the books (default: when they do not have the call)"
    )
    add_json(one)
    run_with(one, _show)
    text = "calls as they come onto the books, until Ctrl-C"
    follow = actions.add_parser("tail", help=text, description=sentence_of(text))
    add_config(follow)
    _add_filters(follow)
    follow.add_argument(
        "-n",
        "--lines",
        type=whole(0, _MOST),
        default=10,
        metavar="N",
        help="begin with the last N (default: 10)",
    )
    follow.add_argument("--no-follow", action="store_true", help="print those and end")
    follow.add_argument("--json", action="store_true", help="one JSON object a line")
    run_with(follow, _tail)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("only those")
    for level, kind in _LEVELS.items():
        text = f"id or name of the {kind.word}"
        group.add_argument(f"--{level}", metavar=level.upper(), help=text)
    group.add_argument("--model", default="", help="asked for or served")
    group.add_argument(
        "--deployment", default="", metavar="MODEL/NAME", help="of any of the attempts"
    )
    group.add_argument("--status", default="", choices=get_args(CallStatus), help="how they ended")
    group.add_argument("--failed", action="store_true", help="all that were not completed")
    group.add_argument(
        "--longer", type=seconds, default=0.0, metavar="SECONDS", help="that took at least so long"
    )
    group.add_argument("--parent", default="", metavar="ID", help="made in the course of this call")


def _show(args: argparse.Namespace) -> None:
    names: dict[str, str] = {}
    told = None
    if args.url is None:
        told, names = on_store(args, lambda store: _looked_up(store, args.call))
    if told is None:
        told = _asked(args)
    if args.json:
        say_json(told.ended or told)
    else:
        say("\n".join(described(told, names)))


def _asked(args: argparse.Namespace) -> Told:
    """What the gateway that runs says. Raises `CommandError`."""
    message = f"There is no call '{args.call}' on the books."
    try:
        told, why = ask_running(args, f"/calls/{_plain(args.call)}", Told)
    except NotThere:
        raise CommandError(message) from None
    if told is None:
        still = "Calls that still run or were refused are known to the gateway that runs."
        raise CommandError(f"{message} {still} {why}")
    return told


def _plain(call: str) -> str:
    """An id that can stand in an address; no other one is of a call."""
    if not call.isascii() or not all(each.isalnum() or each in "-_." for each in call):
        raise NotThere
    if call == "running":  # another page
        raise NotThere
    return call


async def _looked_up(store: Store, call: str) -> tuple[Told | None, dict[str, str]]:
    record = await Ledger(store).get(call)
    if record is None:
        return None, {}
    tenancy = Tenancy(store)
    names: dict[str, str] = {}
    for level, kind in _LEVELS.items():
        id = getattr(record, "organization_id" if level == "org" else f"{level}_id")
        if id is not None:
            try:
                names[id] = (await tenancy.get(kind, id)).name
            except NotFound:  # deleted since then
                continue
    return Told(facts(record)), names


def _tail(args: argparse.Namespace) -> None:
    def tell(row: LedgerRow) -> None:
        shown = facts(row.record)
        say_now(msgspec.json.encode(shown).decode() if args.json else line(shown))

    async def work(store: Store) -> None:
        wanted = await filter_of(args, Tenancy(store))
        ledger = Ledger(store)
        rows, cursor = await ledger.latest(args.lines, wanted)
        if not args.json:
            say_now(columns())
        for row in rows:
            tell(row)
        if not args.no_follow:
            await follow(ledger, cursor, wanted, tell)

    on_store(args, work)


async def filter_of(args: argparse.Namespace, tenancy: Tenancy) -> CallFilter:
    """What the options want to see; names become ids."""
    ids: dict[str, Any] = {}
    for level, kind in _LEVELS.items():
        given = getattr(args, level)
        if given is not None:
            within = None if level == "org" else args.org
            found = await tenancy.get(kind, given, organization=within)
            ids["organization_id" if level == "org" else f"{level}_id"] = found.id
    return CallFilter(
        status=args.status,
        parent=args.parent,
        model=args.model,
        deployment=args.deployment,
        unsuccessful=args.failed,
        longer_us=int(args.longer * 1e6),
        **ids,
    )


async def follow(
    ledger: Ledger,
    cursor: int,
    wanted: CallFilter,
    tell: Callable[[LedgerRow], None],
    wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Tell of every wanted row behind `cursor`, for ever."""
    while True:
        while rows := await ledger.rows(cursor, wanted=wanted):
            for row in rows:
                tell(row)
            cursor = rows[-1].cursor
        await wait(SECONDS)
