"""Surveys: what a decision writes down about the nodes that it considered.

The verdict on each node is the first filter that fails, in the pipeline's order: approval, selector, health, then what
the step asks. Small clusters list every node; large ones count, and list the best and the nearest misses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

import msgspec

from .anti_affinity import who_keeps_away
from .claims import RAM
from .disk import unused_files
from .entities import Model, Node, NodeStatus, Replica
from .explanation import FULL_SURVEY_LIMIT, NEAREST_MISSES, TOP_SCORES, Considered, Explanation
from .memory import room_after, share_of, spec_on
from .own_rules import refused_by
from .room import Filter, judge_room
from .scoring import Room, profile_of
from .selector import first_failing_term
from .state import CandidateSet, State, WarmKey, WarmSet
from .units import GIB, format_size

Verdict = Callable[[Node], Considered]

ONE_MEMORY = "; its vram and its ram are one memory there"
_IN_SHARES = "in one pool or in equal shares of several"
NO_REPLICA = "has no replica of it"
"""The commonest reason of all for which a warm decision passes a node over."""


def closed_by(state: State, model: Model, node: Node) -> Considered:
    """The verdict on a node that is not open to the model: the first filter of all steps that it does not pass."""
    if not node.approved:
        return Considered(node.name, "rejected", "approval", "waits for an operator's approval")
    if node.name not in state.candidates(model).nodes:
        return Considered(node.name, "rejected", "selector", first_failing_term(model.scheduling.selector, node.labels))
    if node.status is NodeStatus.DRAINING:
        return Considered(node.name, "rejected", "drain", "is draining")
    return Considered(node.name, "rejected", "health", f"is {node.status.value}")


def warm_rows(state: State, model: Model, chosen: str) -> list[Considered]:
    """The verdict on every node by the model's loaded replicas there; ``chosen`` is the replica taken, or empty."""
    warm = state.warm.get(model.name)
    order = warm.order if warm is not None else []
    # The replica with the fewest locks on a node stands before its others, and is put in last.
    fewest = {node: locks for locks, _, _, _, node in reversed(order)}
    all_warm = len(order) == len(state.by_model.get(model.name, ()))
    taken = state.replicas.get(chosen)
    there = taken.node if taken is not None else ""
    parallel, open_nodes = model.scheduling.parallel, state.candidates(model).keys
    rows = []
    for name, node in state.nodes.items():
        if name not in open_nodes:
            row = closed_by(state, model, node)
        elif name == there:
            place = warm.where.get(chosen) if warm is not None else None
            row = Considered(name, "chosen", "", chosen, -float(place[0]) if place else 0.0)
        elif (locks := fewest.get(name)) is None:
            slots = None if all_warm else state.by_slot.get((name, model.name))
            row = Considered(name, "rejected", "replica", _phases(state, slots.values())) if slots else _without(name)
        elif parallel and locks >= parallel:
            row = Considered(name, "rejected", "parallel", f"{locks} of {parallel} in flight")
        else:
            row = _in_flight(name, locks)
        rows.append(row)
    return rows


@lru_cache(4096)
def _without(node: str) -> Considered:
    """The commonest verdict of all: kept, since a warm decision makes one for nearly every node."""
    return Considered(node, "rejected", "replica", NO_REPLICA)


@lru_cache(4096)
def _in_flight(node: str, locks: int) -> Considered:
    """The next common, kept for the same reason."""
    return Considered(node, "eligible", "", f"{locks} in flight", -float(locks))


def _phases(state: State, replicas: Iterable[str]) -> str:
    return ", ".join(f"{replica} is {state.replicas[replica].phase.value}" for replica in replicas)


