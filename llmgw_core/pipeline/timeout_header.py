"""`x-llmgw-timeout-ms`: a caller says how long one call may take.

It lowers the deadline of the model and never raises it. It counts from the moment at which the
head of the request was there, as milliseconds do that the caller counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llmgw_core.domain.errors import GatewayError, invalid_request

if TYPE_CHECKING:
    from llmgw_core.domain.call import Head

TIMEOUT: Final = b"x-llmgw-timeout-ms"
_DIGITS: Final = 9


def seconds_of(head: Head) -> float:
    """What the header says. Raises `GatewayError` 400."""
    values = [value.strip() for name, value in head.headers if name == TIMEOUT]
    if len(values) != 1:
        raise _mistake("The header x-llmgw-timeout-ms is given twice.")
    text = values[0]
    # Digits of other scripts are no digits of bytes.
    if not (text.isdigit() and len(text) <= _DIGITS and int(text) > 0):
        raise _mistake(
            "The header x-llmgw-timeout-ms must be a whole number of milliseconds, 1 or more, of"
            f" at most {_DIGITS} digits."
        )
    return int(text) / 1000.0


def _mistake(message: str) -> GatewayError:
    return invalid_request(message, param="x-llmgw-timeout-ms", code="invalid_timeout")
