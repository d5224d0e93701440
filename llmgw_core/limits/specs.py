"""Which meters apply to a call, from what the tenancy and the configuration say.

Rule of this file: pure; every limit that is set becomes one meter, wherever it stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from llmgw_core.domain.errors import ConfigError
from llmgw_core.limits.port import MeterSpec, lacking_ability

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from llmgw_core.domain.access import Level, Principal
    from llmgw_core.domain.deployment import Deployment, Model
    from llmgw_core.domain.limits import Limits
    from llmgw_core.limits.port import Limiter, MeterUnit, TokenKind

    Covers = Callable[[str, Model], bool]
    """Whether a pattern, as grants have them, covers a model."""

MINUTE = 60.0
DAY = 86_400.0


class Limit(NamedTuple):
    """What a field of `Limits` counts, and over how many seconds."""

    unit: MeterUnit
    kind: TokenKind
    window: float


LIMITS: dict[str, Limit] = {
    "rpm": Limit("requests", "all", MINUTE),
    "rpd": Limit("requests", "all", DAY),
    "tpm": Limit("tokens", "all", MINUTE),
    "input_tpm": Limit("tokens", "input", MINUTE),
    "output_tpm": Limit("tokens", "output", MINUTE),
    "tpd": Limit("tokens", "all", DAY),
    "input_tpd": Limit("tokens", "input", DAY),
    "output_tpd": Limit("tokens", "output", DAY),
    "parallel": Limit("parallel", "all", MINUTE),
}
"""The fields of `Limits` that are limits, by name."""

DAY_LIMITS = tuple(name for name, limit in LIMITS.items() if limit.window == DAY)


def meters_for(
    principal: Principal, model: Model, covers: Covers | None = None
) -> tuple[MeterSpec, ...]:
    """All meters of a call by `principal` to `model`: organisation first, the model last.

    The meters of a model count the calls of all principals together.
    """
    specs = [spec for level in principal.levels for spec in level_meters(level)]
    specs += pair_meters(principal, model, covers)
    specs.extend(model_meters(model))
    return tuple(specs)


def pair_meters(
    principal: Principal, model: Model, covers: Covers | None = None
) -> list[MeterSpec]:
    """The meters of the levels of `principal` that are about `model` alone: each model that a
    pattern covers has its own."""
    return [spec for level in principal.levels for spec in pairs_of(level, model, covers)]


def model_meters(model: Model) -> tuple[MeterSpec, ...]:
    """The meters of a model alone: what a call that falls back to it has to join."""
    return tuple(meters_of("model", model.name, model.limits))


def require_able(limiter: Limiter, models: Iterable[Model]) -> None:
    """Raise `ConfigError` when `limiter` cannot count a limit of `models`."""
    for model in models:
        lacking = lacking_ability(limiter, model_meters(model))
        if lacking:
            raise ConfigError(
                f"{lacking} Leave that limit out, or choose another limiter in `limits.limiter`."
            )


def deployment_meters(deployment: Deployment) -> tuple[MeterSpec, ...]:
    """The meters of one deployment, which count what all principals send to it."""
    return tuple(meters_of("deployment", deployment.id, deployment.caps))


def meters_of(scope: str, owner: str, limits: Limits, model: str = "") -> Iterator[MeterSpec]:
    """One meter for each of `limits` that is set. With `burst`, those by the minute are buckets."""
    place = f"{scope}:{owner}:model:{model}" if model else f"{scope}:{owner}"
    for name, (unit, kind, window) in LIMITS.items():
        value: int | None = getattr(limits, name)
        if value is None:
            continue
        shadow = name in limits.shadow
        id = f"{place}:{name}"
        if limits.burst is None or window != MINUTE or unit == "parallel":
            yield MeterSpec(
                id, scope, unit, value, window, kind, shadow=shadow, name=name, model=model
            )
        else:
            capacity = burst_of(value, limits.burst)
            yield MeterSpec(
                f"{id}:burst",
                scope,
                unit,
                value,
                window,
                kind,
                "bucket",
                capacity,
                shadow,
                name,
                model,
            )


def burst_of(limit: int, burst: float) -> int:
    """What `limit` by the minute lets through at once, in a bucket of `burst` seconds' worth."""
    return max(1, int(limit * burst / MINUTE))


def level_meters(level: Level) -> Iterator[MeterSpec]:
    """The meters of one level, whatever is called."""
    return meters_of(level.kind, level.id, level.limits)


def pairs_of(level: Level, model: Model, covers: Covers | None) -> Iterator[MeterSpec]:
    """The meters of one level that are about `model` alone."""
    for pattern, limits in level.model_limits:
        if covers(pattern, model) if covers is not None else pattern == model.name:
            yield from meters_of(level.kind, level.id, limits, model.name)
