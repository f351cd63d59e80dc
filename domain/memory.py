"""What a fit is: a model's memory in the pools of a node.

A model lies in one pool unless it declares more: ``pools`` is how many of one node's pools it is split over, in equal
shares, and ``ANY_POOLS`` as few as it takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .claims import Claim
from .entities import ANY_POOLS, MOST_POOLS, LoadSpec
from .errors import InvalidField


def shares(spec: LoadSpec, pools: int) -> Iterator[tuple[int, int]]:
    """The ways to split the model over some of ``pools`` pools: how many, and the bytes in each; fewest first."""
    counts: Iterable[int] = (spec.pools,) if spec.pools != ANY_POOLS else range(1, min(pools, MOST_POOLS) + 1)
    for count in counts:
        if count <= pools:
            yield count, share_of(spec, count)


def share_of(spec: LoadSpec, count: int) -> int:
    """The bytes in each of ``count`` pools."""
    return -(-spec.vram // count)


def least_share(spec: LoadSpec) -> int:
    """No fit is possible on a node none of whose pools has this much free."""
    return share_of(spec, MOST_POOLS if spec.pools == ANY_POOLS else spec.pools)


def fit(free: tuple[int, ...], spec: LoadSpec) -> Claim | None:
    """The pools where the model leaves the smallest rests; None when it does not fit."""
    if spec.vram == 0:
        return ()
    for count, share in shares(spec, len(free)):
        fitting = sorted((size, pool) for pool, size in enumerate(free) if size >= share)
        if len(fitting) >= count:
            return tuple(sorted((pool, share) for _, pool in fitting[:count]))
    return None


def fit_after(free: tuple[int, ...], room: tuple[int, ...], spec: LoadSpec) -> tuple[Claim, Claim] | None:
    """Where the model fits once ``free`` has grown to ``room``, and what it is owed there until then; None if not.

    The pools that owe it least are taken.
    """
    if spec.vram == 0:
        return (), ()
    for count, share in shares(spec, len(room)):
        fitting = sorted((max(0, share - free[pool]), pool) for pool, size in enumerate(room) if size >= share)
        if len(fitting) >= count:
            taken = sorted(fitting[:count], key=lambda entry: entry[1])
            claim = tuple((pool, share) for _, pool in taken)
            return claim, tuple((pool, owed) for owed, pool in taken if owed)
    return None


def parse_pools(value: object, field: str) -> int:
    """Over how many of a node's memory pools a model is split: a number, or ``"any"`` for as few as it takes."""
    if value == "any":
        return ANY_POOLS
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_POOLS:
        cure = f'Give 1 to {MOST_POOLS}, or "any" for as few as it takes.'
        raise InvalidField(field, f"{value!r} is no number of pools", cure=cure)
    return value
