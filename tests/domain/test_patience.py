"""Loads that end: windows and limits grow with the bytes; a load that was given up stays so, whatever comes late."""

from __future__ import annotations

import pytest

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.errors import InvalidSetting
from interlock.domain.patience import limit, window
from interlock.domain.settings import Settings, format_setting, parse_setting
from interlock.domain.units import FOREVER, GIB, HOUR, MIB, MINUTE, SECOND
from tests.domain.cluster import Cluster, check_replay


def loading(vram: int = 9, **facts: object) -> Cluster:
    """A model of that many GiB whose backend is installed and whose load has begun on the first of two nodes."""
    cluster = Cluster()
    cluster.node("n0", vram=96, **facts)
    cluster.node("n1", vram=80)
    cluster.model("m", vram=vram)
    cluster.request("r1", "m", deadline=cluster.now + 100 * HOUR)
    cluster.answer(cluster.effects[0])
    return cluster


def reasons(cluster: Cluster) -> list[str]:
    return [event.reason for event in cluster.events if isinstance(event, ev.ReplicaLoadFailed)]


def progress(cluster: Cluster, done: int, total: int = 1000) -> None:
    load = cluster.effects[0]
    cluster.send(cmd.ReportProgress(replica=load.replica, op=load.op, done=done, total=total))


def test_windows_and_limits_grow_with_the_bytes_and_never_fall_below_the_silent_window() -> None:
    settings = Settings()
    assert window(settings, 0) == window(settings, 9 * GIB) == settings.load_silence == 5 * MINUTE
    assert window(settings, 64 * GIB) == 1024 * SECOND
    assert limit(settings, 4 * MIB) == 5 * MINUTE + SECOND
    for size in (0, 1, GIB, 100 * GIB, 10_000 * GIB):
        assert limit(settings, size) >= window(settings, size) >= settings.load_silence


def test_a_large_load_may_be_silent_for_as_long_as_its_bytes_may_take() -> None:
    cluster = loading(vram=64)
    cluster.wait(1023)
    assert reasons(cluster) == []
    cluster.wait(1)
    assert reasons(cluster) == ["no progress for 1024 s while loading"]


def test_once_a_load_has_shown_progress_its_silence_means_something() -> None:
    cluster = loading(vram=64)
    progress(cluster, 200)
    cluster.wait(300)
    assert reasons(cluster) == ["no progress for 300 s while loading"]


def test_staging_has_the_time_that_its_own_bytes_take() -> None:
    cluster = Cluster()
    cluster.node("n0", disk=900 * GIB)
    cluster.model("m", vram=1, disk=128)
    cluster.request("r1", "m", deadline=cluster.now + 100 * HOUR)
    cluster.answer(cluster.effects[0])
    cluster.wait(2047)
    assert reasons(cluster) == []
    cluster.answer(cluster.effects[0])
    cluster.wait(299)
    assert reasons(cluster) == []
    cluster.wait(1)
    assert reasons(cluster) == ["no progress for 300 s while loading"]


def test_a_load_that_moves_a_byte_in_every_window_ends_all_the_same() -> None:
    cluster = loading(vram=8)
    began = cluster.now
    for done in range(1, 100):
        if reasons(cluster):
            break
        progress(cluster, done, 8 * GIB)
        cluster.wait(250)
    assert began + 2348 * SECOND <= cluster.now <= began + (2348 + 250) * SECOND, "300 s and 8 GiB at 4 MiB/s"
    assert "moved only" in reasons(cluster)[0]
    assert "slower than slowest_load_rate (4MiB/s) allows" in reasons(cluster)[0]
    cluster.settle()
    assert cluster.answers["r1"].node == "n1", "it is tried on another node"


def test_saying_the_same_bytes_again_is_no_progress() -> None:
    cluster = loading()
    for _ in range(10):
        progress(cluster, 200)
        cluster.wait(50)
    assert reasons(cluster) == ["no progress for 300 s while loading"]


