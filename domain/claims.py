"""Claims: bytes per memory pool, main memory among the pools, and sums of them."""

from __future__ import annotations

from collections.abc import Iterable

from .units import format_size

Claim = tuple[tuple[int, int], ...]
"""Bytes per memory pool: ``((pool index, bytes), ...)`` in order of index, without zeros."""
RAM = 1 << 16
"""The index under which a node's main memory stands among its pools: beyond any that a machine has."""


def total(claim: Claim) -> int:
    """The bytes of a claim in all its pools together."""
    size = 0
    for _, part in claim:  # faster than a sum over so few
        size += part
    return size


def sum_of(claims: Iterable[Claim]) -> dict[int, int]:
    """What several claims come to, by pool."""
    figures: dict[int, int] = {}
    for claim in claims:
        for pool, size in claim:
            figures[pool] = figures.get(pool, 0) + size
    return figures


def in_pools(claim: Claim) -> Claim:
    """A claim without what it takes of main memory."""
    return tuple([entry for entry in claim if entry[0] != RAM])


def format_claim(claim: Claim) -> str:
    """What a claim takes: so much memory, and so much main memory where it takes any."""
    memory = in_pools(claim)
    sizes = [format_size(total(memory))] if memory or not claim else []
    return " and ".join([*sizes, *(f"{format_size(size)} of main memory" for pool, size in claim if pool == RAM)])


def fold(claim: Claim) -> Claim:
    """A claim of a machine whose one pool is its main memory: all of it lies there."""
    return ((0, total(claim)),) if any(pool == RAM for pool, _ in claim) else claim


def in_ram(claim: Claim) -> int:
    """What a claim takes of main memory."""
    return dict(claim).get(RAM, 0)


def less(claim: Claim, part: Claim) -> Claim:
    """What is left of a claim without a part of it; never below nothing."""
    if not part:
        return claim
    taken = dict(part)
    rest = ((pool, size - taken.get(pool, 0)) for pool, size in claim)
    return tuple((pool, size) for pool, size in rest if size > 0)


def overlap(claim: Claim, other: Claim) -> Claim:
    """What two claims have in common: in each pool the smaller of both."""
    theirs = dict(other)
    common = ((pool, min(size, theirs.get(pool, 0))) for pool, size in claim)
    return tuple((pool, size) for pool, size in common if size > 0)
