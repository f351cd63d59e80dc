"""The stored form of an event: what the event store keeps, byte for byte."""

from __future__ import annotations

import msgspec


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """One event as it stands in the log.

    ``stream`` and ``version`` are the aggregate's name (``node:thor``, ``model:qwen3-8b``, ``replica:r-000017``,
    ``scheduler``) and the event's place in it, from 1. ``position`` is its place in the whole log, from 1, gapless,
    assigned by the writer. ``topic`` names the event class and ``state`` holds its msgspec JSON. ``event_id`` is a
    function of ``command_id`` and the event's ordinal in that command's decision, so that a repeat is recognised.
    ``time`` is in microseconds since 1970-01-01T00:00:00Z, on the writer's monotone clock.
    """

    position: int
    stream: str
    version: int
    topic: str
    state: bytes
    event_id: str
    time: int
    epoch: int
    actor: str
    command_id: str
    correlation_id: str
    causation_id: str
    request_id: str


class Head(msgspec.Struct, frozen=True):
    """Where a log ends: its last position (0 when empty) and the hash chain's digest there (hex)."""

    position: int
    digest: str


class Snapshot(msgspec.Struct, frozen=True):
    """The fold of the log up to ``position``, encoded; ``schema`` tells a reader whether it can use it."""

    position: int
    schema: str
    state: bytes
