"""Why: chains of causes, the decisions in them, and surveys made again in full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from interlock.adapters.audit.full import recompute
from interlock.adapters.audit.rebuild import Rebuilt
from interlock.adapters.audit.service import AuditService
from interlock.adapters.audit.why import find_subject
from interlock.adapters.store import SqliteStore
from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.codec import decode_event
from interlock.domain.commands import SetReplicaSlots, StartEpoch
from interlock.domain.errors import InvalidField, NotFound
from interlock.domain.explanation import Considered
from interlock.domain.recording import Recorded
from interlock.domain.units import MINUTE, SECOND, tell_duration
from interlock.domain.views import request_view
from tests.domain.cluster import Cluster
from tests.golden.story import Story


@contextmanager
def _logged(tmp_path: Path, cluster: Cluster) -> Iterator[AuditService]:
    store = SqliteStore(tmp_path / "events.db", durable=False)
    store.append(cluster.log, store.take_epoch("w", 1))
    yield AuditService(store)
    store.close()


def _events(audit: AuditService, subject: str) -> list[str]:
    return [step.event for step in audit.why(subject).chain]


def test_a_cold_requests_chain_is_its_load_from_reservation_to_release(audit: AuditService) -> None:
    assert _events(audit, "q-1") == [
        "ReplicaReserved", "BackendInstallRequested", "RequestQueued", "BackendInstalled", "StagingStarted",
        "LoadStarted", "ReplicaLoaded", "ReplicaLocked", "ReplicaReleased",
    ]  # fmt: skip
    why = audit.why("q-1")
    assert why.sentence.startswith(
        "Request q-1 got r-000001 on node thor after waiting 2m3s (the load it waited for is done), and ended"
    )
    assert why.sentence.endswith("served. Not on orin (selector: wants tier fast, has slow).")


def test_a_requests_waits_are_told_in_order_with_how_long_each_was_and_what_ended_it(audit: AuditService) -> None:
    room, load = audit.why("q-3").waits
    assert (room.kind, load.kind) == ("capacity", "load")
    assert room.ended_by == "a replica that was kept for min_residency may make room now"
    assert load.ended_by == "the load it waited for is done"
    assert room.lasted > 0 < load.lasted
    assert room.sentence == (
        f"Waited {tell_duration(room.lasted)} because there is no room, and nothing may be evicted now; "
        "ended by: a replica that was kept for min_residency may make room now."
    )
    assert room.began < load.began
    assert audit.why("q-6").waits[-1].ended_by == "refused, load_failed"
    assert audit.why("q-4").waits == []
    assert audit.why("r-000001").waits == []


def test_a_wait_for_a_load_ends_with_the_load_also_for_those_behind_whom_nobody_looks_at(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.send(cmd.StartEpoch(epoch=1, writer="w"))
    cluster.node("n")
    cluster.model("m")
    for number in range(4):
        cluster.request(f"q{number}", "m", deadline=cluster.now + (30 if number == 2 else 90) * SECOND)
    cluster.wait(9)
    cluster.settle()
    cluster.wait(40)
    with _logged(tmp_path, cluster) as audit:
        head, short = (audit.why(f"q{number}").waits for number in (1, 2))
        assert [(wait.kind, wait.lasted // SECOND, wait.ended_by) for wait in short] == [
            ("load", 9, "r-000001 of m loaded"), ("turn", 21, "refused, capacity_exhausted"),
        ]  # fmt: skip
        assert (
            short[1].sentence
            == "Waited 21s for its turn, behind who came before it; ended by: refused, capacity_exhausted."
        )
        assert [(wait.kind, wait.ended_by) for wait in head] == [("load", "r-000001 of m loaded"), ("busy", "")]
        assert "while waiting for a free replica" in audit.why("q2").sentence
    shown = request_view(cluster.state, cluster.state.requests["q3"])
    assert (shown.place, shown.wait, shown.waits_on) == (2, "busy", "")


def test_a_request_whose_call_nobody_answered_tells_that_its_copy_was_kept(audit: AuditService) -> None:
    why = audit.why("q-40")
    assert "ReplicaLost" not in [step.event for step in why.chain]
    told = next(step.summary for step in why.chain if step.event == "CallWentUnanswered")
    assert told.endswith("node remote is silent, so the copy is kept, and the request is routed again.")
    assert "(node remote recovered), after calls in vain on remote, silent then, and ended" in why.sentence
    silence = next(row.summary for row in audit.log({"event": "NodeBecameUnreachable", "node": "remote"}).rows)
    assert "a call failed there (UNAVAILABLE: 10.0.0.4:50051 does not answer), and its worker" in silence


def test_a_request_that_needed_an_eviction_tells_who_left_for_it(audit: AuditService) -> None:
    events = _events(audit, "q-3")
    order = ("RequestQueued", "RequestWoken", "ReplicaEvicted", "ReplicaReserved", "UnloadConfirmed", "ReplicaLocked")
    places = [events.index(name) for name in order]
    assert places == sorted(places)


def test_an_evicted_replica_tells_for_whom_and_why_nobody_else(audit: AuditService) -> None:
    why = audit.why("r-000001")
    assert why.eviction is not None
    assert (why.eviction.for_replica, why.eviction.for_model) == ("r-000002", "llama")
    assert why.eviction.for_cause == "request q-3"
    assert why.eviction.victims == ["r-000001"]
    assert "to make room for r-000002 of llama" in why.sentence
    assert "Not on orin (selector: wants tier fast, has slow)" in why.sentence


def test_every_decision_lists_the_nodes_it_considered(audit: AuditService) -> None:
    decisions = [step.decision for step in audit.why("q-3").chain if step.decision is not None]
    assert decisions
    for decision in decisions:
        assert {row.node for row in decision.considered} == {"thor", "orin"}
        orin = next(row for row in decision.considered if row.node == "orin")
        assert (orin.outcome, orin.filter) == ("rejected", "selector")
        assert decision.full


def test_a_refusal_says_what_would_cure_it(audit: AuditService) -> None:
    why = audit.why("q-5")
    assert [step.event for step in why.chain] == ["RequestRefused"]
    assert why.cure == "Add a larger node, raise a budget, or lower the model's vram or disk."
    assert "never_fits" in why.sentence
    assert why.cure in why.sentence


@pytest.mark.parametrize(
    ("subject", "kind", "name"),
    [
        ("q-1", "request", "q-1"),
        ("r-000001", "replica", "r-000001"),
        ("replica:r-000001", "replica", "r-000001"),
        ("thor", "node", "thor"),
        ("node:thor", "node", "thor"),
        ("model:qwen", "model", "qwen"),
        ("qwen", "model", "qwen"),
        ("position:10", "position", "10"),
        ("correlation:trace-q-3", "correlation", "trace-q-3"),
        ("trace-q-3", "correlation", "trace-q-3"),
        ("c-0001/0", "position", "1"),
    ],
)
def test_ids_are_known_in_every_form(story_log: SqliteStore, subject: str, kind: str, name: str) -> None:
    found = find_subject(story_log, subject)
    assert (found.kind, found.id) == (kind, name)
    assert AuditService(story_log).why(subject).chain


@pytest.mark.parametrize("subject", ["nobody", "node:nobody", "position:99999", "correlation:", ""])
def test_an_id_of_nothing_is_not_found(audit: AuditService, subject: str) -> None:
    with pytest.raises(NotFound):
        audit.why(subject)


def test_a_position_that_is_no_number_is_refused(audit: AuditService) -> None:
    with pytest.raises(InvalidField):
        audit.why("position:first")


def test_a_models_chain_leaves_its_requests_out(audit: AuditService) -> None:
    events = _events(audit, "model:embed")
    assert "ModelParked" in events
    assert not {"RequestQueued", "ReplicaLocked"} & set(events)


def test_a_position_tells_all_that_its_command_brought(audit: AuditService) -> None:
    evicted = audit.log({"event": "ReplicaEvicted"}).rows[0]
    events = _events(audit, f"position:{evicted.position}")
    assert {"RequestWoken", "ReplicaEvicted", "ReplicaReserved"} <= set(events)


def test_a_chain_is_bounded_and_says_so(tmp_path: Path) -> None:
    story = Story()
    story.send(StartEpoch(epoch=1, writer="test"))
    story.node("thor")
    for number in range(210):
        story.send(SetReplicaSlots(node="thor", max_replicas_per_model=2 - number % 2))
    with _stored(story, tmp_path) as store:
        why = AuditService(store).why("node:thor")
        assert len(why.chain) == 200
        assert why.truncated
        assert why.chain[-1].position == store.head().position


# --- Surveys in full ------------------------------------------------------------------------------------------------


class _Stored:
    """A story's log on SQLite, for a block."""

    def __init__(self, story: Story, folder: Path) -> None:
        self._store = SqliteStore(folder / "events.db", durable=False)
        self._store.append([row for one in story.outcomes for row in one.recorded], self._store.take_epoch("test", 1))

    def __enter__(self) -> SqliteStore:
        return self._store

    def __exit__(self, *_: object) -> None:
        self._store.close()


