"""The upstream that fails, as fixtures for pytest (with pytest-asyncio). Import what you need
into a `conftest.py`:

    from llmgw_core.testing.faults.fixtures import fault_server, fault_servers  # noqa: F401
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest_asyncio

from llmgw_core.testing.faults.server import FaultServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


@pytest_asyncio.fixture
async def fault_server() -> AsyncIterator[FaultServer]:
    """An upstream that works until it is told otherwise (`await fault_server.use("reset")`)."""
    async with FaultServer() as server:
        yield server


@pytest_asyncio.fixture
async def fault_servers() -> AsyncIterator[Callable[..., Awaitable[FaultServer]]]:
    """As many of them as are opened; the arguments are those of `FaultServer`."""
    async with AsyncExitStack() as stack:

        async def opened(*args: Any, **options: Any) -> FaultServer:
            return await stack.enter_async_context(FaultServer(*args, **options))

        yield opened
