"""Everything that settlement writes to, and the list of what is under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.pipeline.settlement import Settlement
from llmgw_core.pipeline.unpriced import Unpriced

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.accounting.journal import Journal
    from llmgw_core.accounting.prices import PriceBook
    from llmgw_core.hooks.host import PluginHost
    from llmgw_core.limits.brake_book import BrakeBook
    from llmgw_core.limits.budget_book import BudgetBook
    from llmgw_core.limits.estimate import TokenEstimator
    from llmgw_core.limits.port import Reservation
    from llmgw_core.pipeline.estimates import Estimates
    from llmgw_core.pipeline.exchange import Exchange
    from llmgw_core.pipeline.noting import Noting
    from llmgw_core.pipeline.stats import Stats


class Books:
    """Everything that settlement writes to; one per gateway."""

    def __init__(
        self,
        *,
        prices: PriceBook,
        journal: Journal,
        estimator: TokenEstimator,
        estimates: Estimates,
        stats: Stats,
        host: PluginHost,
        clock: Callable[[], float],
        currency: str,
        budgets: BudgetBook,
        brakes: BrakeBook,
        noting: Noting,
    ) -> None:
        self.prices = prices
        self.journal = journal
        self.estimator = estimator
        self.estimates = estimates
        self.stats = stats
        self.host = host
        self.clock = clock
        self.currency = currency
        self.budgets = budgets
        self.open: dict[Settlement, Exchange] = {}
        """What has been admitted and not settled."""
        self.brakes = brakes
        self.noting = noting
        self.unnoted: dict[Settlement, None] = {}
        """What has to be noted, or noted anew, as soon as its request has been sent."""
        self.unpriced = Unpriced(prices, stats, clock)
        stats.books.add(self)

    def admit(self, exchange: Exchange, reservation: Reservation, input_tokens: int) -> Settlement:
        """From now on the call is on the books."""
        settlement = Settlement(self, exchange.call, reservation, input_tokens)
        self.open[settlement] = exchange
        if self.noting.asleep:
            self.noting.wake()
        self.stats.in_flight += 1
        return settlement

    def await_note(self, settlement: Settlement) -> None:
        """It is to be noted when its request has been sent."""
        settlement.noted = -1.0
        self.unnoted[settlement] = None

    def close(self) -> None:
        """The journal is about to be closed: settle what is still under way."""
        for settlement in tuple(self.open):
            settlement.interrupted()
