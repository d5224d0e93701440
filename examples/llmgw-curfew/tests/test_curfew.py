"""The curfew, at night."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core import PluginContext
from llmgw_core.testing.plugins import host_of
from llmgw_curfew import CurfewPlugin

if TYPE_CHECKING:
    from pathlib import Path


def test_a_closed_model_is_denied_with_a_sentence(tmp_path: Path) -> None:
    night = PluginContext("curfew", data_dir=tmp_path, wall_clock=lambda: 3 * 3600.0)
    plugin = CurfewPlugin(CurfewPlugin.Config(model="big-model"), night)
    assert plugin.authorize("big-model") == "The model 'big-model' is closed until 6:00 UTC."
    assert plugin.authorize("small-model") is None


def test_the_gateway_accepts_the_class(tmp_path: Path) -> None:
    host_of(tmp_path, ("curfew", CurfewPlugin))
