"""`brakes`: how far loops may go, of the keys of organisations, teams and users, and of single
keys."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from llmgw_core.config.load import load
from llmgw_core.domain.brake_rules import BOUNDS, COUNTS, MONEY
from llmgw_core.limits.budget_counts import decimal
from llmgw_core.tenancy.brakes import Brakes
from llmgw_core.tenancy.records import KINDS
from llmgw_server.cli.budgets import money
from llmgw_server.cli.database import actor, on_store
from llmgw_server.cli.options import (
    LEVELS,
    add_config,
    add_json,
    add_level,
    run_with,
)
from llmgw_server.cli.output import moment, say, say_json, say_table

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llmgw_core.domain.brake import Brake

NONE = "none"
_TEXTS = {
    "session_money": "what calls of a session may cost without a longer pause",
    "session_calls": "how many there may be",
    "session_seconds": "how long after its first one",
    "session_repeats": "identical requests of a session in a row",
    "key_money": "what calls of a key may cost without a longer pause",
    "key_calls": "how many there may be",
    "key_seconds": "how long after its first one",
    "key_repeats": "identical requests of a key in a row",
    "velocity_floor": "compare the spending of ten minutes with the key's history, above this",
}


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the actions."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    put = actions.add_parser(
        "set",
        help="set bounds for the keys of one of them",
        description="Set bounds for every key of an organisation, team or user, or for one key, and"
        " for each session of it. Of several levels and the configuration the tightest holds.",
    )
    add_level(put)
    for name, text in _TEXTS.items():
        put.add_argument(
            f"--{_dashed(name)}",
            type=_reader(name),
            default=UNSET,
            metavar="AMOUNT" if name in MONEY else "N" if name in COUNTS else "SECONDS",
            help=f"{text}, or `{NONE}`",
        )
    put.add_argument(
        "--velocity-factor",
        type=float,
        default=UNSET,
        metavar="X",
        help="how many times the usual is refused (default 10)",
    )
    put.add_argument(
        "--shadow",
        type=shadow,
        default=UNSET,
        metavar="A,B",
        help="bounds that are counted and reported and never refuse, e.g. `key-calls,session-money`"
        f"; `{NONE}`",
    )
    run_with(put, _set)
    remove = actions.add_parser("remove", help="take the bounds of one of them away")
    add_level(remove)
    run_with(remove, _remove)
    listing = actions.add_parser("list", help="the bounds of all levels")
    add_config(listing)
    add_json(listing)
    run_with(listing, _list)


def _set(args: argparse.Namespace) -> None:
    names = (*BOUNDS, "velocity_factor", "shadow")
    given = {name: value for name in names if (value := getattr(args, name)) is not UNSET}
    info = _with(
        args,
        lambda brakes: brakes.set(
            KINDS[LEVELS[args.level]], args.which, given, organization=args.org, actor=actor()
        ),
    )
    say(f"The brake of {args.level} {info.name}: {text(info.brake) or 'nothing'}.")
    _say_when(args)


def _remove(args: argparse.Namespace) -> None:
    info = _with(
        args,
        lambda brakes: brakes.remove(
            KINDS[LEVELS[args.level]], args.which, organization=args.org, actor=actor()
        ),
    )
    say(f"{args.level.capitalize()} {info.name} has no brake of its own any more.")
    _say_when(args)


def _list(args: argparse.Namespace) -> None:
    found = _with(args, lambda brakes: brakes.find_all())
    if args.json:
        say_json(
            [
                {"level": kind.level, "id": info.id, "name": info.name, "brake": info.brake}
                for kind, info in found
            ]
        )
    elif not found:
        say("No level has a brake of its own; what the configuration says holds for all keys.")
    else:
        words = {level: word for word, level in LEVELS.items()}
        rows = (
            (words[kind.level], info.name, info.id, text(info.brake), moment(lifted))
            for kind, info in found
            for lifted in (info.brake.lifted_until,)
        )
        say_table(("LEVEL", "NAME", "ID", "BOUNDS", "VELOCITY LIFTED UNTIL"), rows)


def lift(args: argparse.Namespace) -> None:
    """`keys lift`."""
    info, until = _with(
        args,
        lambda brakes: brakes.lift(
            args.which, seconds=args.seconds, organization=args.org, actor=actor()
        ),
    )
    if args.seconds:
        say(f"The velocity of key {info.name} refuses nothing until {moment(until)}.")
    else:
        say(f"The velocity of key {info.name} refuses as before.")
    _say_when(args)


def text(brake: Brake) -> str:
    """The bounds of a brake, as the options name them."""
    parts = []
    for name in BOUNDS:
        value = getattr(brake, name)
        if value is not None:
            shown = decimal(value) if name in MONEY else f"{value:g}"
            shadow = " (shadow)" if name in brake.shadow else ""
            parts.append(f"{_dashed(name)} {shown}{shadow}")
    if brake.velocity_floor is not None:
        parts.append(f"velocity-factor {brake.velocity_factor:g}")
    return ", ".join(parts)


def shadow(value: str) -> tuple[str, ...]:
    """Names of bounds."""
    parts = [] if value == NONE else value.replace("-", "_").split(",")
    return tuple(name for part in parts if (name := part.strip()))


def _reader(name: str) -> Callable[[str], Any]:
    kind: Callable[[str], Any] = money if name in MONEY else int if name in COUNTS else float

    def read(value: str) -> Any:
        try:
            return None if value == NONE else kind(value)
        except ValueError:
            message = f"'{value[:50]}' is neither a number nor `{NONE}`"
            raise argparse.ArgumentTypeError(message) from None

    return read


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _say_when(args: argparse.Namespace) -> None:
    say(f"A gateway that runs knows within {load(args.config).store.staleness:g} s.")


def _with(args: argparse.Namespace, work: Callable[[Brakes], Awaitable[Any]]) -> Any:
    return on_store(args, lambda store: work(Brakes(store)))
