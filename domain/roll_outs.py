"""Roll-outs: how a model's declared revision comes up beside the serving one, and when it takes its place.

Where there is no room for both, one copy of several makes way: it takes no new locks, leaves when it is idle, and the
first copy of the new revision comes where it was, while the others serve. Only where nobody can make way without the
model being left with nobody, the new revision takes over before any copy of it has loaded. An edit that has the model
as it serves calls the roll-out off.
"""

from __future__ import annotations

import msgspec

from . import causes, loads, placement, routing
from . import events as ev
from .entities import LOADING_PHASES, Lack, LoadSpec, Model, Node, Parked, Phase, Replica
from .eviction import may_evict_for, why_barred, why_not_victim
from .explanation import Considered, Explanation
from .parking import lacking_room, park
from .placement import Choice
from .refusals import RefusalCode
from .room import ever_fits, fits_after
from .routing import Place
from .shrinking import below_floor, floor_of, is_loaded, is_moving
from .state import State
from .survey import closed_by, row_after, survey


def roll_out(state: State, model: Model, now: int) -> list[ev.Event]:
    """Bring up the declared revision beside the serving one; where both do not fit, make way, or cut over at once.

    It takes over when a copy of it can serve. Before that only where the old one's leaving makes the room that it
    lacks, or when none of the old one lives: a revision that fits nowhere, or whose node is silent, is parked, and the
    old one goes on serving. So is one whose load failed, until it is tried again as often as any other. What copies
    that come or go will leave may be enough: until then both may fit yet. Below the floor it is the floor that brings
    up the next copy.
    """
    if model.declared == model.serving:
        return []
    if _can_serve(state, model):
        return [ev.RevisionServing(at=now, model=model.name, revision=model.declared)]
    below = below_floor(state, model)
    if below and model.tries_failed:
        return []
    if routing.joinable_load(state, model) is not None:
        return [] if below else _looked_at_later(model, now)
    choice = placement.choose(state, model)
    lacking = _lacking_before(state, model, choice, now)
    if lacking is not None:
        return _parked_for(state, model, lacking, now)
    if choice is None:
        return _without_room(state, model, now, below=below)
    cause = causes.of_revision(model.name, model.declared)
    plan = Place(choice.room, routing.explain_choice(state, model, "roll out", choice))
    unparked = [ev.ModelUnparked(at=now, model=model.name, cause=cause)] if model.parked is not None else []
    return [*unparked, *loads.begin(state, model, plan, now, cause)]


def is_taken_back(model: Model, spec: LoadSpec) -> bool:
    """Whether an edit has it as it serves still, while another revision is to come up."""
    return model.declared != model.serving and spec == model.serving_spec


def call_off(state: State, model: Model, now: int) -> list[ev.Event]:
    """It is to be as it serves: nothing is loaded anew, and what was begun for the other revision ends.

    A copy of that one which has loaded where it cannot serve leaves when it is idle; one that was to make way stays.
    """
    events: list[ev.Event] = [
        ev.RevisionDeclared(
            at=now, model=model.name, revision=model.serving, spec=model.serving_spec, called_off=model.declared
        )
    ]
    for replica in [state.replicas[replica] for replica in state.by_model.get(model.name, ())]:
        if replica.phase in LOADING_PHASES and replica.revision != model.serving:
            events += loads.give_up(state, replica, "its revision was called off while it loaded", now)
    if model.parked is not None:
        events.append(ev.ModelUnparked(at=now, model=model.name, cause="its roll-out was called off"))
    return events


def _without_room(state: State, model: Model, now: int, *, below: bool) -> list[ev.Event]:
    """While there is no room for both: wait for what moves, have one copy make way, cut over at once, or be parked.

    Somebody makes way once: if another has taken that room, those who serve would leave in vain as well.
    """
    if is_moving(state, model):
        if not below and not _moves_slowly(state, model):
            return _looked_at_later(model, now)
    elif not (has_made_way(model) and model.name in state.warm):
        makes_way = who_makes_way(state, model)
        if makes_way is not None:
            return [*_looked_at_later(model, now), _retired(model, makes_way, now)]
        if not is_loaded(state, model) or has_room_instead(state, model, now):
            return [ev.RevisionServing(at=now, model=model.name, revision=model.declared)]
    return [] if below else _parked_for(state, model, lacking_room(state, model), now)


def _parked_for(state: State, model: Model, lacking: Parked, now: int) -> list[ev.Event]:
    if model.parked == lacking:
        return []
    return [park(model, lacking, now, explain_parked(state, model, lacking, now))]


def lacking_for_roll_out(state: State, model: Model, now: int) -> Parked:
    """What the declared revision lacks that does not come up now."""
    return _lacking_before(state, model, placement.choose(state, model), now) or lacking_room(state, model)


def explain_parked(state: State, model: Model, lacking: Parked, now: int) -> Explanation:
    """Which revision lacks this, which serves on, what is in the way of both and what would help."""
    match lacking.lacks:
        case Lack.LOAD_INFO:
            plain = routing.load_info_missing(state, model).explanation
        case Lack.EDIT | Lack.TIME:
            plain = routing.explain_room(state, model, "backoff", "", cure=routing.MEND)
        case _:
            plain = _explain_no_room(state, model, now)
    serves = f"revision {model.serving} serves on" if is_loaded(state, model) else "no copy of it is loaded"
    return msgspec.structs.replace(plain, note=f"Revision {model.declared} of it is to come up; {serves}.")


