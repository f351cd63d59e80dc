"""The event store's port, one suite on memory, SQLite and PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from interlock.adapters.store import MemoryLog, MemoryStore, open_store, postgres, sqlite
from interlock.domain.errors import EventConflict, Fenced, InvalidField, LeaseHeld, StoreUnavailable
from interlock.domain.ports import EventStore
from interlock.domain.recording import Head, Recorded, Snapshot
from tests.store.support import LEASE_US, batch, event, positions

EMPTY = Head(0, "00" * 32)

OpenStore = Callable[[], Any]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def another(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    """Opens further stores on one and the same log, as other processes would."""
    opened: list[EventStore] = []
    log = MemoryLog()
    url = ""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/events.db"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")

    def open_one() -> EventStore:
        store: EventStore = open_store(url) if url else MemoryStore(log)
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(another: OpenStore) -> Any:
    """A store on an empty log."""
    return another()


@pytest.fixture
def epoch(store: EventStore) -> int:
    """The epoch in which ``store`` leads."""
    return store.take_epoch("writer", LEASE_US)


# --- Appending and reading --------------------------------------------------------------------------------------------


def test_an_empty_log_ends_at_zero(store: Any) -> None:
    assert store.head() == EMPTY
    assert list(store.read()) == []
    assert store.load_snapshots() == []


def test_what_is_appended_is_read_by_everybody(store: Any, another: OpenStore, epoch: int) -> None:
    events = batch(1, 3, epoch) + batch(4, 512, epoch)
    store.append(events[:3], epoch)
    head = store.append(events[3:], epoch)
    assert head.position == 515
    reader = another()
    assert reader.head() == head
    assert list(reader.read()) == events
    assert reader.verify().digest == head.digest


def test_the_digest_is_the_same_on_every_engine_and_in_every_release(store: Any, epoch: int) -> None:
    # This value is the promise that logs written by earlier releases still verify.
    head = store.append(batch(1, 7, 1), epoch)
    assert head.digest == "569eb24c85d2ae51924f7cfc85162c9b5752be363255620af21a6dd1ece1b0da"


@pytest.mark.parametrize(
    ("after", "upto", "limit", "expected"),
    [
        (0, None, None, range(1, 11)),
        (4, None, None, range(5, 11)),
        (4, 8, None, range(5, 9)),
        (4, 8, 2, range(5, 7)),
        (0, None, 6, range(1, 7)),
        (0, None, 7, range(1, 8)),
        (10, None, None, range(0)),
        (3, 2, None, range(0)),
        (0, 99, 99, range(1, 11)),
        (0, None, 0, range(0)),
    ],
)
def test_reading_gives_a_window_in_order_across_pages(
    store: Any, epoch: int, monkeypatch: pytest.MonkeyPatch, after: int, upto: int, limit: int, expected: range
) -> None:
    monkeypatch.setattr(sqlite.SqliteStore, "page_events", 3)
    monkeypatch.setattr(postgres.PostgresStore, "page_events", 3)
    store.append(batch(1, 10, epoch), epoch)
    assert positions(list(store.read(after, upto=upto, limit=limit))) == list(expected)


def test_an_empty_batch_adds_nothing_and_still_asks_for_the_epoch(store: Any, epoch: int) -> None:
    head = store.append(batch(1, 2, epoch), epoch)
    assert store.append([], epoch) == head
    with pytest.raises(Fenced):
        store.append([], epoch - 1)


# PostgreSQL's texts hold everything but NUL, and no store takes half a surrogate pair.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
numbers = st.integers(-(2**63), 2**63 - 1)
contents = st.fixed_dictionaries(
    {
        "stream": texts,
        "version": numbers,
        "topic": texts,
        "state": st.binary(max_size=60),
        "time": numbers,
        "actor": texts,
        "command_id": texts,
        "correlation_id": texts,
        "causation_id": texts,
        "request_id": texts,
    }
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(drawn=st.lists(contents, min_size=1, max_size=5))
def test_whatever_an_event_holds_comes_back_the_same(store: Any, drawn: list[dict[str, Any]]) -> None:
    epoch = store.take_epoch("writer", LEASE_US)
    first = store.head().position + 1
    events = [
        # The place in front keeps streams and ids apart; all else is as drawn.
        event(position, epoch, **{**content, "stream": f"{position}/{content['stream']}"}, event_id=f"{position}")
        for position, content in enumerate(drawn, first)
    ]
    store.append(events, epoch)
    assert list(store.read(first - 1)) == events
    assert store.verify().holds
    assert store.append(events, epoch).position == events[-1].position


@pytest.mark.parametrize("changes", [{"actor": "\ud800"}, {"version": 2**63}, {"state": None}, {"stream": None}])
def test_what_no_log_can_hold_is_refused_whole(store: Any, epoch: int, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidField):
        store.append([event(1, epoch), event(2, epoch, **changes)], epoch)
    assert store.head() == EMPTY
    assert store.append(batch(1, 2, epoch), epoch).position == 2


# --- Repeats and conflicts --------------------------------------------------------------------------------------------


def test_a_repeat_adds_nothing(store: Any, epoch: int) -> None:
    events = batch(1, 5, epoch)
    head = store.append(events, epoch)
    assert store.append(events, epoch) == head
    assert store.append(events[1:3], epoch) == head
    assert list(store.read()) == events


def test_a_repeat_under_a_new_epoch_adds_nothing(store: Any, epoch: int) -> None:
    events = batch(1, 5, epoch)
    head = store.append(events, epoch)
    newer = store.take_epoch("writer", LEASE_US)
    assert store.append(batch(1, 5, newer), newer) == head
    assert [one.epoch for one in store.read()] == [epoch] * 5


def test_a_batch_whose_beginning_is_stored_adds_the_rest(store: Any, epoch: int) -> None:
    events = batch(1, 5, epoch)
    store.append(events[:3], epoch)
    assert store.append(events, epoch).position == 5
    assert list(store.read()) == events
    assert store.verify().holds


def conflicts(epoch: int) -> dict[str, list[Recorded]]:
    """Batches that cannot stand on a log of the three events ``batch(1, 3, epoch)``."""
    same = event(2, epoch)
    return {
        "other content at a position": [replace(same, state=b"{}")],
        "another actor at a position": [replace(same, actor="mallory")],
        "another event at a position": [event(2, epoch, event_id="other", stream="s")],
        "a beginning that differs": [replace(same, time=1), *batch(3, 3, epoch)],
        "a stored event at another position": [replace(same, position=4)],
        "a stored stream and version": [event(4, epoch, stream=same.stream, version=same.version)],
        "a stored event id": [event(4, epoch, event_id=same.event_id)],
        "one event id twice": [event(4, epoch), event(5, epoch, event_id="c4.0")],
        "one stream and version twice": [event(4, epoch), replace(event(4, epoch), position=5, event_id="x")],
        "a gap before it": batch(5, 1, epoch),
        "a gap in it": [event(4, epoch), event(6, epoch)],
        "a position twice": [event(4, epoch), event(4, epoch)],
        "no position": [event(0, epoch)],
        "a new event, then a stored one": [event(4, epoch), replace(same, position=5)],
    }


@pytest.mark.parametrize("which", conflicts(1))
def test_a_conflict_stores_nothing(store: Any, epoch: int, which: str) -> None:
    events = batch(1, 3, epoch)
    head = store.append(events, epoch)
    with pytest.raises(EventConflict):
        store.append(conflicts(epoch)[which], epoch)
    assert store.head() == head
    assert list(store.read()) == events
    assert store.append(batch(4, 1, epoch), epoch).position == 4


def test_an_event_stamped_with_another_epoch_is_refused(store: Any, epoch: int) -> None:
    with pytest.raises(InvalidField, match="stamped"):
        store.append(batch(1, 1, epoch + 1), epoch)
    assert store.head() == EMPTY


# --- Leading ----------------------------------------------------------------------------------------------------------


def test_while_a_lease_runs_nobody_else_leads(store: Any, another: OpenStore, epoch: int) -> None:
    standby = another()
    with pytest.raises(LeaseHeld, match="writer"):
        standby.take_epoch("standby", LEASE_US)
    store.renew_epoch(epoch, LEASE_US)
    store.append(batch(1, 1, epoch), epoch)


def test_the_owner_takes_a_new_epoch_at_any_time(store: Any, epoch: int) -> None:
    assert store.take_epoch("writer", LEASE_US) == epoch + 1
    with pytest.raises(Fenced):
        store.append(batch(1, 1, epoch), epoch)


def test_a_standby_that_has_taken_over_fences_the_writer(store: Any, another: OpenStore, epoch: int) -> None:
    store.append(batch(1, 3, epoch), epoch)
    store.release_epoch(epoch)
    standby = another()
    newer = standby.take_epoch("standby", LEASE_US)
    assert newer == epoch + 1
    assert standby.append(batch(4, 2, newer), newer).position == 5
    with pytest.raises(Fenced):
        store.append(batch(6, 1, epoch), epoch)
    with pytest.raises(Fenced):
        store.append(batch(1, 3, epoch), epoch)
    with pytest.raises(Fenced):
        store.renew_epoch(epoch, LEASE_US)
    store.release_epoch(epoch)
    with pytest.raises(LeaseHeld):
        store.take_epoch("writer", LEASE_US)
    assert positions(list(store.read())) == [1, 2, 3, 4, 5]
    assert store.verify().holds


def test_epochs_only_grow(store: Any, another: OpenStore) -> None:
    taken = []
    for _ in range(3):
        for one in (store, another()):
            taken.append(one.take_epoch(f"owner-{len(taken)}", LEASE_US))
            one.release_epoch(taken[-1])
    assert taken == sorted(set(taken))


# --- Commands and snapshots -------------------------------------------------------------------------------------------


def test_a_command_is_found_with_all_its_events(store: Any, epoch: int) -> None:
    events = [event(position, epoch, command_id="c" if position in (2, 3) else "") for position in range(1, 5)]
    store.append(events, epoch)
    assert store.find_command("c") == events[1:3]
    assert store.find_command("d") == []
    assert store.find_command("") == []


def test_the_two_newest_snapshots_are_kept(store: Any) -> None:
    taken = [Snapshot(position, "1", bytes([position])) for position in (5, 20, 10)]
    for one in taken:
        store.save_snapshot(one)
    assert store.load_snapshots() == [taken[1], taken[2]]
    again = replace(taken[1], state=b"again")
    store.save_snapshot(again)
    assert store.load_snapshots() == [again, taken[2]]


# --- Around it --------------------------------------------------------------------------------------------------------


def test_a_closed_store_says_so(store: Any, epoch: int) -> None:
    store.append(batch(1, 1, epoch), epoch)
    store.close()
    for ask in (store.head, lambda: list(store.read()), lambda: store.append(batch(2, 1, epoch), epoch)):
        with pytest.raises(StoreUnavailable, match="closed"):
            ask()


def test_a_reader_that_tails_sees_no_gap_and_no_half_batch(store: Any, another: OpenStore, epoch: int) -> None:
    size, count = 7, 60
    problems: list[str] = []
    done = threading.Event()

    def tail() -> None:
        reader, seen = another(), 0
        while not (done.is_set() and seen == size * count):
            head = reader.head().position
            page = positions(list(reader.read(seen)))
            if page != list(range(seen + 1, seen + 1 + len(page))) or seen + len(page) < head or head % size:
                problems.append(f"after {seen}, head {head}: {page}")
                return
            seen += len(page)

    thread = threading.Thread(target=tail)
    thread.start()
    for index in range(count):
        store.append(batch(1 + index * size, size, epoch), epoch)
    done.set()
    thread.join()
    assert problems == []
