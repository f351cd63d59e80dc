"""What the store's tests share: events to store, and what a log must satisfy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from interlock.domain.recording import Recorded

LEASE_US = 60_000_000


def event(position: int, epoch: int, **changes: Any) -> Recorded:
    """An event that no other position's event clashes with."""
    plain = Recorded(
        position=position,
        stream=f"replica:r-{position % 5}",
        version=position // 5 + 1,
        topic="interlock.domain.events:ReplicaLocked",
        state=b'{"replica":"r-1","node":"thor","model":"qwen3-8b"}',
        event_id=f"c{position}.0",
        time=1_767_225_600_000_000 + position,
        epoch=epoch,
        actor="gateway-1",
        command_id=f"c{position}",
        correlation_id="k1",
        causation_id=f"c{position - 1}.0",
        request_id=f"q{position}",
    )
    return replace(plain, **changes)


def batch(first: int, count: int, epoch: int, **changes: Any) -> list[Recorded]:
    """``count`` events from position ``first`` on."""
    return [event(position, epoch, **changes) for position in range(first, first + count)]


def positions(events: Sequence[Recorded]) -> list[int]:
    """Where the events stand."""
    return [one.position for one in events]
