"""Folding what happens to models, their revisions and their parking."""

from __future__ import annotations

from msgspec.structs import replace

from interlock.domain import events as ev
from interlock.domain.entities import Model, Parked
from interlock.domain.state import State
from interlock.domain.timers import arm_idle
from interlock.domain.units import FOREVER

from .changes import put_model
from .handlers import applies


@applies(ev.ModelDeclared)
def _model_declared(state: State, event: ev.ModelDeclared) -> None:
    state.index_selector(event.scheduling.selector)
    put_model(
        state,
        Model(event.model, event.aliases, event.scheduling, event.revision, event.spec, event.revision, event.spec),
    )
    for alias in event.aliases:
        state.aliases[alias] = event.model
    _reindex_replicas_of(state, event.model)


def _reindex_replicas_of(state: State, model: str) -> None:
    for replica in state.by_model.get(model, ()):
        state.index_warm(state.replicas[replica])
        arm_idle(state, state.replicas[replica])
        state.index_group(state.replicas[replica])


@applies(ev.ModelSchedulingChanged)
def _model_scheduling_changed(state: State, event: ev.ModelSchedulingChanged) -> None:
    model = state.models[event.model]
    state.index_selector(event.scheduling.selector)
    put_model(state, replace(model, scheduling=event.scheduling, aliases=event.aliases))
    for alias in model.aliases:
        state.aliases.pop(alias, None)  # logs from before that was refused may name one twice
    for alias in event.aliases:
        state.aliases[alias] = event.model
    state.drop_unused_selectors()
    _reindex_replicas_of(state, event.model)


@applies(ev.RevisionDeclared)
def _revision_declared(state: State, event: ev.RevisionDeclared) -> None:
    model = state.models[event.model]
    edited = replace(
        model, declared=event.revision, declared_spec=event.spec, failures=0, early_deaths=0, failed_nodes=(),
        died_on=(), retry_at=0,
    )  # fmt: skip
    if event.revision != model.serving:
        put_model(state, edited)
        return
    put_model(state, replace(edited, made_way=0))
    for replica in state.by_model.get(event.model, ()):
        state.replicas[replica] = replace(state.replicas[replica], retired=False)
    _reindex_replicas_of(state, event.model)


@applies(ev.RevisionServing)
def _revision_serving(state: State, event: ev.RevisionServing) -> None:
    model = state.models[event.model]
    put_model(state, replace(model, serving=event.revision, serving_spec=model.declared_spec, made_way=0))
    for replica in state.by_model.get(event.model, ()):
        if state.replicas[replica].revision != event.revision:
            state.prefixes.forget(replica)
    _reindex_replicas_of(state, event.model)


@applies(ev.LoadInfoStored)
def _load_info_stored(state: State, event: ev.LoadInfoStored) -> None:
    model = state.models[event.model]
    put_model(state, replace(model, declared_spec=event.spec, serving_spec=event.spec))


@applies(ev.ModelParked)
def _model_parked(state: State, event: ev.ModelParked) -> None:
    put_model(state, replace(state.models[event.model], parked=Parked(event.reason, event.lacks, event.until)))
    state.parked[event.model] = None
    if event.until < FOREVER:
        state.set_timer(event.until, "unpark", event.model)


@applies(ev.ModelUnparked)
def _model_unparked(state: State, event: ev.ModelUnparked) -> None:
    put_model(state, replace(state.models[event.model], parked=None))
    del state.parked[event.model]


@applies(ev.ThrashingDetected)
def _thrashing_detected(state: State, event: ev.ThrashingDetected) -> None:
    """What follows from it is in the ``ReplicaLoaded`` that it comes with; here it is only counted."""
    state.thrashings += 1


@applies(ev.ModelRemoved)
def _model_removed(state: State, event: ev.ModelRemoved) -> None:
    model = state.models.pop(event.model)
    state.parked.pop(event.model, None)
    state.everywhere.pop(event.model, None)
    state.past_uses.pop(event.model, None)
    for alias in model.aliases:
        state.aliases.pop(alias, None)
    _reindex_replicas_of(state, event.model)
    state.drop_unused_selectors()
