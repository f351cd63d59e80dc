"""Comparing policies: the same scenario and seeds under each way to choose victims, side by side.

Arrivals and lengths come from streams of their own, so that a seed asks every policy for exactly the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from interlock.domain.units import GIB, SECOND

from .arrivals import with_trace
from .harness import Harness, Options
from .percentiles import percentile
from .policies import find, in_place
from .reading.scenario import Scenario
from .spread import spread

Tell = Callable[[int, int, int], None]
SHARES = (50, 95, 99)
COLUMNS = {
    "served": "served",
    "refused": "refused",
    "at_once_percent": "at once %",
    "loads": "loads",
    "loaded_gib": "GiB loaded",
    "evictions": "evictions",
    "wait_mean_s": "wait s",
    "wait_p95_s": "p95 s",
    "wait_p99_s": "p99 s",
    "wait_max_s": "longest s",
}
"""What is compared, and the heading of its column. The mean counts those who were refused, too: they waited in vain."""


class Job:
    """What a process needs to run one policy with one seed."""

    def __init__(self, source: Callable[[], Scenario], until: int | None) -> None:
        self.source, self.until = source, until

    def __call__(self, run: tuple[str, int]) -> dict[str, Any]:
        policy, seed = run
        options = Options(seed=seed, until=self.until, keep_log=False, checks=False, settle=False)
        with in_place(policy, seed):
            return measured(Harness(self.source(), options).run(), policy)


def measured(harness: Harness, policy: str) -> dict[str, Any]:
    """One run's figures."""
    tally, numbers = harness.tally, harness.numbers
    served_waits = sorted(tally.waits)
    all_waits = sum(served_waits) + sum(tally.lost_waits)
    asked = len(served_waits) + len(tally.lost_waits)
    waits = {f"wait_p{share}_s": percentile(served_waits, share) / SECOND if served_waits else 0.0 for share in SHARES}
    at_once = sum(1 for wait in served_waits if wait == 0)
    return {
        "policy": policy,
        "seed": harness.seed,
        "submitted": tally.submitted,
        "served": tally.served,
        "refused": sum(tally.refused.values()),
        "failed": sum(tally.failed.values()),
        "at_once_percent": 100 * at_once / max(1, asked),
        "loads": numbers.loads,
        "loaded_gib": numbers.loaded_bytes / GIB,
        "evictions": numbers.evictions,
        "wait_mean_s": all_waits / SECOND / max(1, asked),
        **waits,
        "wait_max_s": max([*served_waits[-1:], *tally.lost_waits], default=0) / SECOND,
        "broken": sorted({violation.property for violation in harness.invariants.violations}),
    }


def compare(
    source: Callable[[], Scenario],
    policies: Sequence[str],
    seeds: range,
    *,
    until: int | None = None,
    processes: int | None = None,
    ray: str | None = None,
    tell: Tell = lambda done, total, failed: None,
) -> dict[str, Any]:
    """Run every policy with every seed. ``source`` makes the scenario, in whichever process needs it.

    Raises NotFound when there is no such policy.
    """
    for policy in policies:
        find(policy)
    began = time.perf_counter()
    runs = [(policy, seed) for seed in seeds for policy in policies]
    rows: list[dict[str, Any]] = []
    for row in spread(Job(source, until), runs, processes=processes, ray=ray):
        rows.append(row)
        tell(len(rows), len(runs), sum(1 for seen in rows if seen["broken"]))
    return {
        "scenario": source().title,
        "seeds": {"first": seeds.start, "count": len(seeds)},
        "policies": [_summed_up(name, [row for row in rows if row["policy"] == name]) for name in policies],
        "wall_seconds": round(time.perf_counter() - began, 1),
        "runs": rows,
    }


def _summed_up(policy: str, rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The median over the seeds, with the least and the most."""
    rows = list(rows)
    figures = {name: [row[name] for row in rows] for name in COLUMNS}
    return {
        "policy": policy,
        "description": find(policy).description,
        "median": {name: round(median(values), 3) for name, values in figures.items()},
        "spread": {name: [round(min(values), 3), round(max(values), 3)] for name, values in figures.items()},
        "broken": sorted({prop for row in rows for prop in row["broken"]}),
    }


def table(data: dict[str, Any]) -> str:
    """The comparison as a Markdown table: medians, and the spread over the seeds where it is more than nothing."""
    lines = ["| policy | " + " | ".join(COLUMNS.values()) + " |", "|---" + "|---:" * len(COLUMNS) + "|"]
    for row in data["policies"]:
        cells = [_cell(row["median"][name], *row["spread"][name]) for name in COLUMNS]
        lines.append(f"| {row['policy']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(middle: float, least: float, most: float) -> str:
    told = f"{_number(middle)}"
    return told if least == most else f"{told} ({_number(least)} to {_number(most)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


class FromText(msgspec.Struct, frozen=True):
    """A scenario's file as a source that travels to other processes, with the requests of a trace when one is given."""

    text: str
    name: str
    folder: str
    trace: str = ""

    def __call__(self) -> Scenario:
        scenario = Scenario.parse(self.text, self.name, Path(self.folder))
        return with_trace(scenario, self.trace) if self.trace else scenario
