"""Domain events on the broker, as CloudEvents."""

from __future__ import annotations

import asyncio
import json
from uuid import uuid4

from nats.aio.client import Client
from nats.aio.msg import Msg

from interlock.adapters.nats import subjects
from interlock.adapters.nats.events import CONTENT_TYPE, EventPublisher
from interlock.domain.recording import Recorded


def recorded(position: int, stream: str = "node:thor", topic: str = "interlock.NodeApproved.v1") -> Recorded:
    return Recorded(
        position=position,
        stream=stream,
        version=2,
        topic=topic,
        state=b'{"by":"ann"}',
        event_id=f"e-{uuid4().hex}",
        time=1_767_225_600_000_001,
        epoch=3,
        actor="ann",
        command_id="c-1",
        correlation_id="k-1",
        causation_id="",
        request_id="",
    )


async def test_an_event_goes_out_as_a_cloud_event_on_its_subject(nats_client: Client) -> None:
    got: asyncio.Queue[Msg] = asyncio.Queue()
    await nats_client.subscribe("interlock.events.node.NodeApproved", cb=got.put)
    publisher = EventPublisher(nats_client)
    await publisher.start()
    event = recorded(41)
    await publisher.publish([event])
    message = await asyncio.wait_for(got.get(), 5)
    assert message.headers is not None
    assert message.headers["Nats-Msg-Id"] == event.event_id
    assert message.headers["Content-Type"] == CONTENT_TYPE
    assert json.loads(message.data) == {
        "specversion": "1.0",
        "id": event.event_id,
        "source": "/interlock",
        "type": "interlock.NodeApproved.v1",
        "subject": "node:thor",
        "time": "2026-01-01T00:00:00.000001Z",
        "datacontenttype": "application/json",
        "data": {"by": "ann"},
        "position": 41,
        "streamversion": 2,
        "epoch": 3,
        "actor": "ann",
        "commandid": "c-1",
        "correlationid": "k-1",
    }


async def test_an_event_published_twice_is_stored_once_and_in_order(nats_client: Client) -> None:
    publisher = EventPublisher(nats_client)
    await publisher.start()
    stream = nats_client.jetstream()
    before = (await stream.stream_info(subjects.EVENTS_STREAM)).state
    events = [recorded(position, stream="replica:r-1") for position in range(1, 601)]
    await publisher.publish(events)
    await publisher.publish(events)
    after = (await stream.stream_info(subjects.EVENTS_STREAM)).state
    assert after.messages - before.messages == 600
    first = await stream.get_msg(subjects.EVENTS_STREAM, before.last_seq + 1)
    last = await stream.get_msg(subjects.EVENTS_STREAM, after.last_seq)
    assert json.loads(first.data or b"")["position"] == 1
    assert json.loads(last.data or b"")["position"] == 600


async def test_the_stream_may_be_there_already(nats_client: Client) -> None:
    for _ in range(2):
        await EventPublisher(nats_client).start()
    assert (await nats_client.jetstream().stream_info(subjects.EVENTS_STREAM)).config.subjects == ["interlock.events.>"]


def test_subjects_keep_their_shape_whatever_the_names() -> None:
    assert subjects.event("model:qwen3.5-8b", "interlock.ModelDeclared.v2") == "interlock.events.model.ModelDeclared"
    assert subjects.order("thor.lab *", subjects.RUNNING) == "nodes.thor-lab--.models.running"
