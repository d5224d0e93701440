"""The typed section `aliases`: public names that lead to models."""

from __future__ import annotations

import datetime  # noqa: ICN001, TC003 -- msgspec reads the annotations at run time

import msgspec

from llmgw_core.domain.alias import CanaryRules, Sticky, Variant
from llmgw_core.domain.life import ACTIVE, Life
from llmgw_core.domain.limits import NO_LIMITS, Limits


class AliasConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A public name for one model of `models`, or for several, in shares. A caller needs the grant
    of the alias and of what it leads to. `sticky` says who always gets the same variant: the `user`
    (the request's field `user`, else the user of the key, else the key), the `session` (the header
    `session_header`, else the user), the `key`; or each `call` by itself. `limits` hold beside
    those of the models. `canary` are the rules of `llmgw-server models canary`."""

    variants: tuple[Variant, ...]
    sticky: Sticky = "user"
    session_header: str = "x-session-id"
    tags: tuple[str, ...] = ()
    limits: Limits = NO_LIMITS
    life: Life = ACTIVE
    created: datetime.date | None = None
    canary: CanaryRules = CanaryRules()
