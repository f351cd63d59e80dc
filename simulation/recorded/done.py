"""What operators did: their events as administrative steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from interlock.domain import events as ev
from interlock.domain.entities import Model, Phase
from interlock.domain.settings import format_setting
from interlock.domain.state import State
from interlock.domain.units import FOREVER, format_duration
from interlock.domain.written import scheduling_as_written

from .tables import Row, budget_text, limits_table, spec_table

_Step = Callable[["Steps", Any], Row]


def is_half_way(state: State, model: Model) -> bool:
    """Whether the model was edited, and copies of the revision before are still loaded and serve."""
    mine = (state.replicas[replica] for replica in state.by_model.get(model.name, ()))
    old = any(replica.phase is Phase.LOADED and replica.revision == model.serving for replica in mine)
    return model.declared != model.serving and old


class Steps:
    """The steps of a stretch, fed with its events in order."""

    def __init__(self, state: State, start: int) -> None:
        self.start = start
        self.rows: list[Row] = []
        self.models = set(state.models)
        self._labels = {node.name: dict(node.operator_labels) for node in state.nodes.values()}
        for what in state.frozen:
            self._add(start, {"action": "freeze", "what": what})
        for model in state.models.values():
            if is_half_way(state, model):
                edited = ev.RevisionDeclared(
                    at=start, model=model.name, revision=model.declared, spec=model.declared_spec
                )
                self._add(start, self._edited(edited))
        for node in state.nodes.values():
            if node.name in state.over_budget:  # it was lowered under what is loaded, which has to be there first
                lowered = ev.NodeBudgetSet(at=start, node=node.name, budget=node.budget)
                self._add(start, _STEPS[ev.NodeBudgetSet](self, lowered))
            held = Counter(state.replicas[replica].model for replica in state.by_node.get(node.name, ()))
            if max(held.values(), default=0) > node.max_replicas_per_model:
                slots = {"action": "set-max-replicas", "node": node.name, "value": node.max_replicas_per_model}
                self._add(start, slots)
            if node.drained:
                self._add(start, self._drain(ev.NodeDrainStarted(at=start, node=node.name, drain_by=node.drain_by)))

    def on(self, event: ev.Event) -> None:
        """Take in what an operator did."""
        step = _STEPS.get(type(event))
        if step is not None and (row := step(self, event)):
            self._add(event.at, row)

    def _add(self, at: int, row: Row) -> None:
        self.rows.append({"at": format_duration(max(0, at - self.start)), **row})

    def _declared(self, event: ev.ModelDeclared) -> Row:
        self.models.add(event.model)
        row = {"action": "declare-model", "model": event.model, **spec_table(event.spec)}
        return row | scheduling_as_written(event.scheduling) | {"aliases": list(event.aliases)}

    def _edited(self, event: ev.RevisionDeclared) -> Row:
        return {"action": "edit-model", "model": event.model, **spec_table(event.spec, whole=True)}

    def _rescheduled(self, event: ev.ModelSchedulingChanged) -> Row:
        """With its aliases, which no other step changes."""
        row = {"action": "edit-model", "model": event.model, **scheduling_as_written(event.scheduling)}
        return row | {"aliases": list(event.aliases)}

    def _informed(self, event: ev.LoadInfoStored) -> Row:
        if event.source == "declared":
            return {}
        return {"action": "load-info", "model": event.model, **spec_table(event.spec)}

    def _labelled(self, event: ev.NodeLabelsChanged) -> Row:
        removed = dict.fromkeys(self._labels.get(event.node, {}), "")
        self._labels[event.node] = dict(event.labels)
        return {"action": "set-labels", "node": event.node, "labels": removed | event.labels}

    def _drain(self, event: ev.NodeDrainStarted) -> Row:
        never = event.drain_by >= FOREVER
        deadline = "forever" if never else format_duration(max(0, event.drain_by - event.at))
        return {"action": "drain", "node": event.node, "deadline": deadline}

    def _set(self, event: ev.SettingsChanged) -> Row:
        return {"action": "set", **{name: format_setting(name, value) for name, value in event.values.items()}}


_STEPS: dict[type[ev.Event], _Step] = {
    ev.ModelDeclared: Steps._declared,
    ev.RevisionDeclared: Steps._edited,
    ev.LoadInfoStored: Steps._informed,
    ev.ModelSchedulingChanged: Steps._rescheduled,
    ev.ModelRemoved: lambda steps, event: {"action": "remove-model", "model": event.model},
    ev.NodeApproved: lambda steps, event: {"action": "approve", "node": event.node},
    ev.NodeLabelsChanged: Steps._labelled,
    ev.NodeDrainStarted: Steps._drain,
    ev.NodeResumed: lambda steps, event: {"action": "resume", "node": event.node},
    ev.NodeRemoved: lambda steps, event: {"action": "remove-node", "node": event.node},
    ev.NodeBudgetSet: lambda steps, event: {
        "action": "set-budget", "node": event.node, "value": budget_text(event.budget),
    },
    ev.NodeReplicaSlotsSet: lambda steps, event: {
        "action": "set-max-replicas", "node": event.node, "value": event.max_replicas_per_model,
    },
    ev.SettingsChanged: Steps._set,
    ev.Frozen: lambda steps, event: {"action": "freeze", "what": event.what},
    ev.Thawed: lambda steps, event: {"action": "thaw", "what": event.what},
    ev.TenantLimitsSet: lambda steps, event: {
        "action": "set-tenant-limits", "tenant": event.tenant, **limits_table(event.limits),
    },
}  # fmt: skip
"""Every event of an operator, and the step that it was."""
