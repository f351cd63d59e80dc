"""Where a replica stands that is loaded before a run, or an exploration, begins."""

from __future__ import annotations

from typing import NamedTuple

from interlock.domain.claims import RAM, Claim
from interlock.domain.errors import UnreadableFile
from interlock.domain.memory import fit, spec_on
from interlock.domain.state import State

from .reading.scenario import ReplicaSpec


class Place(NamedTuple):
    """Its slot, what it claims of each pool, and the disk that its files take: none where they are there already."""

    slot: int
    claim: Claim
    disk: int


def place_of(state: State, spec: ReplicaSpec, source: str) -> Place:
    """Where it fits on its node, wherever its model may run today; raises UnreadableFile when it does not."""
    name = f"{source}:{spec.line}: replica of {spec.model} on {spec.node}"
    model, node = state.models[spec.model], state.nodes.get(spec.node)
    if node is None:
        raise UnreadableFile(f"{name}: the node is not up.", cure="Give it up = true, or leave the replica out.")
    load = model.serving_spec
    index = state.free_index(node, model.name)
    if index is None:
        cure = "Raise the node's max_replicas_per_model, or leave the replica out."
        raise UnreadableFile(f"{name}: the node holds as many of it as it may.", cure=cure)
    free_memory = state.free_memory(node)
    if spec.pools:
        free_memory = {pool: size for pool, size in free_memory.items() if pool in (*spec.pools, RAM)}
    claim = fit(free_memory, spec_on(node, load))
    staged = (model.name, model.serving) in state.staged.get(node.name, {})
    free = state.disk_free(node)
    if claim is None or (not staged and free is not None and load.disk > free):
        cure = "Give the node more, or the model less."
        raise UnreadableFile(f"{name}: there is no room for it.", cure=cure)
    return Place(index, claim, 0 if staged else load.disk)
