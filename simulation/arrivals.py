"""When requests arrive: fixed ones, Poisson streams, and traces. One arrival ahead is agreed at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate

from interlock.domain.units import SECOND

from .clock import START, Clock, Streams
from .fields import Distribution
from .scenario import RequestSpec, Scenario, WorkloadSpec
from .traces import Arrival, read_trace

Arrive = Callable[[str, Distribution, int, int], None]


class Arrivals:
    """Agrees on every arrival of a scenario. ``service_of`` gives a model's service time when a request names none."""

    def __init__(
        self, clock: Clock, streams: Streams, arrive: Arrive, service_of: Callable[[str], Distribution]
    ) -> None:
        self.clock = clock
        self.streams = streams
        self.arrive = arrive
        self.service_of = service_of
        self.last = 0
        """No request arrives after this moment, in microseconds from the start, as far as it is known."""

    def agree(self, scenario: Scenario) -> None:
        """All requests and workloads of the scenario."""
        for request in scenario.requests:
            self._fixed(request, request.count, scenario.duration)
        for number, workload in enumerate(scenario.workloads):
            self.agree_workload(workload, number, scenario.duration)

    def agree_workload(self, workload: WorkloadSpec, number: int, duration: int) -> None:
        """One workload; its stream of random numbers is named by ``number``."""
        end = min(workload.until, duration)
        self.last = max(self.last, end)
        chooser = _Chooser(workload.models)
        if workload.kind == "trace":
            rows = read_trace(workload.path, workload.format)
            self._trace(rows, 0, workload, chooser, number, end)
        else:
            self._next(workload, chooser, number, end, workload.start)

    def _fixed(self, request: RequestSpec, left: int, duration: int) -> None:
        if request.at > duration:
            return
        self.last = max(self.last, min(duration, request.at + (request.count - 1) * request.every))
        self.clock.at(START + request.at, self._one_of, request, left, duration)

    def _one_of(self, request: RequestSpec, left: int, duration: int) -> None:
        service = request.service_time or self.service_of(request.model)
        self.arrive(request.model, service, request.deadline, request.priority)
        due = self.clock.elapsed + request.every
        if left > 1 and due <= duration:
            self.clock.after(request.every, self._one_of, request, left - 1, duration)

    def _next(self, workload: WorkloadSpec, chooser: _Chooser, number: int, end: int, at: int) -> None:
        stream = self.streams[f"workload/{number}"]
        at += round(stream.expovariate(workload.rate) * SECOND)
        if at < end:
            self.clock.at(START + at, self._poisson, workload, chooser, number, end, at)

    def _poisson(self, workload: WorkloadSpec, chooser: _Chooser, number: int, end: int, at: int) -> None:
        model = chooser.choose(self.streams[f"workload/{number}"].random())
        service = workload.service_time or self.service_of(model)
        self.arrive(model, service, workload.deadline, workload.priority)
        self._next(workload, chooser, number, end, at)

    def _trace(
        self, rows: list[Arrival], place: int, workload: WorkloadSpec, chooser: _Chooser, number: int, end: int
    ) -> None:
        if place >= len(rows) or workload.start + rows[place].at >= end:
            return
        at = START + workload.start + rows[place].at
        self.clock.at(at, self._from_trace, rows, place, workload, chooser, number, end)

    def _from_trace(
        self, rows: list[Arrival], place: int, workload: WorkloadSpec, chooser: _Chooser, number: int, end: int
    ) -> None:
        row = rows[place]
        model = row.model or chooser.choose(self.streams[f"workload/{number}"].random())
        service = row.service_time or workload.service_time or self.service_of(model)
        self.arrive(model, service, row.deadline or workload.deadline, row.priority or workload.priority)
        self._trace(rows, place + 1, workload, chooser, number, end)


class _Chooser:
    """Chooses a model by weight."""

    def __init__(self, models: tuple[tuple[str, float], ...]) -> None:
        self.names = [name for name, _ in models]
        self.sums = list(accumulate(weight for _, weight in models))

    def choose(self, chance: float) -> str:
        """The model for a number from 0 to 1; empty when there is none to choose from."""
        if not self.names:
            return ""
        if len(self.names) == 1:
            return self.names[0]
        return self.names[min(bisect_right(self.sums, chance * self.sums[-1]), len(self.names) - 1)]
