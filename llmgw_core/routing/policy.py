"""What a call does after an attempt has failed: pure decisions, one place.

A call has one deadline and one budget of attempts. While an untried deployment is left that nothing
stands in the way of, it goes there and nowhere else. Only then it comes back, after a pause drawn
at random, to one that had failed quickly: whoever takes long to fail is not asked twice. Nothing
goes on after the content commit, and what is the request's own fault goes nowhere. How often calls
are tried again is bounded for the whole model (`retry_budget`).

A kept-alive connection that died before any byte of a reply says nothing about the deployment, and
neither does a secret that has been replaced: it is asked again at once, and that costs nothing.

Times are of the caller's clock, in seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.domain.failure import UpstreamFailure
    from llmgw_core.domain.rules import Rules
    from llmgw_core.routing.balance import Member
    from llmgw_core.routing.plan import Candidates, Tier
    from llmgw_core.routing.state import Obstacle

REFUSALS: Final = frozenset(("client", "context_window", "content_policy"))
"""The request itself is at fault, and the caller hears what the upstream says about it."""
_WORKED: Final = frozenset(("timeout", "cut", "protocol", "overloaded", "server"))
"""The upstream has had work with the attempt, so that one more is a retry that has to be paid."""
_KEYS: Final = frozenset(("credentials", "rate_limited"))
"""It is about the credential, and another one may do."""


class Ended(msgspec.Struct, frozen=True):
    """An attempt that failed. `seconds`: how long it took; `free`: asking again costs nothing (see
    above); `committed`: content has been handed over."""

    member: Member
    failure: UpstreamFailure
    seconds: float
    free: bool = False
    committed: bool = False


class Same(msgspec.Struct, frozen=True):
    """A deployment that has been tried, again, after `pause` seconds; `free`: on a fresh
    connection, and it does not count."""

    member: Member
    reason: str
    pause: float = 0.0
    free: bool = False


class Other(msgspec.Struct, frozen=True):
    """Another deployment of the same model."""

    member: Member
    reason: str


class OtherModel(msgspec.Struct, frozen=True):
    """A deployment of another model."""

    member: Member
    reason: str


class Stop(msgspec.Struct, frozen=True):
    """The caller is told: `failure`, of `member`, is what of all that has failed says most.
    `retry_after`: so many seconds from now somebody might be free again, None when nobody has
    said."""

    failure: UpstreamFailure
    member: Member
    reason: str
    retry_after: float | None = None
    late: bool = False
    """The deadline has passed."""


Step = Same | Other | OtherModel | Stop


class Surroundings(msgspec.Struct, frozen=True):
    """What a policy asks; none of it changes anything but `redirect` and `pay`. `next`: the next
    deployment that has not been tried, if there is one. `redirect`: from now on these are the
    candidates. `obstacle`: what stands in the way of one. `another_key`: whether it has a
    credential that may be used. `pay`: take a retry out of the model's budget, if it has one.
    `random`: from 0 to 1."""

    next: Callable[[], Member | None]
    redirect: Callable[[Candidates], None]
    obstacle: Callable[[Member], Obstacle | None]
    another_key: Callable[[Member], bool]
    pay: Callable[[], bool]
    random: Callable[[], float]


class _Tried:
    """What came of a deployment in this call."""

    __slots__ = ("failure", "free_at", "member", "seconds", "times")

    def __init__(self, member: Member, failure: UpstreamFailure) -> None:
        self.member = member
        self.failure = failure
        self.times = 0
        self.seconds = 0.0
        self.free_at: float | None = None


class CallPolicy:
    """Decides for one call. `found` are its candidates, `deadline` is the moment after which
    nothing is begun."""

    def __init__(self, found: Candidates, deadline: float, around: Surroundings) -> None:
        self._found = found
        self._deadline = deadline
        self._around = around
        self._tried: dict[str, _Tried] = {}
        self._attempts = 0
        self._pauses = 0
        self._window = 0
        self._refusal: Ended | None = None
        self._last: Ended | None = None

    def after(self, ended: Ended, now: float) -> Step:
        """What follows."""
        failure, member = ended.failure, ended.member
        stays = ended.free and not ended.committed and now < self._deadline
        if stays and not self._barred(member):
            return Same(member, f"again at once: {failure}", free=True)
        self._last = ended
        self._note(ended, now)
        reason = self._forbidden(ended, now)
        if reason:
            return self._stop(ended, reason, now)
        if failure.kind in REFUSALS:
            self._redirect(member, failure)
        step = self._elsewhere(member) or self._again(now)
        if step is None:
            return self._stop(ended, "nobody is left to try", now)
        if failure.kind in _WORKED and not self._around.pay():
            reason = "too many calls of the model are tried again already"
            return self._stop(ended, reason, now)
        return step

    def nobody(self, now: float) -> Stop:
        """What was to follow could not be begun. The caller is told what had failed until then."""
        assert self._last is not None
        return self._stop(self._last, "nobody is left to try", now)

    def _note(self, ended: Ended, now: float) -> None:
        failure, member = ended.failure, ended.member
        tried = self._tried.setdefault(member.deployment.id, _Tried(member, failure))
        tried.times += 1
        tried.failure = failure
        tried.seconds = ended.seconds
        if failure.retry_after is None:
            tried.free_at = None
        else:  # whoever asks for years is asked again before, and so is whoever is told
            longest = member.deployment.rules.cooldown_max_seconds
            tried.free_at = now + min(failure.retry_after, longest)
        self._attempts += 1
        if failure.kind in REFUSALS:
            self._refusal = self._refusal or ended

    def _forbidden(self, ended: Ended, now: float) -> str:
        """Why nothing more may be tried; empty when something may."""
        kind = ended.failure.kind
        if ended.committed:
            return "content has been handed over"
        if kind == "client":
            return "the request is at fault"
        if getattr(ended.member.deployment.rules.failures, kind) == "stop":
            return f"the rules for {kind} say so"
        if self._attempts >= self._found.rules.attempts:
            return f"all {self._attempts} attempts are used up"
        return "the deadline has passed" if now >= self._deadline else ""

    def _redirect(self, member: Member, failure: UpstreamFailure) -> None:
        """The request is not for this model, so those that may take it stand in for all others."""
        found, deployment = self._found, member.deployment
        if failure.kind == "content_policy":
            tiers = found.lenient
        else:
            self._window = max(self._window, deployment.context_window or 0)
            own = [tier for tier in found.tiers if tier.model.name == deployment.model]
            every = (*own, *found.larger)
            tiers = tuple(
                replace(tier, members=fitting)
                for tier in every
                if (fitting := self._fitting(tier, deployment.model))
            )
        self._found = found.only(tiers)
        self._around.redirect(self._found)

    def _fitting(self, tier: Tier, model: str) -> tuple[Member, ...]:
        """Those of a tier whose window is larger than those that were too small. Where a window is
        not known, another model may have a larger one and the same model has not."""
        known = self._window > 0
        return tuple(
            member
            for member in tier.members
            if (
                tier.model.name != model
                if member.deployment.context_window is None or not known
                else member.deployment.context_window > self._window
            )
        )

    def _elsewhere(self, failed: Member) -> Other | OtherModel | None:
        """One that has not been tried; perhaps only the least bad of them."""
        member = self._around.next()
        if member is None:
            return None
        model = member.deployment.model
        if model == failed.deployment.model:
            return Other(member, "another deployment")
        return OtherModel(member, f"another model: {model}")

    def _again(self, now: float) -> Same | None:
        """Everybody has been tried, so one that may do better now is tried again: whoever is
        soonest ready, and rather one in whose way nothing stands."""
        around = self._around
        candidates = {each.id for tier in self._found.tiers for each in tier.deployments}
        left: list[tuple[bool, _Tried]] = []
        for id, tried in self._tried.items():
            if id in candidates and not self._barred(tried.member):
                left.append((around.obstacle(tried.member) is not None, tried))
        left.sort(key=lambda each: each[0])
        for _, tried in left:
            # What no upstream has said (a meter of ours is full) is not about credentials.
            about_key = tried.failure.kind in _KEYS and tried.failure.status
            if about_key and around.another_key(tried.member):
                return Same(tried.member, "with another credential")
        ready = [tried for _, tried in left if _may_return(tried)]
        return self._after_pause(ready, now)

    def _barred(self, member: Member) -> bool:
        """Whether somebody has switched it off."""
        obstacle = self._around.obstacle(member)
        return obstacle is not None and obstacle.hard

    def _after_pause(self, ready: list[_Tried], now: float) -> Same | None:
        jitter = self._around.random() if ready else 0.0
        best: Same | None = None
        for tried in ready:
            rules = tried.member.deployment.rules
            wanted = 0.0 if tried.free_at is None else tried.free_at - now
            pause = max(jitter * self._bound(rules), wanted)
            if pause * 1000 > rules.pause_max_ms or now + pause >= self._deadline:
                continue
            if best is None or pause < best.pause:
                best = Same(tried.member, f"again after {pause:.3f} s: it failed fast", pause)
        self._pauses += best is not None
        return best

    def _bound(self, rules: Rules) -> float:
        """Of the next pause, in seconds: any time up to it is as good (full jitter). It doubles
        with every pause of the call."""
        return float(min(rules.pause_max_ms, rules.backoff_ms * 2 ** min(self._pauses, 30))) / 1000

    def _stop(self, last: Ended, reason: str, now: float) -> Stop:
        failure, member = self._verdict(last)
        times = [tried.free_at for tried in self._tried.values() if tried.free_at is not None]
        after = max(0.0, min(times) - now) if times else None
        return Stop(failure, member, reason, after, late=now >= self._deadline)

    def _verdict(self, last: Ended) -> tuple[UpstreamFailure, Member]:
        """What says most: that the request is refused, else what became of the deployment that was
        tried last for the first time; but that credentials are refused only when there is nothing
        else to say."""
        if last.committed:
            return last.failure, last.member
        if self._refusal is not None:
            return self._refusal.failure, self._refusal.member
        tried = list(self._tried.values())
        others = [each for each in tried if each.failure.kind != "credentials"]
        says_most = (others or tried)[-1]
        return says_most.failure, says_most.member


def _may_return(tried: _Tried) -> bool:
    kind, rules = tried.failure.kind, tried.member.deployment.rules
    return (
        kind not in REFUSALS
        and not tried.failure.ours
        and getattr(rules.failures, kind) == "retry"
        and tried.times <= rules.retries
        and tried.seconds * 1000 <= rules.retry_within_ms
    )
