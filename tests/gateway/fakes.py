"""An in-memory cluster for the gateway's tests: a scheduler that keeps locks, backends that misbehave on demand."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from interlock.adapters.grpc.calls import Generation, Piece, Vector
from interlock.adapters.http.ports import EventRow, Readiness, Sample, View
from interlock.domain import commands as c
from interlock.domain.engine import Engine
from interlock.domain.entities import LoadSpec
from interlock.domain.errors import BackendGone, InterlockError, NotFound, NoWriter
from interlock.domain.planning import Change, Report, plan
from interlock.domain.ports import Renewal
from interlock.domain.selector import format_selector
from interlock.domain.settings import Settings, format_affinity, format_idle_unload, format_setting


class FakeScheduler:
    """CommandPort, QueryPort and LivenessPort at once: models, replicas, locks with owners, first come first served.

    ``away`` makes the next commands raise NoWriter, each after ``away_after_s``, and the first ``left`` of those say
    that a writer had taken them up; ``lost_answers`` decides them first and then raises.
    ``past`` are ids of requests that the log knows of earlier runs, and ``mute`` is why it does not tell.
    ``refuse[model]`` is the answer to whoever asks for the model; ``hold`` keeps everybody waiting.
    """

    def __init__(self) -> None:
        self.replica_of: dict[str, list[str]] = {}
        self.free: dict[str, int] = {}
        self.locks: dict[str, c.Locked] = {}
        self.waiting: dict[str, tuple[str, asyncio.Future[c.Locked | c.Rejected]]] = {}
        self.declared: dict[str, c.DeclareModel] = {}
        self.node_table: dict[str, dict[str, Any]] = {}
        self.refuse: dict[str, c.Rejected] = {}
        self.loading: dict[str, View] = {}
        self.settings_now = Settings()
        self.frozen_now: set[str] = set()
        self.past: set[str] = set()
        self.mute: Exception | None = None
        self.away = 0
        self.away_after_s = 0.0
        self.left = 0
        self.lost_answers = 0
        self.hold = False
        self.broken: Exception | None = None
        self.replies: dict[str, c.AnyReply] = {}
        self.sent: list[c.Envelope] = []
        self.decided: list[c.Command] = []
        self.renewals: list[str] = []
        self.acquired = self.released = 0
        self.ended: list[tuple[str, str]] = []
        self.readiness = Readiness(True)
        self.taken: list[str] = []
        """Requests whose claims an operator has ended."""
        self.changed = asyncio.Event()

    # --- What tests set up and ask -----------------------------------------------------------------------------------

    def serve(self, model: str, *replicas: str, parallel: int = 1000) -> None:
        """``model`` is loaded as these replicas, on nodes of their own."""
        self.replica_of[model] = list(replicas)
        self.free.update(dict.fromkeys(replicas, parallel))
        self.declared.setdefault(model, c.DeclareModel(model=model, spec=LoadSpec(backend="echo")))

    def kinds(self) -> list[str]:
        """The decided commands, by name."""
        return [type(command).__name__ for command in self.decided]

    def of(self, kind: type[c.Command]) -> list[Any]:
        """The decided commands of one kind."""
        return [command for command in self.decided if isinstance(command, kind)]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the cluster is as the condition wants it."""
        async with asyncio.timeout(10):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    def let_go(self) -> None:
        """Serve everybody whom ``hold`` kept waiting."""
        self.hold = False
        self._wake()

    # --- CommandPort -------------------------------------------------------------------------------------------------

    async def send(self, envelope: c.Envelope) -> c.AnyReply:
        self.sent.append(envelope)
        self.changed.set()
        await asyncio.sleep(0)
        if self.broken is not None:
            raise self.broken
        if self.away > 0:
            self.away -= 1
            self.left, taken = max(0, self.left - 1), self.left > 0
            await asyncio.sleep(self.away_after_s)
            raise NoWriter("nobody leads.", taken=taken)
        reply = self.replies.get(envelope.command_id)
        if reply is None:
            self.decided.append(envelope.command)
            reply = self.replies[envelope.command_id] = self._decide(envelope.command)
        self.changed.set()
        if self.lost_answers > 0:
            self.lost_answers -= 1
            raise NoWriter("the answer was lost.")
        return reply

    async def acquire(self, envelope: c.Envelope) -> c.Locked | c.Rejected:
        reply = await self.send(envelope)
        if isinstance(reply, c.Waiting):
            return await asyncio.shield(self.waiting[reply.request][1])
        return reply  # type: ignore[return-value]  # Done to a report that comes too late, as the core answers

    async def renew_lease(self, holder: str) -> Renewal:
        self.renewals.append(holder)
        self.changed.set()
        if self.away > 0:
            raise NoWriter("nobody leads.")
        return Renewal(self.lease, tuple(self.taken))

    def _decide(self, command: c.Command) -> c.AnyReply:
        if isinstance(command, c.AcquireLock):
            return self._acquire(command.request, command.model)
        if isinstance(command, c.ReportBackendGone):
            lock = self.locks.pop(command.request)
            self.released += 1
            if command.replica in self.replica_of[lock.model]:
                self.replica_of[lock.model].remove(command.replica)
            return self._acquire(command.request, lock.model)
        if isinstance(command, c.ReleaseLock):
            return self._end(command.request, command.outcome)
        if isinstance(command, c.CancelRequest):
            return self._end(command.request, "cancelled")
        return self._administer(command)

    def _acquire(self, request: str, model: str) -> c.AnyReply:
        if model in self.refuse:
            return self.refuse[model]
        if model not in self.replica_of:
            return c.Rejected(code="unknown_model", message=f"No model named {model}.", cure="Declare it.")
        if request in self.locks or request in self.waiting:
            return c.Rejected(code="conflict", message="This request exists.")
        if not self.replica_of[model]:
            return c.Rejected(code="capacity_exhausted", message="No replica is left.", retry_after=2_500_000)
        lock = None if self.hold else self._lock(request, model)
        if lock is None:
            self.waiting[request] = (model, asyncio.get_running_loop().create_future())
            return c.Waiting(request=request, kind="busy")
        return lock

    def _lock(self, request: str, model: str) -> c.Locked | None:
        for replica in self.replica_of[model]:
            if self.free[replica] > 0:
                self.free[replica] -= 1
                self.acquired += 1
                node = f"node-of-{replica}"
                lock = c.Locked(request=request, replica=replica, node=node, model=model, address=f"{replica}:1")
                self.locks[request] = lock
                return lock
        return None

    def _end(self, request: str, outcome: str) -> c.AnyReply:
        if request in self.waiting:
            del self.waiting[request]
        elif (lock := self.locks.pop(request, None)) is not None:
            self.free[lock.replica] += 1
            self.released += 1
            self._wake()
        else:
            return c.Rejected(code="not_found", message=f"No request {request}.")
        self.ended.append((request, outcome))
        return c.Done()

    def _wake(self) -> None:
        for request, (model, future) in deque(self.waiting.items()):
            if not self.hold and (lock := self._lock(request, model)) is not None:
                del self.waiting[request]
                future.set_result(lock)

    def _administer(self, command: c.Command) -> c.AnyReply:
        node = getattr(command, "node", None)
        if isinstance(command, c.RegisterNode):
            pools = [{"total": size, "used": 0} for size in command.pools]
            status = "healthy" if command.approve else "pending"
            shown = {"name": node, "status": status, "labels": dict(command.labels), "pools": pools}
            shown["unified"] = command.unified
            self.node_table[command.node] = {**shown, "max_replicas_per_model": command.max_replicas_per_model}
        elif node is not None and node not in self.node_table:
            return c.Rejected(code="not_found", message=f"No node named {node}.")
        elif isinstance(command, c.SetNodeLabels):
            merged = self.node_table[command.node]["labels"] | command.labels
            self.node_table[command.node]["labels"] = {key: value for key, value in merged.items() if value}
        elif isinstance(command, c.ApproveNode):
            self.node_table[command.node]["status"] = "healthy"
        elif isinstance(command, c.RemoveNode):
            del self.node_table[command.node]
        elif isinstance(command, c.DeclareModel):
            self.declared[command.model] = command
        elif isinstance(command, c.SetScheduling):
            spec = self.declared[command.model].spec
            self.declared[command.model] = c.DeclareModel(model=command.model, spec=spec, scheduling=command.scheduling)
        elif isinstance(command, c.EvictReplica):
            return c.Rejected(code="conflict", message="It is locked.", cure="Wait until it is idle.")
        elif isinstance(command, c.Freeze):
            self.frozen_now.add(command.what)
        elif isinstance(command, c.Thaw):
            self.frozen_now.discard(command.what)
        return c.Done()

    # --- QueryPort and LivenessPort ----------------------------------------------------------------------------------

    async def nodes(self) -> Sequence[View]:
        return list(self.node_table.values())

    async def node(self, name: str) -> View | None:
        return self.node_table.get(name)

    async def models(self) -> Sequence[View]:
        return [_model_view(model) for model in self.declared.values()]

    async def model(self, name: str) -> View | None:
        for model in self.declared.values():
            if name == model.model or name in model.aliases:
                return _model_view(model)
        return None

    async def replicas(self) -> Sequence[View]:
        return [
            {"id": replica, "model": model, "node": f"node-of-{replica}", "index": 0, "phase": "loaded", "in_flight": 0}
            for model, replicas in self.replica_of.items()
            for replica in replicas
        ]

    async def requests(self) -> Sequence[View]:
        return [{"id": request} for request in (*self.waiting, *self.locks)]

    async def request(self, request: str) -> View | None:
        return {"id": request} if request in self.waiting or request in self.locks else None

    async def is_taken(self, request: str) -> bool:
        if self.mute is not None:
            raise self.mute
        return request in self.past or any(sent.request_id == request for sent in self.sent)

    async def load_status(self, model: str) -> View | None:
        return self.loading.get(model)

    async def tenants(self) -> Sequence[View]:
        return []

    async def settings(self) -> Mapping[str, str]:
        names = Settings.__struct_fields__
        return {name: format_setting(name, getattr(self.settings_now, name)) for name in names}

    async def plan(self, change: Change) -> Report:
        return plan(Engine(), change, 0)

    async def frozen(self) -> Sequence[str]:
        return sorted(self.frozen_now)

    async def ready(self) -> Readiness:
        return self.readiness

    async def metrics(self) -> Sequence[Sample]:
        return [Sample("interlock_nodes", len(self.node_table), {"status": 'he"althy'}, help="Nodes.")]

    async def heard(self, node: str, boot: str) -> int | None:
        return 10_000_000 if node in self.node_table else None


