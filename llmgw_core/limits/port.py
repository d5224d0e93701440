"""The limiter port: one atomic reservation over every meter that applies, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

MeterUnit = Literal["requests", "tokens", "parallel", "money"]
TokenKind = Literal["all", "input", "output"]
MeterShape = Literal["window", "bucket", "period"]

ABILITIES = frozenset({"kinds", "bucket", "shadow", "meters"})
"""What a limiter may be able to do beside plain windows, by the words of `Limiter.abilities`:
tokens of one kind, token buckets, shadow mode, and meters that others keep (`Counter`)."""


class MeterSpec(msgspec.Struct, frozen=True):
    """One meter that applies to a call. `id` names what is counted, over reloads and
    principals, e.g. `team:t_1:rpm`; `scope` is the word for messages (`team`, `model`...).

    At most `limit` in any `window` seconds. Of tokens, `kind` says which. `shape`: a sliding
    `window`; a `bucket`, which lets through at most `capacity` at once and refills by `limit` in
    `window` seconds; or a calendar `period`, which only a `Counter` of somebody else counts. With
    `shadow` it is counted and reported, and never refuses. `name` is what the limit is called
    where it is set (`rpm`), `model` the one that a limit of a level is about, "" for all.
    """

    id: str
    scope: str
    unit: MeterUnit
    limit: int
    window: float = 60.0
    kind: TokenKind = "all"
    shape: MeterShape = "window"
    capacity: int = 0
    shadow: bool = False
    name: str = ""
    model: str = ""

    @property
    def plain(self) -> bool:
        """Whether every limiter can count it: a sliding window of requests or of all tokens, or
        parallel calls, that refuses what has no room."""
        return (
            self.shape == "window"
            and self.kind == "all"
            and not self.shadow
            and self.unit != "money"
        )


class Demand(msgspec.Struct, frozen=True):
    """What a call needs, or has used, in the units that not every meter counts. `money` is in
    nano-units of what tenants are charged. `also` are meters of this call alone (those of its
    session...), which are reserved in the same step."""

    input_tokens: int
    output_tokens: int
    money: int = 0
    also: tuple[tuple[MeterSpec, Counter], ...] = ()


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


class Counter(Protocol):
    """A meter that is no plain window: a token bucket, a budget, a brake. It can be bound beside
    the plain ones of a limiter with the ability `meters`, which asks every meter before it counts
    in any, within one step of the event loop: nothing here may wait. `now` is the limiter's clock;
    amounts are in the unit of the spec, and 1 for requests and parallel calls."""

    def wait(self, spec: MeterSpec, amount: int, now: float) -> float:
        """Seconds until `amount` more has room if nothing else comes, 0.0 when it has now, `inf`
        when it never will. Counts nothing."""
        ...

    def count(self, amount: int, now: float) -> Any:
        """Count `amount`, whether there is room or not. What is returned is handed back in
        `change` and `end`, so that the amount can be corrected where it was booked."""
        ...

    def change(self, booking: Any, held: int, amount: int, now: float) -> Any:
        """What was booked as `held` is `amount` from now on, the call goes on. Returns the booking
        from now on."""
        ...

    def end(self, booking: Any, held: int, used: int, now: float) -> None:
        """The call is over and has used `used` of what was booked as `held`; of a call that never
        happened, and of a parallel call, that is 0."""
        ...

    def state(self, spec: MeterSpec, now: float) -> MeterState:
        """How full it is."""
        ...


class Reservation(Protocol):
    """A ticket that must be used: settled or released exactly once (further calls are no-ops);
    a forgotten one warns with `ResourceWarning`."""

    async def amend(self, tokens: int, extra: Any = None, demand: Demand | None = None) -> None:
        """Change the reserved tokens to `tokens` (and what the call needs to `demand`) and, with
        `extra` (bound meters), add meters, as one atomic step. Raises `Exceeded` and changes
        nothing when there is no room."""
        ...

    def settle(self, tokens: int, used: Demand | None = None) -> None:
        """The call used `tokens`, in detail `used`; parallel slots are given back, the request
        stays counted."""
        ...

    def release(self) -> None:
        """The call never happened: everything is given back, the request included."""
        ...


class Limiter(Protocol):
    """Counts and decides. `bind` is called once per principal and model, `reserve` per call.

    What a limiter may have beside: `reserve_now`, which is `reserve` as a plain function and saves
    time, where it never has to wait. `lines(bound)`, which is `state` as lines of a head.
    `examine(bound, tokens, demand=None)`, which raises what `reserve` would raise now and counts
    nothing, and `states(bound)`, pairs of a spec and its `MeterState`; then `explain` tells of
    limits. `abilities`, some of `ABILITIES`: without it only plain meters are bound, only
    `reserve(bound, tokens)`, `amend(tokens, extra)` and `settle(tokens)` are called, and whatever
    needs more is refused.
    With `shadow`, an attribute `in_shadow` that may be set, which is called with the spec of every
    meter in shadow mode that would have refused a call that is admitted.
    With `meters`, `bind(specs, others)` takes pairs of a spec and the `Counter` that counts it.

    A limiter that several processes share gives its reservations a `lease` (seconds): a process
    that has died gives nothing back. The gateway calls `await renew(reservations)` with all that
    are open at least three times in that time; one that was not renewed for so long has expired:
    its parallel slots are free, what it reserved otherwise stays counted as if it had been used,
    and settling or releasing it afterwards does nothing.
    """

    def bind(self, specs: Sequence[MeterSpec]) -> Any:
        """Prepare a set of meters; the result is what `reserve` takes (and may be cached)."""
        ...

    async def reserve(self, bound: Any, tokens: int, demand: Demand | None = None) -> Reservation:
        """One atomic step over all meters: 1 request, `tokens` tokens, 1 parallel call, and what
        `demand` says; without it, all tokens count as either kind, and there is no money.
        Raises `Exceeded` and counts nothing when one of them has no room."""
        ...

    def state(self, bound: Any) -> tuple[MeterState | None, MeterState | None]:
        """The tightest meter of requests, and of tokens; None where there is none."""
        ...

    async def aclose(self) -> None:
        """Release what the limiter holds."""
        ...


class Unsupported(Exception):
    """A limiter cannot count what it is asked to; the text says what and why."""


def bind(
    limiter: Limiter,
    specs: Sequence[MeterSpec],
    others: Sequence[tuple[MeterSpec, Counter]] = (),
) -> Any:
    """`limiter.bind`, with meters that others keep. Raises `Unsupported` with a sentence when the
    limiter cannot count them: a limit that is not held must not look like one that is."""
    lacking = lacking_ability(limiter, specs, others)
    if lacking:
        raise Unsupported(lacking)
    if not others:
        return limiter.bind(specs)
    bind_all: Any = limiter.bind  # it has the ability `meters`
    return bind_all(specs, others)


def lacking_ability(
    limiter: Limiter,
    specs: Sequence[MeterSpec],
    others: Sequence[tuple[MeterSpec, Counter]] = (),
) -> str:
    """What `limiter` cannot count of all that, as a sentence; "" when it can count everything."""
    able: frozenset[str] = getattr(limiter, "abilities", frozenset())
    for spec in specs:
        missing = _needs(spec) - able
        if missing:
            return (
                f"The limiter {type(limiter).__name__} cannot count {spec.id}: it lacks"
                f" {', '.join(sorted(missing))}."
            )
    if others and "meters" not in able:
        names = ", ".join(spec.id for spec, _ in others)
        return f"The limiter {type(limiter).__name__} cannot count {names}: it lacks meters."
    return ""


def _needs(spec: MeterSpec) -> frozenset[str]:
    needed = set()
    if spec.kind != "all":
        needed.add("kinds")
    if spec.shape == "bucket":
        needed.add("bucket")
    if spec.shape == "period" or spec.unit == "money":
        needed.add("meters")
    if spec.shadow:
        needed.add("shadow")
    return frozenset(needed)
