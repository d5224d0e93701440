"""Opening and closing a gateway for code that waits: nobody waits for ever."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from llmgw_core import Config, SyncGateway, hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Beside


class Stuck:
    """Never ready; says when it begins to get ready."""

    begun: threading.Event

    def __init__(self, config: None, context: object) -> None:
        pass

    @hookimpl
    async def startup(self) -> None:
        self.begun.set()
        await asyncio.Event().wait()


def test_ctrl_c_while_a_plugin_starts_ends_the_opening(tmp_path: Path) -> None:
    Stuck.begun = threading.Event()

    def interrupt() -> None:
        Stuck.begun.wait()
        os.kill(os.getpid(), signal.SIGINT)

    helper = threading.Thread(target=interrupt)
    helper.start()
    with pytest.raises(KeyboardInterrupt):
        SyncGateway.open(Config(), base_dir=tmp_path, plugins=[("stuck", Stuck)])
    helper.join()
    assert "llmgw gateway" not in [thread.name for thread in threading.enumerate()]


class Cancels:
    """Ends the task that starts it."""

    def __init__(self, config: None, context: object) -> None:
        pass

    @hookimpl
    async def startup(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)


def test_whatever_ends_the_opening_nobody_waits_for_it_for_ever(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="came to an end"):
        SyncGateway.open(Config(), base_dir=tmp_path, plugins=[("cancels", Cancels)])


def test_a_gateway_is_not_closed_in_its_own_thread(blocking: Beside) -> None:
    async def close() -> None:
        blocking.gateway.close()

    with pytest.raises(RuntimeError, match="close it elsewhere"):
        blocking.gateway.run(close())
    assert blocking.gateway.models(key=blocking.tenant.key)
