"""What operators see of a running gateway and can do to it: books, tenancy, switches, rollouts,
explanations. `Gateway` is one of these.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llmgw_core.pipeline.deployment_rows import deployment_rows
from llmgw_core.statements.service import Statements
from llmgw_core.tenancy.audit_relay import AuditRelay
from llmgw_core.tenancy.brakes import Brakes
from llmgw_core.tenancy.budgeting import Budgeting
from llmgw_core.tenancy.costing import Costing
from llmgw_core.tenancy.rollouts import Rollouts
from llmgw_core.tenancy.service import Tenancy
from llmgw_core.tenancy.switching import Switching

if TYPE_CHECKING:
    from llmgw_core.foundation import Foundation
    from llmgw_core.generation import Generation
    from llmgw_core.pipeline.deployment_rows import DeploymentRow
    from llmgw_core.pipeline.explanation import Explanation, Question
    from llmgw_core.tenancy.records import AuditEntry


class Operated:
    """What lives as long as the gateway, whatever configuration it runs with."""

    def __init__(self, foundation: Foundation, generation: Generation) -> None:
        self._foundation = foundation
        self._generation = generation
        self.stats = foundation.stats
        self.health = foundation.health
        self.store = foundation.store
        self.ledger = foundation.ledger
        self.journal = foundation.journal
        self.mover = foundation.mover
        self.retention = foundation.retention
        self.principals = foundation.principals
        self.budgets = foundation.budgets
        self.budget_alerts = foundation.alerts
        self.brakes = foundation.brakes
        self.webhook = foundation.webhook
        foundation.alerts.listeners.append(self._audited)
        relay = AuditRelay(self._audited)
        foundation.control.add(relay.read, relay.apply)
        self.tenancy = Tenancy(foundation.store, clock=time.time, changed=self._audited)
        self.costing = Costing(
            foundation.store, changed=self._audited, applied=foundation.recognize_anew
        )
        self.budgeting = Budgeting(
            foundation.store, changed=self._audited, applied=foundation.spend_anew
        )
        self.braking = Brakes(
            foundation.store, changed=self._audited, applied=foundation.recognize_anew
        )
        self.rollouts = Rollouts(
            foundation.store,
            lambda: self._generation.config,
            changed=self._audited,
            applied=foundation.take_over,
        )
        foundation.taken_out.write = self.rollouts.take_out
        self.switches = Switching(
            foundation.store,
            lambda: self._generation.switchable(),  # noqa: PLW0108 -- the one of that moment
            changed=relay.changed,
            applied=foundation.take_over,
            in_use=foundation.switchboard.in_use,
        )

    @property
    def statements(self) -> Statements:
        """What cost centres pay, by the configuration of this moment."""
        config = self._generation.config
        return Statements(
            self.store,
            config.statements,
            currency=config.accounting.currency,
            journal=self.journal.root,
            why=self._generation.prices.reason,
            changed=self._audited,
        )

    async def explain(self, question: Question) -> Explanation:
        """Why a call would go where it goes: by the same plan, without making it or changing
        anything. Raises `GatewayError` for a request that is none, and `StoreUnavailable`."""
        return await self._generation.explainer.explain(question)

    def deployment_rows(self) -> list[DeploymentRow]:
        """How every configured deployment is at the moment, as routing sees it."""
        members = self._generation.roster.members.values()
        return deployment_rows(members, self._foundation.memory)

    def readiness(self) -> list[str]:
        """Why no new calls should be sent here; empty when they should. Known callers are
        served while the database is down, so that is no reason."""
        reasons = []
        if not self.journal.healthy:
            reasons.append("The journal cannot be written; no call is admitted.")
        if not self.mover.running:
            reasons.append("The journal is not being moved into the ledger.")
        return reasons

    def notices(self) -> list[str]:
        """What somebody should look into although calls are served."""
        return self.mover.notices()

    def _audited(self, entry: AuditEntry) -> None:
        host = self._generation.host
        if host.on_audit:
            host.observe_audit(entry)
