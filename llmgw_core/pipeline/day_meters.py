"""Limits by the day go on after a restart: what was used before is counted in their windows again.

The ledger knows it by the hour, and what it does not have yet lies in journals. An hour counts as
if everything in it had come at its end, so a window holds too much for up to an hour, and never too
little. Without any limit by the day nothing is read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final

from llmgw_core.accounting.summaries import QUARTER_NS
from llmgw_core.limits.budget_book import LEVEL_KINDS
from llmgw_core.limits.specs import DAY, deployment_meters, level_meters, model_meters, pairs_of
from llmgw_core.store.contributions import HOUR_NS
from llmgw_core.store.day_sums import levels_with_day_limits, used_by_the_hour

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.accounting.summaries import Used
    from llmgw_core.domain.access import Level
    from llmgw_core.domain.deployment import Model
    from llmgw_core.limits.port import MeterSpec
    from llmgw_core.limits.specs import Covers

    Restore = Callable[[MeterSpec, int, float], None]
    """Count so much as of so many seconds ago."""

_HOURS: Final = 24


class DayMeters:
    """Those of `levels`, `models` and their deployments. `covers` as for `pair_meters`."""

    def __init__(
        self, levels: Iterable[Level], models: Mapping[str, Model], covers: Covers
    ) -> None:
        self._levels: defaultdict[Any, list[MeterSpec]] = defaultdict(list)
        """By kind and id, of a model by its name; and of a level and a model by all three."""
        self._deployments: dict[str, list[MeterSpec]] = {}
        self._models: dict[str, str] = {}
        for level in levels:
            owner = (level.kind, level.id)
            self._levels[owner] += _by_the_day(level_meters(level))
            for model in models.values():
                self._levels[*owner, model.name] += _by_the_day(pairs_of(level, model, covers))
        for model in models.values():
            self._levels["model", model.name] += _by_the_day(model_meters(model))
            for each in model.deployments:
                self._models[each.id] = model.name
                self._deployments[each.id] = _by_the_day(deployment_meters(each))
        self._levels = defaultdict(list, {key: each for key, each in self._levels.items() if each})
        self._used: defaultdict[MeterSpec, Counter[int]] = defaultdict(Counter)

    def __bool__(self) -> bool:
        return bool(self._levels) or any(self._deployments.values())

    def count(self, used: Iterable[Used]) -> None:
        """This lies in journals and is not in the ledger."""
        for each in used:
            owners = (each.organization_id, each.team_id, each.user_id, each.key_id)
            sums = (each.calls, each.input_tokens, each.output_tokens)
            hour = each.quarter * QUARTER_NS // HOUR_NS
            self._add(hour, owners, each.model, each.deployment, sums)

    async def read(self, connection: AsyncConnection, now_ns: int) -> None:
        """Count what the ledger has of the last 24 hours; of clocks that were put back, too."""
        now = now_ns // HOUR_NS
        for row in await used_by_the_hour(connection, now - _HOURS, now + _HOURS):
            self._add(row[0], row[1:5], row[5], row[6], row[7:])

    def restore(self, limiter: Restore | None, caps: Restore, now_ns: int) -> None:
        """Have the limiters count it. None: this one knows by itself."""
        for spec, hours in self._used.items():
            restore = caps if spec.scope == "deployment" else limiter
            if restore is not None:
                for hour, amount in hours.items():
                    ago = max(0.0, (now_ns - (hour + 1) * HOUR_NS) / 1e9)
                    restore(spec, max(0, amount), ago)

    def _add(
        self,
        hour: int,
        owners: tuple[str | None, ...],
        model: str,
        deployment: str,
        sums: tuple[int, int, int],
    ) -> None:
        calls, input_tokens, output_tokens = sums
        for spec in self._specs(owners, model, deployment):
            if spec.unit == "requests":
                amount = calls
            else:
                amount = 0 if spec.kind == "output" else input_tokens
                amount += 0 if spec.kind == "input" else output_tokens
            if amount:
                self._used[spec][hour] += amount

    def _specs(
        self, owners: tuple[str | None, ...], model: str, deployment: str
    ) -> Iterator[MeterSpec]:
        # What a call asked for, and what stood in for it.
        names = {model, self._models.get(deployment, model)}
        known = self._levels
        for kind, id in zip(LEVEL_KINDS, owners, strict=True):
            yield from known.get((kind, id), ())
            for name in names:
                yield from known.get((kind, id, name), ())
        for name in names:
            yield from known.get(("model", name), ())
        yield from self._deployments.get(deployment, ())


def _by_the_day(specs: Iterable[MeterSpec]) -> list[MeterSpec]:
    """Of several with one id the first: they count the same."""
    return list({spec.id: spec for spec in specs if spec.window == DAY}.values())


async def day_meters(
    connection: AsyncConnection, models: Mapping[str, Model], covers: Covers, now_ns: int
) -> DayMeters:
    """With what the ledger has. Raises `StoreUnavailable`."""
    found = DayMeters(await levels_with_day_limits(connection), models, covers)
    if found:
        await found.read(connection, now_ns)
    return found
