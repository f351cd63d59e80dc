"""Commands from gateways to the writer over ``interlock.commands``, many per message, in msgpack or JSON.

A gateway puts what its requests ask in one turn of its loop into one message. The writer answers each call by itself,
as soon as it is decided and durable, to the message's reply subject; what takes longer it acknowledges first. A call
that hears nothing is sent again: the writer, or its successor, knows the command's id and says how its request stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Union, cast

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from interlock.domain import errors
from interlock.domain.commands import AnyReply, Command, Envelope, Locked, Rejected
from interlock.domain.ports import CommandPort, Renewal

from . import subjects
from .connection import settle

log = logging.getLogger(__name__)

_ACCEPT_AFTER_S = 0.1
_PACE_S = 0.25
_MAX_CALLS = 256
"""Calls in one message: some 64 KiB of it."""

if TYPE_CHECKING:
    AnyCommand = Command
else:

    def _all(cls: type[Command]) -> Iterable[type[Command]]:
        for kind in cls.__subclasses__():
            yield kind
            yield from _all(kind)

    AnyCommand = Union[tuple(_all(Command))]  # noqa: UP007  # made from a list that only exists at run time


class SentEnvelope(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An envelope on the wire; its command's class is told by its tag."""

    command_id: str
    command: AnyCommand
    actor: str = "interlock"
    correlation_id: str = ""
    causation_id: str = ""
    request_id: str = ""


