"""The fence, the lease and the recovery of lost answers, on a real PostgreSQL server.

Nothing here waits for a length of time: where one session must be blocked by another, the server is asked until it
says so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from interlock.adapters.store import open_store
from interlock.adapters.store.link import Timeouts
from interlock.adapters.store.postgres import PostgresStore
from interlock.domain.errors import CommitUnknown, EventConflict, Fenced, LeaseHeld, StoreUnavailable
from tests.servers import PostgresServer
from tests.store.proxy import Loss, Proxy
from tests.store.support import LEASE_US, batch, event, positions

LAPSED = 0


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for calls that are to block."""
    with ThreadPoolExecutor(4) as executor:
        yield executor


@pytest.fixture
def open_one(postgres_url: str) -> Iterator[Callable[..., PostgresStore]]:
    """Opens stores on one log."""
    opened: list[PostgresStore] = []

    def open_with(url: str = postgres_url, **timeouts: Any) -> PostgresStore:
        opened.append(PostgresStore(url, timeouts=Timeouts(**timeouts)))
        return opened[-1]

    yield open_with
    for store in opened:
        store.close()


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[Proxy]:
    """A proxy before the server."""
    made = Proxy(postgres_server.socket)
    yield made
    made.close()


@pytest.fixture
def proxied_url(proxy: Proxy, postgres_url: str) -> str:
    """The test's database, by way of the proxy."""
    database = postgres_url.split("@/")[1].split("?")[0]
    return f"postgresql://postgres@127.0.0.1:{proxy.port}/{database}?sslmode=disable&gssencmode=disable"


