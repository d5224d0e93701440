"""Never more than N calls in any 60 seconds, never fewer than there is room for, whatever the
calls wait for in between. Two windows pass on a clock that the test moves; a burst of real
connections meets the real one."""

from __future__ import annotations

import asyncio
import heapq
import random
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.domain.limits import Limits
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.limits.port import Exceeded, MeterSpec
from llmgw_core.testing.client import Client, MemorySink
from llmgw_core.testing.installation import at
from llmgw_core.testing.model_server import JSON, chat_events, completion, usage_object
from llmgw_core.testing.upstream import Peer, Upstream, http_reply

from .conftest import CHAT

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from llmgw_core.domain.call import Call, Head, Headers
    from llmgw_core.domain.reply import Reply
    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.wire.request import RequestView

    from .conftest import HttpConnection, HttpReply, Serve

CLIENTS = 200
WINDOW = 60.0
SLOT = 0.5
"""How much longer than the window a call may count: the meter's precision."""
TOKENS = 10_000_000
STEPS = (0.01, 0.05, 0.1, 0.2, 0.5, 1.5)
"""Seconds by which the clock moves: mostly less than a slot, so that its ends are met."""
LONGEST_PAUSE = 0.002
"""Real seconds that a hook or the upstream takes."""


class MovedClock:
    """The limiter's clock: stands still until it is moved."""

    def __init__(self, now: float) -> None:
        self.now = now
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []

    def __call__(self) -> float:
        return self.now

    async def until(self, instant: float) -> None:
        """Return when the clock has reached `instant`."""
        if instant > self.now:
            future = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (instant, id(future), future))
            await future

    @property
    def waiting(self) -> int:
        """Tasks inside `until`."""
        return len(self._waiting)

    def move(self, instant: float) -> None:
        """Let it be `instant`."""
        self.now = max(self.now, instant)
        while self._waiting and self._waiting[0][0] <= self.now:
            heapq.heappop(self._waiting)[2].set_result(None)


class Scene:
    """What happens in one test: a seeded source of pauses, and the times of what was decided."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = MovedClock(self.random.uniform(0, 1000))
        self.admitted: dict[str, float] = {}
        """Call id → the clock when the limiter let it in."""
        self.refused: list[float] = []
        self.waits: list[float] = []
        self.answers = 0
        self.progress = asyncio.Event()

    async def pause(self) -> None:
        """Wait for no reason, as plugins do."""
        await asyncio.sleep(self.random.random() * LONGEST_PAUSE)

    def slow_plugin(self) -> type[Any]:
        """A plugin that sleeps between every two steps of a call."""
        scene = self

        class Slow:
            def __init__(self, config: None, context: PluginContext) -> None:
                pass

            @hookimpl
            async def pre_auth(self, head: Head) -> None:
                await scene.pause()

            @hookimpl
            async def authenticate(self, head: Head) -> None:
                await scene.pause()

            @hookimpl
            async def pre_route(self, request: RequestView, call: Call) -> None:
                # Nothing is awaited between the reservation and this line.
                scene.admitted[call.id] = scene.clock.now
                await scene.pause()

            @hookimpl
            async def post_process(self, reply: Reply) -> None:
                await scene.pause()

        return Slow

    async def upstream(self, peer: Peer) -> None:
        """Answers late, each time with other usage; some calls fail."""
        while True:
            request = await peer.request()
            await self.pause()
            read, written = self.random.randint(1, 99), self.random.randint(1, 999)
            if self.random.random() < 0.1:
                await peer.send(http_reply(500, b"{}", JSON))
            elif msgspec.json.decode(request.body).get("stream"):
                kind = [(b"content-type", b"text/event-stream")]
                stream = b"".join(chat_events(usage=usage_object(read, written)))
                await peer.send(http_reply(200, stream, kind))
            else:
                document = completion(input=read, output=written)
                await peer.send(http_reply(200, msgspec.json.encode(document), JSON))


class TimedSink(MemorySink):
    """Notes when a refusal was decided: nothing is awaited before its head is sent."""

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self._scene = scene

    async def start(self, status: int, headers: Headers) -> None:
        if status == 429:
            self._scene.refused.append(self._scene.clock.now)
        await super().start(status, headers)


async def call(client: Client, scene: Scene) -> MemorySink:
    stream = scene.random.random() < 0.3
    reply = await client.chat("m", sink=TimedSink(scene), stream=stream)
    assert reply.status in (200, 429, 502)
    if reply.status == 429:
        scene.waits.append(float(reply.headers["retry-after"]))
    return reply


async def caller(client: Client, scene: Scene, end: float) -> None:
    """One of many clients: half of them hammer, half come back when they were told to."""
    patient = scene.random.random() < 0.5
    await scene.clock.until(
        scene.clock.now + scene.random.choice([0.0, scene.random.random() * 30])
    )
    while scene.clock.now < end:
        reply = await call(client, scene)
        wait = scene.random.uniform(0.1, 12.0)
        if reply.status == 429 and patient:
            wait = float(reply.headers["retry-after"])
        scene.answers += 1
        scene.progress.set()
        await scene.clock.until(scene.clock.now + wait)


async def move_the_clock(scene: Scene, callers: list[asyncio.Task[None]]) -> None:
    """Move on when somebody was answered or everybody waits; calls are in flight meanwhile."""
    while not all(task.done() for task in callers):
        target = scene.answers + scene.random.randint(0, 10)
        while scene.answers < target and scene.clock.waiting < sum(not t.done() for t in callers):
            scene.progress.clear()
            await scene.progress.wait()
        scene.clock.move(scene.clock.now + scene.random.choice(STEPS))
        await asyncio.sleep(0)


def most_in_a_window(times: list[float]) -> int:
    """The largest number of admissions in any 60 seconds, ends included."""
    ordered = sorted(times)
    return max(bisect_right(ordered, t + WINDOW) - index for index, t in enumerate(ordered))


def within(times: list[float], start: float, end: float) -> int:
    ordered = sorted(times)
    return bisect_right(ordered, end) - bisect_left(ordered, start)


@pytest.mark.parametrize("limit", [1, 7, 50, 120])
async def test_no_window_admits_more_than_its_limit_nor_fewer_than_wanted(
    installed: Install, limit: int
) -> None:
    scene = Scene(seed=limit)
    async with Upstream(scene.upstream) as upstream:
        installation = await installed(
            {"m": [at(upstream)]},
            plugins=[("slow", scene.slow_plugin())],
            tenant={"key_limits": Limits(rpm=limit, tpm=TOKENS, parallel=CLIENTS)},
            limiter_clock=scene.clock,
        )
        begin = scene.clock.now
        end = begin + 2 * WINDOW + 2 * SLOT
        callers = [
            asyncio.ensure_future(caller(installation.client, scene, end)) for _ in range(CLIENTS)
        ]
        await asyncio.gather(move_the_clock(scene, callers), *callers)
        times = list(scene.admitted.values())
        assert most_in_a_window(times) == limit
        assert scene.refused
        for instant in scene.refused:
            # A refusal is just only while the limit's worth of admissions still counts.
            assert within(times, instant - WINDOW - SLOT, instant) >= limit, instant
        assert within(times, begin, begin + WINDOW) == limit
        assert within(times, begin, end) >= 2 * limit
        assert all(1 <= wait <= WINDOW + 1 for wait in scene.waits)
        await check_the_books(installation, scene)
        await check_that_waiting_helps(installation.client, scene, limit)
        await check_that_no_slot_is_held(installation)


async def check_the_books(installation: Installation, scene: Scene) -> None:
    """The token meter holds what the ledger says about the calls that still count."""
    records = {record.call_id: record for record in await installation.records()}
    assert records.keys() == scene.admitted.keys()
    counted = [
        records[call_id]
        for call_id, instant in scene.admitted.items()
        if scene.clock.now < int(instant / SLOT) * SLOT + WINDOW + SLOT
    ]
    _, tokens = installation.gateway.limiter.state(meters_of(installation))
    assert tokens is not None
    assert tokens.limit - tokens.remaining == sum(tokens_of(record) for record in counted)
    assert sum(tokens_of(record) for record in records.values()) > 0
    assert {record.status for record in records.values()} <= {"completed", "failed"}


def tokens_of(record: UsageRecord) -> int:
    return record.usage.total_tokens


def meters_of(installation: Installation) -> Any:
    """The key's own meters, bound once more: what is counted is in the limiter."""
    key = f"key:{installation.tenant.key_id}"
    return installation.gateway.limiter.bind(
        [
            MeterSpec(f"{key}:tpm", "key", "tokens", TOKENS),
            MeterSpec(f"{key}:parallel", "key", "parallel", CLIENTS),
        ]
    )


