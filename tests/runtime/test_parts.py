"""The smaller parts: the filter for repeats, holders' leases, the feed, views, history, the fan-out to NATS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from interlock.adapters.nats.broker import Broker
from interlock.adapters.nats.connection import connect
from interlock.adapters.runtime import repeats as repeats_module
from interlock.adapters.runtime.clock import SteadyClock, SystemClock
from interlock.adapters.runtime.events import EventFeed
from interlock.adapters.runtime.fanout import Fanout
from interlock.adapters.runtime.holders import Holders
from interlock.adapters.runtime.lease import Lease
from interlock.adapters.runtime.queries import Queries
from interlock.adapters.runtime.repeats import Repeats
from interlock.adapters.runtime.store_threads import StoreThreads
from interlock.adapters.store import MemoryLog, MemoryStore
from interlock.domain import commands as c
from interlock.domain.errors import Fenced, StoreUnavailable
from interlock.domain.units import GIB, SECOND
from tests.runtime.rig import Rig


class HandClock(SystemClock):
    """Monotonic time that a test moves."""

    at = 1000.0
    wall = 0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> int:
        return self.wall or super().now()


def test_the_filter_never_takes_a_known_id_for_a_fresh_one() -> None:
    repeats = Repeats()
    for number in range(50_000):
        repeats.add(f"c{number}")
    assert all(repeats.may_know(f"c{number}") for number in range(50_000))
    mistaken = sum(repeats.may_know(f"other-{number}") for number in range(50_000))
    assert mistaken < 1_000


def test_a_repeat_is_known_for_one_generation_more_than_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats_module, "_GENERATION_IDS", 10)
    repeats = Repeats()
    for number in range(20):
        repeats.add(f"c{number}")
    assert repeats.may_know("c0")
    repeats.add("c20")
    assert not repeats.may_know("c0"), "nor for longer: memory is bounded"


def test_a_lease_lapses_after_its_length_and_not_before() -> None:
    clock = HandClock()
    holders = Holders(["known"], clock, lambda: 30 * SECOND)
    holders.meet("new")
    for _ in range(29):
        clock.at += 1
        assert holders.lapsed() == []
    holders.renew("new")
    clock.at += 1.5
    assert holders.lapsed() == ["known"]
    assert holders.lapsed() == []


def test_time_in_which_this_process_stood_still_is_not_held_against_holders() -> None:
    clock = HandClock()
    holders = Holders(["gw"], clock, lambda: 30 * SECOND)
    clock.at += 3600
    assert holders.lapsed() == []
    lapsed = []
    for _ in range(5):
        clock.at += 9
        lapsed += holders.lapsed()
    assert lapsed == ["gw"]


class AwayStore(MemoryStore):
    """A store that answers no renewal, and each time takes half of a lease to say so."""

    def __init__(self, clock: HandClock, half_s: float) -> None:
        super().__init__()
        self.clock, self.half_s, self.asked = clock, half_s, 0

    def renew_epoch(self, epoch: int, lease_us: int) -> None:
        self.asked += 1
        self.clock.at += self.half_s
        raise StoreUnavailable("the store is away (a fault made to order).")


async def test_a_writer_bears_a_store_that_is_away_for_one_length_of_its_lease_beyond_its_end() -> None:
    clock = HandClock()
    store = AwayStore(clock, half_s=0.01)
    threads = StoreThreads(store)
    lease = Lease(threads, "writer", 20_000, clock)
    await lease.take()
    with pytest.raises(StoreUnavailable):
        await lease.keep()
    assert store.asked == 5, "four halves are two lengths, and the fifth is beyond them"
    await threads.close()


async def test_an_epoch_that_the_writer_took_itself_while_it_renewed_fences_nobody_and_anothers_does() -> None:
    log = MemoryLog(clock=lambda: 0)
    threads = StoreThreads(MemoryStore(log))
    lease = Lease(threads, "writer", 3 * SECOND, HandClock())
    assert await lease.take() == 1
    taken, _ = await asyncio.gather(lease.take(), lease.renew())
    assert (taken, lease.epoch, lease.holds) == (2, 2, True)
    log.lease_until = 0
    MemoryStore(log).take_epoch("another", 3 * SECOND)
    with pytest.raises(Fenced):
        await lease.renew()
    await threads.close()


async def test_the_feed_gives_the_past_from_the_store_and_then_what_comes(rig: Rig) -> None:
    follower = rig.seat.feed.follow(0)
    rows = [await anext(follower) for _ in range(len(rig.log.rows))]
    assert [row.position for row in rows] == list(range(1, len(rows) + 1))
    coming = asyncio.ensure_future(anext(follower))
    await asyncio.sleep(0)
    assert not coming.done()
    await rig.send(c.Freeze(what="evictions"))
    row = await asyncio.wait_for(coming, 5)
    assert row.event == "Frozen"
    assert msgspec.json.decode(msgspec.json.encode(row.data))["data"]["what"] == "evictions"


def queries_of(rig: Rig) -> Queries:
    """The gateway's questions to a rig."""
    return Queries(
        rig.threads,
        SystemClock(),
        state=rig.seat.state,
        fork=rig.seat.fork,
        last_heard=rig.seat.last_heard,
        readiness=rig.seat.lacks,
        figures=rig.seat.figures,
    )


