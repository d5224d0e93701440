"""Every fault x {complete, stream} x {alone, with a healthy sibling, with a fallback model}, on
both transports.

What fails before anything of an answer is there must not be seen by a client as long as somebody
else can serve it; a request that is refused is refused; what cannot be hidden ends truthfully. And
whatever happens, the call is on the books once, with its attempts, and within its deadline.

All cells of a transport run at once in one gateway; each test then looks at one of them.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trustme

from llmgw_core.config.schema_routing import RoutingConfig
from llmgw_core.config.schema_streams import StreamsConfig
from llmgw_core.domain.deployment import Timeouts
from llmgw_core.testing.faults.catalog import FAULTS, OK
from llmgw_core.testing.faults.server import FaultServer
from llmgw_core.testing.installation import at, install, served_by

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.config.schema import ModelConfig
    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.testing.client import MemorySink
    from llmgw_core.testing.faults.catalog import Effect
    from llmgw_core.testing.installation import Installation

DEADLINE = 10.0
"""Seconds of every call; what stalls is given up long before."""
BUDGET = 3
AT_ONCE = 32
UNTRUSTED = "tls-untrusted"
"""Not in the catalogue: it takes a certificate, and the fault is the client's mistrust."""
TRANSPORTS = {"httptools": None, "aiohttp": None, "httptools, with comments": 0.02}
"""And the seconds after which clients of streams that wait get a comment: their reply has begun
then with 200, which hides no less."""
ARRANGEMENTS = ("alone", "sibling", "fallback")
ALTERNATIVES = {
    "context-window": {"context_fallbacks": ("good",)},
    "content-policy": {"content_policy_fallbacks": ("good",)},
}
"""Two refusals that are not the last word: another model may take what this one does not."""
NAMES = (*(name for name in FAULTS if name != OK), UNTRUSTED)
SHORT, PATIENT = Timeouts(2.0, 0.2, 0.2, 5.0), Timeouts(5.0, 8.0, 8.0, 9.0)

# What a caller is told when nobody else is there: status and code.
TOLD: dict[str, tuple[int, str]] = {
    **dict.fromkeys(("refuse", "tls-plain", UNTRUSTED), (503, "upstream_unavailable")),
    **dict.fromkeys(("503", "503-seconds", "529"), (503, "upstream_overloaded")),
    **dict.fromkeys((n for n in NAMES if n.startswith("429")), (429, "upstream_rate_limited")),
    **dict.fromkeys(("401", "402", "403"), (502, "upstream_credentials_exhausted")),
    **dict.fromkeys((n for n in NAMES if "stall" in n), (504, "upstream_timeout")),
    "504": (504, "upstream_timeout"),
    "400": (400, "invalid_value"),
    "404": (404, "model_not_found"),
    "413": (413, "too_large"),
    "422": (422, "invalid_value"),
    "context-window": (400, "context_length_exceeded"),
    "content-policy": (400, "content_filter"),
}
ELSE = (502, "upstream_error")


class Cell(NamedTuple):
    """One call to be made."""

    fault: str
    stream: bool
    arrangement: str

    @property
    def model(self) -> str:
        return f"{self.fault}.{'stream' if self.stream else 'complete'}.{self.arrangement}"

    @property
    def effect(self) -> Effect:
        if self.fault == UNTRUSTED or self.arrangement == "alternative":
            return "fails"
        return FAULTS[self.fault].stream if self.stream else FAULTS[self.fault].complete


class Outcome(NamedTuple):
    """What became of it. `seconds` are the client's."""

    reply: MemorySink
    records: list[UsageRecord]
    seconds: float


class Matrix(NamedTuple):
    """All cells of one transport."""

    transport: str
    outcomes: dict[Cell, Outcome]
    bugs: int


CELLS = [
    Cell(fault, stream, arrangement)
    for fault in NAMES
    for stream in (False, True)
    for arrangement in (*ARRANGEMENTS, *(("alternative",) if fault in ALTERNATIVES else ()))
]


