"""The model of the outside world: what a worker knows, how it answers, and what a crash or a cut does to it.

One module for both halves of the harness. ``simulate`` lets time pass between :func:`begin` and :func:`finish`;
``prove`` does both in one step with :func:`perform`. Everything here is a frozen value or a pure function of values:
no clock, no randomness, no ids of its own making. Each function returns the worker as it is afterwards.

The rules are those of the real supervisor: an order of an older epoch than any seen, or for another worker of the same
name, is refused; the same operation
twice is one operation; a replica that was unloaded here is never started here again; a call names its model, so that a
port that was used before cannot answer for another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec
from msgspec.structs import replace

from interlock.domain.answers import done
from interlock.domain.claims import RAM, Claim
from interlock.domain.commands import (
    Command,
    RegisterNode,
    ReportCapacity,
    ReportHeard,
    ReportLoadFailed,
    ReportProgress,
    ReportReplicaDied,
    ReportRunning,
    Running,
    WorkerLeft,
)
from interlock.domain.effects import (
    Effect,
    InstallBackend,
    LoadModel,
    ReplicaEffect,
    StageModel,
    StopStray,
    UnloadModel,
)
from interlock.domain.entities import Budget, LoadSpec
from interlock.domain.memory import share_of
from interlock.domain.units import format_size

FIRST_PORT = 50_000
_NOT_LOADED = "FAILED_PRECONDITION"


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of its machine. Sizes in bytes; ``disk`` is the whole of it, None when unknown."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()
    pools: tuple[int, ...] = ()
    budget: Budget | None = None
    ram: int = 0
    unified: bool = False
    """Its one pool is its main memory as well."""
    disk: int | None = None
    max_replicas_per_model: int = 1
    gpu_vendor: str = ""
    machine: str = ""


class Process(msgspec.Struct, frozen=True, order=True):
    """A backend process that a worker runs for a replica; ``loaded`` once the model is in its memory.

    ``holds`` is what it takes of the node's memory pools: nothing before the model is loaded.
    """

    replica: str
    id: str
    model: str
    index: int
    port: int
    loaded: bool = False
    holds: Claim = ()


class Files(msgspec.Struct, frozen=True, order=True):
    """One model's files on a worker's disk; ``kind`` tells its editions apart."""

    model: str
    kind: str
    size: int


class Stranger(msgspec.Struct, frozen=True, order=True):
    """Somebody else's process on a worker's machine, and the memory that it takes in one pool."""

    id: int
    pool: int
    size: int


class Worker(msgspec.Struct, frozen=True):
    """One worker machine. ``processes`` and ``staged`` are sorted, so that equal workers compare and hash equal.

    ``boot`` counts its starts. ``up`` is false while it is crashed, ``cut`` true while nothing passes between it and
    the control plane. ``epoch`` is the newest that it has seen. ``jobs`` are operations begun and not answered yet.
    ``gone`` are the replicas that were unloaded during this boot. ``strangers`` are no processes of ours.
    """

    facts: NodeFacts
    boot: int = 1
    up: bool = True
    cut: bool = False
    epoch: int = 0
    processes: tuple[Process, ...] = ()
    staged: tuple[Files, ...] = ()
    jobs: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    strangers: tuple[Stranger, ...] = ()

    @property
    def name(self) -> str:
        """The node's name."""
        return self.facts.name

    @property
    def hears(self) -> bool:
        """Whether messages pass between it and the control plane."""
        return self.up and not self.cut

    def process_of(self, replica: str) -> Process | None:
        """The process of that replica."""
        return next((process for process in self.processes if process.replica == replica), None)


Answers = tuple[Command, ...]
Step = tuple[Worker, Answers]


# --- Orders ---------------------------------------------------------------------------------------------------------


class Begun(msgspec.Struct, frozen=True):
    """What became of an order: work that takes its time (``works``), answers at once, or neither.

    Neither means that the order was refused for its epoch, that it was meant for another worker of that name, or that
    the same operation is in progress already.
    """

    worker: Worker
    works: bool = False
    answers: Answers = ()


