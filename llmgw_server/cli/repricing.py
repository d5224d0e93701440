"""`reprice`: calls of a past period at the prices that are configured now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.store.ledger import Ledger
from llmgw_core.tenancy.repricing import Repricing
from llmgw_server.cli.database import actor, on_store
from llmgw_server.cli.options import add_config, add_json, past, run_with
from llmgw_server.cli.output import money, say, say_json, say_table
from llmgw_server.cli.price_book import priced

if TYPE_CHECKING:
    import argparse
    import datetime as dt
    from collections.abc import Sequence

    from llmgw_core.tenancy.repricing import ModelChange


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the options."""
    add_config(parser)
    moment = "a date (2026-01-31, UTC) or a span back from now (7d, 12h)"
    parser.add_argument("--since", type=past, required=True, metavar="WHEN", help=moment)
    parser.add_argument("--until", type=past, metavar="WHEN", help="likewise (default: now)")
    parser.add_argument("--model", default="", help="only calls of this model")
    parser.add_argument(
        "--from-currency",
        default="",
        metavar="CODE",
        help="calls, too, that are booked in this currency, from before accounting.currency was"
        " changed; not of closed statements",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would change, book nothing"
    )
    add_json(parser)
    run_with(parser, _reprice)


def _reprice(args: argparse.Namespace) -> None:
    found = priced(args.config)
    since, until = _ns(args.since), _ns(args.until or past("0m"))
    currency = found.config.accounting.currency
    changes = on_store(
        args,
        lambda store: Repricing(store, Ledger(store), found.prices, currency).run(
            since,
            until,
            actor=actor(),
            model=args.model,
            from_currency=args.from_currency,
            dry_run=args.dry_run,
        ),
    )
    if args.json:
        say_json({"dry_run": args.dry_run, "currency": currency, "models": changes})
    elif not changes:
        say("There are no calls in this period.")
    else:
        _table(changes, currency)
        kept = sum(each.kept for each in changes)
        if kept:
            say(f"{kept} attempts are on deployments without a price now, and keep what they had.")
        if args.dry_run:
            say("Nothing was booked: this was a dry run.")


def _ns(moment: dt.datetime) -> int:
    return int(moment.timestamp()) * 10**9


def _table(changes: Sequence[ModelChange], currency: str) -> None:
    """The currency of what was before is told where it is another one; then there is no total."""
    foreign = any(each.currency_before != currency for each in changes)
    rows = [
        (each.model, *([each.currency_before] if foreign else []), *_numbers([each]))
        for each in changes
    ]
    if len(rows) > 1 and not foreign:
        rows.append(("TOTAL", *_numbers(changes)))
    before, after = ("", f"/{currency}") if foreign else (f"/{currency}", "")
    numbers = (
        "CALLS",
        "CHANGED",
        f"COST{before}",
        f"NEW-COST{after}",
        f"CHARGE{before}",
        f"NEW-CHARGE{after}",
    )
    say_table(("MODEL", *(["WAS-IN"] if foreign else []), *numbers), rows, right=" ".join(numbers))


def _numbers(changes: Sequence[ModelChange]) -> tuple[str, ...]:
    counts = (sum(each.calls for each in changes), sum(each.changed for each in changes))
    amounts = ("cost_before", "cost_after", "charge_before", "charge_after")
    sums = (sum(getattr(each, name) for each in changes) for name in amounts)
    return (*map(str, counts), *map(money, sums))
