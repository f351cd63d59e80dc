"""The real core behind the gateway: the engine in memory, with workers that answer every effect at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from interlock.adapters.http.ports import Readiness, Sample, View
from interlock.domain import commands as c
from interlock.domain import effects as fx
from interlock.domain import views
from interlock.domain.answers import done
from interlock.domain.engine import Engine, Outcome
from interlock.domain.planning import Change, Report, plan
from interlock.domain.ports import Renewal
from interlock.domain.recording import Recorded
from interlock.domain.settings import Settings, format_setting


class CoreScheduler:
    """CommandPort, QueryPort and LivenessPort over one engine.

    Workers answer effects on ``failing`` models with a failed load, and those on ``deaf`` ones never.
    """

    def __init__(self) -> None:
        self.engine = Engine()
        self.ends: dict[str, asyncio.Future[c.AnyReply]] = {}
        self.failing: set[str] = set()
        self.deaf: set[str] = set()
        self.events: list[str] = []
        self.log: list[Recorded] = []
        self._serial = 0
        self.changed = asyncio.Event()

    def handle(self, envelope: c.Envelope) -> c.AnyReply:
        """Decide, let the workers answer, and tell those who waited."""
        return self._spread(self.engine.handle(envelope, time.time_ns() // 1000))

    def tick(self) -> None:
        """Handle the timers that are due."""
        self._spread(self.engine.tick(time.time_ns() // 1000))

    def _spread(self, outcome: Outcome) -> c.AnyReply:
        self.events += [type(event).__name__ for event in outcome.events]
        self.log += outcome.recorded
        for request, reply in outcome.answers.items():
            end = self.ends.get(request)
            if end is not None and not end.done() and not isinstance(reply, c.Waiting):
                end.set_result(reply)
        for effect in outcome.effects:
            for command in self._answer(effect):
                self._serial += 1
                self.handle(c.Envelope(command_id=f"worker-{self._serial}", command=command))
        self.changed.set()
        return outcome.reply

    def _answer(self, effect: fx.Effect) -> list[c.Command]:
        if isinstance(effect, fx.ReplicaEffect) and effect.model in self.deaf:
            return []
        if isinstance(effect, fx.LoadModel) and effect.model in self.failing:
            return [c.ReportLoadFailed(replica=effect.replica, op=effect.op, reason="the weights are torn")]
        replica = effect.replica if isinstance(effect, fx.ReplicaEffect) else ""
        return [done(effect, f"{replica}:1")]

    async def until_idle(self) -> None:
        """Wait until no request is left in the core."""
        async with asyncio.timeout(10):
            while self.engine.state.requests:
                self.changed.clear()
                await self.changed.wait()

    async def send(self, envelope: c.Envelope) -> c.AnyReply:
        """See CommandPort."""
        await asyncio.sleep(0)
        return self.handle(envelope)

    async def acquire(self, envelope: c.Envelope) -> c.Locked | c.Rejected:
        """See CommandPort."""
        end = self.ends[envelope.request_id] = asyncio.get_running_loop().create_future()
        reply = await self.send(envelope)
        if isinstance(reply, c.Waiting):
            reply = await end
        assert isinstance(reply, c.Locked | c.Rejected)
        return reply

    async def renew_lease(self, holder: str) -> Renewal:
        """See CommandPort."""
        return Renewal(self.engine.state.settings.holder_lease)

    async def heard(self, node: str, boot: str) -> int | None:
        """See LivenessPort."""
        return self.engine.state.settings.heartbeat_interval if node in self.engine.state.nodes else None

    async def nodes(self) -> Sequence[View]:
        """See QueryPort."""
        state = self.engine.state
        return [views.node_view(state, node) for node in state.nodes.values()]

    async def node(self, name: str) -> View | None:
        """See QueryPort."""
        node = self.engine.state.nodes.get(name)
        return views.node_view(self.engine.state, node) if node else None

    async def models(self) -> Sequence[View]:
        """See QueryPort."""
        state = self.engine.state
        return [views.model_view(state, model) for model in state.models.values()]

    async def model(self, name: str) -> View | None:
        """See QueryPort."""
        model = self.engine.state.find_model(name)
        return views.model_view(self.engine.state, model) if model else None

    async def replicas(self) -> Sequence[View]:
        """See QueryPort."""
        state = self.engine.state
        return [views.replica_view(state, replica, 0) for replica in state.replicas.values()]

    async def requests(self) -> Sequence[View]:
        """See QueryPort."""
        state = self.engine.state
        return [views.request_view(state, request) for request in state.requests.values()]

    async def request(self, request: str) -> View | None:
        """See QueryPort."""
        known = self.engine.state.requests.get(request)
        return views.request_view(self.engine.state, known) if known else None

    async def is_taken(self, request: str) -> bool:
        """See QueryPort."""
        return any(row.request_id == request for row in self.log)

    async def load_status(self, model: str) -> View | None:
        """See QueryPort."""
        return views.load_status_view(self.engine.state, model)

    async def tenants(self) -> Sequence[View]:
        """See QueryPort."""
        return views.tenant_views(self.engine.state, self.engine.ledger.time)

    async def settings(self) -> Mapping[str, str]:
        """See QueryPort."""
        settings = self.engine.state.settings
        return {name: format_setting(name, getattr(settings, name)) for name in Settings.__struct_fields__}

    async def plan(self, change: Change) -> Report:
        """See QueryPort."""
        return plan(self.engine, change, time.time_ns() // 1000)

    async def frozen(self) -> Sequence[str]:
        """See QueryPort."""
        return sorted(self.engine.state.frozen)

    async def ready(self) -> Readiness:
        """See QueryPort."""
        return Readiness(True)

    async def metrics(self) -> Sequence[Sample]:
        """See QueryPort."""
        return []
