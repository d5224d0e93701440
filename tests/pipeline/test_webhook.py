"""The webhook: what is sent, who says so, and what happens when nobody takes it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest

from llmgw_core.domain.errors import ConfigError
from llmgw_core.domain.limits import Budget
from llmgw_core.pipeline import webhook
from llmgw_core.pipeline.webhook import Hook, Webhook
from llmgw_core.testing.client import Client
from llmgw_core.testing.installation import at
from llmgw_core.testing.model_server import ModelServer
from llmgw_core.testing.upstream import Peer, Upstream, http_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmgw_core.testing.installation import Install

SECRET = "0123456789abcdef"
NOW = 1_770_000_000.0


class Receiver:
    """The script of a server that answers with `statuses` in turn, and then with 204."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.taken = asyncio.Event()
        self.expected = 1
        self.upstream = Upstream(self)

    async def __call__(self, peer: Peer) -> None:
        while True:
            await peer.request()
            status = self.statuses.pop(0) if self.statuses else 204
            await peer.send(http_reply(status, b""))
            if len(self.upstream.requests) >= self.expected:
                self.taken.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.upstream.port}/hook?team=1"

    async def wait(self, requests: int = 1) -> None:
        self.expected = requests
        async with asyncio.timeout(5):
            while len(self.upstream.requests) < requests:
                self.taken.clear()
                await self.taken.wait()


