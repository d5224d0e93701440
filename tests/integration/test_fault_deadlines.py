"""A call has one deadline, however many deployments say nothing: everything stalls here, each
attempt would be waited for a minute, and the deadline is short."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from llmgw_core.config.schema_routing import ModelRouting, RoutingConfig
from llmgw_core.domain.deployment import Timeouts
from llmgw_core.testing.faults.server import FaultServer
from llmgw_core.testing.installation import at, served_by

if TYPE_CHECKING:
    from llmgw_core.config.schema import ModelConfig
    from llmgw_core.testing.client import MemorySink
    from llmgw_core.testing.installation import Install

DEADLINE = 0.5
FAR = 30.0
"""Less than any single attempt may take, and more than a busy machine needs for all of them."""
MINUTE = Timeouts(60.0, 60.0, 60.0, 60.0)
SILENT = ("stall", "stall-in-head", "stall-after-head", "role-stall", "comments-stall")


class Cell(NamedTuple):
    """One call."""

    fault: str
    stream: bool
    arrangement: str

    @property
    def model(self) -> str:
        return f"{self.fault}.{self.stream}.{self.arrangement}"


CELLS = [
    Cell(fault, stream, arrangement)
    for fault in SILENT
    for stream in (False, True)
    for arrangement in ("alone", "sibling", "fallback")
]


def models(server: FaultServer, transport: str) -> dict[str, ModelConfig]:
    found = {}
    for cell in CELLS:
        made = [
            at(server, name, model=f"fault-{cell.fault}", transport=transport, timeouts=MINUTE)
            for name in ("a", "b")
        ]
        count = 2 if cell.arrangement == "sibling" else 1
        fallbacks = (cell.model + "-too",) if cell.arrangement == "fallback" else ()
        found[cell.model] = served_by(*made[:count], fallbacks=fallbacks)
        if fallbacks:
            found[fallbacks[0]] = served_by(made[0], routing=ModelRouting(deadline_seconds=60.0))
    return found


@pytest.mark.parametrize("transport", ["httptools", "aiohttp"])
async def test_silence_ends_at_the_deadline_of_the_call(installed: Install, transport: str) -> None:
    async with FaultServer() as server:
        here = await installed(
            models(server, transport), routing=RoutingConfig(deadline_seconds=DEADLINE)
        )

        async def call(cell: Cell) -> tuple[MemorySink, float]:
            begun = time.monotonic()
            reply = await here.client.chat(cell.model, stream=cell.stream)
            return reply, time.monotonic() - begun

        replies = await asyncio.gather(*(call(cell) for cell in CELLS))
        records = {record.model: record for record in await here.records()}
    assert records.keys() == {cell.model for cell in CELLS}
    for cell, (reply, seconds) in zip(CELLS, replies, strict=True):
        record = records[cell.model]
        assert DEADLINE * 0.9 < seconds < FAR, cell
        assert DEADLINE * 0.9e6 < record.duration_us < FAR * 1e6, cell
        error = reply.json() if reply.status != 200 else reply.chunks()[-1]
        assert error["error"]["code"] == "deadline_exceeded", cell
        assert b"[DONE]" not in reply.body
        assert (record.status, record.error_code) == ("failed", "deadline_exceeded"), cell
        # The first one has taken all the time that there was.
        assert [attempt.outcome for attempt in record.attempts] == ["timeout"], cell
        assert record.attempts[0].deployment == f"{cell.model}/a"
