"""The beginning of a scope: its cluster as the core knows it, and as the workers are."""

from __future__ import annotations

from typing import Any

from interlock.domain import events as ev
from interlock.domain.apply import apply
from interlock.domain.commands import Command, DeclareModel
from interlock.domain.engine import Engine
from interlock.domain.entities import Scheduling
from interlock.domain.errors import InvariantBroken
from interlock.domain.memory import fit, spec_on
from interlock.domain.state import State
from interlock.domain.units import FOREVER
from interlock.simulation import world

from .actions import BUSY_FOREVER
from .properties import judge
from .scope import Scope, ScopeReplica
from .situation import Situation, Witness

START = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z in microseconds since 1970: virtual time 0."""


def begin(scope: Scope) -> Situation:
    """The scope's first situation. What loads at the beginning has no history: it stands there, idle and evictable."""
    state = State()
    workers = {node.facts.name: world.Worker(node.facts, up=node.up) for node in scope.nodes}
    priorities = tuple(sorted({kind.priority for kind in scope.kinds}))
    several = priorities if len(priorities) > 1 else ()
    situation = Situation(Engine(state, Witness(state, judge)), workers, (), START, judge, several)
    state.settings = scope.settings
    for tenant, limits in scope.tenants:
        apply(state, ev.TenantLimitsSet(at=START, tenant=tenant, limits=limits))
    for node in scope.nodes:
        if node.up:
            _do(situation, world.register(workers[node.facts.name], approve=node.approved))
    for number, replica in enumerate(scope.replicas):
        _stand(situation, scope, replica, number)
    for model in scope.models:
        if model.name in state.models:
            apply(state, ev.ModelSchedulingChanged(at=situation.now, model=model.name, scheduling=model.scheduling))
        else:
            _do(situation, DeclareModel(model=model.name, spec=model.spec, scheduling=model.scheduling))
    situation.witness.findings.clear()
    situation.witness.seen.clear()
    return situation


def _do(situation: Situation, command: Command) -> None:
    situation.now += 1
    situation.handle(command)


def _stand(situation: Situation, scope: Scope, wanted: ScopeReplica, number: int) -> None:
    """Put a loaded replica there by the events of a past that is over, wherever the model may run today."""
    state, worker, at = situation.state, situation.workers[wanted.node], situation.now
    model = next(model for model in scope.models if model.name == wanted.model)
    if model.name not in state.models:
        apply(state, ev.ModelDeclared(at=at, model=model.name, spec=model.spec, scheduling=Scheduling()))
    replica = f"r-{state.reservations + 1:06d}"
    index = state.free_index(state.nodes[wanted.node], model.name)
    if index is None:
        raise InvariantBroken(f"{wanted.node} has no slot for {model.name} at the beginning.")
    node = state.nodes[wanted.node]
    claim = fit(state.free_memory(node), spec_on(node, model.spec))
    if claim is None:
        raise InvariantBroken(f"{wanted.node} has no memory for what is loaded there at the beginning.")
    about: dict[str, Any] = {"at": at, "replica": replica, "model": model.name, "node": wanted.node}
    disk = model.spec.disk
    apply(state, ev.ReplicaReserved(**about, index=index, revision=1, claim=claim, disk=disk, silent_at=FOREVER))
    apply(state, ev.BackendInstallRequested(**about, op=1, silent_at=FOREVER))
    port = world.FIRST_PORT + len(worker.processes)
    process = world.Process(replica, f"p{worker.boot}-{replica}", model.name, index, port, loaded=True)
    apply(state, ev.BackendInstalled(**about, address=f"{worker.name}:{port}"))
    apply(state, ev.LoadStarted(**about, op=2, silent_at=FOREVER))
    apply(state, ev.ReplicaLoaded(**about, evictable_at=at))
    files = {world.Files(model.name, world.edition(model.spec), disk)} if disk else set()
    situation.workers[wanted.node] = world.with_loaded(worker, process, files)
    for place in range(wanted.in_flight):
        name = f"{BUSY_FOREVER}{number}-{place}" if wanted.forever else f"busy-{number}-{place}"
        apply(state, ev.ReplicaLocked(**about, request=name, holder=name, arrival=at, deadline=FOREVER))
