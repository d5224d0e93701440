"""What an admin page is made of: an action with its method, path and body, and how a request is
read and a refusal told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import msgspec

from llmgw_core.domain.errors import (
    GatewayError,
    StoreUnavailable,
    invalid_request,
    overloaded,
    unsupported_media_type,
)
from llmgw_core.tenancy.errors import Conflict, NotFound, TenancyError
from llmgw_server.pages import as_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from llmgw_server.pages import Endpoint

T = TypeVar("T")

BODY_BYTES = 1024 * 1024
"""What the body of an admin request may have, unless the page says otherwise."""


class Action(NamedTuple):
    """One page below the prefix. `body` describes the JSON object that it takes, `query` the
    parameters in its address: name → what it says."""

    method: str
    path: str
    endpoint: Endpoint
    body: type[msgspec.Struct] | None = None
    query: dict[str, str] = {}  # noqa: RUF012 -- of a tuple, and never changed


class Group(Protocol):
    """The actions of one subject."""

    def actions(self) -> Sequence[Action]:
        """All of them. Asked before anything is served."""
        ...


async def read_body(request: Request, kind: type[T], *, limit: int = BODY_BYTES) -> T:
    """The body of `request`. Raises `GatewayError` naming the field at fault."""
    media = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if media.lower() != "application/json":
        raise unsupported_media_type("The content type must be application/json.")
    read = bytearray()
    async for part in request.stream():
        read += part
        if len(read) > limit:
            raise GatewayError(413, "request_too_large", "The body is too large.")
    try:
        return msgspec.json.decode(bytes(read), type=kind)
    except msgspec.ValidationError as error:
        raise invalid_request(f"The body is not what this page takes: {error}.") from None
    except (msgspec.DecodeError, RecursionError):
        raise invalid_request("The body is no valid JSON.", code="invalid_json") from None


def refused(error: GatewayError | TenancyError | StoreUnavailable, request: Request) -> Response:
    """The reply for what a use case refuses, or cannot do now."""
    return as_error(_as_gateway_error(error), request)


def _as_gateway_error(error: GatewayError | TenancyError | StoreUnavailable) -> GatewayError:
    if isinstance(error, GatewayError):
        return error
    if isinstance(error, StoreUnavailable):
        return overloaded("The database does not answer.", retry_after=1.0)
    kinds: dict[type[Any], tuple[int, str]] = {
        NotFound: (404, "not_found"),
        Conflict: (409, "conflict"),
    }
    status, code = kinds.get(type(error), (400, "invalid_request"))
    return GatewayError(status, code, str(error), should_retry=False)


REFUSALS = (GatewayError, TenancyError, StoreUnavailable)
"""What `refused` takes."""
