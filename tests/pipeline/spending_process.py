"""Makes two calls on a budget, and kills itself: `spending_process.py DIRECTORY UPSTREAM_PORT`.
Prints the id of the team."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from llmgw_core.domain.limits import Budget
from llmgw_core.testing.installation import at, install


async def main() -> None:
    """Everything."""
    directory, port = Path(sys.argv[1]), int(sys.argv[2])
    budgets = {"team_budgets": [Budget("money", 10**9, "month")]}
    async with install(directory, {"m": [at(port)]}, tenant=budgets) as here:
        for _ in range(2):
            assert (await here.client.chat("m", max_tokens=3)).status == 200
        sys.stdout.write(f"{here.tenant.team_id}\n")
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)


asyncio.run(main())
