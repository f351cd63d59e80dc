"""Sweeps: the same scenario under many seeds, over processes, and what all of them together have covered."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from interlock.domain.events import EVENT_TYPES
from interlock.domain.refusals import RefusalCode

from .api import run
from .arrivals import with_trace
from .reading import toml
from .reading.scenario import FAULT_KINDS, Scenario
from .spread import spread

Tell = Callable[[int, int, int], None]
"""Hears how many of how many seeds are done, and how many of them failed."""
FAILURES_SHOWN = 20


class Job:
    """What a process needs to run one seed: text, because a parsed scenario does not travel. It is read once there."""

    def __init__(self, scenario: Scenario, mutant: str | None, until: int | None) -> None:
        self.text, self.name, self.folder = toml.dump(scenario.raw), scenario.source, scenario.folder
        self.flags, self.by_seed, self.trace = scenario.flags, scenario.by_seed, scenario.trace
        self.mutant, self.until = mutant, until

    def __call__(self, seed: int) -> dict[str, Any]:
        scenario = _scenario(self.text, self.name, self.folder, self.flags, self.by_seed, self.trace)
        return run(scenario, seed=seed, mutant=self.mutant, until=self.until).report


@lru_cache(1)
def _scenario(text: str, name: str, folder: str, flags: tuple[str, ...], by_seed: bool, trace: str) -> Scenario:
    scenario = replace(Scenario.parse(text, name, Path(folder)), flags=flags, by_seed=by_seed)
    return with_trace(scenario, trace) if trace else scenario


def sweep(
    scenario: Scenario,
    seeds: range,
    *,
    mutant: str | None = None,
    until: int | None = None,
    processes: int | None = None,
    ray: str | None = None,
    tell: Tell = lambda done, total, failed: None,
    tell_failure: Callable[[dict[str, Any]], None] = lambda failure: None,
) -> dict[str, Any]:
    """Run every seed and sum up; ``ray`` as :func:`spread` takes it. ``tell_failure`` hears of each seed that fails."""
    job = Job(scenario, mutant, until)
    began = time.perf_counter()
    totals = Totals()
    chunk = max(1, min(16, len(seeds) // ((processes or os.cpu_count() or 1) * 4)))
    for done, data in enumerate(spread(job, seeds, processes=processes, ray=ray, chunk=chunk), 1):
        totals.add(data)
        if data["verdict"] != "pass":
            tell_failure(totals.failures[-1])
        tell(done, len(seeds), len(totals.failures))
    return totals.summary(scenario, seeds, mutant, time.perf_counter() - began)


class Totals:
    """What the runs of a sweep add up to."""

    def __init__(self) -> None:
        self.failures: list[dict[str, Any]] = []
        self.event_types: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.fired: Counter[str] = Counter()
        self.effective: Counter[str] = Counter()
        self.events = self.requests = self.most_steps = 0
        self.virtual_seconds = 0.0
        self.broken: Counter[str] = Counter()

    def add(self, data: dict[str, Any]) -> None:
        """Count one run in."""
        self.events += data["events"]
        self.requests += data["requests"]["submitted"]
        self.virtual_seconds += data["virtual_seconds"]
        self.event_types.update(data["coverage"]["event_types"])
        self.refusals.update(data["coverage"]["refusals"])
        for kind, row in data["faults"].items():
            self.fired[kind] += row["fired"]
            self.effective[kind] += row["effective"]
        if data["verdict"] == "pass":
            return
        why = [f"{name}: {row['detail']}" for name, row in data["properties"].items() if not row["holds"]]
        why += [f"expected {row['name']} {row['wanted']}, got {row['got']}" for row in data["expectations"]
                if not row["holds"] and not row["name"].startswith("property")]  # fmt: skip
        self.broken.update(name for name, row in data["properties"].items() if not row["holds"])
        told = {"seed": data["seed"], "why": why or [data["invariants"]["detail"]], "replay": data["reproduce"]}
        self.failures.append(told)

    def summary(self, scenario: Scenario, seeds: range, mutant: str | None, wall: float) -> dict[str, Any]:
        """The sweep's report."""
        return {
            "scenario": scenario.title,
            "mutant": mutant,
            "verdict": "fail" if self.failures else "pass",
            "seeds": {"first": seeds.start, "count": len(seeds), "failed": len(self.failures)},
            "failures": self.failures,
            "broken": {name: self.broken[name] for name in sorted(self.broken)},
            "events": self.events,
            "requests": self.requests,
            "virtual_seconds": self.virtual_seconds,
            "wall_seconds": round(wall, 1),
            "coverage": {
                "event_types": {name: self.event_types[name] for name in sorted(EVENT_TYPES)},
                "refusals": {name: self.refusals[name] for name in sorted({*map(str, RefusalCode), *self.refusals})},
                "faults": {
                    kind: {"fired": self.fired[kind], "effective": self.effective[kind]} for kind in FAULT_KINDS
                },
            },
        }


def summary_text(data: dict[str, Any]) -> str:
    """A sweep's report for people."""
    seeds, coverage = data["seeds"], data["coverage"]
    lines = [
        f"{data['scenario']}" + (f"  mutant {data['mutant']}" if data["mutant"] else ""),
        f"{data['verdict'].upper()}: {seeds['count']} seeds from {seeds['first']}, {seeds['failed']} failed; "
        f"{data['requests']} requests, {data['events']} events, {data['virtual_seconds'] / 3600:.1f} h of virtual time "
        f"in {data['wall_seconds']:g} s",
        "",
        "event types  " + _list(coverage["event_types"]),
        "refusals     " + _list(coverage["refusals"]),
        "faults       "
        + ", ".join(f"{kind} {row['fired']} ({row['effective']})" for kind, row in coverage["faults"].items()),
    ]
    never = [name for what in ("event_types", "refusals") for name, count in coverage[what].items() if not count]
    never += [kind for kind, row in coverage["faults"].items() if not row["effective"]]
    lines.append(f"never seen   {', '.join(never) or 'nothing: all of them occurred'}")
    for failure in data["failures"][:FAILURES_SHOWN]:
        lines += ["", _failure_text(failure)]
    if len(data["failures"]) > FAILURES_SHOWN:
        lines.append(f"... and {len(data['failures']) - FAILURES_SHOWN} more failing seeds")
    return "\n".join(lines)


def _failure_text(failure: dict[str, Any]) -> str:
    return f"seed {failure['seed']}: {failure['why'][0]}\n  {failure['replay']}"


def failure_on_stderr(failure: dict[str, Any]) -> None:
    """A seed that fails, as soon as it is known: a long sweep need not end first."""
    sys.stderr.write("\r" * sys.stderr.isatty() + _failure_text(failure) + "\n")


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "none"


def tell_on_stderr(done: int, total: int, failed: int, what: str = "seeds") -> None:
    """A progress bar on a terminal; on anything else, a line now and then."""
    width = 30
    filled = width * done // total
    line = f"[{'#' * filled}{'.' * (width - filled)}] {done}/{total} {what}, {failed} failed"
    if sys.stderr.isatty():
        sys.stderr.write("\r" + line + ("\n" if done == total else ""))
    elif done == total or done % max(1, total // 10) == 0:
        sys.stderr.write(line + "\n")
    sys.stderr.flush()