async def test_views_hold_what_an_operator_wants(rig: Rig) -> None:
    await rig.acquire("q1")
    await rig.send(c.SetNodeBudget(node="thor", budget=c.Budget(percent=50)))
    await rig.send(c.ReportCapacity(node="thor", used=(12 * GIB,)))
    queries = queries_of(rig)
    node = (await queries.nodes())[0]
    pool = node.pools[0]
    assert (node.name, node.status, node.vram_budget, node.in_flight) == ("thor", "healthy", "50%", 1)
    assert (pool.total, pool.budget, pool.committed, pool.foreign) == (24 * GIB, 12 * GIB, 9 * GIB, 3 * GIB)
    assert pool.used + pool.reserved + pool.free == pool.budget
    assert node.last_heard > 0
    replica = (await queries.replicas())[0]
    assert (replica.phase, replica.locks, replica.takes_locks, replica.memory) == ("loaded", ["q1"], True, 9 * GIB)
    assert replica.age is not None
    model = await queries.model("m")
    assert model is not None
    assert (model.declared, model.serving, model.loaded, model.in_flight, model.queue) == (1, 1, 1, 1, 0)
    assert (await queries.requests())[0].status == "locked"
    assert (await queries.settings())["reconcile_interval"] == "30s"
    await rig.send(c.ReportCapacity(node="thor", clock=1))
    assert (await queries.nodes())[0].clock_off < 0
    samples = {sample.name: sample.value for sample in await queries.metrics()}
    assert samples["interlock_node_clocks_off"] == 1
    names = set(samples)
    assert {"interlock_leader", "interlock_epoch", "interlock_replicas", "interlock_log_position"} <= names


async def test_a_waiting_request_shows_its_place_and_what_it_waits_for(rig: Rig) -> None:
    rig.workers.silence("thor")
    asking = [asyncio.create_task(rig.acquire(f"q{number}")) for number in range(3)]
    await rig.until(lambda: len(rig.seat.state().requests) == 3)
    queries = queries_of(rig)
    views = sorted(await queries.requests(), key=lambda view: view.place)
    assert [(view.id, view.place, view.wait) for view in views] == [
        ("q0", 1, "load"),
        ("q1", 2, "load"),
        ("q2", 3, "load"),
    ]
    status = await queries.load_status("m")
    assert status is not None
    assert (status.state, status.node) == ("installing", "thor")
    for task in asking:
        task.cancel()


async def test_a_request_s_id_is_taken_for_good(rig: Rig) -> None:
    queries = queries_of(rig)
    assert not await queries.is_taken("q1")
    asked = rig.envelope(c.AcquireLock(request="q1", model="m", holder="gw"))
    await rig.seat.acquire(msgspec.structs.replace(asked, request_id="q1"))
    assert await queries.is_taken("q1")
    await rig.send(c.ReleaseLock(request="q1"))
    assert await queries.is_taken("q1"), "also when it is over"


async def test_a_finished_request_is_read_from_the_log(rig: Rig) -> None:
    await rig.acquire("q1")
    await rig.send(c.ReleaseLock(request="q1", outcome="failed", detail="the backend's words"))
    refused = await rig.acquire("q2", model="unheard-of")
    assert isinstance(refused, c.Rejected)
    queries = queries_of(rig)
    ended = await queries.request("q1")
    assert ended is not None
    assert (ended.status, ended.outcome, ended.message, ended.node) == (
        "ended",
        "failed",
        "the backend's words",
        "thor",
    )
    other = await queries.request("q2")
    assert other is not None
    assert (other.outcome, other.code) == ("refused", "unknown_model")
    assert await queries.request("q3") is None


