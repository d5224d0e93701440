"""The gateway's own queue keeps the contract of all queues."""

from __future__ import annotations

from llmgw_core.routing.queue_fair import FairQueue
from llmgw_core.testing.queue_suite import QueueSuite


class TestFairQueue(QueueSuite):
    def make(self) -> FairQueue:
        return FairQueue()
