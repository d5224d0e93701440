from __future__ import annotations

import contextlib
import os
import sys
from itertools import accumulate
from typing import TYPE_CHECKING
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmgw_core.accounting import framing, segments
from llmgw_core.domain.usage import DeliveryRecord
from llmgw_core.testing.usage_records import usage_record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llmgw_core.accounting.framing import Record

RECORDS: list[Record] = [
    usage_record(1),
    DeliveryRecord("call-1", "client_left", 5),
    usage_record(2),
    usage_record(3, model="m" * 300),
    usage_record(4),
]
FRAMES = [
    framing.frame_delivery(record)
    if isinstance(record, DeliveryRecord)
    else framing.frame_usage(record)
    for record in RECORDS
]
WRITTEN = b"".join(FRAMES)
ENDS = list(accumulate(len(frame) for frame in FRAMES))
SIZE = 8192

shared_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def segment(folder: Path, data: bytes) -> Path:
    path = folder / "00000000.segment"
    path.write_bytes(data)
    return path


def padded(data: bytes) -> bytes:
    return data.ljust(SIZE, b"\0")


def is_part_of(part: Sequence[Record], whole: Sequence[Record]) -> bool:
    remaining = iter(whole)
    return all(record in remaining for record in part)


def test_what_was_written_is_read_in_order_and_ends_at_the_zero_tail(tmp_path: Path) -> None:
    path = segment(tmp_path, padded(WRITTEN))
    assert list(segments.read(path)) == list(zip(RECORDS, ENDS, strict=True))
    batch = segments.read_batch(path, 0)
    assert (batch.offset, batch.finished, batch.damage) == (SIZE, True, [])


def test_reading_goes_on_from_any_offset_it_gave(tmp_path: Path) -> None:
    path = segment(tmp_path, padded(WRITTEN))
    for index, (_, end) in enumerate(segments.read(path)):
        assert [record for record, _ in segments.read(path, end)] == RECORDS[index + 1 :]


def test_a_batch_is_no_larger_than_asked_for(tmp_path: Path) -> None:
    path = segment(tmp_path, padded(WRITTEN))
    batch = segments.read_batch(path, 0, maximum=2)
    assert (batch.records, batch.offset, batch.finished) == (RECORDS[:2], ENDS[1], False)


def test_a_limit_hides_what_the_writer_has_not_finished(tmp_path: Path) -> None:
    path = segment(tmp_path, padded(WRITTEN))
    batch = segments.read_batch(path, 0, limit=ENDS[2])
    assert (batch.records, batch.offset, batch.finished) == (RECORDS[:3], ENDS[2], True)
    assert not batch.damage


@shared_file
@given(st.integers(0, len(WRITTEN)), st.booleans())
def test_any_cut_leaves_a_prefix_of_the_records(tmp_path: Path, cut: int, tail: bool) -> None:
    data = WRITTEN[:cut]
    path = segment(tmp_path, padded(data) if tail else data)
    batch = segments.read_batch(path, 0)
    assert batch.records == RECORDS[: sum(end <= cut for end in ENDS)]
    assert batch.finished
    # A cut inside a record is noticed, at least one that left more than zeros.
    assert bool(batch.damage) == (cut not in {0, *ENDS})


@shared_file
@given(st.integers(0, len(WRITTEN) - 1), st.integers(1, 255))
def test_a_flipped_byte_never_makes_a_wrong_record_and_is_never_silent(
    tmp_path: Path, position: int, mask: int
) -> None:
    data = bytearray(padded(WRITTEN))
    data[position] ^= mask
    batch = segments.read_batch(segment(tmp_path, bytes(data)), 0)
    assert is_part_of(batch.records, RECORDS)
    hit = sum(end <= position for end in ENDS)
    assert batch.records[:hit] == RECORDS[:hit]
    assert len(batch.records) < len(RECORDS)
    assert batch.damage


