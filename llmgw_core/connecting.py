"""Whether the deployments of a configuration can be reached from here, now: name, connection,
certificate, credential, model. Concurrently, and in bounded time."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmgw_core.backends.transport.port import TransportError
from llmgw_core.backends.transport.registry import TransportRegistry
from llmgw_core.backends.transport.tls import build_context, files_for
from llmgw_core.domain.deployment import Timeouts
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.hooks.foreign import Foreign

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from llmgw_core.backends.inquiry import Inquiry
    from llmgw_core.domain.credential import Credential
    from llmgw_core.domain.deployment import Deployment, Origin
    from llmgw_core.hooks.host import PluginHost

EXPIRES_SOON_DAYS: Final = 14
_AT_ONCE: Final = 32
_REPLY_BYTES: Final = 4 * 1024 * 1024


class Reach(msgspec.Struct, frozen=True):
    """What was found out about one deployment. `certificate_days`: until its certificate ends;
    None without TLS of our own. `remark` is for what is no failure."""

    deployment: str
    ok: bool
    message: str
    certificate_days: int | None = None
    remark: str = ""


async def reach(
    deployments: Iterable[Deployment],
    host: PluginHost,
    *,
    seconds: float = 10.0,
    wall_clock: Callable[[], float] = time.time,
) -> list[Reach]:
    """Try every deployment; each has `seconds`."""
    transports, slots = TransportRegistry(), asyncio.Semaphore(_AT_ONCE)

    async def one(deployment: Deployment) -> Reach:
        async with slots:
            try:
                async with asyncio.timeout(seconds):
                    trial = _Trial(deployment, host, transports, seconds, wall_clock)
                    return await trial.run()
            except TimeoutError:
                return Reach(deployment.id, ok=False, message=f"no answer within {seconds:g} s.")

    try:
        return await asyncio.gather(*(one(deployment) for deployment in deployments))
    finally:
        await transports.aclose()


class _Trial:
    """The attempt to reach one deployment."""

    def __init__(
        self,
        deployment: Deployment,
        host: PluginHost,
        transports: TransportRegistry,
        seconds: float,
        wall_clock: Callable[[], float],
    ) -> None:
        self._deployment = deployment
        self._backend: Any = host.backends[deployment.backend]
        self._transports = transports
        self._seconds = seconds
        self._wall_clock = wall_clock
        self._days: int | None = None
        self._remark = ""

    async def run(self) -> Reach:
        """Go as far as it goes."""
        origin: Origin | None = None
        with Foreign(self._deployment.backend, "origin", "stop", passes=(UpstreamFailure,)):
            try:
                origin = self._backend.origin(self._deployment)
            except UpstreamFailure:
                return self._result(
                    "is started by the gateway itself; there is nothing to reach yet."
                )
        assert origin is not None
        try:
            await self._certificate(origin)
            return self._result(await self._ask(origin))
        except ssl.SSLCertVerificationError as error:
            problem = f"its certificate is not accepted: {error.verify_message}"
        except OSError as error:
            problem = f"cannot be connected to: {error.strerror or error}"
        except TransportError as error:
            problem = f"cannot be reached ({error.kind}): {error}"
        except UpstreamFailure as failure:
            problem = str(failure)
        return Reach(self._deployment.id, False, f"{problem}.", self._days)

    def _result(self, message: str) -> Reach:
        return Reach(self._deployment.id, True, message, self._days, self._remark)

    async def _certificate(self, origin: Origin) -> None:
        """Shake hands and read the certificate; behind a forward proxy there is none to see."""
        outgoing = self._deployment.outgoing
        if origin.scheme != "https" or outgoing.proxy_for("https", origin.host, origin.port):
            return
        context = await asyncio.to_thread(build_context, files_for(origin, outgoing))
        _, writer = await asyncio.open_connection(origin.host, origin.port, ssl=context)
        try:
            certificate: dict[str, str] = writer.get_extra_info("peercert") or {}
            ends = certificate.get("notAfter")
            if ends is not None:
                left = ssl.cert_time_to_seconds(ends) - self._wall_clock()
                self._days = int(left // 86400)
                if self._days < EXPIRES_SOON_DAYS:
                    self._remark = f"its certificate ends in {self._days} days."
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _ask(self, origin: Origin) -> str:
        """One question with each credential: what one of them may do says nothing of the others."""
        deployment = self._deployment
        credentials = deployment.credentials or (deployment.credential,)
        answer = ""
        for number, credential in enumerate(credentials, start=1):
            inquiry = self._inquiry(credential)
            if inquiry is None:
                return await self._connect(origin)
            try:
                answer = await self._asked(origin, inquiry)
            except UpstreamFailure as failure:
                if len(credentials) == 1 or failure.kind != "credentials":
                    raise
                which = f"credential {number} of {len(credentials)} is refused"
                raise UpstreamFailure("credentials", which, status=failure.status) from None
        return answer

    async def _asked(self, origin: Origin, inquiry: Inquiry) -> str:
        transport = self._transports.take([self._deployment])[self._deployment.id]
        patience = Timeouts(connect=self._seconds, first_byte=self._seconds, total=self._seconds)
        reply = await transport.send(origin, inquiry.request, patience)
        try:
            body = await reply.read(_REPLY_BYTES)
        finally:
            reply.abort()
        with Foreign(self._deployment.backend, "models", "stop", passes=(UpstreamFailure,)):
            return self._judged(inquiry.models(reply.status, reply.headers, body))
        raise AssertionError  # "stop" always raises

    def _inquiry(self, credential: Credential) -> Inquiry | None:
        inquire = getattr(self._backend, "inquire", None)
        if inquire is None:
            return None
        with Foreign(self._deployment.backend, "inquire", "stop"):
            found: Inquiry | None = inquire(self._deployment, credential.value)
            return found
        raise AssertionError  # "stop" always raises

    def _judged(self, models: frozenset[str] | None) -> str:
        wanted = self._deployment.upstream_model
        if models is None:
            return "answers; it does not list its models."
        if wanted not in models:
            raise UpstreamFailure("client", f"answers, but does not list the model `{wanted}`")
        return f"answers and has the model `{wanted}`."

    async def _connect(self, origin: Origin) -> str:
        """A backend with nothing to ask: that somebody listens is all there is to know."""
        if origin.scheme != "https":
            _, writer = await asyncio.open_connection(origin.host, origin.port)
            writer.close()
        return "can be connected to."
