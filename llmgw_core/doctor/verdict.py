"""What is found out about one configured limit, and how whoever adds another kind joins."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from llmgw_core.doctor.scene import Scene

ProblemKind = Literal["shadow", "hidden", "unreachable", "unit", "lifted", "silent", "untried"]
"""`shadow`: it is in shadow mode; `hidden`: others always refuse before it can; `unreachable`: no
call meets it; `unit`: it refuses every call, or its number is hardly meant; `lifted`: somebody has
it refuse nothing for a while; `silent`: canaries got through, which is a bug; `untried`: the time
was over."""


class Problem(msgspec.Struct, frozen=True):
    """Why a limit cannot bite, as a sentence, and what to do about it."""

    kind: ProblemKind
    reason: str
    remedy: str


class Verdict(msgspec.Struct, frozen=True):
    """About one limit. `where` is what it is set on, `what` the limit in words, `id` how operators
    meet it (`decided by`); `canaries` calls were made. `problem` is None when it bites."""

    where: str
    what: str
    id: str
    canaries: int
    problem: Problem | None


class Suspect(Protocol):
    """One configured limit, budget or brake."""

    id: str
    where: str
    what: str

    def look(self, scene: Scene) -> Problem | None:
        """What can be said without any call. None: it has to be tried."""
        ...

    async def prove(self, scene: Scene) -> Problem | None:
        """Drive canary calls against it, in a gateway in which nothing is counted. None: it has
        refused what it has to, and let through what it has to."""
        ...


Source = Callable[["Scene"], Iterable[Suspect]]
SOURCES: list[Source] = []
"""Who knows configured limits. A kind of limit joins by adding a function that lists its suspects;
`examine` asks all, in order."""


class Report(msgspec.Struct, frozen=True):
    """Of a whole installation."""

    verdicts: tuple[Verdict, ...]

    @property
    def problems(self) -> tuple[Verdict, ...]:
        """Those that cannot bite."""
        return tuple(each for each in self.verdicts if each.problem is not None)
