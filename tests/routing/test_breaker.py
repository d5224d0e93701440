"""The table of the breaker, and its counters at their bounds."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import msgspec
import pytest

from llmgw_core.domain.health import BreakerSettings
from llmgw_core.routing.breaker import (
    CLOSED,
    HALF_OPEN,
    OPEN,
    REFUSED,
    TRANSITIONS,
    UNCOUNTED,
    Breaker,
    BreakerChange,
    BreakerEvent,
    BreakerState,
    OutcomeWindow,
    Pool,
)

if TYPE_CHECKING:
    from collections.abc import Callable

THREE = BreakerSettings(
    consecutive=3,
    failure_share=0.0,
    probes=1,
    ejection=10.0,
    max_ejection=60.0,
    decay=100.0,
    max_ejected=1.0,
)
SHARE = BreakerSettings(consecutive=0, failure_share=0.5, window=10.0, minimum_calls=10)


def breaker(settings: BreakerSettings = THREE, pool: Pool | None = None) -> Breaker:
    return Breaker(settings, pool or Pool(1), 0.0)


def into(told: list[BreakerChange]) -> Callable[[Breaker, BreakerChange | None], None]:
    def watch(breaker: Breaker, change: BreakerChange | None) -> None:
        if change is not None:
            assert breaker.state is change.after
            told.append(change)

    return watch


def in_state(state: BreakerState, settings: BreakerSettings = THREE) -> Breaker:
    """A breaker in `state` at second 10, ejected at second 0 unless it is closed."""
    made = breaker(settings)
    if state is not CLOSED:
        eject(made, 0.0)
    if state is HALF_OPEN:
        made.abandoned(made.enter(10.0))
    assert made.state is state
    return made


def eject(breaker: Breaker, now: float) -> None:
    for _ in range(breaker.settings.consecutive):
        breaker.failed(breaker.term, now)
    assert breaker.state is OPEN


def fail_often(breaker: Breaker) -> None:
    for _ in range(3):
        breaker.failed(breaker.enter(10.0, forced=True), 10.0)


def fail_once(breaker: Breaker) -> None:
    breaker.failed(breaker.enter(9.0, forced=True), 10.0)


def come(breaker: Breaker) -> None:
    breaker.enter(10.0)


def succeed_early(breaker: Breaker) -> None:
    breaker.succeeded(breaker.enter(9.0, forced=True), 9.0)


STEPS = {
    BreakerEvent.EXCEEDED: fail_often,
    BreakerEvent.DUE: come,
    BreakerEvent.SUCCEEDED: succeed_early,
    BreakerEvent.FAILED: fail_once,
}


@pytest.mark.parametrize(
    ("state", "event", "after"),
    [
        (CLOSED, BreakerEvent.EXCEEDED, OPEN),
        (CLOSED, BreakerEvent.DUE, CLOSED),
        (CLOSED, BreakerEvent.SUCCEEDED, CLOSED),
        (CLOSED, BreakerEvent.FAILED, CLOSED),
        (OPEN, BreakerEvent.DUE, HALF_OPEN),
        (OPEN, BreakerEvent.SUCCEEDED, HALF_OPEN),
        (OPEN, BreakerEvent.FAILED, OPEN),
        (HALF_OPEN, BreakerEvent.DUE, HALF_OPEN),
        (HALF_OPEN, BreakerEvent.SUCCEEDED, HALF_OPEN),
        (HALF_OPEN, BreakerEvent.FAILED, OPEN),
        (HALF_OPEN, BreakerEvent.EXCEEDED, OPEN),
    ],
)
def test_what_happens_to_a_breaker_is_what_its_table_says(
    state: BreakerState, event: BreakerEvent, after: BreakerState
) -> None:
    made = in_state(
        state,
        BreakerSettings(consecutive=3, failure_share=0.0, probes=2, ejection=10.0, max_ejected=1.0),
    )
    STEPS[event](made)
    assert made.state is after
    if event is not BreakerEvent.EXCEEDED or state is CLOSED:
        assert TRANSITIONS.get((state, event), state) is after


def test_half_open_is_left_for_closed_by_the_last_proof_that_is_needed() -> None:
    made = in_state(
        HALF_OPEN,
        BreakerSettings(consecutive=3, failure_share=0.0, probes=3, ejection=10.0, max_ejected=1.0),
    )
    terms = [made.enter(10.0) for _ in range(3)]
    made.succeeded(terms[0], 11.0)
    made.succeeded(terms[1], 11.0)
    assert made.state is HALF_OPEN
    made.succeeded(terms[2], 11.0)
    assert made.state is CLOSED
    assert TRANSITIONS[HALF_OPEN, BreakerEvent.PROVED] is CLOSED


def test_nothing_leads_from_closed_to_half_open_or_from_open_to_closed() -> None:
    ways = {(before, after) for (before, _), after in TRANSITIONS.items()}
    assert ways == {(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, OPEN), (HALF_OPEN, CLOSED)}


def test_a_success_in_between_begins_the_row_anew() -> None:
    made = breaker()
    for now in range(10):
        made.failed(made.term, now)
        made.failed(made.term, now)
        made.succeeded(made.term, now)
    assert made.state is CLOSED


@pytest.mark.parametrize(("good", "ejected"), [(5, True), (6, False)])
def test_the_share_of_failures_counts_from_the_minimum_of_calls_on(
    good: int, ejected: bool
) -> None:
    made = breaker(SHARE)
    for _ in range(good):
        made.succeeded(made.term, 1.0)
    for _ in range(5):
        assert made.state is CLOSED
        made.failed(made.term, 1.0)
    assert (made.state is OPEN) is ejected


def test_what_is_older_than_the_window_does_not_count() -> None:
    made = breaker(SHARE)
    for _ in range(5):
        made.failed(made.term, 0.5)
    for _ in range(5):
        made.failed(made.term, 11.0)
    assert made.state is CLOSED
    for _ in range(5):
        made.failed(made.term, 12.0)
    assert made.state is OPEN


def test_a_window_holds_exactly_the_last_slots() -> None:
    window = OutcomeWindow(10.0)
    for second in range(25):
        if second >= window.ends:
            window.turn(float(second))
        window.good += 1
        assert window.totals(float(second)) == (min(second + 1, 10), 0)
    assert window.totals(100.0) == (0, 0)


def test_a_dead_breaker_ejects_nobody() -> None:
    made = breaker(BreakerSettings(consecutive=0, failure_share=0.0))
    for _ in range(1000):
        made.failed(made.term, 1.0)
    assert made.state is CLOSED


def test_ejections_grow_to_their_bound_and_fade_with_health() -> None:
    made, now, lengths = breaker(), 0.0, []
    eject(made, now)
    for _ in range(5):
        lengths.append(made.until - now)
        now = made.until
        made.failed(made.enter(now), now)
    assert lengths == [10.0, 20.0, 40.0, 60.0, 60.0]
    now = made.until
    made.succeeded(made.enter(now), now)
    assert made.state is CLOSED
    now += 250.0  # two ejections and a half are made up for
    eject(made, now)
    assert made.until - now == 20.0
    now = made.until
    made.succeeded(made.enter(now), now)
    now += 1000.0
    eject(made, now)
    assert made.until - now == 10.0
    assert made.ejections == 8


@pytest.mark.parametrize("probes", [1, 2, 5])
def test_half_open_lets_exactly_the_configured_number_through(probes: int) -> None:
    made = breaker(
        BreakerSettings(
            consecutive=3, failure_share=0.0, probes=probes, ejection=10.0, max_ejected=1.0
        )
    )
    eject(made, 0.0)
    assert [made.enter(9.9) for _ in range(20)] == [REFUSED] * 20
    terms = [made.enter(10.0) for _ in range(20)]
    assert [term for term in terms if term != REFUSED] == [made.term] * probes
    assert not made.admits(10.0)
    made.abandoned(terms[0])
    assert made.admits(10.0)
    assert [made.enter(10.0) for _ in range(20)].count(REFUSED) == 19
    for _ in range(probes - 1):
        made.succeeded(made.term, 10.0)
        assert made.enter(10.0) == REFUSED, "a probe that succeeded makes no room for another"
    made.succeeded(made.term, 10.0)
    assert made.state is CLOSED


def test_who_is_tried_as_the_least_bad_does_not_disturb_the_probes() -> None:
    made = in_state(HALF_OPEN)
    probe = made.enter(10.0)
    other = made.enter(10.0, forced=True)
    assert other == UNCOUNTED
    made.failed(other, 10.0)
    made.abandoned(other)
    assert made.state is HALF_OPEN
    made.succeeded(other, 10.0)
    assert made.state is HALF_OPEN
    made.succeeded(probe, 10.0)
    assert made.state is CLOSED


def test_what_began_before_the_ejection_is_no_evidence_after_it() -> None:
    made = breaker()
    old = made.term
    eject(made, 0.0)
    made.succeeded(old, 1.0)
    assert made.state is OPEN
    made.abandoned(made.enter(10.0))
    made.failed(old, 11.0)
    made.abandoned(old)
    assert (made.state, made.enter(11.0)) == (HALF_OPEN, made.term)
    made.succeeded(made.term, 12.0)
    for _ in range(5):
        made.failed(old, 13.0)
    assert made.state is CLOSED


@pytest.mark.parametrize(
    ("size", "share", "ejected"),
    [
        (1, 0.5, 1),
        (2, 0.75, 1),
        (3, 0.75, 2),
        (10, 0.7, 7),
        (100, 0.29, 29),
        (4, 1.0, 4),
        (4, 0, 0),
    ],
)
def test_a_part_of_the_pool_stays_in_use(size: int, share: float, ejected: int) -> None:
    pool = Pool(size)
    limits = BreakerSettings(consecutive=1, failure_share=0.0, max_ejected=share)
    members = [breaker(limits, pool) for _ in range(size)]
    for _ in range(3):
        for each in members:
            each.failed(each.term, 1.0)
    assert [each.state for each in members].count(OPEN) == pool.ejected == ejected


def test_one_that_was_spared_is_ejected_once_another_is_back() -> None:
    pool, limits = (
        Pool(2),
        BreakerSettings(consecutive=2, failure_share=0.0, ejection=1.0, max_ejected=0.5),
    )
    first, second = breaker(limits, pool), breaker(limits, pool)
    eject(first, 0.0)
    for _ in range(5):
        second.failed(second.term, 0.5)
    assert second.state is CLOSED
    first.succeeded(first.enter(1.0), 1.0)
    second.failed(second.term, 1.5)
    assert (first.state, second.state) == (CLOSED, OPEN)


def test_whoever_is_found_ready_again_is_tried_at_once() -> None:
    made = in_state(OPEN)
    made.hasten(4.0)
    assert made.enter(3.9) == REFUSED
    assert made.enter(4.0) == made.term
    until = made.until
    made.hasten(3.0)
    assert made.until == until, "only an ejection can be cut short"


def test_the_watcher_hears_of_every_change_of_room_for_probes() -> None:
    rooms: list[bool] = []
    made = Breaker(THREE, Pool(1), 0.0, lambda breaker, _: rooms.append(breaker.admits(10.0)))
    eject(made, 0.0)
    term = made.enter(10.0)
    made.abandoned(term)
    made.failed(made.enter(10.0), 10.0)
    made.hasten(10.0)
    #      ejected, due, taken, free again, taken, ejected again, cut short
    assert rooms == [True, True, False, True, False, False, True]


def test_after_a_release_nobody_is_told_and_no_pool_counts() -> None:
    pool, told = Pool(1), list[BreakerChange]()
    made = Breaker(THREE, pool, 0.0, into(told))
    made.release()
    eject(made, 0.0)
    assert (told, pool.ejected) == ([], 0)


def test_changes_are_told_with_their_reason() -> None:
    told: list[BreakerChange] = []
    made = Breaker(THREE, Pool(1), 0.0, into(told))
    eject(made, 0.0)
    assert made.reason == "3 failures in a row"
    term = made.enter(10.0)
    made.failed(term, 10.0)
    made.succeeded(made.enter(30.0), 30.0)
    assert made.reason == "it failed again"
    assert [(each.before, each.after, each.reason, each.seconds) for each in told] == [
        (CLOSED, OPEN, "3 failures in a row", 10.0),
        (OPEN, HALF_OPEN, "its ejection is over", 0.0),
        (HALF_OPEN, OPEN, "it failed again", 20.0),
        (OPEN, HALF_OPEN, "its ejection is over", 0.0),
        (HALF_OPEN, CLOSED, "what was tried went well", 0.0),
    ]


def test_the_reason_of_a_share_says_how_many_of_how_many() -> None:
    told: list[BreakerChange] = []
    made = Breaker(SHARE, Pool(1), 0.0, into(told))
    for good, _ in itertools.product((True, False), range(5)):
        (made.succeeded if good else made.failed)(made.term, 1.0)
    assert told[0].reason == "5 of 10 calls failed within 10 s"


def test_other_settings_keep_health_and_move_it_to_the_new_pool() -> None:
    old, new = Pool(2), Pool(3)
    made = breaker(THREE, old)
    eject(made, 0.0)
    made.configure(SHARE, new)
    assert (made.state, old.ejected, new.ejected) == (OPEN, 0, 1)
    made.release()
    assert new.ejected == 0
    healthy = breaker(THREE, old)
    healthy.configure(THREE, new)
    healthy.release()
    assert (old.ejected, new.ejected) == (0, 0)


def test_who_is_on_trial_when_fewer_probes_are_wanted_is_not_left_there_for_ever() -> None:
    pool = Pool(1)
    made = breaker(msgspec.structs.replace(THREE, probes=3), pool)
    eject(made, 0.0)
    made.succeeded(made.enter(10.0), 10.0)
    term = made.enter(10.0)
    made.configure(THREE, pool)
    assert not made.admits(10.0)
    made.abandoned(term)
    assert made.admits(10.0)
    made.succeeded(made.enter(10.0), 10.0)
    assert made.closed