def _stored(story: Story, folder: Path) -> _Stored:
    return _Stored(story, folder)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteStore]:
    """Twenty nodes, so that surveys are cut: a cold request, warm ones, and an eviction with a choice."""
    story = Story()
    story.send(StartEpoch(epoch=1, writer="test"))
    for number in range(20):
        story.node(f"node-{number:02d}", 24, labels={"tier": "fast" if number < 18 else "slow"})
    story.model("qwen", 20, selector={"tier": "fast"}, max_replicas=18)
    story.model("whale", 24, selector={"node.name": "node-00"})
    story.acquire("q-1", "qwen")
    story.load(story.newest())
    story.release("q-1")
    story.acquire("q-2", "qwen")
    story.release("q-2")
    story.wait(MINUTE)
    story.acquire("q-3", "whale")
    with _stored(story, tmp_path_factory.mktemp("large")) as store:
        yield store


@pytest.mark.parametrize("request_id", ["q-1", "q-2", "q-3"])
def test_a_survey_that_was_cut_is_made_again_in_full(large: SqliteStore, request_id: str) -> None:
    audit = AuditService(large)
    cut = [step.decision for step in audit.why(request_id).chain if step.decision is not None]
    full = [step.decision for step in audit.why(request_id, full=True).chain if step.decision is not None]
    assert cut
    for before, after in zip(cut, full, strict=True):
        assert before.rejected
        assert not before.full
        assert len(before.considered) < 20
        assert after.full, after.note
        assert len(after.considered) == 20
        assert {row.node: row for row in before.considered}.items() <= {
            row.node: row for row in after.considered
        }.items()


