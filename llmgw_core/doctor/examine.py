"""Ask everybody who knows configured limits, and try each limit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llmgw_core.config.load import load_file
from llmgw_core.config.ready import checked
from llmgw_core.doctor.brakes import brakes
from llmgw_core.doctor.budgets import budgets_of_levels
from llmgw_core.doctor.caps import caps_of_deployments
from llmgw_core.doctor.limits import limits_of_levels, limits_of_models
from llmgw_core.doctor.scene import replica
from llmgw_core.doctor.verdict import SOURCES, Problem, Report, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llmgw_core.doctor.scene import Scene
    from llmgw_core.doctor.verdict import Suspect

SECONDS = 60.0

SOURCES += (
    limits_of_levels,
    limits_of_models,
    caps_of_deployments,
    budgets_of_levels,
    brakes,
)


async def examine(path: Path | str, *, seconds: float = SECONDS) -> Report:
    """Whether every limit of the installation whose configuration is the file `path` bites. After
    `seconds` the rest is left untried. Raises `ConfigError` and `StoreUnavailable`."""
    file = load_file(path)
    with file.locating():
        config = checked(file, file.path.parent)
    async with replica(config, file.path.parent) as scene:
        return await judge(scene, seconds=seconds)


async def judge(
    scene: Scene, *, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic
) -> Report:
    """Of everything that is set in `scene`."""
    end = clock() + seconds
    verdicts = []
    for suspect in [each for source in SOURCES for each in source(scene)]:
        before = scene.canaries
        problem = suspect.look(scene)
        if problem is None:
            problem = _UNTRIED if clock() >= end else await suspect.prove(scene)
        verdicts.append(_verdict(suspect, scene.canaries - before, problem))
    return Report(tuple(verdicts))


def _verdict(suspect: Suspect, canaries: int, problem: Problem | None) -> Verdict:
    return Verdict(suspect.where, suspect.what, suspect.id, canaries, problem)


_UNTRIED = Problem("untried", "The time was over before it was tried.", "Give it more --seconds.")
