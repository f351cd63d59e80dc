"""Why nothing happens for a thing while an operator has frozen what it needs: who froze it, when, and the cure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from interlock.adapters.audit import freezes
from interlock.adapters.audit.service import AuditService
from interlock.adapters.audit.why import Why
from interlock.adapters.store import SqliteStore
from interlock.domain import commands as cmd
from interlock.domain.errors import ChainBroken
from interlock.domain.units import SECOND, format_instant
from tests.domain.cluster import Cluster


class Asked:
    """A cluster whose log is asked at one moment after the other."""

    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster()
        self.cluster.send(cmd.StartEpoch(epoch=1, writer="w"))
        self._store = SqliteStore(folder / "events.db", durable=False)
        self._epoch = self._store.take_epoch("w", 1)
        self._kept = 0

    def switch(self, command: cmd.Command, who: str) -> str:
        """Freeze or thaw in somebody's name; returns when."""
        at = max(self.cluster.now, self.cluster.engine.ledger.time)
        envelope = cmd.Envelope(command_id=f"{who}-{self.cluster.sent}", command=command, actor=f"operator:{who}")
        self.cluster._keep(self.cluster.engine.handle(envelope, at))
        return format_instant(at)

    def why(self, subject: str) -> Why:
        """What the log says by now."""
        self._store.append(self.cluster.log[self._kept :], self._epoch)
        self._kept = len(self.cluster.log)
        return AuditService(self._store).why(subject)

    def close(self) -> None:
        """Nothing more is asked."""
        self._store.close()


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    """An empty cluster."""
    asked = Asked(tmp_path)
    yield asked
    asked.close()


def test_a_floor_that_a_frozen_reconciler_does_not_keep_names_the_freeze_and_its_cure(asked: Asked) -> None:
    asked.cluster.node("n")
    since = asked.switch(cmd.Freeze(what="reconciler"), "ann")
    asked.cluster.wait(60)
    asked.cluster.model("m", min_replicas=1)
    why = asked.why("model:m")
    assert f"operator:ann froze the reconciler at {since}: that is why no copy of m is loaded on node n" in why.sentence
    assert why.sentence.endswith("(floor of m). What would help: `interlock thaw reconciler`.")
    assert why.cure == "`interlock thaw reconciler`."
    assert [(one.what, one.by, one.since) for one in why.frozen] == [("reconciler", "operator:ann", since)]
    assert "Frozen" in [step.event for step in why.chain]
    asked.switch(cmd.Thaw(what="reconciler"), "bob")
    why = asked.why("model:m")
    assert (why.frozen, why.cure) == ([], "")
    assert "froze" not in why.sentence


def test_a_freeze_is_not_blamed_for_what_it_does_not_hold_up(asked: Asked) -> None:
    asked.cluster.node("n")
    asked.cluster.model("kept", min_replicas=1)
    asked.cluster.settle()
    asked.cluster.model("idle")
    asked.switch(cmd.Freeze(what="reconciler"), "ann")
    for subject in ("model:kept", "model:idle", "node:n", "r-000001"):
        assert asked.why(subject).frozen == []
        assert "froze" not in asked.why(subject).sentence


def test_a_floor_that_could_not_be_kept_anyhow_says_what_it_lacks_beside_the_thaw(asked: Asked) -> None:
    asked.cluster.node("n")
    asked.switch(cmd.Freeze(what="reconciler"), "ann")
    asked.cluster.model("whale", vram=999, min_replicas=1)
    why = asked.why("model:whale")
    assert "nothing is tried for it. Thawed, its wish would be parked (never_fits) until a node joins" in why.sentence
    assert why.cure.startswith("`interlock thaw reconciler`. Then: Add a larger node")


def test_what_a_frozen_reconciler_leaves_where_it_is_says_so_of_the_replica_and_of_its_node(asked: Asked) -> None:
    asked.cluster.node("n")
    asked.cluster.model("m")
    asked.cluster.loaded("m")
    asked.switch(cmd.Freeze(what="reconciler"), "ann")
    asked.cluster.send(cmd.DrainNode(node="n"))
    for subject in ("r-000001", "node:n", "model:m"):
        told = asked.why(subject).sentence
        assert "that is why r-000001 of m stays on node n, though the node is being drained." in told


