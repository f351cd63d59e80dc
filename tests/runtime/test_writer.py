"""The writer: what leaves is stored, what is lost is decided again, and nobody is left without an answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from interlock.adapters.runtime import writer as writer_module
from interlock.adapters.runtime.clock import SystemClock
from interlock.adapters.runtime.repeats import Repeats
from interlock.adapters.store.memory import Fault, MemoryStore
from interlock.domain import commands as c
from interlock.domain import decide as decide_module
from interlock.domain import ledger as ledger_module
from interlock.domain.errors import InvariantBroken, NoWriter
from tests.runtime.rig import Rig, expect_sound

FAILURES = [Fault.UNAVAILABLE, Fault.LOST_REQUEST, Fault.LOST_ANSWER]


async def many(rig: Rig, count: int, first: int = 0) -> list[asyncio.Task[c.AnyReply]]:
    """That many requests at once, each in a task of its own."""
    tasks = [asyncio.create_task(rig.acquire(f"q{first + number}")) for number in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_a_reply_and_the_view_wait_for_the_commit(rig: Rig) -> None:
    await rig.acquire("warm-up")
    rig.gate.shut()
    asking = asyncio.create_task(rig.acquire("q1"))
    await rig.reached()
    assert not asking.done()
    assert "q1" not in rig.seat.state().requests
    rig.gate.open()
    assert isinstance(await asking, c.Locked)
    assert "q1" in rig.seat.state().requests


async def test_an_effect_waits_for_the_commit(rig: Rig) -> None:
    rig.gate.shut()
    asking = asyncio.create_task(rig.acquire("q1"))
    await rig.reached()
    assert rig.effects("backend.install") == []
    rig.gate.open()
    assert isinstance(await asking, c.Locked)
    assert len(rig.effects("backend.install")) == 1


async def test_what_comes_while_a_batch_commits_is_decided_meanwhile_and_stored_together(rig: Rig) -> None:
    await rig.acquire("warm-up")
    rig.gate.shut()
    first = await many(rig, 1)
    await rig.reached()
    rig.gate.batches.clear()
    others = await many(rig, 300, first=1)
    await rig.until(lambda: rig.seat.term is not None and rig.seat.term.writer.undecided == 0)
    stored_from = SystemClock().now()
    rig.gate.open()
    await asyncio.gather(*first, *others)
    assert [len(batch) for batch in rig.gate.batches] == [300]
    assert all(event.time <= stored_from for event in rig.gate.batches[0])


async def test_a_batch_holds_at_most_512_decisions(rig: Rig) -> None:
    await rig.acquire("warm-up")
    rig.gate.batches.clear()
    replies = await asyncio.gather(*await many(rig, 2_000))
    assert {type(reply) for reply in replies} == {c.Locked}
    sizes = [len({recorded.command_id for recorded in batch}) for batch in rig.gate.batches]
    assert max(sizes) <= 512
    assert len(sizes) <= 60, "commands are not stored in groups"


@pytest.mark.parametrize("fault", FAILURES)
async def test_after_a_failed_append_every_waiter_is_answered_and_stored_once(rig: Rig, fault: Fault) -> None:
    await rig.acquire("warm-up")
    before = rig.log.epoch
    rig.store.fail_next(fault)
    replies = await asyncio.gather(*await many(rig, 50))
    assert {type(reply) for reply in replies} == {c.Locked}
    assert rig.log.epoch == before + 1
    assert len(rig.events("ReplicaLocked")) == 51
    expect_sound(rig)


@pytest.mark.parametrize("fault", FAILURES)
async def test_speculation_on_a_failed_append_is_decided_again(rig: Rig, fault: Fault) -> None:
    await rig.acquire("warm-up")
    rig.gate.shut()
    rig.store.fail_next(fault)
    first = await many(rig, 10)
    await rig.reached()
    others = await many(rig, 40, first=10)
    releases = [asyncio.create_task(rig.send(c.ReleaseLock(request=f"q{n}"))) for n in range(5)]
    await rig.until(lambda: rig.seat.term is not None and rig.seat.term.writer.undecided == 0)
    rig.gate.open()
    replies = await asyncio.gather(*first, *others)
    assert {type(reply) for reply in replies} == {c.Locked}
    assert {type(reply) for reply in await asyncio.gather(*releases)} == {c.Done}
    assert len(rig.events("ReplicaReleased")) == 5
    expect_sound(rig)


@pytest.mark.parametrize("fault", FAILURES)
async def test_a_load_whose_append_fails_is_still_one_load(rig: Rig, fault: Fault) -> None:
    rig.store.fail_next(fault, None, fault, fault)
    replies = await asyncio.gather(*await many(rig, 20))
    assert {type(reply) for reply in replies} == {c.Locked}
    assert len(rig.events("ReplicaReserved")) == 1
    assert len({effect.op for effect in rig.effects("backend.install")}) == 1
    assert len({effect.op for effect in rig.effects("model.load")}) == 1
    expect_sound(rig)


async def test_a_fenced_writer_answers_everybody_and_becomes_a_standby(rig: Rig) -> None:
    await rig.acquire("warm-up")
    rig.gate.shut()
    asking = await many(rig, 10)
    await rig.reached()
    waiting = await many(rig, 5, first=10)
    rig.log.lease_until = 0
    other = MemoryStore(rig.log)
    other.take_epoch("another", 60_000_000)
    before = len(rig.log.rows)
    rig.gate.open()
    results = await asyncio.gather(*asking, *waiting, return_exceptions=True)
    assert {type(result) for result in results} == {NoWriter}
    assert len(rig.log.rows) == before
    with pytest.raises(NoWriter):
        await rig.acquire("later")
    assert rig.seat.lacks() != []
    assert rig.running is not None
    assert not rig.running.done()


async def test_a_waiting_request_hears_of_the_end_of_the_term(rig: Rig) -> None:
    rig.workers.silence("thor")
    asking = asyncio.create_task(rig.acquire("q1"))
    await rig.until(lambda: "q1" in rig.seat.state().requests)
    rig.log.lease_until = 0
    MemoryStore(rig.log).take_epoch("another", 60_000_000)
    with pytest.raises(NoWriter):
        await asking


async def test_a_request_that_the_store_does_not_take_in_time_hears_that_nobody_decides(rig: Rig) -> None:
    await rig.acquire("warm-up")
    rig.gate.shut()
    assert rig.seat.term is not None
    asked = rig.envelope(c.AcquireLock(request="q1", model="m", holder="gw"))
    with pytest.raises(NoWriter, match="could not store") as told:
        await rig.seat.term.writer.acquire(asked, within_s=0.1)
    assert not told.value.taken
    rig.gate.open()
    assert isinstance(await rig.seat.acquire(asked), c.Locked), "asked again, it is found decided"


async def test_when_the_store_stays_away_waiters_hear_it_and_the_writer_comes_back(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await make_rig(lease_us=200_000).lead()
    await rig.node("thor")
    await rig.model("m")
    away = [True]

    def take(owner: str, lease_us: int) -> int:
        if away[0]:
            raise writer_module.Unavailable("the store is away.")
        return MemoryStore.take_epoch(rig.store, owner, lease_us)

    monkeypatch.setattr(rig.store, "take_epoch", take)
    rig.store.fail_next(Fault.UNAVAILABLE)
    with pytest.raises(NoWriter):
        await rig.acquire("q1")
    away[0] = False
    await rig.until(lambda: rig.seat.leads)
    assert isinstance(await rig.acquire("q2"), c.Locked)
    expect_sound(rig)


async def test_a_repeat_gets_the_recorded_reply(rig: Rig) -> None:
    envelope = rig.envelope(c.AcquireLock(request="q1", model="m", holder="gw"))
    first = await rig.seat.acquire(envelope)
    assert await rig.seat.acquire(envelope) == first
    assert len(rig.events("ReplicaLocked")) == 1


async def test_a_repeat_that_memory_has_lost_is_looked_up_in_the_store(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "KEPT_REPLIES", 8)
    await rig.acquire("warm-up")
    old = rig.envelope(c.AcquireLock(request="old", model="m", holder="gw"))
    locked = await rig.seat.acquire(old)
    release = rig.envelope(c.ReleaseLock(request="old"))
    await rig.seat.send(release)
    for number in range(20):
        await rig.acquire(f"q{number}")
    events = len(rig.log.rows)
    assert isinstance(locked, c.Locked)
    assert isinstance(await rig.seat.acquire(old), c.Rejected), "its lock has been released"
    assert await rig.seat.send(release) == c.Done()
    assert len(rig.log.rows) == events
    expect_sound(rig)


async def test_a_repeat_that_nothing_here_remembers_is_told_by_the_store_s_own_keys(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "KEPT_REPLIES", 8)
    monkeypatch.setattr(Repeats, "may_know", lambda self, command_id: False)
    await rig.acquire("warm-up")
    old = rig.envelope(c.AcquireLock(request="old", model="m", holder="gw"))
    locked = await rig.seat.acquire(old)
    await rig.send(c.ReleaseLock(request="old"))
    for number in range(20):
        await rig.acquire(f"q{number}")
    replies = await asyncio.gather(rig.seat.acquire(old), *await many(rig, 10, first=100))
    assert isinstance(locked, c.Locked)
    assert isinstance(replies[0], c.Rejected), "its lock has been released"
    assert {type(reply) for reply in replies[1:]} == {c.Locked}
    assert [event.request for event in rig.events("ReplicaLocked")].count("old") == 1
    expect_sound(rig)


async def test_a_repeated_wait_ends_as_the_first_one_did(rig: Rig) -> None:
    envelope = rig.envelope(c.AcquireLock(request="q1", model="m", holder="gw"))
    first = await rig.seat.acquire(envelope)
    assert isinstance(first, c.Locked)
    assert await rig.seat.acquire(envelope) == first, "the wait was recalled, its end is in the state"


@pytest.mark.parametrize("warm", [True, False], ids=["told of a lock at once", "told to wait at first"])
async def test_a_repeat_does_not_get_a_lock_that_has_ended(rig: Rig, warm: bool) -> None:
    if warm:
        await rig.acquire("warm-up")
    envelope = rig.envelope(c.AcquireLock(request="q1", model="m", holder="gw"))
    assert isinstance(await rig.seat.acquire(envelope), c.Locked)
    await rig.send(c.LoseHolder(holder="gw"))
    told = await rig.seat.acquire(envelope)
    assert isinstance(told, c.Rejected), "another request may hold that replica now"
    assert (told.code, told.message) == ("cancelled", "Its lock has ended: holder lost.")
    assert len([event for event in rig.events("ReplicaLocked") if event.request == "q1"]) == 1
    expect_sound(rig)


@pytest.mark.parametrize("over", [False, True], ids=["while the other runs", "when the other is over"])
async def test_a_repeat_does_not_get_the_lock_of_another_gateway_that_used_its_id(rig: Rig, over: bool) -> None:
    envelope = rig.envelope(c.AcquireLock(request="abc", model="m", holder="gw1"))
    assert isinstance(await rig.seat.acquire(envelope), c.Locked)
    await rig.send(c.LoseHolder(holder="gw1"))
    assert isinstance(await rig.acquire("abc", holder="gw2"), c.Locked)
    if over:
        await rig.send(c.ReleaseLock(request="abc"))
    told = await rig.seat.acquire(envelope)
    assert isinstance(told, c.Rejected)
    assert told.code == "cancelled"
    expect_sound(rig)


async def test_a_repeat_gets_the_lock_that_its_request_has_now(rig: Rig) -> None:
    envelope = rig.envelope(c.AcquireLock(request="q1", model="m", holder="gw"))
    first = await rig.seat.acquire(envelope)
    assert isinstance(first, c.Locked)
    gone = c.ReportBackendGone(request="q1", replica=first.replica, detail="refused")
    second = await rig.seat.acquire(rig.envelope(gone))
    assert isinstance(second, c.Locked)
    assert second.replica != first.replica
    assert await rig.seat.acquire(envelope) == second


async def test_a_caller_that_gives_up_leaves_its_command_decided(rig: Rig) -> None:
    await rig.acquire("warm-up")
    rig.gate.shut()
    asking = asyncio.create_task(rig.acquire("q1"))
    await rig.reached()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    rig.gate.open()
    await rig.until(lambda: "q1" in rig.seat.state().requests)
    expect_sound(rig)


async def test_a_wrong_command_is_rejected_and_leaves_no_event(rig: Rig) -> None:
    events = len(rig.log.rows)
    reply = await rig.send(c.DrainNode(node="nowhere"))
    assert isinstance(reply, c.Rejected)
    assert reply.code == "not_found"
    assert len(rig.log.rows) == events


async def test_a_defect_ends_the_term_and_only_its_command_suffers(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(state: object, command: object, now: int) -> list[object]:
        raise KeyError("a defect")

    monkeypatch.setitem(decide_module._RULES, c.Freeze, broken)
    envelope = rig.envelope(c.Freeze(what="evictions"))
    with pytest.raises(InvariantBroken):
        await rig.seat.send(envelope)
    await rig.until(lambda: rig.seat.leads)
    assert isinstance(await rig.acquire("q1"), c.Locked)
    with pytest.raises(InvariantBroken):
        await rig.seat.send(envelope)
    assert rig.seat.leads
    expect_sound(rig)


async def test_what_the_store_cannot_take_is_given_up_and_the_rest_is_stored(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.acquire("warm-up")
    append = rig.store.append

    def picky(batch: list[c.Envelope], epoch: int) -> object:
        if any(recorded.command_id == "poison" for recorded in batch):
            raise writer_module.InterlockError("the store cannot hold this.")
        return append(batch, epoch)

    monkeypatch.setattr(rig.store, "append", picky)
    rig.gate.shut()
    first = await many(rig, 3)
    await rig.reached()
    poison = asyncio.create_task(rig.send(c.DrainNode(node="thor"), "poison"))
    others = await many(rig, 3, first=3)
    rig.gate.open()
    rejected = await poison
    assert isinstance(rejected, c.Rejected)
    assert {type(reply) for reply in await asyncio.gather(*first, *others)} == {c.Locked}
    expect_sound(rig)


async def test_timers_fire_by_themselves(rig: Rig) -> None:
    await rig.send(c.ChangeSettings(values={"request_deadline": 100_000}))
    rig.workers.silence("thor")
    reply = await rig.acquire("q1")
    assert isinstance(reply, c.Rejected)
    assert reply.code in ("loading", "capacity_exhausted")


@pytest.mark.parametrize("seed", range(6))
async def test_under_random_faults_every_command_is_answered_and_the_log_is_the_state(rig: Rig, seed: int) -> None:
    chance = random.Random(seed)

    async def client(number: int) -> None:
        for turn in range(8):
            request = f"q{number}-{turn}"
            assert isinstance(await rig.acquire(request), c.Locked)
            if chance.random() < 0.2:
                rig.store.fail_next(chance.choice([*FAILURES, None]))
            assert isinstance(await rig.send(c.ReleaseLock(request=request)), c.Done)

    await asyncio.gather(*(client(number) for number in range(20)))
    assert len(rig.events("ReplicaLocked")) == len(rig.events("ReplicaReleased")) == 160
    assert rig.log.epoch > 1
    expect_sound(rig)
