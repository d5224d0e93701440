"""What the switches say about a call before anything is planned: where it goes, or that it stops.

Pure: switches and the moment in, a name or a refusal out. While nothing that a call asks for is
switched there is no gate, and calls do not look any further than that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.domain.errors import model_switched_off, team_switched_off

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from llmgw_core.domain.call import Call
    from llmgw_core.domain.switch import Switch
    from llmgw_core.pipeline.lane import Lane, Lanes


class Gate:
    """The switches of models, and the routes, by public name; those of teams by id, for calls that
    were recognised before, and whose bodies took their time."""

    __slots__ = ("models", "routes", "teams")

    def __init__(
        self,
        models: Mapping[str, Switch],
        routes: Mapping[str, Switch],
        teams: Mapping[str, Switch],
    ) -> None:
        self.models = models
        self.routes = routes
        self.teams = teams

    @classmethod
    def of(cls, switches: Collection[Switch]) -> Gate | None:
        """The gate that these make, if any of them concerns what calls ask for."""
        models, routes, teams = (
            {switch.name: switch for switch in switches if switch.kind == kind}
            for kind in ("model", "route", "team")
        )
        return cls(models, routes, teams) if models or routes or teams else None

    def pass_through(self, call: Call, lanes: Lanes, lane: Lane) -> Lane:
        """The lane that `call` goes on in, which has `lane` for the model that it asks for. A
        route is one step: what it leads to is not looked up again, so two can exchange models.
        Raises `GatewayError` 503 for a model that is switched off, and for a caller who may not
        use what the model is routed to: that it exists is nobody's business either; 403 for a team
        that is switched off."""
        now = call.started_ns / 1e9
        refuse_team(self.teams, lanes.principal.team_id, now)
        route = self.routes.get(call.model)
        if route is not None and route.holds(now):
            target = lanes.lane(route.target)
            # Another configuration may have made them other models since the route was set.
            if target is None or target.model.kind != "chat" or lane.model.kind != "chat":
                error = model_switched_off(call.asked, route.retry_after(now))
                raise error.decided_by(f"{route.subject()} is {route.sentence()}")
            call.model, lane = route.target, target
        switch = self.models.get(call.model)
        if switch is not None and switch.holds(now):
            error = model_switched_off(call.asked, switch.retry_after(now))
            raise error.decided_by(f"{switch.subject()} is {switch.sentence()}")
        return lane


def refuse_team(teams: Mapping[str, Switch], team: str | None, now: float) -> None:
    """Raise `GatewayError` 403 when the team is switched off."""
    switch = teams.get(team or "")
    if switch is not None and switch.holds(now):
        raise team_switched_off().decided_by(f"{switch.subject()} is {switch.sentence()}")
