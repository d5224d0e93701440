"""Asks engines in the background how they are, and puts what it hears into the routing memory.

One task for each deployment that is to be probed, once per process. Each begins at a random moment
of its interval and every round is a little longer or shorter than the others, so that no engine is
asked by everybody at once; over all deployments only so many rounds are under way at a time. A new
configuration starts, ends and redirects the tasks; what is known stays. Answers hold for a while
only: when nobody asks any more, nobody is held back for what was said long ago.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from llmgw_core.domain.health import HealthChange
from llmgw_core.pipeline.probing import probe
from llmgw_core.routing.readiness import LOAD, PROBE, Readiness, foreign, patience, too_full
from llmgw_core.routing.state import Obstacle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from llmgw_core.domain.load import EngineLoad
    from llmgw_core.pipeline.probing import Report, Target
    from llmgw_core.routing.health import Health
    from llmgw_core.routing.state import DeploymentState, RoutingMemory

log = logging.getLogger("llmgw.health")

_AT_ONCE: Final = 32
_JITTER: Final = 0.1


class _Watch:
    """What goes on with one deployment."""

    __slots__ = ("readiness", "remarks", "target", "task")

    def __init__(self, target: Target) -> None:
        self.target = target
        self.readiness = Readiness()
        self.remarks: dict[str, str] = {}
        """What was remarked last, by its subject: nothing is said twice."""
        self.task: asyncio.Task[None] | None = None


class Prober:
    """One per gateway. `random` gives numbers from 0 to 1."""

    def __init__(
        self,
        memory: RoutingMemory,
        health: Health,
        random: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._memory = memory
        self._health = health
        self._random = random
        self._sleep = sleep
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._watches: dict[object, _Watch] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._started = False

    def follow(self, targets: Iterable[Target]) -> None:
        """From now on probe these and nobody else."""
        wanted = {target.deployment.identity: target for target in targets}
        for identity in self._watches.keys() - wanted.keys():
            self._forget(self._watches.pop(identity))
        for identity, target in wanted.items():
            watch = self._watches.setdefault(identity, _Watch(target))
            before, watch.target = watch.target, target
            if before.settings != target.settings:
                self._end(watch)
            if self._started and watch.task is None:
                self._begin(watch)

    def start(self) -> None:
        """Begin to ask. Needs a running loop."""
        self._started = True
        for watch in self._watches.values():
            self._begin(watch)

    async def aclose(self) -> None:
        """End every question. Idempotent."""
        self._started = False
        for watch in self._watches.values():
            self._end(watch)
        if self._ending:
            await asyncio.wait(self._ending)

    async def _run(self, watch: _Watch) -> None:
        await self._sleep(self._random() * watch.target.settings.interval)
        while True:
            async with self._slots:
                await self._round(watch)
            spread = 1.0 + _JITTER * (2.0 * self._random() - 1.0)
            await self._sleep(watch.target.settings.interval * spread)

    async def _round(self, watch: _Watch) -> None:
        target = watch.target
        state = self._memory.states[target.deployment.identity]
        before = state.in_flight
        report = await probe(target, self._memory.clock)
        # Ended or begun while it was asked: either way the call is ours.
        self._learn(watch, state, report, max(before, state.in_flight))

    def _learn(self, watch: _Watch, state: DeploymentState, report: Report, ours: int) -> None:
        """Put what was found out where calls look."""
        target, settings = watch.target, watch.target.settings
        readiness, memory, now = watch.readiness, self._memory, self._memory.clock()
        if readiness.found(report.finding, settings.failures):
            self._turned(watch, state)
        state.ready = readiness.ready
        if not readiness.ready:
            until = now + patience(settings)
            memory.put(target.deployment, Obstacle(PROBE, f"not ready: {readiness.reason}", until))
        self._weigh(watch, state, report.load, ours)
        for subject, remark in report.remarks.items():
            if remark and remark != watch.remarks.get(subject):
                log.warning("deployment=%s probe: %s", target.deployment.id, remark)
        watch.remarks.update(report.remarks)

    def _turned(self, watch: _Watch, state: DeploymentState) -> None:
        deployment, ready = watch.target.deployment, watch.readiness.ready
        if ready:
            self._memory.clear(deployment, PROBE)
            if state.breaker is not None:
                state.breaker.hasten(self._memory.clock())
        words = ("not_ready", "ready") if ready else ("ready", "not_ready")
        reason = watch.readiness.reason or "it answers again"
        self._health.changed(HealthChange(deployment.id, "probe", *words, reason))

    def _weigh(
        self, watch: _Watch, state: DeploymentState, load: EngineLoad | None, ours: int
    ) -> None:
        """What the engine's own report of its load means for calls."""
        memory, target = self._memory, watch.target
        now, lasting = memory.clock(), patience(target.settings)
        if load is None:
            if state.load is not None and now - state.load.polled_at > lasting:
                state.load, state.others = None, 0
            return
        state.load, state.others = load, foreign(load, ours)
        full = too_full(load, target.settings)
        if full:
            memory.put(target.deployment, Obstacle(LOAD, f"busy: {full}", now + lasting))
        else:
            memory.clear(target.deployment, LOAD)

    def _begin(self, watch: _Watch) -> None:
        name = f"llmgw probe {watch.target.deployment.id}"
        watch.task = asyncio.get_running_loop().create_task(self._run(watch), name=name)
        watch.task.add_done_callback(_ended)

    def _end(self, watch: _Watch) -> None:
        task, watch.task = watch.task, None
        if task is not None:
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            task.cancel()

    def _forget(self, watch: _Watch) -> None:
        """Nobody asks any more: nothing that was said holds any more."""
        self._end(watch)
        deployment = watch.target.deployment
        for kind in (PROBE, LOAD):
            self._memory.clear(deployment, kind)
        state = self._memory.states.get(deployment.identity)
        if state is not None:
            state.ready, state.load, state.others = None, None, 0


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("The task %s ended with an error.", task.get_name(), exc_info=error)
