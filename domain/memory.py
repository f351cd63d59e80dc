"""What a fit is: a model's memory in the pools of a node.

A model lies in one pool unless it declares more: ``pools`` is how many of one node's pools it is split over, in equal
shares, and ``ANY_POOLS`` as few as it takes. What it needs of main memory it takes once, however it is split. Figures
are maps from pool to bytes; main memory is among them under ``RAM``, unless nobody knows how much there is, or it is
the very memory of the node's pool: there a model takes both out of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from .claims import RAM, Claim
from .entities import ANY_POOLS, MOST_POOLS, LoadSpec, Node, Replica
from .errors import InvalidField


def spec_on(node: Node, spec: LoadSpec) -> LoadSpec:
    """What the model takes on this node: where one memory serves for both, all of it is taken there."""
    return replace(spec, vram=spec.vram + spec.ram, ram=0) if node.unified and spec.ram else spec


def foreign_within_budget(node: Node, pool: int, budget: int) -> int:
    """Bytes of the pool's budget that others use: what lies outside the budget is theirs first."""
    return max(0, budget + node.foreign[pool] - node.pools[pool])


def shares(spec: LoadSpec, pools: int) -> list[tuple[int, int]]:
    """The ways to split the model over some of ``pools`` pools: how many, and the bytes in each; fewest first."""
    if spec.pools == ANY_POOLS:
        return [(count, share_of(spec, count)) for count in range(1, min(pools, MOST_POOLS) + 1)]
    return [(spec.pools, share_of(spec, spec.pools))] if spec.pools <= pools else []


def share_of(spec: LoadSpec, count: int) -> int:
    """The bytes in each of ``count`` pools."""
    return -(-spec.vram // count)


def least_share(spec: LoadSpec) -> int:
    """No fit is possible on a node none of whose pools has this much free."""
    return share_of(spec, MOST_POOLS if spec.pools == ANY_POOLS else spec.pools)


def lacks_ram(free: Mapping[int, int], spec: LoadSpec) -> bool:
    """Whether less main memory is free than the model needs; who needs none lacks none, though others hold too much."""
    return 0 < spec.ram > free.get(RAM, spec.ram)


def fit(free: Mapping[int, int], spec: LoadSpec) -> Claim | None:
    """The pools where the model leaves the smallest rests, and its main memory; None when it does not fit."""
    return None if lacks_ram(free, spec) else fit_in_pools(free, spec)


def fit_in_pools(free: Mapping[int, int], spec: LoadSpec) -> Claim | None:
    """The same, whether or not there is main memory for it."""
    if spec.vram == 0:
        return _and_ram((), spec.ram)
    for count, share in shares(spec, _pools_in(free)):
        fitting = [(size, pool) for pool, size in free.items() if size >= share and pool != RAM]
        if len(fitting) >= count:
            least = [min(fitting)] if count == 1 else sorted(fitting)[:count]
            return _and_ram(sorted([(pool, share) for _, pool in least]), spec.ram)
    return None


def fit_after(balance: Mapping[int, int], room: Mapping[int, int], spec: LoadSpec) -> tuple[Claim, Claim] | None:
    """Where the model fits once ``balance`` has grown to ``room``, and what it is owed there until then; None if not.

    The pools that owe it least are taken.
    """
    if lacks_ram(room, spec):
        return None
    owed_ram = max(0, spec.ram - max(0, balance.get(RAM, spec.ram)))
    if spec.vram == 0:
        return _and_ram((), spec.ram), _and_ram((), owed_ram)
    for count, share in shares(spec, _pools_in(room)):
        fitting = [(_owed(share, balance[pool]), pool) for pool, size in room.items() if size >= share and pool != RAM]
        if len(fitting) >= count:
            least = [min(fitting)] if count == 1 else sorted(fitting)[:count]
            taken = sorted([(pool, owed) for owed, pool in least])
            claim = [(pool, share) for pool, _ in taken]
            return _and_ram(claim, spec.ram), _and_ram([entry for entry in taken if entry[1]], owed_ram)
    return None


def room_after(balance: Mapping[int, int], leaving: Iterable[Replica]) -> dict[int, int]:
    """What there is of each pool and of main memory once these have left."""
    room = dict(balance)
    for replica in leaving:
        for pool, size in replica.claim:
            if pool in room:
                room[pool] += size
    return room


def _owed(share: int, balance: int) -> int:
    """What a pool with this balance still lacks for its share."""
    if balance <= 0:
        return share
    return share - balance if share > balance else 0


def _pools_in(figures: Mapping[int, int]) -> int:
    return len(figures) - (RAM in figures)


def _and_ram(in_pools: Iterable[tuple[int, int]], ram: int) -> Claim:
    return (*in_pools, (RAM, ram)) if ram else tuple(in_pools)


def parse_pools(value: object, field: str) -> int:
    """Over how many of a node's memory pools a model is split: a number, or ``"any"`` for as few as it takes."""
    if value == "any":
        return ANY_POOLS
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_POOLS:
        cure = f'Give 1 to {MOST_POOLS}, or "any" for as few as it takes.'
        raise InvalidField(field, f"{value!r} is no number of pools", cure=cure)
    return value
