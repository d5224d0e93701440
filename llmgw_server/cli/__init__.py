"""The command line. Only the module of the command that is asked for gets imported.

Exit codes: 0 done; 1 it could not be done (one sentence on standard error says why); 2 the
command line is wrong; 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "serve": ("serving", "run the gateway"),
    "demo": ("demo", "run it with a small language model of its own, to try it out"),
    "check": ("checking", "validate a configuration"),
    "config": ("configuring", "its schema, what holds, what was loaded, and the way back"),
    "orgs": ("orgs", "manage organisations"),
    "teams": ("teams", "manage teams and their members"),
    "users": ("users", "manage users"),
    "keys": ("keys", "manage API keys"),
    "cost-centers": ("cost_centers", "manage cost centres, and whose calls go on them"),
    "budgets": ("budgets", "what they may spend by the day, week, month or in total"),
    "brakes": ("brakes", "how far loops of their keys and sessions may go"),
    "statement": ("statement", "what every cost centre pays for a month"),
    "models": ("catalog", "list the configured models"),
    "plugins": ("plugins", "what is installed and enabled, with hooks, times and failures"),
    "calls": ("calls", "what became of one call, and calls as they end"),
    "top": ("top", "what a running gateway does now"),
    "faults": ("faults", "an upstream that fails as it is told to, to try out what happens"),
    "deployments": ("deployments", "how every deployment is: state, load, latency, ejections"),
    "explain": ("explaining", "why a call would go where it goes, without making it"),
    "doctor": ("doctor", "prove with canary calls that every configured limit bites"),
    "switch": ("switching", "take something out of service at once, and put it back"),
    "prices": ("prices", "what calls cost and why, catalogues, and the import of a price map"),
    "reprice": ("repricing", "book what calls of the past cost more or less at prices of now"),
    "usage": ("usage", "what was used and what it cost"),
    "export": ("exporting", "the rows of the ledger, for whoever bills by them"),
    "refused": ("refused", "calls that the ledger does not take, and another try to book them"),
}
"""Command → its module in this package and its summary."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: this process's); returns the exit code."""
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:  # anywhere, in the imports of a command, too
        return 130


def _run(arguments: list[str]) -> int:
    if sys.stdout is None:  # closed by whoever started this
        sys.stdout = io.StringIO()
    parser = _parser(next((word for word in arguments if not word.startswith("-")), ""))
    args = parser.parse_args(arguments)
    from llmgw_server.cli.errors import EXPECTED, sentence  # noqa: PLC0415 - not for --help
    from llmgw_server.cli.output import remark  # noqa: PLC0415

    try:
        args.run(args)
        sys.stdout.flush()
    except EXPECTED as error:
        remark(f"llmgw-server: {sentence(error)}")
        return 1
    except BrokenPipeError:
        # The reader of a pipe left; nothing more can be said to it, at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def sentence_of(summary: str) -> str:
    """A summary as the first sentence of a help page."""
    return f"{summary[0].upper()}{summary[1:]}."


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llmgw-server",
        description="An LLM gateway: one OpenAI-compatible API for every model.",
        epilog="Exit codes: 0 done, 1 not possible, 2 wrong command line, 130 interrupted.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=sentence_of(summary))
        if name == command:
            importlib.import_module(f"{__name__}.{module}").configure(sub, name)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # noqa: PLC0415 - costs every other command time

        sys.stdout.write(f"llmgw {version('llmgw')}\n")
        parser.exit()
