"""Gateways and their clients in virtual time. Clients do not retry; gateways send a command again when a writer died.

A gateway holds its locks under one lease. When it dies, its requests fail for their clients at once, and its locks
stay until the writer's driver says that the lease has lapsed.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import NamedTuple

from interlock.domain.commands import (
    AcquireLock,
    AnyReply,
    CancelRequest,
    Done,
    Envelope,
    Locked,
    LoseHolder,
    Rejected,
    ReleaseLock,
    ReportBackendGone,
    Waiting,
)
from interlock.domain.prefixes import marks_of
from interlock.domain.units import FOREVER

from . import world
from .clock import Clock, Streams, draw
from .cluster import VirtualCluster
from .prompts import Chain, PrefixCache
from .reading.fields import Distribution
from .writer import Writer

GATEWAYS = 3
ARRIVALS_KEPT = 1_000


class Arrived(NamedTuple):
    """A request as its client sent it; lengths and the moment in microseconds, ``deadline`` 0 for the setting's."""

    at: int
    model: str
    service: int
    deadline: int
    priority: int
    prompt: Chain
    tenant: str
    leaves_after: int


class Call:
    """One request on its way. ``lost`` once its gateway has died."""

    __slots__ = (
        "arrival", "boot", "dead", "gateway", "id", "model", "node", "prompt", "replica", "service", "tries", "waits",
    )  # fmt: skip

    def __init__(self, id_: str, model: str, gateway: int, arrival: int, service: int, prompt: Chain = ()) -> None:
        self.id = id_
        self.model = model
        self.gateway = gateway
        self.arrival = arrival
        self.service = service
        self.prompt = prompt
        self.replica = self.node = ""
        self.boot = 0
        self.tries = 0
        self.waits = True
        self.dead = False


class Tally:
    """What became of the requests, for the report.

    ``waits`` are the waits for a lock, ``lost_waits`` those that ended without one, in microseconds.
    """

    def __init__(self) -> None:
        self.submitted = 0
        self.served = 0
        self.refused: Counter[str] = Counter()
        self.refused_for: Counter[tuple[str, str]] = Counter()
        """The same by code and model."""
        self.failed: Counter[str] = Counter()
        self.served_on: Counter[str] = Counter()
        self.waits = array("q")
        self.lost_waits = array("q")
        self.services = array("q")
        """How long requests with a prompt were served, what computing it took included."""
        self.prefills = array("q")
        """How long computing what was not cached of their prompts took."""
        self.blocks = self.cached = 0
        """Blocks of prompts, and those of them that were in a cache."""

    def copy(self) -> Tally:
        """As it stands now."""
        copy = Tally()
        copy.submitted, copy.served, copy.blocks, copy.cached = self.submitted, self.served, self.blocks, self.cached
        copy.refused, copy.failed, copy.served_on = self.refused.copy(), self.failed.copy(), self.served_on.copy()
        copy.waits, copy.lost_waits, copy.services = self.waits[:], self.lost_waits[:], self.services[:]
        copy.prefills, copy.refused_for = self.prefills[:], self.refused_for.copy()
        return copy

    @property
    def cached_share(self) -> float:
        """The share of all blocks of prompts that were in a cache."""
        return self.cached / self.blocks if self.blocks else 0.0


