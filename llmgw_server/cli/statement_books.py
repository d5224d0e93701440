"""Statements on the store of a configuration, and why something in them has no price."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from llmgw_core.config.load import load
from llmgw_core.domain.errors import ConfigError
from llmgw_core.statements.service import Statements
from llmgw_server.cli.database import on_store
from llmgw_server.cli.price_book import priced

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable

    from llmgw_core.accounting.prices import PriceBook
    from llmgw_core.store.engine import Store

T = TypeVar("T")


def on_statements(args: argparse.Namespace, work: Callable[[Statements], Awaitable[T]]) -> T:
    """The result of `work` on the statements of the configuration `args.config`."""
    config = load(args.config)

    def begin(store: Store) -> Awaitable[T]:
        return work(
            Statements(
                store,
                config.statements,
                currency=config.accounting.currency,
                journal=Path(config.accounting.journal),
                why=_Reasons(args.config),
            )
        )

    return on_store(args, begin)


class _Reasons:
    """Why something had no price, by what the configuration says now. Plugins, whose catalogues
    prices may be from, are loaded when it is first asked."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._prices: PriceBook | None = None

    def __call__(self, model: str, deployment: str, at_ns: int) -> str:
        if self._prices is None:
            try:
                self._prices = priced(self._path).prices
            except ConfigError as error:
                return str(error)
        return self._prices.reason(model, deployment, at_ns)
