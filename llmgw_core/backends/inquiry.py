"""Questions to an upstream besides calls: would they get through, and how is it? Sans-IO, like a
session.

A backend may have a method `inquire(deployment, credential) -> Inquiry | None`: who is there, does
it take our credential, does it have our model. And a method `page(deployment, credential, path) ->
HttpRequest | None` that asks for one of the engine's own pages (`/health`, `/metrics`), which
stand beside its API and not in it. None, or no such method: there is nothing to ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from llmgw_core.backends.transport.port import HttpRequest
from llmgw_core.domain.failure import UpstreamFailure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.domain.call import Headers


class Inquiry(Protocol):
    """What to send, and what the reply means."""

    @property
    def request(self) -> HttpRequest:
        """The question."""
        ...

    def models(self, status: int, headers: Headers, body: bytes) -> frozenset[str] | None:
        """The models that the upstream lists; None when it does not tell. Raises
        `UpstreamFailure`, of kind `credentials` when ours are refused."""
        ...


def engine_page(path_prefix: str, path: str, headers: Sequence[tuple[bytes, bytes]]) -> HttpRequest:
    """The question for the page `path` of an engine whose API is below `path_prefix`, which usually
    ends with `/v1`."""
    return HttpRequest("GET", path_prefix.removesuffix("/v1") + path, tuple(headers))


class _Named(msgspec.Struct):
    id: str


class _Listing(msgspec.Struct):
    data: list[_Named]


class ModelsInquiry:
    """OpenAI's `GET /v1/models`. `headers` carry the credential; names are in lower case."""

    def __init__(self, path_prefix: str, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.request = HttpRequest("GET", path_prefix + "/models", tuple(headers))

    def models(self, status: int, headers: Headers, body: bytes) -> frozenset[str] | None:
        """See the protocol. An upstream without such a list says nothing about our models."""
        if status in {401, 403}:
            raise UpstreamFailure("credentials", "the credential is refused", status=status)
        if status in {404, 405, 501}:
            return None
        if not 200 <= status < 300:
            raise UpstreamFailure("server", f"it answers with status {status}", status=status)
        try:
            return frozenset(each.id for each in msgspec.json.decode(body, type=_Listing).data)
        except msgspec.MsgspecError:
            raise UpstreamFailure("protocol", "it answers, but not with a list of models") from None
