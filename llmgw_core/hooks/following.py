"""Which deployments a running plugin knows of, and which hosts still use them. Pure.

A plugin that goes on from one host to the next hears what is new before any call can use it, and
what nobody uses any more after the last call has. Hosts come and go in any order, so what is new
and what is unused follows from who holds what, never from a difference of two configurations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from llmgw_core.domain.deployment import Deployment


class Following:
    """The deployments of one plugin's backends, told apart by their `identity`."""

    def __init__(self) -> None:
        self._held: dict[object, tuple[Deployment, ...]] = {}
        self._known: dict[object, Deployment] = {}
        self._bound: object = None

    def hold(self, holder: object, deployments: Collection[Deployment]) -> None:
        """From now on `holder` uses these."""
        self._held[holder] = tuple(deployments)

    def let_go(self, holder: object) -> None:
        """`holder` uses nothing any more. Idempotent."""
        self._held.pop(holder, None)

    def bind(self, holder: object) -> None:
        """From now on the plugin sees those of `holder` when it asks its context."""
        self._bound = holder

    def visible(self) -> tuple[Deployment, ...]:
        """Those that the plugin sees when it asks."""
        return self._held.get(self._bound, ())

    def learn(self, deployments: Collection[Deployment]) -> None:
        """The plugin knows of these."""
        self._known.update((each.identity, each) for each in deployments)

    def learn_new(self, holder: object) -> tuple[Deployment, ...]:
        """Those of `holder` that the plugin does not know; now it does."""
        held = self._held.get(holder, ())
        new = tuple(each for each in held if each.identity not in self._known)
        self.learn(new)
        return new

    def unused(self) -> tuple[Deployment, ...]:
        """Those that it knows and nobody holds."""
        held = {each.identity for some in self._held.values() for each in some}
        return tuple(each for key, each in self._known.items() if key not in held)

    def forget_unused(self) -> tuple[Deployment, ...]:
        """`unused`; now the plugin does not know them any more."""
        unused = self.unused()
        for each in unused:
            del self._known[each.identity]
        return unused