def begin(worker: Worker, effect: Effect, epoch: int) -> Begun:
    """Take an order. Does not ask whether it could reach the worker: see :attr:`Worker.hears`."""
    if epoch < worker.epoch or effect.boot not in ("", boot_of(worker)):
        return Begun(worker)
    if epoch > worker.epoch:
        worker = replace(worker, epoch=epoch)
    if effect.op in worker.jobs:
        return Begun(worker)
    if isinstance(effect, UnloadModel):
        # Work for the replica ends at once; its process takes the time that unloading takes.
        mine = _jobs_of(worker, effect.replica)
        worker = replace(worker, jobs=worker.jobs - mine, gone=worker.gone | {effect.replica})
    if isinstance(effect, StageModel) and not _is_past(worker, effect):
        worker = _without_files(worker, effect)
    if _is_done(worker, effect):
        return Begun(worker, answers=(_yes(worker, effect),))
    problem = _problem(worker, effect)
    if problem:
        assert isinstance(effect, ReplicaEffect)
        return Begun(worker, answers=(ReportLoadFailed(replica=effect.replica, op=effect.op, reason=problem),))
    return Begun(replace(worker, jobs=worker.jobs | {effect.op}), works=True)


def finish(worker: Worker, effect: Effect, failure: str = "") -> Step:
    """End the work of an order that :func:`begin` took: well, or with ``failure`` in the worker's own words.

    Nothing happens when the work was ended meanwhile, by a crash or by an unload of the same replica.
    """
    if effect.op not in worker.jobs:
        return worker, ()
    worker = replace(worker, jobs=worker.jobs - {effect.op})
    if not isinstance(effect, ReplicaEffect):
        assert isinstance(effect, StopStray)
        worker = _without(worker, lambda process: process.id == effect.process)
        return worker, (_yes(worker, effect),)
    failure = failure or _problem(worker, effect)
    if failure and not isinstance(effect, UnloadModel):
        return worker, (ReportLoadFailed(replica=effect.replica, op=effect.op, reason=failure),)
    if isinstance(effect, UnloadModel):
        worker = _without(worker, lambda process: process.replica == effect.replica)
    elif isinstance(effect, InstallBackend):
        started = Process(
            effect.replica, f"p{worker.boot}-{effect.replica}", effect.model, effect.index, _free_port(worker)
        )
        worker = replace(worker, processes=tuple(sorted((*worker.processes, started))))
    elif isinstance(effect, StageModel):
        kept = (files for files in worker.staged if files.model != effect.model)  # a model's files have one place
        worker = replace(worker, staged=tuple(sorted((*kept, files_of(effect)))))
    elif isinstance(effect, LoadModel):
        holds = holds_of(worker, effect.spec, effect.pools)
        loaded = (replace(p, loaded=True, holds=holds) if p.replica == effect.replica else p for p in worker.processes)
        worker = replace(worker, processes=tuple(loaded))
    return worker, (_yes(worker, effect),)


def perform(worker: Worker, effect: Effect, epoch: int, failure: str = "") -> Step:
    """Take an order and end its work at once. A worker that does not hear does nothing."""
    if not worker.hears:
        return worker, ()
    begun = begin(worker, effect, epoch)
    return finish(begun.worker, effect, failure) if begun.works else (begun.worker, begun.answers)


def can_fail(effect: Effect) -> bool:
    """Whether a worker may answer this effect with a no."""
    return isinstance(effect, InstallBackend | StageModel | LoadModel)


def progress(worker: Worker, effect: ReplicaEffect, done: int, total: int) -> Answers:
    """Word of an operation in progress: ``done`` of ``total`` bytes have moved."""
    if effect.op not in worker.jobs:
        return ()
    return (ReportProgress(replica=effect.replica, op=effect.op, done=done, total=total),)


def address_of(worker: Worker, process: Process) -> str:
    """Where the process listens."""
    return f"{worker.name}:{process.port}"