def test_an_arriving_requests_decision_is_made_again_too(large: SqliteStore) -> None:
    locked = next(step for step in AuditService(large).why("q-2", full=True).chain if step.event == "ReplicaLocked")
    assert locked.decision is not None
    assert "decided again with the same outcome" in locked.decision.note


def test_a_survey_that_does_not_agree_is_not_shown(large: SqliteStore) -> None:
    recorded = next(row for row in large.read() if b'"q-2"' in row.state and "ReplicaLocked" in row.topic)
    event = decode_event(recorded.topic, recorded.state)
    assert isinstance(event, ev.ReplicaLocked)
    assert event.explanation is not None
    lied = msgspec.structs.replace(event.explanation, rejected={"selector": 7})
    again = recompute(Rebuilt(large), recorded, event, lied)
    assert again.rows == []
    assert "judges the recorded nodes differently" in again.note


def test_what_a_cold_request_passed_over_is_told_in_plain_words(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.send(cmd.StartEpoch(epoch=1, writer="w"))
    cluster.node("a", vram=24)
    cluster.node("b", vram=20)
    cluster.node("c", vram=4)
    cluster.model("m")
    cluster.request("cold", "m")
    cluster.now += 712_527
    cluster.settle()
    cluster.now += 8_955
    cluster.release("cold")
    cluster.request("warm", "m")
    store = SqliteStore(tmp_path / "events.db", durable=False)
    store.append(cluster.log, store.take_epoch("w", 1))
    audit = AuditService(store)
    assert audit.why("cold").sentence == (
        "Request cold got r-000001 on node a after waiting 713ms (the load it waited for is done), and ended after "
        "8.96ms: served. Not on b (it would have done as well); c (memory: needs 9GiB, 4GiB free)."
    )
    assert audit.why("warm").sentence.endswith("Not on b (no copy of it is there); c (no copy of it is there).")
    store.close()


def test_what_a_placement_profile_preferred_is_told_and_surveyed_again(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.send(cmd.StartEpoch(epoch=1, writer="w"))
    cluster.send(cmd.ChangeSettings(values={"placement": "pack"}))
    for place in range(20):
        cluster.node(f"n{place:02d}", vram=80 - place)
    cluster.model("m")
    cluster.model("friend", anti_affinity="g", placement="default")
    cluster.model("other", anti_affinity="g", placement="default")
    for name in ("m", "friend", "other"):
        cluster.loaded(name)
    store = SqliteStore(tmp_path / "events.db", durable=False)
    store.append(cluster.log, store.take_epoch("w", 1))
    audit = AuditService(store)
    reserved = [audit.why(replica, full=True).chain[0] for replica in ("r-000001", "r-000002", "r-000003")]
    assert [step.event for step in reserved] == ["ReplicaReserved"] * 3
    packed, friend, other = (step.summary for step in reserved)
    assert packed.endswith(
        "n19 was chosen for m by the profile pack: it leaves the least memory over (pack), "
        "though n00 has more free memory."
    )
    assert friend.endswith("an operator asked for it.")
    assert other.endswith("n01 was chosen for other rather than n00: a member of its group is there.")
    for step in reserved:
        assert step.decision is not None
        assert step.decision.full, step.decision.note
        assert len(step.decision.considered) == 20
    store.close()


def test_why_a_prompt_went_where_it_went_is_told_in_one_sentence(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.send(cmd.StartEpoch(epoch=1, writer="w"))
    for name in ("a", "b"):
        cluster.node(name)
    cluster.model("m", max_replicas=2, parallel=0, prefix_affinity=1)
    for _ in range(2):
        cluster.loaded("m")
    for request, marks in (("first", (1, 2)), ("holder", (1, 2, 3, 4)), ("spread", (1, 2, 3, 4))):
        cluster.wait(1)
        cluster.request(request, "m", prefix=marks)
    store = SqliteStore(tmp_path / "events.db", durable=False)
    store.append(cluster.log, store.take_epoch("w", 1))
    audit = AuditService(store)
    assert "prompt" not in audit.why("first").sentence
    assert "got r-000001 on node a at once" in audit.why("first").sentence
    cluster.release("first")
    held = "r-000001 holds 2 of 4 blocks of its prompt, and is too busy: 1 in flight against 0"
    assert f"got r-000002 on node b at once ({held}), and runs" in audit.why("holder").sentence
    assert "(it holds 4 of 4 blocks of its prompt)" in audit.why("spread").sentence
    store.close()


def _twenty(**scheduling: object) -> Cluster:
    """Twenty nodes, two of which have room for the model m, one of them for two copies."""
    cluster = Cluster()
    cluster.send(cmd.StartEpoch(epoch=1, writer="w"))
    cluster.node("both", vram=80, slots=2)
    cluster.node("one", vram=24)
    for number in range(18):
        cluster.node(f"small-{number:02d}", vram=4)
    cluster.model("m", max_replicas=3, **scheduling)
    for _ in range(3):
        cluster.loaded("m")
    return cluster


def test_a_cut_survey_of_copies_on_the_same_node_is_made_again_in_full(tmp_path: Path) -> None:
    cluster = _twenty(parallel=0)
    for number in range(6):
        cluster.request(f"q-{number}", "m")
    with _logged(tmp_path, cluster) as audit:
        for number in range(6):
            decision = audit.why(f"q-{number}", full=True).chain[-1].decision
            assert decision is not None
            assert decision.full, decision.note
            assert len({row.node for row in decision.considered}) == len(decision.considered) == 20


def test_a_cut_survey_of_an_older_program_is_made_again_though_it_named_replicas(tmp_path: Path) -> None:
    cluster = _twenty(parallel=0)
    cluster.request("q", "m")
    with _logged(tmp_path, cluster) as audit:
        recorded = audit._log.select("request_id = ?", ("q",))[-1]
        event = decode_event(recorded.topic, recorded.state)
        assert isinstance(event, ev.ReplicaLocked)
        assert event.explanation is not None
        rows = event.explanation.considered
        eligible = next(row for row in rows if row.outcome == "eligible")
        twin = Considered(rows[0].node, "eligible", "", "r-000009")
        former = (rows[0], msgspec.structs.replace(eligible, detail="r-000008"), twin)
        before = msgspec.structs.replace(event.explanation, considered=former)
        again = recompute(Rebuilt(audit._log), recorded, msgspec.structs.replace(event, explanation=before), before)
    assert len(again.rows) == 20
    assert again.rows[0] == rows[0]
    assert "decided again with the same outcome" in again.note


def test_a_replica_that_somebody_released_is_not_explained_by_how_it_was_placed_long_ago(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.send(cmd.StartEpoch(epoch=1, writer="w"))
    cluster.node("a", vram=24)
    cluster.node("b", vram=4)
    cluster.model("m", max_replicas=1)
    cluster.request("first", "m")
    cluster.request("with-it", "m")
    cluster.settle()
    cluster.send(cmd.DrainNode(node="b"))
    cluster.request("later", "m")
    cluster.wait(1)
    cluster.release("first")
    cluster.release("with-it")
    with _logged(tmp_path, cluster) as audit:
        assert audit.why("first").sentence.endswith("Not on b (memory: needs 9GiB, 4GiB free).")
        assert audit.why("with-it").sentence.endswith("Not on b (it is draining).")
        assert audit.why("later").sentence.endswith("Not on b (it is draining).")


def test_who_got_the_room_is_not_told_as_who_left(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.send(cmd.StartEpoch(epoch=1, writer="w"))
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0}))
    cluster.node("n", vram=100)
    for number in range(10):
        cluster.model(f"p{number}", vram=1, pinned=True)
        cluster.loaded(f"p{number}")
    cluster.model("old", vram=80)
    cluster.loaded("old")
    cluster.model("new", vram=80)
    cluster.request("q", "new")
    cluster.settle()
    with _logged(tmp_path, cluster) as audit:
        left, came = audit.why("r-000011"), audit.why("r-000012")
    assert left.eviction is not None
    assert left.eviction.victims == ["r-000011"]
    assert left.sentence.endswith("r-000007 of p6 (pinned); and 3 more.")
    assert came.eviction is None
    assert came.sentence == "r-000012 of new is loaded on node n and can serve."
    assert came.chain[0].event == "ReplicaEvicted"


def _two_could_make_room() -> Cluster:
    """Two nodes that are full: on the first ten small copies that stay and one that leaves, others on the second."""
    cluster = Cluster()
    cluster.send(cmd.StartEpoch(epoch=1, writer="w"))
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0}))
    cluster.node("here", vram=50)
    for number in range(10):
        cluster.model(f"p{number}", vram=1, pinned=True)
        cluster.loaded(f"p{number}")
    cluster.model("old", vram=40)
    cluster.loaded("old")
    cluster.node("there", vram=49)
    cluster.node("off", vram=80)
    cluster.send(cmd.DrainNode(node="off"))
    for name, size, pinned in (("dear", 45, False), ("fixed", 2, True)):
        cluster.model(name, vram=size, pinned=pinned)
        cluster.loaded(name)
    cluster.model("new", vram=40)
    cluster.request("q", "new")
    return cluster


