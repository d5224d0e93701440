"""The cache of principals: authentication without a database on the path of a call.

A background loop reads one number, the version of the tenancy. While it stays the same, every
entry is as good as the database; when it changes, every entry is read again at its next use.
So a change reaches callers at most `staleness` seconds after it was committed (plus the time
of one read, should the loop be late), and a thousand idle keys cost nothing. While the store
is down, known keys are served as they were last read, for `serve_stale` seconds.

Keys are known by their digest only; a plaintext key is never kept. Callers that an operator
names, because a client certificate says who they are, are kept in the same way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from llmgw_core.access.keys import digest as digest_of
from llmgw_core.access.keys import well_formed
from llmgw_core.domain.errors import StoreUnavailable, invalid_api_key, overloaded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llmgw_core.domain.access import Principal, Subject

log = logging.getLogger("llmgw.access")

T = TypeVar("T")
Reference: TypeAlias = "bytes | Subject"
"""The digest of a key, or who is named."""

_ABSENT_CAPACITY = 10_000
_PARALLEL_READS = 4
_PARALLEL_GUESSES = 2
"""Reads of keys that are not known: a flood of guesses must leave the database to known keys."""
_PENDING_READS = 1000
"""Beyond it further guesses are refused at once: they would wait for seconds."""
_READ_TIMEOUT = 2.0


class PrincipalSource(Protocol):
    """Where principals come from. All methods raise `StoreUnavailable`."""

    async def find(self, digest: bytes) -> Principal | None:
        """The principal of the key with this SHA-256. None when there is none, also when it is
        disabled or revoked or a level above is disabled. Expiry is the cache's business."""
        ...

    async def find_subject(self, subject: Subject) -> Principal | None:
        """The principal that `subject` names, as `find`."""
        ...

    async def version(self) -> int:
        """A number that changes whenever an answer of `find` may have changed."""
        ...


class CachedPrincipal:
    """A principal and, in `derived`, whatever its user compiled from it. The same object is
    returned, `derived` included, until the principal changes."""

    __slots__ = ("derived", "epoch", "outdated", "principal")

    def __init__(self, principal: Principal, epoch: int) -> None:
        self.principal = principal
        self.derived: Any = None
        self.epoch = epoch
        """The cache's count of version changes when the principal was last read."""
        self.outdated: float | None = None
        """When it was first served although something has changed since it was read."""