def _explain_no_room(state: State, model: Model, now: int) -> Explanation:
    """What keeps the declared revision off each node even if the model's own copies there had left, and who stays."""
    open_nodes, strictly = state.candidates(model).keys, floor_of(state, model) > 0
    own: dict[str, list[Replica]] = {}
    for replica in (state.replicas[name] for name in state.by_model.get(model.name, ())):
        own.setdefault(replica.node, []).append(replica)

    def verdict(node: Node) -> Considered:
        if node.name not in open_nodes:
            return closed_by(state, model, node)
        mine = own.get(node.name, [])
        row = row_after(state, model, node, tuple(mine))
        stay = (state.replicas[name] for name in state.by_node.get(node.name, ()))
        kept = [
            f"{replica.model}: {why}"
            for replica in stay
            if replica.model != model.name and (why := why_not_victim(state, replica, model, now, strictly=strictly))
        ]
        return msgspec.structs.replace(row, detail="; ".join([row.detail, *kept[: routing.MOST_NOTES]]))

    fits = ever_fits(state, model)
    room = f"Room for revision {model.declared} on one of these nodes, one more node"
    cure = f"{room if fits else 'A larger node, a higher budget'}, or another edit of {model.name}."
    return survey(state, model, "roll out", verdict, cure=cure)


def _moves_slowly(state: State, model: Model) -> bool:
    """Whether a copy that comes or goes may take long: it is still busy, or its node is not heard.

    The wish is parked then, so that room elsewhere wakes it.
    """
    mine = [state.replicas[replica] for replica in state.by_model.get(model.name, ())]
    busy = any(replica.retired and replica.phase is Phase.LOADED for replica in mine)
    return busy or any(r.phase is not Phase.LOADED and not state.nodes[r.node].takes_work for r in mine)


def has_made_way(model: Model) -> bool:
    """Whether a copy has made way for the declared revision already."""
    return model.made_way == model.declared


def who_makes_way(state: State, model: Model) -> Replica | None:
    """The copy in whose place the declared revision would fit, if others serve meanwhile; None when there is none.

    Of several the one with the fewest locks, then the least recently used.
    """
    warm = state.warm.get(model.name)
    if warm is None or len(warm.order) < 2:
        return None
    serving = (state.replicas[key[3]] for key in warm.order)
    return next((one for one in serving if fits_after(state, model, state.nodes[one.node], (one,))), None)


def _retired(model: Model, replica: Replica, now: int) -> ev.ReplicaRetired:
    cause = f"revision {model.declared} of {model.name} fits in its place"
    return ev.ReplicaRetired(at=now, replica=replica.id, model=model.name, node=replica.node, cause=cause)


def has_room_instead(state: State, model: Model, now: int) -> bool:
    """Whether the declared revision would have room if the model's own copies left, and who may be evicted besides.

    A replica that is resident now is taken to leave: the wait for it is short.
    """
    return any(_fits_instead(state, model, state.nodes[name], now) for _, name in state.candidates(model).open)


def _fits_instead(state: State, model: Model, node: Node, now: int) -> bool:
    strictly, evicts = floor_of(state, model) > 0, may_evict_for(state, model, now)
    own: list[Replica] = []
    others: list[Replica] = []
    for replica in (state.replicas[replica] for replica in state.by_node.get(node.name, ())):
        if replica.model == model.name:
            own += [replica] if replica.phase is Phase.LOADED else []
            continue
        if evicts and not why_barred(state, replica, model, strictly=strictly):
            others.append(replica)
    return bool(own) and fits_after(state, model, node, (*own, *others))


def _looked_at_later(model: Model, now: int) -> list[ev.Event]:
    """What the roll-out was parked for is over, and what moves will have it looked at."""
    if model.parked is None:
        return []
    return [ev.ModelUnparked(at=now, model=model.name, cause=f"copies of {model.name} come or go")]


def _can_serve(state: State, model: Model) -> bool:
    """Whether a copy of the declared revision could take requests at once."""
    mine = (state.replicas[replica] for replica in state.by_model.get(model.name, ()))
    ready = (replica for replica in mine if replica.phase is Phase.LOADED and replica.revision == model.declared)
    return any(state.on_healthy_candidate(replica, model) for replica in ready)


def _lacking_before(state: State, model: Model, choice: Choice | None, now: int) -> Parked | None:
    """What keeps a roll-out from being tried at all: load info, or what its last load failed for; else None."""
    if not model.load_info_known:
        return Parked(RefusalCode.LOAD_INFO_MISSING, Lack.LOAD_INFO)
    if not model.tries_failed:
        return None
    if routing.is_spent(state, model):
        return Parked(RefusalCode.LOAD_FAILED, Lack.EDIT)
    if model.retry_at > now:
        return Parked(RefusalCode.LOAD_FAILED, Lack.TIME, model.retry_at)
    return lacking_room(state, model) if choice is None else None
