"""Snapshots: the state as bytes, canonical, and back.

Two states that decide alike encode alike, byte for byte, whatever way led to them: only entities and what cannot be
derived from them is kept, in an order that does not depend on history; indexes are built again.
"""

from __future__ import annotations

import hashlib
from bisect import insort
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec.structs import replace

from . import events as ev
from .engine import Engine
from .entities import Model, Node, NodeStatus, Replica, Request, RequestStatus, Stray, Tenant
from .errors import UnknownEvent
from .events import EVENT_TYPES
from .fairness import queue_key
from .ledger import LedgerImage, image_of, ledger_from
from .recording import Snapshot
from .settings import Settings
from .state import State
from .timers import arm_idle, prune
from .units import FOREVER


class StateImage(msgspec.Struct, frozen=True):
    """The state as a snapshot keeps it. ``staged`` rows are (node, model, revision, bytes).

    ``prefixes`` are each replica's marks; both in order of their last use.
    """

    settings: Settings
    arrivals: int
    reservations: int
    nodes: list[Node]
    models: list[Model]
    replicas: list[Replica]
    requests: list[Request]
    awaited: list[tuple[str, list[str]]]
    staged: list[tuple[str, str, int, int]]
    strays: list[Stray]
    frozen: list[str]
    prefixes: list[tuple[str, list[int]]] = []
    mass_loss_until: int = 0
    mass_loss_turns: int = 0
    tenants: list[Tenant] = []
    thrashings: int = 0
    evictions: list[tuple[str, list[int]]] = []
    turnovers: int = 0
    evicted_in_turnover: int = 0
    past_uses: list[tuple[str, int, int]] = []


class EngineImage(msgspec.Struct, frozen=True):
    """State and ledger together."""

    state: StateImage
    ledger: LedgerImage


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(EngineImage)

_WORDS = ("title", "description")


def name_of_shape(image: type[msgspec.Struct], events: Iterable[type[ev.Event]]) -> str:
    """Names the shape of an image and the versions of these events; words for people have no part in it."""
    parts = [_shape(msgspec.json.schema(image)), sorted((cls.__name__, cls.class_version) for cls in events)]
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:16]


def _shape(schema: Any) -> Any:
    """A JSON schema without its docstrings: an edit of one must not cost a replay of the whole log."""
    if isinstance(schema, dict):
        return {key: _shape(value) for key, value in schema.items() if not (key in _WORDS and isinstance(value, str))}
    return [_shape(value) for value in schema] if isinstance(schema, list) else schema


SCHEMA = name_of_shape(EngineImage, EVENT_TYPES.values())
"""Names the shape of this program's snapshots: one with another shape is not read, and the log is replayed instead."""


def image_of_state(state: State) -> StateImage:
    """What a snapshot keeps of the state."""
    return StateImage(
        settings=state.settings,
        arrivals=state.arrivals,
        reservations=state.reservations,
        nodes=[state.nodes[name] for name in (*sorted(state.nodes.keys() - state.silent), *state.silent)],
        models=[state.models[name] for name in sorted(state.models)],
        replicas=sorted(state.replicas.values(), key=lambda replica: replica.serial),
        requests=sorted(state.requests.values(), key=lambda request: request.serial),
        awaited=[(name, list(state.awaited[name])) for name in sorted(state.awaited)],
        staged=[
            (node, model, revision, size)
            for node in sorted(state.staged)
            for (model, revision), size in state.staged[node].items()
        ],
        strays=[state.strays[key] for key in sorted(state.strays)],
        frozen=sorted(state.frozen),
        mass_loss_until=state.mass_loss_until,
        mass_loss_turns=state.mass_loss_turns,
        tenants=[state.tenants[name] for name in sorted(state.tenants)],
        prefixes=[(replica, list(marks)) for replica, (_, marks, _) in state.prefixes.held.items()],
        thrashings=state.thrashings,
        evictions=[(name, list(state.evictions[name])) for name in sorted(state.evictions)],
        turnovers=state.turnovers,
        evicted_in_turnover=state.evicted_in_turnover,
        past_uses=[(name, *state.past_uses[name]) for name in sorted(state.past_uses)],
    )


def encode_cluster(state: State) -> bytes:
    """The state alone as canonical bytes: what replay and live state are compared by."""
    return _encoder.encode(image_of_state(state))


def take_snapshot(engine: Engine) -> Snapshot:
    """A snapshot of an engine, to be stored."""
    image = EngineImage(image_of_state(engine.state), image_of(engine.ledger))
    return Snapshot(engine.ledger.position, SCHEMA, _encoder.encode(image))


