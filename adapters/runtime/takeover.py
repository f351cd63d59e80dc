"""A seat in the cluster: a warm standby that follows the log, and takes over when nobody leads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from interlock.adapters.http.ports import Sample
from interlock.domain.commands import (
    AcquireLock,
    AnyReply,
    Command,
    Done,
    Envelope,
    Locked,
    Rejected,
    ReleaseLock,
    ReportBackendGone,
    ReportHeard,
    Waiting,
)
from interlock.domain.contact import heartbeat_of, heartbeats_every
from interlock.domain.engine import Engine
from interlock.domain.errors import (
    Fenced,
    InvariantBroken,
    LeaseHeld,
    NoWriter,
    Unavailable,
    UnknownEvent,
    sentences,
)
from interlock.domain.events import Event
from interlock.domain.ports import CommandPort, Renewal, WorkerPort
from interlock.domain.recording import Recorded
from interlock.domain.snapshots import restore
from interlock.domain.state import State

from .clock import Clock
from .events import EventFeed
from .lease import SILENCE_S, Lease
from .store_threads import StoreThreads
from .term import Term
from .writer import SNAPSHOT_EVENTS, Committed, Writer

log = logging.getLogger(__name__)

_SEND_LIMIT_S = 30.0
_LONGEST_PAUSE_S = 0.5
_DEFECTS = 3
"""After so many terms that a defect has ended, within the time below, the process ends too."""
_DEFECTS_WITHIN_S = 60.0
_FOLDS_PER_TURN = 500
_HOT = (AcquireLock, ReleaseLock, ReportBackendGone)


class Seat:
    """This process's place in the cluster: ``CommandPort`` and ``LivenessPort`` for its gateway.

    ``owner`` names this run of this process, ``opening`` gives the commands that a term begins with, ``expected`` the
    nodes that must have registered before the cluster counts as ready. ``forward`` reaches the writer elsewhere, while
    there is a ``broker``.
    """

    def __init__(
        self,
        store: StoreThreads,
        workers: WorkerPort,
        clock: Clock,
        *,
        owner: str,
        lease_us: int,
        expected: Sequence[str] = (),
        opening: Callable[[Engine], Iterable[Envelope]] = lambda engine: (),
        forward: CommandPort | None = None,
        broker: Callable[[], bool] = lambda: True,
        listeners: Sequence[Committed] = (),
        reach: Callable[[str], None] = lambda point: None,
        snapshot_events: int = SNAPSHOT_EVENTS,
    ) -> None:
        self._store, self._workers, self._clock = store, workers, clock
        self._owner, self._lease = owner, Lease(store, owner, lease_us, clock)
        self._expected, self._opening, self._forward = expected, opening, forward
        self._reach, self._snapshot_events = reach, snapshot_events
        self._broker = broker
        self.feed = EventFeed(store)
        self._listeners = [self.feed.on_committed, *listeners]
        self._engine = Engine()
        self._term: Term | None = None
        self._registered: set[str] = set()
        self._following = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._poison: dict[str, InvariantBroken] = {}
        self._defects: list[float] = []
        self.loaded = asyncio.Event()
        """The log has been read once."""
        self.began, self.ended = asyncio.Event(), asyncio.Event()
        """Whether a term of this process runs, and the opposite."""
        self.opened = asyncio.Event()
        """Every command that the term begins with has its reply."""
        self.refused: list[Rejected] = []
        """Those replies that say no: what somebody has configured, and the cluster does not do."""
        self._why_not = "the log is being read"
        self._unheard = ""
        """Why the last renewal that was passed on was not answered; empty when it was."""

    # --- What others see ----------------------------------------------------------------------------------------------

    @property
    def term(self) -> Term | None:
        """The term, while this process leads."""
        return self._term

    @property
    def leads(self) -> bool:
        """Whether this process takes commands itself."""
        return self._term is not None and self._term.writer.leads

    def state(self) -> State:
        """The newest committed state that this process knows."""
        return self._term.writer.committed.state if self._term is not None else self._engine.state

    async def fork(self) -> Engine:
        """An engine of one's own, as new as this process can have it; a standby reads the log's end first."""
        if not self.loaded.is_set():
            raise NoWriter(self._no_writer, cure="Ask again in a moment.")
        if self._term is None:
            await self._catch_up()
        return (self._term.writer.committed if self._term is not None else self._engine).fork()

    def last_heard(self, node: str) -> int:
        """When the node was last heard here (µs since 1970); 0 for never."""
        return self._term.liveness.last_heard(node) if self._term is not None else 0

    def figures(self) -> list[Sample]:
        """Whether this process leads, and how its term goes."""
        leads = Sample("interlock_leader", int(self._term is not None), help="1 when this process is the writer.")
        return [leads, *(self._term.figures() if self._term is not None else ())]

    def lacks(self) -> list[str]:
        """What is missing before the cluster can serve; empty when it can."""
        term = self._term
        if (term is None or not self.leads) and (self._forward is None or not self._led_elsewhere):
            return [self._no_writer]
        silent_s = self._lease.silent_s
        away = [f"the event store has not answered for {silent_s:.0f} s."] if silent_s > SILENCE_S else []
        if term is None or not self.leads:
            return [*away, *self._cut_off()]
        lacks = [f"the configuration is refused: {sentences(one.message, one.cure)}" for one in self.refused]
        if not self.opened.is_set():
            lacks.append("the configuration is being put in force.")
        lacks += [f"node {node} has not said what it runs since the takeover." for node in term.liveness.unanswered()]
        missing = [node for node in self._expected if node not in term.liveness.registered]
        return [*away, *lacks, *(f"worker {node} has not registered." for node in missing)]

    def _cut_off(self) -> list[str]:
        """Why what a standby passes on would reach nobody."""
        if not self._broker():
            return ["the broker does not answer, and the writer is reached through it."]
        return [f"the writer does not answer: {self._unheard}"] if self._unheard else []

    @property
    def _no_writer(self) -> str:
        return f"no writer here: {self._why_not.rstrip('.')}."

    @property
    def _led_elsewhere(self) -> bool:
        return self._why_not.startswith("another")

    # --- CommandPort and LivenessPort ---------------------------------------------------------------------------------

    async def send(self, envelope: Envelope) -> AnyReply:
        """See the port."""
        term = self._heeded(envelope)
        if term is None:
            reply = await self._forwarded().send(envelope)
            if not isinstance(envelope.command, _HOT):
                await self._catch_up()
            return reply
        try:
            async with asyncio.timeout(_SEND_LIMIT_S):
                if isinstance(envelope.command, ReportBackendGone):
                    await term.liveness.make_sure(envelope.command)
                return await term.send(envelope)
        except TimeoutError:
            raise NoWriter(f"the writer did not answer within {_SEND_LIMIT_S:.0f} s.") from None

    async def acquire(self, envelope: Envelope) -> Locked | Rejected:
        """See the port."""
        term = self._heeded(envelope)
        if term is None:
            return await self._forwarded().acquire(envelope)
        if isinstance(envelope.command, ReportBackendGone):
            await term.liveness.make_sure(envelope.command)
        reply = await term.writer.acquire(envelope)
        if isinstance(reply, Done | Waiting):
            return Rejected(code="backend_failed", message="The request was ended while its backend was gone.")
        return reply

    async def renew_lease(self, holder: str) -> Renewal:
        """See the port."""
        if self._term is None and self._forward is None:
            # A gateway asks for this as soon as it listens: a takeover that is about to be is worth the wait.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.began.wait(), self._lease.length_s)
        if self._term is None:
            try:
                lease = await self._forwarded().renew_lease(holder)
            except NoWriter as error:
                self._unheard = error.message
                raise
            self._unheard = ""
            return lease
        return self._term.holders.renew(holder)

    async def heard(self, node: str, boot: str) -> int | None:
        """See the gateway's ``LivenessPort``. A standby passes it on to the writer."""
        if self._term is not None:
            return self._term.liveness.heard(node, boot)
        known = heartbeat_of(self._engine.state, node, boot)
        if known is None:
            await self._catch_up()
            known = heartbeat_of(self._engine.state, node, boot)
        if known is not None and self._forward is not None:
            # The writer counts the silence, and a heartbeat may hold nothing else that reaches it.
            command_id = f"heard-{node}-{known.boot}-{self._engine.ledger.position}"
            await self.send(Envelope(command_id=command_id, command=ReportHeard(node=node, boot=known.boot)))
            # Only now is it certain that no goodbye of it is in the log that had not been read here.
            known = heartbeat_of(self._engine.state, node, boot)
        return None if known is None else heartbeats_every(self._engine.state.settings)

    async def report(self, command: Command) -> None:
        """What workers tell unasked; raises NoWriter when this process does not lead, and another hears it."""
        if self._term is None:
            raise NoWriter("this process does not lead.")
        self._term.report(command)

    def _heeded(self, envelope: Envelope) -> Term | None:
        poison = self._poison.get(envelope.command_id)
        if poison is not None:
            raise poison
        if self._term is not None:
            self._term.heed(envelope)
        return self._term

    def _forwarded(self) -> CommandPort:
        if self._forward is None:
            raise NoWriter(self._no_writer, cure="Ask again in a moment.")
        return self._forward

    # --- Life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the log and lead whenever nobody else does, until :meth:`stop`.

        Raises StoreUnavailable when the store cannot be read at the start, UnknownEvent when the log is newer than this
        program, and InvariantBroken when defects end one term after the other.
        """
        await self._load()
        while not self._stopping.is_set():
            try:
                await self._catch_up()
                await self._lease.take()
            except LeaseHeld as error:
                self._why_not = f"another writer leads ({error.message})"
                await self._pause()
            except Unavailable as error:
                if self._why_not != str(error):
                    # Asked again twice a second: said once for each reason.
                    log.warning("cannot take over: %s", error)
                self._why_not = str(error)
                await self._pause()
            else:
                await self._lead()

    async def stop(self) -> None:
        """End the term, if this process leads; what was taken is still stored and answered."""
        self._stopping.set()
        if self._term is not None:
            await self._term.writer.stop()

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), min(_LONGEST_PAUSE_S, self._lease.length_s / 4))

    async def _lead(self) -> None:
        self._why_not = "it is taking over"
        keeping = asyncio.create_task(self._lease.keep())
        try:
            async with self._following:
                # Only what is read from now on is all that earlier writers have left.
                await self._read_on()
                # Nobody else folds into this engine from here on: it is the term's.
                term = self._term = self._new_term()
        except Unavailable as error:
            log.warning("gave up taking over: %s", error)
            return
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        opening = asyncio.create_task(self._open(term.writer, self._opening(self._engine)))
        self.ended.clear()
        self.began.set()
        if self._stopping.is_set():
            await term.writer.stop()
        log.info("leading under epoch %d from position %d", self._lease.epoch, self._engine.ledger.position)
        try:
            await self._lead_on(term)
        finally:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            self.opened.clear()
            self._term = None
            self.began.clear()
            self.ended.set()

    async def _open(self, writer: Writer, commands: Iterable[Envelope]) -> None:
        """See what becomes of the commands that the term begins with: nobody else waits for their replies."""
        self.refused = []
        try:
            replies = [writer.submit(command) for command in commands]
        except NoWriter:
            return  # it was told to stop as it began
        for reply in await asyncio.gather(*replies, return_exceptions=True):
            if isinstance(reply, Unavailable):
                return  # the term has ended, and the next one asks again
            if isinstance(reply, BaseException):
                reply = Rejected(code="failed", message=str(reply))
            if isinstance(reply, Rejected):
                self.refused.append(reply)
                log.error("the configuration is refused: %s", sentences(reply.message, reply.cure))
        self.opened.set()

    def _new_term(self) -> Term:
        return Term(
            self._store,
            self._engine,
            self._lease,
            self._workers,
            self._clock,
            name=self._owner,
            listeners=self._listeners,
            reach=self._reach,
            snapshot_events=self._snapshot_events,
            registered=self._registered,
        )

    async def _lead_on(self, term: Term) -> None:
        """Run the term to its end, and be a standby again."""
        try:
            await term.run()
        except Fenced as error:
            self._why_not = "another writer has taken over"
            log.warning("no longer leading: %s", error)
        except Unavailable as error:
            self._why_not = str(error)
            log.error("no longer leading: %s", error)
            await self._lease.give_back()
        except Exception as error:
            await self._after_defect(term, error)
        else:
            await term.writer.save_snapshot()
            await self._lease.give_back()

    async def _after_defect(self, term: Term, error: Exception) -> None:
        """A defect ends the term; what is in the log is good, and the next term begins from it alone."""
        self._why_not = f"a defect ended its term: {error}"
        log.critical("a defect ended the term", exc_info=error)
        await self._lease.give_back()
        if term.writer.defect is not None:
            command_id, broken = term.writer.defect
            self._poison[command_id] = broken
        now = self._clock.monotonic()
        self._defects = [*(then for then in self._defects if now - then < _DEFECTS_WITHIN_S), now]
        if len(self._defects) > _DEFECTS:
            raise InvariantBroken(
                f"{len(self._defects)} terms in a row ended by a defect; the last: {error}"
            ) from error
        await self._load()

    # --- The log ------------------------------------------------------------------------------------------------------

    async def _load(self) -> None:
        """The newest snapshot that this program can read, or none, and the log after it."""
        snapshots = await self._store.read(self._store.store.load_snapshots)
        engine = Engine()
        for snapshot in snapshots:
            try:
                engine = await self._store.read(partial(restore, snapshot))
                break
            except UnknownEvent as error:
                log.info("snapshot at position %d: %s", snapshot.position, error)
            except ValueError as error:
                log.warning("snapshot at position %d cannot be read: %s", snapshot.position, error)
        try:
            self._engine = await self._store.read(lambda: engine.replay(self._store.store.read(engine.ledger.position)))
        except UnknownEvent as error:
            raise _too_old(error) from error
        self.feed.begin(self._engine.ledger.position)
        self.loaded.set()

    async def _catch_up(self) -> None:
        """Fold what has been stored since the last look."""
        async with self._following:
            if self._term is None:
                await self._read_on()

    async def _read_on(self) -> None:
        while page := await self._store.page(self._engine.ledger.position):
            for start in range(0, len(page), _FOLDS_PER_TURN):
                self._fold(page[start : start + _FOLDS_PER_TURN])
                await asyncio.sleep(0)

    def _fold(self, page: Sequence[Recorded]) -> None:
        events: list[Event] = []
        for recorded in page:
            try:
                events.append(self._engine.fold(recorded))
            except UnknownEvent as error:
                raise _too_old(error) from error
        for listener in self._listeners:
            listener(page, events)


def _too_old(error: UnknownEvent) -> UnknownEvent:
    return UnknownEvent(
        f"This program cannot lead: the log holds what it does not know. {error.message}", cure="Upgrade Interlock."
    )
