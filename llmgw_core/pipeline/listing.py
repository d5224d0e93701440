"""`/v1/models`: what the caller may use, in OpenAI's shape, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.domain.deployment import Model


def models_list(models: Sequence[Model]) -> bytes:
    """The body of `GET /v1/models`."""
    return msgspec.json.encode({"object": "list", "data": [_object(model) for model in models]})


def model_object(model: Model) -> bytes:
    """The body of `GET /v1/models/{id}`."""
    return msgspec.json.encode(_object(model))


def _object(model: Model) -> dict[str, object]:
    """OpenAI's fields, and what is announced of the name."""
    life = model.life
    announced = {
        "deprecated": life.deprecated,
        "sunset": life.sunset,
        "successor": life.successor,
        "link": life.link,
    }
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "llmgw",
        "state": life.state,
        **{field: value for field, value in announced.items() if value},
    }
