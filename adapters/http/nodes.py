"""Nodes, for the workers themselves and for operators, on the paths and with the JSON fields of LocalAI's workers.

A node's id is its name. What workers send is a foreign format: unknown fields are ignored. What operators send is ours.
"""

from __future__ import annotations

import re
import time
from typing import Any, Literal

import msgspec
from aiohttp import web

from interlock.adapters.modelfile import parse_budget, parse_scheduling
from interlock.domain.commands import (
    ApproveNode,
    DrainNode,
    RegisterNode,
    RemoveNode,
    ReportCapacity,
    ReportRunning,
    ResumeNode,
    Running,
    SetNodeBudget,
    SetNodeLabels,
    SetReplicaSlots,
    SetScheduling,
    WorkerLeft,
)
from interlock.domain.errors import InvalidField, NotFound
from interlock.domain.units import FOREVER, LARGEST_SIZE, SECOND, format_duration, format_instant, parse_limit

from .kit import Gateway, Message, Route, fields, json_response, query, read
from .ports import LivenessPort, View
from .security import Audience

_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_TAKEN = frozenset({"models", "scheduling", "register"})
"""Words that stand in paths where a node's name may stand."""
_DOTS = frozenset({".", ".."})
"""What clients and folders take for the place itself, or the one above it."""
_AUTOMATIC = ("node.name", "node.replica-slots", "gpu.vendor", "gpu.vram")
_LONGEST_TRANSIT = 10 * SECOND
"""What a heartbeat says of processes may be this old when it arrives; what changed since is not judged by it."""
_FIGURES = (
    "pools", "total_vram", "available_vram", "total_ram", "available_ram", "ram", "available_disk", "disk",
)  # fmt: skip
"""What a heartbeat may say of memory and disk, in LocalAI's words and in ours."""
_STATES = {"loaded": "loaded", "unloading": "unloading"}


def check_name(name: str) -> None:
    """Raise InvalidField when no node can be called so."""
    if not _NAME.fullmatch(name):
        problem = f"{name!r} cannot be a node's name"
        raise InvalidField("name", problem, cure="Use 1 to 200 letters, digits, dots, dashes and underscores.")
    if name in _TAKEN | _DOTS:
        raise InvalidField("name", f"{name!r} means something else in a path", cure="Choose another name.")


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /api/node/register``: LocalAI's fields (bytes), then ours: memory per pool, boot, what runs already.

    ``clock`` is what the machine's clock shows, in microseconds since 1970; 0 when it is not told.
    """

    name: str
    address: str = ""
    node_type: str = "backend"
    total_vram: int = 0
    available_vram: int | None = None
    total_ram: int = 0
    available_ram: int | None = None
    ram: int | None = None
    available_disk: int | None = None
    gpu_vendor: str = ""
    labels: dict[str, str] | None = None
    max_replicas_per_model: int = 1
    vram_budget: str = ""
    worker_incarnation: str = ""
    boot: str = ""
    unified: bool = False
    pools: tuple[int, ...] | None = None
    used: tuple[int, ...] | None = None
    disk: int | None = None
    running: tuple[Running, ...] | None = None
    machine: str = ""
    replaces: bool = False
    clock: int = 0


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /api/node/{id}/heartbeat``: every field optional; ``leaving`` is the worker's goodbye."""

    total_vram: int | None = None
    available_vram: int | None = None
    total_ram: int | None = None
    available_ram: int | None = None
    ram: int | None = None
    worker_incarnation: str = ""
    boot: str = ""
    pools: tuple[int, ...] | None = None
    used: tuple[int, ...] | None = None
    available_disk: int | None = None
    disk: int | None = None
    running: tuple[Running, ...] | None = None
    leaving: bool = False
    clock: int = 0


class Beaten(msgspec.Struct, frozen=True):
    """The answer to a heartbeat; ``heartbeat_interval`` is in how long the next one is due, as in ``"10s"``."""

    message: str
    heartbeat_interval: str


class DrainBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /api/nodes/{id}/drain``: after ``deadline``, as in ``"10m"``, what is left there is taken away."""

    deadline: str = ""


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A number to set."""

    value: int


class TextValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text to set."""

    value: str


class SchedulingBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``POST /api/nodes/scheduling``: LocalAI's fields, and ours, which stay as they are when left out.

    How LocalAI spreads requests among replicas is taken and not heeded: here ``prefix_affinity`` says it.
    """

    model_name: str
    node_selector: dict[str, str | list[str]] = {}
    min_replicas: int = 0
    max_replicas: int = 0
    spread_all: bool = False
    parallel: int | None = None
    priority: int | None = None
    pinned: bool | None = None
    idle_unload: str | None = None
    prefix_affinity: int | Literal["off", "default"] | None = None
    anti_affinity: str | None = None
    anti_affinity_hard: bool | None = None
    placement: str | None = None
    route_policy: str | None = None
    balance_abs_threshold: float | None = None
    balance_rel_threshold: float | None = None
    min_prefix_match: float | None = None


class Nodes:
    """The handlers of ``/api/node`` and ``/api/nodes``."""

    def __init__(self, gateway: Gateway, liveness: LivenessPort) -> None:
        self._gateway, self._liveness = gateway, liveness
        self._registration = msgspec.json.Decoder(Registration)
        self._heartbeat = msgspec.json.Decoder(Heartbeat)
        self._value = msgspec.json.Decoder(Value)
        self._drain = msgspec.json.Decoder(DrainBody)
        self._text = msgspec.json.Decoder(TextValue)
        self._labels = msgspec.json.Decoder(dict[str, object])
        self._scheduling = msgspec.json.Decoder(SchedulingBody)

    def routes(self) -> list[Route]:
        """What is served: the workers' own paths, then the operators'."""
        worker, admin = Audience.WORKER, Audience.ADMIN
        mine, node = "/api/node/{id}", "/api/nodes/{id}"
        slots = (f"{node}/max-replicas", f"{node}/max-replicas-per-model")
        return [
            Route("POST", "/api/node/register", self.register, worker, "Join", Registration, status=201),
            Route("POST", f"{mine}/heartbeat", self.heartbeat, worker, "Show a sign of life", Heartbeat, Beaten),
            Route("POST", f"{mine}/drain", self.drain, worker, "Take no more work", None, Message),
            Route("GET", f"{mine}/models", self.node_models, worker, "What is loaded here"),
            Route("POST", f"{mine}/deregister", self.leave, worker, "Say goodbye", None, Message),
            Route("DELETE", mine, self.leave, worker, "Say goodbye", None, Message),
            Route("GET", "/api/nodes", self.all, admin, "All nodes"),
            Route("GET", "/api/nodes/models", self.all_models, admin, "Everything that is loaded"),
            Route("GET", "/api/nodes/scheduling", self.schedulings, admin, "Where every model may run"),
            Route("POST", "/api/nodes/scheduling", self.schedule, admin, "Say where a model may run", SchedulingBody),
            Route("GET", "/api/nodes/scheduling/{model}", self.scheduling, admin, "Where one model may run"),
            Route(
                "DELETE",
                "/api/nodes/scheduling/{model}",
                self.unschedule,
                admin,
                "Let a model run anywhere again",
                status=204,
            ),
            Route("GET", node, self.one, admin, "One node"),
            Route("DELETE", node, self.remove, admin, "Take a node out of the cluster", None, Message),
            Route("GET", f"{node}/models", self.node_models, admin, "What is loaded on a node"),
            Route("POST", f"{node}/drain", self.drain, admin, "Empty a node", DrainBody, Message),
            Route("POST", f"{node}/resume", self.resume, admin, "End a drain", None, Message),
            Route("POST", f"{node}/approve", self.approve, admin, "Let a pending node take work"),
            Route("GET", f"{node}/labels", self.labels, admin, "A node's labels", None, dict[str, str]),
            Route("PUT", f"{node}/labels", self.replace_labels, admin, "Replace a node's labels", dict[str, str]),
            Route("PATCH", f"{node}/labels", self.merge_labels, admin, "Merge into a node's labels", dict[str, str]),
            Route("POST", f"{node}/labels", self.merge_labels, admin, "Merge into a node's labels", dict[str, str]),
            Route("DELETE", f"{node}/labels/{{key}}", self.remove_label, admin, "Remove a label", status=204),
            Route("GET", f"{node}/vram-budget", self.budget, admin, "The memory that models may use"),
            Route("PUT", f"{node}/vram-budget", self.set_budget, admin, "Limit the memory of models", TextValue),
            Route("DELETE", f"{node}/vram-budget", self.reset_budget, admin, "Lift the limit"),
            *(Route("GET", path, self.slots, admin, "Replicas of one model that fit here") for path in slots),
            *(Route("PUT", path, self.set_slots, admin, "Set how many replicas of one model", Value) for path in slots),
            *(Route("DELETE", path, self.reset_slots, admin, "Let the worker say it again") for path in slots),
        ]

    # --- Workers ------------------------------------------------------------------------------------------------------

    async def register(self, request: web.Request) -> web.StreamResponse:
        """A worker joins, or joins again after a restart."""
        arrived = time.time_ns() // 1000
        asked = await read(request, self._registration)
        check_name(asked.name)
        if asked.node_type != "backend":
            raise InvalidField("node_type", f"{asked.node_type!r} does not serve models", cure='Use "backend".')
        if not asked.address:
            raise InvalidField("address", "missing", cure="Say where the node's backends listen.")
        # A node without a GPU serves from its main memory.
        total = asked.total_vram or asked.total_ram
        if asked.pools is None:
            _positive(total, "total_vram" if asked.total_vram else "total_ram")
        pools, used = _memory(
            asked.pools, asked.used, total, asked.available_vram if asked.total_vram else asked.available_ram
        )
        command = RegisterNode(
            node=asked.name,
            address=asked.address,
            # A worker that names no boot has just started, and runs nothing of what it ran before.
            boot=asked.boot or asked.worker_incarnation or f"registered-{arrived}",
            labels=asked.labels or {},
            pools=pools,
            used=used,
            ram=_positive(asked.total_ram if asked.ram is None else asked.ram, "ram"),
            unified=asked.unified or not (asked.pools or asked.total_vram),
            disk=asked.available_disk if asked.disk is None else asked.disk,
            max_replicas_per_model=max(1, asked.max_replicas_per_model),
            budget=parse_budget(asked.vram_budget, "vram_budget") if asked.vram_budget else None,
            gpu_vendor=asked.gpu_vendor,
            approve=self._gateway.config.auto_approve,
            running=asked.running or (),
            machine=asked.machine,
            replaces=asked.replaces,
            clock=_clock(asked.clock),
            sent_at=arrived - _LONGEST_TRANSIT,
        )
        await self._gateway.send(request, command, f"worker:{asked.name}")
        due = await self._liveness.heard(asked.name, command.boot)
        shown = _shown(await self._node(asked.name))
        keep = ("id", "name", "node_type", "status", "created_at")
        answer = {key: shown[key] for key in keep if key in shown}
        if due is not None:
            answer["heartbeat_interval"] = format_duration(due)
        return json_response(answer, 201)

    async def heartbeat(self, request: web.Request) -> web.StreamResponse:
        """A sign of life, with the node's figures when it sends them; 404 tells the worker to register."""
        name = request.match_info["id"]
        arrived = time.time_ns() // 1000
        beat = await read(request, self._heartbeat, empty=b"{}")
        boot = beat.boot or beat.worker_incarnation
        due = await self._liveness.heard(name, boot)
        if due is None:
            raise NotFound("node", name, cure="Register it first.")
        actor = f"worker:{name}"
        if beat.leaving:
            await self._gateway.send(request, WorkerLeft(node=name, boot=boot), actor)
            return json_response(Message("goodbye"))
        sent_at = arrived - _LONGEST_TRANSIT
        clock = _clock(beat.clock)
        if clock or any(getattr(beat, figure) is not None for figure in _FIGURES):
            pools, used = _told(beat, await self._node(name))
            ram = _positive((beat.total_ram if beat.ram is None else beat.ram) or 0, "ram")
            disk = beat.available_disk if beat.disk is None else beat.disk
            report = ReportCapacity(node=name, pools=pools, used=used, disk=disk, ram=ram, sent_at=sent_at, clock=clock)
            await self._gateway.send(request, report, actor)
        if beat.running is not None:
            running = ReportRunning(node=name, boot=boot, asked_at=sent_at, running=beat.running)
            await self._gateway.send(request, running, actor)
        return json_response(Beaten("heartbeat received", format_duration(due)))

    async def leave(self, request: web.Request) -> web.StreamResponse:
        """The worker stops; what it ran is gone, and its approval stays."""
        name = request.match_info["id"]
        await self._gateway.send(request, WorkerLeft(node=name), f"worker:{name}")
        return json_response(Message("node set to offline"))

    # --- Operators ----------------------------------------------------------------------------------------------------

    async def all(self, request: web.Request) -> web.StreamResponse:
        """Every node, ours and LocalAI's fields together."""
        query(request)
        running: dict[str, list[dict[str, Any]]] = {}
        for view in await self._gateway.queries.replicas():
            replica = fields(view)
            running.setdefault(replica["node"], []).append(replica)
        found = [_shown(view) for view in await self._gateway.queries.nodes()]
        return json_response([_busy(node, running.get(node["name"], [])) for node in found])

    async def one(self, request: web.Request) -> web.StreamResponse:
        """One node."""
        shown = _shown(await self._node(request.match_info["id"]))
        return json_response(_busy(shown, await self._replicas(shown["name"])))

    async def remove(self, request: web.Request) -> web.StreamResponse:
        """Take a node out for good."""
        await self._gateway.send(request, RemoveNode(node=request.match_info["id"]))
        return json_response(Message("node deregistered"))

    async def node_models(self, request: web.Request) -> web.StreamResponse:
        """What is on one node."""
        node = fields(await self._node(request.match_info["id"]))["name"]
        return json_response([_on_node(replica) for replica in await self._replicas(node)])

    async def all_models(self, request: web.Request) -> web.StreamResponse:
        """Everything loaded, cluster-wide."""
        query(request)
        shown = (_on_node(fields(view)) for view in await self._gateway.queries.replicas())
        return json_response([replica for replica in shown if replica["state"] == "loaded"])

    async def drain(self, request: web.Request) -> web.StreamResponse:
        """No new locks or loads there."""
        name = request.match_info["id"]
        own = request.path.startswith("/api/node/")
        # A worker's own path is LocalAI's, whose body says nothing that we know.
        deadline = "" if own else (await read(request, self._drain, empty=b"{}")).deadline
        within = parse_limit(deadline) if deadline else 0
        command = DrainNode(node=name, within=within, by_worker=own)
        await self._gateway.send(request, command, f"worker:{name}" if own else "admin")
        return json_response(Message("node set to draining"))

    async def resume(self, request: web.Request) -> web.StreamResponse:
        """End a drain."""
        await self._gateway.send(request, ResumeNode(node=request.match_info["id"]))
        return json_response(Message("node resumed"))

    async def approve(self, request: web.Request) -> web.StreamResponse:
        """Let a pending node be a candidate."""
        name = request.match_info["id"]
        await self._gateway.send(request, ApproveNode(node=name))
        shown = _shown(await self._node(name))
        keep = ("id", "name", "node_type", "status")
        return json_response({**{key: shown[key] for key in keep if key in shown}, "message": "node approved"})

    async def labels(self, request: web.Request) -> web.StreamResponse:
        """The labels that selectors see."""
        return json_response(_labels_of(await self._node(request.match_info["id"])))

    async def replace_labels(self, request: web.Request) -> web.StreamResponse:
        """Make these the node's labels; the automatic ones stay."""
        name = request.match_info["id"]
        wanted = await self._wanted(request, name)
        present = _labels_of(await self._node(name))
        dropped = {key: "" for key in present if key not in wanted and key not in _AUTOMATIC}
        return await self._label(request, name, {**dropped, **wanted})

    async def merge_labels(self, request: web.Request) -> web.StreamResponse:
        """Add or change labels; an empty value removes one."""
        name = request.match_info["id"]
        return await self._label(request, name, await self._wanted(request, name))

    async def _wanted(self, request: web.Request, name: str) -> dict[str, str]:
        """The labels in the body; of a node that nobody knows, its mistakes come first."""
        asked = await read(request, self._labels)
        known = await self._gateway.queries.node(name)
        return _checked(asked, _labels_of(known) if known is not None else {})

    async def remove_label(self, request: web.Request) -> web.StreamResponse:
        """Remove one label."""
        key = request.match_info["key"]
        await self._gateway.send(request, SetNodeLabels(node=request.match_info["id"], labels=_checked({key: ""}, {})))
        return web.Response(status=204)

    async def _label(self, request: web.Request, node: str, labels: dict[str, str]) -> web.StreamResponse:
        await self._gateway.send(request, SetNodeLabels(node=node, labels=labels))
        return json_response(_labels_of(await self._node(node)))

    async def budget(self, request: web.Request) -> web.StreamResponse:
        """The limit, empty when there is none."""
        node = fields(await self._node(request.match_info["id"]))
        return json_response({"vram_budget": str(node.get("vram_budget", ""))})

    async def set_budget(self, request: web.Request) -> web.StreamResponse:
        """Limit the memory that models may use there."""
        value = (await read(request, self._text)).value
        budget = parse_budget(value, "value")
        await self._gateway.send(request, SetNodeBudget(node=request.match_info["id"], budget=budget))
        return json_response({"vram_budget": value})

    async def reset_budget(self, request: web.Request) -> web.StreamResponse:
        """Let models use what the worker allows again: all of it, where it says nothing."""
        await self._gateway.send(request, SetNodeBudget(node=request.match_info["id"], budget=None))
        return json_response({"reset": True})

    async def slots(self, request: web.Request) -> web.StreamResponse:
        """How many replicas of one model the node may hold."""
        node = fields(await self._node(request.match_info["id"]))
        return json_response({"max_replicas_per_model": node.get("max_replicas_per_model", 1)})

    async def set_slots(self, request: web.Request) -> web.StreamResponse:
        """Set how many replicas of one model the node may hold."""
        value = (await read(request, self._value)).value
        if value < 1:
            raise InvalidField("value", f"{value} is less than 1")
        await self._gateway.send(request, SetReplicaSlots(node=request.match_info["id"], max_replicas_per_model=value))
        return json_response({"max_replicas_per_model": value})

    async def reset_slots(self, request: web.Request) -> web.StreamResponse:
        """Let the node hold as many replicas of one model as its worker says."""
        await self._gateway.send(request, SetReplicaSlots(node=request.match_info["id"], max_replicas_per_model=None))
        return json_response({"reset": True})

    # --- Scheduling ---------------------------------------------------------------------------------------------------

    async def schedulings(self, request: web.Request) -> web.StreamResponse:
        """Where every model may run, and how often."""
        query(request)
        return json_response([_scheduled(fields(view)) for view in await self._gateway.queries.models()])

    async def scheduling(self, request: web.Request) -> web.StreamResponse:
        """Where one model may run, and how often."""
        return json_response(_scheduled(await self._model(request.match_info["model"])))

    async def schedule(self, request: web.Request) -> web.StreamResponse:
        """Replace where and how often a model may run; what LocalAI does not know stays as it is."""
        asked = await read(request, self._scheduling)
        return await self._set_scheduling(request, asked)

    async def unschedule(self, request: web.Request) -> web.StreamResponse:
        """Any node, one replica on demand."""
        await self._set_scheduling(request, SchedulingBody(model_name=request.match_info["model"]))
        return web.Response(status=204)

    async def _set_scheduling(self, request: web.Request, asked: SchedulingBody) -> web.StreamResponse:
        model = await self._model(asked.model_name)
        table: dict[str, object] = {"node_selector": asked.node_selector}
        ours = (
            "parallel",
            "priority",
            "pinned",
            "idle_unload",
            "prefix_affinity",
            "anti_affinity",
            "anti_affinity_hard",
            "placement",
        )
        for key in ours:
            value = getattr(asked, key)
            if value is not None or key in model:
                table[key] = model[key] if value is None else value
        if asked.min_replicas or asked.max_replicas:
            table |= {"min_replicas": asked.min_replicas, "max_replicas": asked.max_replicas}
        if asked.spread_all:
            table["replicas"] = "all"
        scheduling = parse_scheduling(table)
        await self._gateway.send(request, SetScheduling(model=model["name"], scheduling=scheduling))
        return json_response(_scheduled(await self._model(model["name"])))

    # --- Views --------------------------------------------------------------------------------------------------------

    async def _node(self, name: str) -> View:
        view = await self._gateway.queries.node(name)
        if view is None:
            raise NotFound("node", name)
        return view

    async def _model(self, name: str) -> dict[str, Any]:
        view = await self._gateway.queries.model(name)
        if view is None:
            raise NotFound("model", name)
        return fields(view)

    async def _replicas(self, node: str) -> list[dict[str, Any]]:
        found = (fields(view) for view in await self._gateway.queries.replicas())
        return [replica for replica in found if replica["node"] == node]


