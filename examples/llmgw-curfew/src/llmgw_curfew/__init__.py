"""Closes a model until an hour of the day."""

import msgspec

from llmgw_core import PluginContext, hookimpl


class CurfewPlugin:
    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        model: str = ""
        until: int = 6

    def __init__(self, config: Config, context: PluginContext) -> None:
        self.config = config
        self.clock = context.wall_clock

    @hookimpl
    def authorize(self, model: str) -> str | None:
        hour = self.clock() // 3600 % 24
        if model == self.config.model and hour < self.config.until:
            return f"The model '{model}' is closed until {self.config.until}:00 UTC."
        return None
