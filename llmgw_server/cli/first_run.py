"""`serve --discover`: from nothing to a gateway that serves. Never overwrites a file."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import secrets
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, TypeVar

from llmgw_core.config.outgoing import outgoing_of, variables_set
from llmgw_core.config.schema import OutgoingConfig
from llmgw_core.tenancy.errors import NotFound
from llmgw_core.tenancy.records import ORGANIZATION, USER, Kind, LevelInfo
from llmgw_server.cli.discovered_text import configuration
from llmgw_server.cli.discovery import ask_all
from llmgw_server.cli.errors import CommandError
from llmgw_server.cli.output import say_now
from llmgw_server.cli.sources import ENGINE_PORTS, LOCAL, PROVIDERS, engines, providers, secret

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llmgw_core.tenancy.service import Tenancy
    from llmgw_server.cli.discovery import Finding
    from llmgw_server.cli.sources import Source

T = TypeVar("T", bound=LevelInfo)
ADMIN_KEY, API_KEY = "llmgw-admin.key", "llmgw-api.key"
ORGANIZATION_NAME, USER_NAME, ACTOR = "default", "first-user", "discover"

WHAT_TO_DO = """\
there is no configuration {path}. Either
  llmgw-server serve --discover     finds provider keys in the environment and engines on this
                                    machine, writes a configuration, makes keys and serves
  llmgw-server demo                 tries everything out with a small language model of its own
or write one and name it with --config FILE."""


def discover(path: Path, *, host: str, port: int, given: Sequence[Source]) -> None:
    """Look around and write the configuration `path` and the admin key beside it, unless there
    is a configuration. Raises `CommandError`."""
    if path.exists():
        say_now(f"{path} is there already; nothing is looked for.")
        return
    if not entry_points(group="llmgw", name="openai"):
        raise CommandError("What is found is served by a plugin: pip install llmgw-openai.")
    outgoing = outgoing_of(OutgoingConfig(proxy="environment"), None, os.environ, "--discover")
    sources = [*engines(given, port), *providers(os.environ)]
    say_now("Looking for provider keys in the environment and for engines on this machine ...")
    findings = asyncio.run(ask_all(sources, outgoing, secret))
    for line in report(findings):
        say_now(line)
    if not any(finding.offers for finding in findings):
        raise CommandError(_nothing())
    text = configuration(
        findings,
        host=host,
        port=port,
        admin_key=ADMIN_KEY,
        day=dt.datetime.now(dt.UTC).date(),
        proxied=bool(variables_set(os.environ)),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        key = path.parent / ADMIN_KEY
        made = _write_secret(key, f"llmgw-admin-{secrets.token_urlsafe(32)}")
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise CommandError(f"Cannot write {error.filename}: {error.strerror}.") from error
    if made:
        say_now(f"Wrote {path}, and the admin key into {key} (mode 0600).")
    else:
        say_now(f"Wrote {path}. The admin key is what {key} holds, which was there already.")


def report(findings: Sequence[Finding]) -> list[str]:
    """What was found, a line for each source that is there."""
    lines = []
    for finding in findings:
        source = finding.source
        who = f"{source.variable or source.name} ({source.base_url})"
        if finding.offers:
            number = len(finding.offers)
            price = "" if source.zone == LOCAL else "; without prices, booked at 0 until you say"
            lines.append(f"  {who}: {number} model{'' if number == 1 else 's'}{price}")
        elif finding.problem:
            lines.append(f"  {who}: left out, {finding.problem}")
    return lines


def _nothing() -> str:
    variables = ", ".join(provider.variable for provider in PROVIDERS)
    ports = ", ".join(f"{port} ({name})" for port, name in ENGINE_PORTS.items())
    return (
        f"Nothing was found that could be served, and nothing was written. Looked for {variables}"
        f" in the environment and for engines on the ports {ports} of this machine;"
        " --engine HOST:PORT names others."
    )


async def make_api_key(tenancy: Tenancy, directory: Path) -> str:
    """An organisation that may use every model, a user in it and a key of theirs, written into a
    file that only its owner can read; what there is already stays. Returns a sentence."""
    path = directory / API_KEY
    if path.exists():
        return f"Your API key is in {path}."
    organization = await _id(tenancy, ORGANIZATION, ORGANIZATION_NAME)
    if not organization:
        made = await tenancy.create_organization(ORGANIZATION_NAME, models=["*"], actor=ACTOR)
        organization = made.id
    user = await _id(tenancy, USER, USER_NAME, organization)
    if not user:
        user = (await tenancy.create_user(organization, USER_NAME, actor=ACTOR)).id
    _, key = await tenancy.create_key(user=user, name="discover", actor=ACTOR)
    try:
        saved = await asyncio.to_thread(_write_secret, path, key)
    except OSError as error:
        raise CommandError(f"Cannot write {path}: {error.strerror}.") from error
    if not saved:
        raise CommandError(f"Cannot write {path}: a link that leads nowhere is in its place.")
    return f"Your first API key is in {path} (mode 0600)."


async def _id(tenancy: Tenancy, kind: Kind[T], name: str, organization: str | None = None) -> str:
    """The id of what has this name; "" if nothing has."""
    try:
        return (await tenancy.get(kind, name, organization=organization)).id
    except NotFound:
        return ""


def _write_secret(path: Path, text: str) -> bool:
    """A file that only its owner can read. False: one, or a link, is there, and stays."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    return True
