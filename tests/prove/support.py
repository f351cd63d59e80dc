"""Small scopes made by hand, and ways to look at what exploring them showed."""

from __future__ import annotations

from interlock.domain.entities import LoadSpec, Scheduling
from interlock.domain.settings import Settings
from interlock.domain.units import GIB
from interlock.simulation.prove.explore import Exploration
from interlock.simulation.prove.scope import Kind, Scope, ScopeModel, ScopeNode
from interlock.simulation.prove.start import begin
from interlock.simulation.world import NodeFacts


def model(name: str, vram: int = 10, **scheduling: object) -> ScopeModel:
    return ScopeModel(name, LoadSpec(backend="echo", vram=vram * GIB), Scheduling(**scheduling))


def one_node(*models: ScopeModel, vram: int = 16, settings: Settings | None = None, **amounts: int) -> Scope:
    """A node with room for one, these models, a request of each kind, and so much of each resource."""
    return Scope(
        name="by-hand",
        settings=settings or Settings(min_residency=0),
        nodes=(ScopeNode(NodeFacts(name="solo", pools=(vram * GIB,))),),
        models=models,
        kinds=tuple(Kind(model.name) for model in models),
        resources=amounts,
    )


def explore(scope: Scope) -> Exploration:
    return Exploration(scope, begin(scope)).run(50_000)
