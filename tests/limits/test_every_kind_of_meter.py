"""Done when: for any interleaving no meter is above its limit by more than the stated bound, none
leaks, all return to zero: over all units, kinds and shapes."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from llmgw_core.limits.memory import MemoryLimiter
from llmgw_core.testing.limiter_kinds_machine import KindsMachine

EXAMPLES = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


class Machine(KindsMachine):
    make = staticmethod(MemoryLimiter)


def test_no_interleaving_breaks_a_limit_or_leaks() -> None:
    run_state_machine_as_test(Machine, settings=EXAMPLES)