class Gateways:
    """All gateways; ``runs[i]`` counts the starts of gateway ``i``, and each run is a holder of its own."""

    def __init__(self, clock: Clock, streams: Streams, writer: Writer, cluster: VirtualCluster) -> None:
        self.clock = clock
        self.writer = writer
        self.cluster = cluster
        self.services, self.clients = streams["service"], streams["clients"]
        self.tally = Tally()
        self.live: dict[str, Call] = {}
        self.arrived: list[Arrived] = []
        """The first arrivals, for whoever writes them out, and how many of them are kept."""
        self.arrivals_kept = ARRIVALS_KEPT
        self.runs = [1] * GATEWAYS
        self.dead: dict[str, int] = {}
        """Holders whose lease runs out, and a number that tells which lease it is."""
        self.wrong_answers: list[str] = []
        self.caches: dict[str, PrefixCache] = {}
        """What each process keeps of prompts."""
        self.leaving: dict[int, tuple[str, float, Distribution]] = {}
        """Clients that give up: of which model (empty: any), how probably, and how long after they came."""
        self._departures = count(1)
        self.prefill_of: Callable[[str], tuple[int, int]] = lambda model: (0, 0)
        """What one block of a prompt takes with a model, and how many blocks its replicas keep."""

    def holder(self, gateway: int) -> str:
        """The holder that the gateway is in this run."""
        return f"gw-{gateway + 1}.{self.runs[gateway]}"

    # --- requests ---------------------------------------------------------------------------------------------------

    def arrive(
        self, model: str, service: Distribution, deadline: int, priority: int, prompt: Chain = (), tenant: str = "",
        leaves_after: int = 0,
    ) -> None:  # fmt: skip
        """A client's request comes in. ``deadline`` is a length, 0 for the setting's.

        The client leaves after so long, unless that is 0.
        """
        tally = self.tally
        tally.submitted += 1
        now = self.clock.now
        gateway = tally.submitted % GATEWAYS
        length = draw(service, self.services)
        if tally.submitted <= self.arrivals_kept:
            asked = Arrived(self.clock.elapsed, model, length, deadline, priority, prompt, tenant, leaves_after)
            self.arrived.append(asked)
        call = Call(f"q-{tally.submitted:06d}", model, gateway, now, length, prompt)
        self.live[call.id] = call
        until = FOREVER if deadline >= FOREVER else now + deadline if deadline else 0
        command = AcquireLock(
            request=call.id, model=model, holder=self.holder(gateway), priority=priority, deadline=until,
            tenant=tenant, prefix=marks_of(prompt) if prompt else (),
        )  # fmt: skip
        self.writer.submit(
            Envelope(command_id=f"{call.id}.acquire", command=command, actor=command.holder, request_id=call.id),
            lambda reply: self._reply(call, reply),
        )
        if leaves_after:
            self.clock.after(leaves_after, self._leave, call)
        for of, p, delay in self.leaving.values():
            if of in ("", model) and self.clients.random() < p:
                self.clock.after(draw(delay, self.clients), self._driven_away, call)
                break

    def lose_clients(self, model: str, p: float, delay: Distribution) -> Callable[[], object]:
        """Have clients that come from now on give up, each with this probability; returns what ends that."""
        number = next(self._departures)
        self.leaving[number] = (model, p, delay)
        return lambda: self.leaving.pop(number)

    def _driven_away(self, call: Call) -> None:
        if call.id in self.live:
            self.cluster.watcher.fault_took_effect("clients-leave")
            self._leave(call)

    def _leave(self, call: Call) -> None:
        """The client hangs up, whether its request waits or runs. Its gateway ends the request, and hears no more."""
        if self.live.pop(call.id, None) is None:
            return
        call.dead = True
        self.tally.failed["client left"] += 1
        if call.waits:
            self.tally.lost_waits.append(self.clock.now - call.arrival)
            self.writer.forget(frozenset({call.id}))
            self._end(call, CancelRequest(request=call.id))
        else:
            self._end(call, ReleaseLock(request=call.id, outcome="cancelled", detail="client left"))

    def answered(self, request: str, reply: AnyReply) -> None:
        """The end of a request's wait."""
        call = self.live.get(request)
        if call is not None:
            self._reply(call, reply)

    def _reply(self, call: Call, reply: AnyReply) -> None:
        if call.dead or call.id not in self.live or not call.waits or isinstance(reply, Waiting):
            return
        if isinstance(reply, Locked):
            self._locked(call, reply)
        elif isinstance(reply, Rejected):
            del self.live[call.id]
            if reply.code in ("cancelled", "conflict", "failed"):
                self.tally.failed[reply.code] += 1
            else:
                self.tally.refused[reply.code] += 1
                self.tally.refused_for[reply.code, call.model] += 1
            self.tally.lost_waits.append(self.clock.now - call.arrival)
        elif isinstance(reply, Done):
            self._ask_again(call)

    def _ask_again(self, call: Call) -> None:
        """The writer had nothing new to say of it: look how it stands."""
        standing = self.writer.standing(call.id)
        if isinstance(standing, Locked | Rejected):
            self._reply(call, standing)
        elif standing is None:
            del self.live[call.id]
            self.tally.failed["lost"] += 1

    def _locked(self, call: Call, lock: Locked) -> None:
        call.replica, call.node = lock.replica, lock.node
        problem = self.cluster.call(lock.node, lock.address, lock.model)
        if problem:
            self._find_gone(call, lock, problem)
            return
        self._check_who_answers(call, lock)
        call.waits = False
        self.tally.waits.append(self.clock.now - call.arrival)
        call.boot = self.cluster.nodes[lock.node].worker.boot
        self.clock.after(self._length(call, lock), self._done, call)

    def _find_gone(self, call: Call, lock: Locked, problem: str) -> None:
        """Nobody serves the call there. When nobody said so, the node's worker is asked before the call is believed."""
        call.tries += 1
        tries, answered = call.tries, world.answered(problem)
        command = ReportBackendGone(
            request=call.id, replica=lock.replica, detail=problem, answered=answered, holder=self.holder(call.gateway)
        )
        envelope = Envelope(command_id=f"{call.id}.gone{tries}", command=command, request_id=call.id)

        def report() -> None:
            if call.tries == tries and call.id in self.live:
                self.writer.submit(envelope, lambda reply: self._reply(call, reply))

        if answered:
            report()
        else:
            self.cluster.make_sure(lock.node, problem, report)

    def _length(self, call: Call, lock: Locked) -> int:
        """How long serving the request takes: computing what the replica has not cached of its prompt comes first."""
        if not call.prompt:
            return call.service
        per_block, room = self.prefill_of(lock.model)
        process = world.listening_at(self.cluster.nodes[lock.node].worker, lock.address)
        assert process is not None, "a call that was taken has a process"
        cache = self.caches.get(process.id)
        if cache is None:
            cache = self.caches[process.id] = PrefixCache(room)
        cached = cache.serve(call.prompt)
        prefill = (len(call.prompt) - cached) * per_block
        length = call.service + prefill
        self.tally.blocks += len(call.prompt)
        self.tally.cached += cached
        self.tally.services.append(length)
        self.tally.prefills.append(prefill)
        return length

    def _check_who_answers(self, call: Call, lock: Locked) -> None:
        """A recycled port may not answer for another model."""
        process = world.listening_at(self.cluster.nodes[lock.node].worker, lock.address)
        if process is not None and process.model != lock.model:
            self.wrong_answers.append(f"{call.id} for {lock.model} is answered by {process.model} at {lock.address}")

    def is_served(self, request: str) -> bool:
        """Whether a backend is answering the request now."""
        call = self.live.get(request)
        return call is not None and not call.waits

    def _done(self, call: Call) -> None:
        """The answer is complete, or its stream has broken since."""
        if call.dead:
            return
        del self.live[call.id]
        worker = self.cluster.nodes[call.node].worker
        if worker.hears and worker.boot == call.boot and worker.process_of(call.replica) is not None:
            self.tally.served += 1
            self.tally.served_on[call.node] += 1
            self._end(call, ReleaseLock(request=call.id))
        else:
            self.tally.failed["stream broke"] += 1
            self._end(call, ReleaseLock(request=call.id, outcome="failed", detail="the stream broke"))

    def _end(self, call: Call, command: ReleaseLock | CancelRequest) -> None:
        envelope = Envelope(
            command_id=f"{call.id}.release", command=command, actor=self.holder(call.gateway), request_id=call.id
        )
        self.writer.submit(envelope, _nothing)

    # --- holders ----------------------------------------------------------------------------------------------------

    def crash(self, gateway: int) -> int:
        """The gateway dies with its requests and starts again as another holder; returns how many it had."""
        holder = self.holder(gateway)
        self.runs[gateway] += 1
        mine = [call for call in self.live.values() if call.gateway == gateway]
        for call in mine:
            call.dead = True
            del self.live[call.id]
            self.tally.failed["gateway died"] += 1
        self.writer.forget(frozenset(call.id for call in mine))
        self.dead[holder] = 0
        self._lease(holder)
        return len(mine)

    def _lease(self, holder: str) -> None:
        self.dead[holder] += 1
        self.clock.after(self.writer.engine.state.settings.holder_lease, self._lapse, holder, self.dead[holder])

    def _lapse(self, holder: str, lease: int) -> None:
        if self.dead.get(holder) != lease:
            return
        if not self.writer.leading:
            return  # the next writer gives every holder a fresh lease
        envelope = Envelope(command_id=f"lapse-{holder}-{lease}", command=LoseHolder(holder=holder))

        def done(reply: AnyReply) -> None:
            self.dead.pop(holder, None)

        self.writer.submit(envelope, done)

    def took_over(self) -> None:
        """A new writer leads: it gives every holder a fresh lease, and gateways ask how their requests stand."""
        for holder in list(self.dead):
            self._lease(holder)
        for call in list(self.live.values()):
            if call.waits:
                standing = self.writer.standing(call.id)
                if isinstance(standing, Locked | Rejected):
                    self._reply(call, standing)

    def counts(self) -> tuple[int, int]:
        """How many requests wait, and how many run."""
        waiting = sum(1 for call in self.live.values() if call.waits)
        return waiting, len(self.live) - waiting


def _nothing(reply: AnyReply) -> None:
    """A release needs no more than to be known durable."""
