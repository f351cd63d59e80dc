"""``bench route``: one decision with its events applied and encoded, in clusters of growing size.

A warm decision is timed twice: the decision itself (decide, apply, encode), which the bar is for, and the whole breath
that the writer spends on it (with recall, recording, follow-ups and the reply), which has none.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from time import perf_counter_ns

from interlock.domain.apply import apply
from interlock.domain.codec import encode_state
from interlock.domain.commands import AcquireLock, Command, Envelope, Locked, ReleaseLock, Waiting
from interlock.domain.decide import decide
from interlock.domain.engine import Engine, Outcome
from interlock.domain.errors import InvariantBroken
from interlock.domain.events import ReplicaLocked
from interlock.domain.units import SECOND

from .fleet import NOW, Fleet
from .report import Row, Scale, Tell, median, percentile, row

SIZES = (10, 100, 1_000, 10_000)
_WARM_SAMPLES = 20_000
_COLD_SAMPLES = 100


def measure(scale: Scale, tell: Tell) -> list[Row]:
    """Warm, place, evict and tick at each size, beside an empty function call."""
    empty = _empty_call_us()
    rows: list[Row] = []
    warm_p50: dict[int, list[float]] = {}
    sizes = [size for size in SIZES if size <= scale.of(SIZES[-1], 100)]
    for size in sizes:
        tell(f"route: {size} nodes, {size * 5} replicas")
        fleet = Fleet(size, cold=_COLD_SAMPLES)
        gc.collect()
        gc.freeze()  # as the writer does when it begins to lead
        warm = [_warm(fleet, scale.of(_WARM_SAMPLES, 500), seed) for seed in range(scale.runs)]
        warm_p50[size] = [p50 for p50, _ in warm]
        rows.append(_timed(f"warm p50, {size} nodes", warm_p50[size], empty, 15.0))
        rows.append(_timed(f"warm p99, {size} nodes", [p99 for _, p99 in warm], empty, 60.0))
        near = [_warm(fleet, scale.of(_WARM_SAMPLES, 500), seed, _prompt) for seed in range(scale.runs)]
        rows.append(_timed(f"warm with a prompt p50, {size} nodes", [p50 for p50, _ in near], empty, 30.0))
        rows.append(_timed(f"warm with a prompt p99, {size} nodes", [p99 for _, p99 in near], empty))
        breath = [_warm_breath(fleet, scale.of(_WARM_SAMPLES, 500), seed) for seed in range(scale.runs)]
        rows.append(_timed(f"warm whole breath p50, {size} nodes", [p50 for p50, _ in breath], empty))
        rows.append(_timed(f"warm whole breath p99, {size} nodes", [p99 for _, p99 in breath], empty))
        for name, models in (("place", fleet.small), ("evict", fleet.big)):
            cold = [_cold(fleet.engine, models, size) for _ in range(scale.runs)]
            bar = 500.0 if size == SIZES[-1] else None
            rows.append(_timed(f"{name} p50, {size} nodes", [percentile(run, 0.5) for run in cold], empty, bar))
            rows.append(_timed(f"{name} p99, {size} nodes", [percentile(run, 0.99) for run in cold], empty))
        idle = [_tick_with_nothing_due(fleet.engine) for _ in range(scale.runs)]
        rows.append(_timed(f"tick, nothing due, {size} nodes", idle, empty))
        due = [_tick_with_one_due(fleet) for _ in range(scale.runs)]
        rows.append(_timed(f"tick, one deadline due, {size} nodes", due, empty))
        gc.unfreeze()
    rows.append(_flat("warm p50", warm_p50, sizes))
    return rows


def _timed(case: str, values: list[float], empty: float, bar: float | None = None) -> Row:
    if bar is None:
        return row(case, values, "µs", limit=empty)
    return row(case, values, "µs", limit=empty, bar=f"≤ {bar:g} µs", holds=lambda value, _: value <= bar)


def _flat(name: str, by_size: dict[int, list[float]], sizes: list[int]) -> Row:
    """How much dearer a decision is in the largest cluster than in the smallest."""
    values = [large / small for large, small in zip(by_size[sizes[-1]], by_size[sizes[0]], strict=True)]
    case = f"{name}, {sizes[-1]} against {sizes[0]} nodes"
    return row(case, values, "x", limit=1.0, bar="≤ 1.5x", holds=lambda value, _: value <= 1.5)


def _nothing() -> None:
    """The empty function call that everything stands beside."""


def _empty_call_us() -> float:
    samples = []
    for _ in range(_WARM_SAMPLES):
        begun = perf_counter_ns()
        _nothing()
        samples.append((perf_counter_ns() - begun) / 1_000)
    return max(median(samples), 0.001)


def _envelope(number: int, command: Command) -> Envelope:
    return Envelope(command_id=f"c-{number:012d}", command=command, actor="gateway-1")


def _acquire(number: int, model: str) -> Envelope:
    return _envelope(number, AcquireLock(request=f"q-{number:012d}", model=model, holder="gateway-1"))


def _expect(outcome: Outcome, kind: type) -> None:
    """A benchmark of the wrong decision would measure nothing."""
    if not isinstance(outcome.reply, kind):
        raise InvariantBroken(f"The benchmark expected {kind.__name__} and got {outcome.reply!r}.")


Prompt = Callable[[str, random.Random], tuple[int, ...]]
"""The marks of a request for a model."""
_SHARED, _OWN, _CONVERSATIONS = 6, 6, 8
"""Marks of a prompt of 16,000 characters: of the rules that a model's conversations share, and of one of them."""


