from __future__ import annotations

import ast
import datetime as dt
import inspect
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.accounting import price_entries, price_sheet, prices, rates
from llmgw_core.accounting.prices import Price, PriceBook
from llmgw_core.accounting.rates import MAX_AMOUNT
from llmgw_core.config.schema import DeploymentConfig, ModelConfig
from llmgw_core.config.schema_prices import PriceEntry, TokenPrices
from llmgw_core.domain.errors import ConfigError
from llmgw_core.domain.usage import Usage

if TYPE_CHECKING:
    from types import ModuleType

DAY = 86_400 * 10**9
NEW_YEAR = dt.date(2026, 1, 1)
NEW_YEAR_NS = 1_767_225_600 * 10**9

amounts = st.decimals(min_value=0, max_value=1_000, places=9)
tokens = st.integers(min_value=0, max_value=10**7)


def entry(
    cost: TokenPrices, charge: TokenPrices | None = None, day: dt.date = NEW_YEAR
) -> PriceEntry:
    return PriceEntry(valid_from=day, cost=cost, charge=charge)


def book(*entries: PriceEntry, own: tuple[PriceEntry, ...] = ()) -> PriceBook:
    deployments = (
        DeploymentConfig(name="a", backend="b", zone="z"),
        DeploymentConfig(name="dear", backend="b", zone="z", prices=own),
    )
    return PriceBook({"m": ModelConfig(deployments=deployments, prices=entries)})


def price(cost: TokenPrices, charge: TokenPrices | None = None) -> Price:
    found = book(entry(cost, charge)).price("m", "m/a", NEW_YEAR_NS)
    assert found is not None
    return found


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    input = draw(tokens)
    return Usage(
        input_tokens=input,
        output_tokens=draw(tokens),
        cached_input_tokens=draw(st.integers(min_value=0, max_value=input)),
    )


@st.composite
def tariffs(draw: st.DrawFn) -> TokenPrices:
    return TokenPrices(draw(amounts), draw(amounts), draw(st.none() | amounts), draw(amounts))


def test_a_call_costs_its_tokens_at_the_price_of_each_class_and_the_call() -> None:
    tariff = TokenPrices(Decimal("0.15"), Decimal("0.60"), Decimal("0.075"), Decimal("0.001"))
    usage = Usage(input_tokens=1_000, output_tokens=500, cached_input_tokens=400)
    # 600 × 150 + 400 × 75 + 500 × 600 nano-units, and a thousandth of a unit.
    assert price(tariff).cost(usage) == 90_000 + 30_000 + 300_000 + 1_000_000


def test_cached_input_costs_like_input_unless_it_has_a_price() -> None:
    usage = Usage(input_tokens=1_000, cached_input_tokens=400)
    assert price(TokenPrices(input=Decimal(1))).cost(usage) == 1_000_000
    free = TokenPrices(input=Decimal(1), cached_input=Decimal(0))
    assert price(free).cost(usage) == 600_000


def test_more_cached_tokens_than_input_tokens_cost_no_more_than_the_input() -> None:
    tariff = TokenPrices(input=Decimal(2), cached_input=Decimal(1))
    assert price(tariff).cost(Usage(input_tokens=10, cached_input_tokens=99)) == 10_000


def test_the_tenant_is_charged_the_cost_unless_there_is_a_charge() -> None:
    cost, charge = TokenPrices(output=Decimal(1)), TokenPrices(output=Decimal(3))
    usage = Usage(output_tokens=1_000)
    assert price(cost).charge(usage) == 1_000_000
    both = price(cost, charge)
    assert (both.cost(usage), both.charge(usage)) == (1_000_000, 3_000_000)


@pytest.mark.parametrize(("tokens", "nano"), [(1, 0), (2, 1), (3, 2), (5, 2), (7, 4)])
def test_half_a_nano_unit_is_rounded_to_even(tokens: int, nano: int) -> None:
    # 0.0005 units per million are half a nano-unit per token.
    assert price(TokenPrices(input=Decimal("0.0005"))).cost(Usage(input_tokens=tokens)) == nano


@given(tariffs(), usages())
def test_an_amount_is_the_exact_sum_rounded_once(tariff: TokenPrices, usage: Usage) -> None:
    cached = tariff.input if tariff.cached_input is None else tariff.cached_input
    exact = (
        Fraction(tariff.input) * (usage.input_tokens - usage.cached_input_tokens)
        + Fraction(cached) * usage.cached_input_tokens
        + Fraction(tariff.output) * usage.output_tokens
    ) * 1_000 + Fraction(tariff.call) * 10**9
    amount = price(tariff).cost(usage)
    assert type(amount) is int
    assert amount == round(exact)


@given(tariffs(), usages(), usages())
def test_two_parts_cost_what_the_whole_costs_but_for_the_rounding(
    tariff: TokenPrices, one: Usage, two: Usage
) -> None:
    whole = Usage(
        input_tokens=one.input_tokens + two.input_tokens,
        output_tokens=one.output_tokens + two.output_tokens,
        cached_input_tokens=one.cached_input_tokens + two.cached_input_tokens,
    )
    cost = price(tariff).cost
    call = int(tariff.call.scaleb(9))
    assert abs(cost(one) + cost(two) - call - cost(whole)) <= 1


