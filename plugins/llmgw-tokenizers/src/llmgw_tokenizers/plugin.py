"""The plugin: one tokenizer for each vocabulary. A vocabulary is loaded when a model names it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from llmgw_core.hooks.specs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llmgw_core.hooks.context import PluginContext

VOCABULARIES: Final = ("cl100k_base", "o200k_base", "o200k_harmony", "llama3", "qwen3")
"""What the package `quicktok-v1` carries."""


class _Encoding(Protocol):
    def count(self, text: str) -> int: ...


class Vocabulary:
    """Counts with one vocabulary. What looks like a special token is text, as it is for a model
    whose user has typed it."""

    def __init__(self, name: str) -> None:
        # Here, because it takes a moment, and only who names it needs it.
        import quicktok  # type: ignore[import-untyped]  # noqa: PLC0415

        self._encoding: _Encoding = quicktok.get_encoding(name)

    def count(self, text: str) -> int:
        """See the port."""
        try:
            return self._encoding.count(text)
        except (TypeError, UnicodeError):  # half of a surrogate pair is no text
            return self._encoding.count(text.encode("utf-8", "replace").decode())


class TokenizersPlugin:
    """Registers a tokenizer for each of `VOCABULARIES`."""

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """Nothing to configure here: models name the tokenizer that they want."""

    def __init__(self, config: Config, context: PluginContext) -> None:
        pass

    @hookimpl
    def register_tokenizers(self) -> Mapping[str, Callable[[], Vocabulary]]:
        """See the hook."""
        return {name: partial(Vocabulary, name) for name in VOCABULARIES}
