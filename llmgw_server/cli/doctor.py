"""`doctor`: does every configured limit bite? Canary calls prove it, in a copy of the gateway whose
upstreams are an echo; the running gateway, its books and its upstreams are left alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from llmgw_core.doctor.examine import SECONDS, examine
from llmgw_server.cli.errors import CommandError
from llmgw_server.cli.options import add_config, add_json, run_with, seconds
from llmgw_server.cli.output import say, say_json, say_table

if TYPE_CHECKING:
    import argparse

    from llmgw_core.doctor.verdict import Report


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the options."""
    add_config(parser)
    parser.add_argument(
        "--seconds",
        type=seconds,
        default=SECONDS,
        metavar="SECONDS",
        help=f"after that the rest is left untried (default: {SECONDS:g})",
    )
    add_json(parser)
    run_with(parser, _examine)


def _examine(args: argparse.Namespace) -> None:
    report = asyncio.run(examine(args.config, seconds=args.seconds))
    if args.json:
        say_json({"limits": report.verdicts, "cannot_bite": len(report.problems)})
    else:
        _print(report)
    if report.problems:
        number, of = len(report.problems), len(report.verdicts)
        raise CommandError(f"{number} of {of} limits cannot bite as they are set.")


def _print(report: Report) -> None:
    if not report.verdicts:
        say("No limit is set anywhere.")
        return
    rows = [
        (
            each.where,
            each.what,
            each.canaries,
            "bites" if each.problem is None else each.problem.kind.upper(),
        )
        for each in report.verdicts
    ]
    say_table(("WHERE", "LIMIT", "CANARIES", ""), rows, right="CANARIES")
    for each in report.problems:
        assert each.problem is not None
        say("")
        say(f"{each.where}: {each.what} ({each.id})")
        say(f"  {each.problem.reason}")
        say(f"  {each.problem.remedy}")
