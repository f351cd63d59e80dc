"""A request's life between its arrival and its release: one :class:`Claim` owns the lock, and ends it once.

By construction: only ``Claim`` sends the command that ends a request, in one place, guarded by one flag; the sending
runs in a task of its own, so that no cancellation reaches it, and repeats the same command id until a writer has
answered, so that a repeat changes nothing. A gateway that dies stops renewing its holder's lease; the core releases.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import TypeVar

from interlock.domain.commands import (
    CLIENT_ACTOR,
    AcquireLock,
    AnyReply,
    CancelRequest,
    Command,
    Done,
    Envelope,
    Locked,
    ReleaseLock,
    ReportBackendGone,
    Waiting,
)
from interlock.domain.errors import (
    BackendDeclined,
    BackendFailed,
    BackendGone,
    Conflict,
    InterlockError,
    InvariantBroken,
    NoWriter,
    UsageError,
)
from interlock.domain.ports import CommandPort
from interlock.domain.units import SECOND

from .config import GatewayConfig
from .ids import Ids, RequestIds
from .metrics import GatewayMetrics
from .ports import QueryPort
from .problems import Cancelled, GatewayStops, RequestRefused, rejection
from .refrain import Refrain

log = logging.getLogger("interlock.gateway")

_T = TypeVar("_T")
_MOST_ROUTES = 64
"""The core's attempt budget ends a request long before; this bounds a core that does not."""
_MOST_NAMES = 3
_GRACE = 5 * SECOND
"""How much later than the core the gateway gives up a wait, so that the core's own refusal comes first."""
_LONGEST_BETWEEN_RENEWALS = 10 * SECOND
"""However long the lease is: an operator may shorten it, and a new writer then gives but the shorter one."""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.02, 1.0
_COMPLAINT_SECONDS = 10.0
_LOOK_UP_SECONDS = 1.0
_LEFT, _STOPPED = "client left", "the gateway stopped"
_LOADING_CODES = frozenset({"loading", "capacity_exhausted"})


