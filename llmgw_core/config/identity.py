"""Which deployments of a new configuration are, for their backends, those of one before. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from llmgw_core.config.changes import same

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llmgw_core.domain.deployment import Deployment, Model


def with_identities(models: Mapping[str, Model], living: Iterable[Deployment]) -> dict[str, Model]:
    """`models` with the identities of those `living` deployments that their backends could not
    tell from them; where several could not be told apart, that of the first."""
    known: dict[str, list[Deployment]] = {}
    for deployment in living:
        known.setdefault(deployment.id, []).append(deployment)
    return {name: _model(model, known) for name, model in models.items()}


def _model(model: Model, known: Mapping[str, list[Deployment]]) -> Model:
    deployments = tuple(_deployment(each, known.get(each.id, ())) for each in model.deployments)
    return replace(model, deployments=deployments)


def _deployment(new: Deployment, known: Iterable[Deployment]) -> Deployment:
    for old in known:
        if same(_prepared(old), _prepared(new)):
            return replace(new, identity=old.identity)
    return new


def _prepared(deployment: Deployment) -> tuple[object, ...]:
    """What a backend may prepare from; weights, prices and timeouts are none of its business."""
    return (
        deployment.backend,
        deployment.upstream_model,
        deployment.credential,
        deployment.credentials,
        deployment.options,
    )
