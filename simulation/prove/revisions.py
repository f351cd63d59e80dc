"""Judgements of revisions: when there is a new one, and when it takes over from the one that serves."""

from __future__ import annotations

from collections.abc import Iterator

from interlock.domain import events as ev
from interlock.domain.entities import NodeStatus, Phase
from interlock.domain.state import State

from .predicates import comes_or_goes, could_ever_fit, is_candidate, is_usable, locks_on, would_fit_without
from .situation import Finding


def edited(state: State, event: ev.RevisionDeclared, now: int) -> Finding | None:
    """S: an edit that changes nothing, or has what serves for a new revision; and one of which something is left."""
    model = state.models[event.model]
    if event.spec == model.declared_spec:
        return Finding("S", f"{event.model} gets a new revision that is no different: everything loads anew")
    if (event.revision == model.serving) != (event.spec == model.serving_spec):
        return Finding("S", f"{event.model} gets a new revision that is as what serves, or one that is not for it")
    if event.revision != model.serving and event.revision <= _left_of(state, event.model):
        return Finding("S", f"{event.model} is edited to a revision of which something is left")
    return None


def declared(state: State, event: ev.ModelDeclared, now: int) -> Finding | None:
    """S: a model that is declared anew in a revision of which something is left."""
    if event.revision <= _left_of(state, event.model):
        return Finding("S", f"{event.model} is declared anew in a revision of which something is left")
    return None


def _left_of(state: State, model: str) -> int:
    """The highest revision of which there are replicas, or files on a disk."""
    replicas = [replica.revision for replica in state.replicas.values() if replica.model == model]
    files = [revision for staged in state.staged.values() for name, revision in staged if name == model]
    return max((*replicas, *files), default=0)


def takes_over(state: State, event: ev.RevisionServing, now: int) -> Finding | None:
    """A revision takes over when a copy of it can serve; before, only where both do not fit, and it could fit alone."""
    model = state.models[event.model]
    mine = [replica for replica in state.replicas.values() if replica.model == model.name]
    loaded = [(replica, state.nodes[replica.node]) for replica in mine if replica.phase is Phase.LOADED]
    healthy = [(one, node) for one, node in loaded if node.status is NodeStatus.HEALTHY and is_candidate(model, node)]
    if any(replica.revision == event.revision for replica, _ in healthy):
        return None
    alive = (NodeStatus.HEALTHY, NodeStatus.UNREACHABLE)
    old = [(one, node) for one, node in loaded if one.revision == model.serving and is_candidate(model, node)]
    what = f"a revision of {model.name} takes over from one that serves"
    if not any(node.status in alive for _, node in old):
        return None
    if any(comes_or_goes(state, replica, model) for replica in mine):
        return Finding("S", f"{what} while a copy comes or goes")
    if not any(node.status is NodeStatus.HEALTHY for _, node in old):
        return Finding("S", f"{what} while the node of that is silent")
    if not could_ever_fit(state, model):
        return Finding("S", f"{what}, and fits nowhere")
    usable = [replica for replica, _ in healthy if is_usable(state, replica, model)]
    spec, grouped = model.declared_spec, model.scheduling.anti_affinity
    if len(usable) < 2 or spec.pools != 1 or spec.disk or grouped:
        return None
    if any(would_fit_without(state, model, state.nodes[replica.node], replica) for replica in usable):
        return Finding("S", f"{what} at once, though one copy could make way while others serve")
    return None


def retired(state: State, event: ev.ReplicaRetired, now: int) -> Finding | None:
    """S: a copy makes way for a new revision alone, and only while another serves."""
    model = state.models[event.model]
    what = f"{model.name} on {event.node} makes way"
    if model.declared == model.serving or not is_usable(state, state.replicas[event.replica], model):
        return Finding("S", f"{what}, and there is no new revision, or it serves nobody")
    if model.made_way == model.declared:
        return Finding("S", f"{what}, as another copy has for the same revision")
    others = [one for one in state.replicas.values() if one.model == model.name and one.id != event.replica]
    if not any(is_usable(state, replica, model) for replica in others):
        return Finding("S", f"{what}, and nobody else serves")
    return None


def left_over(state: State) -> Iterator[Finding]:
    """W: what makes way leaves when it is idle."""
    for replica in state.replicas.values():
        model = state.models.get(replica.model)
        if not replica.retired or model is None or replica.phase is not Phase.LOADED or locks_on(state, replica.id):
            continue
        if not is_usable(state, replica, model):
            yield Finding("W", f"{replica.model} on {replica.node} makes way for a new revision, is idle, and stays")
