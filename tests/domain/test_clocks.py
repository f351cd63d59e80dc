"""A worker's clock that is off is noted, once, and nothing is decided by it."""

from __future__ import annotations

import pytest

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.clocks import CLOCK_TOLERANCE, off_by
from interlock.domain.engine import Engine
from interlock.domain.units import FOREVER, HOUR, SECOND
from tests.domain.cluster import Cluster, check_replay


def beat(cluster: Cluster, off: float, *, late: float = 0) -> list[int]:
    """A heartbeat of a clock that is ``off`` by seconds, sent ``late`` seconds ago: what is noted for it."""
    sent_at = cluster.now - int(late * SECOND)
    clock = sent_at + int(off * SECOND)
    outcome = cluster.send(cmd.ReportCapacity(node="n", clock=clock, sent_at=sent_at))
    assert all(isinstance(event, ev.NodeClockOff) for event in outcome.events)
    return [event.off // SECOND for event in outcome.events if isinstance(event, ev.NodeClockOff)]


@pytest.fixture
def cluster() -> Cluster:
    """One node whose worker does not tell its clock when it registers."""
    made = Cluster()
    made.node("n")
    return made


@pytest.mark.parametrize("off", [3600, -3600, 6, -6])
def test_a_clock_that_is_off_is_noted_once_and_once_more_when_it_is_right_again(cluster: Cluster, off: int) -> None:
    noted = [beat(cluster, one) for one in (0, 3, off, off, off + 2, 0, 0, -3)]
    assert noted == [[], [], [off], [], [], [0], [], []]


def test_a_clock_that_runs_away_is_noted_anew_whenever_it_has_moved_by_more_than_the_tolerance(
    cluster: Cluster,
) -> None:
    step = CLOCK_TOLERANCE / SECOND
    assert [beat(cluster, off * step) for off in (1, 2, 3, 4, 5)] == [[], [10], [], [20], []]


def test_a_clock_that_is_nearly_off_goes_to_and_fro_without_a_word(cluster: Cluster) -> None:
    noted = [beat(cluster, off) for off in (5.2, 4.8, 5.2, 3, 5.4)]
    assert noted == [[5], [], [], [], []]
    assert beat(cluster, 2) == [0], "and is right again when it is off by little"


def test_figures_are_noted_in_whole_seconds(cluster: Cluster) -> None:
    assert beat(cluster, 61.6) == [62]
    assert beat(cluster, -61.6) == [-62]


def test_a_message_that_was_long_on_its_way_makes_no_clock_seem_behind(cluster: Cluster) -> None:
    assert beat(cluster, 0, late=60) == []
    assert beat(cluster, 20) == [20]
    assert beat(cluster, 20, late=13) == []
    assert beat(cluster, -100, late=60) == [-160], "it is behind by more than the delay: by how much shows the next one"
    assert beat(cluster, -100) == [-100]
    assert beat(cluster, 0, late=60) == [0]


def test_a_gateway_whose_own_clock_is_ahead_of_the_writers_hides_nothing() -> None:
    assert off_by(100 * SECOND, 200 * SECOND, 20 * SECOND, 0) == 80 * SECOND


@pytest.mark.parametrize("clock", [0, -HOUR, FOREVER, 2**70])
def test_a_clock_that_was_not_told_or_shows_no_time_at_all_is_passed_over(cluster: Cluster, clock: int) -> None:
    assert beat(cluster, 3600) == [3600]
    assert cluster.send(cmd.ReportCapacity(node="n", clock=clock)).events == ()
    assert cluster.state.nodes["n"].clock_off == HOUR


def register(cluster: Cluster, boot: str, off: int | None, machine: str = "") -> list[str]:
    """The node registers; the events about it. An ``off`` of None: its worker does not tell the clock."""
    clock = 0 if off is None else cluster.now + off * SECOND
    command = cmd.RegisterNode(node="n", boot=boot, pools=(24 * 2**30,), machine=machine, replaces=True, clock=clock)
    return [type(event).__name__ for event in cluster.send(command).events if isinstance(event, ev.NodeEvent)]


def test_a_registration_tells_the_clock_too_and_a_worker_that_starts_anew_tells_it_anew() -> None:
    cluster = Cluster()
    assert register(cluster, "b-1", 3600) == ["NodeRegistered", "NodeClockOff"]
    assert register(cluster, "b-1", 3600) == []
    assert register(cluster, "b-2", 3600) == ["NodeRegistered", "NodeClockOff"]
    assert register(cluster, "b-3", 0) == ["NodeRegistered", "NodeClockOff"], "it is right again"
    assert cluster.state.nodes["n"].clock_off == 0
    assert register(cluster, "b-4", 0) == ["NodeRegistered"]


def test_what_a_former_boot_told_is_not_known_of_one_that_tells_nothing() -> None:
    cluster = Cluster()
    register(cluster, "b-1", 3600)
    assert register(cluster, "b-2", None) == ["NodeRegistered"]
    assert cluster.state.nodes["n"].clock_off == 0


def test_another_machine_has_a_clock_of_its_own() -> None:
    cluster = Cluster()
    register(cluster, "b-1", 3600, machine="m-1")
    assert register(cluster, "b-2", 1, machine="m-2") == ["NodeRegistered"]
    assert cluster.state.nodes["n"].clock_off == 0


def test_a_node_that_registers_with_other_facts_keeps_what_is_known_of_its_clock(cluster: Cluster) -> None:
    beat(cluster, 3600)
    cluster.node("n", vram=48)
    assert cluster.state.nodes["n"].clock_off == HOUR


@pytest.mark.parametrize("off", [HOUR, -HOUR])
def test_nothing_is_decided_by_a_workers_clock(off: int) -> None:
    """Two clusters in which the same happens, one with a clock that is off: but for the note they are the same."""
    clusters = []
    for by in (0, off):
        cluster = Cluster()
        cluster.node("n", clock=cluster.now + by)
        cluster.model("m", min_replicas=1)
        cluster.settle()
        cluster.wait(10)
        cluster.send(cmd.ReportCapacity(node="n", used=(20 * 2**30,), clock=cluster.now + by, sent_at=cluster.now))
        cluster.request("r", "m")
        cluster.send(cmd.ReportSilence(node="n"))
        cluster.wait(700)
        clusters.append(cluster)
    right, wrong = clusters
    assert [event for event in wrong.events if not isinstance(event, ev.NodeClockOff)] == right.events
    assert wrong.count("NodeClockOff") == 1
    assert max(event.at for event in wrong.events) <= wrong.now


def test_a_clock_that_is_noted_as_off_survives_a_replay_and_a_snapshot(cluster: Cluster) -> None:
    beat(cluster, 3600)
    check_replay(cluster)
    assert Engine().replay(cluster.log).state.nodes["n"].clock_off == HOUR