def test_a_record_with_a_damaged_payload_is_the_only_one_lost(tmp_path: Path) -> None:
    data = bytearray(padded(WRITTEN))
    data[ENDS[1] + 20] ^= 1
    batch = segments.read_batch(segment(tmp_path, bytes(data)), 0)
    assert batch.records == [*RECORDS[:2], *RECORDS[3:]]
    assert batch.damage == [segments.Damage(ENDS[1], ENDS[2], "corrupt")]


def test_a_torn_last_record_is_told_from_a_corrupt_one(tmp_path: Path) -> None:
    torn = segments.read_batch(segment(tmp_path, padded(WRITTEN[:-10])), 0)
    assert [damage.kind for damage in torn.damage] == ["torn"]
    beyond = bytearray(padded(WRITTEN[:-10]))
    beyond[-1] = 1
    corrupt = segments.read_batch(segment(tmp_path, bytes(beyond)), 0)
    assert [damage.kind for damage in corrupt.damage] == ["corrupt"]
    assert corrupt.records == torn.records == RECORDS[:-1]


def test_something_behind_a_hole_of_zeros_is_reported(tmp_path: Path) -> None:
    data = FRAMES[0] + bytes(16) + FRAMES[2]
    batch = segments.read_batch(segment(tmp_path, padded(data)), 0)
    assert batch.records == RECORDS[:1]
    assert batch.damage == [segments.Damage(ENDS[0], SIZE, "corrupt")]


def test_a_record_of_a_newer_version_is_stepped_over_and_reported(tmp_path: Path) -> None:
    newer = bytearray(framing.frame_delivery(DeliveryRecord("call-1", "failed", 1)))
    newer[8] = 2
    newer[4:8] = crc32(newer[8:]).to_bytes(4, "little")
    batch = segments.read_batch(segment(tmp_path, padded(bytes(newer) + FRAMES[0])), 0)
    assert batch.records == RECORDS[:1]
    assert batch.damage == [segments.Damage(0, len(newer), "unreadable")]


def test_records_larger_than_the_window_are_read(tmp_path: Path) -> None:
    large = usage_record(9, model="m" * (2 * segments.WINDOW_BYTES))
    data = FRAMES[0] + framing.frame_usage(large) + FRAMES[2]
    path = segment(tmp_path, data + bytes(1000))
    assert [record for record, _ in segments.read(path)] == [RECORDS[0], large, RECORDS[2]]
    damaged = bytearray(data)
    damaged[ENDS[0] + 100] ^= 1
    batch = segments.read_batch(segment(tmp_path, bytes(damaged[:-1])), 0)
    assert batch.records == RECORDS[:1]
    assert [damage.kind for damage in batch.damage] == ["corrupt"]


def test_more_records_than_a_window_holds_are_all_read(tmp_path: Path) -> None:
    count = 3 * segments.WINDOW_BYTES // len(FRAMES[0])
    path = segment(tmp_path, FRAMES[0] * count + bytes(2 * segments.WINDOW_BYTES))
    batch = segments.read_batch(path, 0, maximum=10**6)
    assert (len(batch.records), batch.damage) == (count, [])
    assert sum(1 for _ in segments.read(path)) == count


def test_a_segment_that_cannot_be_allocated_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "1.segment"
    with pytest.raises(OSError, match=r"large|space|argument|overflow"):
        segments.create(path, 2**62)
    assert not path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="about file systems of Linux")
def test_a_segment_is_memory_only_where_allocated_space_is_sure(
    tmp_path: Path, small_disk: Path
) -> None:
    with contextlib.ExitStack() as stack:
        for place in (tmp_path, small_disk):
            fd = segments.create(place / "a", 4096)
            stack.callback(os.close, fd)
            memory = segments.mapped(fd, 4096)
            if memory is not None:
                memory[10:13] = b"abc"
                assert os.pread(fd, 5, 9) == b"\0abc\0"
                memory.close()
        # On no mounted file system, and larger than the file.
        nowhere = os.memfd_create("segment")
        stack.callback(os.close, nowhere)
        assert segments.mapped(nowhere, 4096) is None
        assert segments.mapped(fd, 2**40) is None
    assert memory is not None
