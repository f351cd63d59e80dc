"""The library's door: recorders and a factory for ``eventsourcing``'s applications, over the same log and hash chain.

::

    env = {"PERSISTENCE_MODULE": "interlock.adapters.store.recorders", "INTERLOCK_STORE": "sqlite:///events.db"}

Inserting has the library's semantics: notification ids follow one another, a repeat is an ``IntegrityError``, a failure
leaves nothing. It is for logs that no writer leads: while a writer's lease runs, it is refused, and once it has
inserted, every writer that led before is fenced. Reading and tracking work at any time.

``insert_events`` takes these keyword arguments for what an event of ours holds beyond the library's: ``actor``,
``command_id``, ``correlation_id``, ``causation_id``, ``request_id``, ``time`` (microseconds since 1970-01-01T00:00:00Z)
and ``event_ids``, one for each event. An event id that is not given follows from stream and version.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar
from uuid import UUID, uuid5

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    DataError,
    InfrastructureFactory,
    IntegrityError,
    Notification,
    OperationalError,
    ProcessRecorder,
    ProgrammingError,
    StoredEvent,
    Subscription,
    Tracking,
    TrackingRecorder,
)
from eventsourcing.utils import Environment, EnvType, resolve_topic, strtobool

from interlock.domain.errors import EventConflict, InterlockError, UsageError
from interlock.domain.recording import Head, Recorded

from . import chain, migrate, open_store
from .batch import End
from .queries import Params

EVENTS = "stored_events"
SNAPSHOTS = "stored_snapshots"
_NAMESPACE = UUID("6f0f6f9e-7c1b-5d6c-9a5e-0c9d1f1f3a77")
_UUID_HEX = re.compile(r"[0-9a-f]{32}")
_TRACKING = {"sqlite": "tracking", "postgres": "notification_tracking"}
_FOLLOW_S = 0.5


class Engine(Protocol):
    """What the recorders ask of a store, beyond reading."""

    dialect: str

    @property
    def position_column(self) -> str:
        """What ``stored_events`` calls the position."""

    def fetch(self, statement: str, params: Params = ()) -> list[chain.Row]:
        """All rows of a query."""

    def insert_unfenced(
        self, make: Callable[[End, int, int], Sequence[Recorded]], tracking: tuple[str, int] | None = None
    ) -> list[int]:
        """Store what ``make`` gives for the log's end, the epoch and the last event's time; return its positions.

        ``tracking`` is stored with it or not at all. Raises ``LeaseHeld`` while a writer leads, and ``EventConflict``.
        """

    def write(self, statement: str, rows: Sequence[Params]) -> None:
        """Run one statement for each of ``rows``, all or none."""

    def track(self, tracking: tuple[str, int]) -> None:
        """Store how far a follower has come. Raises ``EventConflict`` unless it has come further."""

    def wait_beyond(self, position: int, timeout_s: float) -> Head:
        """The log's head, once it is beyond ``position``, or after ``timeout_s`` at the latest."""


@contextmanager
def _library_errors() -> Iterator[None]:
    """Turn our errors into the library's."""
    try:
        yield
    except EventConflict as problem:
        raise IntegrityError(str(problem)) from problem  # what the library's callers catch
    except UsageError as problem:
        raise DataError(str(problem)) from problem  # what the library's callers catch
    except InterlockError as problem:
        raise OperationalError(str(problem)) from problem  # what the library's callers catch


class LogAggregateRecorder(AggregateRecorder):
    """Inserts and selects the events, or in another table the snapshots, of aggregates.

    With ``originator_id_type="uuid"``, ids that are the hex digits of a UUID come back as one.
    """

    def __init__(self, store: Engine, *, table: str = EVENTS, originator_id_type: str = "uuid") -> None:
        self.store = store
        self.table = table
        self._uuids = originator_id_type == "uuid"

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """See the library. Snapshots are no part of the log, and so not of its chain."""
        if self.table == EVENTS:
            self._insert_into_log(stored_events, **kwargs)
        elif stored_events:
            statement = (
                f"INSERT INTO {self.table} (originator_id, originator_version, topic, state) VALUES (?, ?, ?, ?)"
            )
            rows = [(_text(one.originator_id), one.originator_version, one.topic, one.state) for one in stored_events]
            with _library_errors():
                self.store.write(statement, rows)
        return None

    def _insert_into_log(
        self, stored_events: Sequence[StoredEvent], *, tracking: Tracking | None = None, **stamp: Any
    ) -> list[int]:
        tracked = (tracking.application_name, tracking.notification_id) if tracking else None
        with _library_errors():
            if stored_events:
                return self.store.insert_unfenced(lambda *place: _stamped(stored_events, *place, **stamp), tracked)
            if tracked:
                self.store.track(tracked)
        return []

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """See the library."""
        statement = f"SELECT originator_id, originator_version, topic, state FROM {self.table} WHERE originator_id = ?"
        params: list[Any] = [_text(originator_id)]
        for condition, value in (("originator_version > ?", gt), ("originator_version <= ?", lte)):
            if value is not None:
                statement += f" AND {condition}"
                params.append(value)
        statement += f" ORDER BY originator_version {'DESC' if desc else 'ASC'}"
        if limit is not None:
            statement += " LIMIT ?"
            params.append(limit)
        with _library_errors():
            return [StoredEvent(self._id(row[0]), *row[1:]) for row in self.store.fetch(statement, params)]

    def _id(self, text: str) -> UUID | str:
        return UUID(text) if self._uuids and _UUID_HEX.fullmatch(text) else text