def test_in_full_an_eviction_tells_of_every_replica_that_stayed_on_every_node(tmp_path: Path) -> None:
    with _logged(tmp_path, _two_could_make_room()) as audit:
        short, full = audit.why("r-000011"), audit.why("r-000011", full=True)
    assert short.eviction is not None
    assert full.eviction is not None
    assert len(short.eviction.others) == 7
    assert short.eviction.elsewhere == []
    assert "and 3 more" in short.sentence
    assert [one.model for one in full.eviction.others] == [f"p{number}" for number in range(10)]
    assert {one.why for one in full.eviction.others} == {"pinned"}
    assert "more" not in full.sentence.partition("Not on")[0]
    elsewhere = {one.model: (one.node, one.why) for one in full.eviction.elsewhere}
    assert elsewhere == {
        "dear": ("there", "45GiB, not used lately, so that its leaving would cost more"), "fixed": ("there", "pinned"),
    }  # fmt: skip
    decision = next(step.decision for step in full.chain if step.event == "ReplicaEvicted")
    assert decision is not None
    assert decision.note.endswith("Every replica on its nodes is told of.")


def test_in_full_the_log_is_read_once_however_many_decisions_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = SqliteStore.read
    rows: list[Recorded] = []

    def counted(store: SqliteStore, *given: int, **named: int) -> Iterator[Recorded]:
        for recorded in read(store, *given, **named):
            rows.append(recorded)
            yield recorded

    cluster = _two_could_make_room()
    with _logged(tmp_path, cluster) as audit:
        monkeypatch.setattr(SqliteStore, "read", counted)
        decisions = [step.decision for step in audit.why("r-000011", full=True).chain if step.decision is not None]
    assert len([decision for decision in decisions if decision.step == "evict"]) > 1
    assert len(rows) <= len(cluster.log)


