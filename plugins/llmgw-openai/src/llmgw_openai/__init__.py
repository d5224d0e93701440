"""The backend `openai`: every upstream that speaks OpenAI's API."""

from llmgw_openai.plugin import OpenAIPlugin

__all__ = ["OpenAIPlugin"]
