"""Plain functions in threads of their plugin."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.config.schema import PluginConfig
from llmgw_core.domain.call import Call, Head
from llmgw_core.domain.errors import GatewayError
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.hooks.threads import Threads
from llmgw_core.testing.plugins import host_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llmgw_core.hooks.host import PluginHost

place: contextvars.ContextVar[str] = contextvars.ContextVar("place", default="nowhere")


def threaded(function: Callable[..., Any], hook: str = "pre_auth") -> type[Any]:
    class Threaded:
        threads = frozenset({hook})

        def __init__(self, config: None, context: Any) -> None:
            pass

    setattr(Threaded, hook, hookimpl(function))
    return Threaded


def host(tmp_path: Path, function: Callable[..., Any], *, timeout: float = 5.0) -> PluginHost:
    return host_of(
        tmp_path, ("p", threaded(function)), configs=[PluginConfig("p", timeout=timeout)]
    )


async def test_a_hook_runs_in_a_thread_of_its_plugin_with_the_callers_context(
    tmp_path: Path, head: Head, call: Call
) -> None:
    seen: list[Any] = []

    def pre_auth(self: Any, head: Head) -> Head:
        seen.extend([threading.current_thread().name, place.get()])
        return Head("CHANGED", head.path, head.headers)

    place.set("here")
    plugins = host(tmp_path, pre_auth)
    assert (await plugins.run_pre_auth(head, call)).method == "CHANGED"
    assert seen == ["llmgw-p-1", "here"]
    assert plugins.describe()[0].details[0].blockings == 0
    await plugins.shutdown(5)


async def test_a_thread_that_never_returns_holds_its_own_call_until_the_timeout(
    tmp_path: Path, head: Head, call: Call
) -> None:
    release = threading.Event()
    asked = 0

    def pre_auth(self: Any) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            release.wait()

    plugins = host(tmp_path, pre_auth, timeout=0.02)
    with pytest.raises(GatewayError, match="an extension of the gateway failed"):
        await plugins.run_pre_auth(head, call)
    plugins.pre_auth[0].timeout = 5.0
    assert await plugins.run_pre_auth(head, call) is head
    (row,) = plugins.describe()[0].details
    assert (row.calls, row.failures, row.timeouts) == (2, 1, 1)
    release.set()
    await plugins.shutdown(5)


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(), StopIteration()])
async def test_what_a_thread_raises_is_the_plugins_failure(
    tmp_path: Path, head: Head, call: Call, error: BaseException
) -> None:
    def pre_auth(self: Any) -> None:
        raise error

    plugins = host(tmp_path, pre_auth)
    for _ in range(3):
        with pytest.raises(GatewayError) as caught:
            await plugins.run_pre_auth(head, call)
        assert caught.value.code == "plugin_error"
    assert threading.active_count() <= 2 + sum(
        not thread.name.startswith("llmgw-p") for thread in threading.enumerate()
    )
    await plugins.shutdown(5)


async def test_what_a_thread_makes_may_be_awaited(tmp_path: Path, head: Head, call: Call) -> None:
    async def later(head: Head) -> Head:
        return Head("LATER", head.path, head.headers)

    plugins = host(tmp_path, lambda self, head: later(head))
    assert (await plugins.run_pre_auth(head, call)).method == "LATER"
    await plugins.shutdown(5)


async def test_threads_are_bounded_started_when_needed_and_end(tmp_path: Path) -> None:
    pool = Threads("pool", size=2)
    gate = threading.Barrier(3)
    waiting = [pool.run(gate.wait) for _ in range(2)]
    behind = pool.run(threading.current_thread)
    gone = pool.run(threading.current_thread)
    gone.cancel()
    assert not behind.done()
    await asyncio.to_thread(gate.wait)
    await asyncio.gather(*waiting)
    thread = await behind
    assert thread.name in {"llmgw-pool-1", "llmgw-pool-2"}
    assert thread.daemon
    pool.close()
    await asyncio.to_thread(thread.join, 5)
    assert not thread.is_alive()


async def test_what_is_given_up_behind_a_thread_that_never_returns_is_not_kept() -> None:
    pool, release = Threads("pool", size=1), threading.Event()
    first = pool.run(release.wait)

    class Document:
        def read(self) -> None: ...

    document = Document()
    left = weakref.ref(document)
    pool.run(document.read).cancel()
    del document
    await asyncio.sleep(0)
    assert left() is None
    release.set()
    assert await first
    pool.close()


def test_a_loop_that_has_ended_is_left_alone() -> None:
    pool, release, done = Threads("pool"), threading.Event(), threading.Event()

    def work() -> None:
        release.wait()
        done.set()

    async def begin() -> None:
        pool.run(work).cancel()
        pool.run(work)

    asyncio.run(begin())
    release.set()
    assert done.wait(5)
    pool.close()


def test_idle_threads_are_used_again() -> None:
    async def names() -> set[str]:
        pool = Threads("pool")
        found = {(await pool.run(threading.current_thread)).name for _ in range(20)}
        pool.close()
        return found

    assert asyncio.run(names()) == {"llmgw-pool-1"}
