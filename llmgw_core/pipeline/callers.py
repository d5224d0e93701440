"""Who calls, as far as a head says it, and whether what plugins say of callers fits the books."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmgw_core.domain.access import Principal, valid_id
from llmgw_core.domain.errors import invalid_api_key
from llmgw_core.hooks.foreign import plugin_error

if TYPE_CHECKING:
    from llmgw_core.domain.call import Head

_BEARER = b"bearer "


def check_principal(principal: Principal, now: float) -> None:
    """A principal from a plugin goes on the books, so its ids have to be what the books can
    hold; and it expires like any other. Raises `GatewayError`."""
    ids = [principal.organization_id, principal.team_id, principal.user_id, principal.key_id]
    if ids[0] is None or not all(id is None or valid_id(id) for id in ids):
        raise plugin_error()
    try:
        hash(principal)
    except TypeError:  # lists where tuples belong
        raise plugin_error() from None
    if principal.expires_at is not None and principal.expires_at <= now:
        raise invalid_api_key()


def check_levels(principal: Principal) -> None:
    """Everything inside is of the type that it is declared with; looked at once for each
    principal. Raises `GatewayError`."""
    try:
        msgspec.convert(msgspec.to_builtins(principal), Principal)
    except (msgspec.ValidationError, TypeError):
        raise plugin_error() from None


def presented_key(head: Head) -> str:
    """The API key of a request: `authorization: Bearer KEY`, or `x-api-key` and `api-key` as
    other clients send it. Raises `GatewayError` 401."""
    value = (head.index or head.fields).get(b"authorization")
    if value is not None and value[:7].lower() == _BEARER:
        return value[7:].strip().decode("latin-1") or _no_key()
    value = head.get(b"x-api-key") or head.get(b"api-key") or b""
    return value.strip().decode("latin-1") or _no_key()


def _no_key() -> str:
    raise invalid_api_key("You did not provide an API key.")
