"""`statement explain` and `statement reconcile`: a line down to its calls, and a provider's invoice
beside the books."""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from contextlib import aclosing
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmgw_core.config.load import load
from llmgw_core.statements.explaining import exact, explained, together
from llmgw_core.statements.export import csv_bytes, line_facts
from llmgw_core.statements.invoices import Reading
from llmgw_core.statements.lines import rounded_to
from llmgw_core.statements.reconciling import Tolerance
from llmgw_server.cli.errors import CommandError
from llmgw_server.cli.options import add_json
from llmgw_server.cli.output import say, say_json, say_table
from llmgw_server.cli.statement_books import on_statements

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmgw_core.config.schema import Config
    from llmgw_core.statements.explaining import CallShare
    from llmgw_core.statements.lines import Line
    from llmgw_core.statements.reconciling import Comparison
    from llmgw_core.statements.records import Statement
    from llmgw_core.statements.service import Statements

    Add = Callable[[str, str, Callable[[argparse.Namespace], None]], argparse.ArgumentParser]

CALLS = (
    "call",
    "corrects",
    "time",
    "entry",
    "organization",
    "team",
    "user",
    "key",
    "deployment",
    "status",
    "usage",
    "quantity",
    "cost",
    "charge",
)
COMPARED = (
    "model",
    "class",
    "verdict",
    "booked_quantity",
    "invoiced_quantity",
    "booked",
    "invoiced",
    "difference",
    "percent",
)
_SHOWN = 20
_LARGEST = 10**12


def add_checks(add: Add) -> None:
    """Add the two actions."""
    explain = add("explain", "the calls that a line of a statement is made of", _explain)
    explain.add_argument("--line", type=int, required=True, metavar="N", help="its number")
    form = explain.add_mutually_exclusive_group()
    form.add_argument("--calls", action="store_true", help="list every call, not only the first")
    form.add_argument("--csv", action="store_true", help="every call, as CSV")
    reconcile = add("reconcile", "compare a provider's invoice with the books", _reconcile)
    reconcile.add_argument("--file", required=True, metavar="CSV", help="the invoice")
    reconcile.add_argument(
        "--deployments",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only what these serve, like '*/azure'; may be repeated",
    )
    for option, what in (
        ("column", "the title of a column: date, model, class, quantity, amount or currency"),
        ("model", "what the invoice calls a model"),
        ("class", "what the invoice calls a class of tokens"),
    ):
        mapping = "NAME=TITLE" if option == "column" else "INVOICE=OURS"
        reconcile.add_argument(
            f"--{option}",
            action="append",
            default=[],
            type=_pair,
            metavar=mapping,
            help=f"{what}; may be repeated",
        )
    numbers = (
        ("unit", "1", "what one in the column of quantities stands for, like 1000000"),
        ("rate", "1", "what one of the invoice's currency is worth in the books'"),
        ("percent", "0.5", "figures that differ by so much of the invoice's are the same"),
        ("amount", "0.01", "and so are amounts that differ by no more than this"),
    )
    for option, default, what in numbers:
        reconcile.add_argument(
            f"--{option}", type=_number, default=default, metavar="X", help=f"{what} ({default})"
        )
    reconcile.add_argument("--comma", action="store_true", help="numbers are like 1.234,56")
    reconcile.add_argument("--delimiter", default="", help="between columns (default: found out)")
    reconcile.add_argument("--csv", action="store_true", help="print CSV instead of a table")
    add_json(reconcile)


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign and value):
        raise argparse.ArgumentTypeError(f"'{text}' is no pair NAME=VALUE")
    return name, value


