"""Consequences: which models a change could help, so that they are reviewed at once, and no others.

What kinds of change there are: :class:`interlock.domain.commands.ChangeKind`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from . import events as ev
from . import routing
from .commands import ChangeKind, Command, Review
from .entities import Lack, NodeStatus
from .fairness import by_importance, fair_order, floors_first, lacks_copies
from .leaving import is_emptied
from .room import ever_fits
from .room_to_come import waits_for_leaving
from .shrinking import floor_of, has_floor, serving_copies
from .slots import is_above_slots
from .state import State

_Rule = Callable[[State, Any], Review | None]


def review_after(state: State, event: ev.Event, command: Command) -> Review | None:
    """The review that an event of this command calls for, judged on the state after it; None when it can help nobody.

    A review that refuses a request goes on by itself, with the next of that model and with all others in fair order.
    One of that model alone would come before it, and give the room to one that others have waited longer than.
    """
    if type(event) is ev.RequestRefused and type(command) is Review:
        return None
    rule = _RULES.get(type(event))
    return rule(state, event) if rule is not None else None


def _of_model(words: str, change: ChangeKind = ChangeKind.MODEL) -> _Rule:
    """Only the event's own model is concerned, if it has anything to look at."""

    def rule(state: State, event: ev.ModelEvent) -> Review:
        return Review(change=change, cause=words.format(event=event), models=(event.model,))

    return rule


def _if_waiting(words: str) -> _Rule:
    def rule(state: State, event: ev.ModelEvent) -> Review | None:
        if not state.waiting(event.model):
            return None
        return Review(change=ChangeKind.QUEUE, cause=words.format(event=event), models=(event.model,))

    return rule


def _one_more_waits(state: State, event: ev.RequestQueued) -> Review | None:
    """Whoever queues behind others may be the reason for one more copy beside those that are on their way."""
    if state.settings.growth_per_tick < 2 or len(state.waiting(event.model)) < 2:
        return None
    model = state.models.get(event.model)
    if model is None or not routing.may_grow(state, model):
        return None
    return Review(change=ChangeKind.QUEUE, cause=f"request {event.request} waits, too", models=(event.model,))


def _released(state: State, event: ev.ReplicaReleased) -> Review | None:
    """An idle replica may make room for a model that waits or is parked; a free slot serves its own model's queue."""
    own = (event.model,) if state.waiting(event.model) else ()
    if state.lock_count(event.replica) and not own:
        return None
    model = state.models.get(event.model)
    ceiling = model.scheduling.max_replicas if model is not None else 0
    too_many = 0 < ceiling < len(state.by_model.get(event.model, ()))
    too_much = too_many or event.node in state.over_budget or is_above_slots(state, event.node, event.model)
    if not (state.queues or state.parked or too_much):
        return None
    cause = f"request {event.request} released {event.replica}"
    itself = (event.model,) if too_much else ()
    return _review(state, ChangeKind.CAPACITY, cause, (*own, *itself, *_who_waits_for(state, event.node)))


def _room_on_node(words: str) -> _Rule:
    """Room has come free, or may be made, on the event's node. Its model has no better claim to it than others."""

    def rule(state: State, event: ev.ReplicaEvent) -> Review | None:
        concerned = _who_waits_for(state, event.node, own=event.model)
        return _review(state, ChangeKind.CAPACITY, words.format(event=event), concerned, _emptied(state, event.node))

    return rule


def _lost(state: State, event: ev.ReplicaLost) -> Review | None:
    """Its own model; and whoever waits for room there, unless its node is offline and has room for nobody.

    The same decision may have lost the node's other copies, too: floors that they keep go before those who only wait. A
    node that is only silent may have begun anew in it, and have room.
    """
    node = state.nodes[event.node]
    models: tuple[str, ...] = (event.model,)
    if node.status is not NodeStatus.OFFLINE:
        waiting = _who_waits_for(state, event.node, own=event.model)
        lacking = (name for name in waiting if lacks_copies(state, name))
        models = (*by_importance(state, {*lacking, *floors_on(state, event.node)}), *waiting)
    cause = f"{event.replica} of {event.model} was lost"
    return _review(state, ChangeKind.CAPACITY, cause, models, _emptied(state, event.node))


