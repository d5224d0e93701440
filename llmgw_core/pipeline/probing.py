"""One round of questions to one engine: its health, its list of models, its load.

Does the I/O and nothing else: what the answers mean is decided in `routing.readiness`, what
follows from it in `pipeline.prober`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmgw_core.backends.engine_metrics import engine_load
from llmgw_core.backends.transport.port import TransportError
from llmgw_core.domain.deployment import Timeouts
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.hooks.foreign import Foreign
from llmgw_core.pipeline.failures import stale
from llmgw_core.routing import readiness
from llmgw_core.routing.readiness import READY, Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.backends.inquiry import Inquiry
    from llmgw_core.backends.transport.port import HttpRequest, Transport, UpstreamReply
    from llmgw_core.domain.deployment import Deployment, Origin
    from llmgw_core.domain.health import ProbeSettings
    from llmgw_core.domain.load import EngineLoad

_REPLY_BYTES: Final = 4 * 1024 * 1024


class Target(msgspec.Struct, frozen=True):
    """A deployment to be probed, with what speaks to it."""

    deployment: Deployment
    backend: Any
    transport: Transport

    @property
    def settings(self) -> ProbeSettings:
        """How it is to be probed."""
        return self.deployment.rules.probes


class Report(msgspec.Struct, frozen=True):
    """What a round has found out. `load` is None when it is not known. `remarks` are by their
    subject what operators should know although it decides nothing; empty when all is well."""

    finding: Finding
    load: EngineLoad | None = None
    remarks: dict[str, str] = {}


class _Answer(msgspec.Struct, frozen=True):
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


async def probe(target: Target, clock: Callable[[], float]) -> Report:
    """Ask everything that the settings say. Raises nothing but cancellation: an engine that does
    not answer is a finding."""
    try:
        origin = _origin(target)
        finding = await _health(target, origin)
    except UpstreamFailure as failure:
        return Report(Finding(Verdict.NOT_READY, str(failure)))
    except (TransportError, TimeoutError) as error:
        return Report(_silence(error))
    if finding.verdict is Verdict.NOT_READY:
        return Report(finding)
    remarks = {"backend": _mute(target), "health": finding.reason}
    missing = remarks["models"] = await _missing(target, origin)
    load, remarks["metrics"] = await _load(target, origin, clock)
    if missing and target.settings.models == "require":
        finding = Finding(Verdict.NOT_READY, missing)
    return Report(finding, load, remarks)


async def _health(target: Target, origin: Origin) -> Finding:
    path = target.settings.health_path
    request = _page(target, path)
    if request is None:
        return READY
    return readiness.health((await _ask(target, origin, request)).status, path)


async def _missing(target: Target, origin: Origin) -> str:
    """What is wrong with the engine's list of models; empty also when it has none."""
    inquiry = _inquiry(target) if target.settings.models != "ignore" else None
    if inquiry is None:
        return ""
    try:
        answer = await _ask(target, origin, inquiry.request)
        with Foreign(target.deployment.backend, "models", "continue", passes=(UpstreamFailure,)):
            models = inquiry.models(answer.status, answer.headers, answer.body)
            return readiness.listed(models, target.deployment.upstream_model)
    except (UpstreamFailure, TransportError, TimeoutError) as error:
        return f"its models cannot be listed: {_words(error)}"
    return ""


async def _load(
    target: Target, origin: Origin, clock: Callable[[], float]
) -> tuple[EngineLoad | None, str]:
    """The load, or why it is not known."""
    path = target.settings.metrics_path
    request = _page(target, path)
    if request is None:
        return None, ""
    try:
        answer = await _ask(target, origin, request)
        load = engine_load(answer.body, clock()) if answer.status == 200 else None
    except (UpstreamFailure, TransportError, TimeoutError) as error:
        return None, f"its load is not known: {_words(error)}"
    if load is None:
        problem = f"{path} has no metrics of a known engine (status {answer.status})"
        return None, f"its load is not known: {problem}"
    return load, ""


async def _ask(target: Target, origin: Origin, request: HttpRequest) -> _Answer:
    """The answer, within the timeout. Raises `TransportError` and `TimeoutError`."""
    seconds = target.settings.timeout
    async with asyncio.timeout(seconds):
        reply = await _send(target, origin, request, seconds)
        try:
            return _Answer(reply.status, reply.headers, await reply.read(_REPLY_BYTES))
        finally:
            reply.abort()


async def _send(
    target: Target, origin: Origin, request: HttpRequest, seconds: float
) -> UpstreamReply:
    patience = Timeouts(connect=seconds, first_byte=seconds, idle=seconds, total=seconds)
    try:
        return await target.transport.send(origin, request, patience)
    except TransportError as error:
        if not stale(error):
            raise
        return await target.transport.send(origin, request, patience, fresh=True)


def _silence(error: TransportError | TimeoutError) -> Finding:
    if isinstance(error, TransportError) and error.kind == "pool":
        # It is we who had no connection left, and that says nothing about the engine.
        return Finding(Verdict.UNKNOWN, "there was no connection left to ask it over")
    return Finding(Verdict.SILENT, f"it does not answer: {_words(error)}")


def _words(error: Exception) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else str(error)


def _mute(target: Target) -> str:
    """That there is nothing to ask, if that is so."""
    if hasattr(target.backend, "page") or hasattr(target.backend, "inquire"):
        return ""
    return f"the backend `{target.deployment.backend}` knows nothing to ask its upstreams"


def _origin(target: Target) -> Origin:
    """Where it is. Raises `UpstreamFailure` when it is nowhere."""
    deployment = target.deployment
    with Foreign(deployment.backend, "origin", "continue", passes=(UpstreamFailure,)):
        origin: Origin = target.backend.origin(deployment)
        return origin
    raise UpstreamFailure("unavailable", "its backend failed")


def _page(target: Target, path: str) -> HttpRequest | None:
    """The question for a page; None when there is nothing to ask."""
    deployment = target.deployment
    ask = getattr(target.backend, "page", None)
    if ask is None or not path:
        return None
    with Foreign(deployment.backend, "page", "continue"):
        request: HttpRequest | None = ask(deployment, deployment.credential.value, path)
        return request
    return None


def _inquiry(target: Target) -> Inquiry | None:
    deployment = target.deployment
    inquire = getattr(target.backend, "inquire", None)
    if inquire is None:
        return None
    with Foreign(deployment.backend, "inquire", "continue"):
        inquiry: Inquiry | None = inquire(deployment, deployment.credential.value)
        return inquiry
    return None
