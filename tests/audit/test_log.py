"""The log as rows: sentences, filters, cursors, following."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from interlock.adapters.audit import sentences
from interlock.adapters.audit.rows import event_name
from interlock.adapters.audit.service import AuditService
from interlock.adapters.store import SqliteStore
from interlock.domain import events as ev
from interlock.domain.entities import Lack, Wait, WaitKind
from interlock.domain.errors import InvalidField
from interlock.domain.events import EVENT_TYPES
from interlock.domain.recording import Recorded
from interlock.domain.refusals import RefusalCode
from interlock.domain.units import FOREVER
from tests.golden.story import tell, write_store


def test_every_event_has_its_sentence() -> None:
    assert set(sentences._SENTENCES) == set(EVENT_TYPES.values())


def test_every_sentence_is_one_that_a_person_can_read() -> None:
    for outcome in tell().outcomes:
        for event in outcome.events:
            said = sentences.sentence(event)
            assert said.endswith("."), said
            assert ".." not in said, said
            assert "None" not in said, said
            assert "{" not in said, said


def test_a_clock_that_is_off_is_told_with_what_it_means(audit: AuditService) -> None:
    told = [row.summary for row in audit.log({"event": "NodeClockOff"}).rows]
    assert told == [
        "The clock of node thor is 1h ahead: its own logs mislead. Nothing is decided by it.",
        "The clock of node thor is right again.",
    ]
    assert sentences.sentence(ev.NodeClockOff(at=1, node="thor", off=-90_000_000)).startswith(
        "The clock of node thor is 1m30s behind"
    )


def test_an_edit_that_is_taken_back_is_told_as_that() -> None:
    told = [sentences.sentence(event) for outcome in tell().outcomes for event in outcome.events]
    assert "Model tried was edited: revision 2 is to be brought up." in told
    assert "Model tried is to be as it serves, in revision 1: revision 2 is called off." in told


def test_a_row_says_what_who_when_and_why(audit: AuditService) -> None:
    row = audit.log({"event": "ReplicaEvicted", "limit": "1"}).rows[0]
    assert row.event == "ReplicaEvicted"
    assert row.summary == "r-000001 of qwen on node thor was evicted to make room for llama (r-000002)."
    assert row.time == "2026-01-01T00:02:33.000000Z"
    assert row.stream == "replica:r-000001"
    assert row.data["beneficiary"] == "r-000002"


def test_the_newest_page_ends_where_the_log_ends(audit: AuditService) -> None:
    every = audit.log({"limit": "1000"})
    newest = audit.log({"limit": "7"}, newest=True)
    assert (newest.rows, newest.cursor, newest.more) == (every.rows[-7:], every.cursor, True)
    loads = [row for row in every.rows if row.event == "LoadStarted"]
    assert audit.log({"event": "LoadStarted", "limit": "2"}, newest=True).rows == loads[-2:]
    pages = audit.follow({"limit": "2"}, newest=True, poll_s=0)
    assert [len(next(pages).rows), len(next(pages).rows)] == [2, 0]


def test_pages_follow_one_another_without_gap_or_repeat(audit: AuditService) -> None:
    seen: list[int] = []
    after = "0"
    while True:
        page = audit.log({"after": after, "limit": "7"})
        seen += [row.position for row in page.rows]
        after = str(page.cursor)
        if not page.more:
            break
    assert seen == list(range(1, len(seen) + 1))
    assert audit.log({"after": after}).rows == []
    assert audit.log({"after": after}).cursor == seen[-1]


def test_what_never_comes_is_not_told_as_a_time() -> None:
    never: dict[str, Any] = {"at": 0, "node": "thor"}
    told = [
        sentences.sentence(event)
        for event in (
            ev.RequestQueued(
                at=0, request="q-1", model="m", wait=Wait(WaitKind.BUSY), holder="h", arrival=0, deadline=FOREVER
            ),
            ev.NodeBecameUnreachable(**never, offline_at=FOREVER),
            ev.NodeDrainStarted(**never, drain_by=FOREVER),
            ev.ModelParked(at=0, model="m", reason=RefusalCode.CAPACITY_EXHAUSTED, lacks=Lack.CAPACITY, until=FOREVER),
        )
    ]
    assert told[0] == "Request q-1 waits because every copy, loaded or being loaded, is at its limit of requests."
    assert not [text for text in told if "never" in text or "until ." in text]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"node": "spare"},
            {"NodeRegistered", "NodeApproved", "NodeBecameUnreachable", "NodeWentOffline", "NodeRemoved"},
        ),
        ({"request": "q-2"}, {"RequestQueued", "ReplicaLocked", "ReplicaReleased"}),
        ({"correlation": "trace-q-4"}, {"RequestRefused"}),
        ({"model": "giant"}, {"ModelDeclared", "LoadInfoStored", "RequestRefused", "ModelRemoved"}),
        ({"event": "Frozen"}, {"Frozen"}),
        ({"until": "2026-01-01T00:00:00Z"}, set()),
        ({"since": "2030-01-01T00:00:00Z"}, set()),
        ({"since": "2030-01-01 00:00:00Z"}, set()),
    ],
)
def test_filters_show_what_they_say(audit: AuditService, given: dict[str, str], expected: set[str]) -> None:
    assert {row.event for row in audit.log(given).rows} == expected


def test_a_replicas_rows_are_its_own_or_name_it(audit: AuditService) -> None:
    rows = audit.log({"replica": "r-000001"}).rows
    assert len(rows) > 5
    assert all(row.stream == "replica:r-000001" or row.data["replica"] == "r-000001" for row in rows)


@pytest.mark.parametrize(
    "given",
    [
        {"colour": "red"}, {"limit": "0"}, {"limit": "many"}, {"after": "-1"}, {"since": "yesterday"},
        {"since": "2026-13-01Z"},
        {"event": "NodePraised"},
    ],
)  # fmt: skip
def test_a_filter_that_is_none_is_refused_by_name(audit: AuditService, given: dict[str, str]) -> None:
    with pytest.raises(InvalidField) as refused:
        audit.log(given)
    assert refused.value.field in given


def test_an_event_of_a_newer_program_is_shown_as_it_is_stored(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "events.db")
    row = Recorded(
        position=1, stream="node:thor", version=1, topic="interlock.NodePraised.v1", state=b'{"at":5,"node":"thor"}',
        event_id="c-1/0", time=5, epoch=store.take_epoch("test", 1), actor="", command_id="c-1", correlation_id="",
        causation_id="c-1", request_id="",
    )  # fmt: skip
    store.append([row], row.epoch)
    shown = AuditService(store).log({}).rows[0]
    store.close()
    assert (shown.event, shown.data) == ("NodePraised", {"at": 5, "node": "thor"})
    assert "cannot read" in shown.summary


def test_following_goes_on_with_what_comes(tmp_path: Path) -> None:
    path = write_store(tmp_path / "events.db")
    reader, writer = SqliteStore(path, read_only=True), SqliteStore(path)
    pages = AuditService(reader).follow({"event": "NodeApproved"}, poll_s=0.01)
    first = next(pages)
    named = ["thor", "orin", "spare", "old", "far-1", "far-2", "far-3", "narrow", "remote", "twin-1", "twin-2", "calm"]
    assert [row.data["node"] for row in first.rows] == named
    head = writer.head().position
    epoch = writer.take_epoch("test", 1)
    new = Recorded(
        position=head + 1, stream="node:late", version=1, topic="interlock.NodeApproved.v1",
        state=b'{"at":9,"node":"late"}', event_id="late/0", time=2**52, epoch=epoch, actor="", command_id="late",
        correlation_id="", causation_id="late", request_id="",
    )  # fmt: skip
    writer.append([new], epoch)
    rows = next(page.rows for page in pages if page.rows)
    assert [row.data["node"] for row in rows] == ["late"]
    reader.close()
    writer.close()


def test_an_events_name_is_the_class_in_its_topic() -> None:
    assert event_name("interlock.ReplicaLoaded.v12") == "ReplicaLoaded"
    assert event_name("interlock.ReplicaLoaded") == "ReplicaLoaded"
    assert event_name("plain") == "plain"