def _number(text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal(-1)
    if not value.is_finite() or not 0 <= value <= _LARGEST:
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 0 to {_LARGEST}")
    return value


def _explain(args: argparse.Namespace) -> None:
    async def work(statements: Statements) -> None:
        statement = await statements.get(args.period, organization=args.org)
        lines = await statements.lines(statement)
        if not 1 <= args.line <= len(lines):
            raise CommandError(
                f"The statement of {statement.period} has {len(lines):,} lines; there is no line"
                f" {args.line}."
            )
        line = lines[args.line - 1]
        if not args.csv:
            _say_line(statement, args.line, line)
        await _say_calls(args, statements, statement, line)

    on_statements(args, work)


def _say_line(statement: Statement, number: int, line: Line) -> None:
    facts = line_facts(statement, number, line)
    say(
        f"Line {number}: {line.kind} of {line.period} on {line.code or 'no cost centre'},"
        f" {line.model}, {line.token_class}: {line.quantity:,} x {facts['cost_rate'] or '-'} ="
        f" {facts['cost']} cost, x {facts['charge_rate'] or '-'} = {facts['charge']} charge"
        f" ({statement.summary.currency} per {_per(line)})."
    )


def _per(line: Line) -> str:
    return "million tokens" if line.unit == "token" else line.unit


async def _say_calls(
    args: argparse.Namespace, statements: Statements, statement: Statement, line: Line
) -> None:
    counted, sums, listed = 0, (0, 0, 0), 0
    if args.csv:
        sys.stdout.write(csv_bytes(CALLS, ()).decode())
    async with aclosing(explained(statements.store, statement, line)) as pages:
        async for page in pages:
            counted += len(page)
            sums = (sums[0] + (found := together(page))[0], sums[1] + found[1], sums[2] + found[2])
            if args.csv:
                rows = csv_bytes(CALLS, map(_cells, page)).decode()
                sys.stdout.write(rows.partition("\r\n")[2])
            elif args.calls or listed < _SHOWN:
                shown = page if args.calls else page[: _SHOWN - listed]
                _table(shown, titles=not listed)
                listed += len(shown)
    if args.csv:
        return
    if counted > listed:
        say(f"... and {counted - listed:,} more; --calls or --csv lists them all.")
    cost, charge = (rounded_to(amount, line.decimals) for amount in sums[1:])
    fits = (sums[0], cost, charge) == (line.quantity, line.cost, line.charge)
    verdict = "as the line says" if fits else "but the line says something else"
    say(
        f"{counted:,} row{_s(counted)}: quantity {sums[0]:,}, cost {exact(sums[1])}, charge"
        f" {exact(sums[2])} before rounding, {verdict}."
    )


def _table(shares: Sequence[CallShare], *, titles: bool) -> None:
    columns = ("CALL", "TIME", "ENTRY", "DEPLOYMENT", "USAGE", "QUANTITY", "COST", "CHARGE")
    rows = [
        (
            each.call_id,
            _moment(each.started_ns),
            each.entry,
            each.deployment,
            each.usage_source,
            each.quantity,
            exact(each.cost),
            exact(each.charge),
        )
        for each in shares
    ]
    if titles:
        say_table(columns, rows, right="QUANTITY COST CHARGE")
    else:
        for row in rows:
            say("  ".join(str(cell) for cell in row))


def _cells(share: CallShare) -> tuple[object, ...]:
    return (
        share.call_id,
        share.corrects,
        _moment(share.started_ns),
        share.entry,
        share.organization_id,
        share.team_id,
        share.user_id,
        share.key_id,
        share.deployment,
        share.status,
        share.usage_source,
        share.quantity,
        exact(share.cost),
        exact(share.charge),
    )


def _s(number: int) -> str:
    return "" if number == 1 else "s"


def _moment(instant_ns: int) -> str:
    seconds, rest = divmod(instant_ns, 10**9)
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{moment}.{rest:09d}Z"


def _reconcile(args: argparse.Namespace) -> None:
    try:
        data = Path(args.file).read_bytes()
    except OSError as error:
        raise CommandError(f"{args.file} cannot be read: {error.strerror}.") from None
    how = Reading(
        columns=dict(args.column),
        models=dict(args.model),
        classes=dict(getattr(args, "class")),
        unit=Decimal(args.unit),
        rate=Decimal(args.rate),
        comma=args.comma,
        delimiter=args.delimiter,
    )
    names = upstream_names(load(args.config))

    async def work(statements: Statements) -> tuple[Statement, list[Comparison], int]:
        statement = await statements.get(args.period, organization=args.org)
        return statement, *await statements.reconcile(
            statement,
            data,
            how,
            names=names,
            patterns=args.deployments,
            tolerance=Tolerance(Decimal(args.percent), Decimal(args.amount)),
        )

    statement, found, outside = on_statements(args, work)
    _say_compared(args, statement, found, outside)
    wrong = sum(each.verdict != "matched" for each in found)
    if wrong:
        raise CommandError(
            f"{wrong} of {len(found)} lines of the invoice and the books do not agree."
        )


def upstream_names(config: Config) -> dict[str, str]:
    """How its provider calls what a deployment serves, by the id of the deployment."""
    return {
        f"{name}/{deployment.name}": deployment.model or name
        for name, model in config.models.items()
        for deployment in model.deployments
    }


def _say_compared(
    args: argparse.Namespace, statement: Statement, found: list[Comparison], outside: int
) -> None:
    rows = [_compared(each) for each in found]
    if args.json:
        say_json([dict(zip(COMPARED, row, strict=True)) for row in rows])
        return
    if args.csv:
        sys.stdout.write(csv_bytes(COMPARED, rows).decode())
        return
    say_table(
        [title.upper().replace("_", " ") for title in COMPARED],
        rows,
        right="BOOKED QUANTITY INVOICED QUANTITY BOOKED INVOICED DIFFERENCE PERCENT",
    )
    if outside:
        say(f"Not about {statement.period}: {outside:,} line{_s(outside)} of the invoice.")
    booked = sum((each.booked for each in found), Decimal(0))
    invoiced = sum((each.invoiced for each in found), Decimal(0))
    currency = statement.summary.currency
    say(
        f"Booked {booked:.6f}, invoiced {invoiced:.6f}, difference {invoiced - booked:+.6f}"
        f" {currency}."
    )


def _compared(each: Comparison) -> tuple[Any, ...]:
    return (
        each.model,
        each.token_class,
        each.verdict,
        _quantity(each.booked_quantity),
        _quantity(each.invoiced_quantity),
        f"{each.booked:.6f}",
        f"{each.invoiced:.6f}",
        f"{each.difference:+.6f}",
        "" if each.percent is None else f"{each.percent:+.2f}",
    )


def _quantity(value: Decimal | None) -> str:
    if value is None:
        return ""
    return f"{value:f}".rstrip("0").rstrip(".") if "." in f"{value:f}" else f"{value:f}"
