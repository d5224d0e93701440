from __future__ import annotations

from llmgw_core.domain.usage import AttemptRecord, Usage, UsageDetails
from llmgw_core.store.contributions import HOUR_NS, contributions
from llmgw_core.testing.usage_records import STARTED_NS, usage_record

HOUR = STARTED_NS // HOUR_NS
OWN = (HOUR, "org-1", "team-1", "user-1", "key-1", "", "chat.completions", "small")


def attempt(
    deployment: str, cost: int, charge: int, price: str, usage: Usage | None = None
) -> AttemptRecord:
    outcome = "ok" if usage is None else "timeout"
    return AttemptRecord(deployment, "small", outcome, 200, 1, cost, charge, "", price, usage)


def test_a_call_counts_once_under_its_last_attempt() -> None:
    record = usage_record(attempts=(attempt("small/local", 1_500, 2_500, "sheet"),))
    assert contributions([record, record]) == {
        (*OWN, "small", "small/local", "sheet"): [2, 0, 20, 10, 4, 2, *[0] * 8, 3_000, 5_000]
    }


def test_a_call_without_any_attempt_counts_too() -> None:
    record = usage_record(
        attempts=(), team_id=None, served_model="", usage=Usage(source="none"), cost=0, charge=0
    )
    (key, sums), *others = contributions([record]).items()
    assert not others
    assert key == (HOUR, "org-1", "", *OWN[3:], "", "small/local", "")
    assert sums == [1, *[0] * 15]


def test_a_failed_attempt_that_is_paid_has_its_tokens_under_its_own_sheet() -> None:
    lost = Usage(7, 3, 2, 1, "estimated", "", UsageDetails(1, 2, 3, 4, 5, 6, 7, 8))
    own = Usage(10, 5, 0, 0, "provider", "", UsageDetails(images=2))
    record = usage_record(
        usage=own.plus(lost),
        cost=30,
        charge=50,
        attempts=(attempt("small/other", 10, 20, "dear", lost), attempt("small/local", 20, 30, "")),
    )
    assert contributions([record]) == {
        (*OWN, "small", "small/local", ""): [1, 1, 10, 5, 0, 0, *[0] * 7, 2, 20, 30],
        (*OWN, "", "small/other", "dear"): [0, 0, 7, 3, 2, 1, *range(1, 9), 10, 20],
    }


def test_a_reversal_and_the_call_are_nothing() -> None:
    record = usage_record(usage=Usage(10, 5, 0, 0, "estimated"))
    taken_back = usage_record(
        call_id="call-0~r1",
        entry="reversal",
        corrects="call-0",
        usage=Usage(-10, -5, 0, 0, "estimated"),
        cost=-1_500,
        charge=-2_500,
    )
    assert contributions([record, taken_back]) == {(*OWN, "small", "small/local", ""): [0] * 16}
