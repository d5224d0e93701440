from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.domain.usage import NO_USAGE, AttemptRecord, Usage, UsageRecord
from llmgw_jsonlog.line import encode_line


def record(**changes: Any) -> UsageRecord:
    fields: dict[str, Any] = {
        "call_id": "call-1",
        "started_ns": 1_790_000_000_123_456_789,
        "endpoint": "chat.completions",
        "organization_id": "org-1",
        "team_id": "team-1",
        "user_id": None,
        "key_id": "key-1",
        "model": "smollm2",
        "served_model": "smollm2",
        "deployment": "smollm2/here",
        "zone": "onprem",
        "stream": True,
        "status": "completed",
        "http_status": 200,
        "error_code": "",
        "usage": Usage(12, 7, 3, 2),
        "cost": 1_500,
        "charge": 2**53 + 1,
        "currency": "EUR",
        "duration_us": 1_234_567,
        "first_content_us": 89_012,
        "attempts": (
            AttemptRecord(
                "smollm2/there", "smollm2", "timeout", 0, 1_000_000, 0, 0, "another deployment"
            ),
            AttemptRecord("smollm2/here", "smollm2", "ok", 200, 234_500, 1_500, 2**53 + 1),
        ),
        "parent": None,
    }
    return UsageRecord(**fields | changes)


def test_a_line_says_everything_about_a_call() -> None:
    line = encode_line(record(parent="call-0"))
    assert line.endswith(b"}\n")
    assert json.loads(line) == {
        "ts": "2026-09-21T14:13:20.123456Z",
        "call_id": "call-1",
        "parent": "call-0",
        "organization_id": "org-1",
        "team_id": "team-1",
        "user_id": None,
        "key_id": "key-1",
        "endpoint": "chat.completions",
        "model": "smollm2",
        "served_model": "smollm2",
        "deployment": "smollm2/here",
        "zone": "onprem",
        "stream": True,
        "status": "completed",
        "http_status": 200,
        "error_code": None,
        "input_tokens": 12,
        "output_tokens": 7,
        "cached_input_tokens": 3,
        "reasoning_tokens": 2,
        "usage_source": "provider",
        "cost_nano": 1_500,
        "charge_nano": 2**53 + 1,
        "currency": "EUR",
        "duration_ms": 1234.567,
        "first_content_ms": 89.012,
        "attempts": [
            {
                "deployment": "smollm2/there",
                "model": "smollm2",
                "outcome": "timeout",
                "http_status": 0,
                "duration_ms": 1000.0,
                "cost_nano": 0,
                "charge_nano": 0,
                "reason": "another deployment",
            },
            {
                "deployment": "smollm2/here",
                "model": "smollm2",
                "outcome": "ok",
                "http_status": 200,
                "duration_ms": 234.5,
                "cost_nano": 1_500,
                "charge_nano": 2**53 + 1,
                "reason": None,
            },
        ],
    }


def test_what_there_was_not_is_null() -> None:
    line = json.loads(
        encode_line(
            record(
                served_model="",
                deployment="",
                zone="",
                status="failed",
                http_status=503,
                error_code="unavailable",
                usage=NO_USAGE,
                first_content_us=0,
                attempts=(),
            )
        )
    )
    absent = [name for name, value in line.items() if value is None]
    assert absent == ["parent", "user_id", "served_model", "deployment", "zone", "first_content_ms"]
    assert (line["error_code"], line["usage_source"]) == ("unavailable", "none")


@given(st.text(), st.integers(0, 2**63 - 1))
def test_no_name_can_begin_a_line_of_its_own(name: str, started_ns: int) -> None:
    line = encode_line(record(model=name, started_ns=started_ns))
    assert line.count(b"\n") == 1
    assert json.loads(line)["model"] == name
