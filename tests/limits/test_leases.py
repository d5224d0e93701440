"""Reservations of a holder that has gone expire; those of running calls are renewed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from llmgw_core.pipeline.leases import RENEWALS, Leases
from llmgw_core.testing.lease_suite import LeaseSuite
from llmgw_core.testing.leased_limiter import LeasedLimiter

if TYPE_CHECKING:
    from llmgw_core.testing.clock import FakeClock


class TestLeases(LeaseSuite):
    def make_limiter(self, clock: FakeClock) -> LeasedLimiter:
        return LeasedLimiter(clock, 20.0)


class Exchange:
    def __init__(self, reservation: str | None) -> None:
        self.reservation = reservation


class Books:
    def __init__(self) -> None:
        self.open = {1: Exchange("a"), 2: Exchange(None), 3: Exchange("b")}


class Shared:
    lease = 30.0

    def __init__(self) -> None:
        self.renewed: list[list[str]] = []

    async def renew(self, held: list[str]) -> None:
        self.renewed.append(held)
        if len(self.renewed) == 1:
            raise OSError("the network is away")


async def test_all_open_reservations_are_renewed_in_time_whatever_happens() -> None:
    shared: Any = Shared()
    books: Any = Books()
    slept: list[float] = []
    enough = asyncio.Event()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 4:
            enough.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0)

    leases = Leases([books], sleep)
    await leases.aclose()
    leases.keep(shared)
    leases.keep(shared)
    await asyncio.wait_for(enough.wait(), 10)
    await leases.aclose()
    assert set(slept) == {30.0 / RENEWALS}
    assert shared.renewed == [["a", "b"]] * 3


async def test_a_limiter_without_a_lease_is_left_alone() -> None:
    leases, limiter = Leases([]), object()
    leases.keep(limiter)  # type: ignore[arg-type]
    await leases.aclose()
