"""What a row of the ledger costs at other prices, as two further rows. Pure: values in, values out.

A row is never edited. Where another amount comes out, a reversal takes back what is on the books
for the call, and a rebooking says the same tokens at the new price. Both have the time of the call
and ids that follow from its own, so that doing it again finds them there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from llmgw_core.domain.usage import Usage, UsageDetails

if TYPE_CHECKING:
    from llmgw_core.accounting.price_sheet import PriceSheet
    from llmgw_core.accounting.prices import PriceBook
    from llmgw_core.domain.usage import AttemptRecord, UsageRecord

_NO_DETAILS: Final = UsageDetails()
_TOKENS: Final = ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens")


class Repriced(NamedTuple):
    """`before` is what is on the books. `after` is the same at the new prices: `before` itself if
    nothing changes. `unknown`: deployments that have no price now, and keep what they had."""

    before: UsageRecord
    after: UsageRecord
    sheets: dict[str, PriceSheet]
    unknown: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Whether there is something to book."""
        return self.after is not self.before

    def entries(self, number: int) -> tuple[UsageRecord, UsageRecord]:
        """The reversal and the rebooking, the `number`th ones of the call."""
        call_id = self.before.corrects or self.before.call_id
        reversal = msgspec.structs.replace(
            negated(self.before), call_id=f"{call_id}~r{number}", entry="reversal", corrects=call_id
        )
        rebooking = msgspec.structs.replace(
            self.after, call_id=f"{call_id}~b{number}", entry="rebooking", corrects=call_id
        )
        return reversal, rebooking


def repriced(record: UsageRecord, prices: PriceBook, currency: str = "") -> Repriced:
    """`record`, which is a call or its last rebooking, at `prices` of the time of the call. They
    are in `currency` (default: in that of the record). What is booked in another one changes as a
    whole, or, where an amount of it has no price now, not at all."""
    foreign = currency not in {"", record.currency}
    attempts, sheets, unknown = [], {}, []
    for index, attempt in enumerate(record.attempts):
        failed = attempt.usage is not None
        usage = attempt.usage if failed else own_usage(record, index)
        if usage is None or usage.source == "none":
            attempts.append(attempt)
            continue
        price = prices.price(attempt.model, attempt.deployment, record.started_ns)
        if price is None:
            unknown.append(attempt.deployment)
            attempts.append(attempt)
            continue
        cost, charge, id = price.tokens_priced(usage) if failed else price.priced(usage)
        sheets[id] = price.at(usage).sheet
        new = msgspec.structs.replace(attempt, cost=cost, charge=charge, price=id)
        attempts.append(new if foreign or _differs(attempt, new) else attempt)
    pairs = list(zip(attempts, record.attempts, strict=True))
    mixed = foreign and any(new is old and (old.cost or old.charge) for new, old in pairs)
    if mixed or all(new is old for new, old in pairs):
        return Repriced(record, record, {}, tuple(unknown))
    after = msgspec.structs.replace(
        record,
        attempts=tuple(attempts),
        cost=sum(attempt.cost for attempt in attempts),
        charge=sum(attempt.charge for attempt in attempts),
        currency=currency or record.currency,
    )
    return Repriced(record, after, sheets, tuple(unknown))


def _differs(old: AttemptRecord, new: AttemptRecord) -> bool:
    """Whether there is another amount, or what had no price has one now."""
    return (old.cost, old.charge) != (new.cost, new.charge) or not old.price


def own_usage(record: UsageRecord, index: int) -> Usage | None:
    """What the attempt at `index` has used that is not paid as a failed one: only the last one can
    have used something. None if it did not."""
    last = record.attempts[-1]
    if index != len(record.attempts) - 1 or last.usage is not None:
        return None
    paid = [attempt.usage for attempt in record.attempts if attempt.usage is not None]
    usage = record.usage
    for other in paid:
        usage = _without(usage, other)
    nothing = not (usage.input_tokens or usage.output_tokens)
    if nothing and paid and not last.price:
        return None
    return usage


def _without(usage: Usage, other: Usage) -> Usage:
    details = usage.details
    if details is not None and other.details is not None:
        details = _combined(details, other.details, -1)
    changes = {name: getattr(usage, name) - getattr(other, name) for name in _TOKENS}
    return msgspec.structs.replace(usage, **changes, details=details)


def negated(record: UsageRecord) -> UsageRecord:
    """`record` with all quantities and amounts taken back."""
    attempts = tuple(
        msgspec.structs.replace(
            attempt,
            cost=-attempt.cost,
            charge=-attempt.charge,
            usage=None if attempt.usage is None else _minus(attempt.usage),
        )
        for attempt in record.attempts
    )
    return msgspec.structs.replace(
        record,
        usage=_minus(record.usage),
        cost=-record.cost,
        charge=-record.charge,
        attempts=attempts,
    )


def _minus(usage: Usage) -> Usage:
    changes = {name: -getattr(usage, name) for name in _TOKENS}
    details = None if usage.details is None else _combined(_NO_DETAILS, usage.details, -1)
    return msgspec.structs.replace(usage, **changes, details=details)


def _combined(one: UsageDetails, other: UsageDetails, sign: int) -> UsageDetails:
    return UsageDetails(
        *(getattr(one, name) + sign * getattr(other, name) for name in one.__struct_fields__)
    )