def _loaded(state: State, event: ev.ReplicaLoaded) -> Review | None:
    """It serves its own model, may make room where it is, and makes its model's other copies spare."""
    here = _who_waits_for(state, event.node, own=event.model)
    elsewhere = who_may_evict_elsewhere(state, event.node, (event.model,))
    cause = f"{event.replica} of {event.model} loaded"
    return _review(state, ChangeKind.CAPACITY, cause, (*here, *elsewhere), _emptied(state, event.node))


def who_may_evict_elsewhere(state: State, node: str, models: Iterable[str]) -> tuple[str, ...]:
    """Who waits for room where copies of these models are spare now, because those on this node count for the floor."""
    if not (state.queues or state.parked):
        return ()
    nodes: dict[str, None] = {}
    for name in models:
        model = state.models.get(name)
        floor = floor_of(state, model) if model is not None and not model.scheduling.everywhere else 0
        if model is None or not floor:
            continue
        serving = serving_copies(state, model)
        slots = state.by_slot.get((node, name), {}).values()
        here = sum(1 for replica in slots if state.takes_locks(state.replicas[replica]))
        if serving - here <= floor < serving:
            nodes |= dict.fromkeys(state.replicas[replica].node for replica in state.by_model[name])
    return _who_waits_for(state, *nodes) if nodes else ()


def _node_changed(words: str, change: ChangeKind = ChangeKind.NODE) -> _Rule:
    """The node's models, whoever waits for room there, and the models that are to run on every candidate, in turn.

    A node that registers and is approved in one step has room by the time of the review, and no candidates before it.
    Copies there may count for their model's floor now, so that those on other nodes may be evicted.
    A floor that is not kept is parked or on its way, so that other floors need no look.
    """

    def rule(state: State, event: ev.NodeEvent) -> Review | None:
        here = sorted({state.replicas[replica].model for replica in state.by_node.get(event.node, ())})
        waiting = (*_who_waits_for(state, event.node), *who_may_evict_elsewhere(state, event.node, here))
        models = in_turn(state, (*here, *waiting, *sorted(state.everywhere), *_left_without(state)))
        return _review(state, change, words.format(event=event), models, _emptied(state, event.node))

    return rule


def _stray_gone(state: State, event: ev.StrayStopped) -> Review | None:
    """It may have been the last thing that ran on a node that is being drained."""
    return _review(state, ChangeKind.NODE, f"process {event.process} was stopped", (), _emptied(state, event.node))


def _emptied(state: State, name: str) -> tuple[str, ...]:
    node = state.nodes.get(name)
    return (name,) if node is not None and is_emptied(state, node) else ()


def _leaves(state: State, event: ev.UnloadRequested) -> Review | None:
    """A copy that leaves keeps no floor any more: the next one need not wait until it is gone."""
    if not has_floor(state, event.model):
        return None
    return _review(state, ChangeKind.CAPACITY, f"{event.replica} of {event.model} leaves", (event.model,))


def _room_taken(state: State, event: ev.ReplicaReserved) -> Review | None:
    """Who waits for room on its way there may have lost it: what was free beside that is taken."""
    if not state.leaving:
        return None
    there = state.by_node.get(event.node, ())
    here = [model for model, leaving in waits_for_leaving(state, but=event.model) if leaving in there]
    return _review(state, ChangeKind.QUEUE, f"{event.replica} of {event.model} took room on {event.node}", here)


def _files_gave_way(state: State, event: ev.StagingStarted) -> Review | None:
    """Files that gave way took more than those that come: the rest of their disk is free now."""
    replica = state.replicas[event.replica]
    if sum(size for _, _, size in replica.drops) <= replica.disk:
        return None
    cause = f"files gave way to those of {event.model} on {event.node}"
    return _review(state, ChangeKind.CAPACITY, cause, _who_waits_for(state, event.node))


def _staged(state: State, event: ev.LoadStarted) -> Review | None:
    """Its files are there: another copy beside it takes no disk now, and what they replaced or spared may be free."""
    own = (event.model,) if event.model in state.parked else ()
    waiting = _who_waits_for(state, event.node) if state.replicas[event.replica].disk else ()
    return _review(state, ChangeKind.CAPACITY, f"{event.model} is staged on {event.node}", (*own, *waiting))