def room_verdict(state: State, model: Model, chosen: str) -> Verdict:
    """Judges nodes by room for one more replica, as :mod:`interlock.domain.room` does; ``chosen`` is the node taken.

    What is free in a node's roomiest pool stands in its key among the open ones.
    """
    open_nodes = state.candidates(model).keys

    def verdict(node: Node) -> Considered:
        key = open_nodes.get(node.name)
        if key is None:
            return closed_by(state, model, node)
        free = -key[0]
        if node.name == chosen:
            return Considered(node.name, "chosen", "", f"{format_size(free)} free", free / GIB)
        judged = judge_room(state, model, node)
        if isinstance(judged, Room):
            return Considered(node.name, "eligible", "", f"{format_size(free)} free", free / GIB)
        if judged is Filter.OWN:
            return _refused_by_own(state, model, node)
        return Considered(node.name, "rejected", judged.value, _WHAT_LACKS[judged](state, model, node))

    return verdict


def row_after(state: State, model: Model, node: Node, leaving: tuple[Replica, ...]) -> Considered:
    """The verdict on an open candidate by room for one more replica once these, of the same model, have left it."""
    judged = judge_room(state, model, node, leaving)
    if isinstance(judged, Room):
        return Considered(node.name, "eligible", "", "fits in the place of what is there" if leaving else "has room")
    if judged is Filter.OWN:
        return _refused_by_own(state, model, node)
    if judged is not Filter.MEMORY:
        return Considered(node.name, "rejected", judged.value, _WHAT_LACKS[judged](state, model, node))
    free = room_after(state.balance_of_memory(node), leaving)
    sizes = ", ".join(format_size(max(0, size)) for pool, size in sorted(free.items()) if pool != RAM)
    without = f" without {', '.join(replica.id for replica in leaving)}" if leaving else ""
    needs = format_size(spec_on(node, model.declared_spec).vram)
    return Considered(node.name, "rejected", judged.value, f"needs {needs}, {sizes or 'none'} free{without}")


def _refused_by_own(state: State, model: Model, node: Node) -> Considered:
    own = refused_by(state, model, node, profile_of(state, model))
    return Considered(node.name, "rejected", f"own:{own}", f"does not pass the filter {own}")


def _lack_of_slots(state: State, model: Model, node: Node) -> str:
    return _phases(state, state.by_slot.get((node.name, model.name), {}).values()) or "no slot for it"


def _lack_of_memory(state: State, model: Model, node: Node) -> str:
    """What the model needs there, and what is free in the node's pools."""
    spec, free = spec_on(node, model.declared_spec), state.free_in_pools(node)
    both = ONE_MEMORY if spec is not model.declared_spec else ""
    if spec.pools == 1:
        return f"needs {format_size(spec.vram)}, {format_size(max(free, default=0))} free{both}"
    split = f"in {spec.pools} pools, {format_size(share_of(spec, spec.pools))} in each" if spec.pools else _IN_SHARES
    sizes = ", ".join(map(format_size, free[:FULL_SURVEY_LIMIT]))
    return f"needs {format_size(spec.vram)} {split}; free in its pools: {sizes or 'none'}{both}"


def _lack_of_ram(state: State, model: Model, node: Node) -> str:
    left = f"{format_size(state.free_memory(node)[RAM])} of {format_size(node.ram)} free"
    return f"needs {format_size(model.declared_spec.ram)} of main memory, {left}"


def _lack_of_disk(state: State, model: Model, node: Node) -> str:
    free = max(0, (state.disk_free(node) or 0) + sum(size for _, _, size in unused_files(state, node)))
    return f"needs {format_size(model.declared_spec.disk)}, {format_size(free)} free, or of files that nothing uses"


_WHAT_LACKS: dict[Filter, Callable[[State, Model, Node], str]] = {
    Filter.SLOTS: _lack_of_slots,
    Filter.COPY: lambda state, model, node: "has its copy",
    Filter.ANTI_AFFINITY: who_keeps_away,
    Filter.MEMORY: _lack_of_memory,
    Filter.RAM: _lack_of_ram,
    Filter.DISK: _lack_of_disk,
}
"""What a node lacks, in words, by the filter that it does not pass."""


