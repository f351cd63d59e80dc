"""Trials: whether a copy that dies has failed as a load fails.

A backend may load without complaint, and die with the first call that reaches it or soon by itself. A copy is on trial
for :data:`TRIAL` from its load, or until it has answered somebody. One that dies meanwhile *dies early*; one that
outlives its trial has *lasted*, and ends the row of those that died before it.
"""

from __future__ import annotations

from .entities import Model, Phase, Replica
from .state import State
from .units import MINUTE

TRIAL = 10 * MINUTE
"""How long a copy that serves nobody is on trial. The kubelet forgets a container's crashes after as long:
https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#container-restarts"""


def dies_early(state: State, replica: Replica, now: int) -> bool:
    """Whether the copy, whose process has ended by itself, is still on trial."""
    model = state.models.get(replica.model)
    return model is not None and replica.revision == model.declared and now < replica.trial_until


def has_lasted(replica: Replica, model: Model, now: int) -> bool:
    """Whether the copy stands, and has outlived its trial without having served anybody."""
    loaded = replica.phase is Phase.LOADED and replica.revision == model.declared
    return loaded and 0 < replica.trial_until <= now


def early_deaths(state: State, model: Model, now: int) -> int:
    """How many copies of the model have died early in a row: none if one that came after them has lasted."""
    mine = (state.replicas[replica] for replica in state.by_model.get(model.name, ()))
    return 0 if model.early_deaths and any(has_lasted(replica, model, now) for replica in mine) else model.early_deaths
