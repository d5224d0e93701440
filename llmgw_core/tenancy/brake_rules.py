"""What brakes are valid. Pure; gives them back as they are stored, or raises `TenancyError` with a
sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmgw_core.domain.brake import NO_BRAKE
from llmgw_core.domain.brake_rules import problems
from llmgw_core.tenancy.errors import TenancyError

if TYPE_CHECKING:
    from llmgw_core.domain.brake import Brake


def brake(value: Brake) -> dict[str, Any] | None:
    """The brake of one level; None if it says nothing."""
    for field, problem in problems(value):
        raise TenancyError(f"Of the brake, {field} {problem}.")
    fields = {
        name: getattr(value, name)
        for name in value.__struct_fields__
        if getattr(value, name) != getattr(NO_BRAKE, name)
    }
    if "shadow" in fields:
        fields["shadow"] = list(dict.fromkeys(value.shadow))
    return fields or None
