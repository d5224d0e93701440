"""What well-known public models cost, as data with sources and dates."""

from llmgw_prices.plugin import PricesPlugin

__all__ = ["PricesPlugin"]
