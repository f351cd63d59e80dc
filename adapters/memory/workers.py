"""The worker port in memory: what NATS, workers and backends do together, without any of them.

It keeps the same contract (``tests/workers/test_contract.py`` runs on both). It answers at once, or after the delays
that it is given, on a clock that the test moves; and it fails, dies and falls silent as it is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from interlock.domain import commands as c
from interlock.domain import effects as e
from interlock.domain.answers import done
from interlock.domain.errors import Fenced, InvariantBroken, WorkerUnavailable
from interlock.domain.ports import RunningReport

from .clock import ManualClock

Report = Callable[[c.Command], Awaitable[object]]


class _Process:
    def __init__(self, running: c.Running) -> None:
        self.running = running
        self.loaded = False


class _Node:
    def __init__(self, name: str, run: str) -> None:
        self.name = name
        self.run = run
        self.boots = 1
        self.epoch = 0
        self.silent = False
        self.processes: dict[str, _Process] = {}
        self.gone: set[str] = set()
        self.operations: dict[str, asyncio.Future[Sequence[c.Command]]] = {}

    @property
    def boot(self) -> str:
        return f"b-{self.name}-{self.boots}{self.run}"


class _Failure:
    def __init__(self, effect: str, reason: str, model: str, times: int) -> None:
        self.effect = effect
        self.reason = reason
        self.model = model
        self.times = times


class InMemoryWorkers:
    """The worker port's twin. ``delay`` gives an effect's time in microseconds, spent on ``clock``.

    ``run`` tells the boots of one program's nodes from those of another's.

    The effects that reached a node are in ``performed``, repeats included. A model whose options say ``fail = "load"``
    fails to load, in the words of its option ``message``, as the echo backend does.
    """

    def __init__(
        self,
        nodes: Sequence[str] = (),
        report: Report | None = None,
        *,
        backends: Sequence[str] = ("echo", "embeddings"),
        clock: ManualClock | None = None,
        delay: Callable[[e.Effect], int] = lambda effect: 0,
        run: str = "",
    ) -> None:
        self._run = run
        self.performed: list[e.Effect] = []
        self._report = report
        self._backends = tuple(backends)
        self._clock = clock or ManualClock()
        self._delay = delay
        self._nodes: dict[str, _Node] = {}
        self._failures: list[_Failure] = []
        self._made = 0
        for name in nodes:
            self.add_node(name)

    # --- What a test does to it ---------------------------------------------------------------------------------------

    def add_node(self, name: str) -> None:
        """A worker of that name starts."""
        self._nodes[name] = _Node(name, self._run)

    def fail(self, effect: str, reason: str, *, model: str = "", times: int = 1) -> None:
        """The next ``times`` effects of that name (``model.load``), on that model if given, fail for that reason."""
        self._failures.append(_Failure(effect, reason, model, times))

    def silence(self, name: str) -> None:
        """Nothing passes to and from the node; its processes run on."""
        self._nodes[name].silent = True

    def heal(self, name: str) -> None:
        """The node can be reached again."""
        self._nodes[name].silent = False

    def restart(self, name: str) -> None:
        """The worker dies with all its processes and comes back under a new boot. The highest epoch it keeps."""
        node = self._nodes[name]
        node.boots += 1
        node.silent = False
        node.processes.clear()
        node.operations.clear()

    async def kill(self, replica: str) -> None:
        """The replica's process dies by itself, and its worker tells of it."""
        for node in self._nodes.values():
            if node.processes.pop(replica, None) is not None and self._report is not None and not node.silent:
                reason = "the backend process ended by itself: killed by SIGKILL"
                await self._report(c.ReportReplicaDied(replica=replica, reason=reason))

    # --- The port -----------------------------------------------------------------------------------------------------

    async def perform(self, effect: e.Effect, epoch: int) -> Sequence[c.Command]:
        """Carry out one effect; see :class:`~interlock.domain.ports.WorkerPort`."""
        node = self._reach(effect.node)
        self.performed.append(effect)
        if epoch < node.epoch:
            raise Fenced(
                f"node {node.name} refused {effect.name}: epoch {epoch} has passed: {node.epoch} was seen here"
            )
        node.epoch = epoch
        known = node.operations.get(effect.op)
        if known is None:
            known = node.operations[effect.op] = asyncio.ensure_future(self._work(node, effect))
        answer = await asyncio.shield(known)
        self._reach(effect.node)
        if isinstance(answer[0], c.ReportInstalled) and answer[0].replica not in node.processes:
            return [c.ReportLoadFailed(replica=answer[0].replica, op=effect.op, reason="the process has ended since")]
        return answer

    async def running(self, node: str) -> RunningReport:
        """What the worker runs now."""
        reached = self._reach(node)
        return RunningReport(
            node=node, boot=reached.boot, running=tuple(process.running for process in reached.processes.values())
        )

    def _reach(self, name: str) -> _Node:
        node = self._nodes.get(name)
        if node is None or node.silent:
            raise WorkerUnavailable(f"no worker listens for node {name}.")
        return node

    async def _work(self, node: _Node, effect: e.Effect) -> Sequence[c.Command]:
        boot = node.boot
        if effect.boot not in ("", boot):
            raise WorkerUnavailable(f"node {node.name} is another worker than {effect.boot}.")
        await self._clock.sleep(self._delay(effect))
        if node.boot != boot:
            raise WorkerUnavailable(f"node {node.name} was started anew.")
        if isinstance(effect, e.ReplicaEffect) and (reason := self._failure(effect)):
            return _failed(effect, reason)
        match effect:
            case e.InstallBackend():
                return self._install(node, effect)
            case e.StageModel():
                return [done(effect)]
            case e.LoadModel():
                return self._load(node, effect)
            case e.UnloadModel():
                node.gone.add(effect.replica)
                node.processes.pop(effect.replica, None)
                return [done(effect)]
            case e.StopStray():
                for replica, process in list(node.processes.items()):
                    if process.running.process == effect.process:
                        del node.processes[replica]
                return [done(effect)]
        raise InvariantBroken(f"no worker can do {type(effect).__name__}")

    def _install(self, node: _Node, effect: e.InstallBackend) -> Sequence[c.Command]:
        if not effect.spec.backend:
            return _failed(effect, "backend and model_id are needed")
        if effect.spec.backend not in self._backends:
            return _failed(effect, f"no backend named {effect.spec.backend!r} is installed here")
        if effect.replica in node.gone:
            return _failed(effect, f"replica {effect.replica} was unloaded here already")
        process = node.processes.get(effect.replica)
        if process is None:
            self._made += 1
            running = c.Running(
                process=f"p-{node.boots}-{self._made}",
                replica=effect.replica,
                model=effect.model,
                index=effect.index,
                address=f"{node.name}:{50_000 + self._made}",
            )
            process = node.processes[effect.replica] = _Process(running)
        return [done(effect, process.running.address)]

    def _load(self, node: _Node, effect: e.LoadModel) -> Sequence[c.Command]:
        process = node.processes.get(effect.replica)
        if process is None or effect.address not in ("", process.running.address):
            return _failed(effect, "the backend process is gone: nothing listens there")
        if effect.spec.options.get("fail") == "load":
            return _failed(effect, str(effect.spec.options.get("message", "told to fail")))
        process.loaded = True
        return [done(effect)]

    def _failure(self, effect: e.ReplicaEffect) -> str:
        """Why this effect fails, as a test has asked; empty when it does not. An unload cannot fail."""
        for failure in self._failures:
            if failure.effect == effect.name and failure.model in ("", effect.model) and failure.times > 0:
                failure.times -= 1
                return failure.reason
        return ""


def _failed(effect: e.ReplicaEffect, reason: str) -> Sequence[c.Command]:
    return [c.ReportLoadFailed(replica=effect.replica, op=effect.op, reason=reason)]
