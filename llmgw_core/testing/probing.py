"""For tests of probes: a backend with everything to ask, and a prober with the memory that it
fills, one engine on a real socket, and time that passes when a test says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmgw_core.backends.inquiry import ModelsInquiry
from llmgw_core.backends.transport.httptools_transport import HttptoolsTransport
from llmgw_core.domain.credential import Credential
from llmgw_core.domain.deployment import Deployment, Model
from llmgw_core.domain.health import BreakerSettings, HealthChange, ProbeSettings
from llmgw_core.domain.rules import Rules
from llmgw_core.pipeline.prober import Prober
from llmgw_core.pipeline.probing import Target
from llmgw_core.routing.health import Health
from llmgw_core.routing.state import RoutingMemory
from llmgw_core.testing.canonical_plugin import CanonicalBackend, CanonicalOptions
from llmgw_core.testing.engine_pages import Ticker

if TYPE_CHECKING:
    from llmgw_core.routing.state import DeploymentState
    from llmgw_core.testing.engine_pages import EnginePages

SETTINGS: Final = ProbeSettings(enabled=True, timeout=5.0, models="require")


class Asking(CanonicalBackend):
    """A backend with everything to ask."""

    def inquire(self, deployment: Deployment, credential: str) -> ModelsInquiry:
        """The list of models."""
        return ModelsInquiry("/v1", [])


class ProbedEngine:
    """A memory, its prober and one engine. `now` is the memory's clock."""

    def __init__(self, engine: EnginePages) -> None:
        self.now = 1000.0
        self.engine = engine
        self.ticker = Ticker()
        self.told: list[HealthChange] = []
        self.memory = RoutingMemory(lambda: self.now)
        self.health = Health(self.memory, lambda: 7, self.told.append)
        self.prober = Prober(self.memory, self.health, lambda: 0.5, self.ticker.sleep)
        self.transport = HttptoolsTransport()
        self.deployment = self.made("a")
        self.follow()

    def made(self, name: str, settings: ProbeSettings = SETTINGS) -> Deployment:
        """Another deployment on the same engine."""
        return Deployment(
            f"m/{name}",
            "m",
            "canonical",
            "onprem",
            "m",
            credential=Credential("sk-probe"),
            options=CanonicalOptions(self.engine.upstream.port),
            rules=Rules(probes=settings, breaker=BreakerSettings(consecutive=1)),
        )

    def follow(self, *deployments: Deployment, backend: CanonicalBackend | None = None) -> None:
        """These are all there are from now on."""
        probed = deployments or (self.deployment,)
        self.memory.adopt(probed)
        models = [Model("m", tuple(probed))]
        self.health.configure(models)
        self.prober.follow(Target(each, backend or Asking(), self.transport) for each in probed)

    def probe_as(self, **changes: Any) -> None:
        """The same deployment with other settings, as after a reload."""
        settings = msgspec.structs.replace(SETTINGS, **changes)
        rules = msgspec.structs.replace(self.deployment.rules, probes=settings)
        self.deployment = msgspec.structs.replace(self.deployment, rules=rules)
        self.follow()

    @property
    def state(self) -> DeploymentState:
        """What is remembered about the deployment."""
        return self.memory.states[self.deployment.identity]

    def loaded(self) -> bool:
        """Whether its load is known."""
        return self.state.load is not None

    def obstacle(self) -> str:
        """Why it would get no calls now; empty when it would."""
        found = self.memory.obstacle(self.deployment, self.now)
        return found.reason if found is not None else ""
