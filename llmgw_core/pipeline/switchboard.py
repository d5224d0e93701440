"""The switches in force, and what follows from them in a running gateway.

Whenever they change, everything that asks is told once: deployments get obstacles, plugin hosts
leave plugins out, the gate opens or closes, what was compiled for teams is forgotten. So a call
pays nothing for switches that are not there. Each decision looks at the clock itself; when a switch
expires, a timer does the tidying up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakSet

from llmgw_core.domain.errors import call_ended
from llmgw_core.pipeline.gate import Gate, refuse_team
from llmgw_core.routing.state import Obstacle

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from llmgw_core.domain.deployment import Deployment
    from llmgw_core.domain.switch import Switch, SwitchKind
    from llmgw_core.hooks.host import PluginHost
    from llmgw_core.pipeline.books import Books
    from llmgw_core.pipeline.lane import Lane
    from llmgw_core.pipeline.settlement import Settlement
    from llmgw_core.routing.state import RoutingMemory

log = logging.getLogger("llmgw.switches")

DEPLOYMENT_OFF: Final = "deployment switched off"
MODEL_OFF: Final = "model switched off"
"""The kinds of obstacles that switches put into a deployment's way."""
_LONGEST_TIMER: Final = 86400.0


class Switched(Protocol):
    """What a generation has that can be switched."""

    host: PluginHost

    def all_deployments(self) -> tuple[Deployment, ...]:
        """Every configured deployment."""
        ...

    books: Books

    def forget_lanes(self) -> None:
        """What was compiled for principals is out of date."""
        ...


class Switchboard:
    """See the module. One per gateway; `wall_clock` gives seconds since the epoch."""

    def __init__(
        self,
        memory: RoutingMemory,
        *,
        forget_principals: Callable[[], None],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._memory = memory
        self._forget_principals = forget_principals
        self._wall_clock = wall_clock
        self._living: WeakSet[Switched] = WeakSet()
        self._teams: dict[str, Switch] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.switches: tuple[Switch, ...] = ()
        """What is in force, as far as it has not expired since."""
        self.gate: Gate | None = None
        """What calls have to pass; None when nothing that they ask for is switched."""

    def follow(self, generation: Switched) -> None:
        """The switches hold for its calls as well, as long as it lives."""
        self._living.add(generation)
        self._switch_deployments(generation.all_deployments())
        generation.host.mute(self._muted(), self._memory.clock())

    def apply(self, switches: tuple[Switch, ...]) -> None:
        """These are in force from now on, and no others."""
        now = self._wall_clock()
        before, self.switches = self.switches, tuple(each for each in switches if each.holds(now))
        self._tell(before, now)
        self.gate = Gate.of(self.switches)
        for generation in self._living:
            self._switch_deployments(generation.all_deployments())
            generation.host.mute(self._muted(), self._memory.clock())
        teams = {switch.name: switch for switch in self.switches if switch.kind == "team"}
        if teams.keys() != self._teams.keys():
            self._forget_lanes()
        self._teams = teams
        self._wait_for_expiry(now)
        known = {switch.id for switch in before}
        self._cut([each for each in self.switches if each.cut and each.id not in known])

    def refuse_team(self, team: str | None) -> None:
        """Raise `GatewayError` 403 when calls of the team are switched off. Asked when what a
        principal may do is compiled, which is not kept then."""
        if self._teams:
            refuse_team(self._teams, team, self._wall_clock())

    def in_use(self, kind: SwitchKind, name: str) -> bool:
        """Whether calls run on it here, be it of a configuration that is no more."""
        return any(
            concerns(kind, name, settlement, exchange.lane)
            for generation in self._living
            for settlement, exchange in generation.books.open.items()
        )

    def close(self) -> None:
        """No timer any more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()

    def _muted(self) -> frozenset[str]:
        return frozenset(switch.name for switch in self.switches if switch.kind == "plugin")

    def _switch_deployments(self, deployments: Iterable[Deployment]) -> None:
        clock, wall = self._memory.clock(), self._wall_clock()
        off = {(switch.kind, switch.name): switch for switch in self.switches}
        for deployment in deployments:
            for kind, switch in (
                (DEPLOYMENT_OFF, off.get(("deployment", deployment.id))),
                (MODEL_OFF, off.get(("model", deployment.model))),
            ):
                if switch is None:
                    self._memory.clear(deployment, kind)
                    continue
                obstacle = Obstacle(kind, switch.sentence(), hard=True)
                if switch.expires_at is not None:
                    until = clock + switch.expires_at - wall
                    obstacle = Obstacle(kind, switch.sentence(), until=until, hard=True)
                self._memory.put(deployment, obstacle)

    def _cut(self, switches: Collection[Switch]) -> None:
        """End the calls that run on what has just been switched off, if somebody wants that."""
        for generation in self._living if switches else ():
            for settlement, exchange in tuple(generation.books.open.items()):
                for switch in switches:
                    if concerns(switch.kind, switch.name, settlement, exchange.lane):
                        rule = f"{switch.subject()} is {switch.sentence()}"
                        exchange.end(call_ended().decided_by(rule))

    def _forget_lanes(self) -> None:
        self._forget_principals()
        for generation in self._living:
            generation.forget_lanes()

    def _wait_for_expiry(self, now: float) -> None:
        self.close()
        ends = [switch.expires_at for switch in self.switches if switch.expires_at is not None]
        if ends:
            # A clock that was set, or a machine that slept, is found out by looking again.
            wait = min(max(0.0, min(ends) - now), _LONGEST_TIMER)
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(wait, lambda: self.apply(self.switches))

    def _tell(self, before: tuple[Switch, ...], now: float) -> None:
        known, standing = {each.id for each in before}, {each.id for each in self.switches}
        for switch in self.switches:
            if switch.id not in known:
                log.warning("%s %s, by %s", switch.subject(), switch.sentence(), switch.actor)
        replaced = {(each.kind, each.name) for each in self.switches}
        for switch in before:
            if switch.id not in standing and (switch.kind, switch.name) not in replaced:
                how = "routed away no more" if switch.kind == "route" else "on again"
                why = "" if switch.holds(now) else ": its switch has expired"
                log.warning("%s is %s%s", switch.subject(), how, why)


def concerns(kind: SwitchKind, name: str, settlement: Settlement, lane: Lane | None) -> bool:
    """Whether a call runs on what a switch names: on the deployment, on one of the model (a route
    takes calls away from it), under the alias, whoever serves it, or for the team."""
    principal, attempt = settlement.call.principal, settlement.attempt
    if kind == "team":
        return principal is not None and principal.team_id == name
    if lane is not None and lane.name.alias is not None and lane.name.name == name:
        return kind in {"model", "route"}
    if attempt is None:
        return False
    found = attempt.deployment
    return (found.id if kind == "deployment" else found.model) == name