@pytest.fixture
def session(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A session of somebody else, whose transaction the test holds open."""
    with psycopg.connect(postgres_url) as made:
        yield made


def wait_until_blocked(url: str, statement: str, pending: Future[Any]) -> None:
    """Come back when a session that runs ``statement`` waits for a lock; fails when ``pending`` ends first."""
    question = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
        "AND datname = current_database() AND query LIKE %s"
    )
    with psycopg.connect(url, autocommit=True) as observer:
        while True:
            row = observer.execute(question, (f"%{statement}%",)).fetchone()
            if row and row[0]:
                return
            assert not pending.done(), pending.exception() or pending.result()


# --- Two writers ------------------------------------------------------------------------------------------------------


def test_a_lease_is_judged_on_the_servers_clock(open_one: Callable[..., PostgresStore], postgres_url: str) -> None:
    writer, standby = open_one(), open_one()
    epoch = writer.take_epoch("writer", LEASE_US)
    with pytest.raises(LeaseHeld, match=r"writer is the writer for (59|60)\.\d s more"):
        standby.take_epoch("standby", LEASE_US)
    with psycopg.connect(postgres_url) as session:
        session.execute("UPDATE interlock_epoch SET lease_until = clock_timestamp()")
    # A lease that lapsed and that nobody took is still the writer's to go on with.
    writer.renew_epoch(epoch, LEASE_US)
    writer.append(batch(1, 1, epoch), epoch)
    with pytest.raises(LeaseHeld):
        standby.take_epoch("standby", LEASE_US)
    writer.renew_epoch(epoch, LAPSED)
    newer = standby.take_epoch("standby", LEASE_US)
    with pytest.raises(Fenced, match="standby took epoch"):
        writer.append(batch(2, 1, epoch), epoch)
    assert standby.append(batch(2, 1, newer), newer).position == 2


def test_an_append_that_meets_a_takeover_under_way_adds_nothing(
    open_one: Callable[..., PostgresStore],
    session: psycopg.Connection[Any],
    postgres_url: str,
    pool: ThreadPoolExecutor,
) -> None:
    writer = open_one()
    epoch = writer.take_epoch("writer", LEASE_US)
    writer.append(batch(1, 2, epoch), epoch)
    session.execute("UPDATE interlock_epoch SET epoch = epoch + 1, owner = 'standby'")
    # This statement began, and took its snapshot, before the takeover was committed.
    stale = pool.submit(writer.append, batch(3, 2, epoch), epoch)
    wait_until_blocked(postgres_url, "INSERT INTO stored_events", stale)
    session.commit()
    with pytest.raises(Fenced):
        stale.result()
    assert writer.head().position == 2


def test_an_append_that_meets_a_takeover_that_fails_goes_on(
    open_one: Callable[..., PostgresStore],
    session: psycopg.Connection[Any],
    postgres_url: str,
    pool: ThreadPoolExecutor,
) -> None:
    writer = open_one()
    epoch = writer.take_epoch("writer", LEASE_US)
    session.execute("UPDATE interlock_epoch SET epoch = epoch + 1, owner = 'standby'")
    pending = pool.submit(writer.append, batch(1, 2, epoch), epoch)
    wait_until_blocked(postgres_url, "INSERT INTO stored_events", pending)
    session.rollback()
    assert pending.result().position == 2


def test_a_takeover_waits_for_an_append_under_way_and_misses_nothing_of_it(
    open_one: Callable[..., PostgresStore],
    session: psycopg.Connection[Any],
    postgres_url: str,
    pool: ThreadPoolExecutor,
) -> None:
    writer, standby = open_one(), open_one()
    epoch = writer.take_epoch("writer", LAPSED)
    writer.append(batch(1, 2, epoch), epoch)
    stop_appends_at(session, "c4.0")
    under_way = pool.submit(writer.append, batch(3, 2, epoch), epoch)
    wait_until_blocked(postgres_url, "INSERT INTO stored_events", under_way)
    takeover = pool.submit(standby.take_epoch, "standby", LEASE_US)
    wait_until_blocked(postgres_url, "owner = $1", takeover)
    session.rollback()
    newer = takeover.result()
    # What the old writer stored is all there once the takeover is through, and it adds nothing more.
    assert positions(list(standby.read())) == [1, 2, 3, 4]
    assert under_way.result().position == 4
    with pytest.raises(Fenced):
        writer.append(batch(5, 1, epoch), epoch)
    assert standby.append(batch(5, 1, newer), newer).position == 5
    assert standby.verify().holds


def test_a_writer_that_sleeps_inside_its_transaction_is_ended_and_adds_nothing(
    open_one: Callable[..., PostgresStore], postgres_url: str
) -> None:
    writer, standby = open_one(lock_s=1.0), open_one(lock_s=5.0)
    epoch = writer.take_epoch("writer", LAPSED)
    writer.append(batch(1, 2, epoch), epoch)
    paused = writer.connect()
    paused.execute("BEGIN")
    paused.execute("SELECT epoch FROM interlock_epoch WHERE epoch = $1::bigint FOR SHARE", [epoch])
    paused.execute(
        "INSERT INTO stored_events SELECT 's', 1, topic, state, 3, 'late', time, epoch, actor, command_id, "
        "correlation_id, causation_id, request_id, digest FROM stored_events WHERE notification_id = 2"
    )
    # The takeover waits for it, and the server ends it.
    newer = standby.take_epoch("standby", LEASE_US)
    assert positions(list(standby.read())) == [1, 2]
    with pytest.raises((StoreUnavailable, CommitUnknown)):
        paused.execute("COMMIT", commits=True)
    assert standby.append(batch(3, 1, newer), newer).position == 3
    paused.close()


def test_two_writers_that_keep_taking_over_leave_one_gapless_chain(open_one: Callable[..., PostgresStore]) -> None:
    stored: list[str] = []
    start = threading.Barrier(2)

    def lead(store: PostgresStore, name: str) -> None:
        start.wait()
        for turn in range(25):
            epoch = store.take_epoch(name, LAPSED)
            try:
                for step in range(2):
                    first = store.head().position + 1
                    ids = [f"{name}-{turn}-{step}-{index}" for index in range(3)]
                    store.append([event(first + index, epoch, event_id=one) for index, one in enumerate(ids)], epoch)
                    stored.extend(ids)
            except Fenced:
                pass

    threads = [threading.Thread(target=lead, args=(open_one(), name)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = open_one()
    events = list(reader.read())
    assert reader.verify().holds
    # Every acknowledged event is there, once, and no other; epochs never interleave.
    assert sorted(one.event_id for one in events) == sorted(stored)
    epochs = [one.epoch for one in events]
    assert epochs == sorted(epochs)


def test_nothing_is_stored_on_an_end_that_is_gone(open_one: Callable[..., PostgresStore], postgres_url: str) -> None:
    writer = open_one()
    epoch = writer.take_epoch("writer", LEASE_US)
    writer.append(batch(1, 3, epoch), epoch)
    with psycopg.connect(postgres_url) as session:
        session.execute("DELETE FROM stored_events WHERE notification_id = 3")
    # The writer still knows of position 3, and the log shall have no gap.
    with pytest.raises(EventConflict, match="ends at position 2"):
        writer.append(batch(4, 1, epoch), epoch)
    assert positions(list(writer.read())) == [1, 2]


# --- Lost answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "stored"), [(Loss.ANSWER, 2), (Loss.REQUEST, 0), (Loss.EVERYTHING, 2)])
def test_after_a_lost_answer_a_new_epoch_tells_and_a_repeat_leaves_one_copy(
    open_one: Callable[..., PostgresStore], proxied_url: str, proxy: Proxy, loss: Loss, stored: int
) -> None:
    writer = open_one(proxied_url, answer_s=1.5 if loss is Loss.EVERYTHING else 15.0)
    epoch = writer.take_epoch("writer", LEASE_US)
    # The statement is prepared now, so that the next message is the append itself and its commit.
    writer.append(batch(1, 3, epoch), epoch)
    proxy.lose_next(loss)
    with pytest.raises(CommitUnknown):
        writer.append(batch(4, 2, epoch), epoch)
    assert proxy.lost.is_set()
    newer = writer.take_epoch("writer", LEASE_US)
    assert len(writer.find_command("c4") + writer.find_command("c5")) == stored
    assert writer.append(batch(4, 2, newer), newer).position == 5
    assert positions(list(writer.read())) == [1, 2, 3, 4, 5]
    assert writer.verify().holds


def test_a_new_epoch_waits_for_a_lost_append_that_still_runs(
    open_one: Callable[..., PostgresStore],
    proxied_url: str,
    proxy: Proxy,
    session: psycopg.Connection[Any],
    postgres_url: str,
    pool: ThreadPoolExecutor,
) -> None:
    writer = open_one(proxied_url)
    epoch = writer.take_epoch("writer", LEASE_US)
    writer.append(batch(1, 1, epoch), epoch)
    stop_appends_at(session, "c3.0")
    proxy.lose_next(Loss.CONNECTION)
    with pytest.raises(CommitUnknown):
        writer.append(batch(2, 2, epoch), epoch)
    # The writer's connection is gone; on the server, its statement is not. (Had it not begun yet, the new epoch would
    # not wait, and it would find itself fenced.)
    while not blocked_appends(postgres_url):
        assert writer.head().position == 1
    takeover = pool.submit(writer.take_epoch, "writer", LEASE_US)
    wait_until_blocked(postgres_url, "owner = $1", takeover)
    session.rollback()
    newer = takeover.result()
    assert positions(list(writer.read())) == [1, 2, 3]
    assert writer.append(batch(2, 2, newer), newer).position == 3
    assert writer.verify().holds


def test_a_repeat_under_the_old_epoch_meets_its_first_attempt_and_adds_nothing(
    open_one: Callable[..., PostgresStore],
    proxied_url: str,
    proxy: Proxy,
    session: psycopg.Connection[Any],
    postgres_url: str,
    pool: ThreadPoolExecutor,
) -> None:
    writer = open_one(proxied_url)
    epoch = writer.take_epoch("writer", LEASE_US)
    writer.append(batch(1, 1, epoch), epoch)
    stop_appends_at(session, "c3.0")
    proxy.lose_next(Loss.CONNECTION)
    with pytest.raises(CommitUnknown):
        writer.append(batch(2, 2, epoch), epoch)
    repeat = pool.submit(writer.append, batch(2, 2, epoch), epoch)
    while blocked_appends(postgres_url) < 2:
        assert not repeat.done(), repeat.exception() or repeat.result()
    session.rollback()
    assert repeat.result().position == 3
    assert positions(list(writer.read())) == [1, 2, 3]


def test_a_session_that_the_server_ends_leaves_the_commit_unknown(
    open_one: Callable[..., PostgresStore],
    session: psycopg.Connection[Any],
    postgres_url: str,
    pool: ThreadPoolExecutor,
) -> None:
    writer = open_one()
    epoch = writer.take_epoch("writer", LEASE_US)
    stop_appends_at(session, "c2.0")
    pending = pool.submit(writer.append, batch(1, 2, epoch), epoch)
    wait_until_blocked(postgres_url, "INSERT INTO stored_events", pending)
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    with pytest.raises(CommitUnknown):
        pending.result()
    session.rollback()
    newer = writer.take_epoch("writer", LEASE_US)
    assert writer.head().position == 0
    assert writer.append(batch(1, 2, newer), newer).position == 2


# --- Bounded waits ----------------------------------------------------------------------------------------------------


def test_a_statement_that_takes_too_long_is_stopped_with_nothing_stored(
    open_one: Callable[..., PostgresStore], session: psycopg.Connection[Any]
) -> None:
    writer = open_one(statement_s=0.2)
    epoch = writer.take_epoch("writer", LEASE_US)
    stop_appends_at(session, "c2.0")
    with pytest.raises(StoreUnavailable, match="longer than it may"):
        writer.append(batch(1, 2, epoch), epoch)
    session.rollback()
    assert writer.head().position == 0
    assert writer.append(batch(1, 2, epoch), epoch).position == 2


def test_a_takeover_that_cannot_get_the_epoch_row_gives_up(
    open_one: Callable[..., PostgresStore], session: psycopg.Connection[Any]
) -> None:
    writer = open_one(lock_s=0.2)
    session.execute("SELECT epoch FROM interlock_epoch FOR SHARE")
    with pytest.raises(StoreUnavailable, match="holds a lock"):
        writer.take_epoch("writer", LEASE_US)


def test_a_silent_server_does_not_hang_a_reader(
    open_one: Callable[..., PostgresStore], proxied_url: str, proxy: Proxy
) -> None:
    reader = open_one(proxied_url, answer_s=0.5)
    proxy.lose_next(Loss.EVERYTHING)
    with pytest.raises(StoreUnavailable, match="ended"):
        reader.wait_beyond(0, 0.0)
    assert reader.head().position == 0


def test_a_reader_whose_session_died_while_idle_asks_again(
    open_one: Callable[..., PostgresStore], postgres_url: str
) -> None:
    reader = open_one()
    assert reader.head().position == 0
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE application_name = 'interlock' AND datname = current_database()"
        )
    assert reader.head().position == 0


# --- Preparing and following ------------------------------------------------------------------------------------------


def test_a_store_that_was_never_prepared_names_the_cure(empty_database: str) -> None:
    with pytest.raises(StoreUnavailable, match="interlock migrate"):
        open_store(empty_database)


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1/lost cannot be reached") as caught:
        open_store("postgresql://me:secret@127.0.0.1:1/lost")
    assert "secret" not in str(caught.value)


def test_a_reader_is_woken_once_a_batch(open_one: Callable[..., PostgresStore], postgres_url: str) -> None:
    writer = open_one()
    epoch = writer.take_epoch("writer", LEASE_US)
    with psycopg.connect(postgres_url, autocommit=True) as listener:
        listener.execute("LISTEN interlock_events")
        writer.append(batch(1, 300, epoch), epoch)
        writer.append(batch(301, 1, epoch), epoch)
        writer.append(batch(301, 1, epoch), epoch)
        standby = open_one()
        writer.release_epoch(epoch)
        standby.take_epoch("standby", LEASE_US)
        with pytest.raises(Fenced):
            writer.append(batch(302, 1, epoch), epoch)
        # Neither the repeat nor the fenced append has woken anybody.
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute("NOTIFY interlock_events, 'end'")
        woken = [note.payload for note in listener.notifies(timeout=5, stop_after=3)]
        assert woken == ["300", "301", "end"]


def test_waiting_for_more_ends_when_more_comes_and_when_time_is_up(
    open_one: Callable[..., PostgresStore], pool: ThreadPoolExecutor, postgres_url: str
) -> None:
    writer, reader = open_one(), open_one()
    epoch = writer.take_epoch("writer", LEASE_US)
    assert reader.wait_beyond(0, 0.01).position == 0
    waiting = pool.submit(reader.wait_beyond, 0, 30.0)
    writer.append(batch(1, 4, epoch), epoch)
    assert waiting.result(10).position == 4
    assert reader.wait_beyond(0, 30.0).position == 4


def stop_appends_at(session: psycopg.Connection[Any], event_id: str) -> None:
    """Block whoever inserts ``event_id``, until the session's transaction ends."""
    session.execute(
        "INSERT INTO stored_events VALUES ('blocker', 1, '', '', -1, %s, 0, 0, '', '', '', '', '', '')", (event_id,)
    )


def blocked_appends(url: str) -> int:
    """How many appends wait for a lock."""
    with psycopg.connect(url, autocommit=True) as observer:
        row = observer.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND datname = current_database() AND query LIKE '%INSERT INTO stored_events%'"
        ).fetchone()
    return int(row[0]) if row else 0
