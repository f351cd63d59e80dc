"""Counterexamples: a stem and a cycle in the domain's words, run again with real durations.

The exploration lets any instant that is to come come next. Whether the way it found can happen is a question about
differences of instants: each step has an instant, a timer fires a known length after the step that set it, and no timer
that is still to come may be overdue. Such a system has a solution or a contradiction; the solution is then played with
production's own clock arithmetic, and has to show the same pictures. If not, the counterexample is *spurious*.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec.structs import replace

from interlock.domain import events as ev
from interlock.domain.entities import Phase, RequestStatus
from interlock.domain.shrinking import idle_since
from interlock.domain.units import FOREVER

from . import image
from .actions import Action, Key, perform, possible
from .cycles import Lasso
from .explore import EFFECTS, Exploration
from .image import Vocabulary, admitted_at, aged_at
from .scope import Scope
from .situation import Situation
from .start import begin
from .words import Names, tell_action, tell_event, tell_standing

ROUNDS = 2
"""So often a cycle is run again with real durations."""
TOLD_MAX = 40
"""So many events of one step are told."""
Holder = tuple[str, ...]


class Move(msgspec.Struct, frozen=True):
    """One step of a counterexample: what was done, what the core decided, and what is otherwise after it.

    ``at`` is its instant in the run with real durations, in microseconds from the start, or None.
    """

    key: Key
    did: str
    told: list[str]
    effects: list[str]
    changed: list[str]
    at: int | None = None

    @property
    def line(self) -> str:
        """The step on one line."""
        return f"{self.did}{' → ' if self.told else ''}{'; '.join(self.told)}"


class Counterexample(msgspec.Struct, frozen=True):
    """The shortest way found to where a property does not hold, and the cycle that goes on for ever, if it is one.

    ``start`` is how things stand at the beginning; ``moves`` are the steps of the stem, then those of one round.
    """

    property: str
    words: str
    stem: list[str]
    cycle: list[str]
    spurious: bool
    start: list[str] = []
    moves: list[Move] = []


class Run:
    """One way through the scope, as it was explored."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.words = Vocabulary()
        self.names = Names()
        self.situation = begin(scope)
        self.actions: list[Action] = []
        self.pictures: list[bytes] = []
        self.moves: list[Move] = []
        self.befores: list[Situation] = []
        """The situation before each step."""
        self.events: list[list[ev.Event]] = []
        """What the core decided in each step."""
        self.created: dict[Holder, tuple[int, int]] = {}
        self.bounds: list[tuple[int, int, int, bool]] = []
        """(step, later step, length, exact): the later comes so much after the first when exact, else before that."""
        self.standing = tell_standing(self.situation, self.names)
        self.start = [f"{what}: {how}" for what, how in self.standing.items()]
        self._note(0)

    @property
    def lines(self) -> list[str]:
        """Each step on one line."""
        return [move.line for move in self.moves]

    def _note(self, step: int) -> None:
        """Remember which step set each instant that is to come, and how far ahead."""
        live = instants_of(self.situation)
        for holder, instant in live.items():
            known = self.created.get(holder)
            if known is None or known[1] != instant:
                self.created[holder] = (step, instant)
        for holder in [holder for holder in self.created if holder not in live]:
            del self.created[holder]

    def take(self, key: Key) -> bool:
        """Do the action of that key; false when it is not possible here, or the core breaks on it."""
        before = self.situation
        picture = image.take(before, self.words)
        action = next((a for a in possible(before, picture, self.scope) if a.key == key), None)
        if action is None:
            return False
        step = len(self.actions) + 1
        self._bound(action, step)
        said = tell_action(action, before, self.scope, self.names)
        after = before.fork()
        broke = ""
        try:
            perform(after, action)
        except Exception as error:  # a defect of the core, or a mutant's: it ends the way
            broke = f"the core breaks: {error}"
        seen = after.witness.seen
        told = [tell_event(event, self.names) for event in seen[:TOLD_MAX]]
        changed = [] if broke else self._changed(after)
        self.moves.append(Move(action.key, said, [*told, *([broke] if broke else [])], _effects(seen), changed))
        self.befores.append(before)
        self.events.append(list(seen))
        self.actions.append(action)
        self.situation = after
        self.pictures.append(b"" if broke else image.take(after, self.words).key)
        if not broke:
            self._note(step)
        return not broke

    def _changed(self, after: Situation) -> list[str]:
        """What stands otherwise than before the step."""
        before, self.standing = self.standing, tell_standing(after, self.names)
        changed = [f"{what}: {how}" for what, how in self.standing.items() if before.get(what) != how]
        return [*changed, *(f"{what}: no more" for what in before if what not in self.standing)]

    def _bound(self, action: Action, step: int) -> None:
        """What this step says about instants: the one that comes is reached, and no other is overdue."""
        base = self.situation.now
        for holder, (setter, instant) in self.created.items():
            length = instant - self._instant_of(setter, base)
            comes = self._comes(action, holder, instant)
            self.bounds.append((setter, step, length, comes))

    def _instant_of(self, step: int, base: int) -> int:
        """When a step happened in the exploration: it lets one microsecond pass a step."""
        return base - (len(self.actions) - step)

    def _comes(self, action: Action, holder: Holder, instant: int) -> bool:
        if action.key[0] not in ("timer", "pass"):
            return False
        if isinstance(action.about, int):
            return action.about == instant
        return holder == ("idle", action.about[0], str(action.about[1]))


