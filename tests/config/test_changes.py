"""What differs between two configurations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmgw_core.config.changes import changes
from llmgw_core.config.load import parse

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        (
            "plugins: [{name: p, config: {x: 1}}]",
            "plugins: [{name: p, config: {x: true}}]",
            "plugins.p",
        ),
        (
            "plugins: [{name: p, config: {x: 1}}]",
            "plugins: [{name: p, config: {x: 1.0}}]",
            "plugins.p",
        ),
        ("outgoing: {proxy: 'file:a'}", "outgoing: {proxy: 'file:b'}", "outgoing.proxy"),
        ("models: {m: *m, n: *m}", "models: {n: *m, m: *m}", "models"),
        (
            "plugins: [{name: p, config: {x: 1, y: 2}}]",
            "plugins: [{name: p, config: {y: 2, x: 1}}]",
            "",
        ),
    ],
)
def test_what_only_looks_the_same_is_a_change(
    tmp_path: Path, before: str, after: str, changed: str
) -> None:
    model = (
        "plugins: [{name: q, config: {d: &m {deployments: [{name: a, backend: b, zone: z}]}}}]\n"
    )
    free = "accounting: {unpriced: zero}\n"
    for name in "ab":
        (tmp_path / name).write_text("http://proxy:1")
    old, new = (
        parse(free + (model if "*m" in text else "") + text, base_dir=tmp_path, env={})
        for text in (before, after)
    )
    assert changes(old, new) == ((changed,) if changed else ())
