"""What plugins that behave badly cost their own call, and that other calls do not notice."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.config.schema import PluginConfig
from llmgw_core.domain.errors import GatewayError
from llmgw_core.hooks.compile import BLOCKING_SECONDS
from llmgw_core.hooks.specs import HOOK_KINDS, hookimpl
from llmgw_core.testing.installation import at
from llmgw_core.testing.plugins import Recorder

if TYPE_CHECKING:
    from llmgw_core.testing.client import MemorySink
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer

BEHAVIOURS = ("raises", "exits", "cancels", "rubbish", "hangs", "ignores", "blocks")
CALL_HOOKS = ("pre_auth", "authenticate", "authorize", "pre_route", "open_stream", "post_process")
OBSERVERS = ("on_usage", "on_attempt")
LIFE = {
    *("startup", "deployments_added", "deployments_dropped", "shutdown"),
    *("register_backends", "register_balancers", "register_limiters", "register_queues"),
    "register_prices",
    "register_tokenizers",
}
"""These have tests of their own, in tests/hooks."""

SECRET = "a secret of the plugin"


class Thing:
    """Something to leak."""


class Spoiler:
    """What a bad plugin does, and what it has done."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.things: list[weakref.ref[Thing]] = []

    async def hangs(self, plugin: Any, call: Any) -> None:
        self.entered.set()
        await asyncio.Event().wait()

    async def ignores(self, plugin: Any, call: Any) -> None:
        self.entered.set()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    def raises(self, plugin: Any, call: Any) -> None:
        raise RuntimeError(SECRET)

    def exits(self, plugin: Any, call: Any) -> None:
        raise SystemExit(SECRET)

    def cancels(self, plugin: Any, call: Any) -> None:
        raise asyncio.CancelledError(SECRET)

    def rubbish(self, plugin: Any, call: Any) -> Any:
        return object()

    def blocks(self, plugin: Any, call: Any) -> None:
        time.sleep(BLOCKING_SECONDS * 1.2)  # for the loop this is the point

    def leaks(self, plugin: Any, call: Any) -> None:
        thing = Thing()
        call.state["bad"] = [thing]
        self.things.append(weakref.ref(thing))
        plugin.context.spawn(asyncio.Event().wait(), "leaked")


def spoiling(hook: str, spoiler: Spoiler) -> type[Any]:
    """A plugin that behaves badly in `hook`: in marked calls as the mark says, or with records
    in the order of `BEHAVIOURS`."""

    class Bad:
        def __init__(self, config: None, context: Any) -> None:
            self.context = context
            self.asked = 0

    def of_calls(self: Any, call: Any) -> Any:
        mark = call.head.get(b"x-bad")
        return getattr(spoiler, mark.decode())(self, call) if mark else None

    def of_records(self: Any, record: Any) -> Any:
        self.asked += 1
        if self.asked > len(BEHAVIOURS):
            return None
        return getattr(spoiler, BEHAVIOURS[self.asked - 1])(self, record)

    setattr(Bad, hook, hookimpl(of_records if hook in OBSERVERS else of_calls))
    return Bad


async def spoiled(
    installed: Install, server: ModelServer, hook: str, spoiler: Spoiler, **section: Any
) -> Installation:
    here = await installed(
        {"m": [at(server)]},
        plugins=[("bad", spoiling(hook, spoiler)), ("good", Recorder)],
        sections=[PluginConfig("bad", **section)],
    )
    for implementation in here.gateway.host.hooks():
        implementation.cleanup = 0.01
    return here


async def bad_call(here: Installation, behaviour: str) -> MemorySink:
    """A call that the plugin spoils."""
    mark = (b"x-bad", behaviour.encode())
    return await here.client.chat("m", headers=[mark], stream=True)


async def good_calls(here: Installation) -> set[int]:
    replies = await asyncio.gather(
        *(here.client.chat("m", stream=bool(number % 2)) for number in range(6))
    )
    return {reply.status for reply in replies}


def detail(here: Installation) -> Any:
    row = next(row for row in here.gateway.host.describe() if row.name == "bad")
    return row.details[0]


def test_every_hook_is_in_one_of_these_tests() -> None:
    assert {*CALL_HOOKS, *OBSERVERS, "on_audit", "on_health", *LIFE} == set(HOOK_KINDS)


