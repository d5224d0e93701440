"""`/v1/models`: what the caller may use, in OpenAI's shape, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

import msgspec

from llmgw_core.domain.errors import model_not_found

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.domain.deployment import Model


def models_list(models: Sequence[Model]) -> bytes:
    """The body of `GET /v1/models`."""
    return msgspec.json.encode({"object": "list", "data": [_object(model) for model in models]})


def model_object(models: Sequence[Model], name: str) -> bytes:
    """The body of `GET /v1/models/{id}`. Raises `GatewayError` 404."""
    name = unquote(name)
    for model in models:
        if model.name == name:
            return msgspec.json.encode(_object(model))
    raise model_not_found(name)


def _object(model: Model) -> dict[str, object]:
    return {"id": model.name, "object": "model", "created": model.created, "owned_by": "llmgw"}
