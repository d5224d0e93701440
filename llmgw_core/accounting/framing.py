"""How records lie in a journal segment: `length | crc32 | payload`, and nothing else.

Both header fields are unsigned 32 bits, little-endian. A payload starts with the version of
the format and the kind of the record, one byte each; MessagePack follows. A header of eight
zero bytes is what preallocation leaves behind: nothing was written there yet. No I/O here.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

import msgspec

from llmgw_core.domain.usage import DeliveryRecord, UsageRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

Record = UsageRecord | DeliveryRecord

HEADER_BYTES: Final = 8

_header = Struct("<II")
_encode = msgspec.msgpack.Encoder().encode
_usage = b"\x03U"
_usage_before = b"\x02U"
"""Without what has been added at the end of records since, which has defaults."""
_delivery = b"\x01D"
_notes = b"\x01N"
_decode_usage = msgspec.msgpack.Decoder(UsageRecord).decode
_decode_delivery = msgspec.msgpack.Decoder(DeliveryRecord).decode
_decode_notes = msgspec.msgpack.Decoder(list[UsageRecord]).decode


class Unreadable(Exception):
    """An intact payload that this version cannot decode (written by a newer one)."""


class Frame(NamedTuple):
    """An intact frame: its payload and where the next frame starts."""

    payload: bytes
    end: int


def frame_of(payload: bytes) -> bytes:
    """The frame of any payload."""
    return _header.pack(len(payload), crc32(payload)) + payload


def frame_usage(record: UsageRecord) -> bytes:
    """The frame of a usage record."""
    payload = _usage + _encode(record)
    return _header.pack(len(payload), crc32(payload)) + payload


def frame_delivery(record: DeliveryRecord) -> bytes:
    """The frame of a delivery record."""
    payload = _delivery + _encode(record)
    return _header.pack(len(payload), crc32(payload)) + payload


def frame_notes(records: Sequence[UsageRecord]) -> bytes:
    """One frame of what calls that are under way would be on the books as."""
    payload = _notes + _encode(records)
    return _header.pack(len(payload), crc32(payload)) + payload


def decode_notes(payload: bytes) -> list[UsageRecord]:
    """What `frame_notes` has framed. Raises `Unreadable`."""
    if payload[:2] != _notes:
        raise Unreadable(f"version and kind {payload[:2]!r} are unknown")
    try:
        return _decode_notes(payload[2:])
    except msgspec.DecodeError as error:
        raise Unreadable(str(error)) from error


def decode(payload: bytes) -> Record:
    """The record in `payload`. Raises `Unreadable`."""
    kind = payload[:2]
    try:
        if kind in (_usage, _usage_before):
            return _decode_usage(payload[2:])
        if kind == _delivery:
            return _decode_delivery(payload[2:])
    except msgspec.DecodeError as error:
        raise Unreadable(str(error)) from error
    raise Unreadable(f"version and kind {kind!r} are unknown")


def run_of_frames(data: bytes, maximum: int) -> list[Frame]:
    """The intact frames at the beginning of `data`, at most `maximum`. Everything that is read
    from a journal comes through here, which is why `intact` is written out in it."""
    found: list[Frame] = []
    unpack, size, position = _header.unpack_from, len(data), 0
    while len(found) < maximum and size - position >= HEADER_BYTES:
        length, checksum = unpack(data, position)
        position += HEADER_BYTES
        end = position + length
        if not length or end > size:
            break
        payload = data[position:end]
        if crc32(payload) != checksum:
            break
        found.append(Frame(payload, end))
        position = end
    return found


def header(data: bytes, position: int = 0) -> tuple[int, int] | None:
    """Length and checksum at `position`; None if fewer than eight bytes are left."""
    if len(data) - position < HEADER_BYTES:
        return None
    length, checksum = _header.unpack_from(data, position)
    return length, checksum


def intact(data: bytes, position: int = 0) -> Frame | None:
    """The frame at `position` if it is there whole and its checksum holds, else None."""
    head = header(data, position)
    if head is None or not head[0]:
        return None
    start = position + HEADER_BYTES
    end = start + head[0]
    if end > len(data):
        return None
    payload = data[start:end]
    return Frame(payload, end) if crc32(payload) == head[1] else None
