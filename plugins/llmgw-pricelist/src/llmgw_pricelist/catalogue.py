"""The files in `data` as entries of a catalogue. A file has the prices of one provider; their names
are `PROVIDER/MODEL`. Numbers stay exact."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 -- msgspec reads the annotations at run time
import tomllib
from decimal import Decimal
from importlib.resources import files

import msgspec

from llmgw_core import CatalogueEntry, PriceTier, TokenPrices


class Listed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"since": "from"}):
    """One price in a file. What is not given is that of the file."""

    model: str
    cost: TokenPrices
    tiers: tuple[PriceTier, ...] = ()
    since: str = ""
    source: str = ""
    seen: dt.date | None = None


class PriceFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file. `source`: the page where the prices were found, on the day `seen`."""

    source: str
    seen: dt.date
    price: tuple[Listed, ...]
    currency: str = "USD"


def read_file(text: str) -> dict[str, tuple[CatalogueEntry, ...]]:
    """The entries of a file by model, in the order of the file. Raises
    `msgspec.ValidationError`."""
    file = msgspec.convert(tomllib.loads(text, parse_float=Decimal), PriceFile)
    found: dict[str, tuple[CatalogueEntry, ...]] = {}
    for each in file.price:
        entry = CatalogueEntry(
            cost=each.cost,
            source=each.source or file.source,
            seen=each.seen or file.seen,
            currency=file.currency,
            valid_from=each.since,
            tiers=each.tiers,
        )
        found[each.model] = (*found.get(each.model, ()), entry)
    return found


def catalogue() -> dict[str, tuple[CatalogueEntry, ...]]:
    """Everything that this distribution has."""
    found = {}
    for file in sorted(
        files("llmgw_pricelist").joinpath("data").iterdir(), key=lambda file: file.name
    ):
        provider = file.name.removesuffix(".toml")
        entries = read_file(file.read_text(encoding="utf-8"))
        found.update({f"{provider}/{model}": prices for model, prices in entries.items()})
    return found
