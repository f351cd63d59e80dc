"""Wishes: which node makes room where several would do at about the same cost.

A soft anti-affinity group and a placement profile say where a replica should be. Making room costs others something,
so they do not outweigh that: they decide among the nodes where it takes equally few victims that cost less than
``ABOUT_THE_SAME`` times as much as the cheapest.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .entities import Model
from .scoring import Standing, profile_of, weigh
from .state import State

ABOUT_THE_SAME = 2

Cost = tuple[bool, int, int, int, str]
"""What making room somewhere costs: whether the last load failed there, victims, what reloading them moves, when the
latest of them was used, and the node's name. Less is better."""


class Offer(msgspec.Struct, frozen=True, gc=False):
    """The best set of victims on one node: what it costs, and how the node stands once they have left."""

    cost: Cost
    victims: tuple[str, ...]
    standing: Standing


def has_wishes(state: State, model: Model) -> bool:
    """Whether the model is to be anywhere in particular."""
    return bool(model.scheduling.anti_affinity or profile_of(state, model).weights)


def by_wishes(state: State, model: Model, offers: Sequence[Offer], best: Cost) -> list[tuple[Standing, Offer]]:
    """The offers that cost about as little as the best, the most wished for first; among equals the least cost."""
    most = max(best[2], ABOUT_THE_SAME * best[2] - 1)
    about = [offer for offer in offers if offer.cost[:2] == best[:2] and offer.cost[2] <= most]
    of_node = {offer.standing.room.node: offer for offer in about}
    standings = weigh(state, model, profile_of(state, model), [offer.standing for offer in about])
    ranked = [(standing, of_node[standing.room.node]) for standing in standings]
    ranked.sort(key=lambda entry: (entry[0].avoided, -entry[0].total, entry[1].cost))
    return ranked
