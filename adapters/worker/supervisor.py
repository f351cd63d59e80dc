"""The supervisor: a worker's processes and jobs, whoever gives the orders.

Three rules make orders safe to repeat, to lose and to come late. One operation id is one operation: a repeat waits for
the same answer. An order from an older epoch than any seen, this boot or before, is refused. And a replica that was
unloaded once is never started again, however late its install arrives: replica ids are never used twice.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary

from interlock.adapters.backends import registry
from interlock.adapters.grpc.client import BackendClient
from interlock.adapters.nats import messages as wire
from interlock.domain.commands import Running
from interlock.domain.errors import BackendFailed, Conflict, Fenced, Unavailable

from . import hangs, staging
from .ports import Ports
from .process import BackendProcess, PortTaken, StartFailed, Wanted

log = logging.getLogger(__name__)

_KEPT_OPERATIONS = 4096
_KEPT_GONE = 16384
_KEPT_LOGS = 20
_PORT_TRIES = 5
_FREE_TIMEOUT_S = 2.0
_HEALTH_TIMEOUT_S = 2.0
_TELL_EVERY_S = 0.25

Answer = TypeVar("Answer", bound=wire.Answer)
Told = Callable[[wire.Progress], None]
Devices = Callable[[tuple[int, ...]], tuple[str, ...]]
OnDeath = Callable[[BackendProcess], Awaitable[None]]


class Copy:
    """A model's files on their way, and the orders that wait for them; ``stop`` is set when none is left."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.orders: list[wire.Stage] = []
        self.stop = threading.Event()
        self.moves = False
        """Whether a byte had to be brought here."""
        self.task: asyncio.Task[None]


