"""The library's own contract suites, on our recorders; and its stock recorders, on our tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import IntegrityError, OperationalError, StoredEvent, Tracking
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore, PostgresTrackingRecorder
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore, SQLiteTrackingRecorder
from eventsourcing.utils import get_topic
from psycopg.conninfo import conninfo_to_dict

from interlock.adapters.store import open_store, sqlite_path
from interlock.adapters.store.recorders import (
    LogApplicationRecorder,
    LogFactory,
    LogProcessRecorder,
    LogTrackingRecorder,
)
from interlock.domain.errors import Fenced
from tests.store import library_suites
from tests.store.support import LEASE_US, batch


class OnSqlite:
    """Gives a suite's tests a fresh SQLite store."""

    url: str
    store: Any

    @pytest.fixture(autouse=True)
    def _open(self, tmp_path: Path) -> Iterator[None]:
        self.url = f"sqlite:///{tmp_path}/events.db"
        self.store = open_store(self.url)
        yield
        self.store.close()


class OnPostgres:
    """Gives a suite's tests a fresh PostgreSQL store."""

    url: str
    store: Any

    @pytest.fixture(autouse=True)
    def _open(self, postgres_url: str) -> Iterator[None]:
        self.url = postgres_url
        self.store = open_store(self.url)
        yield
        self.store.close()


# --- The library's suites ---------------------------------------------------------------------------------------------


class TestAggregateOnSqlite(OnSqlite, library_suites.AggregateSuite):
    pass


class TestAggregateOnPostgres(OnPostgres, library_suites.AggregateSuite):
    pass


class TestSnapshotsOnSqlite(OnSqlite, library_suites.SnapshotSuite):
    pass


class TestSnapshotsOnPostgres(OnPostgres, library_suites.SnapshotSuite):
    pass


class TestApplicationOnSqlite(OnSqlite, library_suites.ApplicationSuite):
    pass


class TestApplicationOnPostgres(OnPostgres, library_suites.ApplicationSuite):
    pass


class TestTextIdsOnSqlite(OnSqlite, library_suites.TextSuite):
    pass


class TestTextIdsOnPostgres(OnPostgres, library_suites.TextSuite):
    pass


class TestInterleavingOnSqlite(OnSqlite, library_suites.InterleavingSuite):
    pass


class TestInterleavingOnPostgres(OnPostgres, library_suites.InterleavingSuite):
    pass


class TestTrackingOnSqlite(OnSqlite, library_suites.TrackingSuite):
    pass


class TestTrackingOnPostgres(OnPostgres, library_suites.TrackingSuite):
    pass


class TestProcessOnSqlite(OnSqlite, library_suites.ProcessSuite):
    pass


class TestProcessOnPostgres(OnPostgres, library_suites.ProcessSuite):
    pass


class TestFactoryOnSqlite(OnSqlite, library_suites.FactorySuite):
    pass


class TestFactoryOnPostgres(OnPostgres, library_suites.FactorySuite):
    pass


# --- Beyond them ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a fresh store on each engine."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/events.db"
    address: str = request.getfixturevalue("postgres_url")
    return address


class Account(Aggregate):
    """An aggregate of some application."""

    @event("Opened")
    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.amount = 0

    @event("Paid")
    def pay(self, amount: int) -> None:
        self.amount += amount


def test_an_application_of_the_library_runs_on_our_store_snapshots_included(url: str) -> None:
    env = {"PERSISTENCE_MODULE": LogFactory.__module__, LogFactory.STORE: url, "IS_SNAPSHOTTING_ENABLED": "y"}
    with Application[UUID](env=env) as app:
        account = Account("ada")
        account.pay(3)
        app.save(account)
        app.take_snapshot(account.id)
        account.pay(4)
        app.save(account, actor="cashier", command_id="c-9", correlation_id="k-9")
        copy: Account = app.repository.get(account.id)
        assert (copy.owner, copy.amount, copy.version) == ("ada", 7, 3)
    store = open_store(url)
    stored = list(store.read())
    assert [one.version for one in stored] == [1, 2, 3]
    assert stored[2].topic == get_topic(Account.Paid)
    assert (stored[2].actor, stored[2].command_id) == ("cashier", "c-9")
    assert store.find_command("c-9") == stored[2:]
    assert len({one.event_id for one in stored}) == 3
    assert store.verify().holds
    store.close()


