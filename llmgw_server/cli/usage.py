"""`usage`: what was used and what it cost, from the ledger."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, cast, get_args

from llmgw_core.config.load import load
from llmgw_core.domain.errors import GatewayError
from llmgw_core.reports.currencies import usage_by_currency
from llmgw_core.statements.export import amount, csv_bytes
from llmgw_core.store.ledger import Ledger
from llmgw_core.store.usage_report import Dimension, UsageRow
from llmgw_core.tenancy.records import KINDS, ORGANIZATION
from llmgw_core.tenancy.service import Tenancy
from llmgw_server.cli.database import on_store
from llmgw_server.cli.errors import CommandError
from llmgw_server.cli.options import add_config, add_json, past, run_with
from llmgw_server.cli.output import money, say, say_json, say_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.config.schema import Config
    from llmgw_core.store.engine import Store

DEFAULT = "organization,model"
NAMED = ("organization", "team", "user", "key", "cost_center")
AMOUNTS = ("cost", "charge")
COUNTS = ("calls", "input_tokens", "output_tokens", "cost", "charge", "estimated_calls")
FIGURES = UsageRow.__struct_fields__[2:]
EXACT = ("model", "served_model", "deployment", "endpoint", "price")
"""Filters whose value is what the books have."""


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
    for kind in KINDS.values():
        parser.add_argument(f"--{kind.level}", metavar="NAME", help="only this one: id or name")
    parser.add_argument("--cost-center", metavar="ID", help="only this one")
    for name in EXACT:
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, metavar="NAME", action="append", help="only this; repeatable")
    parser.add_argument("--wide", action="store_true", help="every class of tokens")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print CSV, for a spreadsheet")
    add_json(form)
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
    config = load(args.config)
    by = tuple(name for name in args.by if name != "currency")  # each line has it anyway
    rows = on_store(args, lambda store: _rows(args, by, store, config))
    if args.json:
        say_json([_json(by, row, currency) for row, currency in rows])
    elif args.csv:
        _csv(by, rows)
    elif not any(row.calls for row, _ in rows):
        _say_nothing(args)
    else:
        _table(by, rows, wide=args.wide)


def _say_nothing(args: argparse.Namespace) -> None:
    if _given(args):
        say("No usage that fits.")
    else:
        say("No usage in this time." if args.since or args.until else "No usage yet.")


async def _rows(
    args: argparse.Namespace, by: Sequence[Dimension], store: Store, config: Config
) -> list[tuple[UsageRow, str]]:
    filters: dict[Dimension, Any] = dict(_given(args))
    tenancy = Tenancy(store)
    if args.organization:
        found = await tenancy.get(ORGANIZATION, args.organization)
        filters["organization"] = found.id
    for kind in KINDS.values():
        reference = getattr(args, kind.level)
        if reference and kind is not ORGANIZATION:
            named = await tenancy.get(kind, reference, organization=args.organization)
            filters[cast("Dimension", kind.level)] = named.id
    try:
        return await usage_by_currency(
            Ledger(store),
            config.reports,
            by,
            args.since,
            args.until,
            filters,
            currency=config.accounting.currency,
        )
    except GatewayError as error:
        raise CommandError(error.message) from None


def _given(args: argparse.Namespace) -> dict[Dimension, Any]:
    """The filters, as they were written."""
    names = (*KINDS, "cost_center", *EXACT)
    return {
        cast("Dimension", name): value for name in names if (value := getattr(args, name, None))
    }


def _json(by: Sequence[Dimension], row: UsageRow, currency: str) -> dict[str, object]:
    line: dict[str, object] = {}
    for dimension, id, name in zip(by, row.ids, row.names, strict=True):
        line[dimension] = id
        if dimension in NAMED:
            line[f"{dimension}_name"] = name
    for name in FIGURES:
        line[f"{name}_nano" if name in AMOUNTS else name] = getattr(row, name)
    return {**line, "currency": currency}


def _csv(by: Sequence[Dimension], rows: Sequence[tuple[UsageRow, str]]) -> None:
    """Amounts in whole units, exact."""
    titles: list[str] = []
    for dimension in by:
        titles += (dimension, f"{dimension}_name") if dimension in NAMED else (dimension,)
    lines = [
        [
            *(
                cell
                for dimension, id, name in zip(by, row.ids, row.names, strict=True)
                for cell in ((id, name) if dimension in NAMED else (id,))
            ),
            *(_figure(row, each) for each in FIGURES),
            currency,
        ]
        for row, currency in rows
    ]
    sys.stdout.flush()
    sys.stdout.buffer.write(csv_bytes((*titles, *FIGURES, "currency"), lines))


def _figure(row: UsageRow, name: str) -> str | int:
    value: int = getattr(row, name)
    return amount(value, 9) if name in AMOUNTS else value


def _table(by: Sequence[Dimension], rows: Sequence[tuple[UsageRow, str]], *, wide: bool) -> None:
    """Amounts of several currencies have a total each."""
    more = [each for each in FIGURES if wide and each not in COUNTS]
    currencies = sorted({currency for _, currency in rows})
    lines = []
    for row, currency in rows:
        lines.append((*row.names, *_figures([row], currency, currencies, more)))
    if len(rows) > 1:
        for currency in currencies:
            summed = [row for row, unit in rows if unit == currency]
            figures = _figures(summed, currency, currencies, more)
            lines.append((*["TOTAL", *[" "] * (len(by) - 1)][: len(by)], *figures))
    unit = f"/{currencies[0]}" if len(currencies) == 1 else ""
    numbers = ("CALLS", "INPUT", "OUTPUT", f"COST{unit}", f"CHARGE{unit}", "ESTIMATED")
    extra = [each.removesuffix("_tokens").upper() for each in more]
    titles = (*(name.upper() for name in by), *([] if unit else ["CURRENCY"]), *numbers, *extra)
    say_table(titles, lines, right=" ".join((*numbers, *extra)))


def _figures(
    rows: Sequence[UsageRow], currency: str, currencies: Sequence[str], more: Sequence[str]
) -> tuple[int | str, ...]:
    unit = (currency,) if len(currencies) > 1 else ()
    return (*unit, *_cells(rows), *_more(rows, more))


def _cells(rows: Sequence[UsageRow]) -> tuple[int | str, ...]:
    """The sums of `rows`; the last one is the share of calls whose tokens were estimated."""
    calls, inputs, outputs, cost, charge, estimated = (
        sum(getattr(row, name) for row in rows) for name in COUNTS
    )
    share = f"{100 * estimated / calls:.0f}%" if calls else "-"
    return (calls, inputs, outputs, money(cost), money(charge), share)


def _more(rows: Sequence[UsageRow], names: Sequence[str]) -> list[int]:
    return [sum(getattr(row, name) for row in rows) for name in names]
