"""Inference engines and their callers in virtual time: what a balancer makes of them.

Nothing sleeps and nothing is random but by a seed, so a minute of traffic takes a fraction of a
second and is the same on every machine. Whom a call goes to is decided by the gateway's own routing
(`routing.course`, breakers included); only the engines are imitations: `slots` sequences at a time,
the others wait in line; the first content comes when the prompt has been read, which is quicker
when the KV cache has its beginning already.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from llmgw_core.domain.deployment import Deployment, Model
from llmgw_core.domain.limits import NO_LIMITS, Limits
from llmgw_core.limits.caps import Caps
from llmgw_core.limits.memory import MemoryLimiter
from llmgw_core.routing.balance import BalancerContext
from llmgw_core.routing.course import Course
from llmgw_core.routing.health import Health
from llmgw_core.routing.plan import Candidates
from llmgw_core.routing.state import RoutingMemory
from llmgw_core.testing.clock import FakeClock
from llmgw_core.testing.rosters import a_call, roster_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import msgspec

    from llmgw_core.domain.call import Call
    from llmgw_core.routing.balance import Balancer, Member
    from llmgw_core.routing.caps import CapTicket

READ_SECONDS = 0.2
"""To read 1,000 tokens of a prompt at speed 1, when none of them is in the cache."""
CACHED = 0.1
"""The share of that when the beginning is in the cache."""
WRITE_SECONDS = 0.01
"""To write a token of the answer."""
REFUSED_AFTER = 0.002
"""Seconds until an engine that is down has refused."""
ATTEMPTS = 5
"""Of one call, at most."""


@dataclass(frozen=True)
class EngineSpec:
    """One engine. `speed`: how much faster than the usual one; `down`: it answers nobody from the
    first to the second of these instants; `cache`: how many beginnings of prompts it remembers.
    `weight`, `price` (of a call) and `caps` are what the gateway is told of it."""

    name: str
    speed: float = 1.0
    slots: int = 8
    down: tuple[tuple[float, float], ...] = ()
    cache: int = 0
    weight: int = 1
    price: int = 0
    caps: Limits = NO_LIMITS

    @property
    def deployment(self) -> Deployment:
        """As the gateway is configured for it."""
        id = f"m/{self.name}"
        return Deployment(id, "m", "canonical", "onprem", "m", weight=self.weight, caps=self.caps)


@dataclass(frozen=True)
class Traffic:
    """`rate` calls a second for `seconds`, at random instants. Prompts have `prompt` tokens on
    average, answers `answer`; the prompts begin in `prefixes` different ways, the n-th one as often
    as 1/n of the first (Zipf). Who has no content after `patience` seconds leaves."""

    rate: float
    seconds: float
    prompt: int = 1000
    answer: int = 150
    prefixes: int = 1
    patience: float = 30.0


@dataclass
class Outcome:
    """What came of `seconds` of traffic. `waits` are the seconds to the first content of the calls
    that got a whole answer; `served` counts these by engine, `hits` and `misses` the prompts whose
    beginning was in the cache, and was not."""

    seconds: float
    calls: int = 0
    failed: int = 0
    attempts: int = 0
    hits: int = 0
    misses: int = 0
    waits: list[float] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)

    def wait(self, share: float) -> float:
        """The time to the first content that `share` of the answered calls did not exceed."""
        return sorted(self.waits)[int(share * (len(self.waits) - 1))]

    def goodput(self, within: float) -> float:
        """The share of all calls that were answered whole, with the first content in time."""
        return sum(wait <= within for wait in self.waits) / self.calls

    def hit_rate(self) -> float:
        """The share of prompts whose beginning was in the cache."""
        return self.hits / (self.hits + self.misses)


class Job:
    """A call on its way: `member` is where it is now, `ticket` what it holds of the caps there."""

    member: Member
    ticket: CapTicket | None

    def __init__(
        self, prefix: int, prompt: int, answer: int, arrived: float, course: Course
    ) -> None:
        self.prefix = prefix
        self.prompt = prompt
        self.answer = answer
        self.arrived = arrived
        self.course = course
        self.attempts = 0
        self.first_content = 0.0
        self.over = False


class _Engine:
    def __init__(self, spec: EngineSpec, simulation: _Simulation) -> None:
        self.spec = spec
        self.up = True
        self._at = simulation.at
        self._outcome = simulation.outcome
        self._after = simulation.after
        self._line: deque[Job] = deque()
        self._running: set[Job] = set()
        self._cache: OrderedDict[int, None] = OrderedDict()

    def submit(self, job: Job) -> None:
        if not self.up:
            self._at(REFUSED_AFTER, partial(self._after, job, well=False))
            return
        self._line.append(job)
        self._begin()

    def drop(self, job: Job) -> None:
        """Its caller has left."""
        if job in self._line:
            self._line.remove(job)
        self._running.discard(job)
        self._begin()

    def turn(self, *, up: bool) -> None:
        """Goes down, and everything in it is lost; or comes up, with an empty cache."""
        self.up = up
        lost = [*sorted(self._running, key=lambda job: job.arrived), *self._line]
        self._running.clear()
        self._line.clear()
        self._cache.clear()
        for job in lost:
            self._after(job, well=False)

    def _begin(self) -> None:
        while self._line and len(self._running) < self.spec.slots:
            job = self._line.popleft()
            self._running.add(job)
            reading = job.prompt / 1000 * READ_SECONDS / self.spec.speed
            if self.spec.cache:
                reading *= CACHED if self._remembers(job.prefix) else 1.0
            self._at(reading, partial(self._first, job, job.attempts))

    def _remembers(self, prefix: int) -> bool:
        known = prefix in self._cache
        self._cache[prefix] = None
        self._cache.move_to_end(prefix)
        if len(self._cache) > self.spec.cache:
            self._cache.popitem(last=False)
        self._outcome.hits += known
        self._outcome.misses += not known
        return known

    def _first(self, job: Job, attempt: int) -> None:
        if job in self._running and job.attempts == attempt:
            job.first_content = self._at.now()
            writing = job.answer * WRITE_SECONDS / self.spec.speed
            self._at(writing, partial(self._end, job))

    def _end(self, job: Job) -> None:
        if job in self._running:
            self._running.remove(job)
            self._outcome.served[self.spec.name] += 1
            self._after(job, well=True)
            self._begin()


class _Timeline:
    """Has things done later, in the order of time."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def __call__(self, delay: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._clock.now + delay, next(self._numbers), event))

    def now(self) -> float:
        return self._clock.now

    def run(self) -> None:
        while self._events:
            self._clock.now, _, event = heapq.heappop(self._events)
            event()


