"""`statement`: what every cost centre pays for a month, made from the books and closed for good."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmgw_core.statements.export import amount, as_csv, as_json, bound, facts
from llmgw_server.cli.database import actor
from llmgw_server.cli.errors import CommandError
from llmgw_server.cli.options import add_config, add_json, run_with
from llmgw_server.cli.output import say, say_json, say_table
from llmgw_server.cli.statement_books import on_statements
from llmgw_server.cli.statement_checks import add_checks

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from llmgw_core.statements.lines import Line
    from llmgw_core.statements.records import Check, Statement
    from llmgw_core.statements.service import Statements


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the actions."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    create = _action(actions, "create", "make the statement of a month, or make it anew", _create)
    create.add_argument("--tz", default="", metavar="ZONE", help="default: statements.timezone")
    _action(actions, "close", "close the statement of a month for good", _close)
    listing = _action(actions, "list", "list statements", _list, period=False)
    add_json(listing)
    show = _action(actions, "show", "the lines of a statement, and that they add up", _show)
    add_json(show)
    export = _action(actions, "export", "write a statement as a file", _export)
    form = export.add_mutually_exclusive_group(required=True)
    form.add_argument("--csv", action="store_true", help="for spreadsheets and accounting")
    form.add_argument("--json", action="store_true", help="for programs")
    export.add_argument("--output", metavar="FILE", help="default: standard output")
    add_checks(lambda name, summary, run: _action(actions, name, summary, run))


def _action(
    actions: Any,
    name: str,
    summary: str,
    run: Callable[[argparse.Namespace], None],
    *,
    period: bool = True,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
    )
    if period:
        parser.add_argument("period", metavar="MONTH", help="like 2026-10, or the statement's id")
    parser.add_argument(
        "--org", metavar="ORG", help="of one organisation (id or name); default: of everybody"
    )
    add_config(parser)
    run_with(parser, run)
    return parser


def _create(args: argparse.Namespace) -> None:
    async def work(statements: Statements) -> tuple[Statement, Sequence[Line]]:
        made = await statements.create(
            args.period, timezone=args.tz, organization=args.org, actor=actor()
        )
        return made, await statements.lines(made)

    statement, lines = on_statements(args, work)
    say(f"Made the statement of {statement.period} ({statement.id}), which is open.")
    say_sums(statement, len(lines))


def _close(args: argparse.Namespace) -> None:
    async def work(statements: Statements) -> tuple[Statement, Sequence[Line]]:
        made = await statements.close(args.period, organization=args.org, actor=actor())
        return made, await statements.lines(made)

    statement, lines = on_statements(args, work)
    say(f"Closed the statement of {statement.period} ({statement.id}); it never changes now.")
    say_sums(statement, len(lines))


def _list(args: argparse.Namespace) -> None:
    found = on_statements(args, lambda statements: statements.find_all(organization=args.org))
    if args.json:
        say_json([facts(statement) for statement in found])
        return
    rows = [
        (
            each.period,
            each.timezone,
            each.scope or "everybody",
            each.state,
            amount(each.summary.cost, each.summary.decimals),
            amount(each.summary.charge, each.summary.decimals),
            each.summary.currency,
            each.id,
        )
        for each in found
    ]
    titles = ("MONTH", "ZONE", "OF", "STATE", "COST", "CHARGE", "CURRENCY", "ID")
    say_table(titles, rows, right="COST CHARGE")


def _show(args: argparse.Namespace) -> None:
    statement, lines = read(args)
    if args.json:
        sys.stdout.write(as_json(statement, lines).decode())
        return
    span = statement.span
    say(
        f"{statement.period} of {statement.timezone}, {statement.state}: {span.begin} to {span.end}"
        f", {span.hours} hours."
    )
    say_sums(statement, len(lines))
    rows = [
        (
            number,
            line.kind if line.kind != "adjustment" else f"adjusts {line.period}",
            line.code,
            line.model,
            line.token_class,
            line.quantity,
            amount(line.cost, line.decimals),
            amount(line.charge, line.decimals),
        )
        for number, line in enumerate(lines, 1)
    ]
    titles = ("LINE", "KIND", "CENTER", "MODEL", "CLASS", "QUANTITY", "COST", "CHARGE")
    say_table(titles, rows, right="LINE QUANTITY COST CHARGE")


def _export(args: argparse.Namespace) -> None:
    statement, lines = read(args)
    write(args, (as_csv if args.csv else as_json)(statement, lines))


def read(args: argparse.Namespace) -> tuple[Statement, Sequence[Line]]:
    """The statement that is asked for, with its lines."""

    async def work(statements: Statements) -> tuple[Statement, Sequence[Line]]:
        found = await statements.get(args.period, organization=args.org)
        return found, await statements.lines(found)

    return on_statements(args, work)


def write(args: argparse.Namespace, data: bytes) -> None:
    """Put a file where `--output` says, byte for byte. Raises `CommandError`."""
    if args.output is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        return
    try:
        Path(args.output).write_bytes(data)
    except OSError as error:
        raise CommandError(f"{args.output} cannot be written: {error.strerror}.") from None


def say_sums(statement: Statement, lines: int) -> None:
    """What it comes to, and the proof that it is what the ledger says."""
    summary = statement.summary
    say(
        f"{lines:,} lines, {summary.calls:,} calls: cost {_shown(statement, summary.cost)},"
        f" charge {_shown(statement, summary.charge)} {summary.currency}."
    )
    for check in summary.checks:
        say(_sentence(check))
    for pool in summary.pools:
        say(
            f"Pool {pool.name}: {_shown(statement, pool.cost)} for {pool.hours} hours,"
            f" {_shown(statement, pool.idle)} of it idle."
        )


def _sentence(check: Check) -> str:
    parts = (
        f"{side}: ledger total {amount(ledger, 9)}, statement total {amount(lines, 9)}, rounding"
        f" difference {amount(lines - ledger, 9)}"
        for side, ledger, lines in (
            ("cost", check.ledger_cost, check.lines_cost),
            ("charge", check.ledger_charge, check.lines_charge),
        )
    )
    return f"{check.period} {'; '.join(parts)}; bound {bound(check)}."


def _shown(statement: Statement, nano: int) -> str:
    return amount(nano, statement.summary.decimals)
