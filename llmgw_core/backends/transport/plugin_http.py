"""The HTTP client of plugins, going the same way out as the calls do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.backends.transport.tls import TlsFiles, build_context
from llmgw_core.backends.transport.tunnel import proxy_authorization
from llmgw_core.domain.errors import ConfigError
from llmgw_core.domain.outgoing import DIRECT

if TYPE_CHECKING:
    import ssl

    import aiohttp

    from llmgw_core.domain.outgoing import Outgoing


def open_session(outgoing: Outgoing) -> aiohttp.ClientSession:
    """A client that obeys `outgoing`; a proxy that a request names itself goes before it. Blocks
    for some tens of milliseconds if there are certificate files. Raises `ConfigError` if they
    cannot be used."""
    import aiohttp  # noqa: PLC0415 -- heavy, and few plugins need it
    from yarl import URL  # noqa: PLC0415

    if outgoing == DIRECT:
        return aiohttp.ClientSession()

    async def by_proxy(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        url = request.url
        proxy = outgoing.proxy_for(url.scheme, url.host or "", url.port or 0)
        if proxy is not None and request.proxy is None:
            value = proxy_authorization(proxy).decode("ascii")
            headers = {"Proxy-Authorization": value} if value else {}
            address = URL.build(scheme=proxy.scheme, host=proxy.host, port=proxy.port)
            request.update_proxy(address, None, headers)
            if url.scheme == "http":
                request.headers.update(headers)
        return await handler(request)

    files = TlsFiles(
        outgoing.ca_file, outgoing.system_ca, outgoing.client_cert, outgoing.client_key
    )
    context: ssl.SSLContext | bool = True
    if files.paths:
        try:
            context = build_context(files)
        except OSError as error:
            message = f"the certificate files cannot be used: {error}."
            raise ConfigError(message, path="outgoing") from None
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context), middlewares=(by_proxy,)
    )
