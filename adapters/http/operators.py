"""Operators' paths in our own format: models, replicas, locks, requests, freezing, settings."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from aiohttp import web

from interlock.adapters.modelfile import parse_model
from interlock.adapters.planfile import parse_change
from interlock.adapters.planwords import PlanDocument, document
from interlock.adapters.unloadwords import told_unload
from interlock.domain.commands import (
    ChangeSettings,
    DeclareModel,
    EvictReplica,
    Freeze,
    ReleaseLock,
    RemoveModel,
    RequestLoad,
    RequestUnload,
    SetTenantLimits,
    Thaw,
)
from interlock.domain.errors import InvalidField, NotFound
from interlock.domain.settings import parse_setting
from interlock.domain.tenants import parse_limits

from .kit import Gateway, Message, Route, fields, json_response, query, read
from .ports import View
from .security import Audience


class ModelTable(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model as a file or a request writes it; the schema of what ``modelfile.parse_model`` reads."""

    name: str = ""
    backend: str = ""
    options: dict[str, str | int | float | bool] = {}
    vram: str | int = 0
    ram: str | int = 0
    pools: int | Literal["any"] = 1
    disk: str | int = 0
    node_selector: dict[str, str | list[str]] = {}
    min_replicas: int = 0
    max_replicas: int = 0
    replicas: Literal["all"] | msgspec.UnsetType = msgspec.UNSET
    parallel: int = 1
    priority: int = 0
    pinned: bool = False
    idle_unload: str = "default"
    prefix_affinity: int | Literal["off", "default"] = "default"
    anti_affinity: str = ""
    anti_affinity_hard: bool = False
    placement: str = ""
    aliases: list[str] = []