def test_an_eviction_that_was_written_in_other_words_says_what_it_cannot_tell_in_full(tmp_path: Path) -> None:
    with _logged(tmp_path, _two_could_make_room()) as audit:
        recorded = next(row for row in audit._log.read() if "ReplicaEvicted" in row.topic)
        event = decode_event(recorded.topic, recorded.state)
        assert isinstance(event, ev.ReplicaEvicted)
        assert event.explanation is not None
        rows = tuple(
            msgspec.structs.replace(row, detail=row.detail.replace("pinned", "is pinned"))
            for row in event.explanation.considered
        )
        former = msgspec.structs.replace(event.explanation, considered=rows)
        again = recompute(Rebuilt(audit._log), recorded, event, former)
    assert "cannot be told beyond what is recorded" in again.note
    assert {row.node: row for row in again.rows}["here"] == {row.node: row for row in rows}["here"]


@pytest.mark.parametrize("nodes", [1, 20])
def test_in_full_a_wait_for_room_tells_of_every_replica_that_may_not_leave(tmp_path: Path, nodes: int) -> None:
    cluster = Cluster()
    cluster.send(cmd.StartEpoch(epoch=1, writer="w"))
    for place in range(nodes):
        cluster.node(f"n{place:02d}", vram=12)
    for number in range(10 * nodes):
        cluster.model(f"p{number}", vram=1, pinned=True)
        cluster.loaded(f"p{number}")
    cluster.model("new", vram=9)
    cluster.request("q", "new")
    with _logged(tmp_path, cluster) as audit:
        short, full = audit.why("q"), audit.why("q", full=True)
    assert [row.detail.count("pinned") for row in short.considered] == [8] * min(nodes, 11)
    assert [row.detail.count("pinned") for row in full.considered] == [10] * nodes


