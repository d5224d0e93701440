"""Where `serve --discover` looks: keys of providers in the environment, engines on this machine.

Providers are those whose own API is OpenAI's, or who keep one beside it; their addresses are from
their documentation.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from llmgw_core.domain.deployment import Origin
from llmgw_server.cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LOCAL, PUBLIC = "onprem", "world"
ENGINE_PORTS = {
    8000: "vLLM",
    8080: "llama.cpp",
    3000: "TGI",
    11434: "Ollama",
    1234: "LM Studio",
}
"""The port that each engine listens on unless told otherwise."""


class Source(msgspec.Struct, frozen=True):
    """Somebody to ask for models. `variable` holds the key of a provider."""

    name: str
    base_url: str
    zone: str
    variable: str = ""
    key_header: str = "authorization: Bearer"
    headers: tuple[tuple[str, str], ...] = ()
    listing: str = "/models"

    @property
    def origin(self) -> Origin:
        """Where it listens."""
        url = urlsplit(self.base_url)
        default = 443 if url.scheme == "https" else 80
        return Origin(url.scheme, url.hostname or "", url.port or default)

    @property
    def target(self) -> str:
        """The path of its list of models."""
        return urlsplit(self.base_url).path.rstrip("/") + self.listing

    def named(self, name: str) -> Source:
        """The same under the name that its answer has shown."""
        return msgspec.structs.replace(self, name=name)


PROVIDERS = (
    Source("openai", "https://api.openai.com/v1", PUBLIC, "OPENAI_API_KEY"),
    Source(
        "anthropic",
        "https://api.anthropic.com/v1",
        PUBLIC,
        "ANTHROPIC_API_KEY",
        # Calls take a bearer key as well, the list of models does not.
        key_header="x-api-key:",
        headers=(("anthropic-version", "2023-06-01"),),
        listing="/models?limit=1000",
    ),
    Source("mistral", "https://api.mistral.ai/v1", PUBLIC, "MISTRAL_API_KEY"),
    Source("groq", "https://api.groq.com/openai/v1", PUBLIC, "GROQ_API_KEY"),
    Source("openrouter", "https://openrouter.ai/api/v1", PUBLIC, "OPENROUTER_API_KEY"),
    Source("deepseek", "https://api.deepseek.com/v1", PUBLIC, "DEEPSEEK_API_KEY"),
    Source("together", "https://api.together.xyz/v1", PUBLIC, "TOGETHER_API_KEY"),
    Source("xai", "https://api.x.ai/v1", PUBLIC, "XAI_API_KEY"),
    Source("fireworks", "https://api.fireworks.ai/inference/v1", PUBLIC, "FIREWORKS_API_KEY"),
)


def providers(env: Mapping[str, str]) -> list[Source]:
    """Those whose key is set. `OPENAI_BASE_URL`, which OpenAI's own client knows, is obeyed.
    Raises `CommandError` if that is no address."""
    found = [source for source in PROVIDERS if env.get(source.variable, "").strip()]
    base = env.get("OPENAI_BASE_URL", "").strip().rstrip("/")
    if base:
        if not _usable(base):
            # Not quoted: there may be a password in it.
            raise CommandError("OPENAI_BASE_URL is not an http or https URL; correct or unset it.")
        found = [
            msgspec.structs.replace(source, base_url=base) if source.name == "openai" else source
            for source in found
        ]
    return found


def engines(given: Sequence[Source], own_port: int) -> list[Source]:
    """The `given` ones, else the usual ports of this machine, but not our own."""
    if given:
        return list(given)
    return [
        Source(f"port-{port}", f"http://127.0.0.1:{port}/v1", LOCAL)
        for port in ENGINE_PORTS
        if port != own_port
    ]


def engine(text: str) -> Source:
    """An engine from the command line: `PORT`, `HOST:PORT` or a URL."""
    address = text if "://" in text else f"http://{f'127.0.0.1:{text}' if text.isdigit() else text}"
    if not _usable(address):
        message = f"'{text}' is not a port, HOST:PORT or URL"
        raise argparse.ArgumentTypeError(message)
    url = urlsplit(address)
    base = f"{url.scheme}://{url.netloc}{url.path.rstrip('/') or '/v1'}"
    return Source(f"port-{url.port or url.scheme}", base, LOCAL)


def _usable(address: str) -> bool:
    """Whether it is a URL that can be asked, without user and password."""
    try:
        url = urlsplit(address)
        port = url.port
    except ValueError:
        return False
    known = url.scheme in {"http", "https"} and bool(url.hostname)
    return known and port != 0 and url.username is None


def secret(source: Source) -> str:
    """The key of a provider, from the environment."""
    return os.environ.get(source.variable, "").strip() if source.variable else ""
