"""What operators do in a scenario, as commands; merged with how things stand when the moment comes."""

from __future__ import annotations

from collections import deque

from msgspec.structs import replace

from interlock.domain.commands import (
    AnyReply,
    ApproveNode,
    ChangeSettings,
    Command,
    DeclareModel,
    DrainNode,
    Envelope,
    Freeze,
    Rejected,
    RemoveModel,
    RemoveNode,
    ResumeNode,
    SetNodeBudget,
    SetNodeLabels,
    SetReplicaSlots,
    SetScheduling,
    SetTenantLimits,
    StoreLoadInfo,
    Thaw,
)
from interlock.domain.entities import Model
from interlock.domain.errors import InterlockError, NotFound

from .clock import START, Clock
from .cluster import VirtualCluster
from .reading.fields import Distribution
from .reading.scenario import AdminSpec, ModelSpec
from .writer import Writer


class Operators:
    """Carries out the scenario's admin steps. ``rejected`` lists those that the core would not take, and why."""

    def __init__(self, clock: Clock, writer: Writer, cluster: VirtualCluster, models: dict[str, ModelSpec]) -> None:
        self.clock = clock
        self.writer = writer
        self.cluster = cluster
        self.models = models
        self.services: dict[str, Distribution] = {name: model.service_time for name, model in models.items()}
        self.prefills = {name: (model.prefill_time, model.prefix_cache) for name, model in models.items()}
        self.history: list[tuple[int, str, str]] = []
        self.rejected: list[str] = []
        self._steps = 0
        self._waiting: deque[AdminSpec] = deque()
        """Steps whose moment has come, and that are not sent yet."""
        self._asked = 0
        """Steps about a model that have not been answered."""

    def agree(self, spec: AdminSpec) -> None:
        """Have the step taken at its moment."""
        self.clock.at(START + spec.at, self._do, spec)

    def _do(self, spec: AdminSpec) -> None:
        self.history.append((self.clock.elapsed, spec.action, spec.node or spec.model or spec.tenant))
        node = self.cluster.nodes.get(spec.node)
        is_off = node is not None and not node.worker.up and not node.trouble.down
        if node is not None and is_off and spec.action in ("approve", "resume"):
            # A machine that was off joins now; the operator's word follows its registration.
            self.cluster.start(node)
            self.clock.after(1, self._send, spec)
            return
        self._send(spec)

    def _send(self, spec: AdminSpec) -> None:
        self._waiting.append(spec)
        self._go_on()

    def took_over(self) -> None:
        """Somebody leads again: what waits for that goes on, after what was sent before it."""
        if self._waiting:
            self.clock.after(0, self._go_on)

    def _go_on(self) -> None:
        """Send the steps in their order.

        One about a model is made of how the model stands when those before it have been answered, and somebody leads.
        """
        while self._waiting:
            spec = self._waiting[0]
            if spec.model and (self._asked or not self.writer.leading):
                return
            self._waiting.popleft()
            try:
                command = self._command(spec)
            except InterlockError as error:
                self.rejected.append(f"{spec.action} {spec.node or spec.model}: {error.message}")
                continue
            self._submit(spec, command)

    def _submit(self, spec: AdminSpec, command: Command) -> None:
        self._steps += 1
        self._asked += bool(spec.model)

        def told(reply: AnyReply) -> None:
            self._asked -= bool(spec.model)
            if isinstance(reply, Rejected):
                self.rejected.append(f"{spec.action} {spec.node or spec.model}: {reply.message}")
            elif spec.action == "remove-node":
                self.cluster.remove(self.cluster.nodes[spec.node])
            self._go_on()

        self.writer.submit(Envelope(command_id=f"admin-{self._steps}", command=command, actor="operator"), told)

    def _command(self, spec: AdminSpec) -> Command:
        if spec.node:
            return _node_command(spec)
        if spec.model:
            return self._model_command(spec)
        if spec.tenant:
            return SetTenantLimits(tenant=spec.tenant, limits=spec.values["limits"])
        if spec.action == "set":
            return ChangeSettings(values=spec.values["settings"])
        return Freeze(what=spec.values["what"]) if spec.action == "freeze" else Thaw(what=spec.values["what"])

    def _model_command(self, spec: AdminSpec) -> Command:
        known = self.writer.engine.state.find_model(spec.model)
        if spec.action == "declare-model":
            return self._declare(spec.values["edit"](None))
        if known is None:
            raise NotFound("model", spec.model)
        if spec.action == "edit-model":
            edited: ModelSpec = spec.values["edit"](self._as_it_stands(known))
            return self._declare(replace(edited, name=known.name))  # the step may call it by an alias
        if spec.action == "set-scheduling":
            return SetScheduling(model=spec.model, scheduling=spec.values["merge"](known.scheduling))
        if spec.action == "load-info":
            return StoreLoadInfo(model=spec.model, spec=spec.values["spec"])
        return RemoveModel(model=spec.model)

    def _declare(self, wanted: ModelSpec) -> DeclareModel:
        self.services[wanted.name] = wanted.service_time
        self.prefills[wanted.name] = (wanted.prefill_time, wanted.prefix_cache)
        return DeclareModel(model=wanted.name, spec=wanted.spec, scheduling=wanted.scheduling, aliases=wanted.aliases)

    def _as_it_stands(self, model: Model) -> ModelSpec:
        per_block, room = self.prefills.get(model.name, (0, 0))
        return ModelSpec(
            name=model.name, spec=model.declared_spec, scheduling=model.scheduling, aliases=model.aliases,
            service_time=self.services.get(model.name, ModelSpec(name="").service_time), prefill_time=per_block,
            prefix_cache=room,
        )  # fmt: skip


def _node_command(spec: AdminSpec) -> Command:
    node = spec.node
    if spec.action == "set-labels":
        return SetNodeLabels(node=node, labels=spec.values["labels"])
    if spec.action == "set-budget":
        return SetNodeBudget(node=node, budget=spec.values["budget"])
    if spec.action == "set-max-replicas":
        return SetReplicaSlots(node=node, max_replicas_per_model=spec.values["slots"])
    if spec.action == "drain":
        return DrainNode(node=node, within=spec.values["within"])
    plain = {"resume": ResumeNode, "approve": ApproveNode, "remove-node": RemoveNode}
    return plain[spec.action](node=node)
