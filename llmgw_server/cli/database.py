"""Commands work on the store directly, so that they do so while no gateway runs, too."""

from __future__ import annotations

import asyncio
import getpass
from typing import TYPE_CHECKING, TypeVar

from llmgw_core.config.load import load
from llmgw_core.store.engine import Store
from llmgw_core.tenancy.service import Tenancy

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


def on_store(args: argparse.Namespace, work: Callable[[Store], Awaitable[T]]) -> T:
    """The result of `work` on the store of the configuration `args.config`."""
    config = load(args.config)

    async def session() -> T:
        store = Store(config.store.url)
        await store.open()
        try:
            return await work(store)
        finally:
            await store.aclose()

    return asyncio.run(session())


def on_tenancy(args: argparse.Namespace, work: Callable[[Tenancy], Awaitable[T]]) -> T:
    """The result of `work` on the tenancy of the configuration `args.config`."""
    return on_store(args, lambda store: work(Tenancy(store)))


def actor() -> str:
    """Who the audit log says has made a change."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user may have no name
        return "cli"
