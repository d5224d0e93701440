"""Which cost centre a call goes on: what the caller's calendar says for the moment at which the
call started, or what `x-llmgw-cost-center` names, among those that the caller may choose.

Nobody learns which other codes there are: one that does not exist and one that is not offered are
refused alike. A header of a caller without any cost centre is refused, too: the call would be on
the books in another place than its owner believes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llmgw_core.domain.cost_center import CostCenters
from llmgw_core.domain.errors import cost_center_not_allowed, invalid_request

if TYPE_CHECKING:
    from llmgw_core.domain.call import Call

COST_CENTER: Final = b"x-llmgw-cost-center"
_NAME: Final = COST_CENTER.decode()
_NONE: Final = CostCenters()


def booked_on(call: Call) -> str:
    """The id of the cost centre of `call`, "" if there is none. Raises `GatewayError`: 400 when the
    header is there twice or empty, 403 for a code that the caller may not choose now."""
    assert call.principal is not None
    centers = call.principal.cost_centers or _NONE
    if COST_CENTER not in call.head.fields:
        return centers.at(call.started_ns)
    values = [value.strip() for name, value in call.head.headers if name == COST_CENTER]
    if len(values) != 1 or not values[0]:
        raise invalid_request(
            f"The header {_NAME} names one cost centre by its code, once.",
            param=_NAME,
            code="invalid_cost_center",
        )
    code = values[0].decode("latin-1")
    chosen = centers.chosen(code, call.started_ns)
    if not chosen:
        raise cost_center_not_allowed(code, _NAME)
    return chosen
