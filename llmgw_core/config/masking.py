"""The effective configuration for people to read: defaults filled in, references (`${NAME}`,
`file:PATH`) as they were written, secrets that stand in the file itself masked.

Plugins call their keys what they like, so this masks rather too much than too little.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmgw_core.config.document import read_document
from llmgw_core.config.errors import join
from llmgw_core.config.secrets import relaxed

if TYPE_CHECKING:
    from llmgw_core.config.load import ConfigFile

MASK: Final = "********"

_WORDS: Final = (
    "(?:secret|password|passwd|passphrase|pwd|token|credential|authorization|cookie|dsn|key)s?"
)
_SECRET_KEY: Final = re.compile(rf"(?i){_WORDS}$")
_HEADERS: Final = re.compile(r"(?i)headers$")
_NO_SECRET: Final = re.compile(
    r"(?:^|\.)(?:tls\.key|client_key|auth_header|failures\.credentials|stream\.first_token)$"
)
_COUNTED: Final = re.compile(r"(?i)tokens$")
_REFERENCE: Final = re.compile(r"file:.+|(?:(?:Bearer|Basic) )?(?:\$\{[^}]*\})+")
_USER: Final = re.compile(r"(?<=://)(?:([^/\s?#:]*):)?([^/\s?#]+)(?=@)")
_QUERY: Final = re.compile(rf"(?i)([?&][^=&\s]*{_WORDS}=)([^&\s#]+)")
_OPTION: Final = re.compile(rf"(?i)(--?[\w-]*{_WORDS})(?:[= ](.+))?")


def effective(file: ConfigFile) -> dict[str, Any]:
    """What holds when `file` is loaded."""
    values = msgspec.to_builtins(file.config, builtin_types=(Decimal,), enc_hook=str)
    shown = _shown(values, read_document(file.text), "", "", secret=False)
    assert isinstance(shown, dict)
    return shown


def _shown(value: Any, written: Any, path: str, key: str, *, secret: bool) -> Any:
    """`value`, which came of what is `written` at `path`; `secret`: below a key that says so."""
    if not secret and _SECRET_KEY.search(key) and not _NO_SECRET.search(path):
        if isinstance(value, dict) and not _refers(written):
            return MASK  # its own keys may be secrets, too
        secret = True
    if isinstance(value, dict):
        inside = secret or bool(_HEADERS.search(key))
        own = written if isinstance(written, dict) else {}
        return {k: _shown(v, own.get(k), join(path, k), k, secret=inside) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return _items(value, written, path, key, secret=secret)
    if isinstance(value, str):
        return _text(value, written, secret=secret)
    if secret and value is not None and not isinstance(value, bool) and not _COUNTED.search(key):
        return MASK
    if isinstance(value, Decimal):
        number = relaxed(value)
        return str(number) if isinstance(number, Decimal) else number
    return value


def _items(value: Any, written: Any, path: str, key: str, *, secret: bool) -> list[Any]:
    own = written if isinstance(written, list) else []
    shown = []
    named = False  # by the item before, an option of a command line
    for index, item in enumerate(value):
        text = own[index] if index < len(own) else None
        shown.append(_shown(item, text, join(path, index), key, secret=secret or named))
        option = _OPTION.fullmatch(item) if isinstance(item, str) else None
        named = option is not None and option[2] is None
    return shown


def _text(value: str, written: Any, *, secret: bool) -> str:
    if not isinstance(written, str):
        written = value  # a default, or something that was merged
    if not value or _REFERENCE.fullmatch(written):
        return written if value else value
    if secret:
        return MASK
    text = written if "${" in written else value
    option = _OPTION.fullmatch(text)
    if option is not None and option[2] is not None:
        return text[: option.start(2)] + _masked(option[2])
    text = _USER.sub(lambda found: f"{found[1]}:{_masked(found[2])}" if found[1] else MASK, text)
    return _QUERY.sub(lambda found: found[1] + _masked(found[2]), text)


def _masked(text: str) -> str:
    return text if _REFERENCE.fullmatch(text) else MASK


def _refers(written: Any) -> bool:
    """Whether there is nothing but references in it."""
    if isinstance(written, dict):
        return all(map(_refers, written.values()))
    if isinstance(written, list):
        return all(map(_refers, written))
    return isinstance(written, str) and bool(_REFERENCE.fullmatch(written))
