"""One structured line of JSON per call: who, what, where, how long and how much; no prompts."""

from llmgw_jsonlog.plugin import JsonLogPlugin

__all__ = ["JsonLogPlugin"]