@given(tariffs(), usages(), tokens, tokens)
def test_more_tokens_never_cost_less(
    tariff: TokenPrices, usage: Usage, input: int, output: int
) -> None:
    more = Usage(
        input_tokens=usage.input_tokens + input,
        output_tokens=usage.output_tokens + output,
        cached_input_tokens=usage.cached_input_tokens,
    )
    assert price(tariff).charge(more) >= price(tariff).charge(usage) >= 0


def test_an_absurd_usage_gives_an_amount_that_can_be_written_down() -> None:
    usage = Usage(input_tokens=2**53, output_tokens=2**53)
    assert price(TokenPrices(Decimal(600), Decimal(600))).cost(usage) == MAX_AMOUNT


@pytest.mark.parametrize("module", [price_sheet, price_entries, prices, rates])
def test_the_arithmetic_holds_no_float(module: ModuleType) -> None:
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        exact = module is price_entries and isinstance(node, ast.Div)  # of fractions
        assert exact or not isinstance(node, ast.Div)
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float))
        assert not (isinstance(node, ast.Name) and node.id in {"float", "round"})


def test_an_entry_holds_from_midnight_utc_until_the_next() -> None:
    first = entry(TokenPrices(call=Decimal(1)))
    second = entry(TokenPrices(call=Decimal(2)), day=dt.date(2026, 1, 2))
    priced = book(second, first)

    def call(at_ns: int) -> int | None:
        found = priced.price("m", "m/a", at_ns)
        return found.cost(Usage()) // 10**9 if found is not None else None

    moments = [
        NEW_YEAR_NS + 2 * DAY,
        NEW_YEAR_NS - 1,
        NEW_YEAR_NS,
        NEW_YEAR_NS + DAY - 1,
        NEW_YEAR_NS + DAY,
        NEW_YEAR_NS - DAY,
    ]
    assert [call(moment) for moment in moments] == [2, None, 1, 1, 2, None]


def test_prices_of_a_deployment_replace_those_of_its_model() -> None:
    own = entry(TokenPrices(call=Decimal(7)), day=dt.date(2026, 1, 2))
    priced = book(entry(TokenPrices(call=Decimal(1))), own=(own,))
    assert priced.price("m", "m/dear", NEW_YEAR_NS) is None
    found = priced.price("m", "m/dear", NEW_YEAR_NS + DAY)
    assert found is not None
    assert found.cost(Usage()) == 7 * 10**9


def test_a_deployment_that_is_not_configured_any_more_has_the_price_of_its_model() -> None:
    priced = book(entry(TokenPrices(call=Decimal(1))))
    assert priced.price("m", "m/gone", NEW_YEAR_NS) is priced.price("m", "m/a", NEW_YEAR_NS)
    assert priced.price("unknown", "unknown/a", NEW_YEAR_NS) is None


def test_deployments_without_a_price_are_named() -> None:
    own = entry(TokenPrices())
    assert book(own=(own,)).unpriced(NEW_YEAR_NS) == ("m/a",)
    assert book(own).unpriced(NEW_YEAR_NS) == ()
    assert book(own).unpriced(NEW_YEAR_NS - 1) == ("m/a", "m/dear")


@pytest.mark.parametrize(
    ("tariff", "path", "word"),
    [
        (TokenPrices(input=Decimal("0.0000000001")), "input", "too fine"),
        (TokenPrices(output=Decimal("1e-999999")), "output", "too fine"),
        (TokenPrices(input=Decimal("1e999999999")), "input", "not a price"),
        (TokenPrices(output=Decimal(-1)), "output", "negative"),
        (TokenPrices(call=Decimal("NaN")), "call", "not a price"),
        (TokenPrices(call=Decimal("Infinity")), "call", "not a price"),
        (TokenPrices(input=Decimal("1e999999")), "input", "not a price"),
        (TokenPrices(cached_input=Decimal(-1)), "cached_input", "negative"),
    ],
)
def test_a_price_that_cannot_be_is_refused_by_its_path(
    tariff: TokenPrices, path: str, word: str
) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        book(entry(TokenPrices(), tariff))
    assert caught.value.path == f"models.m.prices[0].charge.{path}"


def test_a_provider_may_pay_back_cached_input_but_a_tenant_is_never_paid() -> None:
    rebate = TokenPrices(input=Decimal(2), cached_input=Decimal(-1))
    usage = Usage(input_tokens=10, cached_input_tokens=10)
    assert price(rebate, TokenPrices()).cost(usage) == -10_000
    with pytest.raises(ConfigError, match="negative"):
        price(rebate)
    with pytest.raises(ConfigError, match="negative"):
        book(PriceEntry(cost=rebate, markup=Decimal(10)))


def test_two_entries_for_one_day_are_refused() -> None:
    with pytest.raises(ConfigError, match="two entries start on 2026-01-01") as caught:
        book(own=(entry(TokenPrices()), entry(TokenPrices())))
    assert caught.value.path == "models.m.deployments[1].prices[1].from"
