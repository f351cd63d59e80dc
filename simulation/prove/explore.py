"""Exhaustive exploration, breadth first.

A state is a picture and what is left of each resource. What a picture can do does not depend on what is left, only
whether it may; so each step of the core is computed and judged once for a picture, and the states above it share it.
"""

from __future__ import annotations

import gc
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import msgspec

from interlock.domain import engine as engine_module
from interlock.domain import events as ev
from interlock.domain import loads, routing
from interlock.domain.errors import InvariantBroken
from interlock.domain.explanation import Explanation

from . import image, properties, silences
from .actions import Action, Key, perform, possible, room_for
from .image import Picture, Vocabulary
from .scope import RESOURCES, Scope
from .situation import Finding, Packed, Situation, pack, unpack

STATES_MAX = 3_000_000
FIRST_ASKED_AT = 500
UNPACKED_MAX = 10_000
"""So many situations are kept as they are; beyond, all that are kept at all are packed."""
DECISIONS_IN_A_BREATH = 400
"""A breath of the core that is longer than this in so small a cluster is a loop."""


class Label(msgspec.Struct, frozen=True):
    """What one step did: effects that it sent, requests (by place) that were decided on, and what was wrong."""

    effects: tuple[str, ...] = ()
    decided: tuple[int, ...] = ()
    findings: tuple[Finding, ...] = ()


class Edge(msgspec.Struct, frozen=True):
    """A step of the core: to which picture, by which action. ``target`` -1: the core broke."""

    target: int
    action: Action
    label: Label


class Core:
    """One picture: a situation that has it, and its steps, by the resource that they use up.

    What is explored is large, so no more of it is kept than is needed: a situation may be packed, as a snapshot keeps a
    state, and is forgotten with its actions once all steps that it can ever take are known.
    """

    __slots__ = ("_packed", "_situation", "edges", "findings", "picture", "untaken", "wrong")

    def __init__(self, situation: Situation, picture: Picture, findings: tuple[Finding, ...]) -> None:
        self._situation: Situation | None = situation
        self._packed: Packed | None = None
        self.picture = picture
        self.findings = findings
        self.untaken: frozenset[str] | None = None
        """Resources that actions would use up whose steps are not known; None before it was asked what is possible."""
        self.edges: dict[str, tuple[Edge, ...]] = {}
        self.wrong = False
        """Whether something is wrong with one of these steps."""

    @property
    def situation(self) -> Situation:
        """The situation; unpacked anew at each call once it is packed."""
        if self._situation is not None:
            return self._situation
        assert self._packed is not None, "all its steps are known, so that it was forgotten"
        return unpack(self._packed)

    def pack(self) -> None:
        """Keep only what cannot be derived, and nothing when no step is left that it could take."""
        if self.untaken == frozenset():
            self._situation = self._packed = None
            self.picture = _FORGOTTEN
        elif self._situation is not None:
            self._packed, self._situation = pack(self._situation), None


_FORGOTTEN = Picture(b"", [], [], [])
_Ways: TypeAlias = "tuple[int, array[int]]"
"""How many steps there are, and where they lead, as differences between state numbers: each of these once."""


