"""``bench affinity``: what prefix caches save when prompts follow their replica, beside the plain rule.

Simulated, so that the figures are the same everywhere: eight replicas that keep 2,000 blocks each, and serve eight
requests at once. ``python -m interlock.adapters.bench.affinity SIZES.csv`` compares settings on a recorded trace.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from interlock.domain import events as ev
from interlock.domain.codec import decode_event
from interlock.domain.entities import LoadSpec, Scheduling
from interlock.domain.settings import Settings
from interlock.domain.units import GIB, MILLISECOND, MINUTE, SECOND
from interlock.simulation.conversations import Sized, drawn, over, recorded
from interlock.simulation.harness import Harness
from interlock.simulation.percentiles import percentile
from interlock.simulation.prompts import Talk
from interlock.simulation.reading.fields import Distribution
from interlock.simulation.reading.scenario import ModelSpec, NodeSpec, ReplicaSpec, Scenario, WorkloadSpec
from interlock.simulation.report import report

from .report import Row, Scale, Tell, row

NODES = 8
REQUESTS = 19_366
RATE = 5.5
"""As many a second as in the recorded trace."""


class Figures(msgspec.Struct, frozen=True):
    """One run: the share of blocks that were cached; how long computing prompts, services and waits took, in seconds.

    ``apart``: requests in flight on the busiest replica less those on the idlest, at a lock: the 99th percentile and
    the most. ``busiest``: the share that the busiest replica served, times the number of replicas. ``bytes_of_marks``:
    what the marks of its prompt add to the event of a lock.
    """

    cached: float
    prefill_p50: float
    prefill_p95: float
    service_p50: float
    service_p95: float
    wait_p95: float
    wait_p99: float
    apart_p99: int
    apart_most: int
    busiest: float
    bytes_of_marks: float


def world(workload: WorkloadSpec, length: int, affinity: int, seed: int = 1, parallel: int = 8) -> Scenario:
    """Eight nodes with a replica each. A block of 64 tokens takes 12 ms to compute."""
    model = ModelSpec(
        name="m",
        spec=LoadSpec(backend="llama-cpp", vram=18 * GIB),
        scheduling=Scheduling(everywhere=True, parallel=parallel),
        service_time=Distribution("lognormal", 4 * SECOND, 0.8),
        prefill_time=12 * MILLISECOND,
        prefix_cache=2_000,
    )
    return Scenario(
        name="affinity",
        source="affinity",
        seed=seed,
        duration=length,
        settings={"prefix_affinity": affinity},
        nodes=tuple(NodeSpec(name=f"n{number}", pools=(24 * GIB,)) for number in range(NODES)),
        models=(model,),
        replicas=tuple(ReplicaSpec(model="m", node=f"n{number}") for number in range(NODES)),
        workloads=(workload,),
    )


def talking(scale: Scale) -> tuple[WorkloadSpec, int]:
    """Conversations under eight system prompts, five turns long on average."""
    length = scale.of(60 * MINUTE, 2 * MINUTE)
    talk = Talk(systems=8, system_blocks=12, turns=5.0, turn_blocks=5.0, pause=30 * SECOND)
    return WorkloadSpec(kind="conversations", models=(("m", 1.0),), rate=1.1, talk=talk), length


def traced(sizes: Iterable[Sized], path: Path, seed: int = 1) -> tuple[WorkloadSpec, int]:
    """Conversations laid over requests of these sizes, by way of a file in Mooncake's format."""
    last = 0
    with path.open("w", encoding="utf-8") as file:
        for line in over(sizes, seed):
            last = int(str(line["timestamp"]))
            file.write(json.dumps(line) + "\n")
    spec = WorkloadSpec(kind="trace", models=(("m", 1.0),), path=str(path), format="mooncake")
    return spec, last * MILLISECOND + MINUTE


