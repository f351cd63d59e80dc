"""What a run has shown: the report as data, exactly as the contracts name it, and as a page for people.

The verdict is ``pass`` when every expectation, every invariant and all five properties hold.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from interlock.domain.units import SECOND, format_duration

from .harness import Harness
from .percentiles import percentile
from .reading.scenario import Bound, Scenario

INVARIANT = "S"
NODES_TOLD = 8
"""So many nodes does the text name one by one; the data has all of them."""
CIRCLES = " while nothing changes: "
"""What stands between what goes round in circles and its rounds."""
MEANINGS = {
    "T": "every request ends after a bounded number of its own steps",
    "U": "no refusal and no wait while a usable replica has room",
    "S": "no route, load or eviction breaks a rule",
    "Q": "without new input the system goes quiet",
    "W": "everything unfinished has a wake-up to come",
}


def report(harness: Harness, mutant: str | None = None) -> dict[str, Any]:
    """The report of a run, ready for JSON."""
    numbers, tally, invariants = harness.numbers, harness.tally, harness.invariants
    properties = _properties(harness)
    expectations = list(_expectations(harness))
    broken = [v for v in invariants.violations if v.subject in _INVARIANT_SUBJECTS or v.property == INVARIANT]
    holds = all(p["holds"] for p in properties.values()) and all(e["holds"] for e in expectations) and not broken
    return {
        "scenario": harness.scenario.name,
        "seed": harness.seed,
        "mutant": mutant,
        "verdict": "pass" if holds else "fail",
        "virtual_seconds": harness.duration / SECOND,
        "wall_seconds": round(harness.wall_seconds, 3),
        "events": numbers.events,
        "requests": {
            "submitted": tally.submitted,
            "served": tally.served,
            "refused": _sorted(tally.refused),
            "failed": _sorted(tally.failed),
            "waiting": numbers.waiting,
            "running": numbers.running,
        },
        "served_on": _sorted(tally.served_on),
        "loads": numbers.loads,
        "evictions": numbers.evictions,
        "unloads": _sorted(numbers.unloads),
        "holders_lost": numbers.holders_lost,
        "effects": _sorted(numbers.effects),
        "faults": numbers.faults,
        "wait_seconds": lengths_of(tally.waits),
        **_prompts(harness),
        "properties": properties,
        "invariants": {
            "holds": not broken,
            "detail": broken[0].detail if broken else "every event, and the replayed log at every checkpoint",
        },
        "expectations": expectations,
        "coverage": {
            "event_types": _sorted(numbers.event_types),
            "refusals": _sorted(tally.refused),
            "faults": numbers.faults,
        },
        "violations": [
            {"property": v.property, "at_seconds": v.at / SECOND, "position": v.position, "detail": v.detail}
            for v in invariants.violations
        ],
        "rejected_steps": harness.operators.rejected,
        "settling": {"virtual_seconds": harness.settled_for / SECOND, "log_length": harness.log.length},
        "log_hash": harness.log_hash,
        "state_hash": harness.state_hash,
        "reproduce": reproduction(harness.scenario, harness.seed, mutant, harness.options.until),
    }


_INVARIANT_SUBJECTS = frozenset({"replay", "snapshot", "log", "core"})


def reproduction(scenario: Scenario, seed: int, mutant: str | None = None, until: int | None = None) -> str:
    """The command that runs this again, as a shell reads it."""
    words = ["interlock", "simulate", scenario.source, *scenario.flags, "--seed", str(seed)]
    if mutant:
        words += ["--mutant", mutant]
    if until is not None:
        words += ["--until", format_duration(until)]
    if scenario.trace:
        words += ["--requests", scenario.trace]
    return shlex.join(words)


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return {key: counts[key] for key in sorted(counts) if counts[key]}


def lengths_of(given: Iterable[int]) -> dict[str, float]:
    """Of lengths in microseconds the median, the 95th and 99th percentile and the longest, in seconds."""
    lengths = sorted(given)
    if not lengths:
        return {"p50": 0.0, "p95": 0.0, "p99": 0.0, "max": 0.0}
    at = {f"p{share}": percentile(lengths, share) for share in (50, 95, 99)}
    return {name: value / SECOND for name, value in {**at, "max": lengths[-1]}.items()}


def _prompts(harness: Harness) -> dict[str, Any]:
    """What prefix caches have saved; nothing where no request had a prompt."""
    tally = harness.tally
    if not tally.blocks:
        return {}
    return {
        "prompts": {"blocks": tally.blocks, "cached": tally.cached, "cached_share": round(tally.cached_share, 4)},
        "service_seconds": lengths_of(tally.services),
        "prefill_seconds": lengths_of(tally.prefills),
    }


def _properties(harness: Harness) -> dict[str, dict[str, Any]]:
    invariants = harness.invariants
    found: dict[str, dict[str, Any]] = {}
    for name, meaning in MEANINGS.items():
        mine = [v for v in invariants.violations if v.property == name]
        bound = invariants.bound if name == "T" else None
        detail = meaning
        if name == "T":
            detail = f"at most {invariants.most_steps} own steps were taken; {invariants.bound} are allowed"
        if name in ("Q", "W") and harness.unsettled:
            detail = f"judged only while it ran: {harness.unsettled}"
        if mine:
            first = next((breach for breach in mine if CIRCLES in breach.detail), mine[0])  # a loop says most
            more = f" (and {len(mine) - 1} more)" if len(mine) > 1 else ""
            detail = f"at {format_duration(first.at)}, position {first.position}: {first.detail}{more}"
        found[name] = {"holds": not mine, "bound": bound, "detail": detail}
    return found


# --- expectations ---------------------------------------------------------------------------------------------------


def _expectations(harness: Harness) -> Iterator[dict[str, Any]]:
    expect = harness.scenario.expect
    numbers, tally = harness.numbers, harness.tally
    singles = {
        "served": tally.served,
        "refused": sum(tally.refused.values()),
        "failed": sum(tally.failed.values()),
        "waiting_at_end": numbers.waiting,
        "loads": numbers.loads,
        "evictions": numbers.evictions,
        "cached_share": round(tally.cached_share, 4),
    }
    groups: dict[str, Mapping[str, int]] = {
        "refused_as": tally.refused,
        "replicas_at_end": numbers.replicas_at_end,
        "effects": numbers.effects,
        "served_on": tally.served_on,
        "events": numbers.event_types,
    }
    for name, bound in expect.numbers.items():
        yield _row(name, bound, singles[name])
    for group, bounds in expect.groups.items():
        for key, bound in bounds.items():
            yield _row(f"{group}.{key}", bound, groups[group].get(key, 0))
    if expect.quiet_after is not None:
        late = [name for at, name, _ in harness.unasked_effects[: harness.effects_counted] if at > expect.quiet_after]
        wanted = f"no effect after {format_duration(expect.quiet_after)}"
        got = f"{len(late)} effects, {late[0]} first" if late else "none"
        yield {"name": "quiet_after", "wanted": wanted, "got": got, "holds": not late}
    violated = {v.property for v in harness.invariants.violations}
    for name in expect.properties:
        broken = name in violated
        yield {
            "name": f"property {name}",
            "wanted": "holds",
            "got": "broken" if broken else "holds",
            "holds": not broken,
        }


def _row(name: str, bound: Bound, got: float) -> dict[str, Any]:
    return {"name": name, "wanted": str(bound), "got": got, "holds": bound.holds(got)}


# --- for people -----------------------------------------------------------------------------------------------------


def summary(data: Mapping[str, Any], description: str = "") -> str:
    """The report as a page of text."""
    requests = data["requests"]
    refused, failed = _counts(requests["refused"]), _counts(requests["failed"])
    wait = data["wait_seconds"]
    lines = [
        f"{data['scenario']}  seed {data['seed']}" + (f"  mutant {data['mutant']}" if data["mutant"] else ""),
        *([description] if description else []),
        f"{data['verdict'].upper()}: {data['virtual_seconds']:g} s of virtual time in {data['wall_seconds']:g} s, "
        f"{data['events']} events",
        "",
        f"requests   {requests['submitted']} submitted, {requests['served']} served, refused {refused}, "
        f"failed {failed}, {requests['waiting']} waiting, {requests['running']} running",
        f"waits      p50 {wait['p50']:g} s, p95 {wait['p95']:g} s, p99 {wait['p99']:g} s, longest {wait['max']:g} s",
        f"served on  {_counts(data['served_on'], most=NODES_TOLD)}",
        f"replicas   {data['loads']} loads, {data['evictions']} evictions, left: {_counts(data['unloads'])}",
        f"effects    {_counts(data['effects'])}",
        *_told_of_prompts(data),
    ]
    if data["faults"]:
        words = (
            f"{kind} {row['fired']} (took effect {row['effective']} time{'' if row['effective'] == 1 else 's'})"
            for kind, row in data["faults"].items()
        )
        lines.append(f"faults     {', '.join(words)}")
    for step in data["rejected_steps"]:
        lines.append(f"not taken  {step}")
    lines.append("")
    for name, row in data["properties"].items():
        lines.append(f"{'  ok' if row['holds'] else 'FAIL'}  {name}  {_cycle(row['detail'])}")
    lines.append(f"{'  ok' if data['invariants']['holds'] else 'FAIL'}  invariants  {data['invariants']['detail']}")
    for row in data["expectations"]:
        if not row["name"].startswith("property"):
            mark = "  ok" if row["holds"] else "FAIL"
            lines.append(f"{mark}  expected {row['name']}: {row['wanted']}, got {row['got']}")
    if data["verdict"] == "fail":
        lines += ["", f"Reproduce with: {data['reproduce']}"]
    return "\n".join(lines)


def _told_of_prompts(data: Mapping[str, Any]) -> list[str]:
    if "prompts" not in data:
        return []
    prompts, computed = data["prompts"], data["prefill_seconds"]
    told = f"prompts    {prompts['cached_share']:.0%} of {prompts['blocks']} blocks were in a prefix cache"
    return [f"{told}; computing the rest took p50 {computed['p50']:g} s, p95 {computed['p95']:g} s"]


def _cycle(detail: str) -> str:
    """A loop's rounds, one a line."""
    head, bar, rounds = detail.partition(CIRCLES)
    if not bar:
        return detail
    told = rounds.split(" || ")
    return "\n".join(
        [f"{head}{CIRCLES.rstrip()}", *(f"          {number}. {text}" for number, text in enumerate(told, 1))]
    )


def _counts(counts: Mapping[str, int], most: int | None = None) -> str:
    """All of them, or the ``most`` highest and how many others there are."""
    rows = list(counts.items())
    if most is not None and len(rows) > most:
        highest = sorted(rows, key=lambda row: (-row[1], row[0]))
        rest = highest[most:]
        rows = [*highest[:most], (f"{len(rest)} others", sum(count for _, count in rest))]
    return ", ".join(f"{name} {count}" for name, count in rows) or "none"