class Call(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One call: ``send`` or ``acquire`` with an envelope, or ``renew`` with a holder. ``id`` is the gateway's own."""

    id: int
    kind: str
    envelope: SentEnvelope | None = None
    holder: str = ""


class Batch(msgspec.Struct, kw_only=True):
    """What a gateway sends at once. ``gateway`` tells its calls from those of others, and of its earlier runs."""

    gateway: str
    calls: list[Call]


class Problem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An error of the writer: its class in :mod:`interlock.domain.errors`, and its words."""

    kind: str
    message: str
    cure: str = ""
    taken: bool = False
    """Of NoWriter: whether the command had been taken up."""


class Result(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What came of one call: ``accepted`` (the end follows), a reply, a problem, or, for ``renew``, how long the lease
    is (microseconds), and the requests of this holder that an operator has ended."""

    id: int
    accepted: bool = False
    reply: AnyReply | None = None
    problem: Problem | None = None
    lease: int = 0
    ended: tuple[str, ...] = ()


class Results(msgspec.Struct, kw_only=True):
    """What the writer sends at once. ``error``: the batch did not parse."""

    results: list[Result]
    error: str = ""


class _Pending:
    """A call that waits at the gateway. ``heard_at`` is when the writer last told of it, or when it was made."""

    def __init__(self, call: Call, now: float) -> None:
        self.call = call
        self.end: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.heard_at = now
        self.sent_at = now
        self.accepted = False
        self.taken = False
        """Whether a writer has ever told of it."""


class NatsCommands:
    """The command port over NATS, for gateways. Use it between :meth:`start` and :meth:`close`, in one event loop.

    ``answer_timeout_s`` without a word from any writer is NoWriter. A call that was not acknowledged is sent again
    after ``resend_s``, one that was after ``remind_s``: a successor would not know of it otherwise.
    """

    def __init__(
        self,
        client: Client,
        *,
        answer_timeout_s: float = 10.0,
        resend_s: float = 1.0,
        remind_s: float = 5.0,
        subject: str = subjects.COMMANDS,
    ) -> None:
        self._client = client
        self._answer_timeout_s = answer_timeout_s
        self._resend_s = resend_s
        self._remind_s = remind_s
        self._subject = subject
        self._gateway = secrets.token_hex(8)
        self._inbox = ""
        self._pending: dict[int, _Pending] = {}
        self._outbox: list[Call] = []
        self._ids = 0
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Results)
        self._subscription: Subscription | None = None
        self._pacer: asyncio.Task[None] | None = None
        self._flush: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen for answers."""
        self._inbox = self._client.new_inbox()
        self._subscription = await self._client.subscribe(self._inbox, cb=self._on_results)
        self._pacer = asyncio.create_task(self._pace(), name="command pacer")

    async def close(self) -> None:
        """Give up all calls that still wait, with NoWriter."""
        if self._pacer is not None:
            self._pacer.cancel()
            await asyncio.wait([self._pacer])
        for pending in self._pending.values():
            if not pending.end.done():
                pending.end.set_exception(errors.NoWriter("this gateway is closing."))
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error, OSError):
                await self._subscription.unsubscribe()

    async def send(self, envelope: Envelope) -> AnyReply:
        """Have the command decided; returns when its events are durable. Raises NoWriter."""
        result = await self._call("send", envelope=_to_wire(envelope))
        return cast(AnyReply, result.reply)

    async def acquire(self, envelope: Envelope) -> Locked | Rejected:
        """Send an AcquireLock and wait for its end. Raises NoWriter; cancelling the wait cancels nothing there."""
        result = await self._call("acquire", envelope=_to_wire(envelope))
        return cast("Locked | Rejected", result.reply)

    async def renew_lease(self, holder: str) -> Renewal:
        """Keep every lock of this holder; see the port. Raises NoWriter."""
        result = await self._call("renew", holder=holder)
        return Renewal(result.lease, result.ended)

    async def _call(self, kind: str, *, envelope: SentEnvelope | None = None, holder: str = "") -> Result:
        self._ids += 1
        call = Call(id=self._ids, kind=kind, envelope=envelope, holder=holder)
        pending = self._pending[call.id] = _Pending(call, asyncio.get_running_loop().time())
        self._post(call)
        try:
            result = await pending.end
        finally:
            del self._pending[call.id]
        if result.problem is not None:
            raise _error(result.problem)
        return result

    def _post(self, call: Call) -> None:
        """Put the call into the message that leaves at the end of this turn of the loop."""
        self._outbox.append(call)
        if self._flush is None:
            self._flush = asyncio.create_task(self._send_outbox())

    async def _send_outbox(self) -> None:
        self._flush = None
        calls, self._outbox = self._outbox, []
        for at in range(0, len(calls), _MAX_CALLS):
            batch = Batch(gateway=self._gateway, calls=calls[at : at + _MAX_CALLS])
            try:
                await self._client.publish(self._subject, self._encoder.encode(batch), reply=self._inbox)
            except (nats.errors.Error, OSError) as error:
                log.debug("commands not sent: %s", error)  # the pacer sends them again

    async def _pace(self) -> None:
        """Send again what was not heard of, and give up what was not heard of for too long."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_PACE_S)
            now = loop.time()
            for pending in list(self._pending.values()):
                if pending.end.done():
                    continue
                if now - pending.heard_at > self._answer_timeout_s:
                    pending.end.set_exception(
                        errors.NoWriter(
                            f"no writer has answered for {self._answer_timeout_s:g} s.",
                            cure="Sending the same command again is safe. Is the control plane running?",
                            taken=pending.taken,
                        )
                    )
                elif now - pending.sent_at > (self._remind_s if pending.accepted else self._resend_s):
                    pending.sent_at = now
                    pending.accepted = False
                    self._post(pending.call)

    async def _on_results(self, message: Msg) -> None:
        if not message.data:
            return  # "no responders": no writer listens now; the pacer decides
        try:
            results = self._decoder.decode(message.data)
        except msgspec.DecodeError as error:
            log.warning("an answer that does not parse: %s", error)
            return
        now = asyncio.get_running_loop().time()
        for result in results.results:
            pending = self._pending.get(result.id)
            if pending is None or pending.end.done():
                continue
            pending.heard_at = now
            if result.accepted:
                pending.accepted = pending.taken = True
            else:
                pending.end.set_result(result)


