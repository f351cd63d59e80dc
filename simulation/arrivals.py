"""When requests arrive: fixed ones, Poisson streams, and traces. One arrival ahead is agreed at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from heapq import heapify, heapreplace
from itertools import accumulate
from random import Random
from typing import Protocol

import msgspec

from interlock.domain.errors import UnreadableFile, UsageError
from interlock.domain.units import SECOND, format_duration

from .clock import START, Clock, Streams, draw
from .prompts import Chain, Talk, conversation
from .reading.fields import Distribution
from .reading.scenario import Bursts, RequestSpec, Scenario, WorkloadSpec
from .reading.traces import Arrival, guess_format, read_trace


def with_trace(scenario: Scenario, trace: str) -> Scenario:
    """The scenario with a trace's requests in place of its own.

    What names no model is spread as the scenario's workloads spread theirs, or evenly over all models when it has none.
    """
    if scenario.by_seed:
        raise UsageError(f"Each seed of {scenario.source} chooses its own requests.", cure="Name another scenario.")
    form = guess_format(trace)
    weights: dict[str, float] = {}
    for workload in scenario.workloads:
        total = sum(weight for _, weight in workload.models)
        length = min(workload.until, scenario.duration) - workload.start
        for model, weight in workload.models:
            weights[model] = weights.get(model, 0.0) + workload.rate * length * weight / total
    if not sum(weights.values()):
        weights = {model.name: 1.0 for model in scenario.models}
    if not weights and any(not arrival.model for arrival in read_trace(trace, form)):
        raise UsageError(f"{trace} names no models, and {scenario.name} declares none.", cure="Declare [[models]].")
    workload = WorkloadSpec(kind="trace", models=tuple(weights.items()), path=trace, format=form)
    return msgspec.structs.replace(scenario, requests=(), workloads=(workload,), trace=trace)


class Arrive(Protocol):
    """Takes a request: its model, how long it is served, how long it waits, its priority, its prompt and its tenant.

    And how long its client stays, if not to the end.
    """

    def __call__(
        self, model: str, service: Distribution, deadline: int, priority: int, prompt: Chain = (), tenant: str = "",
        leaves_after: int = 0,
    ) -> None:  # fmt: skip
        """A request arrives now."""


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
            if not workload.models and (nobodys := next((row for row in rows if not row.model), None)) is not None:
                problem = f"{workload.path}: the request at {format_duration(nobodys.at)} names no model."
                raise UnreadableFile(
                    problem, cure="Name a model in each line, or model, models or zipf beside the path."
                )
            self._trace(rows, 0, workload, chooser, number, end)
        elif workload.bursts is not None:
            source = _Bursty(workload, workload.bursts, self.streams[f"workload/{number}"])
            self._next_bursty(workload, source, end)
        elif workload.talk is not None:
            self._next_conversation(workload, workload.talk, chooser, number, end, workload.start)
        else:
            self._next(workload, chooser, number, end, workload.start)

    def _fixed(self, request: RequestSpec, left: int, duration: int) -> None:
        if request.at > duration:
            return
        self.last = max(self.last, min(duration, request.at + (request.count - 1) * request.every))
        self.clock.at(START + request.at, self._one_of, request, left, duration)

    def _one_of(self, request: RequestSpec, left: int, duration: int) -> None:
        service = request.service_time or self.service_of(request.model)
        self.arrive(
            request.model, service, request.deadline, request.priority, request.prompt, request.tenant,
            request.leaves_after,
        )  # fmt: skip
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
        self.arrive(model, service, workload.deadline, workload.priority, tenant=workload.tenant)
        self._next(workload, chooser, number, end, at)

    def _next_bursty(self, workload: WorkloadSpec, source: _Bursty, end: int) -> None:
        model = source.step()
        if source.at < end:
            self.clock.at(START + source.at, self._from_bursty, workload, source, end, model)

    def _from_bursty(self, workload: WorkloadSpec, source: _Bursty, end: int, model: str) -> None:
        service = workload.service_time or self.service_of(model)
        self.arrive(model, service, workload.deadline, workload.priority, tenant=workload.tenant)
        self._next_bursty(workload, source, end)

    def _next_conversation(
        self, workload: WorkloadSpec, talk: Talk, chooser: _Chooser, number: int, end: int, at: int
    ) -> None:
        stream = self.streams[f"workload/{number}"]
        at += round(stream.expovariate(workload.rate) * SECOND)
        if at >= end:
            return
        model = chooser.choose(stream.random())
        turns = conversation(talk, Random(stream.getrandbits(64)))
        self.clock.at(START + at, self._turn, workload, model, turns, end)
        self.clock.at(START + at, self._next_conversation, workload, talk, chooser, number, end, at)

    def _turn(self, workload: WorkloadSpec, model: str, turns: Iterator[tuple[int, Chain]], end: int) -> None:
        """The conversation goes on: each turn comes a while after the one before, answered or not."""
        for pause, prompt in turns:
            if self.clock.elapsed + pause < end:
                self.clock.after(pause, self._say, workload, model, turns, end, prompt)
            return

    def _say(
        self, workload: WorkloadSpec, model: str, turns: Iterator[tuple[int, Chain]], end: int, prompt: Chain
    ) -> None:
        service = workload.service_time or self.service_of(model)
        self.arrive(model, service, workload.deadline, workload.priority, prompt, tenant=workload.tenant)
        self._turn(workload, model, turns, end)

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
        deadline = row.deadline or workload.deadline
        priority = workload.priority if row.priority is None else row.priority
        self.arrive(model, service, deadline, priority, row.prompt, tenant=workload.tenant)
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


class _Bursty:
    """A Poisson stream whose models have bursts: between two changes of pace it has no memory, so each draws anew."""

    def __init__(self, workload: WorkloadSpec, bursts: Bursts, stream: Random) -> None:
        self.at = workload.start
        self.stream = stream
        self.bursts = bursts
        total = sum(weight for _, weight in workload.models)
        self.names = [name for name, _ in workload.models]
        self.calm = [workload.rate * weight / total for _, weight in workload.models]
        self.paces = self.calm[:]
        self.sums = list(accumulate(self.paces))
        self.changes = [(self.at + draw(bursts.every, stream), index) for index in range(len(self.names))]
        heapify(self.changes)

    def step(self) -> str:
        """Go on to the next arrival, which is at ``at``; the model that it asks for."""
        while True:
            due = self.at + round(self.stream.expovariate(self.sums[-1]) * SECOND)
            change, index = self.changes[0]
            if due < change:
                self.at = due
                chance = self.stream.random() * self.sums[-1]
                return self.names[min(bisect_right(self.sums, chance), len(self.names) - 1)]
            self.at = change
            begins = self.paces[index] == self.calm[index]
            self.paces[index] = self.calm[index] * (self.bursts.factor if begins else 1.0)
            self.sums = list(accumulate(self.paces))
            length = draw(self.bursts.length if begins else self.bursts.every, self.stream)
            heapreplace(self.changes, (self.at + max(1, length), index))
