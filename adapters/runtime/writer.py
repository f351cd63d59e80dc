"""The writer: one term at the head of the log, from a taken epoch until another takes over or this one stops.

Commands are decided ahead of what is stored, on a state of their own; everything that leaves (replies, effects, views)
follows from the committed state, which folds a batch once it is stored. A batch is decided while the one before it
commits. When an append fails, or its answer is lost, the writer takes a new epoch, looks what the log holds, and
decides the lost commands again under their old ids: what was stored is recalled, what was not is decided anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future as ThreadFuture

from interlock.domain.codec import decode_event
from interlock.domain.commands import AnyReply, Command, Done, Envelope, Locked, Rejected, StartEpoch, Tick, Waiting
from interlock.domain.effects import Effect
from interlock.domain.engine import Engine, Outcome
from interlock.domain.errors import (
    CommitUnknown,
    EventConflict,
    Fenced,
    InterlockError,
    InvariantBroken,
    LeaseHeld,
    NoWriter,
    Unavailable,
)
from interlock.domain.events import Event
from interlock.domain.ledger import KEPT_REPLIES, asked_for, reply_of
from interlock.domain.loads import pending_effects
from interlock.domain.recording import Head, Recorded
from interlock.domain.snapshots import take_snapshot
from interlock.domain.standing import asked_again, last_word
from interlock.domain.units import SECOND

from .clock import Clock
from .lease import Lease
from .repeats import Repeats
from .store_threads import StoreThreads

log = logging.getLogger(__name__)

DECISIONS_PER_BATCH = 512
QUEUED_COMMANDS = 20_000
"""So many commands may wait to be decided; more are turned away."""
ACQUIRE_LIMIT_S = 10.0
"""A request's command that the store has not taken after so long counts as undecided. About the gateway's own patience
with a writer that is away: a store that hangs is told to clients no later than a writer that is gone."""
SNAPSHOT_EVENTS = 10_000
_DECISIONS_PER_TURN = 64
"""After so many decisions everything else on the event loop gets its turn."""
_TRIES = 3
"""A command whose batch the store rejects so often, though it answers, is given up: the store cannot take it."""
_RECOVERIES = 50
"""After so many failed appends in a row the term ends."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0
_DOUBT_S = 60.0
"""For so long after a takeover any command may be a repeat of one that the former term decided."""
_IDLE_TICK_US = SECOND
"""When a due timer brings no event it is looked at again after this."""

Committed = Callable[[Sequence[Recorded], Sequence[Event]], None]
"""Hears of every batch once it is stored and folded. Must return at once, and not raise."""


class Job:
    """A command on its way through the writer, with whoever waits for its reply."""

    __slots__ = ("envelope", "reply", "resends", "tries")

    def __init__(self, envelope: Envelope, reply: asyncio.Future[AnyReply] | None, *, resends: bool = False) -> None:
        self.envelope = envelope
        self.reply = reply
        self.resends = resends
        """It begins an epoch: once it is stored, every pending effect is sent again."""
        self.tries = 0

    def answer(self, reply: AnyReply) -> None:
        """Give the reply, unless nobody waits any more."""
        if self.reply is not None and not self.reply.done():
            self.reply.set_result(reply)

    def fail(self, error: BaseException) -> None:
        """Give an error instead of a reply."""
        if self.reply is not None and not self.reply.done():
            self.reply.set_exception(error)


class Batch:
    """Decided commands that are stored together."""

    __slots__ = ("decided", "events", "recorded")

    def __init__(self) -> None:
        self.decided: list[tuple[Job, Outcome]] = []
        self.recorded: list[Recorded] = []
        self.events: list[Event] = []

    def add(self, job: Job, outcome: Outcome) -> None:
        """Take in one decision."""
        self.decided.append((job, outcome))
        self.recorded.extend(outcome.recorded)
        self.events.extend(outcome.events)


