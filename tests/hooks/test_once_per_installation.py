"""Plugins whose background work runs in one process of an installation."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import llmgw_core
from llmgw_core.domain.errors import ConfigError
from llmgw_core.hooks.once import InstallationLock
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.plugins import host_of

if TYPE_CHECKING:
    from llmgw_core.hooks.host import PluginHost

HOLDER = """
import asyncio, sys
from pathlib import Path
from llmgw_core import hookimpl
from llmgw_core.testing.plugins import host_of

class Sole:
    once_per = "installation"

    def __init__(self, config, context):
        pass

    @hookimpl
    def startup(self):
        print("started", flush=True)

async def main():
    host = host_of(Path(sys.argv[1]), ("p", Sole))
    await host.startup()
    await asyncio.Event().wait()

asyncio.run(main())
"""


def sole(log: list[str], started: asyncio.Event | None = None) -> type[Any]:
    class Sole:
        once_per = "installation"
        fails = False

        def __init__(self, config: None, context: Any) -> None:
            self.context = context

        @hookimpl
        async def startup(self) -> None:
            if Sole.fails:
                Sole.fails = False
                raise RuntimeError
            log.append("+")
            if started is not None:
                started.set()

        @hookimpl
        def shutdown(self) -> None:
            log.append("-")

        @hookimpl
        def authorize(self) -> None:
            log.append("asked")

    return Sole


def waiting(host: PluginHost) -> PluginHost:
    for plugin in host.plugins:
        plugin.takeover_seconds = 0.005
    return host


async def test_one_runs_and_the_other_takes_over_when_it_ends(tmp_path: Path, call: Any) -> None:
    log: list[str] = []
    one = waiting(host_of(tmp_path, ("p", sole(log))))
    began = asyncio.Event()
    two = waiting(host_of(tmp_path, ("p", sole(log, began))))
    await one.startup()
    await two.startup()
    two.run_authorize(call, "m")  # hooks of calls run everywhere
    states = [host.describe()[0].state for host in (one, two)]
    assert (log, states) == (["+", "asked"], ["started", "standby"])
    await one.shutdown(5)
    async with asyncio.timeout(5):
        await began.wait()
    assert two.describe()[0].state == "started"
    await two.shutdown(5)
    assert log == ["+", "asked", "-", "+", "-"]
    assert host_of(tmp_path, ("p", sole(log))).describe()[0].state == "made"


async def test_a_process_that_never_ran_it_ends_without_shutting_it_down(tmp_path: Path) -> None:
    log: list[str] = []
    one, two = (host_of(tmp_path, ("p", sole(log))) for _ in range(2))
    await one.startup()
    await two.startup()
    await two.shutdown(5)
    assert log == ["+"]
    await one.shutdown(5)


async def test_a_start_that_fails_gives_the_lock_back_and_a_takeover_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []
    failing = sole(log)
    failing.fails = True
    with pytest.raises(ConfigError, match="failed in `startup`"):
        await host_of(tmp_path, ("p", failing)).startup()
    lock = InstallationLock(tmp_path / "p")
    assert lock.acquire()
    began = asyncio.Event()
    plugin = sole(log, began)
    plugin.fails = True
    host = waiting(host_of(tmp_path, ("p", plugin)))
    await host.startup()
    lock.release()
    async with asyncio.timeout(5):
        await began.wait()
    assert "The plugin p cannot be taken over." in caplog.text
    await host.shutdown(5)
    assert log == ["+", "-"]


async def test_when_the_process_that_runs_it_is_killed_another_takes_over(tmp_path: Path) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, str(tmp_path),
        cwd=Path(llmgw_core.__file__).parents[1],
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    assert await child.stdout.readline() == b"started\n"
    log: list[str] = []
    began = asyncio.Event()
    host = waiting(host_of(tmp_path, ("p", sole(log, began))))
    await host.startup()
    assert host.describe()[0].state == "standby"
    child.send_signal(signal.SIGKILL)
    await child.wait()
    async with asyncio.timeout(5):
        await began.wait()
    await host.shutdown(5)
    assert log == ["+", "-"]


def test_the_lock_is_for_one(tmp_path: Path) -> None:
    one, two = InstallationLock(tmp_path), InstallationLock(tmp_path)
    assert (one.acquire(), one.acquire(), two.acquire()) == (True, True, False)
    one.release()
    one.release()
    assert two.acquire()
    two.release()


async def test_a_directory_that_cannot_be_locked_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "p" / "once.lock").mkdir(parents=True)
    with pytest.raises(ConfigError, match="the plugin `p` cannot lock its data directory: Is a"):
        await host_of(tmp_path, ("p", sole([]))).startup()
