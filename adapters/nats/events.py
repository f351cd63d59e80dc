"""Domain events to whoever listens: CloudEvents 1.0 on a JetStream stream. Transport only: the store remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js.api import StreamConfig

from interlock.adapters import cloudevents
from interlock.domain.errors import BrokerUnavailable
from interlock.domain.recording import Recorded

from . import subjects

CONTENT_TYPE: Final = "application/cloudevents+json"

_AT_ONCE = 256
_ACK_TIMEOUT_S = 5.0
_DUPLICATES_S = 600.0
_KEPT_S = 7 * 86_400.0
_KEPT_BYTES = 512 * 2**20


class EventPublisher:
    """Publishes events in order. A repeat within ten minutes is recognised by its id and not stored twice."""

    def __init__(self, client: Client, *, source: str = cloudevents.SOURCE) -> None:
        self._client = client
        self._source = source
        self._stream = client.jetstream(timeout=_ACK_TIMEOUT_S)

    async def start(self) -> None:
        """Make the stream when it is not there; raises BrokerUnavailable."""
        config = StreamConfig(
            name=subjects.EVENTS_STREAM,
            subjects=[f"{subjects.EVENTS}.>"],
            max_age=_KEPT_S,
            max_bytes=_KEPT_BYTES,
            duplicate_window=_DUPLICATES_S,
        )
        try:
            try:
                await self._stream.add_stream(config)
            except nats.js.errors.BadRequestError:
                await self._stream.update_stream(config)  # it is there, with other settings
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise BrokerUnavailable(f"the event stream cannot be made: {error}.") from None

    async def publish(self, batch: Sequence[Recorded]) -> None:
        """Publish the batch and return when the broker has all of it.

        Raises BrokerUnavailable, when it may have a part; publishing the same batch again is safe.
        """
        for at in range(0, len(batch), _AT_ONCE):
            part = batch[at : at + _AT_ONCE]
            try:
                # Sent in order over one connection; only the acknowledgements are awaited together.
                answers = [
                    await self._stream.publish_async(
                        subjects.event(recorded.stream, recorded.topic),
                        cloudevents.encoded(recorded, self._source),
                        headers={"Nats-Msg-Id": recorded.event_id, "Content-Type": CONTENT_TYPE},
                    )
                    for recorded in part
                ]
                async with asyncio.timeout(_ACK_TIMEOUT_S):
                    await asyncio.gather(*answers)
            except (nats.errors.Error, TimeoutError, OSError) as error:
                words = str(error) or type(error).__name__
                raise BrokerUnavailable(f"events from position {part[0].position} were not taken: {words}.") from None
