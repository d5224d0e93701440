"""Upstreams that refuse to be asked for the usage of a stream: they are not asked again.

Nearly all know `stream_options`; those that do not mostly ignore it. A few answer 400 or 422 and
name it. Then the call goes on without it, and so do all that follow on that deployment, until the
configuration is loaded again. `ask_usage: false` says it beforehand.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

if TYPE_CHECKING:
    from llmgw_core.domain.call import Call
    from llmgw_core.domain.failure import UpstreamFailure
    from llmgw_core.routing.balance import Member

log = logging.getLogger("llmgw.attempts")

_STATUSES: Final = frozenset((400, 422))
_NAMES: Final = (b"stream_options", b"include_usage")


def unasked(failure: UpstreamFailure, member: Member, call: Call) -> bool:
    """Whether `call` failed on `member` because usage was asked for. From now on it is not."""
    deployment = member.deployment
    if failure.status not in _STATUSES or not (call.request.stream and deployment.ask_usage):
        return False
    if not any(name in failure.body for name in _NAMES):
        return False
    member.deployment = replace(deployment, ask_usage=False)
    log.warning(
        "%s refuses `stream_options`, so the usage of its streams is estimated unless it is sent"
        " unasked; `ask_usage: false` in its deployment saves the attempt that found out",
        deployment.id,
    )
    return True
