"""Random histories of calls: what holds whatever fails, in whatever order, and whatever else
happens to the deployments in the meantime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from llmgw_core.domain.call import Call, Head
from llmgw_core.domain.deployment import Deployment, Model
from llmgw_core.domain.failure import FailureKind, UpstreamFailure
from llmgw_core.domain.rules import CallRules, Rules, Treatments
from llmgw_core.routing.balance import Member
from llmgw_core.routing.course import Course
from llmgw_core.routing.plan import Candidates, Tier
from llmgw_core.routing.policy import REFUSALS, CallPolicy, Ended, Same, Stop, Surroundings
from llmgw_core.routing.state import DeploymentState, Obstacle, RoutingMemory, standing
from llmgw_core.routing.strategies.round_robin import RoundRobin

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS: tuple[FailureKind, ...] = get_args(FailureKind)
CALL = Call("c", "chat.completions", Head("POST", "/v1/chat/completions", ()), 0.0, 0)

seconds = st.floats(0.0, 20.0)
treatments = st.builds(
    Treatments,
    **{kind: st.sampled_from(["retry", "elsewhere", "stop"]) for kind in ("cut", "connect")},
)
rules = st.builds(
    Rules,
    failures=treatments,
    retries=st.integers(0, 4),
    retry_within_ms=st.integers(0, 30_000),
    backoff_ms=st.integers(0, 2_000),
    pause_max_ms=st.integers(0, 10_000),
)
windows = st.one_of(st.none(), st.integers(1, 5))


class Happening(NamedTuple):
    """One attempt fails, and in whose way something stands from then on."""

    kind: FailureKind
    seconds: float
    retry_after: float | None
    free: bool
    blocked: frozenset[int]
    hard: bool


happenings = st.builds(
    Happening,
    kind=st.sampled_from(KINDS),
    seconds=seconds,
    retry_after=st.one_of(st.none(), seconds),
    free=st.booleans(),
    blocked=st.frozensets(st.integers(0, 9), max_size=6),
    hard=st.booleans(),
).map(  # what an upstream says of a request is never free
    lambda each: each._replace(free=each.free and each.kind not in REFUSALS)
)


@st.composite
def worlds(draw: Callable[..., Any]) -> Candidates:
    """Candidates of up to three models, with larger and more lenient ones."""

    def tier(name: str) -> Tier:
        members = [
            Member(
                Deployment(
                    f"{name}/{index}",
                    name,
                    "b",
                    "onprem",
                    "their",
                    rules=draw(rules),
                    context_window=draw(windows),
                ),
                DeploymentState(0.0),
            )
            for index in range(draw(st.integers(1, 3)))
        ]
        model = Model(name, tuple(each.deployment for each in members))
        return Tier(model, tuple(members), RoundRobin())

    def tiers(*names: str) -> list[Tier]:
        return [tier(name) for name in names if draw(st.booleans())]

    own = [tier("m"), *tiers("n", "o")]
    found = Candidates.of(own, (), tiers("large", "huge"), tiers("mild"))
    limits = CallRules(attempts=draw(st.integers(1, 8)))
    return replace(found, rules=limits)


class Begun(NamedTuple):
    """An attempt that was begun, and what stood behind it at that moment."""

    member: Member
    at: float
    free: bool
    healthy_untried: set[str]
    allowed: set[str]


def run(
    found: Candidates, history: list[Happening], deadline: float, chance: float, funds: int
) -> tuple[list[Begun], Stop | None]:
    """Play `history`; every attempt of the call, and how it ended."""
    now = 0.0
    memory = RoutingMemory(lambda: now)
    everybody = list(
        {m.deployment.id: m for tier in found.every_tier() for m in tier.members}.values()
    )
    for each in everybody:
        each.state = memory.states[each.deployment.identity] = DeploymentState(0.0)
    course = Course(CALL, found, memory, 0)
    paid = 0

    def redirect(to: Candidates) -> None:
        course.found = to

    def pay() -> bool:
        nonlocal paid
        paid += 1
        return paid <= funds

    policy = CallPolicy(
        found,
        deadline,
        Surroundings(
            next=course.next,
            redirect=redirect,
            obstacle=lambda each: standing(each.state, now),
            another_key=lambda each: each.state.turn > 0,
            pay=pay,
            random=lambda: chance,
        ),
    )
    begun: list[Begun] = []
    tried: set[str] = set()

    def begin(member: Member, free: bool = False) -> None:
        candidates = {m.deployment.id: m for tier in course.found.tiers for m in tier.members}
        healthy = {
            id
            for id, each in candidates.items()
            if id not in tried and standing(each.state, now) is None
        }
        begun.append(Begun(member, now, free, healthy, set(candidates)))
        tried.add(member.deployment.id)

    member = course.advance()
    assert member is not None
    begin(member)
    for happening in history:
        now += happening.seconds
        course.leave(member)
        for index, other in enumerate(everybody):
            memory.clear(other.deployment, "test")
            if index in happening.blocked:
                memory.put(other.deployment, Obstacle("test", "in the way", hard=happening.hard))
        failure = UpstreamFailure(happening.kind, "", status=500, retry_after=happening.retry_after)
        step = policy.after(Ended(member, failure, happening.seconds, free=happening.free), now)
        if isinstance(step, Stop):
            return begun, step
        if isinstance(step, Same):
            now += step.pause
            assert course.again(step.member, booked=not step.free)
            member = step.member
        else:
            picked = course.advance()
            assert picked is step.member
            member = picked
        begin(member, isinstance(step, Same) and step.free)
    return begun, None


histories = st.lists(happenings, min_size=1, max_size=14)


@given(worlds(), histories, st.floats(1.0, 100.0), st.floats(0.0, 1.0), st.integers(0, 20))
def test_no_deployment_is_tried_again_while_a_healthy_one_is_untried(
    found: Candidates, history: list[Happening], deadline: float, chance: float, funds: int
) -> None:
    begun, _ = run(found, history, deadline, chance, funds)
    seen: set[str] = set()
    for each in begun:
        id = each.member.deployment.id
        if id in seen and not each.free:
            assert not each.healthy_untried
        seen.add(id)


@given(worlds(), histories, st.floats(1.0, 100.0), st.floats(0.0, 1.0), st.integers(0, 20))
def test_attempts_stay_within_budget_deadline_and_candidates(
    found: Candidates, history: list[Happening], deadline: float, chance: float, funds: int
) -> None:
    begun, stop = run(found, history, deadline, chance, funds)
    counted = [each for each in begun if not each.free]
    assert len(counted) <= found.rules.attempts
    assert all(each.at < deadline for each in begun)
    assert all(each.free or each.member.deployment.id in each.allowed for each in begun)
    if stop is not None:
        assert stop.retry_after is None or stop.retry_after >= 0.0
        assert stop.reason


@given(worlds(), histories, st.floats(0.0, 1.0))
def test_what_a_request_is_refused_for_is_told_unless_somebody_takes_it(
    found: Candidates, history: list[Happening], chance: float
) -> None:
    refused = [
        each.kind
        for each, _ in zip(history, run(found, history, 1000.0, chance, 99)[0], strict=False)
        if each.kind in REFUSALS and not each.free
    ]
    _, stop = run(found, history, 1000.0, chance, 99)
    if stop is not None:
        assert (stop.failure.kind in REFUSALS) == bool(refused)
        assert not refused or stop.failure.kind == refused[0]


@given(worlds(), histories, st.floats(0.0, 1.0))
def test_a_refused_request_goes_only_where_it_is_sent(
    found: Candidates, history: list[Happening], chance: float
) -> None:
    begun, _ = run(found, history, 1000.0, chance, 99)
    where: set[str] | None = None
    window = 0
    for each, happening in zip(begun, history, strict=False):
        if where is not None and not each.free:
            assert each.member.deployment.model in where
            assert window == 0 or (each.member.deployment.context_window or 99) > window
        if happening.free or happening.kind not in REFUSALS:
            continue
        if happening.kind == "content_policy":
            where = {tier.model.name for tier in found.lenient}
        else:
            where = {each.member.deployment.model, *(t.model.name for t in found.larger)}
            window = max(window, each.member.deployment.context_window or 0)