class Supervisor:
    """Starts, stops and knows the processes of one worker. ``on_death`` hears of those that end by themselves.

    ``devices`` names the GPUs behind memory pools, so that a process sees those that it was given and no others.
    """

    def __init__(
        self,
        data: Path,
        ports: Ports,
        *,
        node: str,
        host: str,
        advertise: str = "",
        start_timeout_s: float = 60.0,
        stop_grace_s: float = 5.0,
        hang_limit_s: float = 600.0,
        tell: Told | None = None,
        on_death: OnDeath | None = None,
        devices: Devices | None = None,
    ) -> None:
        self.boot = f"b-{secrets.token_hex(8)}"
        self.models = data / "models"
        self._data = data
        self._ports = ports
        self._node = node
        self._host = host
        self._advertise = advertise or host
        self._start_timeout_s = start_timeout_s
        self._stop_grace_s = stop_grace_s
        self._hang_limit_s = hang_limit_s
        self._tell = tell or (lambda progress: None)
        self._on_death = on_death
        self._devices = devices or (lambda pools: ())
        self._processes: dict[str, BackendProcess] = {}
        self._operations: OrderedDict[str, asyncio.Task[wire.Answer]] = OrderedDict()
        self._jobs: dict[str, set[asyncio.Task[wire.Answer]]] = {}
        """Installs and stagings in progress by replica, so that an unload can end them."""
        self._copies: dict[str, Copy] = {}
        """By model what is being staged."""
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """One install at a time per replica, also under different operation ids. Kept while somebody holds one."""
        self._watches: set[asyncio.Task[None]] = set()
        self._client = BackendClient()
        self._started = 0
        self._closing = False
        self._epoch = self._read_epoch()

    # --- Orders -------------------------------------------------------------------------------------------------------

    async def install(self, order: wire.Install) -> wire.InstallAnswer:
        """Start a process for the replica, or find the one that it has."""
        self._check_epoch(order)
        if not order.backend or not order.model_id:
            return wire.InstallAnswer(success=False, error="backend and model_id are needed", code="invalid")
        answer = await self._once("install", order, self._name(order), lambda: self._install(order))
        if answer.success and not self._is_alive(answer.process):
            # The recorded answer of a process that has died since would send the caller to a closed port.
            return wire.InstallAnswer(success=False, error=f"process {answer.process} has ended since")
        return answer

    async def stage(self, order: wire.Stage) -> wire.StageAnswer:
        """Bring the model's files here; who wants files that are on their way waits for these."""
        self._check_epoch(order)
        return await self._once("stage", order, order.replica, lambda: self._stage(order))

    async def unload(self, order: wire.Unload) -> wire.Answer:
        """Free the model; with ``stop``, end its process and jobs too, and answer when all of it is gone."""
        self._check_epoch(order)
        return await self._once("unload", order, "", lambda: self._unload(order))

    async def stop(self, order: wire.Stop) -> wire.StopAnswer:
        """Stop processes by process id, process key, replica or backend."""
        self._check_epoch(order)
        return await self._once("stop", order, "", lambda: self._stop_named(order.backend, force=order.force))

    async def stop_backend(self, order: wire.BackendOrder) -> wire.StopAnswer:
        """Stop every process of a backend."""
        self._check_epoch(order)
        if order.backend not in registry.installed():
            return wire.StopAnswer(success=False, error=f"no backend named {order.backend!r} is installed here")
        return await self._once("backend", order, "", lambda: self._stop_named(order.backend, force=True))

    async def stop_model(self, order: wire.ModelStop) -> wire.ModelStopAnswer:
        """Stop exactly one process, if it is still at the address that the caller expects."""
        self._check_epoch(order)
        for process in self._alive():
            address = self.address(process)
            if order.process_key == process.wanted.key and order.expected_address in ("", address):
                freed = False if order.force else await self._free(process)
                await self._end(process)
                return wire.ModelStopAnswer(
                    matched=True, freed=freed, terminated=True, process_key=order.process_key, address=address
                )
        return wire.ModelStopAnswer(process_key=order.process_key)

    async def delete_model(self, order: wire.ModelDelete) -> wire.Answer:
        """Remove the model's staged files; refused while a process may be reading them."""
        self._check_epoch(order)
        if any(process.wanted.model == order.model_name for process in self._alive()):
            return wire.Answer(success=False, error=f"{order.model_name!r} is running here")
        await asyncio.to_thread(staging.remove, self.models, order.model_name)
        return wire.Answer()

    def backends(self) -> wire.ListAnswer:
        """The backends that are installed."""
        return wire.ListAnswer(
            backends=[
                wire.BackendInfo(name=name, version=entry.dist.version if entry.dist else "")
                for name, entry in registry.installed().items()
            ]
        )

    # --- What runs ----------------------------------------------------------------------------------------------------

    def running(self) -> tuple[Running, ...]:
        """Every process that is alive, those being started or stopped included: they hold memory."""
        return tuple(
            Running(
                process=process.id,
                replica=process.wanted.replica,
                model=process.wanted.model,
                index=process.wanted.index,
                address=self.address(process) if process.ready else "",
            )
            for process in self._alive()
        )

    def pids(self) -> tuple[int, ...]:
        """The process ids of all that is alive."""
        return tuple(process.pid for process in self._alive() if process.pid)

    def address(self, process: BackendProcess) -> str:
        """How the control plane reaches the process."""
        host = f"[{self._advertise}]" if ":" in self._advertise else self._advertise
        return f"{host}:{process.port}"

    async def stop_all(self) -> None:
        """End every job and every process; new orders may follow."""
        for task in [task for tasks in self._jobs.values() for task in tasks]:
            task.cancel()
        await asyncio.gather(*(self._end(process) for process in self._alive()))

    async def close(self) -> None:
        """End every job and every process; nothing is left running."""
        self._closing = True
        await self.stop_all()
        await asyncio.gather(*self._operations.values(), *self._watches, return_exceptions=True)
        await self._client.close()

    # --- One operation is one operation -------------------------------------------------------------------------------

    async def _once(self, verb: str, order: wire.Order, replica: str, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """Do ``work``, or wait for the same operation's earlier answer. The caller's leaving does not end it."""
        key = f"{verb}:{order.op_id or secrets.token_hex(8)}"
        task = self._operations.get(key)
        if task is None:

            async def run() -> wire.Answer:
                return await work()

            task = asyncio.create_task(run(), name=key)
            self._operations[key] = task
            if replica:
                self._jobs.setdefault(replica, set()).add(task)
                task.add_done_callback(lambda done: self._job_done(replica, done))
            self._trim()
        try:
            answer = await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            raise Conflict("the operation was stopped by an unload") from None
        return answer  # type: ignore[return-value]  # the key holds the verb, and each verb has one type of answer

    def _job_done(self, replica: str, task: asyncio.Task[wire.Answer]) -> None:
        tasks = self._jobs.get(replica, set())
        tasks.discard(task)
        if not tasks:
            self._jobs.pop(replica, None)

    def _trim(self) -> None:
        for key, task in list(self._operations.items()):
            if len(self._operations) <= _KEPT_OPERATIONS:
                return
            if task.done():
                del self._operations[key]

    def _check_epoch(self, order: wire.Order) -> None:
        if order.epoch < self._epoch:
            raise Fenced(f"epoch {order.epoch} has passed: {self._epoch} was seen here")
        if order.epoch > self._epoch:
            self._data.mkdir(parents=True, exist_ok=True)
            partial = self._data / "epoch.part"
            partial.write_text(str(order.epoch))
            partial.replace(self._data / "epoch")
            self._epoch = order.epoch

    def _read_epoch(self) -> int:
        try:
            return int((self._data / "epoch").read_text())
        except (OSError, ValueError):
            return 0

    # --- The work -----------------------------------------------------------------------------------------------------

    async def _install(self, order: wire.Install) -> wire.InstallAnswer:
        lock = self._locks.setdefault(self._name(order), asyncio.Lock())
        async with lock:
            return await self._install_alone(order)

    async def _install_alone(self, order: wire.Install) -> wire.InstallAnswer:
        for process in self._alive():
            same = process.wanted.replica == order.replica if order.replica else process.wanted.key == self._name(order)
            if same and process.ready and not process.stopping:
                return self._installed(process)
        if order.replica in self._gone:
            return wire.InstallAnswer(success=False, error=f"replica {order.replica} was unloaded here already")
        if order.backend not in registry.installed():
            names = ", ".join(registry.installed())
            words = f"no backend named {order.backend!r} is installed here; there are: {names}"
            return wire.InstallAnswer(success=False, error=words)
        self._tell(self._progress(order, order.backend, phase="starting"))
        wanted = Wanted(
            backend=order.backend,
            model=order.model_id,
            index=order.replica_index,
            replica=order.replica,
            epoch=self._epoch,
            devices=self._devices(order.pools),
        )
        try:
            process = await self._start(wanted)
        except (StartFailed, Conflict) as error:
            return wire.InstallAnswer(success=False, error=str(error))
        return self._installed(process)

    async def _start(self, wanted: Wanted) -> BackendProcess:
        for _ in range(_PORT_TRIES):
            if self._closing:
                raise Conflict("this worker is leaving")
            self._started += 1
            process_id = f"p-{self.boot[2:10]}-{self._started}"
            process = BackendProcess(process_id, wanted, self._ports.take(), self._host, self._data)
            self._processes[process.id] = process
            try:
                await process.start(self.models, self._start_timeout_s)
            except PortTaken:
                self._let_go(process)
                continue
            except BaseException:
                # Cancelled by an unload, or failed: either way nothing may stay behind.
                await process.stop(0)
                self._let_go(process)
                raise
            watch = asyncio.create_task(self._await_death(process), name=f"end of {process.id}")
            self._watches.add(watch)
            watch.add_done_callback(self._watches.discard)
            return process
        raise Conflict(
            f"{_PORT_TRIES} ports in a row were taken by others.", cure="Give the worker --ports of its own."
        )

    async def _await_death(self, process: BackendProcess) -> None:
        hang = asyncio.create_task(self._end_if_it_hangs(process), name=f"does {process.id} hang")
        await process.ended
        hang.cancel()
        by_itself = not process.stopping
        self._let_go(process)
        if by_itself and not self._closing:
            log.warning("process %s (%s) has ended: %s", process.id, process.wanted.key, process.ended.result())
            if self._on_death is not None:
                await self._on_death(process)

    async def _end_if_it_hangs(self, process: BackendProcess) -> None:
        """Kill it once it hangs: the control plane hears of its death, and loads another one where it is wanted."""
        # Where it listens, not where others reach it: that may be no address of this machine.
        host = f"[{self._host}]" if ":" in self._host else self._host

        async def answers(timeout_s: float) -> bool:
            try:
                async with asyncio.timeout(min(_HEALTH_TIMEOUT_S, timeout_s)):
                    await self._client.health(f"{host}:{process.port}", timeout_s=2 * _HEALTH_TIMEOUT_S)
            except (TimeoutError, Unavailable):
                return False
            except BackendFailed:
                pass  # a no is an answer, too
            return True

        await hangs.await_hang(answers, lambda: hangs.deeds_of(process.pid), self._hang_limit_s)
        why = f"it hung: for {self._hang_limit_s:g} s it answered no health call, computed nothing and moved no byte"
        log.error("process %s (%s): %s", process.id, process.wanted.key, why)
        process.kill(why)

    def _let_go(self, process: BackendProcess) -> None:
        """The process has ended: forget it. The log of one that ended by itself stays a while."""
        if self._processes.pop(process.id, None) is None:
            return
        self._ports.give_back(process.port)
        process.forget(keep_log=not process.stopping)
        for path in sorted((self._data / "logs").glob("*.log"), key=lambda path: path.name)[:-_KEPT_LOGS]:
            if path.stem not in self._processes:
                path.unlink(missing_ok=True)

    async def _stage(self, order: wire.Stage) -> wire.StageAnswer:
        if order.replica in self._gone:  # before any file goes: another load may be using what was to make room for it
            return wire.StageAnswer(success=False, error=f"replica {order.replica} was unloaded here already")
        running = {process.wanted.model for process in self._alive() if process.wanted.replica != order.replica}
        for model in order.drops:
            if model not in running and model != order.model_id:
                await asyncio.to_thread(staging.remove, self.models, model)
        source = str(order.options.get("source", ""))
        if not source:
            return wire.StageAnswer()  # nothing to bring: the backend has its files with it
        copy, joined = await self._copy_of(order, source, replaces=order.model_id not in running)
        copy.orders.append(order)
        try:
            await asyncio.shield(copy.task)
        except staging.StagingFailed as error:
            return wire.StageAnswer(success=False, error=str(error))
        except asyncio.CancelledError:
            copy.orders.remove(order)
            if not copy.orders:
                copy.stop.set()
                await asyncio.wait([copy.task])
            raise
        return wire.StageAnswer(found=joined or not copy.moves)

    async def _copy_of(self, order: wire.Stage, source: str, *, replaces: bool) -> tuple[Copy, bool]:
        """The copy that brings these files, and whether it had begun. A model's files have one place: one at a time."""
        while (copy := self._copies.get(order.model_id)) is not None:
            if copy.source == source and not copy.stop.is_set():
                return copy, True
            await asyncio.wait([copy.task])
        copy = self._copies[order.model_id] = Copy(source)
        copy.task = asyncio.create_task(
            self._copy(order.model_id, copy, replaces=replaces), name=f"files of {order.model_id}"
        )
        return copy, False

    async def _copy(self, model: str, copy: Copy, *, replaces: bool) -> None:
        loop = asyncio.get_running_loop()
        told_at = 0.0

        def tell(done: int, total: int) -> None:
            for order in copy.orders:
                self._tell(self._progress(order, order.backend, phase="downloading", done=done, total=total))

        def told(done: int, total: int) -> None:
            nonlocal told_at
            copy.moves = True
            if done < total and time.monotonic() - told_at < _TELL_EVERY_S:
                return
            told_at = time.monotonic()
            loop.call_soon_threadsafe(tell, done, total)

        try:
            await asyncio.to_thread(staging.stage, self.models, model, copy.source, told, copy.stop, replaces=replaces)
        finally:
            del self._copies[model]

    async def _unload(self, order: wire.Unload) -> wire.Answer:
        if not order.stop:
            for process in self._meant(order):
                if not await self._free(process):
                    return wire.Answer(success=False, error=f"process {process.id} did not free its model")
            return wire.Answer()
        if order.replica:
            self._gone[order.replica] = None
            while len(self._gone) > _KEPT_GONE:
                self._gone.popitem(last=False)
            jobs = list(self._jobs.get(order.replica, ()))
            for job in jobs:
                job.cancel()
            if jobs:
                await asyncio.wait(jobs)
        await asyncio.gather(*(self._end(process) for process in self._meant(order)))
        return wire.Answer()

    async def _stop_named(self, name: str, *, force: bool) -> wire.StopAnswer:
        if not name:
            return wire.StopAnswer(success=False, error="backend is needed", code="invalid")
        meant = [
            process
            for process in self._alive()
            if name in (process.id, process.wanted.key, process.wanted.replica, process.wanted.backend)
        ]
        if not force:
            await asyncio.gather(*(self._free(process) for process in meant))
        await asyncio.gather(*(self._end(process) for process in meant))
        return wire.StopAnswer(stopped_process_keys=[process.wanted.key for process in meant])

    async def _end(self, process: BackendProcess) -> None:
        """Stop the process, and return when it is gone from the list too."""
        process.stopping = True
        await process.stop(self._stop_grace_s)
        self._let_go(process)

    async def _free(self, process: BackendProcess) -> bool:
        """Ask the process to free its model; whether it did so in time."""
        try:
            await self._client.free(self.address(process), model=process.wanted.model, timeout_s=_FREE_TIMEOUT_S)
        except (BackendFailed, Unavailable) as error:
            log.debug("process %s: %s", process.id, error)
            return False
        return True

    def _meant(self, order: wire.Unload) -> list[BackendProcess]:
        """Whom an unload means: its replica, else its address, else its model."""
        if order.replica:
            return [process for process in self._alive() if process.wanted.replica == order.replica]
        if order.address:
            return [process for process in self._alive() if self.address(process) == order.address]
        return [process for process in self._alive() if process.wanted.model == order.model_name]

    def _alive(self) -> Iterable[BackendProcess]:
        return [process for process in self._processes.values() if process.alive]

    def _is_alive(self, process_id: str) -> bool:
        process = self._processes.get(process_id)
        return process is not None and process.alive and not process.stopping

    def _installed(self, process: BackendProcess) -> wire.InstallAnswer:
        return wire.InstallAnswer(
            address=self.address(process),
            process=process.id,
            model_id=process.wanted.model,
            replica_index=process.wanted.index,
        )

    def _progress(
        self, order: wire.Install | wire.Stage, backend: str, *, phase: str, done: int = 0, total: int = 0
    ) -> wire.Progress:
        return wire.Progress(
            op_id=order.op_id,
            node_id=self._node,
            backend=backend,
            percentage=100 * done / total if total else 0.0,
            phase=phase,
            replica=order.replica,
            done_bytes=done,
            total_bytes=total,
        )

    @staticmethod
    def _name(order: wire.Install) -> str:
        """What an install is for: its replica, or the process key where the caller knows no replicas."""
        return order.replica or f"{order.model_id}#{order.replica_index}"