class _Simulation:
    def __init__(
        self,
        make: Callable[[BalancerContext], Balancer],
        engines: Sequence[EngineSpec],
        traffic: Traffic,
        seed: int,
        options: msgspec.Struct | None,
    ) -> None:
        clock = FakeClock(0.0)
        self.at = _Timeline(clock)
        self.traffic = traffic
        self.outcome = Outcome(traffic.seconds)
        self.memory = RoutingMemory(clock)
        self._random = Random(seed)  # noqa: S311 -- the same every time, which is the point
        shares = (1 / (number + 1) for number in range(traffic.prefixes))
        self._often = list(itertools.accumulate(shares))
        kind = getattr(make, "Options", None)
        chance = Random(seed + 1)  # noqa: S311 -- as above
        given = options if options is not None or kind is None else kind()
        balancer = make(BalancerContext(given, clock=clock, random=chance))
        deployments = tuple(each.deployment for each in engines)
        model = Model("m", deployments)
        roster = roster_of({"m": model}, balancer, self.memory)
        limiter = MemoryLimiter(clock)
        for spec, deployment in zip(engines, deployments, strict=True):
            member = roster.members[deployment.id]
            member.price = partial(_price, spec.price)
            member.caps = Caps.of(deployment, limiter)
        self._found = Candidates.of(roster.tiers(model, deployments))
        Health(self.memory, lambda: 0).configure([model])
        self._engines = {f"m/{each.name}": _Engine(each, self) for each in engines}

    def run(self) -> Outcome:
        for engine in self._engines.values():
            for begin, end in engine.spec.down:
                self.at(begin, partial(engine.turn, up=False))
                self.at(end, partial(engine.turn, up=True))
        self._arrive_later()
        self.at.run()
        return self.outcome

    def after(self, job: Job, *, well: bool) -> None:
        """The attempt that runs for `job` has ended."""
        if job.over:
            return
        if well:
            job.over = True
            job.course.answered(job.member, job.first_content)
            self._left(job)
            self.outcome.waits.append(job.first_content - job.arrived)
            return
        job.course.failed(job.member, "connect")
        self._left(job)
        if job.first_content:  # committed: it cannot go elsewhere
            job.over = True
            self.outcome.failed += 1
        else:
            self._attempt(job)

    def _left(self, job: Job) -> None:
        job.course.leave(job.member)
        if job.ticket is not None:
            job.ticket.settle(job.prompt + job.answer)

    def _arrive_later(self) -> None:
        wait = self._random.expovariate(self.traffic.rate)
        if self.at.now() + wait < self.traffic.seconds:
            self.at(wait, self._arrive)

    def _arrive(self) -> None:
        chance, traffic = self._random, self.traffic
        prefix = bisect(self._often, chance.random() * self._often[-1])
        call = a_call(_body(prefix, self.outcome.calls))
        prompt = int(traffic.prompt * chance.uniform(0.5, 1.5))
        answer = 1 + int(chance.expovariate(1 / traffic.answer))
        course = Course(call, self._found, self.memory, prompt + answer)
        self.outcome.calls += 1
        job = Job(prefix, prompt, answer, self.at.now(), course)
        self.at(traffic.patience, partial(self._leave, job))
        self._attempt(job)
        self._arrive_later()

    def _leave(self, job: Job) -> None:
        if not job.first_content and not job.over:
            job.over = True
            self.outcome.failed += 1
            self._engines[job.member.deployment.id].drop(job)
            self._left(job)

    def _attempt(self, job: Job) -> None:
        member = job.course.advance() if job.attempts < ATTEMPTS else None
        if member is None:
            job.over = True
            self.outcome.failed += 1
            return
        job.attempts += 1
        self.outcome.attempts += 1
        job.member, job.ticket = member, job.course.ticket
        self._engines[member.deployment.id].submit(job)


def _body(prefix: int, number: int) -> bytes:
    """A request whose beginning is one of many, and whose end is its own."""
    document = b"document %d " % prefix * 100
    message = b'{"role":"user","content":"%b%d"}' % (document, number)
    return b'{"model":"m","stream":true,"user":"u%d","messages":[%b]}' % (prefix, message)


def _price(amount: int, call: Call) -> int:
    return amount


def simulate(
    make: Callable[[BalancerContext], Balancer],
    engines: Sequence[EngineSpec],
    traffic: Traffic,
    *,
    seed: int = 1,
    options: msgspec.Struct | None = None,
) -> Outcome:
    """What comes of `traffic` among `engines` when the balancer that `make` gives shares it out.
    `options` are its own, by default as nobody has configured them."""
    return _Simulation(make, engines, traffic, seed, options).run()