def _free_port(worker: Worker) -> int:
    """The lowest port that no process has: ports are used again, as they are in the field."""
    taken = {process.port for process in worker.processes}
    return next(port for port in range(FIRST_PORT, FIRST_PORT + len(taken) + 1) if port not in taken)


def edition(spec: LoadSpec) -> str:
    """What tells one edition of a model's files from another: the backend and its options."""
    return f"{spec.backend} {sorted(spec.options.items())}" if spec.options else spec.backend


def holds_of(worker: Worker, spec: LoadSpec, pools: Sequence[int]) -> Claim:
    """What a loaded model takes in the pools that are its own: the same in each; and of main memory."""
    if worker.facts.unified:
        return ((0, spec.vram + spec.ram),)
    ram = ((RAM, spec.ram),) if spec.ram else ()
    return (*((pool, share_of(spec, len(pools))) for pool in pools), *ram)


def with_loaded(worker: Worker, process: Process, files: Iterable[Files]) -> Worker:
    """The worker with a process that has loaded its model, and with these files: for worlds that begin so."""
    staged = tuple(sorted({*worker.staged, *files}))
    return replace(worker, processes=tuple(sorted((*worker.processes, process))), staged=staged)


def files_of(effect: StageModel | LoadModel) -> Files:
    """The files that the order is about."""
    return Files(effect.model, edition(effect.spec), effect.spec.disk)


def _is_done(worker: Worker, effect: Effect) -> bool:
    """Whether what the order wants is so already."""
    if isinstance(effect, StopStray):
        return all(process.id != effect.process for process in worker.processes)
    assert isinstance(effect, ReplicaEffect)
    process = worker.process_of(effect.replica)
    if isinstance(effect, UnloadModel):
        return process is None
    if isinstance(effect, StageModel):
        return files_of(effect) in worker.staged
    return process is not None and (process.loaded or isinstance(effect, InstallBackend))


def _jobs_of(worker: Worker, replica: str) -> frozenset[str]:
    """The operations for this replica that the worker is at."""
    return frozenset(op for op in worker.jobs if op.rpartition(".")[0] == replica)


def _is_past(worker: Worker, effect: StageModel) -> bool:
    """Whether this is a late repeat: its replica was unloaded, is being loaded by now, or is loaded.

    The real supervisor remembers what it answered. What gave way then may have been brought again since.
    """
    process = worker.process_of(effect.replica)
    loads = bool(_jobs_of(worker, effect.replica))
    return effect.replica in worker.gone or loads or (process is not None and process.loaded)


def _yes(worker: Worker, effect: Effect) -> Command:
    """The answer to an order whose end is reached."""
    process = worker.process_of(effect.replica) if isinstance(effect, InstallBackend) else None
    return done(effect, address_of(worker, process) if process is not None else "")


def _problem(worker: Worker, effect: Effect) -> str:
    """Why the worker says no, in its own words; empty when it can do it."""
    if isinstance(effect, ReplicaEffect) and not isinstance(effect, UnloadModel) and effect.replica in worker.gone:
        return f"replica {effect.replica} was unloaded here already"
    if isinstance(effect, InstallBackend):
        if not effect.spec.backend:
            return "backend: no backend is named '' here"
    elif isinstance(effect, StageModel) and files_of(effect) not in worker.staged:
        used = sum(files.size for files in worker.staged)
        if worker.facts.disk is not None and used + effect.spec.disk > worker.facts.disk:
            return "no space left on device"
    elif isinstance(effect, LoadModel):
        if worker.process_of(effect.replica) is None:
            return f"no process runs for {effect.replica}"
        if effect.spec.disk and files_of(effect) not in worker.staged:
            return f"the files of {effect.model} are not here"
        return _out_of_memory(worker, effect)
    return ""


OUT_OF_MEMORY = "the backend said: CUDA error: out of memory"


