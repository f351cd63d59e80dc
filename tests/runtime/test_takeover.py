"""Standbys, holders and nodes: what a new writer finds, keeps, sends again and lets go."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest
from msgspec.structs import replace

from interlock.adapters.runtime import liveness
from interlock.adapters.runtime.takeover import Seat
from interlock.adapters.store.memory import MemoryStore
from interlock.domain import commands as c
from interlock.domain.entities import NodeStatus
from interlock.domain.errors import LeaseHeld, NoWriter, StoreUnavailable, UnknownEvent, WorkerUnavailable
from interlock.domain.ports import RunningReport
from interlock.domain.recording import Recorded
from interlock.domain.snapshots import encode_cluster
from interlock.domain.units import GIB, SECOND
from tests.runtime.rig import Rig, expect_sound

MakeRig = Callable[..., Rig]


async def leading(make_rig: MakeRig, **settings: int) -> Rig:
    """A seat with one node, one model, and these settings of the scheduler."""
    rig = await make_rig(lease_us=300_000).lead()
    if settings:
        await rig.send(c.ChangeSettings(values=settings))
    await rig.node("thor")
    await rig.model("m")
    return rig


async def test_a_standby_takes_over_within_the_lease_and_knows_everything(make_rig: MakeRig) -> None:
    leader = await leading(make_rig)
    envelope = leader.envelope(c.AcquireLock(request="q1", model="m", holder="gw"))
    locked = await leader.seat.acquire(envelope)
    assert isinstance(locked, c.Locked)
    took_s = []
    for _ in range(3):
        standby = make_rig(leader.log, leader.workers, lease_us=300_000)
        took_s.append(await _taken_over(leader, standby))
        assert await standby.seat.acquire(envelope) == locked, "a repeat after a takeover gets the recorded reply"
        expect_sound(standby)
        leader = standby
    # A machine with other things to do only ever adds time: the fastest shows how long the program needs.
    assert min(took_s) < 1.0


async def _taken_over(leader: Rig, standby: Rig) -> float:
    """How long (s) the standby, which knows all that the leader does, needs to lead once the leader is killed."""
    standby.start()
    await standby.until(lambda: "q1" in standby.seat.state().requests)
    assert not standby.seat.leads
    await leader.die()
    loop = asyncio.get_running_loop()
    died_at = loop.time()
    await standby.until(lambda: standby.seat.leads)
    return loop.time() - died_at


async def test_a_configuration_that_is_refused_is_told_and_keeps_the_seat_unready(
    make_rig: MakeRig, caplog: pytest.LogCaptureFixture
) -> None:
    wanted: dict[str, int | str] = {"queue_limit": 7, "placement": "near"}

    def opening(engine: object) -> list[c.Envelope]:
        return [c.Envelope(command_id=f"opening-{len(wanted)}", command=c.ChangeSettings(values=wanted))]

    rig = make_rig(opening=opening)
    rig.gate.shut()
    rig.start()
    await rig.reached()
    assert rig.seat.lacks() == ["the configuration is being put in force."]
    rig.gate.open()
    await rig.until(rig.seat.opened.is_set)
    assert [reply.code for reply in rig.seat.refused] == ["invalid"]
    [lacks] = rig.seat.lacks()
    assert "the configuration is refused: placement: no placement profile is named 'near'. Choose one of" in lacks
    assert [record.levelname for record in caplog.records if "no placement profile" in record.message] == ["ERROR"]
    await rig.stop()
    del wanted["placement"]
    again = make_rig(rig.log, rig.workers, opening=opening)
    again.start()
    await again.until(again.seat.opened.is_set)
    assert (again.seat.lacks(), again.seat.state().settings.queue_limit) == ([], 7)


async def test_a_clean_stop_leaves_a_snapshot_and_no_lease(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await leading(make_rig)
    await first.acquire("q1")
    state = encode_cluster(first.seat.state())
    await first.stop()
    assert first.log.snapshots[0].position == len(first.log.rows)
    second = make_rig(first.log, first.workers, lease_us=60_000_000)
    reads: list[int] = []
    read = second.store.read

    def watched(after: int = 0, **bounds: int | None) -> Iterator[Recorded]:
        reads.append(after)
        return read(after, **bounds)

    monkeypatch.setattr(second.store, "read", watched)
    second.start()
    await second.until(lambda: second.seat.loaded.is_set())
    assert encode_cluster(second.seat.state()) == state
    assert reads[0] == first.log.snapshots[0].position
    await second.until(lambda: second.seat.leads)


async def test_a_snapshot_of_another_version_is_left_alone(make_rig: MakeRig) -> None:
    first = await leading(make_rig)
    await first.stop()
    first.log.snapshots[:] = [replace(kept, schema="of another version") for kept in first.log.snapshots]
    second = await make_rig(first.log, first.workers).lead()
    assert "m" in second.seat.state().models
    expect_sound(second)


async def test_snapshots_come_by_number_of_events(make_rig: MakeRig) -> None:
    rig = await make_rig(snapshot_events=20).lead()
    await rig.node("thor")
    await rig.model("m")
    for number in range(60):
        await rig.acquire(f"q{number}")
    await rig.until(lambda: len(rig.log.snapshots) == 2)
    assert rig.log.snapshots[0].position >= rig.log.snapshots[1].position + 20


async def test_an_unknown_event_is_a_refusal_to_lead(make_rig: MakeRig) -> None:
    first = await leading(make_rig)
    await first.stop()
    first.log.snapshots.clear()
    row = list(first.log.rows[-1])
    row[3] = "interlock.domain.events:InventedLater"
    first.log.rows[-1] = tuple(row)
    second = make_rig(first.log)
    with pytest.raises(UnknownEvent, match="cannot lead"):
        await second.seat.run()
    assert second.log.epoch == 1


async def test_pending_effects_are_sent_again_under_the_new_epoch(make_rig: MakeRig) -> None:
    first = await leading(make_rig)
    first.workers.silence("thor")
    asking = asyncio.create_task(first.acquire("q1"))
    await first.until(lambda: bool(first.seat.state().replicas))
    await first.die()
    await asyncio.gather(asking, return_exceptions=True)
    first.workers.heal("thor")
    second = await make_rig(first.log, first.workers, lease_us=300_000).lead()
    await second.until(lambda: any(r.phase == "loaded" for r in second.seat.state().replicas.values()))
    assert {effect.op for effect in second.effects("backend.install")} == {"r-000001.1"}
    expect_sound(second)


async def test_an_effect_is_tried_again_while_it_is_wanted_and_no_longer(make_rig: MakeRig) -> None:
    rig = await leading(make_rig)
    rig.workers.silence("thor")
    asking = asyncio.create_task(rig.acquire("q1"))
    await rig.until(lambda: rig.seat.term is not None and rig.seat.term.effects.running == 1)
    rig.workers.heal("thor")
    assert isinstance(await asking, c.Locked)
    rig.workers.silence("thor")
    await rig.send(c.ReleaseLock(request="q1"))
    await rig.send(c.EvictReplica(replica="r-000001"))
    await rig.send(c.RemoveNode(node="thor"))
    await rig.until(lambda: rig.seat.term is not None and rig.seat.term.effects.running == 0)
    assert rig.seat.state().replicas == {}


async def test_a_silent_holder_loses_its_locks_and_a_renewing_one_keeps_them(make_rig: MakeRig) -> None:
    rig = await leading(make_rig, holder_lease=300_000)
    await rig.acquire("q1", holder="silent")
    await rig.acquire("q2", holder="alive")

    async def lost() -> None:
        while rig.seat.state().requests.keys() != {"q2"}:
            await rig.seat.renew_lease("alive")
            await asyncio.sleep(0.05)

    await asyncio.wait_for(lost(), 5)
    assert [event.holder for event in rig.events("HolderLost")] == ["silent"]
    expect_sound(rig)


async def test_a_holder_hears_with_its_renewals_whose_claim_an_operator_has_ended(make_rig: MakeRig) -> None:
    rig = await leading(make_rig)
    for request in ("q1", "q2"):
        await rig.acquire(request, holder="gw")
    await rig.seat.send(c.Envelope(command_id="served", command=c.ReleaseLock(request="q1"), actor="client"))
    assert (await rig.seat.renew_lease("gw")).ended == (), "the gateway itself has ended it"
    await rig.seat.send(c.Envelope(command_id="by hand", command=c.ReleaseLock(request="q2"), actor="admin"))
    assert (await rig.seat.renew_lease("gw")).ended == ("q2",)
    assert (await rig.seat.renew_lease("gw")).ended == ("q2",), "an answer may be lost"
    assert (await rig.seat.renew_lease("another")).ended == ()


async def test_a_shorter_lease_is_told_to_who_renews_and_counts_from_then_on(make_rig: MakeRig) -> None:
    rig = await leading(make_rig, holder_lease=1_500_000)
    await rig.acquire("q1", holder="gw")
    assert (await rig.seat.renew_lease("gw")).lease == 1_500_000
    await rig.send(c.ChangeSettings(values={"holder_lease": 200_000}))
    began = asyncio.get_running_loop().time()
    await rig.until(lambda: not rig.seat.state().requests)
    assert asyncio.get_running_loop().time() - began > 1.0, "it was promised the longer one"
    assert (await rig.seat.renew_lease("gw")).lease == 200_000


async def test_a_takeover_gives_every_holder_one_fresh_lease(make_rig: MakeRig) -> None:
    first = await leading(make_rig, holder_lease=400_000)
    await first.acquire("q1", holder="gone")
    await first.die()
    second = await make_rig(first.log, first.workers, lease_us=300_000).lead()
    assert "q1" in second.seat.state().requests
    began = asyncio.get_running_loop().time()
    await second.until(lambda: not second.seat.state().requests)
    assert 0.2 < asyncio.get_running_loop().time() - began < 2.0
    assert [event.holder for event in second.events("HolderLost")] == ["gone"]


async def test_a_silent_node_becomes_unreachable_and_recovers_when_it_is_heard(make_rig: MakeRig) -> None:
    rig = await leading(make_rig, unreachable_after=300_000)
    rig.workers.silence("thor")
    await rig.until(lambda: rig.seat.state().nodes["thor"].status is NodeStatus.UNREACHABLE)
    boot = rig.seat.state().nodes["thor"].boot
    assert await rig.seat.heard("thor", boot)
    await rig.until(lambda: rig.seat.state().nodes["thor"].status is NodeStatus.HEALTHY)
    assert not await rig.seat.heard("thor", "another boot"), "then it has to register"
    await rig.send(c.ChangeSettings(values={"heartbeat_interval": 3_600_000_000, "unreachable_after": 30_000_000}))
    assert await rig.seat.heard("thor", boot) == 10_000_000, "or it would count as silent between two heartbeats"
    assert not await rig.seat.heard("nobody", "")


async def test_a_worker_that_has_said_goodbye_must_register_through_whatever_gateway_it_beats(
    make_rig: MakeRig,
) -> None:
    first = await leading(make_rig)
    second = make_rig(first.log, first.workers, forward=first.seat)
    second.start()
    boot = first.seat.state().nodes["thor"].boot
    await first.send(c.WorkerLeft(node="thor", boot=boot))
    await second.until(lambda: second.seat.state().nodes.get("thor") is not None)
    for seat in (first.seat, second.seat):
        assert await seat.heard("thor", boot) is None
        assert await seat.heard("thor", "") is None, "LocalAI's worker names no boot"
    assert first.seat.state().nodes["thor"].status is NodeStatus.OFFLINE
    await first.node("thor")
    for seat in (first.seat, second.seat):
        assert await seat.heard("thor", boot)


async def test_heartbeats_through_any_gateway_keep_a_node_healthy(make_rig: MakeRig) -> None:
    rig = await leading(make_rig, unreachable_after=400_000)
    end = asyncio.get_running_loop().time() + 1.0
    while asyncio.get_running_loop().time() < end:
        await rig.send(c.ReportCapacity(node="thor"))
        await asyncio.sleep(0.05)
    assert rig.events("NodeBecameUnreachable") == []


async def test_a_worker_that_answers_is_not_silent_though_its_heartbeats_reach_nobody(make_rig: MakeRig) -> None:
    rig = await leading(make_rig, unreachable_after=300_000)
    await asyncio.sleep(1.0)
    assert rig.events("NodeBecameUnreachable") == [], "the gateway that they go to may be down"


async def test_a_silent_node_that_answers_again_comes_back_without_a_heartbeat(make_rig: MakeRig) -> None:
    rig = await leading(make_rig, unreachable_after=300_000, reconcile_interval=200_000)
    rig.workers.silence("thor")
    await rig.until(lambda: rig.seat.state().nodes["thor"].status is NodeStatus.UNREACHABLE)
    rig.workers.heal("thor")
    await rig.until(lambda: rig.seat.state().nodes["thor"].status is NodeStatus.HEALTHY)
    assert len(rig.events("NodeRecovered")) == 1


async def test_a_heartbeat_that_holds_nothing_reaches_the_writer_through_a_standby(make_rig: MakeRig) -> None:
    first = await leading(make_rig, unreachable_after=400_000)
    second = make_rig(first.log, first.workers, forward=first.seat)
    second.start()
    await second.until(lambda: "thor" in second.seat.state().nodes)
    first.workers.silence("thor")
    end = asyncio.get_running_loop().time() + 1.0
    while asyncio.get_running_loop().time() < end:
        assert await second.seat.heard("thor", "")
        await asyncio.sleep(0.05)
    assert first.events("NodeBecameUnreachable") == []


async def test_a_process_that_the_log_does_not_know_is_stopped_after_a_takeover(make_rig: MakeRig) -> None:
    first = await leading(make_rig)
    await first.acquire("q1")
    node = first.workers._nodes["thor"]
    process = next(iter(node.processes.values()))
    node.processes["r-999999"] = type(process)(replace(process.running, replica="r-999999", process="p-stray"))
    await first.die()
    second = await make_rig(first.log, first.workers, lease_us=300_000).lead()
    await second.until(lambda: "r-999999" not in node.processes)
    assert "r-000001" in node.processes
    await second.until(lambda: not second.seat.state().strays)


async def test_a_replica_that_its_worker_no_longer_runs_is_lost_at_the_next_round(make_rig: MakeRig) -> None:
    rig = await leading(make_rig, reconcile_interval=200_000)
    await rig.acquire("q1")
    rig.workers._nodes["thor"].processes.clear()
    await rig.until(lambda: bool(rig.events("ReplicaLost")))
    assert rig.seat.state().replicas == {}


async def test_it_is_ready_once_every_node_has_said_what_it_runs(make_rig: MakeRig) -> None:
    first = await leading(make_rig)
    await first.until(lambda: first.seat.lacks() == [])
    await first.die()
    first.workers.silence("thor")
    second = await make_rig(first.log, first.workers, lease_us=300_000, expected=["thor"]).lead()
    assert any("thor has not said" in reason for reason in second.seat.lacks())
    first.workers.restart("thor")
    await second.node("thor")
    await second.until(lambda: second.seat.lacks() == [])


async def test_it_is_ready_again_after_a_lost_term_though_no_worker_registers_anew(make_rig: MakeRig) -> None:
    rig = await make_rig(expected=["thor"]).lead()
    await rig.node("thor")
    await rig.until(lambda: rig.seat.lacks() == [])
    rig.log.lease_until = 0
    MemoryStore(rig.log).take_epoch("another", 60_000_000)
    await rig.until(lambda: not rig.seat.leads)
    assert all(".." not in reason for reason in rig.seat.lacks())
    rig.log.lease_until = 0
    await rig.until(lambda: rig.seat.leads)
    await rig.until(lambda: rig.seat.lacks() == [])


async def test_a_node_that_never_says_what_it_runs_does_not_keep_the_others_from_serving(make_rig: MakeRig) -> None:
    first = await leading(make_rig, unreachable_after=500_000)
    await first.node("mute")
    first.workers.silence("mute")
    assert first.seat.lacks() == [], "nothing was handed over with a node that has just joined"
    await first.die()
    second = await make_rig(first.log, first.workers, lease_us=300_000).lead()

    async def beat_until_ready() -> None:
        while second.seat.lacks():
            assert await second.seat.heard("mute", second.seat.state().nodes["mute"].boot)
            await asyncio.sleep(0.05)

    await asyncio.wait_for(beat_until_ready(), 10)
    assert second.seat.state().nodes["mute"].status is NodeStatus.HEALTHY


async def test_a_standby_without_a_way_to_the_writer_is_not_ready_and_says_why(make_rig: MakeRig) -> None:
    first = await leading(make_rig)
    second = make_rig(first.log, first.workers)
    second.start()
    await second.until(lambda: "another writer leads" in " ".join(second.seat.lacks()))
    assert await second.seat.heard("thor", "")


async def test_a_standby_passes_commands_on(make_rig: MakeRig) -> None:
    first = await leading(make_rig)
    second = make_rig(first.log, first.workers, forward=first.seat)
    second.start()
    await second.until(lambda: second.seat.lacks() == [])
    assert isinstance(await second.acquire("q1"), c.Locked)
    await second.node("orin")
    assert "orin" in second.seat.state().nodes, "what it passed on, it can show at once"
    await second.seat.renew_lease("gw")
    assert isinstance(second.seat, Seat)


async def test_a_standby_that_does_not_reach_the_writer_is_not_ready_and_says_why(make_rig: MakeRig) -> None:
    first = await leading(make_rig)
    connected = [True]
    second = make_rig(first.log, first.workers, forward=first.seat, broker=lambda: connected[0])
    second.start()
    await second.until(lambda: second.seat.lacks() == [])
    connected[0] = False
    assert "broker" in " ".join(second.seat.lacks())
    assert first.seat.lacks() == []
    connected[0] = True
    renew = first.seat.renew_lease

    async def unheard(holder: str) -> int:
        raise NoWriter("no writer has answered for 10 s.")

    first.seat.renew_lease = unheard  # type: ignore[method-assign]  # a writer that the broker no longer reaches
    with pytest.raises(NoWriter):
        await second.seat.renew_lease("gw")
    assert "no writer has answered" in " ".join(second.seat.lacks())
    first.seat.renew_lease = renew  # type: ignore[method-assign]  # and that it reaches again
    await second.seat.renew_lease("gw")
    assert second.seat.lacks() == []


def _away(*_: object) -> None:
    raise StoreUnavailable("the event store is gone.")


async def test_a_store_that_is_away_makes_leader_and_standby_unready_within_three_seconds(make_rig: MakeRig) -> None:
    first = await make_rig(lease_us=60_000_000).lead()
    second = make_rig(first.log, first.workers, lease_us=60_000_000, forward=first.seat)
    second.start()
    await first.until(lambda: second.seat.lacks() == [] == first.seat.lacks())
    loop = asyncio.get_running_loop()
    broken_at = loop.time()
    first.store.renew_epoch = _away  # type: ignore[method-assign]  # a database that has died
    hung = threading.Event()

    def hang(*_: object) -> int:
        hung.wait(20)
        raise LeaseHeld("first leads.")

    second.store.take_epoch = hang  # type: ignore[method-assign]  # one that no longer answers
    await first.until(lambda: bool(first.seat.lacks()) and bool(second.seat.lacks()))
    assert loop.time() - broken_at < 3.5
    assert all("the event store has not answered" in one.seat.lacks()[0] for one in (first, second))
    del first.store.renew_epoch, second.store.take_epoch
    hung.set()
    await first.until(lambda: second.seat.lacks() == [] == first.seat.lacks())


async def test_the_lease_is_renewed_and_a_lapsed_one_is_not_relied_on(make_rig: MakeRig) -> None:
    rig = await leading(make_rig)
    until = rig.log.lease_until
    await rig.until(lambda: rig.log.lease_until > until)
    rig.log.lease_until = 0
    MemoryStore(rig.log).take_epoch("another", 60_000_000)
    await rig.until(lambda: not rig.seat.leads)
    assert rig.seat.lacks() != []


# --- a call that nobody answers -------------------------------------------------------------------------------------


async def holding(rig: Rig, request: str = "q1") -> c.Locked:
    """The request's lock on the one copy of ``m``, on a node whose worker has said what it runs."""
    locked = await rig.acquire(request)
    assert isinstance(locked, c.Locked)
    term = rig.seat.term
    assert term is not None
    await rig.until(lambda: locked.node in term.liveness._answered)
    return locked


