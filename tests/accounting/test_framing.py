from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.accounting import framing
from llmgw_core.accounting.framing import Record, Unreadable
from llmgw_core.domain.usage import AttemptRecord, DeliveryRecord, Usage, UsageRecord
from llmgw_core.testing.usage_records import usage_record

counts = st.integers(min_value=0, max_value=2**53)
texts = st.text(st.characters(codec="utf-8"), max_size=40)
usage_records = st.builds(
    UsageRecord,
    call_id=texts,
    started_ns=counts,
    endpoint=texts,
    organization_id=texts,
    team_id=st.none() | texts,
    user_id=st.none() | texts,
    key_id=st.none() | texts,
    model=texts,
    served_model=texts,
    deployment=texts,
    zone=texts,
    stream=st.booleans(),
    status=st.sampled_from(["completed", "incomplete", "client_left", "failed", "refused"]),
    http_status=st.integers(0, 599),
    error_code=texts,
    usage=st.builds(Usage, counts, counts, counts, counts, st.sampled_from(["provider", "none"])),
    cost=st.integers(-(10**18), 10**18),
    charge=st.integers(0, 10**18),
    currency=texts,
    duration_us=counts,
    first_content_us=counts,
    attempts=st.lists(
        st.builds(AttemptRecord, texts, texts, texts, counts, counts, counts, counts), max_size=3
    ).map(tuple),
)
delivery_records = st.builds(
    DeliveryRecord, call_id=texts, status=st.just("client_left"), duration_us=counts
)


def frame(record: Record) -> bytes:
    if isinstance(record, UsageRecord):
        return framing.frame_usage(record)
    return framing.frame_delivery(record)


@given(usage_records | delivery_records)
def test_a_record_comes_back_from_its_frame_as_it_was(record: Record) -> None:
    data = frame(record)
    found = framing.intact(data)
    assert found is not None
    assert found.end == len(data)
    assert framing.decode(found.payload) == record


@given(delivery_records, st.data())
def test_no_flipped_byte_and_no_cut_leaves_a_frame_intact(
    record: DeliveryRecord, data: st.DataObject
) -> None:
    whole = frame(record)
    position = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[position] ^= data.draw(st.integers(1, 255))
    assert framing.intact(bytes(flipped)) is None
    assert framing.intact(whole[:position]) is None


def test_zeros_are_no_frame() -> None:
    assert framing.intact(bytes(64)) is None
    assert framing.header(bytes(64), 60) is None


@pytest.mark.parametrize(
    "payload",
    [b"\x01U" + msgspec.msgpack.encode([]), b"\x01X", b"\x02U\x90", b"\x01D\xc1", b"\x01"],
)
def test_what_a_newer_version_wrote_is_told_apart_from_damage(payload: bytes) -> None:
    with pytest.raises(Unreadable):
        framing.decode(payload)


def test_attempts_that_were_written_without_a_reason_are_read() -> None:
    attempt = AttemptRecord("m/a", "m", "server", 500, 1, 2, 3, reason="another deployment")
    record = usage_record(attempts=(attempt,))
    written = msgspec.to_builtins(record)
    place = UsageRecord.__struct_fields__.index("attempts")
    written[place] = [list(each)[:7] for each in written[place]]
    found = framing.decode(b"\x02U" + msgspec.msgpack.encode(written))
    assert isinstance(found, UsageRecord)
    assert found.attempts == (msgspec.structs.replace(attempt, reason=""),)