class CommandServer:
    """The writer's side: gives each call to ``handler`` and its end to the gateway."""

    def __init__(self, client: Client, handler: CommandPort, *, subject: str = subjects.COMMANDS) -> None:
        self._client = client
        self._handler = handler
        self._subject = subject
        self._subscription: Subscription | None = None
        self._running: dict[tuple[str, int], _Served] = {}
        self._outbox: dict[tuple[str, bool], list[Result]] = {}
        self._flush: asyncio.Task[None] | None = None
        self._decoders: dict[bool, Callable[[bytes], Batch]] = {
            True: msgspec.json.Decoder(Batch).decode,
            False: msgspec.msgpack.Decoder(Batch).decode,
        }

    async def start(self) -> None:
        """Take calls."""
        self._subscription = await self._client.subscribe(self._subject, cb=self._on_batch)
        with contextlib.suppress(nats.errors.Error, OSError):  # it follows with the connection
            await settle(self._client)

    async def close(self) -> None:
        """Take no more calls, and drop those in progress: their gateways ask again."""
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error, OSError):
                await self._subscription.unsubscribe()
        tasks = [served.task for served in self._running.values() if served.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._send_outbox()

    async def _on_batch(self, message: Msg) -> None:
        as_json = message.data[:1] in (b"{", b"[")  # never the first byte of a batch in msgpack
        try:
            batch = self._decoders[as_json](message.data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("commands that do not parse: %s", error)
            await self._publish(message.reply, as_json, Results(results=[], error=str(error)))
            return
        for call in batch.calls:
            key = (batch.gateway, call.id)
            served = self._running.get(key)
            if served is not None:
                served.reply_to = message.reply
                self._answer(served, Result(id=call.id, accepted=True))
                continue
            served = self._running[key] = _Served(message.reply, as_json)
            served.task = asyncio.create_task(self._serve(key, served, call))

    async def _serve(self, key: tuple[str, int], served: _Served, call: Call) -> None:
        accept = asyncio.get_running_loop().call_later(
            _ACCEPT_AFTER_S, self._answer, served, Result(id=call.id, accepted=True)
        )
        try:
            result = await self._handle(call)
        except errors.InterlockError as error:
            taken = isinstance(error, errors.NoWriter) and error.taken
            problem = Problem(kind=type(error).__name__, message=error.message, cure=error.cure, taken=taken)
            result = Result(id=call.id, problem=problem)
        except Exception as error:
            # A defect must not leave the gateway waiting for the time-out.
            log.exception("a command failed")
            result = Result(
                id=call.id, problem=Problem(kind="InterlockError", message=f"{type(error).__name__}: {error}")
            )
        finally:
            accept.cancel()
            del self._running[key]
        self._answer(served, result)

    async def _handle(self, call: Call) -> Result:
        if call.kind == "renew":
            renewed = await self._handler.renew_lease(call.holder)
            return Result(id=call.id, lease=renewed.lease, ended=renewed.ended)
        if call.envelope is None:
            raise errors.InvalidField("envelope", f"is missing in a call of kind {call.kind!r}")
        if call.kind == "send":
            return Result(id=call.id, reply=await self._handler.send(_from_wire(call.envelope)))
        if call.kind == "acquire":
            return Result(id=call.id, reply=await self._handler.acquire(_from_wire(call.envelope)))
        raise errors.InvalidField("kind", f"{call.kind!r} is none of send, acquire, renew")

    def _answer(self, served: _Served, result: Result) -> None:
        """Put the result into the message that leaves at the end of this turn of the loop."""
        self._outbox.setdefault((served.reply_to, served.as_json), []).append(result)
        if self._flush is None:
            self._flush = asyncio.create_task(self._send_outbox())

    async def _send_outbox(self) -> None:
        self._flush = None
        outbox, self._outbox = self._outbox, {}
        for (reply_to, as_json), results in outbox.items():
            for at in range(0, len(results), _MAX_CALLS):
                await self._publish(reply_to, as_json, Results(results=results[at : at + _MAX_CALLS]))

    async def _publish(self, reply_to: str, as_json: bool, results: Results) -> None:
        if not reply_to:
            return
        encode = msgspec.json.encode if as_json else msgspec.msgpack.encode
        try:
            await self._client.publish(reply_to, encode(results))
        except (nats.errors.Error, OSError) as error:
            log.debug("answers not sent: %s", error)  # the gateway asks again


class _Served:
    """A call in progress at the writer, and where its end goes."""

    def __init__(self, reply_to: str, as_json: bool) -> None:
        self.reply_to = reply_to
        self.as_json = as_json
        self.task: asyncio.Task[None] | None = None


def _to_wire(envelope: Envelope) -> SentEnvelope:
    return SentEnvelope(**{name: getattr(envelope, name) for name in Envelope.__struct_fields__})


def _from_wire(sent: SentEnvelope) -> Envelope:
    return Envelope(**{name: getattr(sent, name) for name in Envelope.__struct_fields__})


def _error(problem: Problem) -> errors.InterlockError:
    """The writer's error, in its own class; the nearest class above where that one wants more than words."""
    kind = getattr(errors, problem.kind, errors.InterlockError)
    if not (isinstance(kind, type) and issubclass(kind, errors.InterlockError)):
        kind = errors.InterlockError
    if kind is errors.NoWriter:
        return errors.NoWriter(problem.message, cure=problem.cure, taken=problem.taken)
    for base in kind.__mro__:
        try:
            made = base(problem.message, cure=problem.cure)
        except TypeError:
            continue
        if isinstance(made, errors.InterlockError):
            return made
    return errors.InterlockError(problem.message, cure=problem.cure)
