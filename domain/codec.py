"""Events as bytes and back: topics with versions, msgspec JSON, upcasting of older versions.

A topic is ``interlock.NAME.vVERSION``. The library `eventsourcing` resolves it too: every topic is registered there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from eventsourcing.utils import register_topic

from .errors import UnknownEvent
from .events import EVENT_TYPES, Event

UPCASTERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""For each topic of an older version: what turns its state into that of the next version."""

_encoder = msgspec.json.Encoder()


def topic_of(cls: type[Event]) -> str:
    """The topic under which events of this class are stored."""
    return f"interlock.{cls.__name__}.v{cls.class_version}"


TOPICS: dict[type[Event], str] = {cls: topic_of(cls) for cls in EVENT_TYPES.values()}
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {topic: msgspec.json.Decoder(cls) for cls, topic in TOPICS.items()}
for _cls, _topic in TOPICS.items():
    register_topic(_topic, _cls)

encode_state = _encoder.encode
"""The stored state of an event."""


def decode_event(topic: str, state: bytes) -> Event:
    """The event that was stored; raises UnknownEvent for a topic that this program does not know."""
    decoder = _DECODERS.get(topic)
    if decoder is not None:
        event: Event = decoder.decode(state)
        return event
    return _upcast(topic, msgspec.json.decode(state))


def _upcast(topic: str, fields: dict[str, Any]) -> Event:
    while topic not in _DECODERS:
        upcaster = UPCASTERS.get(topic)
        if upcaster is None:
            cure = "A newer Interlock wrote it: upgrade this one before it reads or leads."
            raise UnknownEvent(f"The log holds an event of the unknown topic {topic!r}.", cure=cure)
        fields = upcaster(fields)
        name, _, version = topic.rpartition(".v")
        topic = f"{name}.v{int(version) + 1}"
    return msgspec.convert(fields, _DECODERS[topic].type)  # type: ignore[no-any-return]  # the decoder's type is Event's