class Claims:
    """All claims of one gateway run, under one holder id whose lease it renews."""

    def __init__(
        self, commands: CommandPort, queries: QueryPort, config: GatewayConfig, ids: RequestIds, metrics: GatewayMetrics
    ) -> None:
        self.commands, self.queries, self.config, self.ids, self.metrics = commands, queries, config, ids, metrics
        self.holder = f"gw-{ids.run}"
        self.refrain = Refrain()
        self._serial = itertools.count(1)
        self._unsettled: set[asyncio.Task[None]] = set()
        self.live: set[Claim] = set()
        """Those that wait or run."""
        self.stopping = False
        self._complained_at = -_COMPLAINT_SECONDS

    @property
    def unsettled(self) -> int:
        """How many requests are over without a confirmed release."""
        return len(self._unsettled)

    def envelope(self, command: Command, ids: Ids, actor: str = CLIENT_ACTOR) -> Envelope:
        """``command`` under a fresh command id."""
        return Envelope(
            command_id=f"{self.holder}.{next(self._serial)}",
            command=command,
            actor=actor,
            correlation_id=ids.correlation,
            request_id=ids.request,
        )

    def claim(
        self,
        model: str,
        ids: Ids,
        wait: int | None = None,
        prefix: tuple[int, ...] = (),
        *,
        tenant: str = "",
        priority: int = 0,
    ) -> Claim:
        """A claim on ``model``, to be entered with ``async with``. ``wait`` in µs bounds the wait for a lock.

        ``prefix`` are the marks of the prompt.
        """
        return Claim(self, model, ids, wait, prefix, tenant, priority)

    async def is_taken(self, request: str) -> bool:
        """Whether the log has a request of that id; where that cannot be found out soon, it may have."""
        try:
            async with asyncio.timeout(_LOOK_UP_SECONDS):
                return await self.queries.is_taken(request)
        except (InterlockError, TimeoutError):
            return True

    def settle(self, envelope: Envelope) -> asyncio.Task[None]:
        """Have ``envelope`` decided, however long that takes, whoever is cancelled meanwhile."""
        task = asyncio.create_task(self._settle(envelope))
        self._unsettled.add(task)
        task.add_done_callback(self._unsettled.discard)
        return task

    async def _settle(self, envelope: Envelope) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                await self.commands.send(envelope)
                return
            except Exception as error:
                # Any error leaves open whether it was decided; the same command id makes asking again harmless. It ends
                # with the gateway at the latest, and then the holder's lease releases.
                if pause >= _LONGEST_PAUSE_SECONDS or not isinstance(error, NoWriter):
                    self._complain(envelope, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _complain(self, envelope: Envelope, error: Exception) -> None:
        """Say that releases are not confirmed: one line now and then, however many requests wait for it."""
        now = time.monotonic()
        if now - self._complained_at < _COMPLAINT_SECONDS:
            return
        self._complained_at = now
        log.warning(
            "%d releases are not confirmed yet and are sent again, %s of %s among them: %s",
            len(self._unsettled),
            envelope.command_id,
            envelope.request_id,
            error,
        )

    async def renew_forever(self) -> None:
        """Keep the holder's lease; runs as long as the gateway. Its length is what the writer last said it is."""
        lease = self.config.holder_lease
        while True:
            try:
                renewed = await self.commands.renew_lease(self.holder)
                lease = renewed.lease or lease
                for request in renewed.ended:
                    self.end(request)
                pause = min(lease / 3, _LONGEST_BETWEEN_RENEWALS) / SECOND
            except Exception as error:
                log.warning("the lease of holder %s was not renewed: %s", self.holder, error)
                pause = min(lease / SECOND / 3, _LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause)

    def end(self, request: str) -> None:
        """Break off the call of a request whose claim an operator has ended; its client is told."""
        for claim in [claim for claim in self.live if claim.ids.request == request and not claim.waits]:
            claim.stop(Cancelled("this request was ended by an operator.", cure="Ask them why, or send it again."))

    async def stop(self) -> None:
        """Take no more: who waits is told so at once, who runs has ``drain_limit`` to end; again changes nothing."""
        if self.stopping:
            return
        self.stopping = True
        for claim in [claim for claim in self.live if claim.waits]:
            claim.stop()
        await self._until_none(self.config.drain_limit)
        for claim in list(self.live):
            claim.stop()
        await self._until_none(self.config.release_patience)

    async def _until_none(self, limit: int) -> None:
        """Wait until no claim is left, for so long at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit / SECOND):
                while self.live:
                    await asyncio.sleep(_FIRST_PAUSE_SECONDS)

    async def drain(self) -> None:
        """Let the releases under way be confirmed, within ``drain_limit``; what is left falls to the lease."""
        if self._unsettled:
            await asyncio.wait(set(self._unsettled), timeout=self.config.drain_limit / SECOND)
        for task in self._unsettled:
            task.cancel()
            log.warning("stopped before a release was confirmed; the lease of holder %s ends it", self.holder)


class Claim:
    """One request's claim: ``async with claim`` waits for its lock, and ends the request when the block is left.

    Entering raises RequestRefused (the core's no, or a wait too long) or NoWriter. The block reports how it went:
    normal end is served, an exception is failed, cancellation or a broken connection is cancelled.
    """

    def __init__(
        self,
        claims: Claims,
        model: str,
        ids: Ids,
        wait: int | None,
        prefix: tuple[int, ...] = (),
        tenant: str = "",
        priority: int = 0,
    ) -> None:
        self._claims = claims
        self._model = model
        self._prefix = prefix
        self._wait = wait
        self._tenant = tenant
        self._priority = priority
        self._open = False
        """Whether the core may know this request as alive."""
        self._lock: Locked | None = None
        self._unled: tuple[NoWriter, float] | None = None
        """That no writer leads, and when that was last heard of the command under way."""
        self._since = time.perf_counter()
        self._task: asyncio.Task[object] | None = None
        self._stopped: InterlockError | None = None
        """Why the gateway ended this, where it did and no client."""
        self.ids = ids

    @property
    def lock(self) -> Locked:
        """The lock held now."""
        if self._lock is None:
            raise InvariantBroken("a claim has no lock outside its block")
        return self._lock

    @property
    def waits(self) -> bool:
        """Whether it has no lock now."""
        return self._lock is None

    def stop(self, why: InterlockError | None = None) -> None:
        """End this because the gateway stops, or for another reason; its client is told."""
        if self._task is not None and self._stopped is None:
            self._stopped = why or GatewayStops()
            self._task.cancel()

    @contextlib.contextmanager
    def told_of_stop(self) -> Iterator[None]:
        """Makes of the cancellation by :meth:`stop` an error that the client can be told."""
        try:
            yield
        except asyncio.CancelledError:
            if self._stopped is None or self._task is None:
                raise
            self._task.uncancel()
            raise self._stopped from None

    async def __aenter__(self) -> Claim:
        if self._claims.stopping:
            self._refused("gateway_stops")
            raise GatewayStops()
        self._task = asyncio.current_task()
        self._claims.live.add(self)
        try:
            with self.told_of_stop():
                return await self._enter()
        except BaseException:
            self._claims.live.discard(self)
            raise

    async def _enter(self) -> Claim:
        if self._tenant and (known := self._claims.refrain.repeated(self._tenant)) is not None:
            self._claims.metrics.repeated.add(self._tenant)
            self._refused(known.code)
            raise known
        if self._claims.ids.is_the_clients(self.ids) and await self._claims.is_taken(self.ids.request):
            self.ids = self._claims.ids.again(self.ids)
        patience = 0 if self._wait is None else self._wait or -1
        holder = self._claims.holder
        for _ in range(_MOST_NAMES):
            acquire = AcquireLock(
                request=self.ids.request, model=self._model, holder=holder, patience=patience, tenant=self._tenant,
                priority=self._priority, prefix=self._prefix,
            )  # fmt: skip
            try:
                await self._obtain(acquire)
                return self
            except RequestTaken:
                self.ids = self._claims.ids.again(self.ids)
        raise Conflict("No request id was free.", cure="Send another X-Request-Id.")

    async def reroute(self, gone: BackendGone) -> None:
        """Give back a lock whose backend is gone, and wait for the next one; raises as entering does."""
        lost = self.lock
        self._claims.metrics.reroutes.add()
        request, replica = self.ids.request, lost.replica
        report = ReportBackendGone(
            request=request, replica=replica, detail=gone.detail, answered=gone.answered, holder=self._claims.holder
        )
        await self._obtain(report)

    async def run(self, call: Callable[[Locked], Awaitable[_T]]) -> _T:
        """``call`` with the lock, and again with the next one as long as the backend turns out to be gone."""
        for _ in range(_MOST_ROUTES):
            try:
                return await call(self.lock)
            except BackendGone as gone:
                await self.reroute(gone)
        raise BackendFailed(f"{_MOST_ROUTES} backends in a row were gone.")

    async def _obtain(self, command: AcquireLock | ReportBackendGone) -> None:
        self._lock, self._open, self._unled = None, True, None
        claims = self._claims
        # The core counts from when it decides, for which a writer may have to be waited for.
        own = 2**62 if self._wait is None else self._wait + claims.config.writer_patience + _GRACE
        limit = min(claims.config.wait_limit, own)
        envelope = claims.envelope(command, self.ids)
        asked_at = claims.refrain.clock()
        try:
            async with asyncio.timeout(limit / SECOND):
                reply = await self._ask(envelope)
        except TimeoutError:
            self._end(CancelRequest(request=self.ids.request, reason="waited too long"))
            if self._unled is not None and time.monotonic() - self._unled[1] <= claims.config.writer_patience / SECOND:
                raise self._unled[0] from None  # nobody has decided it: that there is no room is not known
            raise await self._refusal(
                RequestRefused("capacity_exhausted", "No replica became free in time.", cure="Try again later.")
            ) from None
        except BaseException:
            # Cancelled, or no writer: it may have been decided, so the request must be ended there.
            self._end(CancelRequest(request=self.ids.request, reason=_STOPPED if self._stopped else _LEFT))
            raise
        if self._tenant and isinstance(command, AcquireLock):
            claims.refrain.told(self._tenant, reply, asked_at)
        if isinstance(reply, Locked):
            self._lock = reply
            now = time.perf_counter()
            claims.metrics.lock_seconds.observe(now - self._since)
            self._since = now
            return
        if isinstance(reply, Done | Waiting):
            # The core has nothing to route: this request was ended there, or its replica is on its way out.
            raise BackendFailed("The backend is gone, and the request was ended meanwhile.")
        if isinstance(command, AcquireLock):
            self._open = False
            if reply.code == "conflict":
                raise RequestTaken(reply.message)  # caught where the claim is entered: it asks under another id
            self._refused(reply.code)
        # A refused report stays open, and is ended as failed: a no may also mean that the core had nothing to route
        # and the lock still stands. Releasing what is not held changes nothing.
        error = rejection(reply)
        raise await self._refusal(error) if isinstance(error, RequestRefused) else error

    def _refused(self, code: str) -> None:
        self._claims.metrics.outcomes.add("refused")
        self._claims.metrics.refusals.add(code)

    async def _ask(self, envelope: Envelope) -> AnyReply:
        """The envelope's end, asked again while no writer leads, for ``writer_patience`` at a stretch."""
        patience = self._claims.config.writer_patience / SECOND
        pause, started = _FIRST_PAUSE_SECONDS, time.monotonic()
        while True:
            try:
                return await self._claims.commands.acquire(envelope)
            except NoWriter as error:
                now = time.monotonic()
                self._unled = error, now
                if error.taken:
                    started = now  # a writer was there and left, perhaps after a long wait
                elif now - started >= patience:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _refusal(self, error: RequestRefused) -> RequestRefused:
        """The refusal, told with the load in progress where there is one."""
        if error.code in _LOADING_CODES:
            with contextlib.suppress(Exception):  # the refusal must reach the client even when the detail cannot
                error.loading = await self._claims.queries.load_status(self._model)
        return error

    def _end(self, command: ReleaseLock | CancelRequest) -> asyncio.Task[None] | None:
        """End the request in the core: the one place that does, and it does so once."""
        if not self._open:
            return None
        self._open = False
        outcome = command.outcome if isinstance(command, ReleaseLock) else "cancelled"
        self._claims.metrics.outcomes.add(outcome)
        return self._claims.settle(self._claims.envelope(command, self.ids))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        request = self.ids.request
        if error is None:
            command = ReleaseLock(request=request)
        elif self._stopped is not None:
            command = ReleaseLock(request=request, outcome="cancelled", detail=_STOPPED)
        elif isinstance(error, asyncio.CancelledError | ConnectionError | GeneratorExit):
            command = ReleaseLock(request=request, outcome="cancelled", detail=_LEFT)
        elif isinstance(error, BackendDeclined | UsageError):
            # The caller asked for what the model cannot do: neither the replica nor the cluster has failed.
            command = ReleaseLock(request=request, outcome="declined", detail=str(error)[:1000])
        else:
            command = ReleaseLock(request=request, outcome="failed", detail=str(error)[:1000])
        now = time.perf_counter()
        metrics = self._claims.metrics
        metrics.backend_seconds.observe(now - self._since)
        try:
            if (ending := self._end(command)) is not None:
                # wait() leaves the task alone when this is cancelled, or when patience runs out.
                await asyncio.wait((ending,), timeout=self._claims.config.release_patience / SECOND)
                metrics.release_seconds.observe(time.perf_counter() - now)
        finally:
            self._claims.live.discard(self)


class RequestTaken(Exception):
    """The log knows a live request of this id already."""
