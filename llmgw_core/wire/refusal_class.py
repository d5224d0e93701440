"""What an upstream's error object means, beyond its status: too long, not allowed, too much.

Providers that follow OpenAI say it in `code` or `type`; engines say it in a sentence only, each
in its own. The sentences here are those of vLLM, SGLang, llama.cpp, TGI, Transformers, LM Studio
and of the providers that have no code for it; they are looked for in what the upstream says, never
in what the caller has sent.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from llmgw_core.wire.refusal import sentence

if TYPE_CHECKING:
    from llmgw_core.domain.failure import FailureKind

_LOOKED_AT: Final = 4000
"""Characters of a sentence."""
_TOO_LONG: Final = frozenset(
    (
        "context_length_exceeded",
        "context_window_exceeded",
        "exceed_context_size_error",
        "model_context_window_exceeded",
        "string_above_max_length",
    )
)
_NOT_ALLOWED: Final = frozenset(
    (
        "content_filter",
        "content_policy_violation",
        "content_blocked",
        "data_inspection_failed",
        "moderation_blocked",
        "responsibleaipolicyviolation",
        "safety_violation",
    )
)
_TOO_MUCH: Final = frozenset(("rate_limit_exceeded", "rate_limit_error"))
_LOAD: Final = frozenset(("overloaded", "overloaded_error", "server_overloaded"))
_TOO_LONG_SAID: Final = re.compile(
    r"""
    maximum\ (?:context|model|sequence)\ length
    | context\ (?:length|window|size)\ (?:is\ |has\ been\ |was\ )?(?:exceeded|full)
    | exceeds?\ (?:the\ |this\ )?(?:model's\ |available\ |maximum\ )*context
    | longer\ than\ the\ (?:model's|maximum\ model|maximum)\ (?:context\ )?length
    | (?:prompt|input)\ is\ too\ long
    | `inputs`\ (?:tokens\ \+|must\ have\ less\ than)
    | exceeds\ the\ maximum\ (?:number\ of\ tokens|allowed\ (?:input\ )?length)
    | reduce\ the\ length\ of\ the\ (?:messages|input|prompt)
    | max_tokens\ must\ be\ at\ least\ 1,\ got\ -
    """,
    re.IGNORECASE | re.VERBOSE,
)
_NOT_ALLOWED_SAID: Final = re.compile(
    r"""
    content\ (?:management\ )?policy
    | (?:flagged|blocked|rejected)\ (?:by|as)\ (?:our\ |the\ |a\ )?
      (?:safety|moderation|content\ (?:filter|moderation))
    | safety\ system
    """,
    re.IGNORECASE | re.VERBOSE,
)


def class_of(error: dict[str, Any]) -> FailureKind | None:
    """The class that an error object (`refusal.error_object`) speaks of; None when it says nothing
    special."""
    words = set(_words(error))
    if words & _TOO_LONG:
        return "context_window"
    if words & _NOT_ALLOWED:
        return "content_policy"
    text = sentence(error)[:_LOOKED_AT]
    if _TOO_LONG_SAID.search(text):
        return "context_window"
    if _NOT_ALLOWED_SAID.search(text):
        return "content_policy"
    if words & _TOO_MUCH:
        return "rate_limited"
    if words & _LOAD:
        return "overloaded"
    return None


def _words(error: dict[str, Any]) -> list[str]:
    """Its machine-readable words; Azure has the telling one in `innererror`."""
    inner = error.get("innererror")
    found = [error.get("code"), error.get("type")]
    if isinstance(inner, dict):
        found.append(inner.get("code"))
    return [word.lower() for word in found if isinstance(word, str)]
