"""`prices import`: a public price map becomes prices for a configuration."""

from __future__ import annotations

import argparse
import datetime as dt
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from llmgw_server.cli.errors import CommandError
from llmgw_server.cli.options import run_with
from llmgw_server.cli.output import remark, say
from llmgw_server.cli.price_map import as_yaml, imported, read_map

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_server.cli.price_map import Imported


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("file", metavar="FILE", type=Path, help="the map, as JSON")
    parser.add_argument(
        "--models",
        metavar="GLOB",
        action="append",
        default=[],
        help="only these entries, e.g. 'gpt-4*'; may be repeated",
    )
    parser.add_argument(
        "--from", dest="since", metavar="DATE", type=_date, help="since when they hold"
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="a new file to write them into")
    run_with(parser, _import)


def _date(text: str) -> str:
    try:
        return dt.date.fromisoformat(text).isoformat()
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no date like 2026-03-01") from None


def _import(args: argparse.Namespace) -> None:
    try:
        entries = imported(read_map(args.file.read_text(encoding="utf-8")), args.models)
    except OSError as error:
        raise CommandError(f"{args.file} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise CommandError(f"{args.file} cannot be read as a price map: {error}") from None
    priced = [entry for entry in entries if entry.cost]
    if not priced:
        raise CommandError("No entry of the map with a price fits; names are case-sensitive.")
    text = as_yaml(priced, args.since or "")
    if args.out is None:
        say(text.rstrip())
    else:
        _write(args.out, text)
    _report(entries, len(priced))


def _write(file: Path, text: str) -> None:
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise CommandError(f"{file} exists; name a new file.") from None
    except OSError as error:
        raise CommandError(f"{file} cannot be written: {error.strerror}.") from None


def _report(entries: Sequence[Imported], priced: int) -> None:
    """On standard error, so that the prices alone can be piped on."""
    remark(f"{priced} of {len(entries)} entries have prices by tokens, images or calls.")
    without = [entry.model for entry in entries if not entry.cost]
    if without:
        remark(f"left out, without such a price: {', '.join(without)}")
    for key, count in sorted(Counter(k for e in entries for k in e.left_out).items()):
        remark(f"left out: {key} of {_entries(count)}; there is no class for it.")
    for entry in entries:
        for key in entry.rounded:
            remark(f"rounded to the smallest step, 0.000000001: {key} of {entry.model}.")


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"
