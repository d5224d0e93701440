"""`serve`: run the gateway of a configuration."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from llmgw_core.config.load import load_file
from llmgw_core.gateway import Gateway
from llmgw_server.cli.options import add_config, run_with
from llmgw_server.cli.output import remark, say_now
from llmgw_server.listening import open_listeners
from llmgw_server.serve import SERVERS, run

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the options."""
    add_config(parser)
    parser.add_argument("--host", help="address to listen on (default: the configuration's)")
    parser.add_argument("--port", type=port, help="port (default: the configuration's); 0: any")
    parser.add_argument(
        "--server",
        choices=sorted(SERVERS),
        help="ASGI server; uvicorn is the fast one and needs llmgw[fast]",
    )
    run_with(parser, _serve)


def port(text: str) -> int:
    """A port number."""
    number = int(text)
    if not 0 <= number <= 65535:
        raise ValueError
    return number


def _serve(args: argparse.Namespace) -> None:
    start_logging(logging.INFO)
    file = load_file(args.config)
    settings = file.config.server
    server = args.server or settings.server
    if args.host is not None or args.port is not None:
        settings = msgspec.structs.replace(
            settings,
            host=args.host or settings.host,
            port=settings.port if args.port is None else args.port,
            unix="",
        )

    async def ready(_gateway: Gateway, url: str) -> None:
        say_now(f"llmgw is ready at {url}")

    run(
        Gateway.open(file),
        open_listeners(settings, server=server),
        server=server,
        ready=ready,
    )
    remark("llmgw has ended.")


def start_logging(level: int) -> None:
    """Log to standard error: the gateway from `level`, libraries only what is wrong."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for name in ("llmgw", "llmgw_core", "llmgw_server"):
        logging.getLogger(name).setLevel(level)
