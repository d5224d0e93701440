"""What stands against the closing of a statement, as sentences that name it. Pure, but for the
question to the ledger what of the journals it has already.
"""

from __future__ import annotations

import datetime as dt
import itertools
from typing import TYPE_CHECKING, Final

from llmgw_core.statements.errors import StatementError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from llmgw_core.accounting.price_sheet import PriceSheet
    from llmgw_core.statements.backlog import Backlog
    from llmgw_core.statements.composing import Books
    from llmgw_core.statements.records import Check, Statement

    Why = Callable[[str, str, int], str]
    """Model, deployment and instant → why there is no price, "" if that is not known."""

_NAMED: Final = 5


class NotClosed(StatementError):
    """`reasons`: what stands against it, a sentence each."""

    def __init__(self, period: str, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        listed = "\n".join(f"- {reason}" for reason in reasons)
        super().__init__(f"The statement of {period} cannot be closed:\n{listed}")


def too_early(statement: Statement, now_ns: int, grace: float) -> Iterable[str]:
    """The period is not over, or calls of it may still run."""
    if now_ns < statement.end_ns:
        yield f"{statement.period} is not over; it ends {statement.span.end}."
    elif now_ns < (ready := statement.end_ns + int(grace * 1e9)):
        moment = dt.datetime.fromtimestamp(ready / 1e9, dt.UTC).strftime("%Y-%m-%dT%H:%MZ")
        yield (
            f"Calls of {statement.period} may still run; it can be closed from {moment} on"
            " (statements.grace)."
        )


def still_open(statement: Statement, others: Iterable[Statement]) -> Iterable[str]:
    """Months are closed in their order."""
    for other in others:
        before = other.scope == statement.scope and other.start_ns < statement.start_ns
        if before and not other.closed:
            yield f"The statement of {other.period} is still open; close that one first."


def on_the_way(found: Iterable[Backlog], booked: Iterable[str]) -> Iterable[str]:
    """Calls that lie in journals, or were refused, and are not on the books."""
    known = set(booked)
    for each in found:
        missing = [call for call in each.calls if call not in known]
        if missing and not each.journal:
            yield (
                f"The ledger has refused {_some(missing, 'call')}, which nobody has billed:"
                f" {_listed(missing)}. `llmgw-server refused` shows them, and `--retry` books what"
                " can be booked; write off the rest by moving that file away."
            )
        elif missing:
            yield (
                f"{_some(missing, 'call')} of the period lie in the journal {each.journal} and are"
                f" not in the ledger: {_listed(missing)}. A gateway that runs moves them within"
                " seconds; start one, or see why it does not."
            )


def without_price(
    statement: Statement, books: Iterable[Books], sheets: Mapping[str, PriceSheet], why: Why
) -> Iterable[str]:
    """Usage that nobody has priced, and prices that nobody can explain; of closed months as well,
    where it can only have come later: it would be billed at nothing."""
    found: dict[tuple[str, str], list[int]] = {}
    lost: dict[str, str] = {}
    for group in itertools.chain.from_iterable(each.groups for each in books):
        sums = group.sums
        tokens = sums["input_tokens"] + sums["output_tokens"] + sums["images"]
        if not group.price and tokens and not (sums["cost"] or sums["charge"]):
            counted = found.setdefault((group.model, group.deployment), [0, 0])
            counted[0] += sums["calls"]
            counted[1] += tokens
        elif group.price and group.price not in sheets:
            lost[group.price] = group.model
    for (model, deployment), (calls, tokens) in sorted(found.items()):
        instants = (statement.start_ns, statement.end_ns - 1)
        reason = next(filter(None, (why(model, deployment, at_ns) for at_ns in instants)), "")
        yield (
            f"There is no price for {_count(calls, 'call')} with {tokens:,} tokens on {deployment}"
            f"{f' ({reason})' if reason else ''}. Give the model {model} a price, 0 if it is free,"
            " and price that time anew (`llmgw-server reprice`)."
        )
    for price, model in sorted(lost.items()):
        yield f"The price sheet {price} of the model {model} is not in the database any more."


def does_not_add_up(checks: Iterable[Check]) -> Iterable[str]:
    """Lines and ledger differ by more than rounding: a mistake in the gateway."""
    for check in checks:
        if not check.holds:
            yield f"The lines about {check.period} do not add up to the ledger; report this."


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _some(found: Sequence[str], what: str) -> str:
    return _count(len(found), what)


def _listed(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _NAMED:,} more" if len(ids) > _NAMED else ""
    return ", ".join(ids[:_NAMED]) + more
