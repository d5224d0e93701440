"""A gateway that keeps its books worse: `soak_worse.py forgetful|late serve ...`, else as
`llmgw-server`. It proves that the soak notices.

`forgetful` notes nothing of calls under way. `late` writes the journal some time after the reply.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from llmgw_core.accounting.journal import Journal
from llmgw_core.accounting.notes import Notes
from llmgw_server.cli import main

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.domain.usage import UsageRecord

LATE_SECONDS = 0.4

_append = Journal.append_usage


def _forget(_: Notes, __: Sequence[UsageRecord]) -> bool:
    return True


def _append_late(journal: Journal, record: UsageRecord) -> None:
    asyncio.get_running_loop().call_later(LATE_SECONDS, _append, journal, record)


if __name__ == "__main__":
    if sys.argv.pop(1) == "late":
        Journal.append_usage = _append_late  # type: ignore[method-assign, assignment]
    Notes.append = Notes.begin_anew = _forget  # type: ignore[method-assign, assignment]
    sys.exit(main())
