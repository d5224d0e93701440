"""The conformance suite of limiters whose reservations have a lease; for everything else there is
`limiter_suite`, for one kind of tokens, buckets and shadow mode `limiter_kinds_machine`."""
# ruff: noqa: D102 - the name of a test is its sentence

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any

import pytest

from llmgw_core.limits.port import Exceeded, MeterSpec
from llmgw_core.testing.clock import FakeClock

SLOT = MeterSpec("team:t:parallel", "team", "parallel", 1)
REQUESTS = MeterSpec("team:t:rpm", "team", "requests", 9)
TOKENS = MeterSpec("team:t:tpm", "team", "tokens", 100)
SPECS = (SLOT, REQUESTS, TOKENS)


class LeaseSuite(ABC):
    """Subclass it, name the subclass `Test...`, and implement `make_limiter`."""

    @abstractmethod
    def make_limiter(self, clock: FakeClock) -> Any:
        """A limiter with a `lease` shorter than half a minute, whose time is `clock`."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def limiter(self, clock: FakeClock) -> Any:
        return self.make_limiter(clock)

    async def test_the_slot_of_a_holder_that_has_gone_is_free_after_the_lease(
        self, limiter: Any, clock: FakeClock
    ) -> None:
        bound = limiter.bind(SPECS)
        gone = await limiter.reserve(bound, 60)
        clock.now += limiter.lease * 0.9
        with pytest.raises(Exceeded):
            await limiter.reserve(bound, 1)
        clock.now += limiter.lease * 0.2
        (await limiter.reserve(bound, 1)).settle(1)
        requests, tokens = limiter.state(bound)
        # What it had reserved may have been used.
        assert (requests.remaining, tokens.remaining) == (7, 39)
        gone.settle(5)
        gone.release()
        assert limiter.state(bound)[1].remaining == 39

    async def test_what_is_renewed_stays(self, limiter: Any, clock: FakeClock) -> None:
        bound = limiter.bind(SPECS)
        held = await limiter.reserve(bound, 60)
        for _ in range(9):
            clock.now += limiter.lease / 3
            await limiter.renew([held])
            with pytest.raises(Exceeded):
                await limiter.reserve(bound, 1)
        held.settle(60)
        (await limiter.reserve(bound, 1)).settle(1)

    async def test_what_has_expired_cannot_be_renewed_into_somebody_elses_slot(
        self, limiter: Any, clock: FakeClock
    ) -> None:
        bound = limiter.bind(SPECS)
        gone = await limiter.reserve(bound, 0)
        clock.now += limiter.lease * 1.1
        other = await limiter.reserve(bound, 0)
        await limiter.renew([gone])
        gone.release()
        with pytest.raises(Exceeded):
            await limiter.reserve(bound, 0)
        other.settle(0)

    async def test_renewing_what_is_settled_changes_nothing(self, limiter: Any) -> None:
        bound = limiter.bind(SPECS)
        held = await limiter.reserve(bound, 10)
        held.settle(10)
        await limiter.renew([held])
        (await limiter.reserve(bound, 1)).settle(1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del held
