"""`check`: everything about a configuration that can be known without starting it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmgw_core.config.load import load
from llmgw_core.gateway import load_models, load_plugins
from llmgw_core.store.engine import Store
from llmgw_server.cli.options import add_config, run_with
from llmgw_server.cli.output import say

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the options."""
    add_config(parser)
    run_with(parser, _check)


def _check(args: argparse.Namespace) -> None:
    path = Path(args.config)
    config = load(path)
    host = load_plugins(config, path.absolute().parent)
    models = load_models(config, host)
    Store(config.store.url)  # not opened: a check changes nothing
    deployments = sum(len(model.deployments) for model in models.values())
    say(
        f"{path} is valid: {_count(len(models), 'model')}, {_count(deployments, 'deployment')},"
        f" {_count(len(config.plugins), 'plugin')}."
    )


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
