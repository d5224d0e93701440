"""`serve`: run the gateway of a configuration."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from llmgw_core.config.load import load_file
from llmgw_core.config.outgoing import unused_variables
from llmgw_core.gateway import Gateway
from llmgw_server.cli.errors import CommandError
from llmgw_server.cli.first_run import WHAT_TO_DO, discover, make_api_key
from llmgw_server.cli.options import add_config, run_with
from llmgw_server.cli.output import remark, say_now
from llmgw_server.cli.sources import engine
from llmgw_server.listening import open_listeners
from llmgw_server.serve import SERVERS, run

if TYPE_CHECKING:
    import argparse

logger = logging.getLogger(__name__)


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
    parser.add_argument(
        "--discover",
        action="store_true",
        help="without a configuration: find provider keys and engines, write one, make keys",
    )
    parser.add_argument(
        "--engine",
        type=engine,
        action="append",
        default=[],
        metavar="ADDRESS",
        help="where --discover looks for engines, instead of the usual ports of this machine:"
        " PORT, HOST:PORT or a URL (can be repeated)",
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
    # Until the configuration has been read there is nothing to read again; its default would end
    # the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    path = Path(args.config)
    directory = path.absolute().parent
    if args.discover:
        number = 4000 if args.port is None else args.port
        discover(path, host=args.host or "127.0.0.1", port=number, given=args.engine)
    elif not path.exists():
        raise CommandError(WHAT_TO_DO.format(path=path))
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

    if names := unused_variables(file.config.outgoing, os.environ):
        logger.warning(
            "%s is set but not used: say `outgoing: {proxy: environment}` to use it,"
            " or `proxy: none`.",
            " and ".join(names),
        )

    async def ready(gateway: Gateway, url: str) -> None:
        if args.discover:
            say_now(await make_api_key(gateway.tenancy, directory))
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