class Budget:
    """Resources packed into one number, and what each number allows."""

    def __init__(self, scope: Scope) -> None:
        self.counted = [name for name in RESOURCES if name != "admin" and scope.amount(name)]
        self.steps = len(scope.steps) if scope.amount("admin") else 0
        self.weights: dict[str, int] = {}
        radix = 1
        self._sizes: list[tuple[str, int, int]] = []
        for name in self.counted:
            self._sizes.append((name, radix, scope.amount(name) + 1))
            self.weights[name] = radix
            radix *= scope.amount(name) + 1
        self._admin = radix
        for number in range(self.steps):
            self.weights[f"admin:{number}"] = radix
        self.radix = radix * (self.steps + 1)
        self.full = self.radix - 1
        self._allowed: dict[int, tuple[str, ...]] = {}

    def allowed(self, left: int) -> tuple[str, ...]:
        """The resources of which some is left."""
        known = self._allowed.get(left)
        if known is None:
            names = [name for name, weight, size in self._sizes if left // weight % size]
            steps_left = left // self._admin
            if steps_left:
                names.append(f"admin:{self.steps - steps_left}")
            known = self._allowed[left] = tuple(names)
        return known


EXPLAINING = ("survey", "survey_warm", "explain_room", "explain_choice", "explain_eviction", "explain_no_room")
"""Functions of the core that make explanations."""


@contextmanager
def _as_fast_as_it_goes() -> Iterator[None]:
    """Leave out what no decision reads: explanations. A breath is short here, and nothing here is cyclic garbage."""
    collecting = gc.isenabled()
    gc.disable()
    replaced: list[tuple[Any, str, Any]] = [
        (module, name, _unexplained) for module in (loads, routing) for name in EXPLAINING if hasattr(module, name)
    ]
    replaced.append((engine_module, "DECISIONS_IN_A_BREATH", DECISIONS_IN_A_BREATH))
    kept = [(module, name, getattr(module, name)) for module, name, _ in replaced]
    for module, name, stand_in in replaced:
        setattr(module, name, stand_in)
    try:
        yield
    finally:
        for module, name, original in kept:
            setattr(module, name, original)
        if collecting:
            # What was explored is large and holds no cycles: the collector need not walk it when it begins again.
            gc.freeze()
            gc.enable()


_UNEXPLAINED = Explanation("left out")


def _unexplained(*args: object, **kwargs: object) -> Explanation:
    return _UNEXPLAINED


class Exploration:
    """The graph of one scope. ``parents`` maps each state to the one it was first reached from; -1 at the root."""

    def __init__(self, scope: Scope, start: Situation, *, mirrored: bool = True) -> None:
        self.scope = scope
        self._mirrored = mirrored
        self.budget = Budget(scope)
        self.words = Vocabulary()
        self.cores: list[Core] = []
        self.index: dict[bytes, int] = {}
        self.parents: dict[int, int] = {}
        self.edge_count = 0
        self.complete = True
        self.bound = 0
        self.seconds = 0.0
        self.violations: dict[tuple[str, str], tuple[int, Action | None]] = {}
        """For each finding: the first state where it shows, and the action that shows it (None: the state itself)."""
        self._ways: dict[tuple[str, ...], dict[int, _Ways]] = {}
        """By what resources are left and by picture."""
        self._keys: dict[Key, Action] = {}
        self._labels: dict[Label, Label] = {}
        self._names: dict[frozenset[str], frozenset[str]] = {}
        """What pictures and edges have in common: few actions differ in more than ids, and few labels at all."""
        self._opened: dict[int, None] = {}
        self.root = self._core(start) * self.budget.radix + self.budget.full

    def run(
        self, states_max: int = STATES_MAX, enough: Callable[[Exploration], bool] = lambda exploration: False
    ) -> Exploration:
        """Explore until nothing new is reached, or it is ``enough``: that is asked whenever the states have doubled.

        ``complete`` is false when it was enough, or ``states_max`` was in the way.
        """
        began = time.perf_counter()
        with _as_fast_as_it_goes():
            self._explore(states_max, enough)
        self.seconds = time.perf_counter() - began
        return self

    def _explore(self, states_max: int, enough: Callable[[Exploration], bool]) -> None:
        radix, parents, allowed = self.budget.radix, self.parents, self.budget.allowed
        parents[self.root] = -1
        by_left: dict[int, dict[int, _Ways]] = {}
        layer = [self.root]
        ask_at = FIRST_ASKED_AT
        while layer:
            following: list[int] = []
            for state in layer:
                core, left = divmod(state, radix)
                known = by_left.get(left)
                if known is None:
                    known = by_left[left] = self._ways.setdefault(allowed(left), {})
                ways = known.get(core)
                if ways is None:
                    ways = known[core] = self._expand(core, allowed(left), state)
                count, offsets = ways
                self.edge_count += count
                for target in [target for offset in offsets if (target := offset + left) not in parents]:
                    parents[target] = state
                    following.append(target)
            if len(self.cores) > UNPACKED_MAX:
                for core in self._opened:
                    self.cores[core].pack()
                self._opened.clear()
            layer = following
            if layer and len(parents) > states_max:
                self.complete = False
                return
            if len(parents) >= ask_at:
                ask_at = 2 * len(parents)
                if enough(self):
                    self.complete = not layer
                    return

    def _expand(self, core: int, names: tuple[str, ...], state: int) -> _Ways:
        """The core's steps that these resources allow."""
        radix, weights = self.budget.radix, self.budget.weights
        here = self.cores[core]
        for finding in here.findings:
            self.violations.setdefault((finding.property, finding.words), (state, None))
        unknown = [name for name in ("", *names) if name not in here.edges]
        if unknown:
            self._open(core, here, unknown)
        count, offsets = 0, dict[int, None]()
        for name in ("", *names):
            weight, edges = weights.get(name, 0), here.edges[name]
            if here.wrong:
                self._note(edges, state)
            found = [edge.target * radix - weight for edge in edges if edge.target >= 0]
            count += len(found)
            offsets.update(dict.fromkeys(found))
        return count, array("q", offsets)

    def _note(self, edges: tuple[Edge, ...], state: int) -> None:
        """What is wrong with these steps, at the first state where one is taken."""
        for edge in edges:
            for finding in edge.label.findings:
                self.violations.setdefault((finding.property, finding.words), (state, edge.action))

    def _open(self, core: int, here: Core, resources: list[str]) -> None:
        """Take the steps of a picture that use up these resources; those that change nothing are left out."""
        actions: dict[str, list[Action]] = {}
        if here.untaken is None or not here.untaken.isdisjoint(resources):
            before = here.situation
            for action in possible(before, here.picture, self.scope):
                actions.setdefault(action.resource, []).append(action)
            untaken = frozenset(actions).difference(resources, here.edges)
            here.untaken = self._names.setdefault(untaken, untaken)
        for name in resources:
            steps = self._steps(before, here.picture, core, actions[name]) if name in actions else ()
            edges = here.edges[name] = tuple([edge for edge in steps if edge is not None])
            here.wrong = here.wrong or any(edge.label.findings for edge in edges)
        if not here.untaken:
            here.pack()
        elif actions:
            self._opened[core] = None

    def _steps(self, before: Situation, picture: Picture, core: int, actions: list[Action]) -> Iterator[Edge | None]:
        """What comes of each action. The end of a wait is not computed again for requests that wait alike."""
        ends: dict[int, Edge | None] = {}
        alike: dict[int, int] | None = None
        for action in actions:
            if action.key[:2] != ("timer", "deadline"):
                yield self._step(before, picture, core, action)
                continue
            place = int(action.key[2])
            if ends and alike is None:
                alike = image.alike_before(before, picture, self.words) if self._mirrored else {}
            twin = alike.get(place, -1) if alike else -1
            if twin in ends:
                ends[place] = self._mirror(ends[twin], action, twin, place)
            else:
                ends[place] = self._step(before, picture, core, action)
            yield ends[place]

    def _mirror(self, edge: Edge | None, action: Action, one: int, other: int) -> Edge | None:
        """The same step with two requests exchanged."""
        if edge is None:
            return None
        label = edge.label
        if label.decided:
            exchanged = {one: other, other: one}
            label = msgspec.structs.replace(label, decided=tuple([exchanged.get(at, at) for at in label.decided]))
            label = self._labels.setdefault(label, label)
        return Edge(edge.target, self._bare(action.key), label)

    def _bare(self, key: Key) -> Action:
        """The action by its key alone: what it is about differs from situation to situation."""
        known = self._keys.get(key)
        return known if known is not None else self._keys.setdefault(key, Action(key, None))

    def _step(self, before: Situation, picture: Picture, core: int, action: Action) -> Edge | None:
        """One step of the core, judged; None when it changes nothing."""
        after = room_for(before, action)
        try:
            perform(after, action)
        except InvariantBroken as broken:
            repeats = "did not settle" in str(broken)
            finding = Finding("T" if repeats else "invariant", str(broken))
            return Edge(-1, action, Label(findings=(finding,)))
        except Exception as error:  # a defect of the core, or a mutant's: it is the finding
            finding = Finding("invariant", f"the core broke: {type(error).__name__}: {error}")
            return Edge(-1, action, Label(findings=(finding,)))
        target = self._core(after)
        witness = after.witness
        if target == core and not witness.seen and action.key[0] not in _TELLS_ANYWAY:
            return None
        label = self._label(before, after, picture, action)
        witness.seen.clear()  # what came of it is in the label, and the situation may be kept
        return Edge(target, self._bare(action.key), label)

    def _label(self, before: Situation, after: Situation, picture: Picture, action: Action) -> Label:
        witness, seen = after.witness, after.witness.seen
        kind = str(action.key[0])
        if not seen and kind not in _TELLS_ANYWAY:
            return _PLAIN
        routed_again = action.about[0] if action.key[0] == "report" else ""
        kinds = {type(event) for event in seen}
        steps = properties.own_steps(seen, routed_again) if routed_again or ev.ReplicaReserved in kinds else {}
        findings = list(witness.findings)
        decided: dict[int, None] = {}
        effects: list[str] = []
        if not _LABELLED.isdisjoint(kinds):
            for event in seen:
                if isinstance(event, _DECIDES):
                    self.bound = max(self.bound, event.passes)
                    if event.request in picture.requests:
                        decided[picture.requests.index(event.request)] = None
                if name := EFFECTS.get(type(event)):
                    effects.append(name)
        if steps:
            findings += properties.judge_steps(before.state, after.state, steps)
        if kind in _WORLDLY and (kind in properties.TELLING or not properties.FATES.isdisjoint(kinds)):
            findings += properties.judge_world(after, seen, kind)
            findings += properties.judge_silence(before.state, after, seen)
            findings += silences.judge_contact(before.state, seen)
            findings += properties.judge_drain(after.state, seen)
        elif kind in ("release", "lose-holder", "hang-up"):
            findings += properties.judge_releases(before.state, seen, kind, action.about)
            if kind == "lose-holder":
                findings += properties.judge_loss(after.state, action.about)
            elif kind == "hang-up":
                findings += properties.judge_departure(after.state, action.about)
        if "model.unload" in effects:
            findings += properties.judge_breath(seen)
        if not (effects or decided or findings):
            return _PLAIN
        label = Label(tuple(effects), tuple(decided), tuple(findings))
        return self._labels.setdefault(label, label)

    def _core(self, situation: Situation) -> int:
        """The number of the situation's picture; a new one is judged."""
        picture = image.take(situation, self.words)
        found = self.index.get(picture.key)
        if found is None:
            found = self.index[picture.key] = len(self.cores)
            core = Core(situation, picture, _judged(situation))
            self.cores.append(core)
            if found > UNPACKED_MAX:
                core.pack()
        return found

    def first_states(self) -> dict[int, int]:
        """For each picture, the state in which it was reached first."""
        first: dict[int, int] = {}
        for state in self.parents:
            first.setdefault(state // self.budget.radix, state)
        return first

    # --- the way back -----------------------------------------------------------------------------------------------

    def stem(self, state: int) -> list[tuple[int, Edge]]:
        """The shortest way from the root: each state with the step taken there."""
        way: list[tuple[int, Edge]] = []
        while (parent := self.parents[state]) >= 0:
            way.append((parent, self.edge_between(parent, state)))
            state = parent
        return way[::-1]

    def edge_between(self, state: int, target: int) -> Edge:
        """A step from one state to another."""
        radix = self.budget.radix
        core, left = divmod(state, radix)
        target_core, target_left = divmod(target, radix)
        for name in ("", *self.budget.allowed(left)):
            if left - self.budget.weights.get(name, 0) == target_left:
                for edge in self.cores[core].edges[name]:
                    if edge.target == target_core:
                        return edge
        raise InvariantBroken(f"No step leads from state {state} to {target}.")


def _judged(situation: Situation) -> tuple[Finding, ...]:
    try:
        return tuple(properties.judge_state(situation))
    except Exception as error:  # the state is so broken that it cannot be judged: that is the finding
        return (Finding("invariant", f"the state is broken: {type(error).__name__}: {error}"),)


_PLAIN = Label()
_TELLS_ANYWAY = frozenset({"tell", "lose-holder", "hang-up"})
"""Kinds of action that are judged though nothing came of them: that may be what is wrong."""
_DECIDES = (ev.RequestQueued, ev.ReplicaLocked)
_WORLDLY = frozenset({"tell", "heal", "start", "silence", "in-vain", "mail", "timer", "fail", "answer", "repeat"})
"""Kinds of action after which the log is held against what runs."""
EFFECTS: dict[type[ev.Event], str] = {
    ev.BackendInstallRequested: "backend.install",
    ev.StagingStarted: "model.stage",
    ev.LoadStarted: "model.load",
    ev.UnloadRequested: "model.unload",
    ev.ReplicaEvicted: "model.unload",
    ev.StrayFound: "backend.stop",
}
"""The effects that leave with an event."""
_LABELLED = frozenset({*_DECIDES, *EFFECTS})
"""Events that a label tells of."""
