"""The typed section `budgets`: who hears of budgets. What they are is data of the tenants."""

from __future__ import annotations

import msgspec


class BudgetsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`webhook`: a URL that is told (POST, JSON) when a budget comes to one of its alerts, and when
    a call is refused for the first time in a period. With `webhook_secret`, at least 16 characters,
    the header `x-llmgw-signature` proves who says so. What could not be delivered is tried again
    `webhook_attempts` times in all, at growing intervals; `webhook_timeout` (seconds) bounds one
    attempt. `reply_headers`: replies say what is left of the callers' budgets."""

    webhook: str = ""
    webhook_secret: str = ""
    webhook_timeout: float = 10.0
    webhook_attempts: int = 6
    reply_headers: bool = False

    def __repr__(self) -> str:
        """Without the address and the secret."""
        return f"BudgetsConfig(reply_headers={self.reply_headers!r})"
