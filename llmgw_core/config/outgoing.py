"""From the sections `outgoing` to how connections leave.

What a deployment says replaces what holds for all, key by key; only a proxy comes with its own
user and password, so that those of one proxy are never shown to another.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from llmgw_core.config.errors import join
from llmgw_core.config.schema import OutgoingConfig
from llmgw_core.config.secret_files import credential_of
from llmgw_core.domain.credential import Credential
from llmgw_core.domain.errors import ConfigError
from llmgw_core.domain.outgoing import LOOPBACK, Outgoing, Proxy, exemption

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ENVIRONMENT: Final = "environment"
NONE: Final = "none"
VARIABLES: Final = ("https_proxy", "http_proxy", "all_proxy")
"""As everywhere, each also in capital letters; the small one goes first."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def outgoing_of(
    general: OutgoingConfig, own: OutgoingConfig | None, env: Mapping[str, str], path: str
) -> Outgoing:
    """How the connections of a deployment leave; `own` is its section, at `path`. Raises
    `ConfigError` for a proxy of the environment that cannot be used."""
    section = merged(general, own)
    http, https, exempt = _proxies(section, env, path)
    written = (*(section.no_proxy or ()), *exempt, *LOOPBACK)
    return Outgoing(
        http_proxy=http,
        https_proxy=https,
        no_proxy=tuple(map(exemption, written)) if http or https else (),
        ca_file=section.ca_file or "",
        system_ca=section.system_ca is not False,
        client_cert=section.client_cert or "",
        client_key=section.client_key or "",
    )


def missing_files(outgoing: Outgoing, path: str) -> Iterator[ConfigError]:
    """The certificate files that are not there."""
    for name in ("ca_file", "client_cert", "client_key"):
        file = getattr(outgoing, name)
        if file and not Path(file).is_file():
            yield ConfigError(f"there is no file {file}.", path=join(path, name))


def merged(general: OutgoingConfig, own: OutgoingConfig | None) -> OutgoingConfig:
    """`own`, completed by `general`."""
    if own is None:
        return general
    values = {name: getattr(own, name) for name in own.__struct_fields__}
    inherited = set(values)
    if own.proxy is not None:
        inherited -= {"proxy_user", "proxy_password"}
    if own.client_cert is not None:
        inherited -= {"client_key"}
    for name in inherited:
        if values[name] is None:
            values[name] = getattr(general, name)
    return OutgoingConfig(**values)


def unused_variables(general: OutgoingConfig, env: Mapping[str, str]) -> list[str]:
    """The proxy variables that are set although the configuration says nothing of a proxy."""
    return [] if general.proxy is not None else variables_set(env)


def variables_set(env: Mapping[str, str]) -> list[str]:
    """The names of the proxy variables that are set."""
    return [name for each in VARIABLES for name in (each, each.upper()) if env.get(name)]


def section_errors(
    section: OutgoingConfig, general: OutgoingConfig | None, path: str
) -> Iterator[ConfigError]:
    """What the types cannot say about a section; `general` is what it is completed by."""
    yield from _own_errors(section, path)
    whole = section if general is None else merged(general, section)
    if whole.proxy_password and not whole.proxy_user:
        message = "needs `proxy_user` beside it."
        yield ConfigError(message, path=join(path, "proxy_password"))
    if whole.system_ca is False and not whole.ca_file:
        message = "without the system's authorities a `ca_file` is needed."
        yield ConfigError(message, path=join(path, "system_ca"))
    if bool(whole.client_cert) != bool(whole.client_key):
        message = "and `client_key` need each other."
        yield ConfigError(message, path=join(path, "client_cert"))


def _own_errors(section: OutgoingConfig, path: str) -> Iterator[ConfigError]:
    proxy = section.proxy
    if proxy and proxy not in {ENVIRONMENT, NONE}:
        problem = _problem(proxy)
        if problem:
            yield ConfigError(problem, path=join(path, "proxy"))
        elif section.proxy_user and urlsplit(proxy).username is not None:
            message = "is given in the address of the proxy, too; leave one of them out."
            yield ConfigError(message, path=join(path, "proxy_user"))
    elif proxy == "":
        message = "must be a URL, `environment` or `none`."
        yield ConfigError(message, path=join(path, "proxy"))
    if ":" in (section.proxy_user or ""):
        yield ConfigError("cannot contain a colon.", path=join(path, "proxy_user"))
    for index, entry in enumerate(section.no_proxy or ()):
        try:
            exemption(entry)
        except ValueError as error:
            yield ConfigError(f"{error}.", path=join(join(path, "no_proxy"), index))


def _problem(url: str) -> str:
    """What is wrong with the address of a proxy. Never quotes it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL."
    if parts.scheme not in _DEFAULT_PORTS:
        return "must look like http://host:port or https://host:port; SOCKS is not spoken."
    if not parts.hostname or port == 0 or parts.path.strip("/") or parts.query or parts.fragment:
        return "must be scheme, host and port, and nothing else."
    return ""


def _proxies(
    section: OutgoingConfig, env: Mapping[str, str], path: str
) -> tuple[Proxy | None, Proxy | None, list[str]]:
    """For origins without and with TLS, and what the environment exempts."""
    if section.proxy in {None, NONE}:
        return None, None, []
    if section.proxy != ENVIRONMENT:
        password = credential_of(section.proxy_password or "")
        proxy = _proxy(section.proxy or "", section.proxy_user or "", password)
        return proxy, proxy, []
    exempt = [entry for entry in _variable(env, "no_proxy").split(",") if entry.strip()]
    found = []
    for name in ("http_proxy", "https_proxy"):
        url = _variable(env, name) or _variable(env, "all_proxy")
        url = url if not url or "://" in url else f"http://{url}"
        problem = _problem(url) if url else ""
        if problem:
            message = f"the variable `{name}` of the environment {problem}"
            raise ConfigError(message, path=join(path, "proxy"))
        found.append(_proxy(url, "", Credential()) if url else None)
    return found[0], found[1], [entry for entry in exempt if _is_exemption(entry)]


def _is_exemption(text: str) -> bool:
    """Other programs' inventions in `no_proxy` are passed over, as they do with each other's."""
    try:
        exemption(text)
    except ValueError:
        return False
    return True


def _variable(env: Mapping[str, str], name: str) -> str:
    return env.get(name) or env.get(name.upper()) or ""


def _proxy(url: str, user: str, password: Credential) -> Proxy:
    parts = urlsplit(url)
    if parts.username is not None:
        user, password = unquote(parts.username), Credential(unquote(parts.password or ""))
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    return Proxy(parts.scheme, parts.hostname or "", port, user, password)
