"""`usage`: what was used and what it cost, from the ledger."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, cast, get_args

from llmgw_core.config.load import load
from llmgw_core.store.ledger import Ledger
from llmgw_core.store.usage_report import Dimension, UsageRow
from llmgw_server.cli.database import on_store
from llmgw_server.cli.options import add_config, add_json, past, run_with
from llmgw_server.cli.output import money, say, say_json, say_table

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT = "organization,model"
NAMED = ("organization", "team", "user", "key")
AMOUNTS = ("cost", "charge")
COUNTS = ("calls", "input_tokens", "output_tokens", "cost", "charge", "estimated_calls")


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the options."""
    add_config(parser)
    parser.add_argument(
        "--by",
        type=dimensions,
        default=dimensions(DEFAULT),
        metavar="A,B",
        help=f"any of {', '.join(get_args(Dimension))} (default: {DEFAULT})",
    )
    moment = "a date (2026-01-31, UTC) or a span back from now (7d, 12h); whole hours count"
    parser.add_argument("--since", type=past, metavar="WHEN", help=moment)
    parser.add_argument("--until", type=past, metavar="WHEN", help="likewise")
    add_json(parser)
    run_with(parser, _usage)


def dimensions(text: str) -> tuple[Dimension, ...]:
    """`organization,model` as dimensions."""
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in found:
        if name not in get_args(Dimension):
            known = ", ".join(get_args(Dimension))
            raise argparse.ArgumentTypeError(f"'{name}' is none of {known}")
    return cast("tuple[Dimension, ...]", tuple(dict.fromkeys(found)))


def _usage(args: argparse.Namespace) -> None:
    currency = load(args.config).accounting.currency
    rows = on_store(args, lambda store: Ledger(store).usage(args.by, args.since, args.until))
    if args.json:
        say_json([_json(args.by, row, currency) for row in rows])
    elif not rows or not any(row.calls for row in rows):
        say("No usage yet." if not (args.since or args.until) else "No usage in this time.")
    else:
        _table(args.by, rows, currency)


def _json(by: Sequence[Dimension], row: UsageRow, currency: str) -> dict[str, object]:
    line: dict[str, object] = {}
    for dimension, id, name in zip(by, row.ids, row.names, strict=True):
        line[dimension] = id
        if dimension in NAMED:
            line[f"{dimension}_name"] = name
    for name in UsageRow.__struct_fields__[2:]:
        line[f"{name}_nano" if name in AMOUNTS else name] = getattr(row, name)
    return {**line, "currency": currency}


def _table(by: Sequence[Dimension], rows: Sequence[UsageRow], currency: str) -> None:
    cost, charge = f"COST/{currency}", f"CHARGE/{currency}"
    numbers = ("CALLS", "INPUT", "OUTPUT", cost, charge, "ESTIMATED")
    lines = [(*row.names, *_cells([row])) for row in rows]
    if len(rows) > 1:
        lines.append(("TOTAL", *[" "] * (len(by) - 1), *_cells(rows)))
    titles = (*(name.upper() for name in by), *numbers)
    say_table(titles, lines, right=" ".join(numbers))


def _cells(rows: Sequence[UsageRow]) -> tuple[int | str, ...]:
    """The sums of `rows`; the last one is the share of calls whose tokens were estimated."""
    calls, inputs, outputs, cost, charge, estimated = (
        sum(getattr(row, name) for row in rows) for name in COUNTS
    )
    share = f"{100 * estimated / calls:.0f}%"
    return (calls, inputs, outputs, money(cost), money(charge), share)
