"""Random histories of a breaker against its table."""

from __future__ import annotations

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from llmgw_core.domain.health import BreakerSettings
from llmgw_core.routing.breaker import (
    CLOSED,
    HALF_OPEN,
    OPEN,
    REFUSED,
    TRANSITIONS,
    Breaker,
    BreakerChange,
    Pool,
)

OUTCOMES = st.sampled_from(["succeeded", "failed", "failed", "abandoned"])


class Histories(RuleBasedStateMachine):
    """Two deployments of a pool, calls that begin and end in any order, against a model that
    counts by itself."""

    @initialize(
        consecutive=st.integers(1, 3),
        probes=st.integers(1, 3),
        share=st.sampled_from([0.5, 1.0]),
    )
    def begin(self, consecutive: int, probes: int, share: float) -> None:
        self.now = 1000.0
        self.limits = BreakerSettings(
            consecutive=consecutive,
            failure_share=0.0,
            probes=probes,
            ejection=4.0,
            max_ejection=16.0,
            max_ejected=share,
        )
        self.pool = Pool(2)
        self.told: list[list[BreakerChange]] = [[], []]
        self.breakers = [Breaker(self.limits, self.pool, self.now, self.heard) for _ in (0, 1)]
        self.running: list[tuple[int, int]] = []
        self.proofs: dict[tuple[int, int], int] = {}

    def heard(self, breaker: Breaker, change: BreakerChange | None) -> None:
        if change is not None:
            self.told[self.breakers.index(breaker)].append(change)

    @rule(seconds=st.sampled_from([0.0, 1.0, 4.0, 20.0, 200.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(which=st.integers(0, 1), forced=st.booleans())
    def call(self, which: int, forced: bool) -> None:
        made = self.breakers[which]
        welcome = made.admits(self.now)
        term = made.enter(self.now, forced=forced)
        assert (term == REFUSED) is (not welcome and not forced)
        if welcome:
            assert term == made.term
        if term != REFUSED:
            self.running.append((which, term))

    @rule(place=st.integers(0, 100), outcome=OUTCOMES)
    def end(self, place: int, outcome: str) -> None:
        if self.running:
            self.finish(*self.running.pop(place % len(self.running)), outcome)

    @rule(which=st.integers(0, 1), forced=st.booleans(), outcome=OUTCOMES, times=st.integers(1, 3))
    def calls_that_end_at_once(self, which: int, forced: bool, outcome: str, times: int) -> None:
        for _ in range(times):
            running = len(self.running)
            self.call(which, forced)
            if len(self.running) > running:
                self.finish(*self.running.pop(), outcome)

    def finish(self, which: int, term: int, outcome: str) -> None:
        made = self.breakers[which]
        before, stale = made.state, term != made.term
        if outcome == "abandoned":
            made.abandoned(term)
        else:
            getattr(made, outcome)(term, self.now)
        if not stale and before is not CLOSED and outcome == "succeeded":
            # That of one that was ejected is the first of the trial that it leads to.
            trial = term if before is HALF_OPEN else term + 1
            self.proofs[which, trial] = self.proofs.get((which, trial), 0) + 1
            assert (made.state is CLOSED) is (self.proofs[which, trial] == self.limits.probes)
        if stale:
            assert made.state is before
        elif before is HALF_OPEN and outcome == "failed":
            assert made.state is OPEN

    @rule(which=st.integers(0, 1))
    def found_ready(self, which: int) -> None:
        self.breakers[which].hasten(self.now)

    @invariant()
    def changes_follow_the_table(self) -> None:
        for told in getattr(self, "told", ()):
            state = CLOSED
            for change in told:
                assert change.before is state
                assert change.after in {
                    after for (before, _), after in TRANSITIONS.items() if before is state
                }
                assert (change.seconds > 0) is (change.after is OPEN)
                assert change.seconds <= self.limits.max_ejection
                state = change.after

    @invariant()
    def counts_are_right(self) -> None:
        if not hasattr(self, "breakers"):
            return
        assert self.pool.ejected == sum(not each.closed for each in self.breakers)
        assert self.pool.ejected <= max(1, int(2 * self.limits.max_ejected))
        for which, made in enumerate(self.breakers):
            assert made.closed is (made.state is CLOSED)
            if made.state is HALF_OPEN:
                trying = self.running.count((which, made.term))
                proofs = self.proofs.get((which, made.term), 0)
                assert trying + proofs <= self.limits.probes


TestHistories = Histories.TestCase
TestHistories.settings = hypothesis_settings(
    max_examples=120, stateful_step_count=50, deadline=None
)
