"""The beginning of a scope: its cluster as the core knows it, and as the workers are."""

from __future__ import annotations

from typing import Any

from interlock.domain import events as ev
from interlock.domain.apply import apply
from interlock.domain.commands import Command, DeclareModel, Rejected
from interlock.domain.decide import decide
from interlock.domain.engine import Engine
from interlock.domain.entities import Scheduling
from interlock.domain.errors import InterlockError, UnreadableFile
from interlock.domain.state import State
from interlock.domain.units import FOREVER
from interlock.simulation import world
from interlock.simulation.reading.scenario import ReplicaSpec
from interlock.simulation.standing import place_of

from .actions import BUSY_FOREVER
from .properties import judge
from .scope import Scope, ScopeModel
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
            _do(
                situation,
                scope,
                world.register(workers[node.facts.name], approve=node.approved),
                f"node {node.facts.name}",
            )
    for number, replica in enumerate(scope.replicas):
        _stand(situation, scope, replica, number)
    for model in scope.models:
        if model.name in state.models:
            _check(situation, scope, model.declaration)
            apply(state, what_stands_is_declared(model, situation.now))
        else:
            _do(situation, scope, model.declaration, f"model {model.name}")
    situation.witness.findings.clear()
    situation.witness.seen.clear()
    return situation


def _do(situation: Situation, scope: Scope, command: Command, what: str) -> None:
    situation.now += 1
    reply = situation.handle(command).reply
    if isinstance(reply, Rejected):
        raise _unreadable(scope, what, reply.message, reply.cure)


def what_stands_is_declared(model: ScopeModel, at: int) -> ev.Event:
    """A model that stands already gets its own scheduling and aliases, and what stands of it stays."""
    return ev.ModelSchedulingChanged(at=at, model=model.name, scheduling=model.scheduling, aliases=model.aliases)


def _check(situation: Situation, scope: Scope, command: DeclareModel) -> None:
    try:
        decide(situation.state, command, situation.now)
    except InterlockError as error:
        raise _unreadable(scope, f"model {command.model}", error.message, error.cure) from None


def _unreadable(scope: Scope, what: str, message: str, cure: str) -> UnreadableFile:
    return UnreadableFile(f"{scope.source}:{scope.lines.get(what, 1)}: {what[:80]}: {message}", cure=cure)


def _stand(situation: Situation, scope: Scope, wanted: ReplicaSpec, number: int) -> None:
    """Put a loaded replica there by the events of a past that is over, wherever the model may run today."""
    state, at = situation.state, situation.now
    model = next(model for model in scope.models if model.name == wanted.model)
    if model.name not in state.models:
        apply(state, ev.ModelDeclared(at=at, model=model.name, spec=model.spec, scheduling=Scheduling()))
    index, claim, disk = place_of(state, wanted, scope.source)
    worker = situation.workers[wanted.node]
    replica = f"r-{state.reservations + 1:06d}"
    about: dict[str, Any] = {"at": at, "replica": replica, "model": model.name, "node": wanted.node}
    apply(state, ev.ReplicaReserved(**about, index=index, revision=1, claim=claim, disk=disk, silent_at=FOREVER))
    apply(state, ev.BackendInstallRequested(**about, op=1, silent_at=FOREVER))
    port = world.FIRST_PORT + len(worker.processes)
    process = world.Process(replica, f"p{worker.boot}-{replica}", model.name, index, port, loaded=True)
    apply(state, ev.BackendInstalled(**about, address=f"{worker.name}:{port}"))
    apply(state, ev.LoadStarted(**about, op=2, silent_at=FOREVER))
    apply(state, ev.ReplicaLoaded(**about, evictable_at=at + wanted.evictable_in))
    size = model.spec.disk
    files = {world.Files(model.name, world.edition(model.spec), size)} if size else set()
    situation.workers[wanted.node] = world.with_loaded(worker, process, files)
    for place in range(wanted.in_flight):
        length = wanted.busy_each[place] if wanted.busy_each else wanted.busy_for
        name = f"{BUSY_FOREVER}{number}-{place}" if length >= FOREVER else f"busy-{number}-{place}"
        apply(state, ev.ReplicaLocked(**about, request=name, holder=name, arrival=at, deadline=FOREVER))
