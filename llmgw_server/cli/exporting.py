"""`export`: the rows of the ledger as a file that can be gone on with."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from llmgw_core.reports.raw_rows import COLUMNS, as_json_lines, pages, values
from llmgw_core.statements.export import csv_bytes
from llmgw_core.store.ledger import Ledger
from llmgw_core.store.ledger_queries import CallFilter
from llmgw_server.cli.database import on_store
from llmgw_server.cli.errors import CommandError
from llmgw_server.cli.options import add_config, past, run_with
from llmgw_server.cli.output import remark

if TYPE_CHECKING:
    import datetime as dt

    from llmgw_core.store.engine import Store

_TAIL: Final = 1 << 20
"""The last row of a file is in so many bytes."""
_TITLES: Final = csv_bytes(COLUMNS, ())
_CSV_ROW: Final = re.compile(rb"([0-9]{1,18}),")
_JSON_ROW: Final = re.compile(rb'\{"cursor":([0-9]{1,18}),')


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
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="append to it what it does not have yet (default: print)",
    )
    run_with(parser, _export)


def _cursor(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise argparse.ArgumentTypeError("a cursor is a whole number, 0 or more")
    return int(text)


def _export(args: argparse.Namespace) -> None:
    if args.out is None:
        sys.stdout.flush()
        written, last = on_store(args, lambda store: _write(args, store, sys.stdout.buffer))
    else:
        try:
            with args.out.open("a+b") as file:
                written, last = on_store(args, lambda store: _write(args, store, file))
        except OSError as error:
            raise CommandError(
                f"{args.out} cannot be written: {error.strerror or error}."
            ) from None
    remark(f"{written:,} rows; go on with --after {last}.")


async def _write(args: argparse.Namespace, store: Store, file: IO[bytes]) -> tuple[int, int]:
    """How many rows there were, and the cursor of the last one."""
    wanted = CallFilter(since_ns=_nanoseconds(args.since), until_ns=_nanoseconds(args.until))
    written, last = 0, args.after
    if args.out is not None:
        last = max(last, _known(args, file))
    if args.format == "csv" and not (file.seekable() and file.seek(0, os.SEEK_END)):
        file.write(_TITLES)
    async for rows in pages(Ledger(store), last, wanted):
        if args.format == "csv":
            file.write(_without_titles(csv_bytes((), map(values, rows))))
        else:
            file.write(as_json_lines(rows))
        file.flush()
        written, last = written + len(rows), rows[-1].cursor
    return written, last


def _known(args: argparse.Namespace, file: IO[bytes]) -> int:
    """The cursor of the last row in the file, 0 if there is none. What is left of a row that was
    not written to its end is cut off. Raises `CommandError`."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - _TAIL)
    file.seek(start)
    tail = file.read()
    end = tail.rfind(b"\n") + 1
    line = tail[tail.rfind(b"\n", 0, max(0, end - 1)) + 1 : end]
    begins = start + end - len(line)
    pattern = _CSV_ROW if args.format == "csv" else _JSON_ROW
    row = pattern.match(line)
    titles = args.format == "csv" and begins == 0 and line == _TITLES
    torn = start == 0 and not end and _begins_like_one(args.format, tail)
    if size and not (row or titles or torn):
        raise CommandError(
            f"{args.out} is no file that export has written as {args.format}: give another one."
        )
    file.truncate(start + end)
    return int(row[1]) if row else 0


def _begins_like_one(form: str, text: bytes) -> bool:
    """Whether `text` may be what there is of a first line."""
    first = _TITLES if form == "csv" else b'{"cursor":'
    return first.startswith(text) or (form != "csv" and text.startswith(first))


def _without_titles(data: bytes) -> bytes:
    return data.partition(b"\r\n")[2]


def _nanoseconds(moment: dt.datetime | None) -> int:
    return 0 if moment is None else int(moment.timestamp() * 1000) * 10**6