class LogApplicationRecorder(LogAggregateRecorder, ApplicationRecorder):
    """Inserts events, and selects them as notifications whose id is their position."""

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """See the library."""
        return self._insert_into_log(stored_events, **kwargs)

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """See the library."""
        position = self.store.position_column
        conditions = ["1 = 1"]
        params: list[Any] = []
        if start is not None:
            conditions.append(f"{position} {'>=' if inclusive_of_start else '>'} ?")
            params.append(start)
        if stop is not None:
            conditions.append(f"{position} <= ?")
            params.append(stop)
        if topics:
            conditions.append(f"topic IN ({', '.join('?' * len(topics))})")
            params.extend(topics)
        statement = (
            f"SELECT originator_id, originator_version, topic, state, {position} FROM {self.table} "
            f"WHERE {' AND '.join(conditions)} ORDER BY {position} LIMIT ?"
        )
        with _library_errors():
            rows = self.store.fetch(statement, [*params, limit])
        return [Notification(self._id(row[0]), *row[1:]) for row in rows]

    def max_notification_id(self) -> int | None:
        """See the library."""
        with _library_errors():
            row = self.store.fetch(f"SELECT max({self.store.position_column}) FROM {self.table}")[0]
        return None if row[0] is None else int(row[0])

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> Subscription[ApplicationRecorder]:
        """See the library; works on both engines."""
        return LogSubscription(self, gt, topics)


class LogSubscription(Subscription[ApplicationRecorder]):
    """Yields notifications as they are recorded. ``stop`` ends a wait within half a second."""

    def __init__(self, recorder: LogApplicationRecorder, gt: int | None = None, topics: Sequence[str] = ()) -> None:
        super().__init__(recorder, gt, topics)
        self._store = recorder.store
        self._page: list[Notification] = []

    def __next__(self) -> Notification:
        """The next notification; waits for it."""
        seen = self._last_notification_id or 0
        while not self._has_been_stopped:
            if self._page:
                notification = self._page.pop()
                self._last_notification_id = notification.id
                return notification
            with _library_errors():
                upto = self._store.wait_beyond(seen, _FOLLOW_S).position
            if upto > seen:
                page = self._recorder.select_notifications(seen, 500, upto, self._topics, inclusive_of_start=False)
                self._page = list(reversed(page))
                # Topics that do not interest us are not looked at again.
                seen = page[-1].id if len(page) == 500 else upto
                if not page:
                    self._last_notification_id = seen
        raise StopIteration


class LogTrackingRecorder(TrackingRecorder):
    """Remembers how far each follower has come; one row each."""

    def __init__(self, store: Engine, **_: Any) -> None:
        self.store = store

    def insert_tracking(self, tracking: Tracking) -> None:
        """See the library."""
        with _library_errors():
            self.store.track((tracking.application_name, tracking.notification_id))

    def max_tracking_id(self, application_name: str) -> int | None:
        """See the library."""
        statement = f"SELECT max(notification_id) FROM {_TRACKING[self.store.dialect]} WHERE application_name = ?"
        with _library_errors():
            value = self.store.fetch(statement, (application_name,))[0][0]
        return None if value is None else int(value)


class LogProcessRecorder(LogTrackingRecorder, LogApplicationRecorder, ProcessRecorder):
    """Inserts events together with how far the follower that made them has come."""

    def __init__(self, store: Engine, *, originator_id_type: str = "uuid") -> None:
        LogApplicationRecorder.__init__(self, store, originator_id_type=originator_id_type)


