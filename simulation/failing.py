"""What a run fails for, so that a smaller scenario can be asked whether it fails for the same.

A run that breaks properties must break one of them again. One that breaks none must miss an expectation again, in the
same direction. Of what there was too little of there must be just as much; where too few were served, as many must be
left without, for the same reasons. Of what there was too much of there must be too much again. Of refusals and failed
requests only the commonest reasons count that were too many by themselves, and of refusals only those of models that
were refused for that before: else an empty cluster, which refuses every request, would do for each scenario that
expects none to be refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .harness import Harness
from .reading.scenario import Bound, Expect
from .report import report

AT_THE_END = frozenset({"waiting_at_end", "replicas_at_end"})
"""What is counted at one moment: at an earlier one it is another question."""

Data = dict[str, Any]


class Failure:
    """What this run fails for. ``properties`` are those that it breaks."""

    def __init__(self, harness: Harness, mutant: str | None) -> None:
        data = report(harness, mutant)
        self.mutant = mutant
        self.there = data["verdict"] == "fail"
        self.properties = {name for name, row in data["properties"].items() if not row["holds"]}
        self._expect = harness.scenario.expect
        self._missed = {row["name"]: _stays(row, data) for row in data["expectations"] if not row["holds"]}
        self._too_little = {row["name"] for row in data["expectations"] if _is_too_little(row, self._expect)}
        self._duration = harness.duration
        self._refused = set(harness.tally.refused_for)
        self._reasons = {
            name: _main_reasons(getattr(harness.tally, name), _bound_of(name, self._expect))
            for name in ("refused", "failed")
        }

    def is_in(self, harness: Harness) -> bool:
        """Whether another run, of a scenario with the same expectations or fewer, fails for the same."""
        if self.properties:
            return any(violation.property in self.properties for violation in harness.invariants.violations)
        data = report(harness, self.mutant)
        failing = [row for row in data["expectations"] if not row["holds"] and row["name"] in self._missed]
        return any(self._misses(row, harness, data) for row in failing)

    def _misses(self, row: Data, harness: Harness, data: Data) -> bool:
        name = row["name"]
        if name.partition(".")[0] in AT_THE_END and harness.duration != self._duration:
            return False
        if name in self._too_little:
            return _is_too_little(row, self._expect) and _stays(row, data) == self._missed[name]
        bound = _bound_of(name, self._expect)
        return bound is None or (bound.most is not None and self._counted(row, harness) > bound.most)

    def _counted(self, row: Data, harness: Harness) -> float:
        """How much there is of it, as far as there was in the first run."""
        group, _, key = row["name"].partition(".")
        tally = harness.tally
        if group in ("refused", "refused_as"):
            codes = {key} if key else self._reasons["refused"]
            return sum(tally.refused_for[code, model] for code, model in self._refused if code in codes)
        if group == "failed":
            return sum(tally.failed[reason] for reason in self._reasons["failed"])
        return float(row["got"])


def _main_reasons(counts: Mapping[str, int], bound: Bound | None) -> set[str]:
    """The commonest reasons, so many of them that there were too many for these alone."""
    most = None if bound is None else bound.most
    reasons: set[str] = set()
    for reason in sorted(counts, key=lambda reason: (-counts[reason], reason)):
        if most is not None and sum(counts[known] for known in reasons) > most:
            break
        reasons.add(reason)
    return reasons


def _bound_of(name: str, expect: Expect) -> Bound | None:
    group, _, key = name.partition(".")
    return expect.groups[group].get(key) if group in expect.groups else expect.numbers.get(group)


def _is_too_little(row: Data, expect: Expect) -> bool:
    bound = _bound_of(row["name"], expect)
    return bound is not None and bound.least is not None and row["got"] < bound.least


def _stays(row: Data, data: Data) -> Data:
    """Where there is too little of something, what a smaller scenario must leave as it is."""
    requests = data["requests"]
    unserved = {name: found for name, found in requests.items() if name not in ("submitted", "served")}
    left_without = row["name"] == "served" and requests["submitted"] > requests["served"]
    return unserved if left_without else {row["name"]: row["got"]}
