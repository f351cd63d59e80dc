"""Rows of the log as people and programs read them, and the words they write to ask for them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from interlock.adapters.store.queries import Filters
from interlock.domain.codec import decode_event
from interlock.domain.errors import InvalidField, UnknownEvent
from interlock.domain.events import EVENT_TYPES
from interlock.domain.recording import Recorded
from interlock.domain.units import format_instant, parse_duration, parse_instant, whole_number

from .sentences import sentence

if TYPE_CHECKING:
    from interlock.adapters.store import SqliteStore
    from interlock.adapters.store.postgres import PostgresStore

    Log = SqliteStore | PostgresStore

DEFAULT_LIMIT = 100
MOST_ROWS = 10_000
FILTERS = ("model", "node", "request", "replica", "event", "actor", "correlation")
"""Filters by what an event is about; ``since``, ``until``, ``after`` and ``limit`` come beside them."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One event. ``time`` is ISO 8601 in UTC; ``summary`` says it in one sentence; ``data`` is its payload."""

    position: int
    time: str
    stream: str
    version: int
    event: str
    event_id: str
    actor: str
    correlation_id: str
    causation_id: str
    summary: str
    data: Any


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page of the log. ``cursor`` goes into ``after`` for the next one; ``more``: there is one already."""

    rows: list[Row]
    cursor: int
    more: bool


def event_name(topic: str) -> str:
    """``ReplicaLoaded`` in the topic ``interlock.ReplicaLoaded.v1``."""
    parts = topic.split(".")
    if len(parts) > 1 and parts[-1][:1] == "v" and parts[-1][1:].isdigit():
        parts.pop()
    return parts[-1]


def row_of(recorded: Recorded) -> Row:
    """The row of a stored event; one of a kind that this program does not know is shown as it is stored."""
    recorded = shown(recorded)
    try:
        summary = sentence(decode_event(recorded.topic, recorded.state))
    except (UnknownEvent, msgspec.MsgspecError):
        summary = f"An event that this program cannot read: {recorded.topic}."
    return Row(
        position=recorded.position,
        time=format_instant(recorded.time),
        stream=recorded.stream,
        version=recorded.version,
        event=event_name(recorded.topic),
        event_id=recorded.event_id,
        actor=recorded.actor,
        correlation_id=recorded.correlation_id,
        causation_id=recorded.causation_id,
        summary=summary,
        data=payload(recorded),
    )


def shown(recorded: Recorded) -> Recorded:
    """The event with what cannot be written in any text replaced: somebody put it there, and it is to be seen."""
    if not altered(recorded):
        return recorded
    values = msgspec.structs.asdict(recorded)
    texts = {name: value for name, value in values.items() if isinstance(value, str)}
    return msgspec.structs.replace(
        recorded, **{name: value.encode("utf-8", "replace").decode() for name, value in texts.items()}
    )


def altered(recorded: Recorded) -> bool:
    """Whether a text of the event is none: bytes that are no Unicode, which no writer of ours stores."""
    texts = (value for value in msgspec.structs.astuple(recorded) if isinstance(value, str))
    return any(not writable(text) for text in texts)


def writable(text: str) -> bool:
    """Whether the text can be written in Unicode: bytes that are none come as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def payload(recorded: Recorded) -> Any:
    """The stored state as JSON data; as text where it is none."""
    try:
        return msgspec.json.decode(recorded.state)
    except msgspec.MsgspecError:
        return recorded.state.decode("utf-8", "replace")


def read_page(log: Log, given: Mapping[str, str], *, newest: bool = False) -> Page:
    """The events that match ``given``, which may hold any of FILTERS, ``since``, ``until``, ``after`` and ``limit``.

    ``newest`` gives the last page instead of the first, and ``more`` then says that there are earlier ones. Raises
    InvalidField.
    """
    unknown = next((name for name in given if name not in (*FILTERS, "since", "until", "after", "limit")), None)
    if unknown is not None:
        raise InvalidField(unknown, "no such filter", cure=f"The filters are: {', '.join(FILTERS)}, since, until.")
    after = cursor_of(given)
    limit = _number(given.get("limit") or str(DEFAULT_LIMIT), "limit", 1, MOST_ROWS)
    # One more than asked for tells whether there is a next page.
    found = matching(
        log, filters_of(given), topics_of(given.get("event", "")), after=after, limit=limit + 1, newest=newest
    )
    kept = found[-limit:] if newest else found[:limit]
    return Page(
        rows=[row_of(recorded) for recorded in kept],
        cursor=kept[-1].position if kept else after,
        more=len(found) > limit,
    )


