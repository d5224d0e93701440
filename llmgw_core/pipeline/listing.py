"""`/v1/models`: what the caller may use, in OpenAI's shape, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.domain.deployment import Model
    from llmgw_core.pipeline.lane import Lanes


def models_list(models: Sequence[Model], lanes: Lanes) -> bytes:
    """The body of `GET /v1/models`, for whom `lanes` are."""
    data = [_object(model, lanes.successor(model)) for model in models]
    return msgspec.json.encode({"object": "list", "data": data})


def model_object(model: Model, lanes: Lanes) -> bytes:
    """The body of `GET /v1/models/{id}`."""
    return msgspec.json.encode(_object(model, lanes.successor(model)))


def _object(model: Model, successor: str) -> dict[str, object]:
    """OpenAI's fields, and what is announced of the name."""
    life = model.life
    announced = {
        "deprecated": life.deprecated,
        "sunset": life.sunset,
        "successor": successor,
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
