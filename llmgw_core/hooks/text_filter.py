"""A stream filter for whoever cares about text only: every text of every choice goes through a
scanner of its own, and events are made of what comes out.

A scanner holds back what it is not sure of (`wire.mask.Mask` does); the rest is given out at the
end of its text at the latest, which is before the choice's `finish_reason`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llmgw_core.wire.mask import Scanner
    from llmgw_core.wire.stream_event import StreamChoice, StreamEvent

    Path = tuple[str | int, ...]

_NAMES: Final = frozenset({"role", "id", "type", "name", "index"})
"""Fields of a delta that are no text."""
_THINKING: Final = frozenset({"reasoning", "reasoning_content"})
"""Texts that end where the answer begins."""


class TextFilter:
    """A `StreamFilter`. `scanner` makes a scanner for one text: `content`, the reasoning, a
    refusal, the arguments of one tool call, and whatever other text a delta has. `only` names
    the fields of the delta that are looked at, if not all of them."""

    def __init__(
        self, scanner: Callable[[], Scanner], *, only: frozenset[str] | None = None
    ) -> None:
        self._make = scanner
        self._only = only
        self._scanners: dict[tuple[int, Path], Scanner] = {}
        self._last: StreamEvent | None = None

    def feed(self, event: StreamEvent) -> list[StreamEvent]:
        """See `StreamFilter`."""
        if not event.choices:
            return [event]
        self._last = event
        out: list[StreamEvent] = []
        changed = event
        for choice in event.choices:
            changes, ended = self._scan(choice)
            out += [event.saying(choice.index, rest) for rest in ended]
            if changes:
                changed = changed.with_delta(choice.index, changes)
        if changed is event or not _vacuous(changed):
            out.append(changed)
        return out

    def finish(self) -> list[StreamEvent]:
        """See `StreamFilter`: what is left of texts whose choice was never finished."""
        last, scanners = self._last, self._scanners
        if last is None:
            return []
        left = [(index, path, scanner.end()) for (index, path), scanner in scanners.items()]
        scanners.clear()
        return [last.saying(index, _nested(path, text)) for index, path, text in left if text]

    def _scan(self, choice: StreamChoice) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """What the scanners change in the delta, and deltas to be said before it: of texts that
        end with this event and do not occur in it."""
        over = _ends(choice)
        seen: set[Path] = set()
        changes = {}
        for name, value in (choice.delta or {}).items():
            if name in _NAMES or (self._only is not None and name not in self._only):
                continue
            after = self._through(choice.index, (name,), value, over(name), seen)
            if after != value:
                changes[name] = after
        return changes, list(self._rest(choice.index, over, seen))

    def _rest(
        self, index: int, over: Callable[[str], bool], seen: set[Path]
    ) -> Iterator[dict[str, Any]]:
        for key in list(self._scanners):
            path = key[1]
            if key[0] == index and path not in seen and over(str(path[0])):
                text = self._scanners.pop(key).end()
                if text:
                    yield _nested(path, text)

    def _through(
        self, index: int, path: Path | None, value: Any, over: bool, seen: set[Path]
    ) -> Any:
        """A value after the scanners. `path` None: texts in it are whole."""
        if isinstance(value, str):
            return self._text(index, path, value, over, seen)
        if isinstance(value, dict):
            return {
                name: inner
                if name in _NAMES
                else self._through(index, path and (*path, name), inner, over, seen)
                for name, inner in value.items()
            }
        if isinstance(value, list):
            return [self._item(index, path, item, over, seen) for item in value]
        return value

    def _item(self, index: int, path: Path | None, item: Any, over: bool, seen: set[Path]) -> Any:
        """Items that say which one they are go on in later events; others are whole."""
        number = item.get("index") if isinstance(item, dict) else None
        further = (*path, number) if path is not None and isinstance(number, int) else None
        return self._through(index, further, item, over, seen)

    def _text(self, index: int, path: Path | None, text: str, over: bool, seen: set[Path]) -> str:
        if path is None:
            scanner = self._make()
            return scanner.push(text) + scanner.end()
        seen.add(path)
        key = (index, path)
        if key not in self._scanners:
            self._scanners[key] = self._make()
        scanner = self._scanners[key]
        out = scanner.push(text)
        if over:
            del self._scanners[key]
            out += scanner.end()
        return out


def _ends(choice: StreamChoice) -> Callable[[str], bool]:
    """Which texts of the choice, named by their field, end with this event."""
    delta = choice.delta or {}
    if choice.finish_reason:
        return lambda _: True
    if delta.get("content") or delta.get("tool_calls"):
        return _THINKING.__contains__
    return lambda _: False


def _vacuous(event: StreamEvent) -> bool:
    """Nothing but empty texts: what was in it is held."""
    if event.usage is not None or event.substantial:
        return False
    return not any((choice.delta or {}).get("role") for choice in event.choices)


def _nested(path: Path, text: str) -> dict[str, Any]:
    """The delta with `text` at `path`; numbers are the `index` of an item of a list."""
    value: Any = text
    for part in reversed(path):
        value = [{"index": part, **value}] if isinstance(part, int) else {part: value}
    found: dict[str, Any] = value
    return found
