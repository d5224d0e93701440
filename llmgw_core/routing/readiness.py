"""What the answers of an engine to probes mean: is it ready, is it too full. Pure.

An engine that says itself that it cannot serve (503 while a model loads) is believed at once. One
that does not answer may have been asked at a bad moment: only several silences in a row count. A
page that is not there says nothing, and whoever says nothing is taken to be ready: calls will tell.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from llmgw_core.domain.health import ProbeSettings
    from llmgw_core.domain.load import EngineLoad

PROBE: Final = "probe"
"""The kind of obstacle of a deployment that is not ready."""
LOAD: Final = "load"
"""The kind of obstacle of one that has more to do than it should have."""
_SILENT_ROUNDS: Final = 3
_NO_SUCH_PAGE: Final = frozenset({404, 405, 501})
_NOT_FOR_US: Final = frozenset({401, 403, 407})


class Verdict(enum.Enum):
    """What one round of questions says."""

    READY = "ready"
    NOT_READY = "not ready"
    SILENT = "silent"
    UNKNOWN = "unknown"


class Finding(msgspec.Struct, frozen=True):
    """A verdict, with its reason for operators."""

    verdict: Verdict
    reason: str = ""


READY: Final = Finding(Verdict.READY)


def health(status: int, path: str) -> Finding:
    """What the answer with `status` to a question about health says."""
    if 200 <= status < 300:
        return READY
    if status in _NO_SUCH_PAGE:
        return Finding(Verdict.UNKNOWN, f"it has no page {path} (status {status})")
    if status in _NOT_FOR_US:
        return Finding(Verdict.UNKNOWN, f"it does not let us see {path} (status {status})")
    return Finding(Verdict.NOT_READY, f"it answers {path} with status {status}")


def listed(models: frozenset[str] | None, wanted: str) -> str:
    """What is wrong with an engine's list of models; empty when nothing is."""
    if models is None or wanted in models:
        return ""
    return f"it does not list the model `{wanted}`"


def too_full(load: EngineLoad, settings: ProbeSettings) -> str:
    """Why an engine with this load should get no more calls; empty when it may."""
    if settings.max_waiting and load.waiting >= settings.max_waiting:
        return f"{load.waiting} requests wait in front of it"
    if settings.max_kv_use and load.kv_use is not None and load.kv_use >= settings.max_kv_use:
        return f"{load.kv_use:.0%} of its KV cache is in use"
    return ""


def foreign(load: EngineLoad, ours: int) -> int:
    """How many of the requests in a report are not ours, when `ours` were in flight. Our own
    count is exact and of this moment, the report is neither: only what is beyond it counts."""
    return max(0, load.running + load.waiting - ours)


def patience(settings: ProbeSettings) -> float:
    """For how many seconds an answer holds. Probes that have ended tell nobody anything."""
    return _SILENT_ROUNDS * (settings.interval + settings.timeout)


class Readiness:
    """Whether one deployment is ready, as far as it was asked."""

    __slots__ = ("_silent", "ready", "reason")

    def __init__(self) -> None:
        self.ready = True
        self.reason = ""
        """Why it is not."""
        self._silent = 0

    def found(self, finding: Finding, failures: int) -> bool:
        """Take note; whether `ready` is another than before. `failures` silences in a row say
        that it is not."""
        before, verdict = self.ready, finding.verdict
        self._silent = self._silent + 1 if verdict is Verdict.SILENT else 0
        if verdict is Verdict.NOT_READY or self._silent >= failures:
            self.ready, self.reason = False, finding.reason
        elif verdict is not Verdict.SILENT:
            self.ready, self.reason = True, ""
        return self.ready is not before
