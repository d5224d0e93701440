"""The caps of deployments, as suspects. Each capped deployment is tried as the only one of a model
of its own, because a call that finds it full would go elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.doctor.hidden import Road
from llmgw_core.doctor.limits import BUG, hidden, in_shadow, largest_on, most, what
from llmgw_core.doctor.scene import CAPPED
from llmgw_core.doctor.verdict import Problem
from llmgw_core.domain.access import Principal
from llmgw_core.limits import words
from llmgw_core.limits.specs import deployment_meters, model_meters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmgw_core.doctor.scene import Scene
    from llmgw_core.domain.deployment import Deployment, Model
    from llmgw_core.limits.port import MeterSpec

_CALLER = Principal.of("llmgw-doctor")


class CapSuspect:
    """One cap: `spec` is that of the deployment that is configured, `tried` of its stand-in."""

    def __init__(self, deployment: str, model: Model, spec: MeterSpec, stand_in: Model) -> None:
        self.where = f"deployment {deployment}"
        self.id = spec.id.replace(stand_in.deployments[0].id, deployment)
        self.what = what(spec)
        self._deployment = deployment
        self._model = model
        self._spec = spec
        self._stand_in = stand_in

    def look(self, scene: Scene) -> Problem | None:
        """See `Suspect`."""
        if self._spec.shadow:
            return in_shadow(self._spec)
        if not self._is_a_candidate(scene):
            reason = "No caller can get to the deployment: neither model nor zone is granted."
            return Problem("unreachable", reason, "Take the cap away, or grant them to somebody.")
        meters = (*deployment_meters(self._stand_in.deployments[0]), *model_meters(self._model))
        return hidden(self._spec, [Road(meters, largest_on(self._stand_in.deployments))])

    async def prove(self, scene: Scene) -> Problem | None:
        """See `Suspect`."""
        spec, name = self._spec, self._stand_in.name
        scene.rest()
        first = await scene.send(_CALLER, name)
        if not first.sings:
            reason = f"It refuses every call, with {first.status}."
            return Problem("unit", reason, f"Is the unit right? It counts {words.unit(spec)}.")
        scene.rest()
        give_back = scene.fill(scene.caps, spec, most(spec))
        over = await scene.send(_CALLER, name)
        give_back()
        scene.rest()
        if over.sings:
            return Problem("silent", "At its cap it got another call.", BUG)
        if "at its cap" not in over.rule:
            reason = f"Not the cap refused, but {over.rule or over.code}."
            return Problem("hidden", reason, "See to that first.")
        return None

    def _is_a_candidate(self, scene: Scene) -> bool:
        return any(
            each.id == self._deployment
            for way in scene.usable()
            for tier in way.lane.candidates.every_tier()
            for each in tier.deployments
        )


def caps_of_deployments(scene: Scene) -> Iterator[CapSuspect]:
    """Of all deployments that have any."""
    catalog = scene.gateway.catalog
    stand_ins = iter([model for name, model in catalog.items() if name.startswith(CAPPED)])
    capped = (
        (name, deployment.name)
        for name, model in scene.config.models.items()
        for deployment in model.deployments
        if deployment.caps != type(deployment.caps)()
    )
    for (name, deployment), stand_in in zip(capped, stand_ins, strict=True):
        copy: Deployment = stand_in.deployments[0]
        for spec in deployment_meters(copy):
            yield CapSuspect(f"{name}/{deployment}", catalog[name], spec, stand_in)
