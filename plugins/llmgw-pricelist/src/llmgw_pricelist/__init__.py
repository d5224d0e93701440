"""What well-known public models cost, as data with sources and dates."""

from llmgw_pricelist.plugin import PriceListPlugin

__all__ = ["PriceListPlugin"]