class Writer:
    """One term. ``committed`` is the state of what is stored: what readers may see.

    ``dispatch`` takes effects that may leave now; ``listeners`` hear of each stored batch.
    """

    def __init__(
        self,
        store: StoreThreads,
        engine: Engine,
        lease: Lease,
        clock: Clock,
        *,
        name: str,
        dispatch: Callable[[Iterable[Effect]], None],
        listeners: Sequence[Committed] = (),
        reach: Callable[[str], None] = lambda point: None,
        snapshot_events: int = SNAPSHOT_EVENTS,
    ) -> None:
        self.committed = engine
        self.lease = lease
        self._store, self._clock, self._name, self._reach = store, clock, name, reach
        self._dispatch, self._listeners = dispatch, listeners
        self._ahead = engine.fork()
        self._queue: deque[Job] = deque()
        self._open = Batch()
        self._sent: Batch | None = None
        self._append: ThreadFuture[Head] | None = None
        self._ends: dict[str, list[asyncio.Future[AnyReply]]] = {}
        self._repeats = Repeats()
        self._doubt_until = clock.monotonic() + _DOUBT_S if len(engine.ledger.replies) >= KEPT_REPLIES - 1 else 0.0
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._not_before = 0
        self._batch_limit = DECISIONS_PER_BATCH
        self._failures = 0
        self._stopping = False
        self._ended: InterlockError | None = None
        self.defect: tuple[str, InvariantBroken] | None = None
        """The command that the core could not decide, if one has ended the term."""
        self._snapshot_events = snapshot_events
        self._snapshot_at = engine.ledger.position
        self._snapshot: asyncio.Task[None] | None = None

    # --- The commands' door -------------------------------------------------------------------------------------------

    @property
    def leads(self) -> bool:
        """Whether it takes commands."""
        return self._ended is None and not self._stopping

    @property
    def epoch(self) -> int:
        """The epoch that it writes under."""
        return self.lease.epoch

    @property
    def queued(self) -> int:
        """Commands that wait to be decided or stored."""
        sent = len(self._sent.decided) if self._sent is not None else 0
        return len(self._queue) + len(self._open.decided) + sent

    @property
    def undecided(self) -> int:
        """Commands that wait to be decided."""
        return len(self._queue)

    async def send(self, envelope: Envelope) -> AnyReply:
        """Have the command decided; returns when its events are stored. Raises NoWriter when the term ends first."""
        recalled = await self._look_up(envelope)
        return recalled if recalled is not None else await self.submit(envelope)

    async def acquire(self, envelope: Envelope, within_s: float = ACQUIRE_LIMIT_S) -> AnyReply:
        """The same, and where the reply is that the request waits, its end: a lock or a refusal.

        A repeat does not get a lock that has ended since: it is told so, as ``cancelled``. Raises NoWriter, too, when
        after ``within_s`` the store has taken nothing of it: the caller cannot tell such a writer from none.
        """
        request = asked_for(envelope.command)
        end: asyncio.Future[AnyReply] = asyncio.get_running_loop().create_future()
        self._ends.setdefault(request, []).append(end)
        again = envelope.command_id in self._ahead.ledger.replies
        try:
            reply = await self._sent_within(envelope, within_s)
            if isinstance(reply, Waiting):
                past = None if end.done() else await self._past_end(envelope.command)
                reply = past if past is not None else await end
            return await self._if_it_stands(reply, envelope.command) if again else reply
        finally:
            self._forget(request, end)

    async def _sent_within(self, envelope: Envelope, within_s: float) -> AnyReply:
        try:
            async with asyncio.timeout(within_s):
                return await self.send(envelope)
        except TimeoutError:
            words = f"the writer could not store what it decided within {within_s:g} s."
            raise NoWriter(words, cure="Sending the same command again is safe. Is the event store there?") from None

    def put(self, envelope: Envelope) -> None:
        """Have a command decided that nobody waits for. Does nothing when the term has ended."""
        if self.leads:
            self._queue.append(Job(envelope, None))
            self._wake.set()

    def submit(self, envelope: Envelope) -> asyncio.Future[AnyReply]:
        """Have a command decided that is no repeat; the reply comes once its events are stored."""
        if not self.leads:
            raise NoWriter("this writer has stopped leading.")
        if len(self._queue) >= QUEUED_COMMANDS:
            raise NoWriter(f"the writer has {QUEUED_COMMANDS} commands queued.", cure="Try again later.")
        reply: asyncio.Future[AnyReply] = asyncio.get_running_loop().create_future()
        self._queue.append(Job(envelope, reply))
        self._wake.set()
        return reply

    def _forget(self, request: str, end: asyncio.Future[AnyReply]) -> None:
        waiting = self._ends.get(request)
        if waiting is not None:
            waiting.remove(end)
            if not waiting:
                del self._ends[request]

    async def _look_up(self, envelope: Envelope) -> AnyReply | None:
        """The reply to a command that was decided before the ledger's memory begins; None when it was not."""
        command_id = envelope.command_id
        if command_id in self._ahead.ledger.replies:
            return None
        if not (self._repeats.may_know(command_id) or self._clock.monotonic() < self._doubt_until):
            return None
        recorded = await self._store.find_command(command_id)
        return await self._reply_from(recorded, envelope.command) if recorded else None

    async def _reply_from(self, recorded: Sequence[Recorded], command: Command) -> AnyReply:
        told = self._last_word(recorded, command) or Done()
        return await self._if_it_stands(asked_again(self.committed.state, command, told), command)

    async def _if_it_stands(self, reply: AnyReply, command: Command) -> AnyReply:
        """The reply, unless it is a lock of a request that has ended since."""
        if isinstance(reply, Locked) and reply.request not in self.committed.state.requests:
            return await self._past_end(command) or reply
        return reply

    def _last_word(self, recorded: Sequence[Recorded], command: Command) -> AnyReply | None:
        events = (decode_event(one.topic, one.state) for one in recorded)
        about = (event for event in events if getattr(event, "request", "") == asked_for(command))
        return last_word(about, self.committed.state, getattr(command, "holder", ""))

    async def _past_end(self, command: Command) -> AnyReply | None:
        """The end of a request whose wait is recalled rather than begun now; None while it still waits."""
        request = asked_for(command)
        wait = Waiting(request=request, kind="")
        reply: AnyReply | None = asked_again(self.committed.state, command, wait)
        if reply is wait:
            reply = self._last_word(await self._store.events_of_request(request), command)
        return reply if isinstance(reply, Locked | Rejected) else None

    # --- The term -----------------------------------------------------------------------------------------------------

    async def lead(self) -> None:
        """Lead until :meth:`stop`; every waiter has its answer when this returns or raises.

        Raises Fenced when another writer has taken over, Unavailable when the store does not come back, and
        InvariantBroken for a defect of ours.
        """
        self._begin_epoch()
        keeping = asyncio.create_task(self.lease.keep())
        keeping.add_done_callback(lambda task: self._wake.set())
        try:
            while not (self._stopping and not self.queued):
                if keeping.done():
                    keeping.result()
                await self._turn()
        except InterlockError as error:
            self._ended = error
            raise
        finally:
            keeping.cancel()
            self._end()

    async def stop(self) -> None:
        """Take no more commands; those taken are still decided and stored, and then :meth:`lead` returns."""
        self._stopping = True
        self._wake.set()

    async def _turn(self) -> None:
        self._wake.clear()
        if self._append is not None and self._append.done():
            await self._settle(self._append)
        self._decide()
        if self._append is None and self._open.decided:
            await self._send()
        room = len(self._open.decided) < self._batch_limit
        if self._queue and room:
            await asyncio.sleep(0)
        elif self._append is not None and self._append.done():
            return
        elif not (self._stopping and not self.queued):
            self._set_timer()
            await self._wake.wait()

    def _end(self) -> None:
        """The term is over: nobody is left without an answer."""
        self._ended = self._ended or NoWriter("the writer has stopped.")
        if self._timer is not None:
            self._timer.cancel()
        gone = NoWriter(f"the writer has stopped leading: {self._ended}", cure="Send the same command again.")
        lost = [job for job, _ in (self._sent.decided if self._sent else [])]
        for job in [*lost, *(job for job, _ in self._open.decided), *self._queue]:
            job.fail(gone)
        self._queue.clear()
        left = NoWriter(gone.message, cure=gone.cure, taken=True)
        for ends in self._ends.values():
            for end in ends:
                if not end.done():
                    end.set_exception(left)
                    end.exception()  # it may be that nobody asks for it any more

    # --- Deciding -----------------------------------------------------------------------------------------------------

    def _begin_epoch(self) -> None:
        """Put the epoch's own first command before all others."""
        epoch = self.lease.epoch
        start = Envelope(command_id=f"epoch-{epoch}", command=StartEpoch(epoch=epoch, writer=self._name))
        self._queue.appendleft(Job(start, None, resends=True))

    def _decide(self) -> None:
        now = self._clock.now()
        due = self._ahead.next_wakeup()
        if due is not None and due <= now and now >= self._not_before and not self._starting:
            self._tick(now)
        for _ in range(min(_DECISIONS_PER_TURN, self._batch_limit - len(self._open.decided))):
            if not self._queue:
                break
            job = self._queue.popleft()
            try:
                outcome = self._ahead.handle(job.envelope, now)
            except Exception as error:
                # Any error here is a defect: what the core rejects comes back as a reply.
                broken = InvariantBroken(f"Deciding {job.envelope.command_id} failed: {type(error).__name__}: {error}")
                job.fail(broken)
                self.defect = (job.envelope.command_id, broken)
                raise broken from error
            if outcome.recorded:
                self._repeats.add(job.envelope.command_id)
            self._open.add(job, outcome)

    @property
    def _starting(self) -> bool:
        return bool(self._queue) and self._queue[0].resends

    def _tick(self, now: int) -> None:
        outcome = self._ahead.tick(now)
        if outcome.recorded:
            self._open.add(Job(Envelope(command_id=outcome.recorded[0].command_id, command=Tick()), None), outcome)
        else:
            self._not_before = now + _IDLE_TICK_US

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._ahead.next_wakeup()
        if due is not None:
            delay_s = max(0.0, (max(due, self._not_before) - self._clock.now()) / SECOND)
            self._timer = asyncio.get_running_loop().call_later(min(delay_s, 3600.0), self._wake.set)

    # --- Storing ------------------------------------------------------------------------------------------------------

    async def _send(self) -> None:
        """Hand the open batch to the store; one that has no events is answered at once, nothing being ahead of it."""
        batch, self._open = self._open, Batch()
        self._reach("decide")
        if not batch.recorded:
            await self._deliver(batch)
            return
        self._sent = batch
        loop = asyncio.get_running_loop()
        self._append = self._store.append(batch.recorded, self.lease.epoch)
        self._append.add_done_callback(lambda done: loop.call_soon_threadsafe(self._wake.set))

    async def _settle(self, append: ThreadFuture[Head]) -> None:
        """The append has ended: deliver its batch, or recover."""
        batch, self._append = self._sent, None
        assert batch is not None
        error = append.exception()
        if error is None:
            self._failures = 0
            self._sent = None
            try:
                await self._deliver(batch)
            except BaseException:
                self._sent = batch
                raise
            if not self._queue or self._queue[0].tries == 0:
                self._batch_limit = DECISIONS_PER_BATCH
        else:
            await self._recover(error)

    async def _deliver(self, batch: Batch) -> None:
        """Fold what is stored, and only then let out what follows from it."""
        if not self.lease.holds:
            # Too late for the last renewal: without a fresh one nothing is acknowledged.
            await self.lease.renew()
        for recorded, event in zip(batch.recorded, batch.events, strict=True):
            self.committed.fold(recorded, event)
        self._reach("reply")
        for job, outcome in batch.decided:
            job.answer(outcome.reply)
            for request, reply in outcome.answers.items():
                self._answer(request, reply)
        self._tell(batch.recorded, batch.events)
        self._reach("effect")
        for job, outcome in batch.decided:
            self._dispatch(pending_effects(self.committed.state) if job.resends else outcome.effects)
        self._maybe_snapshot()

    def _answer(self, request: str, reply: AnyReply) -> None:
        for end in self._ends.get(request, ()):
            if not end.done():
                end.set_result(reply)

    def _tell(self, recorded: Sequence[Recorded], events: Sequence[Event]) -> None:
        if recorded:
            for listener in self._listeners:
                listener(recorded, events)

    # --- When an append fails -----------------------------------------------------------------------------------------

    async def _recover(self, error: BaseException) -> None:
        """Find out what is stored, and decide again what is not; raises when this term cannot go on."""
        if isinstance(error, Fenced) or not isinstance(error, Exception):
            raise error
        self._failures += 1
        log.warning("an append of %d events failed: %s", len(self._sent.recorded) if self._sent else 0, error)
        if self._failures > _RECOVERIES:
            raise Unavailable(f"{self._failures} appends in a row failed; the last: {error}") from error
        sent = self._sent
        assert sent is not None
        if not isinstance(error, Unavailable | CommitUnknown):
            self._suspect(sent, error)
        await self._take_again()
        stored = {recorded.event_id: event for recorded, event in zip(sent.recorded, sent.events, strict=True)}
        await self._read_tail(stored)
        lost = [job for batch in (sent, self._open) for job, _ in batch.decided]
        lost = [job for job in lost if not job.resends and not isinstance(job.envelope.command, Tick)]
        if isinstance(error, EventConflict):
            lost = await self._without_repeats(lost)
        self._sent, self._open = None, Batch()
        self._queue.extendleft(reversed(lost))
        self._ahead = self.committed.fork()
        self._begin_epoch()

    async def _without_repeats(self, jobs: list[Job]) -> list[Job]:
        """Those that were not stored before. The others are repeats that only the store's own keys have recognised."""
        fresh = []
        for job in jobs:
            known = job.envelope.command_id in self.committed.ledger.replies
            recorded = [] if known else await self._store.find_command(job.envelope.command_id)
            if recorded:
                job.answer(await self._reply_from(recorded, job.envelope.command))
            else:
                fresh.append(job)
        return fresh

    def _suspect(self, batch: Batch, error: Exception) -> None:
        """The store answers and does not take the batch: find the command in it that is to blame."""
        self._batch_limit = 1
        for job, _ in batch.decided:
            job.tries += 1
        blamed, _ = batch.decided[0]
        if len(batch.decided) == 1 and blamed.tries >= _TRIES:
            if blamed.reply is None:
                raise InvariantBroken(f"The store does not take {blamed.envelope.command_id}: {error}") from error
            blamed.answer(Rejected(code="failed", message=f"The event store does not take it: {error}"))
            batch.decided.clear()

    async def _take_again(self) -> None:
        """A new epoch, as soon as the store answers; raises its error when that takes two leases."""
        pause_s = _FIRST_PAUSE_S * min(self._failures, 25)
        give_up_at = self._clock.monotonic() + 2 * self.lease.length_s
        while True:
            try:
                await self.lease.take()
                return
            except LeaseHeld as error:
                raise Fenced(f"another writer leads: {error}") from error
            except Unavailable:
                if self._clock.monotonic() > give_up_at:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _read_tail(self, known: dict[str, Event]) -> None:
        """Fold what the log holds beyond the committed state, and answer whoever waits for it."""
        while page := await self._store.page(self.committed.ledger.position):
            events: list[Event] = []
            for recorded in page:
                event = self.committed.fold(recorded, known.get(recorded.event_id))
                events.append(event)
                reply = reply_of(event, self.committed.state)
                if reply is not None and not isinstance(reply, Waiting):
                    self._answer(recorded.request_id, reply)
            self._tell(page, events)

    # --- Snapshots ----------------------------------------------------------------------------------------------------

    def _maybe_snapshot(self) -> None:
        if self.committed.ledger.position - self._snapshot_at < self._snapshot_events:
            return
        if self._snapshot is None or self._snapshot.done():
            self._snapshot_at = self.committed.ledger.position
            self._snapshot = asyncio.create_task(self.save_snapshot())

    async def save_snapshot(self) -> None:
        """Keep a snapshot of the committed state. One that cannot be kept only makes the next start slower."""
        frozen = self.committed.fork()
        try:
            await self._store.save_snapshot(lambda: take_snapshot(frozen))
        except (Unavailable, InterlockError) as error:
            log.warning("the snapshot at position %d was not kept: %s", frozen.ledger.position, error)
        except Exception:
            # A defect of ours; the log has everything, and a writer that ended for it would end again.
            log.exception("the snapshot at position %d cannot be made", frozen.ledger.position)