def gone(lock: c.Locked, *, answered: bool = False) -> c.ReportBackendGone:
    return c.ReportBackendGone(request=lock.request, replica=lock.replica, detail="no answer", answered=answered)


async def test_a_call_and_a_worker_that_do_not_answer_are_a_silent_node_and_cost_no_copy(make_rig: MakeRig) -> None:
    rig = await leading(make_rig)
    lock = await holding(rig)
    rig.workers.silence("thor")
    asking = asyncio.create_task(rig.seat.acquire(rig.envelope(gone(lock))))
    await rig.until(lambda: bool(rig.events("CallWentUnanswered")))
    assert [event.call for event in rig.events("NodeBecameUnreachable")] == ["no answer"]
    rig.workers.heal("thor")
    await rig.seat.heard("thor", "b-thor-1")
    assert await asking == lock, "the copy was there all the time, and serves the request when its node is heard"
    assert not rig.events("ReplicaLost")
    expect_sound(rig)


async def test_a_call_that_fails_where_the_worker_answers_is_believed_at_once(make_rig: MakeRig) -> None:
    rig = await leading(make_rig)
    lock = await holding(rig)
    again = await rig.seat.acquire(rig.envelope(gone(lock)))
    assert isinstance(again, c.Locked)
    assert again.replica != lock.replica
    assert len(rig.events("ReplicaLost")) == 1
    assert not rig.events("NodeBecameUnreachable")


