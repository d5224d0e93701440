"""`export`: the rows of the ledger as a file that can be gone on with."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

from llmgw_core.reports.raw_rows import COLUMNS, as_json_lines, pages, values
from llmgw_core.statements.export import csv_bytes
from llmgw_core.store.ledger import Ledger
from llmgw_core.store.ledger_queries import CallFilter
from llmgw_server.cli.database import on_store
from llmgw_server.cli.options import add_config, past, run_with
from llmgw_server.cli.output import remark

if TYPE_CHECKING:
    import datetime as dt

    from llmgw_core.store.engine import Store


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the options."""
    add_config(parser)
    moment = "calls that began since this date (2026-01-31, UTC) or span back from now (7d, 12h)"
    parser.add_argument("--since", type=past, metavar="WHEN", help=moment)
    parser.add_argument("--until", type=past, metavar="WHEN", help="and before this one")
    parser.add_argument(
        "--after",
        type=_cursor,
        default=0,
        metavar="CURSOR",
        help="only what came on the books behind this row: the last one of the file before",
    )
    parser.add_argument("--format", choices=("csv", "jsonl"), default="jsonl")
    parser.add_argument("--out", type=Path, metavar="FILE", help="append to it (default: print)")
    run_with(parser, _export)


def _cursor(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise argparse.ArgumentTypeError("a cursor is a whole number, 0 or more")
    return int(text)


def _export(args: argparse.Namespace) -> None:
    wanted = CallFilter(since_ns=_nanoseconds(args.since), until_ns=_nanoseconds(args.until))
    out = args.out
    if out is None:
        written, last = on_store(args, lambda store: _write(args, store, wanted, sys.stdout.buffer))
        sys.stdout.buffer.flush()
    else:
        with out.open("ab") as file:
            written, last = on_store(args, lambda store: _write(args, store, wanted, file))
    remark(f"{written:,} rows; go on with --after {last}.")


async def _write(
    args: argparse.Namespace, store: Store, wanted: CallFilter, file: IO[bytes]
) -> tuple[int, int]:
    """How many rows there were, and the cursor of the last one."""
    written, last = 0, args.after
    if args.format == "csv" and not (file.seekable() and file.tell()):
        file.write(csv_bytes(COLUMNS, ()))
    async for rows in pages(Ledger(store), args.after, wanted):
        if args.format == "csv":
            file.write(_without_titles(csv_bytes((), map(values, rows))))
        else:
            file.write(as_json_lines(rows))
        written, last = written + len(rows), rows[-1].cursor
    return written, last


def _without_titles(data: bytes) -> bytes:
    return data.partition(b"\r\n")[2]


def _nanoseconds(moment: dt.datetime | None) -> int:
    return 0 if moment is None else int(moment.timestamp() * 1000) * 10**6
