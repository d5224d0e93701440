"""From the sections `routing` and `timeouts` to the rules of one model and one deployment."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llmgw_core.config.schema_routing import StreamTimeoutsConfig, inherit
from llmgw_core.domain.deployment import Streaming, Timeouts
from llmgw_core.domain.rules import CallRules

if TYPE_CHECKING:
    from llmgw_core.config.schema import Config, ModelConfig
    from llmgw_core.config.schema_routing import TimeoutsConfig

_NOTHING = StreamTimeoutsConfig()


def call_rules(config: Config, model: ModelConfig) -> CallRules:
    """What holds for the calls of `model`."""
    return inherit(CallRules, model.routing, config.routing, config.requests)


def streaming(*layers: TimeoutsConfig) -> Streaming | None:
    """What is different for streams, the first of `layers` first; None when nothing is. What a
    layer says of streams goes before what it says of everything."""
    # Whoever builds a configuration in Python may give plain `Timeouts`.
    streams = [getattr(layer, "stream", _NOTHING) for layer in layers]
    if all(each == _NOTHING for each in streams):
        return None
    both = [part for pair in zip(streams, layers, strict=True) for part in pair]
    own = inherit(StreamTimeoutsConfig, *streams)
    return Streaming(
        inherit(Timeouts, *both),
        math.inf if own.first_token is None else own.first_token,
        math.inf if own.total is None else own.total,
    )
