"""The plugin: it offers its catalogue, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core import hookimpl
from llmgw_pricelist.catalogue import catalogue

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmgw_core import CatalogueEntry, PluginContext


class PriceListPlugin:
    """Takes no configuration: what is used of the catalogue is said where models have prices."""

    def __init__(self, config: None, context: PluginContext) -> None:
        pass

    @hookimpl
    def register_prices(self) -> Mapping[str, Sequence[CatalogueEntry]]:
        """All prices."""
        return catalogue()
