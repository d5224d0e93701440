"""The request body: decoded once and shallowly, re-encoded with only our fields replaced.

Values stay the client's own bytes (`msgspec.Raw`), so that unknown fields, number formats and
key order survive. The body is always re-encoded, never forwarded as it came: with duplicate
keys an upstream could otherwise see another value than the one that was authorised.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.domain.errors import GatewayError, invalid_request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmgw_core.domain.call import Endpoint

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text = msgspec.json.Decoder(str)
_flag = msgspec.json.Decoder(bool | None)
_count = msgspec.json.Decoder(int | None)
_options = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
_encode = msgspec.json.Encoder().encode

_EMPTY = re.compile(rb"\[\s*\]|\"\"")
_MAYBE_EMPTY = frozenset((b"]", b" ", b"\t", b"\n", b"\r", b"\v", b"\f"))
_KEY = re.compile(rb'\s*("(?:[^"\\]+|\\.)*")\s*:\s*')
_AFTER = re.compile(rb"\s*[,}]")
_BOUNDS = frozenset(("max_completion_tokens", "max_tokens", "n"))
_LARGEST = 2**53 - 1
"""The largest whole number that every reader of JSON understands (RFC 8259, section 6)."""


@lru_cache(maxsize=1024)
def _raw_text(text: str) -> msgspec.Raw:
    return msgspec.Raw(_encode(text))


_ASK_USAGE = msgspec.Raw(b'{"include_usage":true}')
_TRUE = msgspec.Raw(b"true")

_IMAGE = b"image"
_OTHER_MEDIA = (b"audio", b"video", b"file", b";base64,")
_ESCAPE = b"\\u"
"""Any word may be written with it."""
_IMAGE_PARTS = ("image_url", "input_image", "image")

BASE64_TOKENS = 1000
"""Tokens that one embedded image, sound or file is estimated at: its base64 text says nothing
about what a model makes of it."""


class RequestView:
    """A request of one of the endpoints. Treat as immutable; `replace` makes a changed one.

    `max_tokens` is the explicit bound of the output, times `n` choices; None if not given.
    `text_bytes` is the size of the input that the token estimate is made from, and
    `exact_tokens` the number of input tokens where the client sent tokens.
    """

    __slots__ = (
        "_decoded",
        "choices",
        "embedded",
        "exact_tokens",
        "fields",
        "max_tokens",
        "model",
        "stream",
        "text_bytes",
        "usage_wanted",
    )

    _decoded: dict[str, Any]

    def __init__(self, fields: dict[str, msgspec.Raw], endpoint: Endpoint) -> None:
        self.fields = fields
        raw = fields.get("model")
        if raw is None:
            raise _missing("model")
        try:
            self.model = name = _text.decode(raw)
        except msgspec.DecodeError:
            raise invalid_request("'model' must be a string.", param="model") from None
        if not name:
            raise invalid_request("'model' must not be empty.", param="model")
        self.exact_tokens: int | None = None
        self.embedded = 0
        self.stream = False
        self.usage_wanted = False
        self.max_tokens: int | None = None
        self.choices = 1
        if endpoint == "chat.completions":
            self._read_chat(fields)
        else:
            self._read_embeddings(fields)

    def _read_chat(self, fields: dict[str, msgspec.Raw]) -> None:
        raw = fields.get("messages")
        if raw is None:
            raise _missing("messages")
        messages = bytes(raw)
        if messages[:1] != b"[":
            raise invalid_request("'messages' must be an array.", param="messages")
        if messages[1:2] in _MAYBE_EMPTY and _EMPTY.match(messages):
            raise invalid_request("'messages' must not be empty.", param="messages")
        if "stream" in fields:
            self.stream = bool(_typed(_flag, fields, "stream", "a boolean"))
        if self.stream and "stream_options" in fields:
            self.usage_wanted = _usage_wanted(fields)
        if not _BOUNDS.isdisjoint(fields):
            self._read_bounds(fields)
        size = len(messages)
        if "tools" in fields:
            size += len(bytes(fields["tools"]))
        if 0x3B in messages and b";base64," in messages:  # one byte is found much faster
            size, self.embedded = _without_base64(messages, size)
        self.text_bytes = size

    def _read_bounds(self, fields: dict[str, msgspec.Raw]) -> None:
        bound = None
        for name in ("max_completion_tokens", "max_tokens"):
            if name in fields:
                value = _typed(_count, fields, name, "an integer")
                if value is not None and not 0 <= value <= _LARGEST:
                    what = "negative" if value < 0 else f"larger than {_LARGEST}"
                    raise invalid_request(f"'{name}' must not be {what}.", param=name)
                bound = value if bound is None else bound
        if "n" in fields:
            given = _typed(_count, fields, "n", "an integer")
            self.choices = 1 if given is None else given
            if not 1 <= self.choices <= _LARGEST:
                what = "at least 1" if self.choices < 1 else f"at most {_LARGEST}"
                raise invalid_request(f"'n' must be {what}.", param="n")
        if bound is not None:
            self.max_tokens = bound * self.choices

    def _read_embeddings(self, fields: dict[str, msgspec.Raw]) -> None:
        given = fields.get("input")
        if given is None:
            raise _missing("input")
        raw = bytes(given)
        if raw[:1] not in (b'"', b"["):
            raise invalid_request("'input' must be a string or an array.", param="input")
        if _EMPTY.match(raw):
            raise invalid_request("'input' must not be empty.", param="input")
        self.max_tokens = 0
        self.text_bytes = len(raw)
        if raw[:1] == b"[" and b'"' not in raw:
            # Arrays of token ids, nested or not: every number but the last has a comma behind it.
            self.exact_tokens = raw.count(b",") + 1

    def get(self, name: str) -> Any:
        """The decoded value of a field, None if absent. Decodes anew on every call. Raises
        `GatewayError` 400 for what is JSON and no value here, such as the number 1e999."""
        raw = self.fields.get(name)
        try:
            return None if raw is None else msgspec.json.decode(raw)
        except (msgspec.DecodeError, RecursionError):
            raise invalid_request(f"'{name}' holds a value out of range.", param=name) from None

    @property
    def decoded(self) -> dict[str, Any]:
        """All fields as values, decoded once: look at them, and use `replace` to change them.
        Raises `GatewayError` 400."""
        try:
            return self._decoded
        except AttributeError:  # not set before, which would cost every call
            self._decoded = {name: self.get(name) for name in self.fields}
        return self._decoded

    @property
    def images(self) -> int:
        """How many images there are in it, embedded or by address. Looked for on every call, so
        ask only where somebody wants to know."""
        raw = self._input()
        if _IMAGE not in raw and _ESCAPE not in raw:
            return 0
        try:
            return _images(msgspec.json.decode(raw))
        except (msgspec.DecodeError, RecursionError):
            return 0

    @property
    def media(self) -> bool:
        """Whether there may be sounds or images in it. As `images`; a word in a text is enough."""
        raw = self._input()
        return any(word in raw for word in (_IMAGE, *_OTHER_MEDIA, _ESCAPE))

    def _input(self) -> bytes:
        return bytes(self.fields.get("messages") or self.fields.get("input") or b"")

    def replace(self, endpoint: Endpoint, changes: Mapping[str, Any]) -> RequestView:
        """A copy with top-level fields set to new values; a value of None removes the field.
        Raises `ValueError` for another `stream`: the client reads the form that it asked for."""
        fields = dict(self.fields)
        for name, value in changes.items():
            if value is None:
                fields.pop(name, None)
            else:
                fields[name] = msgspec.Raw(_encode(value))
        changed = RequestView(fields, endpoint)
        if changed.stream is not self.stream:
            raise ValueError("whether the reply is a stream is up to the client")
        return changed

    def encode(self, model: str, ask_usage: bool = True) -> bytes:
        """The body for an upstream that calls the model `model`. Streams always ask for usage,
        unless it does not know `stream_options`: then nobody asks."""
        fields = self.fields
        asks = self.stream and not (self.usage_wanted and ask_usage)
        if asks or model != self.model:
            fields = {**fields, "model": _raw_text(model)}
        if asks:
            if ask_usage and "stream_options" not in fields:
                fields["stream_options"] = _ASK_USAGE
            else:
                self._ask(fields, ask_usage=ask_usage)
        return _encode(fields)

    @staticmethod
    def _ask(fields: dict[str, msgspec.Raw], *, ask_usage: bool) -> None:
        if not ask_usage:
            fields.pop("stream_options", None)
            return
        given = fields.get("stream_options")
        options = None if given is None else _options.decode(given)
        if options:
            options["include_usage"] = _TRUE
            # Of no effect as the client has sent it, and then usage would be in every chunk.
            options.pop("continuous_usage_stats", None)
            fields["stream_options"] = msgspec.Raw(_encode(options))
        else:
            fields["stream_options"] = _ASK_USAGE


def decode_request(body: bytes, endpoint: Endpoint) -> RequestView:
    """Decode a request body. Raises `GatewayError` 400 that names the field at fault."""
    try:
        # msgspec.Raw lets invalid UTF-8 through, hence the explicit check.
        body.decode()
        fields = _fields.decode(body)
    except UnicodeDecodeError:
        raise _bad_json("The request body is not valid UTF-8.") from None
    except RecursionError:
        raise _bad_json("The request body is nested too deeply.") from None
    except msgspec.ValidationError:
        raise _bad_json("The request body must be a JSON object.") from None
    except msgspec.DecodeError as error:
        raise _bad_json(f"The request body is not valid JSON: {error}.") from None
    # In the shortest form, the usual one, every byte is accounted for by the fields that are left.
    if len(body) != 4 * len(fields) + 1 + sum(map(len, chain(fields, fields.values()))):
        _refuse_duplicates(body, fields)
    return RequestView(fields, endpoint)


def _refuse_duplicates(body: bytes, fields: Mapping[str, msgspec.Raw]) -> None:
    """400 if `body`, a valid JSON object, has more keys than `fields`: of two values the caller
    may have meant the other one. Compares and does not decode, so that it is cheap."""
    at = body.index(b"{") + 1
    for name, raw in fields.items():
        key = _KEY.match(body, at)
        assert key is not None, "the body was valid JSON a moment ago"
        if _text.decode(key[1]) != name or not body.startswith(bytes(raw), key.end()):
            raise _given_twice(_text.decode(key[1]))
        after = _AFTER.match(body, key.end() + len(raw))
        if after is None:  # the value here only begins like the last one
            raise _given_twice(name)
        at = after.end()
    further = _KEY.match(body, at)
    if further is not None:
        raise _given_twice(_text.decode(further[1]))


def _given_twice(name: str) -> GatewayError:
    return invalid_request(f"The field '{name[:200]}' is given twice.", param=name[:200])


def _bad_json(message: str) -> GatewayError:
    return invalid_request(message, code="invalid_json")


def _missing(name: str) -> GatewayError:
    return invalid_request(f"Missing required parameter: '{name}'.", param=name)


def _typed(
    decoder: msgspec.json.Decoder[Any], fields: dict[str, msgspec.Raw], name: str, what: str
) -> Any:
    try:
        return decoder.decode(fields[name])
    except (msgspec.DecodeError, RecursionError):
        raise invalid_request(f"'{name}' must be {what}.", param=name) from None


def _usage_wanted(fields: dict[str, msgspec.Raw]) -> bool:
    options = _typed(_options, fields, "stream_options", "an object")
    if not options or "include_usage" not in options:
        return False
    try:
        return bool(_flag.decode(options["include_usage"]))
    except msgspec.DecodeError:
        raise invalid_request(
            "'stream_options.include_usage' must be a boolean.",
            param="stream_options.include_usage",
        ) from None


def _images(value: Any) -> int:
    """Parts that are images. Without recursion: requests may be nested deeply."""
    found, left = 0, [value]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            if value.get("type") in _IMAGE_PARTS:
                found += 1
            else:
                left += value.values()
    return found


def _without_base64(raw: bytes, size: int) -> tuple[int, int]:
    """Bytes of text, and the number of embedded base64 documents left out of them."""
    found = 0
    at = raw.find(b";base64,")
    while at >= 0:
        end = raw.find(b'"', at)
        size -= (end if end >= 0 else len(raw)) - at
        found += 1
        at = raw.find(b";base64,", end) if end >= 0 else -1
    return size, found
