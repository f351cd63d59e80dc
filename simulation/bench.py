"""The load that ``bench simulate`` measures, and its measure: requests per second of wall time, beside bare SimPy."""

from __future__ import annotations

import time

import msgspec
import simpy

from interlock.domain.entities import LoadSpec, Scheduling
from interlock.domain.units import DAY, GIB, SECOND

from .harness import Harness, Options
from .reading.fields import Distribution
from .reading.scenario import ModelSpec, NodeSpec, ReplicaSpec, Scenario, WorkloadSpec

REPLICAS_PER_NODE = 10
TIMEOUTS_PER_REQUEST = 2
"""One until a request arrives, one until it has been served."""


class Measured(msgspec.Struct, frozen=True):
    """One run's figures: requests and events a second, and bare SimPy's requests with as many timeouts."""

    requests: int
    served: int
    events: int
    wall_seconds: float
    requests_per_second: float
    bare_per_second: float
    holds: bool


def fleet(nodes: int = 1_000, requests: int = 1_000_000, length: int = DAY) -> Scenario:
    """A fleet of ``nodes`` with ten loaded replicas each, and about so many requests spread over ``length``."""
    models = max(REPLICAS_PER_NODE, nodes // 10)
    replicas = [
        ReplicaSpec(model=f"m{(number * REPLICAS_PER_NODE + slot) % models}", node=f"n{number}")
        for number in range(nodes)
        for slot in range(REPLICAS_PER_NODE)
    ]
    scheduling = Scheduling(min_replicas=nodes * REPLICAS_PER_NODE // models, parallel=4)
    weights = tuple((f"m{number}", 1 / (number + 1) ** 0.8) for number in range(models))
    return Scenario(
        name="fleet",
        source="fleet",
        duration=length,
        nodes=tuple(NodeSpec(name=f"n{number}", pools=(80 * GIB,)) for number in range(nodes)),
        models=tuple(
            ModelSpec(
                name=f"m{number}",
                spec=LoadSpec(backend="llama-cpp", vram=7 * GIB),
                scheduling=scheduling,
                service_time=Distribution("exp", 2 * SECOND),
            )
            for number in range(models)
        ),
        replicas=tuple(replicas),
        workloads=(WorkloadSpec(kind="poisson", models=weights, rate=requests * SECOND / length),),
    )


def bare(timeouts: int) -> float:
    """Seconds that SimPy alone takes for so many timeouts, agreed one after another."""
    env = simpy.Environment()
    left = timeouts

    def again(event: object) -> None:
        nonlocal left
        left -= 1
        if left > 0:
            env.timeout(1).callbacks.append(again)

    env.timeout(1).callbacks.append(again)
    began = time.perf_counter()
    env.run()
    return time.perf_counter() - began


def measure(nodes: int = 1_000, requests: int = 1_000_000, length: int = DAY) -> Measured:
    """Run the fleet with the incremental invariants on, and the full ones at its end."""
    options = Options(keep_log=False, checkpoint_events=2**62)
    harness = Harness(fleet(nodes, requests, length), options).run()
    submitted = harness.tally.submitted
    return Measured(
        requests=submitted,
        served=harness.tally.served,
        events=harness.numbers.events,
        wall_seconds=harness.wall_seconds,
        requests_per_second=submitted / harness.wall_seconds,
        bare_per_second=submitted / max(1e-9, bare(TIMEOUTS_PER_REQUEST * submitted)),
        holds=not harness.invariants.violations,
    )