def test_both_doors_extend_one_chain_and_the_library_fences_a_writer_that_sleeps(url: str) -> None:
    store, door = open_store(url), open_store(url)
    recorder = LogApplicationRecorder(door)
    epoch = store.take_epoch("writer", LEASE_US)
    store.append(batch(1, 3, epoch), epoch)
    ours = StoredEvent(uuid4(), 1, "t:T", b"{}")
    with pytest.raises(OperationalError, match="writer leads"):
        recorder.insert_events([ours])
    store.release_epoch(epoch)
    assert recorder.insert_events([ours]) == [4]
    with pytest.raises(Fenced):
        store.append(batch(4, 1, epoch), epoch)
    epoch = store.take_epoch("writer", LEASE_US)
    assert store.append(batch(5, 2, epoch), epoch).position == 6
    assert [one.epoch for one in store.read()] == [1, 1, 1, 2, 3, 3]
    assert store.verify().holds
    store.close()
    door.close()


def test_a_repeat_through_the_library_changes_nothing_not_even_the_tracking(url: str) -> None:
    store = open_store(url)
    recorder = LogProcessRecorder(store)
    ours = StoredEvent(uuid4(), 1, "t:T", b"{}")
    recorder.insert_events([ours], tracking=Tracking("upstream", 1))
    with pytest.raises(IntegrityError):
        recorder.insert_events([StoredEvent(uuid4(), 1, "t:T", b"{}"), ours], tracking=Tracking("upstream", 2))
    assert recorder.max_tracking_id("upstream") == 1
    assert store.head().position == 1
    store.close()


def test_a_subscription_with_topics_sees_what_comes_later_and_stops(url: str) -> None:
    store = open_store(url)
    recorder = LogApplicationRecorder(store)
    recorder.insert_events([StoredEvent(uuid4(), 1, "t:Other", b"{}"), StoredEvent(uuid4(), 1, "t:Mine", b"1")])
    with recorder.subscribe(topics=["t:Mine"]) as subscription:
        assert next(subscription).state == b"1"
        recorder.insert_events([StoredEvent(uuid4(), 1, "t:Other", b"{}"), StoredEvent(uuid4(), 1, "t:Mine", b"2")])
        assert next(subscription).id == 4
        subscription.stop()
        assert list(subscription) == []
    store.close()


# --- The stock recorders on our tables --------------------------------------------------------------------------------


def test_the_librarys_stock_sqlite_recorder_reads_our_table(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    store = open_store(url)
    epoch = store.take_epoch("writer", LEASE_US)
    ours = batch(1, 10, epoch)
    store.append(ours, epoch)
    datastore = SQLiteDatastore(f"file:{sqlite_path(url)}", originator_id_type="text")
    stock = SQLiteApplicationRecorder(datastore)
    stock.create_table()
    assert stock.max_notification_id() == 10
    found = stock.select_notifications(start=4, limit=3)
    assert [(one.id, one.originator_id, one.originator_version, one.topic, one.state) for one in found] == [
        (one.position, one.stream, one.version, one.topic, one.state) for one in ours[3:6]
    ]
    assert [one.originator_version for one in stock.select_events("replica:r-1")] == [1, 2]
    LogTrackingRecorder(store).insert_tracking(Tracking("upstream", 7))
    tracking = SQLiteTrackingRecorder(datastore)
    tracking.create_table()
    assert tracking.max_tracking_id("upstream") == 7
    datastore.close()
    store.close()


def test_the_librarys_stock_postgres_recorder_reads_our_table(postgres_url: str) -> None:
    store = open_store(postgres_url)
    epoch = store.take_epoch("writer", LEASE_US)
    ours = batch(1, 10, epoch)
    store.append(ours, epoch)
    parts = conninfo_to_dict(postgres_url)
    datastore = PostgresDatastore(
        dbname=str(parts["dbname"]),
        host=str(parts["host"]),
        port=5432,
        user="postgres",
        password="",
        originator_id_type="text",
    )
    stock = PostgresApplicationRecorder(datastore)
    stock.create_table()
    assert stock.max_notification_id() == 10
    found = stock.select_notifications(start=4, limit=3)
    assert [(one.id, one.originator_id, one.originator_version, one.topic, one.state) for one in found] == [
        (one.position, one.stream, one.version, one.topic, one.state) for one in ours[3:6]
    ]
    assert [one.originator_version for one in stock.select_events("replica:r-1")] == [1, 2]
    LogTrackingRecorder(store).insert_tracking(Tracking("upstream", 7))
    tracking = PostgresTrackingRecorder(datastore)
    tracking.create_table()
    assert tracking.max_tracking_id("upstream") == 7
    datastore.close()
    store.close()