def _effects(events: list[ev.Event]) -> list[str]:
    """The effects that these events bring, each with its node."""
    named = ((EFFECTS.get(type(event)), event) for event in events[:TOLD_MAX])
    return [f"{name} of {_whose(event)}" for name, event in named if name]


def _whose(event: ev.Event) -> str:
    model, node = getattr(event, "model", ""), getattr(event, "node", "")
    return f"{model} on {node}" if model else f"a stray process on {node}"


def instants_of(situation: Situation) -> dict[Holder, int]:
    """Every instant that is to come, by what holds it."""
    state, now = situation.state, situation.now
    found: dict[Holder, int] = {}
    for replica in state.replicas.values():
        found["silent", replica.id] = replica.silent_at
        if replica.phase is Phase.LOADED:
            found["residency", replica.id] = replica.evictable_at
            found["trial", replica.id] = replica.trial_until
            model = state.models.get(replica.model)
            if replica.id not in state.locks and model is not None and model.scheduling.scales:
                delay = state.settings.scale_down_delay
                found["idle", replica.id, str(delay)] = idle_since(replica) + delay
    for request in state.requests.values():
        if request.status is not RequestStatus.LOCKED:
            found["deadline", request.id] = request.deadline
            for place, instant in enumerate(aged_at(situation, request)):
                found["aged", request.id, str(place)] = instant
        if request.wait is not None:
            found["wake", request.id] = request.wait.until
    for name in state.tenants:
        for place, instant in enumerate(admitted_at(state, name)):
            found["tenant", name, str(place)] = instant
    if state.mass_loss_until:
        found["mass-loss", ""] = state.mass_loss_until
    for model in state.models.values():
        found["retry", model.name] = model.retry_at
        if model.churn is not None:
            found["churn", model.name] = model.churn.until
        if model.parked is not None:
            found["unpark", model.name] = model.parked.until
    for node in state.nodes.values():
        found["offline", node.name] = node.offline_at
        found["drain", node.name] = node.drain_by
        found["alone", node.name] = node.alone_at
        counted = [until for until in state.evictions.get(node.name, ()) if until > now]
        found["window", node.name] = min(counted, default=FOREVER)
    return {holder: instant for holder, instant in found.items() if now < instant < FOREVER}


