"""The task of a connection on uvicorn, with a handler that each test writes itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.domain.call import Head
from llmgw_server.uvicorn_calls import CallCycle
from llmgw_server.uvicorn_worker import Worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Connection:
    """A worker with what it needs of a server; `closed` counts replies that were not finished."""

    def __init__(self, handle: Callable[..., Awaitable[None]]) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.cycles: set[CallCycle] = set()
        self.worker = Worker(asyncio.get_running_loop(), self.tasks, self.cycles)
        self.handle = handle
        self.transport = self
        self.closed = 0

    def close(self) -> None:
        self.closed += 1

    def ask(self) -> CallCycle:
        protocol: Any = self
        cycle = CallCycle(protocol, Head("GET", "/v1/models", ()), keep_alive=True)
        self.worker.take(cycle, self.handle)
        return cycle


async def replied(cycle: CallCycle) -> None:
    cycle.response_complete = True


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 -- nothing tells
        await asyncio.sleep(0)


async def settled(connection: Connection) -> None:
    await until(lambda: not connection.tasks)


async def test_one_task_serves_the_calls_of_a_connection() -> None:
    async def handle(head: Head, body: CallCycle, sink: CallCycle) -> None:
        await replied(sink)

    connection = Connection(handle)
    tasks = set()
    for _ in range(3):
        cycle = connection.ask()
        tasks.add(cycle.task)
        await settled(connection)
    assert len(tasks) == 1
    assert not connection.cycles
    connection.worker.close()
    await asyncio.gather(*(task for task in tasks if task))
    assert connection.closed == 0


async def test_a_call_does_not_wait_for_what_the_one_before_does_after_its_reply() -> None:
    upstream_ended = asyncio.Event()
    replies: list[CallCycle] = []

    async def handle(head: Head, body: CallCycle, sink: CallCycle) -> None:
        await replied(sink)
        replies.append(sink)
        if len(replies) == 1:
            await upstream_ended.wait()

    connection = Connection(handle)
    first = connection.ask()
    await until(lambda: len(replies) == 1)
    second = connection.ask()
    await until(lambda: len(replies) == 2)
    assert replies == [first, second]
    upstream_ended.set()
    assert first.task is not None
    await first.task
    third = connection.ask()
    await settled(connection)
    assert third.task is second.task
    connection.worker.close()


@pytest.mark.parametrize("resting", [False, True])
async def test_a_call_that_is_ended_before_its_task_takes_it_up_is_closed(resting: bool) -> None:
    async def handle(head: Head, body: CallCycle, sink: CallCycle) -> None:
        await replied(sink)

    connection = Connection(handle)
    if resting:
        connection.ask()
        await settled(connection)
    cycle = connection.ask()
    cycle.end()
    await settled(connection)
    assert connection.closed == 1
    assert not connection.cycles
    connection.ask()  # the worker works on with another task
    await settled(connection)
    assert connection.closed == 1
    connection.worker.close()


async def test_a_cancellation_that_nobody_asked_for_ends_the_task() -> None:
    async def handle(head: Head, body: CallCycle, sink: CallCycle) -> None:
        await asyncio.Event().wait()

    connection = Connection(handle)
    cycle = connection.ask()
    await asyncio.sleep(0)
    assert cycle.task is not None
    cycle.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cycle.task
    assert connection.closed == 1