async def test_who_was_told_that_the_model_is_not_there_needs_no_worker_to_say_so(make_rig: MakeRig) -> None:
    rig = await leading(make_rig)
    lock = await holding(rig)
    rig.workers.silence("thor")
    asking = asyncio.create_task(rig.seat.acquire(rig.envelope(gone(lock, answered=True))))
    await rig.until(lambda: bool(rig.events("ReplicaLost")))
    assert not rig.events("NodeBecameUnreachable")
    rig.workers.heal("thor")
    assert isinstance(await asking, c.Locked)


async def test_many_calls_in_vain_are_one_question_to_the_worker(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await leading(make_rig)
    locks = [await holding(rig, f"q{number}") for number in range(5)]
    asked: list[str] = []

    async def never(node: str) -> RunningReport:
        asked.append(node)
        return await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(rig.workers, "running", never)
    monkeypatch.setattr(liveness, "ANSWER_PATIENCE", SECOND // 10)
    calls = [asyncio.create_task(rig.seat.acquire(rig.envelope(gone(lock)))) for lock in locks]
    await rig.until(lambda: len(rig.events("CallWentUnanswered")) == 5)
    assert asked == ["thor"]
    assert len(rig.events("NodeBecameUnreachable")) == 1
    for call in calls:
        call.cancel()


async def test_a_node_that_speaks_while_its_worker_is_slow_to_answer_is_not_silent(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await leading(make_rig)
    lock = await holding(rig)

    async def slow(node: str) -> RunningReport:
        await rig.seat.heard("thor", "b-thor-1")
        return await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(rig.workers, "running", slow)
    monkeypatch.setattr(liveness, "ANSWER_PATIENCE", SECOND // 10)
    again = await rig.seat.acquire(rig.envelope(gone(lock)))
    assert isinstance(again, c.Locked)
    assert len(rig.events("ReplicaLost")) == 1
    assert not rig.events("NodeBecameUnreachable")


async def test_a_worker_that_has_never_said_what_it_runs_is_not_asked(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may not know the question: such a node would count as silent with every call that fails there."""
    rig = await make_rig(lease_us=300_000).lead()

    async def dumb(node: str) -> RunningReport:
        raise WorkerUnavailable("it does not know the question")

    monkeypatch.setattr(rig.workers, "running", dumb)
    rig.workers.add_node("thor")
    await rig.send(c.RegisterNode(node="thor", boot="b-thor-1", pools=(24 * GIB,), approve=True))
    await rig.model("m")
    lock = await rig.acquire("q1")
    assert isinstance(lock, c.Locked)
    assert isinstance(await rig.seat.acquire(rig.envelope(gone(lock))), c.Locked)
    assert len(rig.events("ReplicaLost")) == 1
