"""The credentials of one deployment: whose turn it is, and which are to be left alone.

One that the upstream refuses (401, 402, 403) is not used until its secret is another one, some
time has passed, or a call was served with it all the same; one that is rate limited (429) until the
upstream says. When that is so of all of them, the one that is soonest free is used rather than
none.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.domain.credential import Credential


class _Key:
    __slots__ = ("cool_until", "cooled", "credential", "refused", "refused_at", "refused_until")

    def __init__(self, credential: Credential) -> None:
        self.credential = credential
        self.cool_until = self.refused_at = self.refused_until = -math.inf
        self.cooled = 0.0
        self.refused: str | None = None

    def free_at(self, now: float) -> float:
        """When it may be used; not later than `now` if it may."""
        if self.refused is not None and self.credential.value != self.refused:
            self.refused = None
        return self.cool_until if self.refused is None else max(self.cool_until, self.refused_until)


class KeyRing:
    """The credentials in the order of the configuration; times are of the caller's clock.
    `refusals` says whether any of them may be refused, so that those who are served need not
    look."""

    __slots__ = ("_keys", "_next", "refusals")

    def __init__(self, credentials: Sequence[Credential]) -> None:
        self._keys = [_Key(each) for each in credentials]
        self._next = 0
        self.refusals = False

    def __len__(self) -> int:
        return len(self._keys)

    def number(self, credential: Credential) -> int:
        """Which one it is, from 1; 0 if it is none of them."""
        return next((n for n, key in enumerate(self._keys, 1) if key.credential == credential), 0)

    def pick(self, now: float) -> Credential:
        """The next one in turn that may be used."""
        keys, start = self._keys, self._next
        for offset in range(len(keys)):
            index = (start + offset) % len(keys)
            if keys[index].free_at(now) <= now:
                break
        else:
            index = min(range(len(keys)), key=lambda each: keys[each].free_at(now))
        self._next = (index + 1) % len(keys)
        return keys[index].credential

    def usable(self, now: float) -> bool:
        """Whether any may be used."""
        return any(key.free_at(now) <= now for key in self._keys)

    def free_at(self, now: float) -> float:
        """When the first of them may be used."""
        return min(key.free_at(now) for key in self._keys)

    def refuse(self, credential: Credential, value: str, now: float, until: float) -> None:
        """The upstream has refused `value`, which was this credential's secret."""
        for key in self._keys:
            if key.credential == credential:
                earlier = key.refused_until if key.refused == value else until
                key.refused, key.refused_until = value, max(until, earlier)
                key.refused_at = now
                self.refusals = True

    def accept(self, credential: Credential, value: str, began: float) -> None:
        """The upstream has served a request with `value` that began at that time. If that was after
        it was refused, it is refused no more."""
        for key in self._keys:
            if key.credential == credential and key.refused == value and began >= key.refused_at:
                key.refused = None
        self.refusals = any(key.refused is not None for key in self._keys)

    def cool(
        self,
        credential: Credential,
        now: float,
        seconds: float | None,
        *,
        first: float,
        longest: float,
    ) -> None:
        """The upstream wants nothing from it for `seconds`, or does not say for how long (a moment
        that is over says nothing: clocks differ): then it is `first`, and twice as long as the last
        time when that is not long ago."""
        for key in self._keys:
            if key.credential != credential:
                continue
            if not seconds:
                if now < key.cool_until:
                    continue  # of many calls at the same time; one says as much as all
                again = now - key.cool_until < 2 * key.cooled
                seconds = key.cooled = min(longest, 2 * key.cooled if again else first)
            key.cool_until = max(key.cool_until, now + min(seconds, longest))