class World:
    """The upstreams: one for all that a request can choose by its model, and one for each fault
    that no request comes to."""

    def __init__(self, transport: str) -> None:
        self.transport = transport.partition(",")[0]
        self.any = FaultServer(pause=0.05)
        self.good = FaultServer()
        self.others = {
            name: FaultServer(name)
            for name in NAMES
            if name != UNTRUSTED and FAULTS[name].accepting
        }
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
        self.others[UNTRUSTED] = FaultServer(ssl_context=context)

    def models(self) -> dict[str, ModelConfig]:
        models = {"good": served_by(self._good())}
        for cell in CELLS:
            deployments = [self._bad(cell)]
            if cell.arrangement == "sibling":
                deployments.append(self._good())
            others: dict[str, Any] = {}
            if cell.arrangement == "fallback":
                others = {"fallbacks": ("good",)}
            elif cell.arrangement == "alternative":
                others = ALTERNATIVES[cell.fault]
            models[cell.model] = served_by(*deployments, **others)
        return models

    def _good(self) -> Any:
        return at(self.good, "good", model="good", transport=self.transport, timeouts=PATIENT)

    def _bad(self, cell: Cell) -> Any:
        name = cell.fault
        server = self.others.get(name, self.any)
        waits = "stall" in name or name == "broken-chunks"
        made = at(
            server,
            "bad",
            model=f"fault-{name}",
            weight=10,
            transport=self.transport,
            timeouts=SHORT if waits else PATIENT,
        )
        if name.startswith("tls"):
            made.options["scheme"] = "https"
        return made


async def run(directory: Path, transport: str) -> Matrix:
    world = World(transport)
    async with AsyncExitStack() as stack:
        for server in (world.any, world.good, *world.others.values()):
            await stack.enter_async_context(server)
        here = await stack.enter_async_context(
            install(
                directory,
                world.models(),
                routing=RoutingConfig(
                    attempts=BUDGET,
                    deadline_seconds=DEADLINE,
                    backoff_ms=5,
                    streams=StreamsConfig(keep_alive_seconds=TRANSPORTS[transport]),
                ),
            )
        )
        gate = asyncio.Semaphore(AT_ONCE)
        calls = await asyncio.gather(*(call(here, cell, gate) for cell in CELLS))
        records = defaultdict(list)
        for record in await here.records():
            records[record.model].append(record)
        outcomes = {
            cell: Outcome(reply, records.pop(cell.model, []), seconds)
            for cell, (reply, seconds) in zip(CELLS, calls, strict=True)
        }
        assert not records, "calls that nobody has made are on the books"
        return Matrix(transport, outcomes, here.gateway.stats.bugs_total)


async def call(here: Installation, cell: Cell, gate: asyncio.Semaphore) -> tuple[MemorySink, float]:
    async with gate:
        begun = time.monotonic()
        async with asyncio.timeout(2 * DEADLINE):
            reply = await here.client.chat(cell.model, stream=cell.stream)
        return reply, time.monotonic() - begun


