"""The canary rollouts that are under way, and what running calls say about them.

The store has the truth, and `apply` brings it here; what is decided here, that a canary is taken
out, holds at once and is told to `aborted`, which writes it down. One per gateway: what was counted
survives a reload. Several processes count each for itself, and the first one that decides, decides.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec.structs import replace

from llmgw_core.domain.alias import Variant  # noqa: TC001 -- msgspec reads the annotations
from llmgw_core.routing.canary import CanaryJudge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from llmgw_core.domain.alias import CanaryRules
    from llmgw_core.domain.usage import UsageRecord

log = logging.getLogger("llmgw.rollouts")

RolloutState = Literal["running", "aborted", "promoted"]

_NOBODYS_FAULT = frozenset(
    {"ok", "client", "client_left", "content_policy", "context_window", "interrupted", "rejected"}
)
"""Outcomes of attempts that say nothing against the model: what the request is the reason of comes
from few callers, who all have the same variant."""


class Rollout(msgspec.Struct, frozen=True):
    """The last rollout of an alias: `share` percent of its callers get `model` in place of what
    the configuration says. `base` is what that said when the rollout was started. A promoted one
    holds for everybody until the configuration says something else. Times are seconds since the
    epoch."""

    alias: str
    model: str
    share: float
    state: RolloutState
    reason: str
    base: tuple[Variant, ...]
    actor: str
    started: float
    changed: float

    def holds(self, variants: tuple[Variant, ...]) -> bool:
        """Whether calls of the alias, which has these `variants`, may go to `model`."""
        return self.state == "running" or (self.state == "promoted" and self.base == variants)


class LiveRollouts:
    """See the module. `aborted` is called with a rollout that was taken out here; it must not
    raise."""

    def __init__(self, aborted: Callable[[Rollout], None]) -> None:
        self._aborted = aborted
        self._current: dict[str, Rollout] = {}
        self._judges: dict[tuple[str, float], CanaryJudge] = {}

    def apply(self, rollouts: Iterable[Rollout]) -> None:
        """What the store has now. It may not have heard yet of what was taken out here."""
        found = {rollout.alias: rollout for rollout in rollouts}
        for alias, ours in self._current.items():
            stored = found.get(alias)
            if (
                stored is not None
                and (stored.state, ours.state) == ("running", "aborted")
                and stored.started == ours.started
            ):
                found[alias] = ours
        self._current = found
        alive = {(each.alias, each.started) for each in found.values()}
        self._judges = {key: judge for key, judge in self._judges.items() if key in alive}

    def of(self, alias: str) -> Rollout | None:
        """The last rollout of `alias`."""
        return self._current.get(alias)

    def is_running(self, rollout: Rollout) -> bool:
        """Whether `rollout` gets calls, perhaps with another share by now."""
        current = self._current.get(rollout.alias)
        return (
            current is not None
            and current.state == "running"
            and current.started == rollout.started
        )

    def judge(self, rollout: Rollout, rules: CanaryRules) -> CanaryJudge:
        """Who watches `rollout`. With other rules it begins anew."""
        key = (rollout.alias, rollout.started)
        judge = self._judges.get(key)
        if judge is None or judge.rules != rules:
            judge = self._judges[key] = CanaryJudge(rules)
        return judge

    def take_out(self, rollout: Rollout, reason: str) -> None:
        """The canary gets no calls from now on."""
        current = self._current.get(rollout.alias)
        if current is None or current.state != "running" or current.started != rollout.started:
            return  # somebody else was faster
        log.warning("canary %s of %s is taken out: %s", rollout.model, rollout.alias, reason)
        ended = self._current[rollout.alias] = replace(current, state="aborted", reason=reason)
        self._aborted(ended)


class Trial:
    """What the lanes of one variant tell of their calls while a canary runs beside them."""

    __slots__ = ("_live", "_model", "_rollout", "_rules")

    def __init__(
        self, live: LiveRollouts, rollout: Rollout, rules: CanaryRules, model: str
    ) -> None:
        self._live = live
        self._rollout = rollout
        self._rules = rules
        self._model = model

    def ended(self, record: UsageRecord, *, held_back: bool = False) -> None:
        """A call that was meant for the variant has ended. `held_back`: a plugin or a switch has
        kept it from the variant when it began."""
        failed = _failed(record, self._model, held_back=held_back)
        if failed is None or not self._live.is_running(self._rollout):
            return
        judge = self._live.judge(self._rollout, self._rules)
        first = record.first_content_us / 1e6 if record.first_content_us else None
        if self._model != self._rollout.model:
            judge.baseline(failed=failed, stream=record.stream, first=first)
            return
        reason = judge.canary(failed=failed, stream=record.stream, first=first)
        if reason is not None:
            self._live.take_out(self._rollout, reason)


def _failed(record: UsageRecord, model: str, *, held_back: bool) -> bool | None:
    """Whether `model` failed in this call, whoever stepped in; None: nobody can tell."""
    if not record.attempts:
        return None
    own = [attempt.outcome for attempt in record.attempts if attempt.model == model]
    if not own:
        # It had no deployment that could be tried, and we are not the reason.
        return None if held_back else True
    if own[-1] in _NOBODYS_FAULT:
        return False if own[-1] == "ok" else None
    return True