def _out_of_memory(worker: Worker, effect: LoadModel) -> str:
    """What the backend says when others hold memory that the model was to lie in; empty when there is enough.

    What is in the way of a load are others alone: of our own replicas' memory the control plane keeps count, and
    whoever judges it is to see its mistakes as they are.
    """
    in_use, crowded = used(worker), {stranger.pool for stranger in worker.strangers}
    for pool, size in holds_of(worker, effect.spec, effect.pools):
        if pool in crowded and in_use[pool] + size > worker.facts.pools[pool]:
            free = format_size(worker.facts.pools[pool] - in_use[pool])
            return f"{OUT_OF_MEMORY}: tried to allocate {format_size(size)} on device {pool}, {free} free"
    return ""


def _without_files(worker: Worker, effect: StageModel) -> Worker:
    """The worker without what is to go before these files come, but for files that something runs from.

    A model's files have one place: another edition of the same model goes too where there is not room for both. Where
    there is, it stays until the new one has come whole.
    """
    running = {process.model for process in worker.processes if process.replica != effect.replica}
    gone = {model for model in effect.drops if model not in running}
    mine, disk = files_of(effect), worker.facts.disk
    staged = tuple(files for files in worker.staged if files.model not in gone or files == mine)
    crowded = disk is not None and sum(files.size for files in staged) + mine.size > disk
    if crowded and mine.model not in running:
        staged = tuple(files for files in staged if files.model != mine.model or files == mine)
    return replace(worker, staged=staged)


def _without(worker: Worker, is_meant: Callable[[Process], bool]) -> Worker:
    """The worker without the processes that are meant."""
    return replace(worker, processes=tuple(process for process in worker.processes if not is_meant(process)))


# --- Calls from gateways --------------------------------------------------------------------------------------------


def call(worker: Worker, address: str, model: str) -> str:
    """Call the backend at ``address`` for ``model``; empty when it serves, else the error before its first byte."""
    if not worker.hears:
        return f"UNAVAILABLE: {address} does not answer"
    process = listening_at(worker, address)
    if process is None:
        return f"UNAVAILABLE: nothing listens at {address}"
    if process.model == model and process.loaded:
        return ""
    return f"{_NOT_LOADED}: {model} is not loaded at {address}"


def answered(problem: str) -> bool:
    """Whether the error of a call is somebody's answer, and not nobody's."""
    return problem.startswith(_NOT_LOADED)


def listening_at(worker: Worker, address: str) -> Process | None:
    """The process that listens at this address of the worker."""
    _, _, port = address.rpartition(":")
    return next((process for process in worker.processes if str(process.port) == port), None)


# --- What happens to it ---------------------------------------------------------------------------------------------


def kill(worker: Worker, replica: str) -> Step:
    """The replica's process dies; the worker says so."""
    if worker.process_of(replica) is None:
        return worker, ()
    worker = _without(worker, lambda process: process.replica == replica)
    reason = "the backend process ended by itself: signal 9"
    ended: frozenset[str] = frozenset()
    if replica not in worker.gone:  # an unload in progress goes on, and finds nothing left to do
        ended = frozenset(op for op in worker.jobs if op.rpartition(".")[0] == replica)
    died: list[Command] = [ReportReplicaDied(replica=replica, reason=reason)]
    died += [ReportLoadFailed(replica=replica, op=op, reason=reason) for op in sorted(ended)]
    return replace(worker, jobs=worker.jobs - ended), tuple(died)


def crash(worker: Worker) -> Worker:
    """The machine dies with all its processes; its files stay on its disk."""
    return replace(worker, up=False, processes=(), jobs=frozenset(), gone=frozenset(), strangers=())


def start(worker: Worker) -> Worker:
    """A machine that is down comes up, under a new boot; one that is up stays as it is."""
    return worker if worker.up else replace(worker, up=True, boot=worker.boot + 1)


def stop_all(worker: Worker) -> Worker:
    """Another worker has the node's name: this one ends what it runs, and waits for its turn."""
    return replace(worker, processes=(), jobs=frozenset())