async def check_that_waiting_helps(client: Client, scene: Scene, limit: int) -> None:
    """With nobody else about: what is refused is admitted after `retry-after`, and not for
    being lucky: a second before the wait is over it still is not."""
    for _ in range(limit + 1):
        reply = await call(client, scene)
        if reply.status == 429:
            break
    assert reply.status == 429
    assert reply.headers["x-ratelimit-remaining-requests"] == "0"
    told = scene.clock.now + float(reply.headers["retry-after"])
    scene.clock.move(told - 1.0)
    assert (await call(client, scene)).status == 429
    scene.clock.move(told)
    assert (await call(client, scene)).status in (200, 502)
    assert most_in_a_window(list(scene.admitted.values())) == limit


async def check_that_no_slot_is_held(installation: Installation) -> None:
    """As many calls at once as were allowed fit again, and not one more."""
    limiter, bound = installation.gateway.limiter, meters_of(installation)
    taken = [await limiter.reserve(bound, 0) for _ in range(CLIENTS)]
    with pytest.raises(Exceeded):
        await limiter.reserve(bound, 0)
    for reservation in taken:
        reservation.release()


async def test_a_burst_of_connections_is_admitted_up_to_the_limit_and_no_further(
    serve: Serve, installed: Install
) -> None:
    limit = 50
    scene = Scene(seed=2)
    async with Upstream(scene.upstream) as upstream:
        installation = await installed(
            {"m": [at(upstream)]}, tenant={"key_limits": Limits(rpm=limit, tpm=TOKENS)}
        )
        server = await serve(installation)
        connections = [await server.connect() for _ in range(CLIENTS)]
        body = b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}'

        def post(connection: HttpConnection) -> Awaitable[HttpReply]:
            return server.post(CHAT, body, on=connection)

        replies = await asyncio.gather(*map(post, connections))
        refused = [reply for reply in replies if reply.status == 429]
        assert len(refused) == CLIENTS - limit
        for reply in refused:
            assert 1 <= int(reply.header(b"retry-after") or 0) <= WINDOW + 1
            assert reply.header(b"x-ratelimit-remaining-requests") == b"0"
        records = await installation.records()
        assert len(records) == limit
        # One that the upstream failed at once is asked again, on the same reservation.
        assert len(upstream.requests) == sum(len(record.attempts) for record in records)
        _, tokens = installation.gateway.limiter.state(meters_of(installation))
        assert tokens is not None
        assert tokens.limit - tokens.remaining == sum(tokens_of(record) for record in records)
