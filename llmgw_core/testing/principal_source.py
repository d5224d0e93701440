"""For tests of the principal cache: a clock to turn, and the real source, counted and held."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from llmgw_core.domain.errors import GatewayError
from llmgw_core.store.principals import StorePrincipals

if TYPE_CHECKING:
    from llmgw_core.access.principals import PrincipalCache
    from llmgw_core.domain.access import Principal, Subject
    from llmgw_core.store.engine import Store


class CountingSource:
    """The principals of `store`. `finds` and `versions` count the reads; while `find_gate` or
    `version_gate` is cleared, the answers that were read are held back, and `asked` is set."""

    def __init__(self, store: Store) -> None:
        self._source = StorePrincipals(store)
        self.finds = 0
        self.versions = 0
        self.find_gate = asyncio.Event()
        self.find_gate.set()
        self.version_gate = asyncio.Event()
        self.version_gate.set()
        self.asked = asyncio.Event()

    async def find(self, digest: bytes) -> Principal | None:
        """As the port says."""
        self.finds += 1
        found = await self._source.find(digest)
        self.asked.set()
        await self.find_gate.wait()
        return found

    async def find_subject(self, subject: Subject) -> Principal | None:
        """As the port says."""
        self.finds += 1
        return await self._source.find_subject(subject)

    async def version(self) -> int:
        """As the port says."""
        self.versions += 1
        version = await self._source.version()
        self.asked.set()
        await self.version_gate.wait()
        return version


async def status_of(cache: PrincipalCache, key: str) -> int:
    """The HTTP status with which `key` is refused; 200 when it is not."""
    try:
        await cache.resolve(key)
    except GatewayError as error:
        return error.status
    return 200