def explain_lasso(exploration: Exploration, lasso: Lasso) -> Counterexample:
    """The counterexample of a cycle."""
    radix = exploration.budget.radix
    on_cycle = {core for core, _ in lasso.cycle}
    first = exploration.first_states()
    entry = min((first[core] for core in on_cycle), key=lambda state: len(exploration.stem(state)))
    place = next(place for place, (core, _) in enumerate(lasso.cycle) if core == entry // radix)
    turned = [*lasso.cycle[place:], *lasso.cycle[:place]]
    stem = [edge.action.key for _, edge in exploration.stem(entry)]
    cycle = [edge.action.key for _, edge in turned]
    run = follow(exploration.scope, [*stem, *cycle * ROUNDS])
    schedule = _played(run)
    moves = _timed(run, schedule)[: len(stem) + len(cycle)]
    lines = [move.line for move in moves]
    return Counterexample(
        lasso.property, lasso.words, lines[: len(stem)], lines[len(stem) :], schedule is None, run.start, moves
    )


def explain_finding(exploration: Exploration, property_: str, words: str) -> Counterexample:
    """The counterexample of something that must not be seen."""
    state, action = exploration.violations[property_, words]
    keys = [edge.action.key for _, edge in exploration.stem(state)]
    if action is not None:
        keys.append(action.key)
    run = follow(exploration.scope, keys)
    rounds = _rounds(run)
    schedule = _played(run)
    return Counterexample(property_, words, run.lines, rounds, schedule is None, run.start, _timed(run, schedule))


def follow(scope: Scope, keys: Iterable[Key]) -> Run:
    """The way that these actions take from the scope's beginning, as far as they are possible."""
    run = Run(scope)
    for key in keys:
        if not run.take(key):
            break
    return run


def _rounds(run: Run) -> list[str]:
    """When the last step never settled: the events that repeat in it."""
    seen = run.situation.witness.seen
    told = [tell_event(event, run.names) for event in seen[-120:]]
    if not run.pictures or run.pictures[-1]:
        return []
    for length in range(1, len(told) // 2):
        if told[-length:] == told[-2 * length : -length]:
            return told[-length:]
    return []


# --- real durations -------------------------------------------------------------------------------------------------


def _timed(run: Run, schedule: list[int] | None) -> list[Move]:
    if schedule is None:
        return run.moves
    return [replace(move, at=at) for move, at in zip(run.moves, schedule[1:], strict=True)]


def _played(run: Run) -> list[int] | None:
    """The schedule of the way, when it has one and shows the same pictures when it is played by it; else None."""
    schedule = solve(len(run.actions), run.bounds)
    return schedule if schedule is not None and plays(run, schedule) else None


def plays(run: Run, schedule: list[int]) -> bool:
    """Whether the way shows the same pictures when its steps come at these instants, and no instant is touched."""
    situation, words = begin(run.scope), run.words
    start = situation.now
    for action, at, wanted in zip(run.actions, schedule[1:], run.pictures, strict=True):
        picture = image.take(situation, words)
        known: Any = next((a for a in possible(situation, picture, run.scope) if a.key == action.key), None)
        if known is None:
            return False
        after = situation.fork()
        after.now = start + at
        if known.key[0] in ("timer", "pass"):
            known = Action(known.key, None)
        try:
            perform(after, known)
        except Exception:  # it broke in the exploration too, or the pictures would differ
            return not wanted
        if image.take(after, words).key != wanted:
            return False
        situation = after
    return True


def solve(steps: int, bounds: list[tuple[int, int, int, bool]], gap: int = 1) -> list[int] | None:
    """Instants for the steps, ``gap`` apart at least, or None when there are none: longest paths over differences."""
    least: list[tuple[int, int, int]] = [(step, step + 1, gap) for step in range(steps)]
    for first, second, length, exact in bounds:
        if exact:
            least.append((first, second, length))
        least.append((second, first, -length + (0 if exact else 1)))
    at = [0] * (steps + 1)
    for _ in range(steps + 2):
        moved = False
        for first, second, length in least:
            if at[first] + length > at[second]:
                at[second] = at[first] + length
                moved = True
        if not moved:
            return [instant - at[0] for instant in at]
    return None
