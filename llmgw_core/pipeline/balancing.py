"""Who balances whom, as one configuration says: balancers with their options, and the deployments
with what they cost and how much may be sent to them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.accounting.rates import MAX_AMOUNT
from llmgw_core.config.decode import decode
from llmgw_core.config.errors import join
from llmgw_core.domain.errors import ConfigError
from llmgw_core.domain.usage import Usage
from llmgw_core.hooks.registry import chosen
from llmgw_core.limits.caps import Caps
from llmgw_core.pipeline.foreign_balancer import ForeignBalancer
from llmgw_core.routing.balance import Balancer, BalancerContext, Member
from llmgw_core.routing.plan import Roster
from llmgw_core.routing.strategies import BALANCERS
from llmgw_core.wire.request import BASE64_TOKENS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmgw_core.accounting.prices import PriceBook
    from llmgw_core.config.schema import Config
    from llmgw_core.domain.call import Call
    from llmgw_core.domain.deployment import Deployment, Model
    from llmgw_core.limits.estimate import TokenEstimator
    from llmgw_core.limits.memory import MemoryLimiter
    from llmgw_core.routing.state import RoutingMemory

BalancerFactory = Callable[[BalancerContext], Balancer]


@dataclass(frozen=True)
class ChosenBalancer:
    """A balancer with its options, not made yet. Two of them are equal when what they make could
    do each other's work: so a reload goes on with the same one."""

    name: str
    factory: BalancerFactory
    encoded: bytes
    context: BalancerContext = field(compare=False)

    def __call__(self) -> Balancer:
        """Make it."""
        made = self.factory(self.context)
        own = BALANCERS.get(self.name) is self.factory
        return made if own else ForeignBalancer(made, self.name)


def chosen_balancers(
    config: Config,
    registered: Mapping[str, BalancerFactory],
    clock: Callable[[], float],
) -> dict[str, ChosenBalancer]:
    """The balancer of every configured model by its name. Raises `ConfigError`."""
    general = config.routing
    found = {}
    _chosen(registered, general.balancer, general.balancer_options, "routing", clock)
    for name, model in config.models.items():
        section, path = model.routing, join(join("models", name), "routing")
        balancer, options, place = section.balancer, section.balancer_options, path
        if balancer is None:
            balancer = general.balancer
            if options is None:
                options, place = general.balancer_options, "routing"
        found[name] = _chosen(registered, balancer, options or {}, place, clock)
    return found


def _chosen(
    registered: Mapping[str, BalancerFactory],
    name: str,
    given: Mapping[str, Any],
    path: str,
    clock: Callable[[], float],
) -> ChosenBalancer:
    factory = chosen("balancer", registered, name, join(path, "balancer"))
    kind = getattr(factory, "Options", None)
    place = join(path, "balancer_options")
    options = None
    if kind is not None:
        options = decode(given, kind, place)
    elif given:
        raise ConfigError(f"the balancer `{name}` has no options.", path=place)
    encoded = msgspec.json.encode(options, order="sorted")
    return ChosenBalancer(name, factory, encoded, BalancerContext(options, clock=clock))


def roster(
    models: Mapping[str, Model],
    balancers: Mapping[str, Balancer],
    memory: RoutingMemory,
    *,
    prices: PriceBook,
    refuse_unpriced: bool,
    estimator: TokenEstimator,
    caps: MemoryLimiter,
) -> Roster:
    """Everybody who can be balanced. `caps` keeps what is counted against the caps."""
    unpriced = MAX_AMOUNT if refuse_unpriced else 0
    members = {
        deployment.id: Member(
            deployment,
            memory.states[deployment.identity],
            price=CallPrice(deployment, prices, estimator, unpriced),
            caps=Caps.of(deployment, caps),
        )
        for model in models.values()
        for deployment in model.deployments
    }
    return Roster(members, balancers)


class CallPrice:
    """What the provider of one deployment would bill for a call, in nano-units: for the input as
    it is estimated, and for the output that is expected, or less if the caller has set a bound.
    `unpriced` where there is no price."""

    __slots__ = ("_deployment", "_estimator", "_prices", "_unpriced")

    def __init__(
        self, deployment: Deployment, prices: PriceBook, estimator: TokenEstimator, unpriced: int
    ) -> None:
        self._deployment = deployment
        self._prices = prices
        self._estimator = estimator
        self._unpriced = unpriced

    def __call__(self, call: Call) -> int:
        """The amount."""
        model, request, estimator = self._deployment.model, call.request, self._estimator
        price = self._prices.price(model, self._deployment.id, call.started_ns)
        if price is None:
            return self._unpriced
        tokens = request.exact_tokens
        if tokens is None:
            tokens = estimator.input_tokens(model, request.text_bytes)
            tokens += request.embedded * BASE64_TOKENS
        output = estimator.expected_output(model) * request.choices
        if request.max_tokens is not None:
            output = min(output, request.max_tokens)
        return price.cost(Usage(tokens, output))
