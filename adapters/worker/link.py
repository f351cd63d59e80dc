"""Orders over NATS: each subject of this node and what answers it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from interlock.adapters.nats import connection, subjects
from interlock.adapters.nats import messages as wire
from interlock.domain.errors import Fenced, InterlockError

from .process import BackendProcess
from .supervisor import Supervisor

log = logging.getLogger(__name__)

Handler = Callable[[Any], Awaitable[wire.Answer]]


_FREES = (subjects.UNLOAD, subjects.STOP, subjects.MODEL_STOP)


class WorkerLink:
    """Takes this node's orders from NATS and answers them, each in a task of its own: a long one holds up none.

    Orders go by the node's name. Until the control plane has :meth:`accept`-ed this worker under it they are kept: the
    first may come before the answer to the registration, and they may be meant for another worker of that name.
    ``on_freed`` is called when a process that was to end has ended, and that has been answered.
    """

    def __init__(
        self, client: Client, supervisor: Supervisor, node: str, on_freed: Callable[[], None] | None = None
    ) -> None:
        self._client = client
        self._on_freed = on_freed
        self._supervisor = supervisor
        self._node = node
        self._subscriptions: list[Subscription] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._ids: set[str] = set()
        self._accepted = asyncio.Event()
        self._refusals = 0
        self._handlers: dict[str, tuple[type[wire.Order], Handler]] = {
            subjects.INSTALL: (wire.Install, supervisor.install),
            subjects.UPGRADE: (wire.BackendOrder, supervisor.stop_backend),
            subjects.LIST: (wire.Order, self._list),
            subjects.STOP: (wire.Stop, supervisor.stop),
            subjects.DELETE: (wire.BackendOrder, supervisor.stop_backend),
            subjects.STAGE: (wire.Stage, supervisor.stage),
            subjects.UNLOAD: (wire.Unload, supervisor.unload),
            subjects.MODEL_STOP: (wire.ModelStop, supervisor.stop_model),
            subjects.MODEL_DELETE: (wire.ModelDelete, supervisor.delete_model),
            subjects.RUNNING: (wire.Order, self._running),
        }

    async def subscribe(self, node_id: str) -> None:
        """Take the orders for ``node_id``: this node's name, or the id that a control plane has given it."""
        if subjects.token(node_id) in self._ids:
            return
        self._ids.add(subjects.token(node_id))
        for verb in self._handlers:
            self._subscriptions.append(
                await self._client.subscribe(subjects.order(node_id, verb), cb=self._taker(verb))
            )
        try:
            await connection.settle(self._client)
        except (nats.errors.Error, OSError) as error:
            log.warning("NATS: %s; the subscriptions follow with the connection", error)

    def accept(self) -> None:
        """The name is ours: carry out what was asked, and what will be."""
        self._accepted.set()

    async def refuse(self) -> None:
        """Another worker has the name: what was asked was asked of it."""
        self._refusals += 1
        self._accepted.clear()
        await self.unsubscribe()

    async def unsubscribe(self) -> None:
        """Take no more orders; those in progress go on."""
        for subscription in self._subscriptions:
            try:
                await subscription.unsubscribe()
            except (nats.errors.Error, OSError) as error:
                log.debug("NATS: %s", error)
        self._subscriptions.clear()
        self._ids.clear()

    async def close(self, *, grace_s: float = 1.0) -> None:
        """Wait a moment for the answers to orders in progress, then drop them."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace_s)
            for task in late:
                task.cancel()

    def tell(self, progress: wire.Progress) -> None:
        """Publish how far an operation is."""
        verb = subjects.INSTALL if progress.phase == "starting" else subjects.STAGE
        self._publish(subjects.progress(self._node, verb, progress.op_id), progress)

    def tell_death(self, process: BackendProcess) -> None:
        """Publish that a process has ended by itself."""
        died = wire.Died(
            node=self._node,
            boot=self._supervisor.boot,
            process=process.id,
            replica=process.wanted.replica,
            model=process.wanted.model,
            index=process.wanted.index,
            reason=f"the backend process ended by itself: {process.ended.result()}",
        )
        self._publish(subjects.died(self._node), died)

    def _taker(self, verb: str) -> Callable[[Msg], Awaitable[None]]:
        async def take(message: Msg) -> None:
            self._start(self._answer(verb, message))

        return take

    async def _answer(self, verb: str, message: Msg) -> None:
        kind, handler = self._handlers[verb]
        answer: wire.Answer
        refusals = self._refusals
        await self._accepted.wait()
        if refusals != self._refusals:
            return
        try:
            order = msgspec.json.decode(message.data or b"{}", type=kind)
            if order.node not in ("", self._node):
                return  # another node's name makes the same subject token
            if order.boot not in ("", self._supervisor.boot):
                log.warning("%s was meant for another worker of this name, %s", verb, order.boot)
                return
            answer = await handler(order)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            answer = wire.Answer(success=False, error=f"invalid request: {error}", code="invalid")
        except Fenced as error:
            answer = wire.Answer(success=False, error=str(error), code=wire.FENCED)
        except InterlockError as error:
            answer = wire.Answer(success=False, error=str(error))
        except Exception as error:
            # A defect must reach whoever waits for the answer, and must not end the worker.
            log.exception("%s failed", verb)
            answer = wire.Answer(success=False, error=f"{type(error).__name__}: {error}")
        if message.reply:
            try:
                await self._client.publish(message.reply, msgspec.json.encode(answer))
            except (nats.errors.Error, OSError) as error:
                log.warning("the answer to %s could not be sent: %s", verb, error)
        if verb in _FREES and self._on_freed is not None:
            self._on_freed()

    async def _list(self, order: wire.Order) -> wire.Answer:
        return self._supervisor.backends()

    async def _running(self, order: wire.Order) -> wire.Answer:
        return wire.RunningAnswer(
            boot=self._supervisor.boot,
            models=[
                wire.RunningModel(
                    model_id=running.model,
                    replica_index=running.index,
                    address=running.address,
                    process=running.process,
                    replica=running.replica,
                )
                for running in self._supervisor.running()
            ],
        )

    def _publish(self, subject: str, content: msgspec.Struct) -> None:
        async def publish() -> None:
            try:
                await self._client.publish(subject, msgspec.json.encode(content))
            except (nats.errors.Error, OSError) as error:
                log.debug("%s could not be sent: %s", subject, error)

        self._start(publish())

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