class NodeTable(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """In a plan: a new node (with ``vram`` or ``pools``), or what changes of a known one."""

    name: str
    vram: str | int | msgspec.UnsetType = msgspec.UNSET
    pools: list[str | int] | msgspec.UnsetType = msgspec.UNSET
    ram: str | int | msgspec.UnsetType = msgspec.UNSET
    disk: str | int | msgspec.UnsetType = msgspec.UNSET
    labels: dict[str, str] = {}
    vram_budget: str | msgspec.UnsetType = msgspec.UNSET
    max_replicas_per_model: int | msgspec.UnsetType = msgspec.UNSET
    approved: Literal[True] | msgspec.UnsetType = msgspec.UNSET
    drain: bool | msgspec.UnsetType = msgspec.UNSET
    deadline: str | msgspec.UnsetType = msgspec.UNSET
    remove: bool = False


class PlannedModel(ModelTable, frozen=True, kw_only=True, omit_defaults=True):
    """In a plan: a model as it is to be, or only its name and ``remove``."""

    remove: bool = False


class PlanBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A change to think through; the schema of what ``planfile.parse_change`` reads."""

    scheduler: dict[str, str | int] = {}
    nodes: list[NodeTable] = []
    models: list[PlannedModel] = []


class FreezeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to freeze or thaw; without ``what``, freezing means evictions and thawing means everything."""

    what: Literal["evictions", "reconciler"] | None = None


class LimitsBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tenant's limits as ``tenants.parse_limits`` reads them; what is left out is as the settings say."""

    at_once: int | Literal["off"] | None = None
    rate: str | None = None
    burst: int | None = None
    priority: int | None = None


class LoadStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a model is: ``loaded``, ``absent``, or the state of the load in progress.

    ``message`` is for people, and comes where something was asked for that somebody may undo at once.
    """

    model: str
    state: str
    node: str = ""
    progress: float | None = None
    replicas: int = 0
    message: str = ""


class Operators:
    """The handlers of ``/api/models``, ``/api/replicas``, ``/api/locks``, ``/api/requests`` and the switches."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._table = msgspec.json.Decoder(dict[str, Any])
        self._freeze = msgspec.json.Decoder(FreezeBody)
        self._settings = msgspec.json.Decoder(dict[str, Any])

    def routes(self) -> list[Route]:
        """What is served, for the application and for OpenAPI."""
        admin, model = Audience.ADMIN, "/api/models/{name}"
        return [
            Route("GET", "/api/models", self.models, admin, "All models"),
            Route("POST", "/api/models", self.declare, admin, "Declare or edit a model", ModelTable),
            Route("GET", model, self.model, admin, "One model"),
            Route("PUT", model, self.declare, admin, "Declare or edit a model", ModelTable),
            Route("POST", model, self.declare, admin, "Declare or edit a model", ModelTable),
            Route("DELETE", model, self.remove, admin, "Take a model out", None, Message),
            Route("POST", f"{model}/load", self.load, admin, "Load one more replica now", None, LoadStatus, 202),
            Route("POST", f"{model}/unload", self.unload, admin, "Unload the idle replicas now", None, LoadStatus, 202),
            Route("GET", f"{model}/load-status", self.load_status, admin, "How far a load is", None, LoadStatus),
            Route("GET", "/api/replicas", self.replicas, admin, "All replicas"),
            Route("GET", "/api/replicas/{id}", self.replica, admin, "One replica"),
            Route("POST", "/api/replicas/{id}/evict", self.evict, admin, "Unload one idle replica", None, Message, 202),
            Route("POST", "/api/locks/{id}/release", self.release, admin, "End a request's claim", None, Message),
            Route("GET", "/api/requests", self.requests, admin, "The requests that wait or run"),
            Route("GET", "/api/requests/{id}", self.request, admin, "One request, also when it has ended"),
            Route("GET", "/api/tenants", self.tenants, admin, "The tenants that are known, and their limits"),
            Route("PUT", "/api/tenants/{name}/limits", self.limit, admin, "Limit a tenant", LimitsBody, Message),
            Route("DELETE", "/api/tenants/{name}/limits", self.unlimit, admin, "Forget its own limits", None, Message),
            Route("GET", "/api/freeze", self.frozen, admin, "What is frozen"),
            Route("POST", "/api/freeze", self.freeze, admin, "Stop evictions or the reconciler", FreezeBody),
            Route("POST", "/api/thaw", self.thaw, admin, "Let them go on", FreezeBody),
            Route("POST", "/api/plan", self.plan, admin, "What a change would bring", PlanBody, PlanDocument),
            Route("GET", "/api/settings", self.settings, admin, "Every setting", None, dict[str, str]),
            Route("PATCH", "/api/settings", self.change, admin, "Change settings", dict[str, str | int]),
            Route("PUT", "/api/settings", self.change, admin, "Change settings", dict[str, str | int]),
            Route("POST", "/api/settings", self.change, admin, "Change settings", dict[str, str | int]),
        ]

    async def models(self, request: web.Request) -> web.StreamResponse:
        """All models."""
        query(request)
        return json_response(await self._gateway.queries.models())

    async def model(self, request: web.Request) -> web.StreamResponse:
        """One model."""
        return json_response(await self._model(request.match_info["name"]))

    async def declare(self, request: web.Request) -> web.StreamResponse:
        """Make a model be as the table says."""
        table = await read(request, self._table)
        named = request.match_info.get("name")
        if named is not None and table.setdefault("name", named) != named:
            raise InvalidField("name", f"{table['name']!r} is not the name in the path, {named!r}")
        command: DeclareModel = parse_model(table)
        await self._gateway.send(request, command)
        return json_response(await self._model(command.model))

    async def remove(self, request: web.Request) -> web.StreamResponse:
        """Take a model out; its replicas leave when idle."""
        await self._gateway.send(request, RemoveModel(model=request.match_info["name"]))
        return json_response(Message("model removed"))

    async def load(self, request: web.Request) -> web.StreamResponse:
        """Begin one more load."""
        name = await self._name(request)
        await self._gateway.send(request, RequestLoad(model=name))
        return json_response(await self._status(name), 202)

    async def unload(self, request: web.Request) -> web.StreamResponse:
        """Begin to unload the idle replicas, and say who will load it again."""
        before = fields(await self._model(request.match_info["name"]))
        await self._gateway.send(request, RequestUnload(model=before["name"]))
        told = told_unload(before, await self._gateway.queries.frozen())
        return json_response(msgspec.structs.replace(await self._status(before["name"]), message=told), 202)

    async def load_status(self, request: web.Request) -> web.StreamResponse:
        """How far the model's load is."""
        return json_response(await self._status(await self._name(request)))

    async def replicas(self, request: web.Request) -> web.StreamResponse:
        """All replicas."""
        query(request)
        return json_response(await self._gateway.queries.replicas())

    async def replica(self, request: web.Request) -> web.StreamResponse:
        """One replica."""
        wanted = request.match_info["id"]
        for view in await self._gateway.queries.replicas():
            if fields(view)["id"] == wanted:
                return json_response(view)
        raise NotFound("replica", wanted, cure="GET /api/replicas lists those that exist.")

    async def evict(self, request: web.Request) -> web.StreamResponse:
        """Unload one replica; refused while it is locked."""
        await self._gateway.send(request, EvictReplica(replica=request.match_info["id"]))
        return json_response(Message("replica unloads"), 202)

    async def release(self, request: web.Request) -> web.StreamResponse:
        """End a request's claim by hand; of a request that is over already there is nothing left to end."""
        wanted = request.match_info["id"]
        if await self._gateway.queries.request(wanted) is None:
            raise NotFound("request", wanted, cure="GET /api/requests lists those that wait or run.")
        command = ReleaseLock(request=wanted, outcome="cancelled", detail="released by an operator")
        await self._gateway.send(request, command)
        self._gateway.claims.end(wanted)  # and where another gateway has it, that one hears of it with its next renewal
        return json_response(Message("lock released"))

    async def requests(self, request: web.Request) -> web.StreamResponse:
        """The requests that wait or run."""
        query(request)
        return json_response(await self._gateway.queries.requests())

    async def request(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        wanted = request.match_info["id"]
        view = await self._gateway.queries.request(wanted)
        if view is None:
            raise NotFound("request", wanted)
        return json_response(view)

    async def tenants(self, request: web.Request) -> web.StreamResponse:
        """The tenants that have requests, limits of their own, or were busy lately."""
        query(request)
        return json_response(await self._gateway.queries.tenants())

    async def limit(self, request: web.Request) -> web.StreamResponse:
        """Give a tenant limits of its own; what is left out is as the settings say."""
        given = await read(request, self._table)
        limits = parse_limits(given)
        await self._gateway.send(request, SetTenantLimits(tenant=request.match_info["name"], limits=limits))
        return json_response(Message("limits set"))

    async def unlimit(self, request: web.Request) -> web.StreamResponse:
        """The settings hold for the tenant again."""
        await self._gateway.send(request, SetTenantLimits(tenant=request.match_info["name"]))
        return json_response(Message("the settings hold again"))

    async def frozen(self, request: web.Request) -> web.StreamResponse:
        """What is frozen now."""
        return json_response({"frozen": await self._gateway.queries.frozen()})

    async def freeze(self, request: web.Request) -> web.StreamResponse:
        """Stop evictions, unless the reconciler is named."""
        what = (await read(request, self._freeze, empty=b"{}")).what or "evictions"
        await self._gateway.send(request, Freeze(what=what))
        return await self.frozen(request)

    async def thaw(self, request: web.Request) -> web.StreamResponse:
        """Let what is frozen go on: all of it, unless one thing is named."""
        what = (await read(request, self._freeze, empty=b"{}")).what
        for one in (what,) if what else tuple(await self._gateway.queries.frozen()):
            await self._gateway.send(request, Thaw(what=one))
        return await self.frozen(request)

    async def plan(self, request: web.Request) -> web.StreamResponse:
        """What a change of models, nodes or settings would place, evict and park; nothing is changed."""
        table = await read(request, self._table)
        change = parse_change(table)
        return json_response(document(await self._gateway.queries.plan(change)))

    async def settings(self, request: web.Request) -> web.StreamResponse:
        """Every setting, as people write it."""
        query(request)
        return json_response(await self._gateway.queries.settings())

    async def change(self, request: web.Request) -> web.StreamResponse:
        """Change the settings that are named."""
        given = await read(request, self._settings)
        if not given:
            raise InvalidField("body", "names no setting", cure="GET /api/settings lists them.")
        values = {name: parse_setting(name, value) for name, value in given.items()}
        await self._gateway.send(request, ChangeSettings(values=values))
        return json_response(await self._gateway.queries.settings())

    async def _model(self, name: str) -> View:
        view = await self._gateway.queries.model(name)
        if view is None:
            raise NotFound("model", name, cure="GET /api/models lists those that are declared.")
        return view

    async def _name(self, request: web.Request) -> str:
        """The model's own name, also when the path has an alias."""
        found: str = fields(await self._model(request.match_info["name"]))["name"]
        return found

    async def _status(self, name: str) -> LoadStatus:
        own = [replica for replica in map(fields, await self._gateway.queries.replicas()) if replica["model"] == name]
        loaded = sum(replica.get("phase") == "loaded" for replica in own)
        loading = await self._gateway.queries.load_status(name)
        if loading is None:
            return LoadStatus(name, "loaded" if loaded else "absent", replicas=loaded)
        told = fields(loading)
        return LoadStatus(name, told.get("state", "loading"), told.get("node", ""), told.get("progress"), loaded)
