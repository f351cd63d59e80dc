"""Shrinking: from a run that fails to a scenario file that still fails with as little as possible in it.

Works on the file as parsed, so that what comes out is a scenario like any other. A smaller scenario counts when it
breaks one of the properties that the first one broke; or, when it broke none, one of its expectations in the same way.
Where too few were served as many must be left without, for the same reasons; of anything else that there was too little
of there must be just as much. Else an empty scenario would do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from interlock.domain.errors import InterlockError
from interlock.domain.units import SECOND, format_duration, parse_duration

from .api import run
from .harness import Harness
from .reading import toml
from .reading.scenario import PROPERTIES, Scenario

LISTS = ("faults", "admin", "workloads", "requests", "replicas", "models", "nodes")
REQUESTS_LISTED = 400
"""Up to so many arrivals of workloads are written out one by one, so that they can be left out one by one."""
SECONDS_MAX = 120.0

Raw = dict[str, Any]
Tell = Callable[[str], None]


class Shrinker:
    """Tries smaller and smaller scenarios; :attr:`best` is the smallest that fails so far."""

    def __init__(
        self, scenario: Scenario, seed: int, mutant: str | None, tell: Tell, seconds_max: float = SECONDS_MAX
    ) -> None:
        self.scenario = scenario
        self.mutant = mutant
        self.tell = tell
        self.runs = 0
        self.ends_at = time.monotonic() + seconds_max
        self.best: Raw = deepcopy(scenario.raw)
        self.best["seed"] = seed
        self.wanted: set[str] = set()
        self.expected: dict[str, dict[str, Any] | None] = {}
        """Expectations that fail, and what must be as it was at first; None: they fail for too much."""

    def shrink(self) -> Raw | None:
        """The smallest scenario found that fails as the first one did; None when that does not fail."""
        first = self._run(self.best)
        if first is None or not self._learn(first):
            return None
        if self.wanted:
            properties = [name for name in PROPERTIES if name in self.wanted]
            self._try({**self.best, "expect": {"properties": properties}})
        self._write_out_random_faults()
        self._cut_time()
        before = -1
        while before != self._size() and not self._out_of_time:
            before = self._size()
            for key in LISTS:
                self._leave_out(key)
            self._cut_time()
            self._write_out_arrivals()
        return self.best

    # --- judging ----------------------------------------------------------------------------------------------------

    def _learn(self, harness: Harness) -> bool:
        from .report import report  # here, because reports are made of whole runs and this module is imported by them

        data = report(harness, self.mutant)
        self.wanted = {name for name, row in data["properties"].items() if not row["holds"]}
        self.expected = {
            row["name"]: self._what_stays(row, data) for row in data["expectations"] if not row["holds"]
        }  # fmt: skip
        return bool(data["verdict"] == "fail")

    def _run(self, raw: Raw) -> Harness | None:
        self.runs += 1
        try:
            scenario = Scenario.parse(toml.dump(raw), self.scenario.source, Path(self.scenario.folder))
            return run(scenario, mutant=self.mutant).harness
        except InterlockError:
            return None  # what was left out is referred to: no scenario any more

    def _fails(self, raw: Raw) -> bool:
        from .report import report

        harness = self._run(raw)
        if harness is None:
            return False
        if self.wanted:
            return any(v.property in self.wanted for v in harness.invariants.violations)
        data = report(harness, self.mutant)
        failing = [row for row in data["expectations"] if not row["holds"] and row["name"] in self.expected]
        return any(self._what_stays(row, data) == self.expected[row["name"]] for row in failing)

    def _what_stays(self, row: dict[str, Any], data: dict[str, Any]) -> dict[str, Any] | None:
        """For an expectation that fails because a number is too low, what a smaller scenario must leave as it is."""
        if not self._is_too_little(row):
            return None
        requests = data["requests"]
        unserved = {name: found for name, found in requests.items() if name not in ("submitted", "served")}
        left_without = row["name"] == "served" and requests["submitted"] > requests["served"]
        return unserved if left_without else {row["name"]: row["got"]}

    def _is_too_little(self, row: dict[str, Any]) -> bool:
        expect = self.scenario.expect
        group, _, key = row["name"].partition(".")
        bound = expect.groups[group].get(key) if group in expect.groups else expect.numbers.get(group)
        return bound is not None and bound.least is not None and row["got"] < bound.least

    def _try(self, raw: Raw) -> bool:
        if self._out_of_time or not self._fails(raw):
            return False
        self.best = raw
        self.tell(f"{self.runs} runs: {self._sizes()}")
        return True

    @property
    def _out_of_time(self) -> bool:
        return time.monotonic() > self.ends_at

    def _size(self) -> int:
        return len(toml.dump(self.best))

    def _sizes(self) -> str:
        counts = (f"{len(self.best[key])} {key}" for key in LISTS if self.best.get(key))
        return f"{', '.join(counts)}, {self.best.get('duration', '30m')}"

    # --- making it smaller ------------------------------------------------------------------------------------------

    def _leave_out(self, key: str) -> None:
        """Leave out halves, quarters, ... single entries of a list."""
        chunk = max(1, len(self.best.get(key, ())) // 2)
        while self.best.get(key) and not self._out_of_time:
            start = 0
            while start < len(self.best.get(key, ())):
                rows = self.best[key]
                fewer = {**self.best, key: rows[:start] + rows[start + chunk :]}
                if not fewer[key]:
                    del fewer[key]
                if not self._try(fewer):
                    start += chunk
            if chunk == 1:
                return
            chunk = max(1, chunk // 2)

    def _cut_time(self) -> None:
        """End the run, and its workloads, as early as the failure allows."""
        for _ in range(6):
            length = parse_duration(self.best.get("duration", "30m"))
            if length < 2 * SECOND or not self._try(_ending_at(self.best, length // 2)):
                break
        length = parse_duration(self.best.get("duration", "30m"))
        self._try(_ending_at(self.best, length * 3 // 4))

    def _write_out_random_faults(self) -> None:
        """The faults that were drawn, as a list of faults."""
        if "random_faults" not in self.best:
            return
        harness = self._run(self.best)
        if harness is None:
            return
        drawn = {key: value for key, value in self.best.items() if key != "random_faults"}
        drawn["faults"] = [_fault_row(spec) for spec in harness.faults.agreed]
        self._try(drawn)

    def _write_out_arrivals(self) -> None:
        """The requests that workloads brought, as a list of requests, once there are few."""
        if "workloads" not in self.best:
            return
        harness = self._run(self.best)
        if harness is None or harness.tally.submitted > REQUESTS_LISTED:
            return
        listed = {key: value for key, value in self.best.items() if key != "workloads"}
        listed["requests"] = [
            {"model": model, "at": f"{at}us", "service_time": f"{service}us", "deadline": f"{deadline}us"}
            if deadline
            else {"model": model, "at": f"{at}us", "service_time": f"{service}us"}
            for at, model, service, deadline in harness.gateways.arrived
        ]
        self._try(listed)


def moved(raw: Raw, old: Path, new: Path) -> Raw:
    """The scenario as a file in another folder says it: the paths of its traces are relative to its own."""
    there = deepcopy(raw)
    for workload in there.get("workloads", ()):
        if "path" in workload and not Path(workload["path"]).is_absolute():
            workload["path"] = os.path.relpath(old.resolve() / workload["path"], new.resolve())
    return there


def _ending_at(raw: Raw, length: int) -> Raw:
    """The scenario cut at a moment; what comes after it is left out."""
    cut = deepcopy(raw)
    cut["duration"] = format_duration(length)
    for key in ("faults", "admin", "requests"):
        if key in cut:
            cut[key] = [row for row in cut[key] if parse_duration(row.get("at", "0s")) <= length]
    if "workloads" in cut:
        cut["workloads"] = [row for row in cut["workloads"] if parse_duration(row.get("from", "0s")) < length]
    if "random_faults" in cut and "stop_at" in cut["random_faults"]:
        stop = min(length, parse_duration(cut["random_faults"]["stop_at"]))
        cut["random_faults"]["stop_at"] = format_duration(stop)
    return {key: value for key, value in cut.items() if value != []}


def _fault_row(spec: Any) -> Raw:
    from .reading.scenario import INSTANT_FAULTS

    row: Raw = {"kind": spec.kind, "at": f"{spec.at}us"}
    if spec.target:
        row["target"] = spec.target
    if spec.kind not in INSTANT_FAULTS:
        row["for"] = f"{spec.length}us"
    return row
