"""Parameters of the usage API, whatever is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.domain.errors import GatewayError
from llmgw_core.reports.question import DAY, HOUR, read_question

if TYPE_CHECKING:
    from llmgw_core.reports.question import Subject

NOW = 1_770_000_000
SUBJECTS = st.sampled_from(["completions", "embeddings", "costs"])
NAMES = st.sampled_from(
    [
        *("start_time", "end_time", "bucket_width", "limit", "page", "group_by", "models"),
        *("user_ids", "project_ids", "api_key_ids", "organization_ids"),
        *("batch", "line_items", "side"),
    ]
)
VALUES = (
    st.text(max_size=30)
    | st.integers().map(str)
    | st.text("0123456789", max_size=6000)
    | st.sampled_from(["1d", "1h", "true", "charge", "model", "project_id", "line_item"])
    | st.binary(max_size=9).map(lambda data: f"page_{data!r}")
)


@given(
    subject=SUBJECTS,
    query=st.lists(st.tuples(NAMES | st.text(max_size=9), VALUES), max_size=6),
    start=VALUES,
)
def test_whatever_is_written_is_a_question_or_a_refusal_that_names_the_parameter(
    subject: Subject, query: list[tuple[str, str]], start: str
) -> None:
    refusal: GatewayError | None = None
    try:
        found = read_question(subject, [("start_time", start), *query], NOW)
    except GatewayError as error:
        refusal = error
    if refusal is not None:
        assert (refusal.status, refusal.code) == (400, "invalid_request")
        assert refusal.param is not None
        assert len(refusal.message) < 300
        return
    width = found.width
    assert found.first % width.seconds == found.last % width.seconds == 0
    assert found.first <= found.page <= found.end <= found.last or found.first == found.last
    assert 1 <= found.limit <= width.most


@given(
    subject=SUBJECTS,
    start=st.integers(0, 2 * 10**9),
    seconds=st.integers(1, 400 * DAY),
    limit=st.integers(1, 31),
    hours=st.booleans(),
)
def test_pages_follow_each_other_without_a_gap(
    subject: Subject, start: int, seconds: int, limit: int, *, hours: bool
) -> None:
    width = "1h" if hours and subject != "costs" else "1d"
    query = [
        ("start_time", str(start)),
        ("end_time", str(start + seconds)),
        ("bucket_width", width),
        ("limit", str(limit)),
    ]
    found = read_question(subject, query, NOW)
    assert found.first <= start < found.first + found.width.seconds
    assert found.last - found.width.seconds < start + seconds <= found.last
    reached = found.first
    for _ in range(5):
        assert found.page == reached
        assert 0 < found.end - found.page <= limit * found.width.seconds
        reached = found.end
        if found.next_page is None:
            assert reached == found.last
            break
        found = read_question(subject, [*query, ("page", found.next_page)], NOW)


@given(values=st.lists(st.text("abcü -/", min_size=1).map(str.strip).filter(bool), max_size=5))
def test_lists_are_read_in_each_of_their_forms(values: list[str]) -> None:
    start = ("start_time", "5")
    forms = (
        [("models", value) for value in values],
        [("models[]", value) for value in values],
        [("models", ",".join(values))] if values else [],
    )
    for form in forms:
        found = read_question("completions", [start, *form], NOW)
        assert found.filters == ({"model": tuple(values)} if values else {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0000000001999999999"),
        ("limit", "0000000001" + "9" * 5000),
        ("end_time", "00000000000000000001" + "9" * 5000),
        ("end_time", "253402300799"),
        ("models", ",".join(["m"] * 1001)),
        ("page", "cGFnZV8wMDAwMDAwMDAwMDAw"),
        ("page", "ü"),
    ],
)
def test_what_looks_small_and_is_not_is_refused(name: str, value: str) -> None:
    with pytest.raises(GatewayError) as error:
        read_question("completions", [("start_time", "5"), (name, value)], NOW)
    assert error.value.param == name


def test_without_an_end_it_is_now_and_batch_jobs_are_none() -> None:
    found = read_question("completions", [("start_time", str(NOW)), ("bucket_width", "1h")], NOW)
    assert (found.first, found.last) == (NOW - NOW % HOUR, NOW - NOW % HOUR + HOUR)
    later = read_question("completions", [("start_time", str(NOW + 9 * DAY))], NOW)
    assert (later.first, later.end, later.next_page) == (later.last, later.last, None)
    assert read_question("completions", [("start_time", "5"), ("batch", "true")], NOW).nothing