def _model_view(model: c.DeclareModel) -> dict[str, Any]:
    scheduling = model.scheduling
    return {
        "name": model.model,
        "aliases": list(model.aliases),
        "backend": model.spec.backend,
        "node_selector": format_selector(scheduling.selector),
        "min_replicas": scheduling.min_replicas,
        "max_replicas": scheduling.max_replicas,
        "everywhere": scheduling.everywhere,
        "parallel": scheduling.parallel,
        "priority": scheduling.priority,
        "pinned": scheduling.pinned,
        "idle_unload": format_idle_unload(scheduling.idle_unload),
        "prefix_affinity": format_affinity(scheduling.prefix_affinity),
        "anti_affinity": scheduling.anti_affinity,
        "anti_affinity_hard": scheduling.anti_affinity_hard,
        "placement": scheduling.placement,
    }


class FakeBackends:
    """BackendPort that echoes. Per address: ``gone`` is not there, ``fails`` answers an error, before any byte;
    ``breaks`` raises after so many pieces; ``stalls`` waits for ``goes_on`` after so many pieces.
    ``only``: calls after so many raise."""

    def __init__(self) -> None:
        self.gone: set[str] = set()
        self.fails: dict[str, Exception] = {}
        self.breaks: dict[str, tuple[int, Exception]] = {}
        self.stalls: dict[str, int] = {}
        self.only: tuple[int, Exception] | None = None
        self.prompts: list[Generation] = []
        self.calls: list[str] = []
        self.stalled = asyncio.Event()
        self.left = asyncio.Event()
        self.goes_on = asyncio.Event()

    def _arrive(self, address: str, prompt: Generation) -> None:
        self.calls.append(address)
        if self.only is not None and len(self.calls) > self.only[0]:
            raise self.only[1]
        self.prompts.append(prompt)
        if address in self.gone:
            raise BackendGone(address, "connection refused")
        if address in self.fails:
            raise self.fails[address]

    async def _stall(self) -> None:
        self.stalled.set()
        try:
            await self.goes_on.wait()
        finally:
            self.left.set()

    async def predict(self, address: str, model: str, wanted: Generation, *, replica: str = "") -> Piece:
        self._arrive(address, wanted)
        if address in self.stalls:
            await self._stall()
        words = _text(wanted).split()
        return Piece(f"{model}: {_text(wanted)}", len(words), len(words))

    async def predict_stream(
        self, address: str, model: str, wanted: Generation, *, replica: str = ""
    ) -> AsyncIterator[Piece]:
        self._arrive(address, wanted)
        words = _text(wanted).split()
        for place, word in enumerate(words):
            broken = self.breaks.get(address)
            if broken is not None and place == broken[0]:
                raise broken[1]
            if self.stalls.get(address) == place:
                await self._stall()
            await asyncio.sleep(0)
            yield Piece(f"{word} ", place + 1, len(words))

    async def embedding(self, address: str, model: str, text: str, *, replica: str = "") -> Vector:
        self._arrive(address, Generation(prompt=text))
        return Vector((float(len(text)), 0.5, -1.25), 1)


def _text(wanted: Generation) -> str:
    return wanted.messages[-1].content if wanted.messages else wanted.prompt


class FakeAudit:
    """AuditPort that says what it was asked."""

    async def log(self, filters: Mapping[str, str]) -> View:
        return {"rows": [], "asked": dict(filters)}

    async def why(self, subject: str, *, full: bool = False) -> View:
        if subject == "nobody":
            raise NotFound("request", subject)
        return {"subject": subject, "full": full}

    async def state(self, at: str) -> View:
        return {"at": at}

    async def diff(self, start: str, end: str) -> View:
        return {"from": start, "to": end}

    async def verify(self) -> View:
        raise InterlockError("position 7 does not hold.")


class FakeEvents:
    """EventsPort with a list of events; ``endless`` waits for more after them. ``closed``: a feed has ended."""

    def __init__(self, *rows: EventRow) -> None:
        self.rows = rows
        self.endless = False
        self.closed = asyncio.Event()

    async def follow(self, after: int | None) -> AsyncIterator[EventRow]:
        try:
            for row in self.rows:
                if row.position > (after or 0):
                    yield row
            if self.endless:
                await asyncio.Event().wait()
        finally:
            self.closed.set()
