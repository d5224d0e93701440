"""Tokenizers whose vocabularies are installed with them: nothing is downloaded."""

from llmgw_tokenizers.plugin import TokenizersPlugin

__all__ = ["TokenizersPlugin"]
