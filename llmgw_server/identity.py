"""Who calls with a client certificate: a rule says it once per connection, the cache of
principals before every call, so that whoever is disabled is refused as soon as with a key.

A certificate that a rule fits is the credential, whatever key comes with a call: clients of
OpenAI's API cannot leave the key out. One that no rule fits says nothing; then the key counts.
"""

from __future__ import annotations

import hashlib
import ssl
import time
from typing import TYPE_CHECKING, Any

from llmgw_core.domain.access import Subject
from llmgw_core.domain.errors import GatewayError, invalid_api_key
from llmgw_core.wire.envelope import error_body, error_headers

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from llmgw_core.config.schema import CertificateRule
    from llmgw_core.domain.call import Body, Head, Sink
    from llmgw_core.gateway import Gateway
    from llmgw_server.app import Surface
    from llmgw_server.asgi import Handle


class Certificate:
    """What rules look at. `peer` is the verified certificate as `ssl` decodes it, `der` the
    whole of it."""

    def __init__(self, peer: dict[str, Any], der: bytes) -> None:
        subject = [pair for part in peer.get("subject", ()) for pair in part]
        names = peer.get("subjectAltName", ())
        self.common_names = {value for kind, value in subject if kind == "commonName"}
        self.dns = {value.lower() for kind, value in names if kind == "DNS"}
        self.uris = {value for kind, value in names if kind == "URI"}
        self.fingerprint = hashlib.sha256(der).hexdigest()
        self.ends_at = float(ssl.cert_time_to_seconds(peer["notAfter"]))

    def fits(self, rule: CertificateRule) -> bool:
        """Whether the certificate has everything that the rule names."""
        return (
            (not rule.common_name or rule.common_name in self.common_names)
            and (not rule.dns or rule.dns.lower() in self.dns)
            and (not rule.uri or rule.uri in self.uris)
            and (
                not rule.fingerprint
                or rule.fingerprint.replace(":", "").lower() == self.fingerprint
            )
        )


def certificate_of(connection: ssl.SSLObject | None) -> Certificate | None:
    """The verified certificate of the client, if it showed one."""
    if connection is None:
        return None
    peer = connection.getpeercert()
    der = connection.getpeercert(binary_form=True)
    return Certificate(peer, der) if peer and der else None


def subject_of(rules: Sequence[CertificateRule], certificate: Certificate) -> Subject | None:
    """Whom the first rule that fits names."""
    for rule in rules:
        if certificate.fits(rule):
            return Subject(rule.key, rule.organization, rule.team, rule.user)
    return None


class Identified:
    """The entrance of a connection whose client certificate says who calls."""

    def __init__(
        self,
        gateway: Gateway,
        subject: Subject,
        ends_at: float,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._gateway = gateway
        self._subject = subject
        self._ends_at = ends_at
        self._clock = clock

    async def handle(self, head: Head, body: Body, sink: Sink) -> None:
        """As the gateway's own, with the principal of the certificate."""
        try:
            if self._clock() >= self._ends_at:
                raise invalid_api_key("The client certificate has expired.")
            principal = await self._gateway.principals.resolve_subject(self._subject)
            if principal is None:
                raise invalid_api_key("The caller that the client certificate stands for is off.")
        except GatewayError as error:
            self._gateway.stats.refusals[error.code] += 1
            await refuse(sink, error, self._gateway.new_call_id())
        else:
            await self._gateway.handle(head, body, sink, principal)


def entrance_of(
    surface: Surface,
    rules: Sequence[CertificateRule],
    connection: asyncio.BaseTransport | asyncio.StreamWriter,
) -> Handle | None:
    """The entrance of a new connection if a rule says who calls; None for the ordinary one."""
    if not rules or surface.handle is None:
        return None
    certificate = certificate_of(connection.get_extra_info("ssl_object"))
    if certificate is None:
        return None
    subject = subject_of(rules, certificate)
    if subject is None:
        return None
    return Identified(surface.gateway, subject, certificate.ends_at).handle


async def refuse(sink: Sink, error: GatewayError, request_id: str) -> None:
    """Answer with an error before the gateway is asked."""
    await sink.start(error.status, error_headers(error, request_id))
    await sink.finish(error_body(error, request_id))
