"""Runs: the calls of a key, or of a session of it, without a long pause between them.

Rule of this file: bounded memory, whatever clients invent. At most `SESSIONS` sessions are
remembered in one process, at most `SESSIONS_OF_KEY` of one key, and `KEYS` keys; the least recently
used ones go first (what is usual for a key is remembered of `HISTORIES` more), and a session that
has paused for too long is forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from llmgw_core.limits.velocity import History, Pace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmgw_core.domain.access import LevelKind
    from llmgw_core.limits.brake_rules import Rule

    Owner = tuple[LevelKind, str]

SESSIONS: Final = 50_000
SESSIONS_OF_KEY: Final = 1_000
KEYS: Final = 20_000
HISTORIES: Final = 100_000
"""Keys that are not in memory, of which is known what is usual for them."""
_SWEPT: Final = 2
"""Old sessions that are looked at for each call."""


class Run:
    """`money` was charged for calls that have ended, `reserved` is what those under way may cost,
    of which there are `open`. `repeats` requests with the hash `body` came last, one after the
    other. `told` are the rules of which somebody has heard."""

    __slots__ = (
        "body",
        "calls",
        "first",
        "last",
        "money",
        "open",
        "owner",
        "repeats",
        "reserved",
        "session",
        "told",
    )

    def __init__(self, owner: Owner, session: int | None, now: float) -> None:
        self.owner = owner
        self.session = session
        self.open = 0
        self.reserved = 0
        self.begin(now)

    def begin(self, now: float) -> None:
        """Nothing has been."""
        self.first = self.last = now
        self.money = self.calls = self.repeats = 0
        self.body = b""
        self.told: set[Rule] = set()

    def over(self, now: float, idle: float) -> bool:
        """Whether a call would begin another run."""
        return not self.open and now - self.last >= idle

    def full(self, rule: Rule, body: bytes, now: float) -> bool:
        """Whether there is no room for another call."""
        if rule.bound == "money":
            return self.money + self.reserved >= rule.limit
        if rule.bound == "calls":
            return self.calls >= rule.limit
        if rule.bound == "seconds":
            return now - self.first >= rule.limit
        return self.repeats >= rule.limit and body == self.body

    def count(self, body: bytes, now: float) -> None:
        """A call begins."""
        if not self.calls:
            self.first = now
        self.calls += 1
        self.last = now
        if body and body == self.body:
            self.repeats += 1
        else:
            self.body, self.repeats = body, 1

    def discount(self, body: bytes) -> None:
        """A call that was counted did not happen."""
        self.calls -= 1
        if body == self.body:
            self.repeats -= 1


class KeyRuns:
    """Everything about one key."""

    __slots__ = ("pace", "run", "sessions")

    def __init__(self, run: Run, pace: Pace) -> None:
        self.run = run
        self.pace = pace
        self.sessions: OrderedDict[int, Run] = OrderedDict()


class Runs:
    """`idle`: seconds after which a pause ends a run."""

    def __init__(
        self,
        idle: float,
        *,
        sessions: int = SESSIONS,
        sessions_of_key: int = SESSIONS_OF_KEY,
        keys: int = KEYS,
    ) -> None:
        self.idle = idle
        self._most = (sessions, sessions_of_key, keys)
        self._keys: OrderedDict[Owner, KeyRuns] = OrderedDict()
        self._sessions: OrderedDict[tuple[Owner, int], Run] = OrderedDict()
        self._histories: dict[Owner, History] = {}

    def __len__(self) -> int:
        """Sessions that are remembered."""
        return len(self._sessions)

    def key(self, owner: Owner, now: float) -> KeyRuns:
        """The one of `owner`, in which the run is the present one."""
        found = self._keys.get(owner)
        if found is None:
            history = self._histories.pop(owner, History())
            found = self._keys[owner] = KeyRuns(Run(owner, None, now), Pace(history))
            if len(self._keys) > self._most[2]:
                self._forget_key(*self._keys.popitem(last=False))
        else:
            self._keys.move_to_end(owner)
            if found.run.over(now, self.idle):
                found.run.begin(now)
        return found

    def session(self, key: KeyRuns, session: int, now: float) -> Run:
        """The present run of a session of `key`."""
        owner = key.run.owner
        run = key.sessions.get(session)
        if run is None:
            run = key.sessions[session] = self._sessions[owner, session] = Run(owner, session, now)
            if len(key.sessions) > self._most[1]:
                self._forget(next(iter(key.sessions.values())))
            if len(self._sessions) > self._most[0]:
                self._forget(next(iter(self._sessions.values())))
        else:
            key.sessions.move_to_end(session)
            self._sessions.move_to_end((owner, session))
            if run.over(now, self.idle):
                run.begin(now)
        return run

    def sweep(self, now: float) -> None:
        """Forget a few sessions that are over."""
        for _ in range(_SWEPT):
            run = next(iter(self._sessions.values()), None)
            if run is None or not run.over(now, self.idle):
                return
            self._forget(run)

    def adopt(self, histories: Mapping[Owner, History]) -> None:
        """What is known of keys from before."""
        self._histories = dict(histories)

    def known(self) -> list[KeyRuns]:
        """All keys in memory."""
        return list(self._keys.values())

    def histories(self) -> dict[Owner, History]:
        """What is usual, of every key of which something is known."""
        here = {owner: each.pace.history for owner, each in self._keys.items()}
        return {**self._histories, **{owner: each for owner, each in here.items() if each.weight}}

    def _forget(self, run: Run) -> None:
        assert run.session is not None
        del self._sessions[run.owner, run.session]
        del self._keys[run.owner].sessions[run.session]

    def _forget_key(self, owner: Owner, key: KeyRuns) -> None:
        for session in key.sessions:
            del self._sessions[owner, session]
        if key.pace.history.weight:
            self._histories[owner] = key.pace.history
            if len(self._histories) > HISTORIES:
                del self._histories[next(iter(self._histories))]
