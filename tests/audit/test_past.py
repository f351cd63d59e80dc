"""The state as it was, and what changed between."""

from __future__ import annotations

from pathlib import Path

import pytest

from interlock.adapters.audit.picture import comparable
from interlock.adapters.audit.service import AsyncAudit, AuditService
from interlock.adapters.store import SqliteStore
from interlock.domain.engine import Engine
from interlock.domain.errors import InvalidField, UsageError
from interlock.domain.snapshots import take_snapshot
from tests.golden.story import tell, write_store


def test_the_state_at_a_position_is_what_it_was_then(audit: AuditService) -> None:
    past = audit.state("12")
    assert (past.position, past.time) == (12, "2026-01-01T00:00:00.000000Z")
    assert [node.name for node in past.nodes] == ["orin", "thor"]
    assert [(replica.id, replica.phase) for replica in past.replicas] == [("r-000001", "installing")]
    assert [request.id for request in past.queue] == ["q-1"]
    assert past.locks == {}
    assert past.settings["queue_limit"] == "1000"


def test_the_state_at_a_time_is_the_state_after_the_last_event_until_then(audit: AuditService) -> None:
    past = audit.state("2026-01-01T00:02:03Z")
    assert past.locks == {"q-1": "r-000001"}
    assert audit.state("1999-01-01T00:00:00Z").nodes == []


def test_the_end_of_the_log_is_the_live_state(audit: AuditService) -> None:
    story = tell()
    past = audit.state("head")
    assert past.position == story.engine.ledger.position
    assert past.settings["queue_limit"] == "50"
    assert [replica.id for replica in past.replicas] == list(story.engine.state.replicas)


@pytest.mark.parametrize("at", ["99999", "soon", "-5"])
def test_a_moment_that_is_none_is_refused(audit: AuditService, at: str) -> None:
    with pytest.raises(InvalidField):
        audit.state(at)


def test_a_snapshot_shortens_the_way_and_changes_nothing(tmp_path: Path) -> None:
    path = write_store(tmp_path / "events.db")
    store = SqliteStore(path)
    plain = AuditService(store).state("100")
    store.save_snapshot(take_snapshot(Engine().replay(store.read(upto=60))))
    assert AuditService(store).state("100") == plain
    assert AuditService(store).state("50").position == 50
    store.close()


def test_a_difference_names_what_came_went_and_changed(audit: AuditService) -> None:
    found = audit.diff("12", "37")
    told = {(one.kind, one.id, one.change, one.field) for one in found.changes}
    assert ("models", "llama", "added", "") in told
    assert ("replicas", "r-000001", "removed", "") in told
    assert ("requests", "q-1", "removed", "") in told
    assert ("nodes", "thor", "changed", "replicas") in told
    assert not [one for one in found.changes if one.id == "orin"]


def test_nothing_differs_between_a_moment_and_itself(audit: AuditService) -> None:
    assert audit.diff("40", "40").changes == []


def test_settings_and_freezes_are_in_the_difference() -> None:
    before, after = Engine(), tell().engine
    assert comparable(before.state)["settings"]["queue_limit"] != comparable(after.state)["settings"]["queue_limit"]


def test_sql_reads_and_nothing_else(audit: AuditService) -> None:
    answer = audit.sql("SELECT count(*) AS events FROM events WHERE topic LIKE '%Evicted%'")
    assert (answer.columns, answer.rows) == (["events"], [(8,)])
    with pytest.raises(UsageError):
        audit.sql("DELETE FROM stored_events")


async def test_an_event_loop_gets_the_same_answers(audit: AuditService) -> None:
    asked = AsyncAudit(audit)
    assert await asked.log({"limit": "3"}) == audit.log({"limit": "3"})
    assert await asked.why("q-3", full=True) == audit.why("q-3", full=True)
    assert await asked.state("12") == audit.state("12")
    assert await asked.diff("12", "37") == audit.diff("12", "37")
    assert (await asked.verify())["holds"]