_Recorder = TypeVar("_Recorder")


class LogFactory(InfrastructureFactory[LogTrackingRecorder]):
    """Makes recorders on the store that ``INTERLOCK_STORE`` names; a store that is not there yet is made.

    ``ORIGINATOR_ID_TYPE`` is ``uuid`` (the default) or ``text``; ``CREATE_TABLE`` false leaves PostgreSQL's schema
    alone.
    """

    STORE = "INTERLOCK_STORE"
    ORIGINATOR_ID_TYPE = "ORIGINATOR_ID_TYPE"
    CREATE_TABLE = "CREATE_TABLE"

    def __init__(self, env: Environment | EnvType | None) -> None:
        super().__init__(env)
        url = self.env.get(self.STORE)
        if not url:
            raise OSError(
                f"no event store is named: set {' or '.join(self.env.create_keys(self.STORE))}"
            )  # as the library does
        self._ids = (self.env.get(self.ORIGINATOR_ID_TYPE) or "uuid").lower()
        if self._ids not in ("uuid", "text"):
            raise OSError(
                f"{self.ORIGINATOR_ID_TYPE} is {self._ids!r}; it must be 'uuid' or 'text'"
            )  # as the library does
        with _library_errors():
            if strtobool(self.env.get(self.CREATE_TABLE) or "yes"):
                migrate(url)
            self.store = open_store(url)

    def aggregate_recorder(self, purpose: str = "events") -> LogAggregateRecorder:
        """See the library; ``purpose`` is ``events`` or ``snapshots``."""
        table = f"stored_{purpose}"
        if table not in (EVENTS, SNAPSHOTS):
            raise ProgrammingError(f"there is no table for {purpose!r}")  # as the library does
        return LogAggregateRecorder(self.store, table=table, originator_id_type=self._ids)

    def application_recorder(self) -> LogApplicationRecorder:
        """See the library."""
        recorder = self._class(self.APPLICATION_RECORDER_TOPIC, LogApplicationRecorder)
        return recorder(self.store, originator_id_type=self._ids)

    def tracking_recorder(
        self, tracking_recorder_class: type[LogTrackingRecorder] | None = None
    ) -> LogTrackingRecorder:
        """See the library."""
        recorder = tracking_recorder_class or self._class(self.TRACKING_RECORDER_TOPIC, LogTrackingRecorder)
        return recorder(self.store)

    def process_recorder(self) -> LogProcessRecorder:
        """See the library."""
        recorder = self._class(self.PROCESS_RECORDER_TOPIC, LogProcessRecorder)
        return recorder(self.store, originator_id_type=self._ids)

    def _class(self, key: str, default: type[_Recorder]) -> type[_Recorder]:
        topic = self.env.get(key)
        if not topic:
            return default
        found = resolve_topic(topic)
        if not (isinstance(found, type) and issubclass(found, default)):
            raise ProgrammingError(f"{key} names {topic!r}, which is no {default.__name__}")  # as the library does
        return found

    def close(self) -> None:
        """Close the store."""
        self.store.close()


def _text(originator_id: UUID | str) -> str:
    """The stored form of an aggregate's id: as the library's own SQLite recorder has it."""
    return originator_id.hex if isinstance(originator_id, UUID) else originator_id


def _stamped(
    events: Sequence[StoredEvent],
    end: End,
    epoch: int,
    last_time: int,
    *,
    actor: str = "",
    command_id: str = "",
    correlation_id: str = "",
    causation_id: str = "",
    request_id: str = "",
    time: int | None = None,
    event_ids: Sequence[str] | None = None,
    **_: Any,
) -> list[Recorded]:
    """Our form of the library's events, on top of ``end``. Time never runs backwards in the log."""
    at = max(last_time, time if time is not None else _now_us())
    ids = event_ids or [
        str(uuid5(_NAMESPACE, f"{_text(one.originator_id)}\n{one.originator_version}")) for one in events
    ]
    return [
        Recorded(
            position=end.position + index,
            stream=_text(event.originator_id),
            version=event.originator_version,
            topic=event.topic,
            state=event.state,
            event_id=event_id,
            time=at,
            epoch=epoch,
            actor=actor,
            command_id=command_id,
            correlation_id=correlation_id,
            causation_id=causation_id,
            request_id=request_id,
        )
        for index, (event, event_id) in enumerate(zip(events, ids, strict=True), 1)
    ]


def _now_us() -> int:
    return time.time_ns() // 1_000
