"""Other ways to choose victims, to compare ours with. They are put into the core from outside, as mutants are.

Each only chooses: who may be a victim at all, and whether a set makes room, the core's own rules say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import msgspec

from interlock.domain import churn, eviction
from interlock.domain.errors import NotFound
from interlock.domain.eviction import Search

from .judging import making_room, use_rules
from .mutants.patching import Patches

Order = Callable[[Any, Any, int], Any]
"""What a replica is sorted by, of (replica, beneficiary, now): the first in order goes first."""


class Policy(msgspec.Struct, frozen=True):
    """A way to choose victims. ``make`` puts it in place; the seed is for those that draw lots."""

    name: str
    description: str
    make: Callable[[Patches, int], None]


def _ours(patches: Patches, seed: int) -> None:
    """Nothing is replaced."""


def _never(patches: Patches, seed: int) -> None:
    patches.swap(eviction.find_victims, lambda at, model, now, *, strictly=False: Search())


def _lru(patches: Patches, seed: int) -> None:
    _in_order(patches, lambda replica, model, now: (replica.used_at, replica.serial))


def _cheapest(patches: Patches, seed: int) -> None:
    _in_order(patches, lambda replica, model, now: (sum(size for _, size in replica.claim), replica.used_at))


def _largest(patches: Patches, seed: int) -> None:
    _in_order(patches, lambda replica, model, now: (-sum(size for _, size in replica.claim), replica.used_at))


def _random(patches: Patches, seed: int) -> None:
    """Lots are a function of the moment, so that asking twice at one moment gives one answer."""

    def lot(replica: Any, model: Any, now: int) -> bytes:
        return blake2b(f"{seed}/{now}/{model.name}/{replica.id}".encode(), digest_size=8).digest()

    _in_order(patches, lot)


def _in_order(patches: Patches, order: Order) -> None:
    """Victims one by one in this order over all candidates, until a node has room; who is not needed for it stays."""
    possible: list[tuple[Any, Any, int]] = []

    def gather(at: Any, model: Any, node: Any, replicas: list[Any], disk: int, now: int, search: Any) -> None:
        possible.extend((replica, node, disk) for replica in replicas)

    def find(at: Any, model: Any, now: int, *, strictly: bool = False) -> Search:
        possible.clear()
        search = Search()
        for _, name in at.candidates(model).open:
            eviction._weigh_node(at, model, at.nodes[name], now, search, strictly=strictly)
        leaving: dict[str, list[Any]] = {}
        for replica, node, disk in sorted(possible, key=lambda row: order(row[0], model, now)):
            victims = leaving.setdefault(node.name, [])
            if node.name in search.bounded:
                continue
            victims.append(replica)
            if _makes_room(at, model, node, victims, disk, search):
                for kept in victims[-2::-1]:
                    fewer = [victim for victim in victims if victim is not kept]
                    if _makes_room(at, model, node, fewer, disk, search):
                        victims = fewer
                if not _over_bound(at, node, len(victims), now, search):
                    break
        return search

    patches.attribute(use_rules, "NODES_JUDGED", 0)  # who goes first is what differs
    patches.attribute(making_room, "NODES_JUDGED", 0)
    patches.swap(eviction._weigh_sets, gather)
    patches.swap(eviction.find_victims, find)


def _over_bound(at: Any, node: Any, victims: int, now: int, search: Search) -> bool:
    """Whether the node takes so many evictions later at the earliest; then it is another node's turn."""
    counted = churn.counted_evictions(at, node, now)
    until = churn.evictable_from(at, counted, victims)
    if until:
        search.best = None
        search.bounded[node.name] = (len(counted), until)
        search.safe_until = min(search.safe_until, until)
    return bool(until)


def _makes_room(at: Any, model: Any, node: Any, victims: list[Any], disk: int, search: Search) -> bool:
    """Whether room is there without them; it is what ``search`` has found then."""
    found = Search()
    if not eviction.weigh_set(at, model, eviction.ground_of(at, model, node, disk), tuple(victims), found):
        return False
    search.best, search.cost = found.best, found.cost
    return True


POLICIES = {
    policy.name: policy
    for policy in (
        Policy("ours", "as the scheduler does it", _ours),
        Policy("lru", "the least recently used first, whatever it costs to reload", _lru),
        Policy("cheapest", "the one that is reloaded fastest first, then the least recently used", _cheapest),
        Policy("largest", "the largest first, so that few go", _largest),
        Policy("random", "any that may go", _random),
        Policy("never", "nothing is ever evicted", _never),
    )
}
"""Every policy by its name; ours first."""


def find(name: str) -> Policy:
    """The policy of that name; raises NotFound with the names that there are."""
    policy = POLICIES.get(name)
    if policy is None:
        raise NotFound("policy", name, cure=f"There are: {', '.join(POLICIES)}.")
    return policy


@contextmanager
def in_place(name: str, seed: int) -> Iterator[None]:
    """Put the policy in place while the block runs."""
    patches = Patches()
    try:
        find(name).make(patches, seed)
        yield
    finally:
        patches.undo()
