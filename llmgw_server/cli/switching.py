"""`switch`: emergency switches. They are kept in the store, so they can be set whether a gateway
runs or not, and they survive its restart."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

from llmgw_core.config.load import load
from llmgw_core.tenancy.switching import Switchable, Switching
from llmgw_server.cli.database import actor, on_store
from llmgw_server.cli.errors import CommandError
from llmgw_server.cli.options import add_config, add_json, add_organization, expiry, run_with
from llmgw_server.cli.output import moment, remark, say, say_json, say_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable
    from typing import TypeVar

    from llmgw_core.domain.switch import Switch

    T = TypeVar("T")

KINDS = ("deployment", "model", "team", "plugin")
_UNGUARDED = (
    "Calls pass WITHOUT the plugin {name} from now on: nothing that it refuses, masks or checks is"
    " held back, and callers whom only it knows are refused."
)


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the actions."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    off = actions.add_parser("off", help="take a deployment, model, team or plugin out of service")
    off.add_argument("kind", choices=KINDS)
    off.add_argument(
        "name", help="MODEL/NAME of a deployment, public name of a model, team, plugin"
    )
    _add_terms(off)
    add_organization(off)
    add_config(off)
    run_with(off, _off)
    on = actions.add_parser("on", help="take a switch or a route back")
    on.add_argument("kind", choices=(*KINDS, "route"))
    on.add_argument("name", help="as with `off`; of a route the model whose calls it sends away")
    add_organization(on)
    add_config(on)
    run_with(on, _on)
    route = actions.add_parser("route", help="send calls for one model to another")
    route.add_argument("pair", metavar="MODEL=OTHER", help="calls for MODEL are served by OTHER")
    _add_terms(route)
    add_config(route)
    run_with(route, _route)
    listing = actions.add_parser("list", help="list what is switched")
    add_config(listing)
    add_json(listing)
    run_with(listing, _list)


def _add_terms(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reason", required=True, help="why, for other operators; callers never see it"
    )
    parser.add_argument(
        "--for",
        dest="until",
        type=expiry,
        metavar="TIME",
        help="how long (2h, 30m, 1d) or until when (2027-01-31T12:00, UTC);"
        " default: until `switch on`",
    )
    parser.add_argument(
        "--cut", action="store_true", help="also end the calls and streams that run on it now"
    )


def _off(args: argparse.Namespace) -> None:
    switch = _with(
        args,
        lambda switching: switching.off(
            args.kind,
            args.name,
            reason=args.reason,
            expires_at=args.until,
            organization=args.org,
            cut=args.cut,
            actor=actor(),
        ),
    )
    _report(args, switch)
    if switch.kind == "plugin":
        remark(_UNGUARDED.format(name=switch.name))


def _on(args: argparse.Namespace) -> None:
    switch = _with(
        args,
        lambda switching: switching.on(args.kind, args.name, organization=args.org, actor=actor()),
    )
    what = "routed away no more" if switch.kind == "route" else "on again"
    say(f"{_capital(switch.subject())} is {what}; it was {switch.sentence()}.")
    _say_when(args)


def _route(args: argparse.Namespace) -> None:
    model, _, target = args.pair.partition("=")
    if not model or not target:
        raise CommandError(f"'{args.pair}' is no route; write MODEL=OTHER.")
    switch = _with(
        args,
        lambda switching: switching.route(
            model, target, reason=args.reason, expires_at=args.until, cut=args.cut, actor=actor()
        ),
    )
    _report(args, switch)


def _list(args: argparse.Namespace) -> None:
    switches = _with(args, lambda switching: switching.find_all())
    if args.json:
        say_json(switches)
    elif not switches:
        say("Nothing is switched.")
    else:
        say_table(
            ("KIND", "NAME", "TO", "SINCE", "UNTIL", "BY", "REASON"),
            [
                (
                    each.kind,
                    each.label or each.name,
                    each.target,
                    moment(each.since),
                    moment(each.expires_at),
                    each.actor,
                    each.reason,
                )
                for each in switches
            ],
        )


def _report(args: argparse.Namespace, switch: Switch) -> None:
    say(f"{_capital(switch.subject())} is {switch.sentence()}.")
    if switch.expires_at is None:
        back = f"llmgw-server switch on {switch.kind} {quote(switch.name)}"
        say(f"It has no end: `{back}` takes it back.")
    _say_when(args)


def _say_when(args: argparse.Namespace) -> None:
    say(f"A gateway that runs knows within {load(args.config).store.staleness:g} s.")


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _with(args: argparse.Namespace, work: Callable[[Switching], Awaitable[T]]) -> T:
    names = Switchable.of(load(args.config))
    return on_store(args, lambda store: work(Switching(store, lambda: names)))
