"""``bench simulate``: requests a second of wall time in a large simulated fleet, beside bare SimPy."""

from __future__ import annotations

from interlock.domain.errors import InvariantBroken
from interlock.domain.units import DAY
from interlock.simulation import bench

from .report import Row, Scale, Tell, row

NODES = 1_000
REQUESTS = 1_000_000
REQUESTS_PER_SECOND = 5_000
RUNS = 3
"""A full run takes a minute and a half, so that there are fewer of them than elsewhere."""


def measure(scale: Scale, tell: Tell) -> list[Row]:
    """1,000 nodes, 10,000 replicas, a million requests over a virtual day, with the incremental invariants on."""
    measured = []
    for number in range(min(RUNS, scale.runs)):
        tell(f"simulate: run {number + 1}")
        measured.append(bench.measure(scale.of(NODES, 20), scale.of(REQUESTS, 2_000), int(DAY * min(1.0, scale.share))))
    if not all(one.holds for one in measured):
        raise InvariantBroken("The benchmark's fleet has broken an invariant.", cure="Run `interlock simulate mixed`.")
    bare = min(one.bare_per_second for one in measured)
    return [
        row(
            f"{scale.of(NODES, 20)} nodes, {measured[0].requests} requests",
            [one.requests_per_second for one in measured],
            "requests/s",
            limit=bare,
            bar=f"≥ {REQUESTS_PER_SECOND} requests/s",
            holds=lambda value, _: value >= REQUESTS_PER_SECOND,
        )
    ]