def survey(
    state: State, model: Model, step: str, verdict: Verdict, *, chosen: str = "", node: str = "", cure: str = "",
    whole: bool = False,
) -> Explanation:  # fmt: skip
    """The explanation of one decision. ``node`` is the chosen node's name, ``chosen`` what was chosen there.

    ``whole`` lists every node, however many there are.
    """
    nodes = state.nodes
    if whole or len(nodes) <= FULL_SURVEY_LIMIT:
        return Explanation(step, tuple(map(verdict, nodes.values())), {}, chosen, cure)
    listed = dict.fromkeys([node] if node else [])
    listed.update(dict.fromkeys(name for _, name in state.candidates(model).open[: TOP_SCORES + NEAREST_MISSES]))
    rows = tuple([verdict(nodes[name]) for name in listed])
    return Explanation(step, rows, _rejected(state, state.candidates(model)), chosen, cure)


_FEW = 64
_FEW_IN_FLIGHT = tuple([f"{locks} in flight" for locks in range(_FEW)])
_WITH_TWINS = 4 * TOP_SCORES
"""So many replicas are looked at for the nodes that are listed, where several stand on one."""


def survey_warm(
    state: State, model: Model, step: str, *, chosen: str = "", node: str = "", cure: str = ""
) -> Explanation:
    """The same for a decision among loaded replicas; ``chosen`` is the replica taken, if any.

    In a large cluster the rows come from the warm set alone: a warm decision must not reach for anything else.
    """
    if len(state.nodes) <= FULL_SURVEY_LIMIT:
        return Explanation(step, tuple(warm_rows(state, model, chosen)), {}, chosen, cure)
    candidates = state.candidates(model)
    rejected = _rejected(state, candidates)
    warm = state.warm.get(model.name)
    if warm is None:
        return Explanation(step, (), rejected, chosen, cure)
    without = len(candidates.open) - len(warm.where) + warm.twins
    if without > 0:
        rejected["replica"] = without
    locks = warm.order[0][0]
    parallel = model.scheduling.parallel
    full = parallel > 0 and locks >= parallel
    score = -float(locks)
    rows = [Considered(node, "chosen", "", chosen, score)] if chosen else []
    detail = _FEW_IN_FLIGHT[locks] if locks < _FEW else f"{locks} in flight"
    # Each node once: so the chosen replica is told by its node, and nothing else of the others' keys is touched.
    for key in _one_a_node(warm, chosen, node) if warm.twins else warm.order[:TOP_SCORES]:
        if key[0] != locks or len(rows) == TOP_SCORES:
            break
        name = key[4]
        if name == node:
            continue
        if full:
            rows.append(Considered(name, "rejected", "parallel", f"{locks} of {parallel} in flight"))
        else:
            rows.append(Considered(name, "eligible", "", detail, score))
    return Explanation(step, tuple(rows), rejected, chosen, cure)


def _one_a_node(warm: WarmSet, chosen: str, node: str) -> Iterable[WarmKey]:
    """The first replicas of the warm set, one of each node; of the chosen one's node, that one alone."""
    first: dict[str, WarmKey] = {}
    for key in warm.order[:_WITH_TWINS]:
        if key[3] == chosen or not (chosen and key[4] == node):
            first.setdefault(key[4], key)
    return first.values()


def noted(explanation: Explanation, note: str, locks: int) -> Explanation:
    """The explanation with a word more on the chosen replica, which has so many locks."""
    rows = tuple(
        [
            Considered(row.node, "chosen", "", f"{row.detail}: {note}", -float(locks))
            if row.outcome == "chosen"
            else row
            for row in explanation.considered
        ]
    )
    return msgspec.structs.replace(explanation, considered=rows)


def _rejected(state: State, candidates: CandidateSet) -> dict[str, int]:
    """How many nodes the filters that all steps share have ruled out."""
    rejected: dict[str, int] = {}
    if len(state.nodes) > len(state.approved):
        rejected["approval"] = len(state.nodes) - len(state.approved)
    if len(state.approved) > len(candidates.nodes):
        rejected["selector"] = len(state.approved) - len(candidates.nodes)
    if len(candidates.nodes) > len(candidates.open):
        rejected["health"] = len(candidates.nodes) - len(candidates.open)
    return rejected
