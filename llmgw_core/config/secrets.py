"""`${NAME}` and `file:PATH`: what a string value of the configuration may stand for.

Only what the file itself says is interpreted, never what an environment variable or a secret
file contains. Errors name the variable or the path as written, never a content.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from llmgw_core.config.errors import join
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_SECRET_BYTES: Final = 1 << 20

_REFERENCE: Final = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLUGIN_VALUE: Final = re.compile(r"models\..+\.deployments\[\d+\]\.options|plugins\[\d+\]\.config")
_CREDENTIAL: Final = re.compile(
    r"models\..+\.deployments\[\d+\]\.credential(?:s\[\d+\])?"
    r"|(?:models\..+\.deployments\[\d+\]\.)?outgoing\.(?:proxy|proxy_password)"
    r"|budgets\.webhook(?:_secret)?|server\.admin_key|server\.(?:admin\.|metrics\.)?tls\.key_password"
)


class SecretText(str):
    """The content of the secret file `file` (an absolute path): a text that says where it came
    from, so that whoever keeps it can look there again."""

    __slots__ = ("file",)
    file: Path


def read_secret(file: Path) -> str:
    """The content of a secret file without surrounding white space. Raises `OSError`, and
    `ValueError` with what is wrong."""
    with file.open("rb") as stream:
        data = stream.read(MAX_SECRET_BYTES + 1)
    if len(data) > MAX_SECRET_BYTES:
        raise ValueError(f"is larger than {MAX_SECRET_BYTES} bytes")
    try:
        text = data.decode().strip()
    except ValueError:
        raise ValueError("is not UTF-8 text") from None
    if not text:
        raise ValueError("is empty")
    return text


class Resolver:
    """Walks raw values and puts in place what they stand for; collects what is missing."""

    def __init__(self, base_dir: Path, env: Mapping[str, str]) -> None:
        self.errors: list[ConfigError] = []
        self._base_dir = base_dir
        self._env = env

    def resolve(self, value: Any, path: str = "", *, plugin: bool = False) -> Any:
        """`value` with every string below it replaced. `plugin`: inside a section that a
        plugin decodes, where every string may be a secret file."""
        if isinstance(value, str):
            return self._string(value, path, secret=plugin or bool(_CREDENTIAL.fullmatch(path)))
        if isinstance(value, Decimal):
            return relaxed(value) if plugin else value
        if isinstance(value, list):
            return [
                self.resolve(item, join(path, index), plugin=plugin)
                for index, item in enumerate(value)
            ]
        if isinstance(value, dict):
            inside = plugin or bool(_PLUGIN_VALUE.fullmatch(path))
            return {
                key: self.resolve(item, join(path, key), plugin=inside)
                for key, item in value.items()
            }
        return value

    def _string(self, text: str, path: str, *, secret: bool) -> str:
        before = len(self.errors)
        result = _REFERENCE.sub(lambda match: self._variable(match, path), text)
        if secret and text.startswith("file:") and len(self.errors) == before:
            return self._file(text[5:], result[5:], path)
        return result

    def _variable(self, match: re.Match[str], path: str) -> str:
        name = match[1]
        if name is None:
            return "${"
        if not match[2] or not _NAME.fullmatch(name):
            message = "`${` must be followed by the name of an environment variable and `}`"
            self.errors.append(
                ConfigError(f"{message}; write `$${{` for a plain `${{`.", path=path)
            )
            return ""
        if name not in self._env:
            message = f"the environment variable `{name}` is not set."
            self.errors.append(ConfigError(message, path=path))
            return ""
        return self._env[name]

    def _file(self, written: str, name: str, path: str) -> str:
        file = self._base_dir / name
        try:
            text = SecretText(read_secret(file))
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        except ValueError as error:
            problem = str(error)
        else:
            text.file = file
            return text
        self.errors.append(ConfigError(f"the file `{written}` {problem}.", path=path))
        return ""


def relaxed(number: Decimal) -> Decimal | float:
    """A float where that loses nothing: plugins pass untyped numbers on as JSON, and a typed
    `Decimal` field gets the same decimal back from the float's shortest form."""
    near = float(number)
    return near if Decimal(repr(near)) == number else number
