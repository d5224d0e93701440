"""Times, timeouts, blocked loops, and hooks that will not end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.config.schema import PluginConfig
from llmgw_core.domain.errors import GatewayError
from llmgw_core.hooks.host import PluginHost
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.clock import FakeClock
from llmgw_core.testing.plugins import contexts_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llmgw_core.domain.call import Call, Head


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def load(tmp_path: Path, clock: FakeClock) -> Callable[..., PluginHost]:
    def loaded(function: Callable[..., Any], hook: str = "pre_auth", **section: Any) -> PluginHost:
        def init(self: Any, config: Any, context: Any) -> None: ...

        plugin = type("Plugin", (), {"__init__": init, hook: hookimpl(function)})
        return PluginHost.load(
            [PluginConfig("p", **section)],
            context_for=contexts_in(tmp_path),
            extra=[("p", plugin)],
            clock=clock,
        )

    return loaded


def row(host: PluginHost) -> Any:
    return host.describe()[0].details[0]


async def test_the_time_of_a_hook_is_counted_waiting_included(
    load: Callable[..., PluginHost], clock: FakeClock, head: Head, call: Call
) -> None:
    async def pre_auth(self: Any) -> None:
        clock.now += 0.01
        await asyncio.sleep(0)
        clock.now += 0.03

    host = load(pre_auth)
    await host.run_pre_auth(head, call)
    clock.now += 7
    await host.run_pre_auth(head, call)
    assert (row(host).calls, row(host).blockings) == (2, 0)
    assert row(host).mean_seconds == pytest.approx(0.04)
    assert row(host).max_seconds == pytest.approx(0.04)


async def test_a_hook_that_blocks_the_loop_is_counted_and_named_once_a_minute(
    load: Callable[..., PluginHost],
    clock: FakeClock,
    head: Head,
    call: Call,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def pre_auth(self: Any) -> None:
        clock.now += 0.25

    host = load(pre_auth)
    for _ in range(3):
        await host.run_pre_auth(head, call)
    clock.now += 60
    await host.run_pre_auth(head, call)
    assert row(host).blockings == 4
    assert row(host).failures == 0
    assert [item.getMessage() for item in caplog.records] == [
        "Plugin p blocked the event loop for 0.250 s in pre_auth; every call waited."
    ] * 2


@pytest.mark.parametrize("step", ["first", "second", "after an error"])
async def test_every_step_of_a_coroutine_is_looked_at(
    load: Callable[..., PluginHost], clock: FakeClock, head: Head, call: Call, step: str
) -> None:
    async def pre_auth(self: Any) -> None:
        clock.now += 0.2 if step == "first" else 0.0
        await asyncio.sleep(0)
        clock.now += 0.2 if step == "second" else 0.0
        failed = asyncio.get_running_loop().create_future()
        failed.set_exception(KeyError())
        try:
            await failed
        except KeyError:
            clock.now += 0.2 if step == "after an error" else 0.0

    host = load(pre_auth)
    await host.run_pre_auth(head, call)
    assert row(host).blockings == 1


def test_authorize_is_measured_too(
    load: Callable[..., PluginHost], clock: FakeClock, call: Call
) -> None:
    def authorize(self: Any) -> None:
        clock.now += 0.5

    host = load(authorize, "authorize")
    host.run_authorize(call, "m")
    assert (row(host).max_seconds, row(host).blockings) == (0.5, 1)


async def test_a_timeout_is_counted_as_one_and_a_plugins_own_is_not(
    load: Callable[..., PluginHost], head: Head, call: Call
) -> None:
    async def pre_auth(self: Any, head: Head) -> None:
        if head.method == "POST":
            await asyncio.Event().wait()
        raise TimeoutError

    host = load(pre_auth, timeout=0.01)
    for method in ("POST", "GET"):
        head.method = method
        with pytest.raises(GatewayError):
            await host.run_pre_auth(head, call)
    assert (row(host).failures, row(host).timeouts) == (2, 1)


async def test_a_hook_may_clean_up_after_its_timeout(
    load: Callable[..., PluginHost], head: Head, call: Call
) -> None:
    cleaned = False

    async def pre_auth(self: Any) -> None:
        nonlocal cleaned
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned = True

    host = load(pre_auth, timeout=0.01)
    with pytest.raises(GatewayError):
        await host.run_pre_auth(head, call)
    assert cleaned


async def test_a_hook_that_ignores_its_cancellation_is_abandoned(
    load: Callable[..., PluginHost],
    head: Head,
    call: Call,
    caplog: pytest.LogCaptureFixture,
) -> None:
    closed = False

    async def pre_auth(self: Any) -> None:
        nonlocal closed
        try:
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    continue
        finally:
            closed = True

    host = load(pre_auth, timeout=0.01)
    host.pre_auth[0].cleanup = 0.01
    with pytest.raises(GatewayError) as caught:
        await host.run_pre_auth(head, call)
    assert (caught.value.code, closed, row(host).timeouts) == ("plugin_error", True, 1)
    assert "Plugin p ignores its cancellation in pre_auth." in caplog.text
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_hook_that_awaits_whatever_happens_is_abandoned_too(
    load: Callable[..., PluginHost],
    head: Head,
    call: Call,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def pre_auth(self: Any) -> None:
        for _ in range(100):
            try:
                await asyncio.Event().wait()
            except BaseException:  # noqa: BLE001
                continue

    host = load(pre_auth, timeout=0.01)
    host.pre_auth[0].cleanup = 0.01
    with pytest.raises(GatewayError):
        await host.run_pre_auth(head, call)
    assert "Plugin p cannot be stopped in pre_auth." in caplog.text


async def test_a_client_that_leaves_is_not_held_by_a_hook_that_ignores_it(
    load: Callable[..., PluginHost], head: Head, call: Call
) -> None:
    entered = asyncio.Event()

    async def pre_auth(self: Any) -> None:
        entered.set()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    host = load(pre_auth)
    host.pre_auth[0].cleanup = 0.01
    task = asyncio.ensure_future(host.run_pre_auth(head, call))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert row(host).failures == 0


async def _swallows(self: Any) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


async def _answers_otherwise(self: Any) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise ValueError from None


@pytest.mark.parametrize("pre_auth", [_swallows, _answers_otherwise])
@pytest.mark.parametrize("on_error", ["open", "closed"])
async def test_a_hook_that_swallows_a_cancellation_cannot_keep_it_from_its_call(
    load: Callable[..., PluginHost], head: Head, call: Call, pre_auth: Any, on_error: str
) -> None:
    host = load(pre_auth, on_error=on_error)
    task = asyncio.ensure_future(host.run_pre_auth(head, call))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert row(host).timeouts == 0


async def test_a_hook_that_swallows_its_timeout_has_failed(
    load: Callable[..., PluginHost], head: Head, call: Call
) -> None:
    host = load(_swallows, timeout=0.01)
    with pytest.raises(GatewayError) as caught:
        await host.run_pre_auth(head, call)
    assert caught.value.code == "plugin_error"
    assert (row(host).failures, row(host).timeouts) == (1, 1)


@pytest.mark.parametrize("error", [SystemExit(1), asyncio.CancelledError(), BaseException()])
async def test_what_would_end_a_program_ends_one_call(
    load: Callable[..., PluginHost], head: Head, call: Call, error: BaseException
) -> None:
    async def pre_auth(self: Any) -> None:
        raise error

    host = load(pre_auth)
    with pytest.raises(GatewayError) as caught:
        await host.run_pre_auth(head, call)
    assert caught.value.code == "plugin_error"
    host = load(pre_auth, on_error="open")
    assert await host.run_pre_auth(head, call) is head


async def test_a_hook_left_in_the_middle_is_closed(
    load: Callable[..., PluginHost], head: Head, call: Call
) -> None:
    closed = False

    async def pre_auth(self: Any) -> None:
        nonlocal closed
        try:
            await asyncio.sleep(0)
        finally:
            closed = True

    running = load(pre_auth).run_pre_auth(head, call)
    running.send(None)
    running.close()
    assert closed
