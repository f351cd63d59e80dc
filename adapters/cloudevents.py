"""Domain events as CloudEvents 1.0 in structured JSON: the same on the broker and in an export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from interlock.domain.recording import Recorded
from interlock.domain.units import format_instant

SOURCE = "/interlock"


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event in CloudEvents' structured JSON. Extensions, as that wants, have lower-case names without signs.

    A number that was blacked out is text.
    """

    specversion: str
    id: str
    source: str
    type: str
    subject: str
    time: str = ""
    datacontenttype: str
    data: Any
    position: int | str
    streamversion: int | str
    epoch: int | str
    actor: str = ""
    commandid: str = ""
    correlationid: str = ""
    causationid: str = ""
    requestid: str = ""
    sequence: str = ""
    """The position for those who sort texts; in exports."""


def cloud_event(fields: Mapping[str, Any], data: object, *, source: str = SOURCE, sequence: str = "") -> CloudEvent:
    """The event with the fields of a :class:`Recorded`, its time as text, and this data."""
    return CloudEvent(
        specversion="1.0",
        id=fields["event_id"],
        source=source,
        type=fields["topic"],
        subject=fields["stream"],
        time=fields["time"],
        datacontenttype="application/json",
        data=data,
        position=fields["position"],
        streamversion=fields["version"],
        epoch=fields["epoch"],
        actor=fields["actor"],
        commandid=fields["command_id"],
        correlationid=fields["correlation_id"],
        causationid=fields["causation_id"],
        requestid=fields["request_id"],
        sequence=sequence,
    )


def encoded(recorded: Recorded, source: str = SOURCE) -> bytes:
    """The stored event as structured JSON."""
    fields = {**msgspec.structs.asdict(recorded), "time": format_instant(recorded.time)}
    return msgspec.json.encode(cloud_event(fields, msgspec.Raw(recorded.state), source=source))
