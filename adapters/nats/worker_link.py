"""The control plane's side of the workers: effects out over NATS and gRPC, reports back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from interlock.adapters.grpc.client import BackendClient
from interlock.domain import commands as c
from interlock.domain import effects as e
from interlock.domain.errors import BackendFailed, BackendGone, Fenced, InvariantBroken, Unavailable, WorkerUnavailable
from interlock.domain.ports import RunningReport

from . import messages as wire
from . import subjects
from .connection import settle

log = logging.getLogger(__name__)

_KEPT_OPERATIONS = 4096
_LOST_AFTER_POLLS = 3

Report = Callable[[c.Command], Awaitable[object]]
Answer = TypeVar("Answer", bound=wire.Answer)


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """How long each order may take, in seconds. Behind them stand the core's own deadlines, which are shorter."""

    ask_s: float = 5.0
    install_s: float = 120.0
    stage_s: float = 14_400.0
    load_s: float = 14_400.0
    stop_s: float = 60.0
    poll_s: float = 1.0
    """Between two looks at a load in progress."""
    progress_s: float = 5.0
    """Progress of one operation is reported at most this often."""


class NatsWorkers:
    """The worker port over NATS and gRPC.

    ``report`` hears of progress, and of processes that ended by themselves, between :meth:`start` and :meth:`close`.
    """

    def __init__(
        self,
        client: Client,
        backends: BackendClient,
        report: Report | None = None,
        *,
        timeouts: Timeouts | None = None,
    ) -> None:
        self._client = client
        self._backends = backends
        self._report = report
        self._timeouts = timeouts or Timeouts()
        self._subscriptions: list[Subscription] = []
        self._told: OrderedDict[str, tuple[float, int]] = OrderedDict()
        """When progress of an operation was last reported, and how far it was."""

    async def start(self) -> None:
        """Listen for progress and deaths."""
        for subject in subjects.ALL_PROGRESS:
            self._subscriptions.append(await self._client.subscribe(subject, cb=self._on_progress))
        self._subscriptions.append(await self._client.subscribe(subjects.ALL_DEATHS, cb=self._on_death))
        with contextlib.suppress(nats.errors.Error, OSError):  # they follow with the connection
            await settle(self._client)

    async def close(self) -> None:
        """Listen no more. Connection and backend client belong to whoever made them."""
        for subscription in self._subscriptions:
            with contextlib.suppress(nats.errors.Error, OSError):
                await subscription.unsubscribe()
        self._subscriptions.clear()

    async def perform(self, effect: e.Effect, epoch: int) -> Sequence[c.Command]:
        """Carry out one effect; see :class:`~interlock.domain.ports.WorkerPort`.

        Raises WorkerUnavailable when nothing is known of the outcome, and
        :class:`~interlock.domain.errors.Fenced` when the worker has seen a newer epoch.
        """
        match effect:
            case e.InstallBackend():
                return await self._install(effect, epoch)
            case e.StageModel():
                return await self._stage(effect, epoch)
            case e.LoadModel():
                return await self._load(effect, epoch)
            case e.UnloadModel():
                order = wire.Unload(
                    node=effect.node,
                    boot=effect.boot,
                    epoch=epoch,
                    op_id=effect.op,
                    model_name=effect.model,
                    replica=effect.replica,
                    stop=True,
                )
                self._confirmed(await self._order(subjects.UNLOAD, order, wire.Answer, self._timeouts.stop_s), effect)
                return [c.ReportUnloaded(replica=effect.replica, op=effect.op)]
            case e.StopStray():
                stop = wire.Stop(
                    node=effect.node, boot=effect.boot, epoch=epoch, op_id=effect.op, backend=effect.process
                )
                self._confirmed(await self._order(subjects.STOP, stop, wire.StopAnswer, self._timeouts.stop_s), effect)
                return [c.ReportStrayStopped(node=effect.node, process=effect.process)]
        raise InvariantBroken(f"no worker can do {type(effect).__name__}")

    async def running(self, node: str) -> RunningReport:
        """What the worker runs now; raises WorkerUnavailable."""
        answer = await self._order(subjects.RUNNING, wire.Order(node=node), wire.RunningAnswer, self._timeouts.ask_s)
        return RunningReport(
            node=node,
            boot=answer.boot,
            running=tuple(
                c.Running(
                    process=model.process or f"{model.model_id}#{model.replica_index}",
                    replica=model.replica,
                    model=model.model_id,
                    index=model.replica_index,
                    address=model.address,
                )
                for model in answer.models
            ),
        )

    # --- One effect each ----------------------------------------------------------------------------------------------

    async def _install(self, effect: e.InstallBackend, epoch: int) -> Sequence[c.Command]:
        order = wire.Install(
            node=effect.node,
            boot=effect.boot,
            epoch=epoch,
            op_id=effect.op,
            backend=effect.spec.backend,
            model_id=effect.model,
            replica_index=effect.index,
            replica=effect.replica,
            pools=effect.pools,
        )
        answer = await self._order(subjects.INSTALL, order, wire.InstallAnswer, self._timeouts.install_s)
        if not answer.success:
            return _failed(effect, answer.error)
        if answer.model_id and (answer.model_id, answer.replica_index) != (effect.model, effect.index):
            return _failed(effect, f"the worker answered for {answer.model_id}#{answer.replica_index}")
        return [c.ReportInstalled(replica=effect.replica, op=effect.op, address=answer.address)]

    async def _stage(self, effect: e.StageModel, epoch: int) -> Sequence[c.Command]:
        order = wire.Stage(
            node=effect.node,
            boot=effect.boot,
            epoch=epoch,
            op_id=effect.op,
            model_id=effect.model,
            replica=effect.replica,
            backend=effect.spec.backend,
            options=effect.spec.options,
            disk=effect.spec.disk,
            drops=effect.drops,
        )
        began_at = time.monotonic()
        answer = await self._order(subjects.STAGE, order, wire.StageAnswer, self._timeouts.stage_s)
        if not answer.success:
            return _failed(effect, answer.error)
        took = 0 if answer.found else _since(began_at)
        return [c.ReportStaged(replica=effect.replica, op=effect.op, took=took)]

    async def _load(self, effect: e.LoadModel, epoch: int) -> Sequence[c.Command]:
        address = effect.address or await self._address(effect)
        if not address:
            return _failed(effect, "no process runs for this replica")
        began_at = time.monotonic()
        load = asyncio.create_task(
            self._backends.load(
                address,
                effect.model,
                effect.spec,
                replica=effect.replica,
                epoch=epoch,
                timeout_s=self._timeouts.load_s,
            )
        )
        watch = asyncio.create_task(self._watch_load(effect, address))
        try:
            await asyncio.wait([load, watch], return_when=asyncio.FIRST_COMPLETED)
            if not load.done():
                raise WorkerUnavailable(f"node {effect.node} went silent while it loaded {effect.model}.")
            load.result()
        except BackendGone as error:
            return await self._judge_gone(effect, address, error)
        except BackendFailed as error:
            return _failed(effect, error.message)
        finally:
            load.cancel()
            watch.cancel()
            await asyncio.gather(load, watch, return_exceptions=True)
        return [c.ReportLoaded(replica=effect.replica, op=effect.op, took=_since(began_at))]

    async def _watch_load(self, effect: e.LoadModel, address: str) -> None:
        """Report what has come into memory. Returns only when backend and worker are both silent: busy is not dead."""
        silent = 0
        while silent < _LOST_AFTER_POLLS:
            await asyncio.sleep(self._timeouts.poll_s)
            try:
                status = await self._backends.status(address, model=effect.model, replica=effect.replica)
                silent = 0
                await self._progress(effect.replica, effect.op, status.memory, effect.spec.vram)
            except (Unavailable, BackendFailed):
                try:
                    await self.running(effect.node)
                    silent = 0
                except WorkerUnavailable:
                    silent += 1

    async def _judge_gone(self, effect: e.LoadModel, address: str, error: BackendGone) -> Sequence[c.Command]:
        """Nothing answered at the address: ask the worker whether the process is gone, or merely out of reach."""
        report = await self.running(effect.node)
        still = any(running.replica == effect.replica and running.address == address for running in report.running)
        if still:
            raise WorkerUnavailable(f"{error} Its worker says that it runs.")
        return _failed(effect, f"the backend process is gone: {error.detail}")

    async def _address(self, effect: e.LoadModel) -> str:
        report = await self.running(effect.node)
        found = (running.address for running in report.running if running.replica == effect.replica)
        return next(found, "")

    # --- Plumbing -----------------------------------------------------------------------------------------------------

    async def _order(self, verb: str, order: wire.Order, kind: type[Answer], timeout_s: float) -> Answer:
        try:
            message = await self._client.request(
                subjects.order(order.node, verb), msgspec.json.encode(order), timeout=timeout_s
            )
            answer = msgspec.json.decode(message.data, type=kind)
        except nats.errors.NoRespondersError:
            raise WorkerUnavailable(f"no worker listens for node {order.node}.") from None
        except (nats.errors.Error, TimeoutError, OSError) as error:
            words = str(error) or type(error).__name__
            raise WorkerUnavailable(f"node {order.node} did not answer {verb}: {words}") from None
        except msgspec.DecodeError as error:
            raise WorkerUnavailable(f"node {order.node} answered {verb} with no sense: {error}") from None
        if answer.code == wire.FENCED:
            raise Fenced(f"node {order.node} refused {verb}: {answer.error}")
        return answer

    @staticmethod
    def _confirmed(answer: wire.Answer, effect: e.Effect) -> None:
        """An unload or stop that failed leaves the process where it was: nothing may be concluded."""
        if not answer.success:
            raise WorkerUnavailable(f"node {effect.node} could not do {effect.name}: {answer.error}")

    async def _on_progress(self, message: Msg) -> None:
        try:
            progress = msgspec.json.decode(message.data, type=wire.Progress)
        except msgspec.DecodeError as error:
            log.debug("progress that does not parse: %s", error)
            return
        if progress.replica:
            await self._progress(progress.replica, progress.op_id, progress.done_bytes, progress.total_bytes)

    async def _on_death(self, message: Msg) -> None:
        try:
            died = msgspec.json.decode(message.data, type=wire.Died)
        except msgspec.DecodeError as error:
            log.debug("a death that does not parse: %s", error)
            return
        if died.replica:
            await self._tell(c.ReportReplicaDied(replica=died.replica, reason=died.reason))

    async def _progress(self, replica: str, op: str, done: int, total: int) -> None:
        """Report that bytes have moved; not too often, and not when none have."""
        told_at, before = self._told.get(op, (float("-inf"), 0))
        if done <= before or time.monotonic() - told_at < self._timeouts.progress_s:
            return
        self._told[op] = (time.monotonic(), done)
        while len(self._told) > _KEPT_OPERATIONS:
            self._told.popitem(last=False)
        await self._tell(c.ReportProgress(replica=replica, op=op, done=done, total=total))

    async def _tell(self, command: c.Command) -> None:
        if self._report is None:
            return
        try:
            await self._report(command)
        except Unavailable as error:
            # Neither is lost for good: bytes move again, and a heartbeat tells of the death too.
            log.warning("%s could not be reported: %s", type(command).__name__, error)


def _since(began_at: float) -> int:
    """Whole microseconds since an instant of the monotonic clock."""
    return max(1, round((time.monotonic() - began_at) * 1_000_000))


def _failed(effect: e.ReplicaEffect, reason: str) -> Sequence[c.Command]:
    return [c.ReportLoadFailed(replica=effect.replica, op=effect.op, reason=reason or "the worker gave no reason")]