def _no_prompt(model: str, rng: random.Random) -> tuple[int, ...]:
    return ()


def _prompt(model: str, rng: random.Random) -> tuple[int, ...]:
    rules, talk = random.Random(model), random.Random(f"{model}/{rng.randrange(_CONVERSATIONS)}")
    return tuple([rules.getrandbits(32) for _ in range(_SHARED)] + [talk.getrandbits(32) for _ in range(_OWN)])


def _warm(fleet: Fleet, count: int, seed: int, prompt: Prompt = _no_prompt) -> tuple[float, float]:
    """p50 and p99 of deciding, applying and encoding the lock of a warm model; its release is not timed."""
    state, rng = fleet.engine.state.fork(), random.Random(seed)
    models = [rng.choice(fleet.warm) for _ in range(count)]
    asked = [
        AcquireLock(request=f"q-{number}", model=model, holder="g", prefix=prompt(model, rng))
        for number, model in enumerate(models)
    ]
    samples = []
    for number, command in enumerate(asked):
        begun = perf_counter_ns()
        events = decide(state, command, NOW + number).events
        for event in events:
            apply(state, event)
            encode_state(event)
        samples.append((perf_counter_ns() - begun) / 1_000)
        if type(events[0]) is not ReplicaLocked:
            raise InvariantBroken(f"The benchmark expected a lock and got {events[0]!r}.")
        for event in decide(state, ReleaseLock(request=command.request), NOW + number).events:
            apply(state, event)
    return percentile(samples, 0.5), percentile(samples, 0.99)


def _warm_breath(fleet: Fleet, count: int, seed: int) -> tuple[float, float]:
    """p50 and p99 of all that the writer's engine does for acquiring a warm model."""
    engine, rng = fleet.engine.fork(), random.Random(seed)
    models = [rng.choice(fleet.warm) for _ in range(count)]
    envelopes = [_acquire(number, model) for number, model in enumerate(models)]
    releases = [
        _envelope(count + number, ReleaseLock(request=envelope.command.request))  # type: ignore[attr-defined]  # it is an AcquireLock
        for number, envelope in enumerate(envelopes)
    ]
    samples = []
    for number in range(count):
        begun = perf_counter_ns()
        outcome = engine.handle(envelopes[number], NOW + number)
        samples.append((perf_counter_ns() - begun) / 1_000)
        _expect(outcome, Locked)
        engine.handle(releases[number], NOW + number)
    return percentile(samples, 0.5), percentile(samples, 0.99)


def _cold(engine: Engine, models: list[str], nodes: int) -> list[float]:
    """What requests for cold models take, one after the other; each finds the room that is left.

    The first is not timed: it is the first to touch what forking has just copied.
    """
    forked = engine.fork()
    first, *timed = models[: max(2, nodes // 2)]
    _expect(forked.handle(_acquire(len(models), first), NOW), Waiting)
    samples = []
    for number, model in enumerate(timed):
        envelope = _acquire(number, model)
        begun = perf_counter_ns()
        outcome = forked.handle(envelope, NOW)
        samples.append((perf_counter_ns() - begun) / 1_000)
        _expect(outcome, Waiting)
    return samples


def _tick_with_nothing_due(engine: Engine) -> float:
    forked = engine.fork()
    return _median_of(lambda: forked.tick(NOW), 1_000)


def _median_of(call: Callable[[], object], count: int) -> float:
    samples = []
    for _ in range(count):
        begun = perf_counter_ns()
        call()
        samples.append((perf_counter_ns() - begun) / 1_000)
    return median(samples)


def _tick_with_one_due(fleet: Fleet) -> float:
    """A request that waits for a busy model runs into its deadline."""
    engine = fleet.engine.fork()
    for number in range(5):
        _expect(engine.handle(_acquire(number, fleet.warm[0]), NOW), Locked)
    samples = []
    for number in range(5, 105):
        at = NOW + number * SECOND
        request = AcquireLock(request=f"q-{number}", model=fleet.warm[0], holder="gateway-1", deadline=at + 1)
        _expect(engine.handle(_envelope(number, request), at), Waiting)
        begun = perf_counter_ns()
        outcome = engine.tick(at + 1)
        samples.append((perf_counter_ns() - begun) / 1_000)
        if len(outcome.events) != 1:
            raise InvariantBroken(f"The benchmark expected one refusal and got {len(outcome.events)} events.")
    return median(samples)
