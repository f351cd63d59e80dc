"""Timers: each kind is told live or not in one table, and handled in another."""

from __future__ import annotations

import pytest

from interlock.domain import commands as cmd
from interlock.domain import decide, timers
from interlock.domain.errors import InvariantBroken
from interlock.domain.units import MINUTE
from tests.domain.cluster import Cluster


def test_every_kind_of_timer_is_told_live_and_handled() -> None:
    assert list(timers.LIVE) == list(decide.DUE)


def test_a_timer_of_a_kind_that_nobody_knows_is_a_defect_and_no_request_that_waits() -> None:
    cluster = Cluster()
    cluster.node("only")
    cluster.model("m")
    cluster.request("r", "m")
    cluster.state.set_timer(cluster.now, "lunch", "r")
    with pytest.raises(InvariantBroken, match="lunch"):
        cluster.wait(1)
    with pytest.raises(InvariantBroken, match="lunch"):
        timers.prune(cluster.state)


def test_a_timer_whose_owner_has_moved_on_is_dropped_and_the_next_one_told() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"load_silence": MINUTE}))
    cluster.node("only")
    cluster.model("m")
    cluster.request("r", "m")
    assert cluster.engine.next_wakeup() == cluster.now + MINUTE, "the load that is on its way"
    cluster.settle()
    cluster.release("r")
    assert cluster.engine.next_wakeup() is None