def swap_machine(worker: Worker, machine: str) -> Worker:
    """The machine is gone for good, and another one, of the same kind and with an empty disk, is called as it was."""
    facts = replace(worker.facts, machine=machine)
    return replace(crash(worker), facts=facts, up=True, cut=False, boot=worker.boot + 1, staged=(), epoch=0)


def squeeze(worker: Worker, number: int, pool: int, size: int) -> Worker:
    """Somebody else's process takes memory, as much of it as is free."""
    if not worker.up or pool >= len(worker.facts.pools):
        return worker
    size = min(size, worker.facts.pools[pool] - used(worker)[pool])
    return replace(worker, strangers=(*worker.strangers, Stranger(number, pool, size))) if size > 0 else worker


def relax(worker: Worker, number: int) -> Worker:
    """Somebody else's process ends, if it has not died with the machine."""
    return replace(worker, strangers=tuple(stranger for stranger in worker.strangers if stranger.id != number))


def cut(worker: Worker) -> Worker:
    """Nothing passes between it and the control plane any more; its processes and its work run on."""
    return replace(worker, cut=True)


def heal(worker: Worker) -> Worker:
    """Messages pass again."""
    return replace(worker, cut=False)


def leave(worker: Worker) -> Step:
    """The worker stops all that it runs and says goodbye."""
    return crash(worker), (WorkerLeft(node=worker.name, boot=boot_of(worker)),)


# --- What it says ---------------------------------------------------------------------------------------------------


def boot_of(worker: Worker) -> str:
    """The boot as the worker names it."""
    return f"b{worker.boot}"


def running(worker: Worker) -> tuple[Running, ...]:
    """Every process that it runs."""
    return tuple(
        Running(
            process=process.id,
            replica=process.replica,
            model=process.model,
            index=process.index,
            address=address_of(worker, process),
        )
        for process in worker.processes
    )


def used(worker: Worker) -> tuple[int, ...]:
    """What is in use in each memory pool, whoever uses it: our processes, known or stray, and those of others."""
    figures = [0] * len(worker.facts.pools)
    held = [entry for process in worker.processes for entry in process.holds]
    for pool, size in (*held, *((stranger.pool, stranger.size) for stranger in worker.strangers)):
        if pool < len(figures):
            figures[pool] += size
    return tuple(map(min, figures, worker.facts.pools))


def register(worker: Worker, *, approve: bool = False, clock: int = 0, sent_at: int = 0) -> RegisterNode:
    """What it says when it starts, and when it finds the control plane again; what its clock shows as it says so."""
    facts = worker.facts
    staged = sum(files.size for files in worker.staged)
    return RegisterNode(
        node=facts.name,
        address=f"{facts.name}:7000",
        boot=boot_of(worker),
        labels=dict(facts.labels),
        pools=facts.pools,
        ram=facts.ram,
        unified=facts.unified,
        used=used(worker),
        disk=None if facts.disk is None else max(0, facts.disk - staged),
        max_replicas_per_model=facts.max_replicas_per_model,
        budget=facts.budget,
        gpu_vendor=facts.gpu_vendor,
        approve=approve,
        running=running(worker),
        machine=facts.machine or f"m-{facts.name}",
        clock=clock,
        sent_at=sent_at,
    )


def heartbeat(worker: Worker) -> ReportHeard:
    """The sign of life."""
    return ReportHeard(node=worker.name, boot=boot_of(worker))


def capacity(worker: Worker, sent_at: int, clock: int = 0) -> ReportCapacity:
    """The figures that go with the sign of life, which is sent at that instant (microseconds since 1970)."""
    return ReportCapacity(node=worker.name, pools=worker.facts.pools, used=used(worker), sent_at=sent_at, clock=clock)


def report_running(worker: Worker, asked_at: int) -> ReportRunning:
    """Its answer to the question what it runs, which was asked at that instant (microseconds since 1970)."""
    return ReportRunning(node=worker.name, boot=boot_of(worker), asked_at=asked_at, running=running(worker))
