"""Old logs fold as they always did, and events of older versions are read as those of today."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from interlock.domain import codec
from interlock.domain.commands import Envelope, StartEpoch
from interlock.domain.engine import Engine
from interlock.domain.errors import UnknownEvent
from interlock.domain.events import EVENT_TYPES, NodeApproved
from interlock.domain.settings import Settings
from interlock.domain.snapshots import restore, take_snapshot
from tests.golden import histories
from tests.golden.story import tell


@pytest.mark.parametrize("name", histories.names())
def test_a_golden_history_folds_to_the_state_that_it_always_had(name: str) -> None:
    golden = histories.read_outcome(name)
    now = histories.outcome_of(Engine().replay(histories.read_rows(name)).state)
    # A field that was added since may be there beside the old ones; what was there then must be as it was.
    assert _missing(golden.state, now.state) == []
    if golden.schema == now.schema:
        assert golden.digest == now.digest


def test_a_cluster_keeps_the_defaults_that_it_was_born_with_and_a_new_one_has_those_of_today() -> None:
    old = Engine().replay(histories.read_rows("churn"))
    assert old.state.settings.evictions_per_node == 8
    new = Engine()
    new.handle(Envelope(command_id="1", command=StartEpoch(epoch=1, writer="w")), 1)
    assert new.state.settings == Settings()
    assert Settings().evictions_per_node != 8
    for engine in (old, new):
        before = engine.state.settings
        engine.handle(Envelope(command_id="2", command=StartEpoch(epoch=9, writer="w")), engine.ledger.time + 1)
        assert engine.state.settings == before


def test_a_golden_history_is_kept() -> None:
    assert histories.names()


def test_the_story_has_every_event() -> None:
    told = {type(event).__name__ for outcome in tell().outcomes for event in outcome.events}
    assert told == set(EVENT_TYPES)


def test_replaying_the_story_gives_the_live_state_and_so_does_its_snapshot() -> None:
    story = tell()
    rows = [row for outcome in story.outcomes for row in outcome.recorded]
    live = histories.outcome_of(story.engine.state)
    assert histories.outcome_of(Engine().replay(rows).state) == live
    middle = len(rows) // 2
    resumed = restore(take_snapshot(Engine().replay(rows[:middle]))).replay(rows[middle:])
    assert histories.outcome_of(resumed.state) == live


def test_adding_a_history_never_writes_over_one(tmp_path: Path) -> None:
    rows = [row for outcome in tell().outcomes[:9] for row in outcome.recorded]
    histories.add("first", rows, tmp_path)
    written = (tmp_path / "first.jsonl").read_bytes()
    with pytest.raises(FileExistsError):
        histories.add("first", rows[:2], tmp_path)
    assert (tmp_path / "first.jsonl").read_bytes() == written


def test_an_unknown_topic_is_an_unknown_event_that_names_itself() -> None:
    for topic in ("interlock.NodePraised.v1", "interlock.NodeApproved.v99", "interlock.NodeApproved", ""):
        with pytest.raises(UnknownEvent, match="unknown topic"):
            codec.decode_event(topic, b'{"at":1}')


def test_a_chain_of_upcasters_brings_an_old_event_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two versions back: ``host`` became ``name``, and that ``node``."""
    newest = codec.topic_of(NodeApproved)
    decoder = codec._DECODERS[newest]
    monkeypatch.setitem(codec._DECODERS, "interlock.NodeApproved.v3", decoder)
    monkeypatch.delitem(codec._DECODERS, newest)
    monkeypatch.setitem(
        codec.UPCASTERS, "interlock.NodeApproved.v1", lambda old: {"at": old["at"], "name": old["host"]}
    )
    monkeypatch.setitem(
        codec.UPCASTERS, "interlock.NodeApproved.v2", lambda old: {"at": old["at"], "node": old["name"]}
    )
    assert codec.decode_event("interlock.NodeApproved.v1", b'{"at":7,"host":"thor"}') == NodeApproved(at=7, node="thor")
    assert codec.decode_event("interlock.NodeApproved.v2", b'{"at":7,"name":"thor"}') == NodeApproved(at=7, node="thor")


def test_what_is_stored_reads_back_the_same() -> None:
    for outcome in tell().outcomes:
        for row, event in zip(outcome.recorded, outcome.events, strict=True):
            assert codec.decode_event(row.topic, row.state) == event
            assert msgspec.json.decode(row.state)["at"] == event.at


def _missing(golden: Any, now: Any, at: str = "") -> list[str]:
    """Where ``now`` lacks something of ``golden``, or has it otherwise."""
    if isinstance(golden, dict) and isinstance(now, dict):
        return [
            problem
            for key, value in golden.items()
            for problem in ([f"{at}.{key} is gone"] if key not in now else _missing(value, now[key], f"{at}.{key}"))
        ]
    if isinstance(golden, list) and isinstance(now, list) and len(golden) == len(now):
        pairs = zip(golden, now, strict=True)
        return [problem for place, pair in enumerate(pairs) for problem in _missing(*pair, f"{at}[{place}]")]
    return [] if golden == now else [f"{at} was {golden!r} and is {now!r}"]
