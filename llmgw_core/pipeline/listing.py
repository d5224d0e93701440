"""`/v1/models`: what the caller may use, in OpenAI's shape, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

import msgspec

from llmgw_core.domain.errors import model_not_found

if TYPE_CHECKING:
    from llmgw_core.domain.deployment import Model
    from llmgw_core.pipeline.lane import Lanes


def models_list(lanes: Lanes) -> bytes:
    """The body of `GET /v1/models`."""
    return msgspec.json.encode(
        {"object": "list", "data": [_object(model) for model in lanes.visible()]}
    )


def model_object(lanes: Lanes, name: str) -> bytes:
    """The body of `GET /v1/models/{id}`. Raises `GatewayError` 404."""
    name = unquote(name)
    for model in lanes.visible():
        if model.name == name:
            return msgspec.json.encode(_object(model))
    raise model_not_found(name)


def _object(model: Model) -> dict[str, object]:
    return {"id": model.name, "object": "model", "created": model.created, "owned_by": "llmgw"}
