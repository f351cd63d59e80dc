"""Situations with one picture go on alike: what a picture leaves out decides nothing, in no situation that is reached.

An exploration takes the steps of one situation for all that have its picture. Here others that have it take them too.
"""

from __future__ import annotations

import pytest

from interlock.simulation.prove import image
from interlock.simulation.prove.explore import Core, Edge, Exploration
from interlock.simulation.prove.scope import Scope
from interlock.simulation.prove.scopes import bundled_scopes, load_scope
from interlock.simulation.prove.situation import Situation
from interlock.simulation.prove.start import begin

SMALL = (
    "orin-thor", "backend-gone", "reconciler", "failed-elsewhere", "impossible", "two-tenants-one-slot", "cut-off",
    "evict-reload-cycle",
)  # fmt: skip
STATES = 2_500
EVERY = 3
EXPLORED = [name for name in bundled_scopes() if name not in ("writer-protocol", "two-priorities-one-slot")]
"""All but a model of its own, and one where time passes by steps: who ages a step after another needs no instant."""


class Doubting(Exploration):
    """An exploration that remembers every so many-th situation whose picture was known already."""

    def __init__(self, scope: Scope, every: int) -> None:
        self.others: list[tuple[int, Situation]] = []
        self._met, self._every = 0, every
        super().__init__(scope, begin(scope))

    def _core(self, situation: Situation) -> int:
        known = len(self.cores)
        found = super()._core(situation)
        if found < known:
            self._met += 1
            if self._met % self._every == 0:
                self.others.append((found, situation))
        return found

    def steps_of(self, situation: Situation, number: int) -> Core:
        """The situation with its own steps, as far as those of its picture are known."""
        own = Core(situation, image.take(situation, self.words), ())
        self._open(number, own, list(self.cores[number].edges))
        return own


def by_action(core: Core) -> dict[object, Edge]:
    return {edge.action.key: edge for edges in core.edges.values() for edge in edges}


def first_in_line(situation: Situation) -> set[int]:
    heads = {queue[0][2] for queue in situation.state.queues.values()}
    return {place for place, request in enumerate(situation.state.requests) if request in heads}


def check(scope: Scope, states: int, every: int) -> int:
    """Compare; how many situations were."""
    doubting = Doubting(scope, every)
    doubting.run(states)
    others, doubting.others = doubting.others, []
    for number, situation in others:
        wanted, got = by_action(doubting.cores[number]), by_action(doubting.steps_of(situation, number))
        assert got.keys() == wanted.keys()
        heads = first_in_line(situation)
        for key, edge in got.items():
            like = wanted[key]
            assert edge.target == like.target, key
            assert (edge.label.effects, edge.label.findings) == (like.label.effects, like.label.findings), key
            # Who becomes the first in line may have been told what it waits for when it came: no event says so again.
            assert not heads.intersection({*edge.label.decided} ^ {*like.label.decided}), key
    return len(others)


@pytest.mark.parametrize("name", SMALL)
def test_another_situation_with_the_same_picture_takes_the_same_steps(name: str) -> None:
    assert check(load_scope(name), STATES, EVERY) > 20


@pytest.mark.soak
@pytest.mark.parametrize("name", EXPLORED)
def test_so_does_any_other_in_all_of_every_scope(name: str) -> None:
    assert check(load_scope(name), 100_000, 5) > 10
