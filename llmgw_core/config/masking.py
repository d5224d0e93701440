"""The effective configuration for people to read: defaults filled in, references (`${NAME}`,
`file:PATH`) as they were written, secrets that stand in the file itself masked."""

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

_SECRET_KEY: Final = re.compile(
    r"(?i)(?:secret|password|passwd|token|credential|authorization|cookie|key)s?$"
)
_NO_SECRET: Final = re.compile(r"(?:^|\.)(?:tls\.key|client_key|auth_header)$")
_URL_PASSWORD: Final = re.compile(r"(://[^/@:\s]*):[^/@\s]+@")


def effective(file: ConfigFile) -> dict[str, Any]:
    """What holds when `file` is loaded."""
    values = msgspec.to_builtins(file.config, builtin_types=(Decimal,), enc_hook=str)
    shown = _shown(values, read_document(file.text), "", "")
    assert isinstance(shown, dict)
    return shown


def _shown(value: Any, written: Any, path: str, key: str) -> Any:
    """`value`, which came of what is `written` at `path`."""
    if isinstance(value, dict):
        own = written if isinstance(written, dict) else {}
        return {k: _shown(v, own.get(k), join(path, k), k) for k, v in value.items()}
    if isinstance(value, list | tuple):
        own_items = written if isinstance(written, list) else []
        padded = [*own_items, *[None] * (len(value) - len(own_items))]
        return [
            _shown(item, padded[index], join(path, index), key) for index, item in enumerate(value)
        ]
    if isinstance(value, Decimal):
        number = relaxed(value)
        return str(number) if isinstance(number, Decimal) else number
    if not isinstance(value, str) or not value:
        return value
    if isinstance(written, str) and (written.startswith("file:") or "${" in written):
        return _URL_PASSWORD.sub(rf"\1:{MASK}@", written) if "${" not in written else written
    if _SECRET_KEY.search(key) and not _NO_SECRET.search(path):
        return MASK
    return _URL_PASSWORD.sub(rf"\1:{MASK}@", value)
