"""What a claim must look like, said a second time for the judges: without the core's own way to fit."""

from __future__ import annotations

from collections.abc import Mapping

from interlock.domain.claims import RAM, Claim
from interlock.domain.entities import ANY_POOLS, LoadSpec
from interlock.domain.units import format_size


def there(spec: LoadSpec, *, unified: bool) -> LoadSpec:
    """What the model takes on a node; on one with a single memory it takes its main memory out of its one pool."""
    if not unified:
        return spec
    return LoadSpec(backend=spec.backend, vram=spec.vram + spec.ram, disk=spec.disk, pools=spec.pools)


def wrong_claim(spec: LoadSpec, claim: Claim) -> str:
    """What is wrong with a claim for this model, in words; empty when nothing is."""
    sizes = dict(claim)
    if sizes.pop(RAM, 0) != spec.ram:
        return f"claims other main memory than the {format_size(spec.ram)} that it takes"
    if not spec.vram:
        return "claims memory, and needs none" if sizes else ""
    pools = [pool for pool, _ in claim if pool != RAM]
    if not pools or len(set(pools)) < len(pools):
        return f"claims {len(pools)} pools, some of them twice" if pools else "claims no memory"
    if spec.pools != ANY_POOLS and len(pools) != spec.pools:
        return f"claims {len(pools)} pools, and is to be split over {spec.pools}"
    least = min(sizes.values())
    return "claims less in its pools than it takes there" if least * len(pools) < spec.vram else ""


def could_lie_in(sizes: Mapping[int, int], spec: LoadSpec) -> bool:
    """Whether the model could lie in pools of these sizes if they were empty."""
    if 0 < spec.ram > sizes.get(RAM, spec.ram):
        return False
    if not spec.vram:
        return True
    pools = [size for pool, size in sizes.items() if pool != RAM]
    counts = range(1, len(pools) + 1) if spec.pools == ANY_POOLS else (spec.pools,)
    return any(sum(size * count >= spec.vram for size in pools) >= count for count in counts)


def would_hold(claim: Claim, spec: LoadSpec) -> bool:
    """Whether what was claimed for another model would be enough for this one, which lies in one pool."""
    sizes = dict(claim)
    return spec.ram <= sizes.pop(RAM, 0) and spec.vram <= max(sizes.values(), default=0)


def name_of(pool: int) -> str:
    """What a person calls the pool."""
    return "main memory" if pool == RAM else f"pool {pool}"
