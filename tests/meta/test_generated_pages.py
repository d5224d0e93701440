"""The reference is made from the code; whatever the code comes to say, it can be made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from llmgw_core.config import schema_health, schema_routing, schema_streams

if TYPE_CHECKING:
    from pathlib import Path

MAKE = (
    "import json, generate\n"
    "print(json.dumps({name: make() for name, make in generate.PAGES.items()}))"
)
SECTIONS = (
    schema_routing.RoutingConfig,
    schema_routing.StreamTimeoutsConfig,
    schema_routing.TreatmentConfig,
    schema_health.BreakerConfig,
    schema_health.ProbesConfig,
    schema_streams.StreamsConfig,
    schema_streams.OverloadConfig,
)
LINK = "](../../examples/"


@pytest.fixture(scope="module")
def pages(repository: Path) -> dict[str, str]:
    made = subprocess.run(
        [sys.executable, "-c", MAKE],
        cwd=repository / "docs",
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(repository), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    found: dict[str, str] = json.loads(made.stdout)
    return found


def test_every_key_of_the_routing_rules_is_in_the_reference(pages: dict[str, str]) -> None:
    text = pages["reference/configuration.md"]
    for struct in SECTIONS:
        for name in struct.__struct_fields__:
            assert f"`{name}`" in text, name


def test_every_new_command_is_in_the_reference(pages: dict[str, str]) -> None:
    text = pages["reference/command-line.md"]
    for command in (
        "faults",
        "explain",
        "switch off",
        "models canary start",
        "calls tail",
        "statement close",
        "top",
    ):
        assert f"llmgw-server {command}\n" in text, command


def test_pages_link_to_nothing_that_the_site_does_not_have(repository: Path) -> None:
    found = [path.name for path in repository.glob("docs/**/*.md") if LINK in path.read_text()]
    assert found == []
