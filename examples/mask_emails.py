"""A plugin in one file: e-mail addresses are masked before a request leaves for a model.

Name the file in the configuration, relative to it:

plugins:
  - name: mask-emails
    path: mask_emails.py
    config: {mask: "(address)"}
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from llmgw_core import Call, PluginContext, RequestView, hookimpl

ADDRESS = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*\w")


class MaskEmails:
    """One instance per gateway."""

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        mask: str = "(e-mail)"

    def __init__(self, config: Config, context: PluginContext) -> None:
        self.mask = config.mask
        self.metrics = context.metrics

    @hookimpl
    def pre_route(self, request: RequestView, call: Call) -> RequestView | None:
        if call.endpoint != "chat.completions":
            return None
        messages = request.get("messages")
        masked = [self.masked(message) for message in messages]
        if masked == messages:
            return None  # unchanged
        self.metrics.counters["requests_masked"] += 1
        return request.replace(call.endpoint, {"messages": masked})

    def masked(self, message: Any) -> Any:
        """A message with the addresses in its text masked."""
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            return message
        return {**message, "content": ADDRESS.sub(self.mask, message["content"])}
