"""HTTP/1.1 on Hypercorn, read as strictly as a server behind proxies has to, with refusals in
OpenAI's envelope.

h11 is tolerant where RFC 9112 allows it: bare LF line ends, folded headers, `content-length`
beside `transfer-encoding`. A proxy in front that reads such bytes in another way sees other
requests than we do, and what it believes to be one request could be two (request smuggling). So
they are refused here as llhttp refuses them on uvicorn.

It relies on names of `H11Protocol` (`connection`, `_send_error_response`, `_send_h11_event`,
`_check_protocol`, `_create_stream`), which is why the extra `server` bounds Hypercorn's version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import h11
from hypercorn.events import Closed, RawData, Updated
from hypercorn.protocol.events import Request
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import STREAM_ID, H2ProtocolAssumedError, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream

from llmgw_core.domain.errors import head_too_large, not_http
from llmgw_server.broken_requests import origin_form, refusal
from llmgw_server.hypercorn_http2 import StrictHttp2

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypercorn.protocol import ProtocolWrapper

_VERSIONS = (b"1.1", b"1.0")
_CONNECTION_BOUND = (b"upgrade", b"http2-settings")


class StrictConnection(h11.Connection):
    """h11's connection, which refuses what could be read in two ways."""

    _last = b""
    _chunked = False

    def receive_data(self, data: bytes) -> None:
        """See h11."""
        self._last = data
        super().receive_data(data)

    def next_event(self) -> Any:
        """See h11. Raises `h11.RemoteProtocolError`."""
        if self.their_state is not h11.IDLE:
            event = super().next_event()
            if self._chunked and isinstance(event, h11.EndOfMessage):
                self._check_end()
            return event
        before = self.trailing_data[0]
        event = super().next_event()
        if not isinstance(event, h11.Request):
            return event
        head = before[: len(before) - len(self.trailing_data[0])]
        if _loose(head):
            raise h11.RemoteProtocolError("line ends other than CRLF, or a folded line")
        return self._as_meant(event)

    def _as_meant(self, request: h11.Request) -> h11.Request:
        """The request with one meaning only: without a second length, without the wish for
        another protocol (nobody has to follow it: RFC 9110, section 7.8; and a proxy's rules
        would not hold on a connection that speaks h2c), and with a path as target."""
        names = {name for name, _ in request.headers}
        version, method = request.http_version, request.method
        if method == b"CONNECT" or (version not in _VERSIONS and method != b"PRI"):
            raise h11.RemoteProtocolError("not HTTP/1.1")
        self._chunked = b"transfer-encoding" in names
        if self._chunked and (b"content-length" in names or version == b"1.0"):
            raise h11.RemoteProtocolError("a body with two lengths")
        if b"upgrade" not in names and (request.target.startswith(b"/") or method == b"PRI"):
            return request
        return h11.Request(
            method=method,
            target=origin_form(request.target),
            headers=[pair for pair in request.headers if pair[0] not in _CONNECTION_BOUND],
            http_version=version,
        )

    def _check_end(self) -> None:
        """The last chunk and the trailers end with CRLF CRLF. What of it came in an earlier
        packet is not looked at again."""
        last = self._last
        end = last[: len(last) - len(self.trailing_data[0])][-4:]
        if not b"\r\n\r\n".endswith(end):
            raise h11.RemoteProtocolError("a chunked body that does not end with CRLF CRLF")


def _loose(head: bytes) -> bool:
    """Whether there is a line end that is not CRLF, or a line that goes on in the next one."""
    lines = head.count(b"\r\n")
    if head.count(b"\n") != lines or head.count(b"\r") != lines:
        return True
    return b"\n " in head or b"\n\t" in head


class StrictProtocol(H11Protocol):
    """Hypercorn's protocol on a `StrictConnection`."""

    new_id: Callable[[], str]
    """Makes ids for what becomes no call; set before the first byte comes, like `wrapper`."""
    wrapper: ProtocolWrapper
    _head = b""
    """Of a reply; it waits for the first part of the body."""
    _left = False
    """The client sends no more; whether it still listens, nobody can know."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.connection = StrictConnection(
            h11.SERVER, max_incomplete_event_size=self.config.h11_max_incomplete_size
        )
        self._pass_on = self.send
        self.send = self._send

    @property
    def in_head(self) -> bool:
        """Whether a part of a head has come."""
        return bool(self.connection.trailing_data[0])

    async def handle(self, event: Any) -> None:
        """See Hypercorn, which lets a connection that its client has closed wait for the next
        request until its keep-alive time is over."""
        try:
            await super().handle(event)
        except H2ProtocolAssumedError as assumed:
            http2 = self.wrapper.protocol = _made(StrictHttp2, self.wrapper)
            await http2.initiate()
            await http2.handle(RawData(data=assumed.data))
        if isinstance(event, Closed):
            self._left = True
            if self.stream is None:
                await self._pass_on(Updated(idle=False))

    async def _send(self, event: Any) -> None:
        if self._left and isinstance(event, Updated) and event.idle:
            event = Closed()
        if self._head and isinstance(event, Closed):
            head, self._head = self._head, b""
            await self._pass_on(RawData(data=head))
        await self._pass_on(event)

    async def _send_h11_event(self, event: Any) -> None:
        """As Hypercorn, but the head of a reply leaves with the first part of its body, and
        nothing is written for an end that is no byte."""
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state != h11.ERROR:
                raise
            return
        if isinstance(event, h11.Response):
            self._head = data or b""
            return
        if self._head:
            data, self._head = self._head + (data or b""), b""
        if data:
            await self.send(RawData(data=data))

    async def _check_protocol(self, event: h11.Request) -> None:
        """Only HTTP/2 by prior knowledge: `StrictConnection` has dropped every other wish."""
        if event.method == b"PRI":
            await super()._check_protocol(event)

    async def _create_stream(self, request: h11.Request) -> None:
        """As Hypercorn, which looks at every header for WebSockets first."""
        self.stream = HTTPStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )

    async def _send_error_response(self, status_code: int) -> None:
        error = head_too_large() if status_code == 431 else not_http()
        headers, body = refusal(error, self.new_id())
        await self._send_h11_event(h11.Response(status_code=error.status, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


def make_strict(wrapper: ProtocolWrapper, new_id: Callable[[], str]) -> None:
    """Put our protocol in the place of Hypercorn's own in a connection that begins."""
    if type(wrapper.protocol) is H2Protocol:
        wrapper.protocol = _made(StrictHttp2, wrapper)
    elif type(wrapper.protocol) is H11Protocol:
        strict = wrapper.protocol = _made(StrictProtocol, wrapper)
        strict.new_id = new_id
        strict.wrapper = wrapper


Made = TypeVar("Made", StrictHttp2, StrictProtocol)


def _made(protocol: type[Made], wrapper: ProtocolWrapper) -> Made:
    return protocol(
        wrapper.app,
        wrapper.config,
        wrapper.context,
        wrapper.task_group,
        wrapper.state,
        wrapper.ssl,
        wrapper.client,
        wrapper.server,
        wrapper.send,
    )
