"""Replies that say how they came about, if they are asked to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.config.schema_routing import RoutingConfig
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.client import MemorySink
from llmgw_core.testing.faults.server import FaultServer
from llmgw_core.testing.installation import at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmgw_core.testing.installation import Install, Installation

TELLING = RoutingConfig(reply_headers=True, retries=0)


class Refusing:
    """Stops every call before it goes anywhere."""

    def __init__(self, config: None, context: Any) -> None:
        pass

    @hookimpl
    def pre_route(self, request: Any) -> None:
        from llmgw_core import GatewayError

        raise GatewayError(400, "not_now", "Not now.")


def told(reply: MemorySink) -> tuple[str | None, str | None]:
    return reply.headers.get("x-llmgw-attempts"), reply.headers.get("x-llmgw-deployment")


@pytest.fixture
async def bad() -> AsyncIterator[FaultServer]:
    async with FaultServer("503") as server:
        yield server


async def opened(installed: Install, bad: FaultServer, good: FaultServer, **more: Any) -> Any:
    models = {"m": [at(bad, "bad", weight=10), at(good, "ä good")], "alone": [at(bad)]}
    return await installed(models, **more)


@pytest.mark.parametrize("stream", [False, True])
async def test_replies_tell_the_attempts_and_the_last_deployment(
    installed: Install, bad: FaultServer, stream: bool
) -> None:
    async with FaultServer() as good:
        here: Installation = await opened(installed, bad, good, routing=TELLING)
        assert told(await here.client.chat("m", stream=stream)) == ("2", "m/%C3%A4%20good")
        failed = await here.client.chat("alone", stream=stream)
        assert (failed.status, told(failed)) == (503, ("1", "alone/a"))
        await bad.use("422")
        refused = await here.client.chat("alone", stream=stream)
        assert (refused.status, told(refused)) == (422, ("1", "alone/a"))
        unknown = await here.client.chat("nobody")
        assert told(unknown) == (None, None)


class LineSink(MemorySink):
    """A sink that takes the head of a reply as lines, and a complete reply at once."""

    def start_lines(self, status: int, lines: bytes) -> None:
        self.status = status
        fields = [line.partition(b": ") for line in lines.splitlines()]
        self.headers = {name.decode(): value.decode() for name, _, value in fields}

    def reply_lines(self, status: int, lines: bytes, body: bytes) -> bool:
        self.start_lines(status, lines)
        self.body, self.finished = body, True
        return True


@pytest.mark.parametrize("stream", [False, True])
async def test_servers_that_take_lines_are_told_the_same(
    installed: Install, bad: FaultServer, stream: bool
) -> None:
    async with FaultServer() as good:
        here: Installation = await opened(installed, bad, good, routing=TELLING)
        reply = await here.client.chat("m", stream=stream, sink=LineSink())
    assert (reply.status, told(reply)) == (200, ("2", "m/%C3%A4%20good"))


async def test_replies_tell_nothing_unless_it_is_wanted(
    installed: Install, bad: FaultServer
) -> None:
    async with FaultServer() as good:
        here: Installation = await opened(installed, bad, good)
        assert told(await here.client.chat("m")) == (None, None)
        assert told(await here.client.chat("alone")) == (None, None)


async def test_a_call_that_is_stopped_before_any_attempt_tells_of_none(
    installed: Install, bad: FaultServer
) -> None:
    plugins = [("refusing", Refusing)]
    here: Installation = await opened(installed, bad, bad, routing=TELLING, plugins=plugins)
    assert told(await here.client.chat("m")) == ("0", None)
