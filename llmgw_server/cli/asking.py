"""Asking a gateway that runs: its admin pages, over HTTP, with the admin key."""

from __future__ import annotations

import http.client
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import msgspec

from llmgw_core.config.load import load
from llmgw_server.cli.errors import CommandError

if TYPE_CHECKING:
    import argparse

T = TypeVar("T")

PREFIX = "/admin/v1"
SECONDS = 10.0
"""For a running gateway to answer."""


class NotThere(CommandError):
    """The gateway is there, and what it was asked for is not."""


def add_gateway(parser: argparse.ArgumentParser, what: str, *, required: bool = False) -> None:
    """`--url` and `--admin-key-file`; `what` says for which purpose."""
    parser.add_argument("--url", metavar="URL", required=required, help=what)
    parser.add_argument(
        "--admin-key-file",
        metavar="FILE",
        help="the admin key of that gateway (default: server.admin_key in the configuration)",
    )


def admin_key(args: argparse.Namespace) -> str:
    """The key that is to be used. Raises `CommandError`."""
    if args.admin_key_file is None:
        key = load(args.config).server.admin_key
        if not key:
            message = (
                f"{args.config} has no server.admin_key; name a file that holds the admin key"
                " of the gateway: --admin-key-file FILE."
            )
            raise CommandError(message)
        return key
    try:
        return Path(args.admin_key_file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        message = f"The admin key cannot be read from {args.admin_key_file}: {error}."
        raise CommandError(message) from None


def ask(url: str, key: str, page: str, kind: type[T]) -> T:
    """What the gateway at `url` says on `page` (below the prefix of admin pages). Raises
    `CommandError`, which is `NotThere` for a 404 in its envelope."""
    status, body = _get(url, PREFIX + page, key)
    if status in {401, 403}:
        raise CommandError(f"The gateway at {url} does not accept this admin key.")
    if status == 404 and b'"no_such_call"' in body:
        raise NotThere(f"The gateway at {url} does not know it.")
    if status != 200:
        message = (
            f"The gateway at {url} answers {status}: are its admin pages there, and are they on"
            " (server.admin_key)?"
        )
        raise CommandError(message)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError:
        raise CommandError(f"What answers at {url} is no gateway of this version.") from None


def _get(url: str, target: str, key: str) -> tuple[int, bytes]:
    parts = urlsplit(url)
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    if parts.scheme not in kinds or not parts.hostname:
        raise CommandError(f"'{url}' is no URL of a gateway; write http://HOST:PORT.")
    try:
        connection = kinds[parts.scheme](parts.hostname, parts.port, timeout=SECONDS)
        try:
            connection.request("GET", target, headers={"authorization": f"Bearer {key}"})
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise CommandError(f"The gateway at {url} does not answer: {error}.") from None
