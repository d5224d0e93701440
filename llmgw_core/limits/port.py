"""The limiter port: one atomic reservation over every meter that applies, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

MeterUnit = Literal["requests", "tokens", "parallel"]


class MeterSpec(msgspec.Struct, frozen=True):
    """One meter that applies to a call. `id` names what is counted, over reloads and
    principals, e.g. `team:t_1:rpm`; `scope` is the word for messages (`team`, `model`...)."""

    id: str
    scope: str
    unit: MeterUnit
    limit: int
    window: float = 60.0


class MeterState(msgspec.Struct, frozen=True, gc=False):
    """For `x-ratelimit-*`: of the tightest meter of a unit. `reset` is in seconds until the
    meter would be empty if nothing more came."""

    limit: int
    remaining: int
    reset: float


class Exceeded(Exception):
    """No room. `retry_after`: seconds until the same demand would fit if nothing else came
    (for `parallel` a guess of one second). `never`: the demand is larger than the limit."""

    def __init__(self, spec: MeterSpec, retry_after: float, *, never: bool = False) -> None:
        super().__init__(spec.id)
        self.spec = spec
        self.retry_after = retry_after
        self.never = never


class Reservation(Protocol):
    """A ticket that must be used: settled or released exactly once (further calls are no-ops);
    a forgotten one warns with `ResourceWarning`."""

    async def amend(self, tokens: int, extra: Any = None) -> None:
        """Change the reserved tokens to `tokens` and, with `extra` (bound meters), add meters,
        as one atomic step. Raises `Exceeded` and changes nothing when there is no room."""
        ...

    def settle(self, tokens: int) -> None:
        """The call used `tokens`; parallel slots are given back, the request stays counted."""
        ...

    def release(self) -> None:
        """The call never happened: everything is given back, the request included."""
        ...


class Limiter(Protocol):
    """Counts and decides. `bind` is called once per principal and model, `reserve` per call; a
    limiter that never has to wait may have `reserve_now`, too, which is `reserve` as a plain
    function and saves time. One that can tell may have `examine(bound, tokens)`, which raises what
    `reserve` would raise now and counts nothing; then `explain` tells of limits."""

    def bind(self, specs: Sequence[MeterSpec]) -> Any:
        """Prepare a set of meters; the result is what `reserve` takes (and may be cached)."""
        ...

    async def reserve(self, bound: Any, tokens: int) -> Reservation:
        """One atomic step over all meters: 1 request, `tokens` tokens, 1 parallel call.
        Raises `Exceeded` and counts nothing when one of them has no room."""
        ...

    def state(self, bound: Any) -> tuple[MeterState | None, MeterState | None]:
        """The tightest meter of requests, and of tokens; None where there is none."""
        ...

    async def aclose(self) -> None:
        """Release what the limiter holds."""
        ...