# All of one transport in one process of the test run: a matrix is filled once.
@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.xdist_group(f"faults, {name}")) for name in TRANSPORTS
    ],
)
def matrix(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    """All cells of one transport, once."""
    return asyncio.run(run(tmp_path_factory.mktemp("matrix"), request.param))


def served(cell: Cell) -> bool:
    """Whether the client gets the answer."""
    if cell.effect == "fails":
        return cell.arrangement != "alone"
    return cell.effect == "delivers"


@pytest.mark.parametrize("cell", CELLS, ids=[cell.model for cell in CELLS])
def test_the_client_gets_the_answer_or_the_truth_in_time_and_it_is_on_the_books_once(
    matrix: Matrix, cell: Cell
) -> None:
    reply, [record], seconds = matrix.outcomes[cell]
    the_client_gets_the_answer_or_the_truth(cell, reply, record)
    the_books_have_the_attempts(cell, record)
    assert max(seconds, record.duration_us / 1e6) < DEADLINE


def the_client_gets_the_answer_or_the_truth(
    cell: Cell, reply: MemorySink, record: UsageRecord
) -> None:
    assert reply.finished
    if served(cell):
        whole(reply, cell)
        assert record.status == "completed"
        assert (record.http_status, record.error_code) == (200, "")
    elif cell.effect == "cuts":
        cut(reply)
        assert (record.status, record.http_status) == ("incomplete", 200)
        assert record.error_code == "stream_cut"
        assert record.usage.output_tokens > 0
    else:
        status, code = TOLD.get(cell.fault, ELSE)
        refused_with(reply, status, code)
        # A status that has left with a comment is what the client has got.
        status = reply.status
        assert record.status == ("refused" if cell.effect == "refuses" else "failed")
        assert record.http_status == status


def the_books_have_the_attempts(cell: Cell, record: UsageRecord) -> None:
    attempts = [attempt.deployment for attempt in record.attempts]
    bad = f"{cell.model}/bad"
    good = f"{cell.model}/good" if cell.arrangement == "sibling" else "good/good"
    assert record.stream == cell.stream
    if cell.effect != "fails":
        assert attempts == [bad]
    elif cell.arrangement == "alone":
        assert set(attempts) == {bad}
        assert len(attempts) <= BUDGET
    else:
        assert attempts == [bad, good]
    *failed, last = record.attempts
    assert (last.outcome == "ok") == (record.status == "completed")
    assert all(attempt.outcome not in {"ok", ""} for attempt in failed)
    if record.status == "completed":
        assert (record.deployment, record.served_model) == (last.deployment, last.model)
        # What was delivered is what was paid: as the upstream has told, or two words.
        assert record.usage.output_tokens in {1, 2}


def test_no_cell_ends_in_a_bug(matrix: Matrix, record_property: Any) -> None:
    """The figures of the matrix, and that nothing unexpected was raised in it."""
    assert matrix.bugs == 0
    ends = Counter(record.status for _, [record], _ in matrix.outcomes.values())
    hidden = sum(served(cell) and cell.effect == "fails" for cell in matrix.outcomes)
    assert ("comments" in matrix.transport) == any(
        reply.status == 200 and record.status == "failed"
        for reply, [record], _ in matrix.outcomes.values()
    )
    slowest = max(seconds for _, _, seconds in matrix.outcomes.values())
    figures = (
        f"{matrix.transport}: {len(matrix.outcomes)} cells, {hidden} failures hidden,"
        f" {dict(sorted(ends.items()))}, slowest {slowest:.2f} s of {DEADLINE:.0f} s"
    )
    record_property("matrix", figures)
    sys.stdout.write(figures + "\n")


def whole(reply: MemorySink, cell: Cell) -> None:
    """The answer, all of it, and nothing else."""
    assert reply.status == 200, reply.body
    if not cell.stream:
        assert reply.json()["choices"][0]["message"]["content"] == "Hello there"
        return
    assert reply.events()[-1] == b"[DONE]"
    assert text_of(reply) == "Hello there"
    assert b'"error"' not in reply.body


def cut(reply: MemorySink) -> None:
    """The beginning of the answer, an error event, and no end marker."""
    assert reply.status == 200
    assert b"[DONE]" not in reply.body
    *_, last = reply.chunks()
    assert last["error"]["code"] == "stream_cut"
    assert "Hello there".startswith(text_of(reply) or "no text at all")


def refused_with(reply: MemorySink, status: int, code: str) -> None:
    """OpenAI's envelope with that; or as an event, where the head had to leave before."""
    if reply.status == 200:
        assert b": " in reply.body
        assert b"[DONE]" not in reply.body
        error = reply.chunks()[-1]["error"]
        assert text_of(reply) == ""
    else:
        assert reply.status == status, reply.body
        error = reply.json()["error"]
    assert error["code"] == code


def text_of(reply: MemorySink) -> str:
    choices = [choice for chunk in reply.chunks() for choice in chunk.get("choices") or ()]
    return "".join(choice["delta"].get("content") or "" for choice in choices)
