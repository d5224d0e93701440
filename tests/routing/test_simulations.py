"""The claims of docs/explanation/balancing.md, from the same simulations."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.routing.strategies import BALANCERS
from llmgw_core.routing.strategies.affinity import PrefixOptions
from llmgw_core.testing.simulated_engines import EngineSpec, Traffic, simulate

if TYPE_CHECKING:
    from llmgw_core.testing.simulated_engines import Outcome

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench() -> Any:
    path = REPOSITORY / "tests" / "bench" / "balancing.py"
    spec = importlib.util.spec_from_file_location("bench_balancing", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def unequal(bench: Any) -> dict[str, Outcome]:
    return {row.balancer: row.outcome for row in bench.unequal()}


@pytest.fixture(scope="module")
def prefixes(bench: Any) -> dict[str, Outcome]:
    return {row.balancer: row.outcome for row in bench.prefixes()}


def test_every_call_is_accounted_for(unequal: dict[str, Outcome]) -> None:
    assert len({outcome.calls for outcome in unequal.values()}) == 1  # the same traffic for all
    for outcome in unequal.values():
        answered = len(outcome.waits)
        assert outcome.calls == answered + outcome.failed
        assert answered == outcome.served.total()
        assert outcome.attempts >= outcome.calls


@pytest.mark.parametrize("name", ["least_outstanding", "peak_ewma"])
def test_who_looks_at_load_is_far_ahead_of_taking_turns(
    unequal: dict[str, Outcome], name: str
) -> None:
    turns, better = unequal["round_robin"], unequal[name]
    assert better.wait(0.99) < turns.wait(0.99) / 5
    assert better.goodput(2.0) > 0.98
    assert turns.goodput(2.0) < 0.9


def test_affinity_is_ahead_of_taking_turns_since_it_yields(unequal: dict[str, Outcome]) -> None:
    for name in ("prefix_affinity", "session_affinity"):
        assert unequal[name].wait(0.99) < unequal["round_robin"].wait(0.99) / 3
        assert unequal[name].goodput(2.0) > unequal["round_robin"].goodput(2.0) + 0.2


def test_prefix_affinity_finds_more_in_the_caches_and_starves_no_engine(
    prefixes: dict[str, Outcome],
) -> None:
    without, affine = prefixes["least_outstanding"], prefixes["prefix_affinity"]
    assert affine.hit_rate() > without.hit_rate() + 0.15
    assert affine.goodput(2.0) > without.goodput(2.0)
    assert affine.wait(0.99) < without.wait(0.99) * 1.1
    assert min(affine.served.values()) > affine.calls / 4 / 3
    assert len(affine.served) == 4


def test_one_hot_prompt_is_spread_over_all_engines_when_one_is_not_enough() -> None:
    engines = [EngineSpec(f"e{number}", cache=4) for number in range(4)]
    hot = simulate(BALANCERS["prefix_affinity"], engines, Traffic(12.0, 60.0, prefixes=1))
    assert len(hot.served) == 4
    assert max(hot.served.values()) < hot.calls / 2
    assert hot.goodput(2.0) > 0.99
    tight = PrefixOptions(bound=1.0, always=0, explore=0.0)
    even = simulate(
        BALANCERS["prefix_affinity"], engines, Traffic(12.0, 60.0, prefixes=1), options=tight
    )
    assert min(even.served.values()) > hot.calls / 6


def test_the_same_seed_gives_the_same_and_another_one_something_like_it() -> None:
    engines = [EngineSpec("a"), EngineSpec("b", speed=0.5)]
    first, again, other = (
        simulate(BALANCERS["peak_ewma"], engines, Traffic(4.0, 30.0), seed=seed)
        for seed in (1, 1, 2)
    )
    assert first == again
    assert other != first
    assert other.wait(0.5) == pytest.approx(first.wait(0.5), rel=0.5)


def test_nobody_is_asked_in_vain_when_all_engines_are_down() -> None:
    engines = [EngineSpec("a", down=((0.0, 60.0),)), EngineSpec("b", down=((0.0, 60.0),))]
    outcome = simulate(BALANCERS["round_robin"], engines, Traffic(5.0, 20.0))
    assert (outcome.failed, outcome.waits) == (outcome.calls, [])
    assert outcome.attempts <= 2 * outcome.calls


def rows(text: str) -> dict[tuple[int, str], list[float]]:
    """The numbers of all tables of balancers by the number of the table and the balancer."""
    found: dict[tuple[int, str], list[float]] = {}
    table = 0
    for line in text.splitlines():
        if line.startswith("| balancer |"):
            table += 1
        match = re.fullmatch(r"\| `(\w+)` \|((?: [\d.]+%? \|)+)", line)
        if match:
            cells = match[2].replace("%", "").split("|")[:-1]
            found[table, match[1]] = [float(cell) for cell in cells]
    return found


def test_the_tables_of_the_page_say_what_the_simulations_say(bench: Any) -> None:
    """To a tenth: the last digits may differ with the mathematics of the machine."""
    page = REPOSITORY / "docs" / "explanation" / "balancing.md"
    written, now = rows(page.read_text(encoding="utf-8")), rows(bench.tables())
    assert written.keys() == now.keys()
    assert len(written) == 2 * len(BALANCERS) - 1
    for name, numbers in now.items():
        assert written[name] == pytest.approx(numbers, rel=0.1, abs=0.2), name


def test_options_of_a_balancer_can_be_tried(bench: Any) -> None:
    options = msgspec.convert({"prefix_bytes": 8, "explore": 0.0}, PrefixOptions)
    traffic = Traffic(10.0, 30.0, prompt=8000, answer=50, prefixes=100)
    # Of eight bytes all prompts have the same: one home, and whoever it yields to.
    blind = simulate(BALANCERS["prefix_affinity"], bench.EQUAL, traffic, options=options)
    seeing = simulate(BALANCERS["prefix_affinity"], bench.EQUAL, traffic)
    assert blind.hit_rate() < seeing.hit_rate()