class MemoryTracker:
    """Remembers in memory how far a projection has come."""

    def __init__(self) -> None:
        self.position = 0
        self.writes = 0

    def read(self) -> int:
        return self.position

    def write(self, position: int) -> None:
        self.position = position
        self.writes += 1


async def test_every_event_reaches_the_broker_once_and_the_writer_never_waits_for_it(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    broker = Broker(tmp_path / "nats")
    config = await broker.start()
    client = await connect(config, "test")
    rig = await make_rig().lead()
    tracker = MemoryTracker()
    publishing = asyncio.create_task(Fanout(client, rig.threads, rig.seat.feed, tracker).run())
    await rig.node("thor")
    await rig.model("m")
    await rig.acquire("q1")
    await rig.until(lambda: tracker.position == len(rig.log.rows))
    await broker.stop()
    await asyncio.wait_for(rig.acquire("q2"), 5)
    await broker.start()
    await rig.until(lambda: tracker.position == len(rig.log.rows), 40)
    seen: list[str] = []
    subscription = await client.jetstream().subscribe("interlock.events.>", ordered_consumer=True)
    while len(seen) < len(rig.log.rows):
        message = await subscription.next_msg(timeout=5)
        seen.append(msgspec.json.decode(message.data)["id"])
    assert seen == [row[5] for row in rig.log.rows]
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    await client.close()
    await broker.stop()


async def test_how_far_it_has_come_is_noted_now_and_then_and_not_with_each_event(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    broker = Broker(tmp_path / "nats")
    client = await connect(await broker.start(), "test")
    rig = await make_rig().lead()
    tracker = MemoryTracker()
    fanout = Fanout(client, rig.threads, rig.seat.feed, tracker)
    publishing = asyncio.create_task(fanout.run())
    await rig.node("thor")
    await rig.model("m")
    began = asyncio.get_running_loop().time()
    for number in range(40):
        await rig.acquire(f"q{number}")
        await asyncio.sleep(0.01)
    await rig.until(lambda: tracker.position == len(rig.log.rows))
    took = asyncio.get_running_loop().time() - began
    assert tracker.writes <= took + 2, "each of them is a commit that the writer may have to wait for"
    await rig.acquire("last")
    await rig.until(lambda: fanout.position == len(rig.log.rows))
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    assert tracker.position == len(rig.log.rows), "nothing is published again after an ordinary stop"
    await client.close()
    await broker.stop()


async def test_a_feed_that_has_not_heard_of_everything_reads_the_rest_from_the_store(
    make_rig: Callable[..., Rig],
) -> None:
    """So it is when a term ended by a defect while a batch was on its way into the store."""
    rig = await make_rig().lead()
    await rig.node("thor")
    await rig.model("m")
    rows = await rig.threads.page(0)
    feed = EventFeed(rig.threads)
    feed.begin(0)
    feed.on_committed(rows[:2], [])
    feed.begin(len(rows))
    assert [row.position for row in await feed.some_beyond(1)] == list(range(2, len(rows) + 1))
    assert await feed.some_beyond(len(rows)) == []


def test_a_wall_clock_that_is_set_back_does_not_stop_the_time_of_a_term() -> None:
    machine = HandClock()
    machine.wall, machine.at = 1_000 * SECOND, 0.0
    steady = SteadyClock(machine)
    machine.wall, machine.at = 1_010 * SECOND, 10.0
    assert steady.now() == 1_010 * SECOND
    machine.wall, machine.at = 15 * SECOND, 15.0
    assert steady.now() == 1_015 * SECOND, "it goes on"
    machine.wall, machine.at = 2_000 * SECOND, 16.0
    assert steady.now() == 2_000 * SECOND, "ahead is followed"


def test_a_term_begins_no_earlier_than_the_log_ends() -> None:
    machine = HandClock()
    machine.wall, machine.at = 100 * SECOND, 0.0
    steady = SteadyClock(machine, 900 * SECOND)
    machine.wall, machine.at = 107 * SECOND, 7.0
    assert steady.now() == 907 * SECOND