def figures(scenario: Scenario) -> Figures:
    """Run it."""
    harness = Harness(scenario).run()
    found = report(harness)
    events = [decode_event(one.topic, one.state) for one in harness.log.rows]
    apart, marks = _apart(events), [event for event in events if isinstance(event, ev.ReplicaLocked) and event.prefix]
    served = found["served_on"].values()
    return Figures(
        cached=found["prompts"]["cached_share"],
        prefill_p50=found["prefill_seconds"]["p50"],
        prefill_p95=found["prefill_seconds"]["p95"],
        service_p50=found["service_seconds"]["p50"],
        service_p95=found["service_seconds"]["p95"],
        wait_p95=found["wait_seconds"]["p95"],
        wait_p99=found["wait_seconds"]["p99"],
        apart_p99=percentile(apart, 99),
        apart_most=apart[-1],
        busiest=max(served) * NODES / sum(served),
        bytes_of_marks=sum(len(msgspec.json.encode(event.prefix)) + 10 for event in marks) / max(1, len(marks)),
    )


def _apart(events: list[ev.Event]) -> list[int]:
    """At each lock, how many more requests the busiest replica has in flight than the idlest; ascending."""
    locks = {event.replica: 0 for event in events if isinstance(event, ev.ReplicaLoaded)}
    found = []
    for event in events:
        if isinstance(event, ev.ReplicaLocked):
            locks[event.replica] += 1
            found.append(max(locks.values()) - min(locks.values()))
        elif isinstance(event, ev.ReplicaReleased):
            locks[event.replica] -= 1
    return sorted(found)


def measure(scale: Scale, tell: Tell) -> list[Row]:
    """The default against the plain rule, on conversations and on a trace of them."""
    rows: list[Row] = []
    seeds = range(1, 1 + min(3, scale.runs))
    with TemporaryDirectory() as folder:
        sizes = list(drawn(1, scale.of(REQUESTS, 500), RATE))
        cases = {
            "conversations": talking(scale),
            "a trace of them": traced(sizes, Path(folder) / "trace.jsonl"),
        }
        for name, (workload, length) in cases.items():
            tell(f"affinity: {name}")
            plain = [figures(world(workload, length, 0, seed)) for seed in seeds]
            near = [figures(world(workload, length, Settings().prefix_affinity, seed)) for seed in seeds]
            rows += _compared(name, plain, near)
    return rows


def _compared(name: str, plain: list[Figures], near: list[Figures]) -> list[Row]:
    def beside(what: str, field: str, unit: str, bar: str | None = None, better: int = 1) -> Row:
        mine, others = ([float(getattr(one, field)) for one in runs] for runs in (near, plain))
        limit = sorted(others)[len(others) // 2]
        holds = (lambda _, ratio: ratio > 1 if better > 0 else ratio < 1) if bar else None
        return row(f"{name}: {what}", mine, unit, limit=limit, bar=bar, holds=holds)

    return [
        beside("blocks cached", "cached", "share", "more than the plain rule"),
        beside("computing the prompt, p50", "prefill_p50", "s"),
        beside("computing the prompt, p95", "prefill_p95", "s"),
        beside("service p50", "service_p50", "s"),
        beside("service p95", "service_p95", "s"),
        beside("in flight apart, p99", "apart_p99", "requests"),
        beside("in flight apart, most", "apart_most", "requests"),
        beside("the busiest serves", "busiest", "x its share"),
        row(f"{name}: marks in the log", [one.bytes_of_marks for one in near], "bytes a lock"),
    ]


def main() -> None:
    """Compare settings on a file of recorded sizes, and print a table."""
    with TemporaryDirectory() as folder:
        workload, length = traced(recorded(sys.argv[1]), Path(folder) / "trace.jsonl")
        sys.stdout.write(f"| prefix_affinity | {' | '.join(Figures.__struct_fields__)} |\n")
        for affinity in (0, 1, 2, 4, 8, 16):
            found = msgspec.structs.astuple(figures(world(workload, length, affinity)))
            sys.stdout.write(f"| {affinity or 'off'} | {' | '.join(f'{value:.3g}' for value in found)} |\n")


if __name__ == "__main__":
    main()