def _node_gone(words: str) -> _Rule:
    """Whoever waits must look elsewhere, after the floors that have lost a copy there, the more important first.

    A model that is to run on every candidate may have lacked this very node, and have all that it wants now.
    """

    def rule(state: State, event: ev.NodeEvent) -> Review | None:
        lacking = (name for name in sorted(state.everywhere) if _lacks_room(state, name))
        models = (*floors_on(state, event.node), *fair_order(state, state.queues), *lacking, *_left_without(state))
        return _review(state, ChangeKind.NODE, words.format(event=event), models)

    return rule


def floors_on(state: State, node: str) -> list[str]:
    """The models with a floor that have a copy on the node, the more important first."""
    here = {state.replicas[replica].model for replica in state.by_node.get(node, ())}
    return by_importance(state, (name for name in here if has_floor(state, name)))


def _left_without(state: State) -> tuple[str, ...]:
    """Models that wait or are parked for room, and have no candidate left that could ever have it: that is new."""
    waiting = [name for name in fair_order(state, state.queues) if _hopeless(state, name)]
    return (*waiting, *(name for name in sorted(state.parked) if _hopeless(state, name)))


def _lacks_room(state: State, name: str) -> bool:
    parked = state.models[name].parked
    return parked is not None and parked.lacks is Lack.CAPACITY


def _hopeless(state: State, name: str) -> bool:
    model = state.models.get(name)
    if model is None or not (name in state.queues or _lacks_room(state, name)):
        return False
    return not ever_fits(state, model)


def _unreachable(state: State, event: ev.NodeBecameUnreachable) -> Review | None:
    """Its models' waiting requests may go elsewhere; floors wait until it is offline, so that nothing moves at once."""
    return _review(state, ChangeKind.NODE, f"node {event.node} is unreachable", fair_order(state, state.queues))


def _scheduling_changed(state: State, event: ev.ModelSchedulingChanged) -> Review | None:
    """Its own replicas and requests, and those who wait for room where it lives: it may be evictable now."""
    return _where_it_lives(state, event, ChangeKind.MODEL, f"the scheduling of {event.model} changed")


def _removed(state: State, event: ev.ModelRemoved) -> Review | None:
    """Its replicas, and those who wait for room where they live: they keep nobody away any more."""
    return _where_it_lives(state, event, ChangeKind.CAPACITY, f"{event.model} was removed")


def _where_it_lives(state: State, event: ev.ModelEvent, change: ChangeKind, cause: str) -> Review | None:
    nodes = {state.replicas[replica].node for replica in state.by_model.get(event.model, ())}
    return _review(state, change, cause, (event.model, *_who_waits_for(state, *nodes)))


def _frozen(state: State, event: ev.Frozen) -> Review | None:
    """A copy that was to make way for a new revision cannot leave now, and serves those who wait."""
    if event.what != "reconciler":
        return None
    waiting = [name for name in state.queues if name in state.models and state.models[name].made_way]
    return _review(state, ChangeKind.QUEUE, f"{event.what} was frozen", waiting)


def _everything(words: str, change: ChangeKind) -> _Rule:
    def rule(state: State, event: ev.Event) -> Review | None:
        return _review(state, change, words.format(event=event), whole_cluster(state))

    return rule


def whole_cluster(state: State) -> tuple[str, ...]:
    """Every model, and what is left of removed ones, in turn."""
    return in_turn(state, (*state.models, *state.by_model))


def _settings_changed(state: State, event: ev.SettingsChanged) -> Review | None:
    """Any of them may matter to anybody; the cause says which have changed."""
    return _everything(f"the settings {', '.join(sorted(event.values))} changed", ChangeKind.LIMITS)(state, event)


def _review(
    state: State, change: ChangeKind, cause: str, models: Iterable[str], nodes: tuple[str, ...] = ()
) -> Review | None:
    """A review of these models, each once. Who is first of those whose requests wait is asked when it is decided."""
    unique = tuple(dict.fromkeys(models))
    return Review(change=change, cause=cause, models=unique, nodes=nodes) if unique or nodes else None


