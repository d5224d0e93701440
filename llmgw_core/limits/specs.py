"""Which meters apply to a call, from what the tenancy and the configuration say.

Rule of this file: pure; every limit that is set becomes one meter, wherever it stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.limits.port import MeterSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmgw_core.domain.access import Principal
    from llmgw_core.domain.deployment import Deployment, Model
    from llmgw_core.domain.limits import Limits


def meters_for(principal: Principal, model: Model) -> tuple[MeterSpec, ...]:
    """All meters of a call by `principal` to `model`: organisation first, the model last.

    The meters of a model count the calls of all principals together.
    """
    specs = [
        spec for level in principal.levels for spec in _meters(level.kind, level.id, level.limits)
    ]
    specs.extend(model_meters(model))
    return tuple(specs)


def model_meters(model: Model) -> tuple[MeterSpec, ...]:
    """The meters of a model alone: what a call that falls back to it has to join."""
    return tuple(_meters("model", model.name, model.limits))


def deployment_meters(deployment: Deployment) -> tuple[MeterSpec, ...]:
    """The meters of one deployment, which count what all principals send to it."""
    return tuple(_meters("deployment", deployment.id, deployment.caps))


def _meters(scope: str, owner: str, limits: Limits) -> Iterator[MeterSpec]:
    if limits.rpm is not None:
        yield MeterSpec(f"{scope}:{owner}:rpm", scope, "requests", limits.rpm)
    if limits.tpm is not None:
        yield MeterSpec(f"{scope}:{owner}:tpm", scope, "tokens", limits.tpm)
    if limits.parallel is not None:
        yield MeterSpec(f"{scope}:{owner}:parallel", scope, "parallel", limits.parallel)