def test_a_parked_wish_that_lacks_an_eviction_names_who_froze_evictions(asked: Asked) -> None:
    asked.cluster.node("n", vram=24)
    asked.cluster.model("old", vram=20)
    asked.cluster.loaded("old")
    since = asked.switch(cmd.Freeze(what="evictions"), "ann")
    asked.cluster.model("m", vram=20, min_replicas=1, priority=1)
    why = asked.why("model:m")
    assert why.sentence.startswith("The wish for m is parked (frozen)")
    assert f"operator:ann froze evictions at {since}: that is why no copy of m is loaded on node n, where r-000001" in (
        why.sentence
    )
    assert why.cure == "`interlock thaw evictions`."


def test_a_wish_that_needs_both_to_be_thawed_says_both(asked: Asked) -> None:
    asked.cluster.node("n", vram=24)
    asked.cluster.model("old", vram=20)
    asked.cluster.loaded("old")
    asked.switch(cmd.Freeze(what="evictions"), "ann")
    asked.switch(cmd.Freeze(what="reconciler"), "bob")
    asked.cluster.model("m", vram=20, min_replicas=1, priority=1)
    why = asked.why("model:m")
    assert set(why.cure.split(". ")) == {"`interlock thaw reconciler`", "`interlock thaw evictions`."}
    assert "operator:ann froze evictions" in why.sentence
    assert "operator:bob froze the reconciler" in why.sentence


def test_a_request_that_waits_for_frozen_evictions_or_was_refused_for_them_names_the_freeze(asked: Asked) -> None:
    cluster = asked.cluster
    cluster.node("n", vram=24)
    cluster.model("old", vram=20)
    cluster.loaded("old")
    cluster.wait(60)
    since = asked.switch(cmd.Freeze(what="evictions"), "ann")
    cluster.model("new", vram=20)
    cluster.request("q", "new", deadline=cluster.now + 60 * SECOND)
    waiting = asked.why("q")
    assert f"operator:ann froze evictions at {since}: that is why no copy of new is loaded for it." in waiting.sentence
    cluster.wait(61)
    refused = asked.why("q")
    assert f"operator:ann froze evictions at {since}. What would help: `interlock thaw" in refused.sentence
    until = asked.switch(cmd.Thaw(what="evictions"), "bob")
    over = asked.why("q")
    assert over.sentence.endswith(f"operator:ann froze evictions at {since}; operator:bob thawed it at {until}.")
    assert over.cure == ""
    asked.switch(cmd.Freeze(what="evictions"), "eve")
    assert "eve" not in asked.why("q").sentence, "it was refused under the freeze before"


def test_a_freeze_is_told_though_the_state_cannot_be_rebuilt(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ChainBroken("Position 3 cannot be read.", cure="Run `interlock audit verify`.")

    asked.cluster.node("n")
    asked.switch(cmd.Freeze(what="reconciler"), "ann")
    asked.cluster.model("m", min_replicas=1)
    monkeypatch.setattr(freezes, "engine_at", broken)
    told = asked.why("model:m").sentence
    assert "Whether that is why nothing happens cannot be told: Position 3 cannot be read." in told


def test_of_what_is_over_no_freeze_is_blamed_and_no_state_is_rebuilt(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ChainBroken("Position 3 cannot be read.", cure="Run `interlock audit verify`.")

    asked.cluster.node("n")
    asked.cluster.model("m")
    replica = asked.cluster.loaded("m")
    asked.cluster.request("q", "m")
    asked.cluster.release("q")
    asked.switch(cmd.Freeze(what="evictions"), "ann")
    monkeypatch.setattr(freezes, "engine_at", broken)
    assert "cannot be told" in asked.why(replica).sentence
    assert "cannot be told" not in asked.why("q").sentence


@pytest.mark.parametrize("name", ["llama:7b", "floor of m: a"])
def test_a_model_whose_name_has_a_colon_is_named_in_full(asked: Asked, name: str) -> None:
    asked.cluster.node("n")
    asked.switch(cmd.Freeze(what="reconciler"), "ann")
    asked.cluster.model(name, min_replicas=1)
    assert f"(floor of {name})." in asked.why(f"model:{name}").sentence