@pytest.mark.parametrize("hook", CALL_HOOKS)
async def test_a_bad_hook_ends_its_own_call_with_an_error_that_says_nothing(
    installed: Install, server: ModelServer, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    spoiler = Spoiler()
    here = await spoiled(installed, server, hook, spoiler, timeout=0.05)
    refusal = (403, "permission_denied") if hook == "authorize" else (500, "plugin_error")
    failures = timeouts = 0
    for behaviour in BEHAVIOURS:
        waits = behaviour in {"hangs", "ignores"}
        if hook == "authorize" and (waits or behaviour == "cancels"):
            continue  # a plain function can neither wait nor be cancelled
        spoiler.entered.clear()
        bad = asyncio.ensure_future(bad_call(here, behaviour))
        if waits:
            await spoiler.entered.wait()
        assert await good_calls(here) == {200}
        reply = await bad
        failures += behaviour != "blocks"
        timeouts += waits
        if behaviour == "blocks":
            assert reply.status == 200
        else:
            assert (reply.status, reply.json()["error"]["code"]) == refusal, behaviour
        assert SECRET.encode() not in reply.body
        assert (detail(here).failures, detail(here).timeouts) == (failures, timeouts), behaviour
    assert detail(here).blockings == 1
    assert "Plugin bad blocked the event loop" in caplog.text
    assert f"in {hook}; every call waited." in caplog.text
    assert await good_calls(here) == {200}


@pytest.mark.parametrize("hook", [hook for hook in CALL_HOOKS if hook != "authorize"])
async def test_a_hanging_hook_holds_only_its_own_call(
    installed: Install, server: ModelServer, hook: str
) -> None:
    spoiler = Spoiler()
    here = await spoiled(installed, server, hook, spoiler, timeout=60.0)
    bad = asyncio.ensure_future(bad_call(here, "hangs"))
    await spoiler.entered.wait()
    assert await good_calls(here) == {200}
    assert not bad.done()
    bad.cancel()
    with pytest.raises(asyncio.CancelledError):
        await bad


@pytest.mark.parametrize("hook", ["pre_auth", "authenticate", "pre_route", "post_process"])
async def test_an_open_plugin_costs_its_call_nothing_but_time(
    installed: Install, server: ModelServer, hook: str
) -> None:
    here = await spoiled(installed, server, hook, Spoiler(), timeout=0.02, on_error="open")
    for behaviour in BEHAVIOURS:
        assert (await bad_call(here, behaviour)).status == 200, behaviour
    assert detail(here).failures == len(BEHAVIOURS) - 1


@pytest.mark.parametrize("hook", CALL_HOOKS)
async def test_what_a_hook_leaks_goes_with_its_call_or_with_the_gateway(
    installed: Install, server: ModelServer, hook: str
) -> None:
    spoiler = Spoiler()
    here = await spoiled(installed, server, hook, spoiler)
    for _ in range(3):
        assert (await bad_call(here, "leaks")).status == 200
    asked = len(spoiler.things)
    assert [row.tasks for row in here.gateway.host.describe() if row.name == "bad"] == [asked]
    await here.gateway.host.shutdown(5.0)
    here.gateway.host.plugins[2].instance.events.clear()  # the recorder holds what it saw
    gc.collect()
    assert [thing() for thing in spoiler.things] == [None] * asked
    assert asked >= 3
    assert [task for task in asyncio.all_tasks() if task.get_name() == "llmgw-bad-leaked"] == []


@pytest.mark.parametrize("hook", OBSERVERS)
async def test_a_bad_observer_loses_its_own_records_and_nothing_else(
    installed: Install, server: ModelServer, hook: str
) -> None:
    here = await spoiled(installed, server, hook, Spoiler(), timeout=0.02)
    for _ in range(2):
        assert await good_calls(here) == {200}
    await here.gateway.host.shutdown(5.0)
    bad, good = (here.gateway.host.plugins[n].instance for n in (1, 2))
    assert bad.asked == 12
    assert sum(name == hook for name, _ in good.events) == 12
    assert (detail(here).failures, detail(here).timeouts) == (5, 2)
    assert detail(here).blockings == 1
    assert here.gateway.host.dropped == {"bad": 0, "good": 0}


async def test_a_bad_observer_of_changes_changes_nothing(
    installed: Install, server: ModelServer
) -> None:
    class Bad:
        def __init__(self, config: None, context: Any) -> None:
            pass

        @hookimpl
        def on_audit(self) -> None:
            raise RuntimeError

    here = await installed({"m": [at(server)]}, plugins=[("bad", Bad)])
    assert (await here.gateway.tenancy.create_organization("x", actor="y")).name == "x"
    await here.gateway.host.shutdown(5.0)
    assert here.gateway.host.failures == {("bad", "on_audit"): 1}


async def test_two_gateways_with_plugins_of_one_name_know_nothing_of_each_other(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    spoiler = Spoiler()
    one = await spoiled(installed, server, "pre_route", spoiler)
    two = await spoiled(installed, sibling, "post_process", spoiler, on_error="open")
    assert [(await bad_call(here, "raises")).status for here in (one, two)] == [500, 200]
    assert one.gateway.host.failures == {("bad", "pre_route"): 1}
    assert two.gateway.host.failures == {("bad", "post_process"): 1}
    assert (len(server.requests), len(sibling.requests)) == (0, 1)
    first, second = (here.gateway.host.plugins[2].instance for here in (one, two))
    assert {name for name, _ in first.events} & {"post_process"} == set()
    assert "post_process" in {name for name, _ in second.events}


CONSTANT = GatewayError(403, "withheld", "No.")


@pytest.mark.parametrize("hook", CALL_HOOKS)
async def test_an_error_that_is_a_constant_holds_no_call_that_it_ended(
    installed: Install, server: ModelServer, hook: str
) -> None:
    def raises(self: Any) -> Any:
        try:
            raise ValueError
        except ValueError:
            raise CONSTANT from None

    class Constant:
        def __init__(self, config: None, context: Any) -> None:
            pass

    setattr(Constant, hook, hookimpl(raises))
    here = await installed({"m": [at(server)]}, plugins=[("p", Constant)])
    for stream in (False, True):
        assert (await here.client.chat("m", stream=stream)).status == 403
    left = (CONSTANT.__traceback__, CONSTANT.__context__, CONSTANT.__cause__)
    assert left == (None, None, None)
