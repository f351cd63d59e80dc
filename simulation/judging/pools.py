"""What a claim must look like, said a second time for the judges: without the core's own way to fit."""

from __future__ import annotations

from collections.abc import Sequence

from interlock.domain.claims import Claim
from interlock.domain.entities import ANY_POOLS, LoadSpec


def wrong_claim(spec: LoadSpec, claim: Claim) -> str:
    """What is wrong with a claim for this model, in words; empty when nothing is."""
    if not spec.vram:
        return "claims memory, and needs none" if claim else ""
    pools = [pool for pool, _ in claim]
    if not claim or len(set(pools)) < len(pools):
        return f"claims {len(pools)} pools, some of them twice" if claim else "claims no memory"
    if spec.pools != ANY_POOLS and len(pools) != spec.pools:
        return f"claims {len(pools)} pools, and is to be split over {spec.pools}"
    least = min(size for _, size in claim)
    return "claims less in its pools than it takes there" if least * len(pools) < spec.vram else ""


def could_lie_in(pools: Sequence[int], spec: LoadSpec) -> bool:
    """Whether the model could lie in pools of these sizes if they were empty."""
    if not spec.vram:
        return True
    counts = range(1, len(pools) + 1) if spec.pools == ANY_POOLS else (spec.pools,)
    return any(sum(size * count >= spec.vram for size in pools) >= count for count in counts)
