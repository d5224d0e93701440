"""When an upstream does what: by request, by share, for ever.

    Scenario(requests=("429-seconds", "reset"), always="ok")
    Scenario(share={"503": 0.1, "stall": 0.02}, seed=7)

The first requests take `requests` in turn; each one after that draws from `share`, and what is
left of it is `always`. The draws come from a generator with `seed`: the same again every time.
"""

from __future__ import annotations

import random

import msgspec

from llmgw_core.testing.faults.catalog import OK, REFUSE, Fault, fault


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`share`: fault → probability. Raises `ValueError` with a sentence for what makes no
    sense."""

    requests: tuple[str, ...] = ()
    always: str = OK
    share: dict[str, float] = {}
    seed: int = 0
    summary: str = ""

    def __post_init__(self) -> None:
        for name in (*self.requests, *self.share, self.always):
            fault(name)
        if REFUSE in self.requests or REFUSE in self.share:
            raise ValueError(
                f"'{REFUSE}' holds for a whole server, since what is refused cannot be counted:"
                f" write always: {REFUSE}"
            )
        if any(not 0 <= value <= 1 for value in self.share.values()) or self._sum() > 1 + 1e-9:
            raise ValueError("the values of 'share' are probabilities: 0 to 1, together at most 1")

    def _sum(self) -> float:
        return sum(self.share.values())


SCENARIOS = {
    "ok": Scenario(summary="nothing is wrong"),
    "down": Scenario(always=REFUSE, summary="nobody listens"),
    "hanging": Scenario(always="stall", summary="connections are accepted, nothing is answered"),
    "throttled": Scenario(
        share={"429-seconds": 0.3, "429-ms": 0.1, "429-reset": 0.1},
        summary="half of the requests get 429, with the usual headers",
    ),
    "overloaded": Scenario(
        share={"503": 0.3, "529": 0.1, "slow-first-token": 0.3},
        summary="busy: 503, 529, slow first tokens",
    ),
    "flaky": Scenario(
        share={"reset": 0.04, "500": 0.04, "503": 0.04, "html-502": 0.02, "close-after-head": 0.02},
        summary="one request of six fails in one way or another",
    ),
    "cutting": Scenario(
        share={"reset-late": 0.1, "close-late": 0.1, "error-event-late": 0.1},
        summary="three of ten streams are cut after their first words",
    ),
    "starting": Scenario(
        requests=("503", "503", "reset", "stall-after-head", "slow-first-token"),
        summary="five bad requests, then all is well",
    ),
    "dead-key": Scenario(always="401", summary="the key is not accepted any more"),
}
"""Ready ones, by name."""


class Draws:
    """What is due in a scenario, request after request."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self._random = random.Random(scenario.seed)  # noqa: S311 - to be repeated, not to be secret
        self._number = 0
        self._due: Fault | None = None

    def due(self) -> Fault:
        """What the next request meets; asking changes nothing."""
        if self._due is None:
            self._due = fault(self._drawn())
        return self._due

    def take(self) -> Fault:
        """What this request meets."""
        due, self._due = self.due(), None
        self._number += 1
        return due

    def _drawn(self) -> str:
        scenario = self.scenario
        if self._number < len(scenario.requests):
            return scenario.requests[self._number]
        value = self._random.random() if scenario.share else 1.0
        for name, share in scenario.share.items():
            value -= share
            if value < 0:
                return name
        return scenario.always