def _who_waits_for(state: State, *nodes: str, own: str = "") -> tuple[str, ...]:
    """Whoever waits or is parked, and has one of these nodes among its candidates, and the model ``own``, in turn."""
    concerned = [name for name in (*state.queues, *state.parked) if _has_candidate(state, name, nodes)]
    return in_turn(state, [*concerned, own] if own else concerned)


def in_turn(state: State, names: Iterable[str]) -> tuple[str, ...]:
    """These models in the order in which room is given, each once.

    Floors that are not kept go first, the more important before the less; then those whose requests wait, by whose has
    waited the longest; then other wishes.
    """
    names = tuple(dict.fromkeys(names))
    if len(names) < 2:
        return names
    waiting = fair_order(state, (name for name in names if name in state.queues))
    return tuple(dict.fromkeys((*floors_first(state, names), *waiting, *by_importance(state, names))))


def _has_candidate(state: State, name: str, nodes: tuple[str, ...]) -> bool:
    model = state.models.get(name)
    if model is None:
        return False
    return not state.candidates(model).nodes.keys().isdisjoint(nodes)


_RULES: dict[type[ev.Event], _Rule] = {
    ev.NodeRegistered: _node_changed("node {event.node} registered"),
    ev.NodeApproved: _node_changed("node {event.node} was approved"),
    ev.NodeLabelsChanged: _node_changed("the labels of node {event.node} changed"),
    ev.NodeRecovered: _node_changed("node {event.node} recovered"),
    ev.NodeResumed: _node_changed("node {event.node} was resumed"),
    ev.NodeReplicaSlotsSet: _node_changed("the replica slots of node {event.node} changed"),
    ev.NodeBudgetSet: _node_changed("the budget of node {event.node} changed"),
    ev.NodeCapacityChanged: _node_changed("the capacity of node {event.node} changed", ChangeKind.LIMITS),
    ev.NodeDrainStarted: _node_changed("node {event.node} drains"),
    ev.NodeBecameUnreachable: _unreachable,
    ev.NodeWentOffline: _node_gone("node {event.node} went offline"),
    ev.NodeRemoved: _node_gone("node {event.node} was removed"),
    ev.StrayStopped: _stray_gone,
    ev.ModelDeclared: _of_model("{event.model} was declared"),
    ev.ModelSchedulingChanged: _scheduling_changed,
    ev.RevisionDeclared: _of_model("{event.model} was edited"),
    ev.RevisionServing: _of_model("revision {event.revision} of {event.model} serves"),
    ev.ReplicaRetired: _of_model("{event.replica} of {event.model} makes way for a new revision"),
    ev.LoadInfoStored: _of_model("load info of {event.model} was stored"),
    ev.ModelUnparked: _of_model("{event.model} was unparked", ChangeKind.UNPARK),
    ev.ModelRemoved: _removed,
    ev.RequestQueued: _one_more_waits,
    ev.RequestCancelled: _if_waiting("request {event.request} left the queue"),
    ev.RequestRefused: _if_waiting("request {event.request} was refused"),
    ev.ReplicaReleased: _released,
    ev.ReplicaProved: _of_model("{event.replica} of {event.model} has served somebody"),
    ev.ReplicaReserved: _room_taken,
    ev.UnloadRequested: _leaves,
    ev.StagingStarted: _files_gave_way,
    ev.LoadStarted: _staged,
    ev.ReplicaLoaded: _loaded,
    ev.ReplicaLoadFailed: _room_on_node("the load of {event.model} as {event.replica} failed"),
    ev.ReplicaLost: _lost,
    ev.UnloadConfirmed: _room_on_node("{event.replica} of {event.model} is unloaded"),
    ev.Frozen: _frozen,
    ev.Thawed: _everything("{event.what} were thawed", ChangeKind.THAW),
    ev.MassLossOver: _everything("contact with many nodes was lost: {event.reason}", ChangeKind.CAPACITY),
    ev.SettingsChanged: _settings_changed,
    ev.EpochStarted: _everything("epoch {event.epoch} started", ChangeKind.EPOCH),
}
