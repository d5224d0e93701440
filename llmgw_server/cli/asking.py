"""Asking a gateway that runs: its admin pages, over HTTP, with the admin key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from llmgw_core.config.load import load
from llmgw_server.cli.errors import CommandError
from llmgw_server.cli.reaching import (
    Address,
    Unreachable,
    address_of,
    admin_address,
    exchange,
)

if TYPE_CHECKING:
    import argparse

T = TypeVar("T")

PREFIX = "/admin/v1"


__all__ = [
    "NotThere",
    "Unreachable",
    "add_gateway",
    "admin_key",
    "ask",
    "ask_running",
    "gateway_address",
]


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


def gateway_address(args: argparse.Namespace) -> Address:
    """The address that `--url` gives, or else the configuration. Raises `CommandError`."""
    return address_of(args.url) if args.url is not None else admin_address(load(args.config))


def admin_key(args: argparse.Namespace) -> str:
    """The key that is to be used. Raises `CommandError`."""
    key = _admin_key(args)
    if not (key.isascii() and key.isprintable()) or " " in key:
        source = args.admin_key_file or f"server.admin_key in {args.config}"
        raise CommandError(f"{source} is no admin key that can be sent: it is one word of ASCII.")
    return key


def _admin_key(args: argparse.Namespace) -> str:
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


def ask(where: str | Address, key: str, page: str, kind: type[T], *, body: object = None) -> T:
    """What the gateway at a URL or address says on `page` (below the prefix of admin pages), which
    is given `body`, if any, as JSON. Raises `CommandError`, which is `NotThere` for a 404 in its
    envelope and `Unreachable` when nobody answers."""
    address = address_of(where) if isinstance(where, str) else where
    url = address.url
    status, reply = exchange(address, PREFIX + page, key, body)
    if status in {401, 403}:
        raise CommandError(f"The gateway at {url} does not accept this admin key.")
    if status == 404 and b'"no_such_call"' in reply:
        raise NotThere(f"The gateway at {url} does not know it.")
    if status in {400, 409, 413, 415} and (told := _told(reply)):
        raise CommandError(told)
    if status != 200:
        message = (
            f"The gateway at {url} answers {status}: are its admin pages there, and are they on"
            " (server.admin_key)?"
        )
        raise CommandError(message)
    try:
        return msgspec.json.decode(reply, type=kind)
    except msgspec.DecodeError:
        raise CommandError(f"What answers at {url} is no gateway of this version.") from None


def ask_running(
    args: argparse.Namespace, page: str, kind: type[T], *, body: object = None
) -> tuple[T | None, str]:
    """What the gateway says that `--url` names, or else the one that runs with the configuration.
    Nothing when `--url` is not given and nobody can be asked: then the sentence says why. Raises
    `CommandError`."""
    if args.url is not None:
        return ask(args.url, admin_key(args), page, kind, body=body), args.url
    config = load(args.config)
    if not config.server.admin_key and args.admin_key_file is None:
        return None, f"{args.config} has no server.admin_key, so no gateway can be asked."
    try:
        address = admin_address(config)
        return ask(address, admin_key(args), page, kind, body=body), address.url
    except Unreachable as error:
        return None, str(error)


def _told(reply: bytes) -> str:
    """The sentence of an error in OpenAI's envelope."""
    try:
        return msgspec.json.decode(reply, type=_Envelope).error.message
    except msgspec.DecodeError:
        return ""


class _Error(msgspec.Struct):
    message: str


class _Envelope(msgspec.Struct):
    error: _Error
