"""Appends records to a journal below the directory given, until it is killed; says the number of
each on its standard output once `append_usage` has returned."""

from __future__ import annotations

import os
import sys
from itertools import count
from pathlib import Path

from llmgw_core.accounting.journal import Journal
from llmgw_core.testing.usage_records import usage_record


def main(root: Path, name: str) -> None:
    journal = Journal(root, segment_bytes=16_384)
    for number in count():
        journal.append_usage(usage_record(call_id=f"{name}-{number}"))
        os.write(1, b"%d\n" % number)
        if journal.wants_spare:
            journal.prepare()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
