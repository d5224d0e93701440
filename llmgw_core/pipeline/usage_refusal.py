"""Upstreams that refuse to be asked for the usage of a stream: they are not asked again.

Nearly all know `stream_options`; those that do not mostly ignore it. A few answer 400 or 422 and
name it. Then the call goes on without it; once that was served, so do all that follow on that
deployment, until the configuration is loaded again. `ask_usage: false` says it beforehand.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

if TYPE_CHECKING:
    from llmgw_core.domain.call import Call
    from llmgw_core.domain.deployment import Deployment
    from llmgw_core.domain.failure import UpstreamFailure
    from llmgw_core.routing.balance import Member

log = logging.getLogger("llmgw.attempts")

_STATUSES: Final = frozenset((400, 422))
_OPTION: Final = "include_usage"
_NAMES: Final = (b"stream_options", _OPTION.encode())
_options = msgspec.json.Decoder(dict[str, msgspec.Raw] | None).decode


def unasked(failure: UpstreamFailure, deployment: Deployment, call: Call) -> Deployment | None:
    """`deployment` as one that is not asked for usage, if `call` may have failed there because it
    was; else None. Errors quote what callers write, so that is no more than a suspicion."""
    if failure.status not in _STATUSES or not (call.request.stream and deployment.ask_usage):
        return None
    if not any(name in failure.body for name in _NAMES):
        return None
    return replace(deployment, ask_usage=False)


def answered_unasked(member: Member, call: Call) -> None:
    """The suspicion was right: `member` has served the very same call without being asked. From now
    on it is not, unless it may have been what the caller wrote into `stream_options` himself."""
    given = call.request.fields.get("stream_options")
    options = None if given is None else _options(given)
    deployment = member.deployment
    if not deployment.ask_usage or (options and options.keys() - {_OPTION}):
        return
    member.deployment = replace(deployment, ask_usage=False)
    log.warning(
        "%s refuses `stream_options`, so the usage of its streams is estimated unless it is sent"
        " unasked; `ask_usage: false` in its deployment saves the attempt that found out",
        deployment.id,
    )
