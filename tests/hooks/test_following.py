"""Whatever configurations come, fail and end in whatever order: what a plugin has prepared is what
the living ones use."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.domain.deployment import Deployment
from llmgw_core.hooks.following import Following

DEPLOYMENTS = [Deployment(f"m/{name}", "m", "b", "z", "m") for name in "abcd"]
STEPS = st.lists(
    st.tuples(st.sets(st.sampled_from(DEPLOYMENTS)), st.integers(0, 5), st.booleans()), max_size=12
)


class Told:
    """A plugin that believes what it is told."""

    def __init__(self) -> None:
        self.prepared: set[str] = set()

    def added(self, deployments: tuple[Deployment, ...]) -> None:
        ids = {each.id for each in deployments}
        assert not ids & self.prepared
        self.prepared |= ids

    def dropped(self, deployments: tuple[Deployment, ...]) -> None:
        ids = {each.id for each in deployments}
        assert ids <= self.prepared
        self.prepared -= ids


@given(STEPS)
def test_what_is_prepared_is_what_living_configurations_use(
    steps: list[tuple[set[Deployment], int, bool]],
) -> None:
    following, told, living = Following(), Told(), dict[int, set[Deployment]]()
    for number, (deployments, ends, fails) in enumerate(steps):
        following.hold(number, deployments)
        living[number] = deployments
        told.added(following.learn_new(number))
        assert following.learn_new(number) == ()
        assert told.prepared >= {each.id for each in deployments}
        leaving = number if fails else ends
        living.pop(leaving, None)
        following.let_go(leaving)
        following.let_go(leaving)
        assert {each.id for each in following.unused()} <= told.prepared
        told.dropped(following.forget_unused())
        assert told.prepared == {each.id for some in living.values() for each in some}
        assert following.unused() == ()


def test_what_startup_saw_is_what_its_context_showed() -> None:
    first, second = DEPLOYMENTS[:2]
    following = Following()
    following.hold("one", [first])
    assert following.visible() == ()
    following.bind("one")
    following.hold("two", [first, second])
    assert following.visible() == (first,)
    following.learn(following.visible())
    following.bind("two")
    assert following.visible() == (first, second)
    assert following.learn_new("two") == (second,)
