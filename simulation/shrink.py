"""Shrinking: from a run that fails to a scenario file that still fails with as little as possible in it.

Works on the file as parsed, so that what comes out is a scenario like any other, and needs nothing beside it: where the
run had a trace, or an earlier end, the trace's requests are listed in the file, and its duration ends there. A smaller
scenario counts when it fails for the same, as ``failing.py`` says.
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
from .failing import Failure
from .gateways import Arrived
from .harness import Harness, Options
from .reading import toml
from .reading.scenario import PROPERTIES, Scenario

LISTS = ("faults", "admin", "workloads", "requests", "replicas", "models", "nodes")
REQUESTS_LISTED = 400
"""Up to so many arrivals of workloads are written out one by one, so that they can be left out one by one."""
TRACE_LISTED = 20_000
"""Up to so many of a trace that was named beside the file, which is to stand in the file."""
SECONDS_MAX = 120.0

Raw = dict[str, Any]
Tell = Callable[[str], None]


class Shrinker:
    """Tries smaller and smaller scenarios; :attr:`best` is the smallest that fails so far.

    ``scenario`` with its trace, ``seed``, ``mutant`` and ``until`` are what the failing run was made with.
    """

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        mutant: str | None,
        tell: Tell,
        *,
        until: int | None = None,
        seconds_max: float = SECONDS_MAX,
    ) -> None:
        self.scenario = scenario
        self.mutant = mutant
        self.tell = tell
        self.runs = 0
        self.ends_at = time.monotonic() + seconds_max
        self.best: Raw = {**(_with_its_trace(scenario) if scenario.trace else deepcopy(scenario.raw)), "seed": seed}
        if until is not None and until < scenario.duration:
            self.best = _ending_at(self.best, until)

    def shrink(self) -> Raw | None:
        """The smallest scenario found that fails as the first one did; None when that does not fail."""
        first = self._run(self.best)
        if first is None:
            return None
        self.failure = Failure(first, self.mutant)
        if not self.failure.there:
            return None
        if self.failure.properties:
            properties = [name for name in PROPERTIES if name in self.failure.properties]
            self._try({**self.best, "expect": {"properties": properties}})
        self._write_out_random_faults()
        self._cut_time()
        if self.scenario.trace:
            self._write_out_arrivals(TRACE_LISTED)
        before = -1
        while before != self._size() and not self._out_of_time:
            before = self._size()
            for key in LISTS:
                self._leave_out(key)
            self._leave_out_of_rows()
            self._cut_time()
            self._write_out_arrivals(REQUESTS_LISTED)
            self._write_out_rows()
        return self.best

    # --- judging ----------------------------------------------------------------------------------------------------

    def _run(self, raw: Raw) -> Harness | None:
        self.runs += 1
        try:
            scenario = Scenario.parse(toml.dump(raw), self.scenario.source, Path(self.scenario.folder))
            return run(scenario, mutant=self.mutant, options=Options(arrivals_kept=TRACE_LISTED)).harness
        except InterlockError:
            return None  # what was left out is referred to: no scenario any more

    def _fails(self, raw: Raw) -> bool:
        harness = self._run(raw)
        return harness is not None and self.failure.is_in(harness)

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

    def _write_out_arrivals(self, most: int) -> None:
        """The requests that workloads brought, as a list of requests, once there are few; their prompts if need be."""
        if "workloads" not in self.best:
            return
        harness = self._run(self.best)
        if harness is None or harness.tally.submitted > most:
            return
        arrived = harness.gateways.arrived
        listed = {key: value for key, value in self.best.items() if key not in ("workloads", "requests")}
        if not arrived:
            self._try(listed)
        elif not self._try({**listed, "requests": [_request_row(asked) for asked in arrived]}) and any(
            asked.prompt for asked in arrived
        ):
            self._try({**listed, "requests": [_request_row(asked, prompt=True) for asked in arrived]})

    # --- rows that stand for many requests --------------------------------------------------------------------------

    def _leave_out_of_rows(self) -> None:
        """Leave out halves, quarters, ... single ones of a row's requests, from its end or from its start."""
        for place in range(len(self.best.get("requests", ()))):
            chunk = _count(self.best["requests"][place]) // 2
            while chunk and not self._out_of_time:
                row = self.best["requests"][place]
                left = _count(row) - chunk
                if left < 1 or not (
                    self._try_row(place, _part(row, 0, left)) or self._try_row(place, _part(row, chunk, left))
                ):
                    chunk //= 2

    def _try_row(self, place: int, row: Raw) -> bool:
        rows = self.best["requests"]
        return self._try({**self.best, "requests": [*rows[:place], row, *rows[place + 1 :]]})

    def _write_out_rows(self) -> None:
        """The requests of each row one by one, where some between the first and the last can be left out then."""
        rows = self.best.get("requests", ())
        if not len(rows) < sum(map(_count, rows)) <= REQUESTS_LISTED:
            return
        short = self.best
        single = [_part(row, number, 1) for row in rows for number in range(_count(row))]
        if self._try({**self.best, "requests": single}):
            self._leave_out("requests")
            if len(self.best["requests"]) == len(single):
                self.best = short


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
    if "requests" in cut:
        cut["requests"] = [_part(row, 0, _count_until(row, length)) for row in cut["requests"]]
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


def _with_its_trace(scenario: Scenario) -> Raw:
    """The scenario as a file says it that has the trace for its requests."""
    (workload,) = scenario.workloads
    row: Raw = {"kind": "trace", "path": str(Path(workload.path).resolve()), "format": workload.format}
    if workload.models:
        row["models"] = dict(workload.models)
    raw = {key: value for key, value in deepcopy(scenario.raw).items() if key not in ("requests", "workloads")}
    return {**raw, "workloads": [row]}


def _request_row(asked: Arrived, *, prompt: bool = False) -> Raw:
    row: Raw = {"model": asked.model, "at": format_duration(asked.at), "service_time": format_duration(asked.service)}
    for key, length in (("deadline", asked.deadline), ("leaves_after", asked.leaves_after)):
        if length:
            row[key] = format_duration(length)
    if asked.priority:
        row["priority"] = asked.priority
    if asked.tenant:
        row["tenant"] = asked.tenant
    if prompt and asked.prompt:
        # A block's hash covers all before it: named by it, blocks are the same in two prompts where they were before.
        row["prompt"] = {f"{block:x}": 1 for block in asked.prompt}
    return row


def _count(row: Raw) -> int:
    return int(row.get("count", 1))


def _count_until(row: Raw, length: int) -> int:
    """How many of the row's requests come up to a moment."""
    every = parse_duration(row.get("every", "1s"))
    left = length - parse_duration(row.get("at", "0s"))
    return min(_count(row), left // every + 1) if every else _count(row)


def _part(row: Raw, first: int, count: int) -> Raw:
    """The row with ``count`` of its requests, from the one at place ``first`` on."""
    every = parse_duration(row.get("every", "1s"))
    part = {**row, "count": count}
    if first:
        part["at"] = format_duration(parse_duration(row.get("at", "0s")) + first * every)
    if count == 1:
        del part["count"]
        part.pop("every", None)
    return part