class PrincipalCache:
    """See the module. `clock` is monotonic, `wall_clock` is seconds since the epoch, `sleep`
    waits that many seconds; `staleness`, `serve_stale` in seconds; at most `capacity` known
    keys are kept, the least recently used ones go first."""

    def __init__(
        self,
        source: PrincipalSource,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        staleness: float = 5.0,
        serve_stale: float = 3600.0,
        capacity: int = 100_000,
    ) -> None:
        """Raises `ValueError` when `staleness` or `capacity` is not positive."""
        if staleness <= 0 or capacity < 1:
            raise ValueError("staleness and capacity must be positive")
        self._source = source
        self._clock = clock
        self._wall_clock = wall_clock
        self._sleep = sleep
        self._capacity = capacity
        self.configure(staleness=staleness, serve_stale=serve_stale)
        self._entries: OrderedDict[Reference, CachedPrincipal] = OrderedDict()
        self._absent: OrderedDict[Reference, None] = OrderedDict()
        self._version: int | None = None
        self._epoch = 0
        self._checked = float("-inf")
        self._failed = float("-inf")
        self._polling: asyncio.Task[None] | None = None
        self._reading: dict[Reference, asyncio.Task[CachedPrincipal | None]] = {}
        self._read_slots = asyncio.Semaphore(_PARALLEL_READS)
        self._guess_slots = asyncio.Semaphore(_PARALLEL_GUESSES)
        self._loop: asyncio.Task[None] | None = None

    def configure(self, *, staleness: float, serve_stale: float) -> None:
        """Other bounds, in seconds, from now on."""
        self._staleness = staleness
        self._serve_stale = serve_stale
        self._interval = staleness / 2.5

    def forget_derived(self) -> None:
        """What was compiled from principals is out of date: let go of it."""
        for entry in self._entries.values():
            entry.derived = None

    def lookup(self, key: str) -> CachedPrincipal | None:
        """The principal of `key`, if it can be told at once: known, fresh, not expired."""
        digest = digest_of(key)
        entry = self._entries.get(digest)
        if entry is None or entry.epoch != self._epoch:
            return None
        if self._clock() - self._checked >= self._staleness:
            return None  # `_fresh` in place: every call comes through here
        if entry.principal.expires_at is not None and self._expired(entry):
            return None
        self._entries.move_to_end(digest)
        return entry

    async def resolve(self, key: str) -> CachedPrincipal:
        """The principal of `key`, asking the source when need be. Raises `GatewayError`: 401
        for a key that is malformed, unknown, disabled or expired, 503 when the store is down
        and the key is not known."""
        if not well_formed(key):
            raise invalid_api_key()
        entry = await self._resolved(digest_of(key))
        if entry is None:
            raise invalid_api_key()
        return entry

    async def resolve_subject(self, subject: Subject) -> Principal | None:
        """The principal that `subject` names, as current as those of keys; None when there is
        none, or when it or a level above is disabled, revoked or expired. Raises `GatewayError`
        503 when the store is down and the subject is not known."""
        entry = await self._resolved(subject)
        return None if entry is None else entry.principal

    async def _resolved(self, digest: Reference) -> CachedPrincipal | None:
        try:
            entry = await self._current(digest)
        except StoreUnavailable:
            entry = self._stale(digest)
        return None if entry is None or self._expired(entry) else entry

    async def poll(self) -> None:
        """Ask the source for its version now; calls at the same time share one read. Raises
        `StoreUnavailable`."""
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll())
            self._polling.add_done_callback(_retrieve)
        await asyncio.shield(self._polling)

    @property
    def store_up(self) -> bool:
        """Whether the last attempt to reach the source, if any, succeeded."""
        return self._failed == float("-inf")

    def start(self) -> None:
        """Begin polling in the background."""
        if self._loop is None:
            self._loop = asyncio.create_task(self.run())

    async def run(self) -> None:
        """Poll for ever, often enough that entries stay fresh."""
        while True:
            try:
                await self.poll()
            except StoreUnavailable:
                log.debug("the version of the tenancy could not be read", exc_info=True)
            await self._sleep(self._interval)

    async def aclose(self) -> None:
        """Stop polling and reading. May be repeated."""
        tasks = [task for task in (self._loop, self._polling, *self._reading.values()) if task]
        self._loop = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _fresh(self) -> bool:
        return self._clock() - self._checked < self._staleness

    def _expired(self, entry: CachedPrincipal) -> bool:
        expires_at = entry.principal.expires_at
        return expires_at is not None and expires_at <= self._wall_clock()

    async def _current(self, digest: Reference) -> CachedPrincipal | None:
        """The entry as the database has it; None if it has none."""
        if not self._fresh():
            self._refuse_while_down()
            await self.poll()
        entry = self._entries.get(digest)
        if entry is not None and entry.epoch == self._epoch:
            self._entries.move_to_end(digest)
            return entry
        if digest in self._absent:
            self._absent.move_to_end(digest)
            return None
        self._refuse_while_down()
        return await self._read(digest)

    def _refuse_while_down(self) -> None:
        """Calls must not queue up for a store that has just failed to answer."""
        if self._clock() - self._failed < self._interval:
            raise StoreUnavailable("the store did not answer a moment ago")

    def _stale(self, digest: Reference) -> CachedPrincipal:
        entry = self._entries.get(digest)
        if entry is not None and entry.epoch != self._epoch and entry.outdated is None:
            entry.outdated = self._clock()
        since = self._checked
        if entry is not None and entry.outdated is not None:
            # The version may be known and the change itself not: that must end, too.
            since = min(since, entry.outdated)
        if entry is None or self._clock() - since > self._serve_stale:
            raise overloaded(
                "The gateway cannot check API keys at the moment.", retry_after=self._interval
            )
        self._entries.move_to_end(digest)
        return entry

    async def _poll(self) -> None:
        try:
            # What is read is at least as new as this moment, so the bound counts from here.
            started = self._clock()
            version = await self._ask(self._source.version())
            if version != self._version:
                self._version = version
                self._epoch += 1
                self._absent.clear()
            self._checked = started
        finally:
            self._polling = None

    async def _read(self, digest: Reference) -> CachedPrincipal | None:
        task = self._reading.get(digest)
        if task is None:
            if len(self._reading) >= _PENDING_READS and digest not in self._entries:
                raise StoreUnavailable("too many unknown keys wait to be looked up")
            task = asyncio.create_task(self._find(digest))
            self._reading[digest] = task
            task.add_done_callback(_retrieve)
        return await asyncio.shield(task)

    async def _find(self, digest: Reference) -> CachedPrincipal | None:
        try:
            async with self._read_slots if digest in self._entries else self._guess_slots:
                # A change during the read must leave the result unverified.
                epoch = self._epoch
                principal = await self._ask(self._find_now(digest))
            return self._keep(digest, principal, epoch)
        finally:
            del self._reading[digest]

    def _find_now(self, digest: Reference) -> Awaitable[Principal | None]:
        if isinstance(digest, bytes):
            return self._source.find(digest)
        return self._source.find_subject(digest)

    def _keep(
        self, digest: Reference, principal: Principal | None, epoch: int
    ) -> CachedPrincipal | None:
        entry = self._entries.get(digest)
        if principal is None:
            self._entries.pop(digest, None)
            if epoch == self._epoch:
                _put(self._absent, digest, None, min(self._capacity, _ABSENT_CAPACITY))
            return None
        if entry is None or entry.principal != principal:
            entry = CachedPrincipal(principal, epoch)
        entry.epoch = epoch
        entry.outdated = None
        _put(self._entries, digest, entry, self._capacity)
        return entry

    async def _ask(self, question: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(_READ_TIMEOUT):
                answer = await question
        except (StoreUnavailable, TimeoutError) as error:
            if self.store_up:
                log.warning("the store does not answer; known keys are served as last read")
            self._failed = self._clock()
            raise StoreUnavailable("the store does not answer") from error
        if not self.store_up:
            log.info("the store answers again")
            self._failed = float("-inf")
        return answer


def _put(table: OrderedDict[Reference, T], digest: Reference, value: T, capacity: int) -> None:
    table[digest] = value
    table.move_to_end(digest)
    if len(table) > capacity:
        table.popitem(last=False)


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Nobody may be left to hear of a failure; that is no news then."""
    if not task.cancelled():
        task.exception()
