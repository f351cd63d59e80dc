"""Claims: bytes per memory pool, and sums of them."""

from __future__ import annotations

Claim = tuple[tuple[int, int], ...]
"""Bytes per memory pool: ``((pool index, bytes), ...)`` in order of index, without zeros."""


def total(claim: Claim) -> int:
    """The bytes of a claim in all its pools together."""
    return sum(size for _, size in claim)


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