def test_an_install_that_shows_progress_without_end_ends() -> None:
    cluster = Cluster()
    cluster.node("n0")
    cluster.model("m", vram=1)
    cluster.request("r1", "m", deadline=cluster.now + 100 * HOUR)
    began = cluster.now
    for _ in range(100):
        if reasons(cluster):
            break
        progress(cluster, 0, 0)
        cluster.wait(100)
    assert cluster.now <= began + HOUR


def test_a_success_that_comes_after_the_load_was_given_up_changes_nothing_and_the_process_is_stopped() -> None:
    cluster = loading()
    load = cluster.effects[0]
    cluster.wait(300)
    replica = cluster.state.replicas[load.replica]
    assert (replica.phase, replica.reason) == ("unloading", "load failed")
    late = cluster.send(cmd.ReportLoaded(replica=load.replica, op=load.op))
    assert late.events == ()
    cluster.wait(1)
    cluster.effects.remove(load)
    assert {effect.name for effect in cluster.effects} == {"model.unload", "backend.install"}
    cluster.settle()
    assert cluster.answers["r1"].replica != load.replica
    assert cluster.send(cmd.ReportLoaded(replica=load.replica, op=load.op)).events == ()
    check_replay(cluster)


def test_a_process_of_a_load_that_was_given_up_and_forgotten_is_a_stray() -> None:
    cluster = loading()
    load = cluster.effects[0]
    cluster.wait(300)
    cluster.settle()
    process = cmd.Running(process="p-1", replica=load.replica, model="m")
    report = cmd.ReportRunning(node=load.node, boot="boot-1", asked_at=cluster.now, running=(process,))
    assert [type(event).__name__ for event in cluster.send(report).events] == ["StrayFound"]


def test_a_caller_that_gives_up_does_not_end_the_load() -> None:
    cluster = loading()
    cluster.send(cmd.CancelRequest(request="r1"))
    cluster.settle()
    assert cluster.count("ReplicaLoaded") == 1


def test_an_operator_ends_a_load_that_nobody_waits_for_and_its_late_success_changes_nothing() -> None:
    cluster = loading()
    load = cluster.effects[0]
    cluster.send(cmd.CancelRequest(request="r1"))
    cluster.send(cmd.RequestUnload(model="m"))
    assert reasons(cluster) == ["an operator unloads the model"]
    assert cluster.send(cmd.ReportLoaded(replica=load.replica, op=load.op)).events == ()
    cluster.effects.remove(load)
    cluster.settle()
    assert not cluster.state.replicas
    assert cluster.state.models["m"].failures == 0, "what a person ends did not go wrong"


def test_failed_loads_go_to_other_nodes_and_a_success_begins_the_count_anew() -> None:
    cluster = loading()
    tried = []
    for _ in range(2):
        effect = cluster.effects[-1]
        tried.append(effect.node)
        cluster.fail(effect)
        cluster.settle()
        cluster.wait(2)
    assert tried == ["n0", "n1"]
    assert cluster.state.models["m"].failed_nodes == ("n0", "n1")
    assert cluster.state.models["m"].failures == 2
    cluster.settle()
    model = cluster.state.models["m"]
    assert (model.failures, model.failed_nodes, model.retry_at) == (0, (), 0)


@pytest.mark.parametrize(("text", "rate"), [("64MiB/s", 64 * MIB), ("64MiB", 64 * MIB), ("1500 B/s", 1500)])
def test_rates_are_written_as_bytes_a_second(text: str, rate: int) -> None:
    assert parse_setting("quiet_load_rate", text) == rate
    assert parse_setting("slowest_load_rate", format_setting("slowest_load_rate", rate)) == rate


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="moves nothing"):
        parse_setting("slowest_load_rate", "0B/s")


def test_a_load_without_bytes_never_ends_by_its_limit_before_its_window() -> None:
    assert limit(Settings(load_silence=SECOND, quiet_load_rate=1, slowest_load_rate=FOREVER), 10) == 10 * SECOND
