"""llmgw: an embeddable LLM gateway. The public names, imported when they are first used.

`import llmgw_core` itself loads nothing, so that a module may name a type of ours without paying
for a database or an HTTP client (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from llmgw_core.config.changes import ReloadResult
    from llmgw_core.config.errors import ConfigErrors
    from llmgw_core.config.load import load as load_config
    from llmgw_core.config.schema import (
        AccountingConfig,
        Config,
        DeploymentConfig,
        ModelConfig,
        PluginConfig,
        RequestLimits,
        StoreConfig,
    )
    from llmgw_core.config.schema_aliases import AliasConfig
    from llmgw_core.config.schema_prices import (
        CatalogueEntry,
        PriceEntry,
        PriceTier,
        TierPrices,
        TokenPrices,
    )
    from llmgw_core.config.schema_routing import (
        DeploymentRouting,
        ModelRouting,
        RoutingConfig,
        StreamTimeoutsConfig,
        TimeoutsConfig,
        TreatmentConfig,
    )
    from llmgw_core.domain.access import Level, Principal
    from llmgw_core.domain.alias import CanaryRules, Variant
    from llmgw_core.domain.call import Body, Call, ClientGone, Head, Sink
    from llmgw_core.domain.errors import ConfigError, GatewayError, StoreUnavailable
    from llmgw_core.domain.health import HealthChange
    from llmgw_core.domain.life import Life
    from llmgw_core.domain.limits import Limits
    from llmgw_core.domain.reply import Reply
    from llmgw_core.domain.usage import EndedAttempt, Usage, UsageRecord
    from llmgw_core.gateway import Gateway
    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.hooks.filters import StreamFilter
    from llmgw_core.hooks.specs import hookimpl
    from llmgw_core.hooks.subcalls import SubcallError
    from llmgw_core.hooks.text_filter import TextFilter
    from llmgw_core.inprocess.blocking import BlockingCaller, BlockingChatStream
    from llmgw_core.inprocess.caller import Caller
    from llmgw_core.inprocess.replies import ChatEvent, ChatReply, EmbeddingReply
    from llmgw_core.inprocess.stream import ChatStream
    from llmgw_core.routing.balance import BalancerContext, Member
    from llmgw_core.routing.rollouts import Rollout
    from llmgw_core.sync_gateway import SyncGateway
    from llmgw_core.tenancy.records import AuditEntry
    from llmgw_core.tenancy.service import Tenancy
    from llmgw_core.wire.mask import Mask, mask_words
    from llmgw_core.wire.request import RequestView
    from llmgw_core.wire.stream_event import StreamEvent

__all__ = [
    "AccountingConfig",
    "AliasConfig",
    "AuditEntry",
    "BalancerContext",
    "BlockingCaller",
    "BlockingChatStream",
    "Body",
    "Call",
    "Caller",
    "CanaryRules",
    "CatalogueEntry",
    "ChatEvent",
    "ChatReply",
    "ChatStream",
    "ClientGone",
    "Config",
    "ConfigError",
    "ConfigErrors",
    "DeploymentConfig",
    "DeploymentRouting",
    "EmbeddingReply",
    "EndedAttempt",
    "Gateway",
    "GatewayError",
    "Head",
    "HealthChange",
    "Level",
    "Life",
    "Limits",
    "Mask",
    "Member",
    "ModelConfig",
    "ModelRouting",
    "PluginConfig",
    "PluginContext",
    "PriceEntry",
    "PriceTier",
    "Principal",
    "ReloadResult",
    "Reply",
    "RequestLimits",
    "RequestView",
    "Rollout",
    "RoutingConfig",
    "Sink",
    "StoreConfig",
    "StoreUnavailable",
    "StreamEvent",
    "StreamFilter",
    "StreamTimeoutsConfig",
    "SubcallError",
    "SyncGateway",
    "Tenancy",
    "TextFilter",
    "TierPrices",
    "TimeoutsConfig",
    "TokenPrices",
    "TreatmentConfig",
    "Usage",
    "UsageRecord",
    "Variant",
    "hookimpl",
    "load_config",
    "mask_words",
]

_HOMES: Final = {
    "AccountingConfig": "config.schema",
    "AliasConfig": "config.schema_aliases",
    "AuditEntry": "tenancy.records",
    "BalancerContext": "routing.balance",
    "BlockingCaller": "inprocess.blocking",
    "BlockingChatStream": "inprocess.blocking",
    "Body": "domain.call",
    "Call": "domain.call",
    "Caller": "inprocess.caller",
    "CanaryRules": "domain.alias",
    "CatalogueEntry": "config.schema_prices",
    "ChatEvent": "inprocess.replies",
    "ChatReply": "inprocess.replies",
    "ChatStream": "inprocess.stream",
    "ClientGone": "domain.call",
    "Config": "config.schema",
    "ConfigError": "domain.errors",
    "ConfigErrors": "config.errors",
    "DeploymentConfig": "config.schema",
    "DeploymentRouting": "config.schema_routing",
    "EmbeddingReply": "inprocess.replies",
    "EndedAttempt": "domain.usage",
    "Gateway": "gateway",
    "GatewayError": "domain.errors",
    "Head": "domain.call",
    "HealthChange": "domain.health",
    "Level": "domain.access",
    "Life": "domain.life",
    "Limits": "domain.limits",
    "Mask": "wire.mask",
    "Member": "routing.balance",
    "ModelConfig": "config.schema",
    "ModelRouting": "config.schema_routing",
    "PluginConfig": "config.schema",
    "PluginContext": "hooks.context",
    "PriceEntry": "config.schema_prices",
    "PriceTier": "config.schema_prices",
    "Principal": "domain.access",
    "ReloadResult": "config.changes",
    "Reply": "domain.reply",
    "RequestLimits": "config.schema",
    "RequestView": "wire.request",
    "Rollout": "routing.rollouts",
    "RoutingConfig": "config.schema_routing",
    "Sink": "domain.call",
    "StoreConfig": "config.schema",
    "StoreUnavailable": "domain.errors",
    "StreamEvent": "wire.stream_event",
    "StreamFilter": "hooks.filters",
    "StreamTimeoutsConfig": "config.schema_routing",
    "SubcallError": "hooks.subcalls",
    "SyncGateway": "sync_gateway",
    "Tenancy": "tenancy.service",
    "TextFilter": "hooks.text_filter",
    "TierPrices": "config.schema_prices",
    "TimeoutsConfig": "config.schema_routing",
    "TokenPrices": "config.schema_prices",
    "TreatmentConfig": "config.schema_routing",
    "Usage": "domain.usage",
    "UsageRecord": "domain.usage",
    "Variant": "domain.alias",
    "hookimpl": "hooks.specs",
    "load_config": "config.load:load",
    "mask_words": "wire.mask",
}
"""Where each name lives: `module`, or `module:name` where it is called differently there."""


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, original = home.partition(":")
    value = getattr(import_module(f"{__name__}.{module}"), original or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