def _memory(
    pools: tuple[int, ...] | None, used: tuple[int, ...] | None, total: int, available: int | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Bytes per pool, and bytes in use per pool: as told, or one pool from LocalAI's two figures."""
    if pools is None:
        pools = (total,) if total else ()
        if used is None and total and available is not None:
            used = (max(0, total - available),)
    for place, size in enumerate(pools):
        _positive(size, f"pools[{place}]")
    for place, size in enumerate(used or ()):
        _positive(size, f"used[{place}]")
    if used and len(used) != len(pools):
        raise InvalidField("used", f"has {len(used)} figures for {len(pools)} pools")
    return pools, used or ()


def _told(beat: Heartbeat, known: View) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Bytes per pool and in use, as a heartbeat tells them; no pools are those that are known already.

    A machine without a GPU has its main memory as its one pool, and LocalAI's worker beats there with no free VRAM.
    """
    if beat.pools is not None:
        return _memory(beat.pools, beat.used, 0, None)
    in_main_memory = not beat.total_vram and fields(known).get("unified", False)
    total = beat.total_ram if in_main_memory else beat.total_vram
    available = beat.available_ram if in_main_memory else beat.available_vram
    if available is not None and not total:
        total = _total(known)
    return _memory(None, None, _positive(total or 0, "total_ram" if in_main_memory else "total_vram"), available)


def _positive(value: int, field: str) -> int:
    if value < 0:
        raise InvalidField(field, f"{value} is less than 0")
    if value > LARGEST_SIZE:
        raise InvalidField(field, f"{value} is no size in bytes that a machine has")
    return value


def _checked(labels: dict[str, object], present: dict[str, str]) -> dict[str, str]:
    """The labels to set; an automatic one may stand among them as it is, as in an answer that is sent back."""
    checked: dict[str, str] = {}
    for key, value in labels.items():
        if key in _AUTOMATIC and value and value == present.get(key):
            continue
        if not isinstance(value, str):
            raise InvalidField(key, "is not text", cure='Labels are text: {"tier": "fast"}.')
        checked[key] = value
        if key in _AUTOMATIC:
            raise InvalidField(key, "this label is automatic", cure=f"Choose another than {', '.join(_AUTOMATIC)}.")
        if not key or key.startswith("!"):
            raise InvalidField(key or "labels", "not a label's name", cure="Name it without a leading '!'.")
    return checked


def _clock(shown: int) -> int:
    """What a machine's clock shows, if it is a time at all; else it counts as not told, and nobody is refused."""
    return shown if 0 < shown < FOREVER else 0


def _labels_of(view: View) -> dict[str, str]:
    return dict(fields(view).get("labels", {}))


def _total(view: View) -> int:
    pools = fields(view).get("pools", ())
    return sum(pool["total"] if isinstance(pool, dict) else pool for pool in pools)


def _shown(view: View) -> dict[str, Any]:
    """A node with LocalAI's fields beside ours."""
    node = fields(view)
    shown = {"id": node["name"], "node_type": "backend", "total_vram": _total(view), **node}
    pools = node.get("pools", ())
    if pools and all(isinstance(pool, dict) and "used" in pool for pool in pools):
        free = sum(pool.get("budget", pool["total"]) - pool["used"] - pool.get("reserved", 0) for pool in pools)
        shown.setdefault("available_vram", max(0, free))
        shown.setdefault("reserved_vram", sum(pool.get("reserved", 0) for pool in pools))
    if "ram" in node:
        shown.setdefault("total_ram", node["ram"])
    if node.get("disk") is not None:
        shown.setdefault("available_disk", node["disk"])
    if node.get("last_heard"):
        shown.setdefault("last_heartbeat", format_instant(node["last_heard"]))
    return shown


def _busy(node: dict[str, Any], replicas: list[dict[str, Any]]) -> dict[str, Any]:
    """A node with how many models it holds and requests it serves."""
    loaded = [replica for replica in replicas if replica.get("phase") == "loaded"]
    counts = {"model_count": len(loaded), "in_flight_count": sum(replica.get("in_flight", 0) for replica in replicas)}
    return {**counts, **node}


def _on_node(replica: dict[str, Any]) -> dict[str, Any]:
    """A replica in LocalAI's words for a model on a node."""
    shown = {
        "id": replica["id"],
        "node_id": replica["node"],
        "model_name": replica["model"],
        "replica_index": replica.get("index", 0),
        "address": replica.get("address", ""),
        "state": _STATES.get(replica.get("phase", ""), "loading"),
        "in_flight": replica.get("in_flight", 0),
    }
    if replica.get("used_at"):
        shown["last_used"] = format_instant(replica["used_at"])
    if replica.get("loaded_at"):
        shown["created_at"] = format_instant(replica["loaded_at"])
    return shown


def _scheduled(model: dict[str, Any]) -> dict[str, Any]:
    """A model's scheduling in LocalAI's words; it writes the selector as JSON text in its answers."""
    return {
        "id": model["name"],
        "model_name": model["name"],
        "node_selector": msgspec.json.encode(model.get("node_selector", {})).decode(),
        "min_replicas": model.get("min_replicas", 0),
        "max_replicas": model.get("max_replicas", 0),
        "spread_all": bool(model.get("everywhere", model.get("replicas") == "all")),
        "parallel": model.get("parallel", 1),
        "priority": model.get("priority", 0),
        "pinned": model.get("pinned", False),
        "idle_unload": model.get("idle_unload", "default"),
        "prefix_affinity": model.get("prefix_affinity", "default"),
        "anti_affinity": model.get("anti_affinity", ""),
        "anti_affinity_hard": model.get("anti_affinity_hard", False),
        "placement": model.get("placement", ""),
    }