def test_a_replica_that_is_gone_says_why_it_had_to_go_and_not_why_it_was_once_placed_there(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.send(cmd.StartEpoch(epoch=1, writer="w"))
    cluster.node("n")
    cluster.node("small", vram=4)
    cluster.model("m")
    cluster.loaded("m")
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    with _logged(before, cluster) as audit:
        assert "Not on small (memory: needs 9GiB, 4GiB free)." in audit.why("r-000001").sentence
    cluster.send(cmd.DrainNode(node="n"))
    cluster.settle()
    with _logged(after, cluster) as audit:
        assert audit.why("r-000001").sentence == (
            "Node n was asked to unload r-000001 of m: the node is being drained. "
            "r-000001 of m is gone from node n: its memory is free."
        )


def test_a_wait_for_room_says_what_is_in_the_way_on_each_node(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.send(cmd.StartEpoch(epoch=1, writer="w"))
    cluster.node("n", vram=24)
    cluster.model("high", vram=20, priority=5)
    cluster.loaded("high")
    cluster.model("low", vram=20)
    cluster.request("q", "low", deadline=cluster.now + 60 * SECOND)
    way = "In the way: n (memory: needs 20GiB, 4GiB free; high: priority 5 against 0). What would help: Room on one of"
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    with _logged(before, cluster) as audit:
        assert way in audit.why("q").sentence
    cluster.wait(61)
    with _logged(after, cluster) as audit:
        assert "was refused (capacity_exhausted)" in audit.why("q").sentence
        assert way in audit.why("q").sentence


def test_what_was_waited_for_no_time_at_all_is_no_wait_and_a_turn_that_came_is_called_so(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.send(cmd.StartEpoch(epoch=1, writer="w"))
    cluster.node("n")
    cluster.model("m")
    for number in range(3):
        cluster.request(f"q{number}", "m")
    cluster.wait(9)
    cluster.settle()
    for number in range(2):
        cluster.wait(5)
        cluster.release(f"q{number}")
    with _logged(tmp_path, cluster) as audit:
        waits = audit.why("q2").waits
    assert [(wait.kind, wait.lasted // SECOND, wait.ended_by) for wait in waits] == [
        ("load", 9, "r-000001 of m loaded"), ("turn", 5, "its turn came"), ("busy", 5, "request q1 released it"),
    ]  # fmt: skip


def test_a_wait_that_another_follows_ends_with_the_change_that_brought_the_other_and_a_refusal_tells_its_cure(
    tmp_path: Path,
) -> None:
    cluster = Cluster()
    cluster.send(cmd.StartEpoch(epoch=1, writer="w"))
    cluster.node("n")
    cluster.model("m")
    cluster.request("long", "m", deadline=cluster.now + 600 * SECOND)
    cluster.request("short", "m", deadline=cluster.now + 10 * SECOND)
    cluster.wait(15)
    cluster.send(cmd.ReportSilence(node="n"))
    with _logged(tmp_path, cluster) as audit:
        waits, short = audit.why("long").waits, audit.why("short")
    assert [(wait.kind, wait.ended_by) for wait in waits] == [
        ("load", "node n fell silent"), ("nodes_down", ""),
    ]  # fmt: skip
    assert "was refused" in short.sentence
    assert short.cure
    assert short.sentence.endswith(f"What would help: {short.cure}")


def test_of_many_nodes_the_sentence_names_those_first_that_the_model_may_use(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.send(cmd.StartEpoch(epoch=1, writer="w"))
    for number in range(5):
        cluster.node(f"other-{number}", labels={"tier": "slow"})
    cluster.node("small", vram=4, labels={"tier": "fast"})
    cluster.node("taken", labels={"tier": "fast"})
    cluster.model("m", selector={"tier": "fast"})
    cluster.request("q", "m")
    cluster.settle()
    with _logged(tmp_path, cluster) as audit:
        told = audit.why("q").sentence
    assert "Not on small (memory: needs 9GiB, 4GiB free); other-0 (selector" in told
    assert told.endswith(" and others.")


def test_what_is_over_needs_no_cure(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.send(cmd.StartEpoch(epoch=1, writer="w"))
    cluster.node("small", vram=24)
    cluster.model("pinned", vram=20, pinned=True)
    cluster.loaded("pinned")
    cluster.model("m", min_replicas=1)
    cluster.request("gone", "m")
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    with _logged(before, cluster) as audit:
        for subject in ("gone", "model:m"):
            assert audit.why(subject).cure
            assert "What would help" in audit.why(subject).sentence
    cluster.send(cmd.CancelRequest(request="gone", reason="the client hung up"))
    cluster.node("large", vram=24)
    with _logged(after, cluster) as audit:
        for subject in ("gone", "model:m"):
            assert audit.why(subject).cure == ""
            assert "What would help" not in audit.why(subject).sentence
        assert any(step.decision is not None and step.decision.cure for step in audit.why("gone").chain)


def test_when_only_what_is_waited_for_changes_the_very_change_is_told(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.send(cmd.StartEpoch(epoch=1, writer="w"))
    cluster.node("n")
    cluster.node("full")
    cluster.model("pinned", vram=20, pinned=True, selector={"node.name": "full"})
    cluster.loaded("pinned")
    cluster.model("m", vram=20)
    cluster.loaded("m")
    cluster.request("runs", "m")
    cluster.request("waits", "m")
    cluster.send(cmd.DrainNode(node="n"))
    cluster.wait(5)
    cluster.send(cmd.ResumeNode(node="n"))
    with _logged(tmp_path, cluster) as audit:
        waits = audit.why("waits").waits
    assert [(wait.kind, wait.ended_by) for wait in waits] == [
        ("busy", "node n is being drained"), ("capacity", "the drain of node n is over"), ("busy", ""),
    ]  # fmt: skip


def test_a_request_whose_replica_was_taken_away_says_how_long_it_ran_and_what_took_it(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.send(cmd.StartEpoch(epoch=1, writer="w"))
    cluster.node("n")
    cluster.model("m")
    cluster.loaded("m")
    cluster.request("q", "m")
    cluster.send(cmd.DrainNode(node="n", within=60 * SECOND))
    cluster.wait(61)
    cluster.send(cmd.ReleaseLock(request="q", outcome="failed", detail="the stream broke"))
    with _logged(tmp_path, cluster) as audit:
        why = audit.why("q")
    assert why.sentence.startswith(
        "Request q got r-000001 on node n at once, and ended after 1m1s: failed (the stream broke), after r-000001 was "
        "lost at 13:47:40: its node was drained: the deadline has passed."
    )
    assert why.chain[-1].summary == "Request q ended: failed (the stream broke), after its replica was lost."


def test_a_request_that_an_operator_released_while_it_waited_says_so(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.send(cmd.StartEpoch(epoch=1, writer="w"))
    cluster.node("n")
    cluster.model("m")
    cluster.request("q", "m")
    cluster.send(cmd.ReleaseLock(request="q", outcome="cancelled", detail="released by an operator"))
    with _logged(tmp_path, cluster) as audit:
        assert "ended before it was served: cancelled (released by an operator)." in audit.why("q").sentence