class Scene:
    """A webhook whose pauses are noted instead of waited for."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self.hook = Webhook(aiohttp.ClientSession, lambda: NOW, self.sleep)
        self.gone = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    async def until(self, delivered: int, dropped: int) -> None:
        async with asyncio.timeout(5):
            while (self.hook.delivered, self.hook.dropped) != (delivered, dropped):  # noqa: ASYNC110
                await asyncio.sleep(0.001)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    yield scene
    await scene.hook.aclose()


async def test_a_message_is_signed_with_the_time_it_was_sent(scene: Scene) -> None:
    receiver = Receiver()
    async with receiver.upstream:
        scene.hook.configure(Hook(receiver.url, SECRET))
        scene.hook.start()
        scene.hook.send("event-1", {"type": "test"})
        await scene.until(1, 0)
        [request] = receiver.upstream.requests
        assert request.target == "/hook?team=1"
        assert msgspec.json.decode(request.body) == {"type": "test"}
        headers = {name.lower(): value for name, value in request.headers}
        assert headers[b"x-llmgw-event-id"] == b"event-1"
        mac = hmac.new(SECRET.encode(), b"1770000000." + request.body, hashlib.sha256).hexdigest()
        assert headers[b"x-llmgw-signature"].decode() == f"t=1770000000,v1={mac}"
        await scene.hook.aclose()


async def test_what_may_pass_is_tried_again_after_growing_pauses(scene: Scene) -> None:
    receiver = Receiver(500, 429, 503, 204)
    async with receiver.upstream:
        scene.hook.configure(Hook(receiver.url))
        scene.hook.start()
        scene.hook.send("event-1", {})
        await scene.until(1, 0)
        assert scene.pauses == [1.0, 2.0, 4.0]
        ids = {dict(each.headers).get(b"x-llmgw-event-id") for each in receiver.upstream.requests}
        assert len(ids) == 1
        await scene.hook.aclose()


@pytest.mark.parametrize("status", [301, 400, 401, 404])
async def test_what_is_refused_for_good_is_not_sent_again(scene: Scene, status: int) -> None:
    receiver = Receiver(status)
    async with receiver.upstream:
        scene.hook.configure(Hook(receiver.url))
        scene.hook.start()
        scene.hook.send("event-1", {})
        scene.hook.send("event-2", {})
        await scene.until(1, 1)
        assert (scene.pauses, len(receiver.upstream.requests)) == ([], 2)
        await scene.hook.aclose()


async def test_nobody_there_is_given_up_after_so_many_attempts(
    scene: Scene, unused_tcp_port: int
) -> None:
    scene.hook.configure(Hook(f"http://127.0.0.1:{unused_tcp_port}/", attempts=3))
    scene.hook.start()
    scene.hook.send("event-1", {})
    await scene.until(0, 1)
    assert scene.pauses == [1.0, 2.0]


async def test_a_client_that_cannot_be_made_is_no_bug(scene: Scene) -> None:
    def broken() -> aiohttp.ClientSession:
        raise ConfigError("the certificate is gone", path="outgoing")

    scene.hook.configure(Hook("http://127.0.0.1:1/", attempts=1), broken)
    scene.hook.start()
    scene.hook.send("event-1", {})
    await scene.until(0, 1)


@pytest.mark.parametrize(
    "hook",
    [
        Hook("http://a..b/", attempts=2),
        Hook("http://127.0.0.1:1/", SECRET + "\udcff", attempts=1),
    ],
)
async def test_odd_names_and_secrets_end_neither_the_webhook_nor_the_gateway(
    scene: Scene, hook: Hook
) -> None:
    scene.hook.configure(hook)
    scene.hook.start()
    scene.hook.send("event-1", {})
    scene.hook.send("event-2", {})
    await scene.until(0, 2)
    await scene.hook.aclose()


async def test_a_slow_receiver_does_not_hold_up_the_end(scene: Scene) -> None:
    async def slow(peer: Peer) -> None:
        while True:
            await peer.request()
            await asyncio.sleep(0.02)
            await peer.send(http_reply(204, b""))

    async with Upstream(slow) as upstream:
        scene.hook.configure(Hook(f"http://127.0.0.1:{upstream.port}/", timeout=0.1))
        for number in range(300):
            scene.hook.send(f"event-{number}", {})
        await scene.hook.aclose()
    assert scene.hook.dropped >= 290
    assert scene.hook.delivered + scene.hook.dropped == 300


async def test_what_waits_is_bounded_and_what_is_left_is_counted(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    monkeypatch.setattr(webhook, "CAPACITY", 3)
    scene.hook.configure(Hook(f"http://127.0.0.1:{unused_tcp_port}/"))
    for number in range(5):
        scene.hook.send(f"event-{number}", {})
    assert scene.hook.dropped == 2
    await scene.hook.aclose()
    assert scene.hook.dropped == 5


async def test_without_an_address_nothing_is_kept(scene: Scene) -> None:
    scene.hook.send("event-1", {})
    scene.hook.start()
    await scene.hook.aclose()
    assert (scene.hook.delivered, scene.hook.dropped) == (0, 0)


async def test_another_address_holds_from_the_next_attempt_on(scene: Scene) -> None:
    before, after = Receiver(), Receiver()
    async with before.upstream, after.upstream:
        scene.hook.configure(Hook(before.url))
        scene.hook.start()
        scene.hook.send("event-1", {})
        await scene.until(1, 0)
        scene.hook.configure(Hook(after.url), aiohttp.ClientSession)
        scene.hook.send("event-2", {})
        await scene.until(2, 0)
        assert (len(before.upstream.requests), len(after.upstream.requests)) == (1, 1)
        await scene.hook.aclose()


async def test_a_budget_tells_the_webhook_of_its_configuration(
    installed: Install,
) -> None:
    receiver = Receiver()
    async with receiver.upstream, ModelServer() as server:
        here = await installed(
            {"m": [at(server)]},
            tenant={"team_budgets": [Budget("tokens", 20, "month", alerts=(50,))]},
        )
        config = here.gateway.config
        told: Any = msgspec.structs.replace(config.budgets, webhook=receiver.url)
        await here.gateway.reload(msgspec.structs.replace(config, budgets=told))
        assert (await here.client.chat("m", max_tokens=3)).status == 200
        await receiver.wait()
        message = msgspec.json.decode(receiver.upstream.requests[0].body)
        assert message | {"id": "", "at": 0, "start_ns": 0, "end_ns": 0} == {
            "id": "",
            "type": "budget.reached",
            "at": 0,
            "level": "team",
            "level_id": here.tenant.team_id,
            "unit": "tokens",
            "period": "month",
            "timezone": "UTC",
            "amount": 20,
            "percent": 50,
            "spent": 10,
            "reserved": 0,
            "shadow": False,
            "fallback": "",
            "start_ns": 0,
            "end_ns": 0,
            "currency": None,
        }
        assert message["id"].startswith("budget-")


async def test_replies_say_what_is_left_if_that_is_wanted(installed: Install) -> None:
    async with ModelServer() as server:
        budgets = [Budget("tokens", 1000, "month"), Budget("money", 10**9, "day")]
        here = await installed({"m": [at(server)]}, tenant={"team_budgets": budgets})
        assert "x-llmgw-budget-remaining-money" not in (await here.client.chat("m")).headers
        config = here.gateway.config
        told = msgspec.structs.replace(config.budgets, reply_headers=True)
        await here.gateway.reload(msgspec.structs.replace(config, budgets=told))
        another = await here.another("other")
        for stream in (False, True):
            reply = await here.client.chat("m", stream=stream, max_tokens=3)
            assert reply.status == 200
        # At the head of a stream it is still reserved: 2 settled calls of 10, one under way.
        assert 950 <= int(reply.headers["x-llmgw-budget-remaining-tokens"]) <= 972
        assert reply.headers["x-llmgw-budget-remaining-money"].startswith("0.9999")
        refused = await here.client.chat("m", max_tokens=5000)
        assert refused.status == 400
        assert refused.headers["x-llmgw-budget-remaining-tokens"] == "970"
        assert isinstance(another, Client)
        headers = (await another.chat("m")).headers
        assert not [name for name in headers if name.startswith("x-llmgw-budget")]