def restore(snapshot: Snapshot) -> Engine:
    """The engine that a snapshot kept; raises UnknownEvent when another program's shape was used."""
    if snapshot.schema != SCHEMA:
        raise UnknownEvent("The snapshot was taken by another version.", cure="The log is replayed instead.")
    image = _decoder.decode(snapshot.state)
    return Engine(state_from(image.state), ledger_from(image.ledger))


def state_from(image: StateImage) -> State:
    """The state of an image, with all its indexes."""
    state = State()
    state.settings, state.arrivals, state.reservations = image.settings, image.arrivals, image.reservations
    state.frozen = dict.fromkeys(image.frozen)
    state.mass_loss_until, state.mass_loss_turns = image.mass_loss_until, image.mass_loss_turns
    if image.mass_loss_until:
        state.set_timer(image.mass_loss_until, "mass-loss", "")
    for node in sorted(image.nodes, key=lambda node: node.silent_since):  # those of one instant as they are in there
        state.index_contact(node)
    state.tenants = {tenant.name: tenant for tenant in image.tenants}
    state.tenants_due = sorted((tenant.due, tenant.name) for tenant in image.tenants if tenant.due)
    state.thrashings = image.thrashings
    state.evictions = {name: tuple(counted) for name, counted in image.evictions}
    state.turnovers, state.evicted_in_turnover = image.turnovers, image.evicted_in_turnover
    state.past_uses = {name: (uses, turnover) for name, uses, turnover in image.past_uses}
    for model in image.models:
        _restore_model(state, model)
    for node in image.nodes:
        state.nodes[node.name] = node
        state.committed[node.name] = {}
        if node.approved:
            insort(state.approved, node.name)
        if node.status is NodeStatus.UNREACHABLE:
            state.set_timer(node.offline_at, "offline", node.name)
        if node.drain_by < FOREVER:
            state.set_timer(node.drain_by, "drain", node.name)
    for name, model_name, revision, size in image.staged:
        state.stage(name, model_name, revision, size)
        state.disk_used[name] = state.disk_used.get(name, 0) + size
    for request in image.requests:
        _restore_request(state, request)
    for replica in image.replicas:
        _restore_replica(state, replica)
    state.awaited = {name: dict.fromkeys(victims) for name, victims in image.awaited}
    state.strays = {(stray.node, stray.process): stray for stray in image.strays}
    for name, marks in image.prefixes:
        state.prefixes.note(state.replicas[name].model, name, marks[::-1])
    for node in state.nodes.values():
        state.index_node(node)
    for replica in state.replicas.values():
        arm_idle(state, replica)
    prune(state)
    return state


def _restore_model(state: State, model: Model) -> None:
    state.models[model.name] = model
    state.index_selector(model.scheduling.selector)
    for alias in model.aliases:
        state.aliases[alias] = model.name
    if model.scheduling.everywhere:
        state.everywhere[model.name] = None
    if model.parked is not None:
        state.parked[model.name] = None
        if model.parked.until < FOREVER:
            state.set_timer(model.parked.until, "unpark", model.name)


def _restore_request(state: State, request: Request) -> None:
    state.requests[request.id] = request
    state.by_holder.setdefault(request.holder, {})[request.id] = None
    if request.tenant:
        state.live_of_tenant[request.tenant] = state.live_of_tenant.get(request.tenant, 0) + 1
    if request.status is RequestStatus.LOCKED:
        state.locks.setdefault(request.replica, {})[request.id] = None
    elif request.status is RequestStatus.QUEUED:
        insort(state.queues.setdefault(request.model, []), queue_key(state, request))
        state.set_timer(request.deadline, "deadline", request.id)
        if request.wait is not None and request.wait.until < FOREVER:
            state.set_timer(request.wait.until, "wake", request.id)


def _restore_replica(state: State, replica: Replica) -> None:
    node, model = state.one_string_each(replica.node, replica.model)
    replica = replace(replica, node=node, model=model)
    state.replicas[replica.id] = replica
    state.by_node.setdefault(replica.node, {})[replica.id] = None
    state.by_model.setdefault(replica.model, {})[replica.id] = None
    state.by_slot.setdefault((replica.node, replica.model), {})[replica.index] = replica.id
    if replica.disk_coming:
        state.disk_used[replica.node] = state.disk_used.get(replica.node, 0) + replica.disk_coming
    state.commit(replica.node, replica.present, +1)
    state.index_phase(replica)
    state.index_group(replica)
    if replica.silent_at < FOREVER:
        state.set_timer(replica.silent_at, "silent", replica.id)
