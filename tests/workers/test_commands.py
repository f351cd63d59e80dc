"""Commands from gateways to the writer over a real broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from uuid import uuid4

import msgspec
import pytest
from nats.aio.client import Client

from interlock.adapters.nats import subjects
from interlock.adapters.nats.commands import CommandServer, NatsCommands
from interlock.domain.commands import (
    AcquireLock,
    AnyReply,
    Command,
    DeclareModel,
    Done,
    Envelope,
    Locked,
    Rejected,
    ReleaseLock,
)
from interlock.domain.entities import LoadSpec, Scheduling
from interlock.domain.errors import Conflict, InterlockError, InvalidField, NoWriter, StoreUnavailable
from interlock.domain.ports import Renewal

pytestmark = pytest.mark.timeout(30)


class Writer:
    """A handler that remembers what it was asked. An acquire ends when ``gate`` is set."""

    def __init__(self) -> None:
        self.asked: list[Envelope] = []
        self.renewed: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.came = asyncio.Event()
        self.fails: Exception | None = None

    async def send(self, envelope: Envelope) -> AnyReply:
        self.asked.append(envelope)
        if self.fails is not None:
            raise self.fails
        return Done(detail=envelope.command_id)

    async def acquire(self, envelope: Envelope) -> Locked | Rejected:
        self.asked.append(envelope)
        self.came.set()
        await self.gate.wait()
        assert isinstance(envelope.command, AcquireLock)
        request = envelope.command.request
        return Locked(request=request, replica="r-1", node="orin", model="m", address="127.0.0.1:1")

    async def renew_lease(self, holder: str) -> Renewal:
        self.renewed.append(holder)
        return Renewal(12_000_000, ("q-9",))


@pytest.fixture
def subject() -> str:
    return f"{subjects.COMMANDS}.{uuid4().hex}"


@pytest.fixture
def writer() -> Writer:
    return Writer()


@pytest.fixture
async def server(nats_client: Client, writer: Writer, subject: str) -> AsyncIterator[CommandServer]:
    made = CommandServer(nats_client, writer, subject=subject)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def gateway(nats_client: Client, subject: str) -> AsyncIterator[NatsCommands]:
    made = NatsCommands(nats_client, answer_timeout_s=3.0, resend_s=0.3, remind_s=0.3, subject=subject)
    await made.start()
    yield made
    await made.close()


def acquire(request: str = "q-1") -> Envelope:
    return Envelope(command_id=f"c-{request}", command=AcquireLock(request=request, model="m", holder="h"))


async def test_a_command_arrives_whole_and_its_reply_comes_back(
    server: CommandServer, gateway: NatsCommands, writer: Writer
) -> None:
    command: Command = DeclareModel(
        model="m", spec=LoadSpec(backend="echo", options={"a": 1, "b": True}), scheduling=Scheduling(priority=3)
    )
    sent = Envelope(command_id="c-1", command=command, actor="ann", request_id="q-7")
    assert await gateway.send(sent) == Done(detail="c-1")
    assert writer.asked == [sent]


async def test_an_acquire_waits_for_its_end(server: CommandServer, gateway: NatsCommands, writer: Writer) -> None:
    writer.gate.clear()
    waiting = asyncio.create_task(gateway.acquire(acquire()))
    await writer.came.wait()
    assert not waiting.done()
    writer.gate.set()
    assert isinstance(await waiting, Locked)


async def test_an_acquire_may_outlast_the_answer_timeout_while_the_writer_lives(
    server: CommandServer, nats_client: Client, writer: Writer, subject: str
) -> None:
    hasty = NatsCommands(nats_client, answer_timeout_s=0.8, resend_s=0.2, remind_s=0.2, subject=subject)
    await hasty.start()
    writer.gate.clear()
    waiting = asyncio.create_task(hasty.acquire(acquire()))
    done, _ = await asyncio.wait([waiting], timeout=2.0)
    assert not done
    writer.gate.set()
    assert isinstance(await waiting, Locked)
    assert len(writer.asked) == 1
    await hasty.close()


async def test_many_commands_travel_in_few_messages(
    server: CommandServer, gateway: NatsCommands, writer: Writer, nats_client: Client, subject: str
) -> None:
    messages = 0

    async def on_message(message: object) -> None:
        nonlocal messages
        messages += 1

    await nats_client.subscribe(subject, cb=on_message)
    replies = await asyncio.gather(*(gateway.acquire(acquire(f"q-{at}")) for at in range(500)))
    assert [reply.request for reply in replies] == [f"q-{at}" for at in range(500)]
    assert messages <= 10


async def test_without_a_writer_a_call_ends_with_no_writer(gateway: NatsCommands) -> None:
    with pytest.raises(NoWriter):
        await gateway.send(Envelope(command_id="c-1", command=ReleaseLock(request="q-1")))
    with pytest.raises(NoWriter):
        await gateway.renew_lease("h")


async def test_who_is_told_that_no_writer_leads_hears_whether_one_had_taken_the_call(
    server: CommandServer, nats_client: Client, writer: Writer, subject: str
) -> None:
    hasty = NatsCommands(nats_client, answer_timeout_s=0.8, resend_s=0.2, remind_s=0.2, subject=subject)
    await hasty.start()
    writer.gate.clear()
    waiting = asyncio.create_task(hasty.acquire(acquire()))
    await asyncio.sleep(0.5)  # long enough for the writer to say that it has the call
    await server.close()
    with pytest.raises(NoWriter) as left:
        await waiting
    with pytest.raises(NoWriter) as absent:
        await hasty.acquire(acquire("q-2"))
    assert (left.value.taken, absent.value.taken) == (True, False)
    await hasty.close()


@pytest.mark.parametrize("taken", [False, True])
async def test_a_writer_that_stops_leading_says_whether_it_had_taken_the_call(
    server: CommandServer, gateway: NatsCommands, writer: Writer, taken: bool
) -> None:
    writer.fails = NoWriter("the writer has stopped leading.", taken=taken)
    with pytest.raises(NoWriter) as told:
        await gateway.send(Envelope(command_id="c-1", command=ReleaseLock(request="q-1")))
    assert told.value.taken is taken


async def test_a_call_that_waits_is_taken_over_by_the_next_writer(
    server: CommandServer, gateway: NatsCommands, writer: Writer, nats_client: Client, subject: str
) -> None:
    writer.gate.clear()
    waiting = asyncio.create_task(gateway.acquire(acquire()))
    await writer.came.wait()
    await server.close()
    successor = Writer()
    standby = CommandServer(nats_client, successor, subject=subject)
    await standby.start()
    assert isinstance(await waiting, Locked)
    assert successor.asked[0] == writer.asked[0]
    await standby.close()


async def test_a_caller_that_leaves_cancels_nothing_at_the_writer(
    server: CommandServer, gateway: NatsCommands, writer: Writer
) -> None:
    writer.gate.clear()
    waiting = asyncio.create_task(gateway.acquire(acquire("q-1")))
    await writer.came.wait()
    waiting.cancel()
    await asyncio.wait([waiting])
    writer.gate.set()
    assert isinstance(await gateway.acquire(acquire("q-2")), Locked)


async def test_a_lease_is_renewed(server: CommandServer, gateway: NatsCommands, writer: Writer) -> None:
    assert await gateway.renew_lease("gateway-1") == Renewal(12_000_000, ("q-9",)), "how long, and what has ended"
    assert writer.renewed == ["gateway-1"]


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (StoreUnavailable("the disk is full."), StoreUnavailable),
        (Conflict("it is draining.", cure="Resume it."), Conflict),
        (InvalidField("model", "is empty"), InterlockError),
        (ZeroDivisionError("a defect"), InterlockError),
    ],
)
async def test_the_writers_error_reaches_the_caller(
    raised: Exception, seen: type[InterlockError], server: CommandServer, gateway: NatsCommands, writer: Writer
) -> None:
    writer.fails = raised
    with pytest.raises(seen, match=str(raised).split(maxsplit=1)[0]):
        await gateway.send(Envelope(command_id="c-1", command=ReleaseLock(request="q-1")))


async def test_a_batch_in_json_is_answered_in_json(
    server: CommandServer, writer: Writer, nats_client: Client, subject: str
) -> None:
    call = {
        "id": 1,
        "kind": "send",
        "envelope": {"command_id": "c-1", "command": {"type": "ReleaseLock", "request": "q-1"}},
    }
    answer = await nats_client.request(subject, json.dumps({"gateway": "g", "calls": [call]}).encode(), timeout=5)
    assert msgspec.json.decode(answer.data)["results"][0]["reply"]["detail"] == "c-1"
    assert writer.asked[0].command == ReleaseLock(request="q-1")


async def test_a_batch_that_does_not_parse_is_answered_with_why(
    server: CommandServer, nats_client: Client, subject: str
) -> None:
    answer = await nats_client.request(subject, b'{"gateway": "g", "calls": [{"id": "x"}]}', timeout=5)
    assert "calls" in json.loads(answer.data)["error"]