def matching(
    log: Log, filters: Filters, topics: tuple[str, ...], *, after: int, limit: int, newest: bool = False
) -> list[Recorded]:
    """One page of events that pass the filters and, when ``topics`` are given, have one of these."""
    if not topics:
        return log.log(filters, after=after, limit=limit, newest=newest)
    kinds = (msgspec.structs.replace(filters, event=topic) for topic in topics)
    pages = (log.log(kind, after=after, limit=limit, newest=newest) for kind in kinds)
    found = sorted((recorded for page in pages for recorded in page), key=lambda recorded: recorded.position)
    return found[-limit:] if newest else found[:limit]


def filters_of(given: Mapping[str, str]) -> Filters:
    """The store's filters for what people write; the event's kind is left to :func:`topics_of`."""
    for name in FILTERS:
        check_name(given.get(name, ""), name)
    return Filters(
        model=given.get("model", ""),
        node=given.get("node", ""),
        request=given.get("request", ""),
        replica=given.get("replica", ""),
        actor=given.get("actor", ""),
        correlation_id=given.get("correlation", ""),
        since=instant_of(given["since"], "since") if given.get("since") else None,
        until=instant_of(given["until"], "until") if given.get("until") else None,
    )


def check_name(text: str, field: str) -> None:
    """Raise InvalidField for a text that nothing in a log can be called."""
    if not writable(text):
        raise InvalidField(field, f"{text[:40]!r} is no text", cure="Write it in UTF-8.")
    if "\0" in text:
        raise InvalidField(field, f"{text[:40]!r} holds a NUL, which no name has")


def topics_of(name: str) -> tuple[str, ...]:
    """Every topic under which events of this name are, or were, stored; raises InvalidField for a name of none."""
    if not name:
        return ()
    cls = EVENT_TYPES.get(name)
    if cls is None:
        close = [known for known in EVENT_TYPES if name.lower() in known.lower()]
        raise InvalidField("event", f"{name!r} is no event", cure=f"Try: {', '.join(close or sorted(EVENT_TYPES))}.")
    return tuple(f"interlock.{name}.v{version}" for version in range(1, cls.class_version + 1))


def instant_of(text: str, field: str) -> int:
    """Microseconds since 1970 of a time (``2026-01-01T03:12:00Z``) or of so long ago (``15m``); raises InvalidField."""
    # A date has signs between its numbers, a length has none.
    if text[:1].isdigit() and text[-1:].isalpha() and not any(sign in text for sign in "T-:"):
        return max(0, time.time_ns() // 1000 - parse_duration(text, field))
    return parse_instant(text, field)


def is_position(text: str) -> bool:
    """Whether a place in the log is named by its number; else it is a time."""
    return text.isascii() and text.isdigit()


def position_of(log: Log, text: str, field: str) -> int:
    """The position that a time or position means; ``head`` and ``now`` mean the end. Raises InvalidField."""
    head = log.head().position
    if text in ("head", "now"):
        return head
    if is_position(text):
        position = whole_number(text, most=head)
        if position is None:
            raise InvalidField(field, f"position {text[:40]} is beyond the end of the log, {head}")
        return position
    return log.position_at(instant_of(text, field))


def cursor_of(given: Mapping[str, str]) -> int:
    """The position after which one begins; raises InvalidField."""
    return _number(given.get("after") or "0", "after", 0, 2**62)


def _number(text: str, field: str, least: int, most: int) -> int:
    number = whole_number(text, least, most)
    if number is None:
        raise InvalidField(field, f"{text[:40]!r} is not a number from {least} to {most}")
    return number
