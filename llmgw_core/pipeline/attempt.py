"""An attempt on the books: what is known of it while it runs, and what is told at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.domain.call import State
from llmgw_core.domain.usage import AttemptRecord, EndedAttempt

if TYPE_CHECKING:
    from llmgw_core.accounting.prices import Price
    from llmgw_core.backends.port import StreamReader
    from llmgw_core.domain.deployment import Deployment
    from llmgw_core.domain.reply import Reply
    from llmgw_core.domain.usage import Usage
    from llmgw_core.routing.caps import CapTicket


class Attempt(State):
    """The attempt that runs now. `sent`: a request may have reached the upstream, so its input
    counts as used even if nothing comes back; `reader` knows what a stream has produced,
    `answer` is a complete reply that plugins look at before it is delivered. `price` is what holds
    at the time of the call. `caps` is what it holds of the caps of its deployment."""

    deployment: Deployment
    price: Price | None
    started: float
    caps: CapTicket | None
    sent: bool = False
    reader: StreamReader | None = None
    answer: Reply | None = None

    def interim(self, usage: Usage, now: float) -> AttemptRecord:
        """Its record, if the process ended at `now` and it had used `usage`."""
        cost = charge = 0
        sheet = ""
        if usage.source != "none" and self.price is not None:
            cost, charge, sheet = self.price.priced(usage)
        deployment, duration = self.deployment, int((now - self.started) * 1e6)
        return AttemptRecord(
            deployment.id,
            deployment.model,
            "interrupted",
            500,
            duration,
            cost,
            charge,
            "",
            sheet,
        )


def ended(call_id: str, number: int, record: AttemptRecord) -> EndedAttempt:
    """What observers hear of an attempt."""
    return EndedAttempt(
        call_id,
        number,
        record.deployment,
        record.model,
        record.outcome,
        record.status,
        record.duration_us,
        record.cost,
        record.charge,
        record.reason,
    )
