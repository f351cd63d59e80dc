"""Clocks of workers that are off: each is noted when its worker tells it, and the judges ask for that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from interlock.domain import clocks, nodes
from interlock.domain.commands import ReportCapacity
from interlock.domain.units import HOUR, SECOND
from interlock.simulation.api import Result
from interlock.simulation.cluster import VirtualCluster
from interlock.simulation.mutants.patching import Patches
from tests.simulation.support import result_of

LOADS = '[[requests]]\nmodel = "m"\nat = "1s"\ncount = 40\nevery = "2s"\n'


def jump(by: str, at: str, for_: str, node: str = "a") -> str:
    return f'[[faults]]\nkind = "clock-jump"\ntarget = "{node}"\nat = "{at}"\nby = "{by}"\nfor = "{for_}"\n'


def noted(result: Result) -> list[tuple[float, str, int]]:
    """When it was noted of which node by how many seconds its clock is off."""
    rows = [row for row in result.events() if row["event"] == "NodeClockOff"]
    return [(row["seconds"], row["data"]["node"], row["data"].get("off", 0) // SECOND) for row in rows]


def breaches(result: Result) -> list[tuple[str, str]]:
    return [(violation.property, violation.detail) for violation in result.harness.invariants.violations]


@pytest.fixture
def patches() -> Iterator[Patches]:
    """What a test puts into the core is taken out after it."""
    made = Patches()
    yield made
    made.undo()


def test_a_clock_that_jumps_is_noted_with_the_next_heartbeat_and_so_is_its_return() -> None:
    result = result_of(jump("1h", "1m", "125s") + jump("-90s", "125s", "184s", "b") + LOADS)
    assert result.passed, breaches(result)
    assert noted(result) == [(70, "a", 3600), (135, "b", -90), (190, "a", 0), (315, "b", 0)]
    assert result.report["faults"] == {"clock-jump": {"fired": 2, "effective": 4}}


def test_but_for_the_notes_the_log_is_as_it_was_without_them() -> None:
    """The same fault with and without an offset: heartbeats alone differ."""
    logs = []
    for by in ("1h", "0s"):
        rows = result_of(jump(by, "1m", "2m") + LOADS).events()
        logs.append([(row["event"], row["seconds"], row["data"]) for row in rows if row["event"] != "NodeClockOff"])
    assert logs[0] == logs[1]


def test_jumps_at_once_add_up() -> None:
    result = result_of(jump("1h", "1m", "4m") + jump("-20m", "2m", "1m"))
    assert result.passed, breaches(result)
    assert [off for _, _, off in noted(result)] == [3600, 2400, 3600, 0]


def test_a_clock_that_is_off_between_two_heartbeats_or_by_little_is_no_news() -> None:
    result = result_of(jump("1h", "1m", "5s") + jump("4s", "3m", "2m"))
    assert result.passed, breaches(result)
    assert noted(result) == []
    assert result.report["faults"]["clock-jump"] == {"fired": 2, "effective": 0}


def test_a_machine_that_comes_up_with_its_clock_off_tells_it_as_it_registers() -> None:
    crash = '[[faults]]\nkind = "node-crash"\ntarget = "a"\nat = "1m"\nfor = "1m"\n'
    result = result_of(jump("1h", "90s", "5m") + crash)
    assert result.passed, breaches(result)
    assert noted(result)[0] == (120, "a", 3600)


def test_what_is_off_for_good_stays_noted() -> None:
    result = result_of(jump("-1h", "1m", "forever"))
    assert result.passed, breaches(result)
    assert result.harness.engine.state.nodes["a"].clock_off == -HOUR


@pytest.mark.parametrize("seed", range(1, 9))
def test_late_messages_make_no_clock_wrong_and_what_is_known_at_the_end_is_so(seed: int) -> None:
    late = '[[faults]]\nkind = "delay-messages"\ntarget = "a"\nat = "30s"\nfor = "5m"\ndelay = "exp 20s"\np = 0.7\n'
    result = result_of(late + jump("1m", "1m", "2m") + jump("-1m", "4m", "3m") + LOADS, seed=seed)
    assert result.passed, breaches(result)
    assert result.harness.engine.state.nodes["a"].clock_off == 0
    alone = result_of(late + LOADS, seed=seed)
    assert alone.passed
    assert noted(alone) == []


# --- What the judges ask for ----------------------------------------------------------------------------------------


def test_a_note_that_is_not_so_is_found(patches: Patches) -> None:
    off_by = clocks.off_by
    patches.swap(off_by, lambda clock, sent_at, now, known: 2 * off_by(clock, sent_at, now, known // 2))
    found = breaches(result_of(jump("1h", "1m", "2m")))
    assert ("S", "the clock of a is noted as 2h ahead, and is 1h ahead") in found


def test_a_clock_that_is_told_and_not_noted_is_found(patches: Patches) -> None:
    patches.swap(clocks.note, lambda command, node, now: [])
    found = breaches(result_of(jump("1h", "1m", "2m")))
    assert found == [("S", "the clock of a is told as 1h ahead, and noted as right")]


def test_a_note_of_a_clock_that_nobody_told_is_found(patches: Patches) -> None:
    note = clocks.note

    def of_another(command: Any, node: Any, now: int) -> Any:
        return [replace(event, node="b") for event in note(command, node, now)]

    patches.swap(note, of_another)
    found = breaches(result_of(jump("1h", "1m", "2m")))
    assert ("S", "the clock of b is noted, and its worker has not told it") in found


@pytest.mark.parametrize("by", ["1h", "-1h"])
def test_an_event_that_is_dated_by_a_workers_clock_is_found(patches: Patches, by: str) -> None:
    report_capacity = nodes.report_capacity

    def dated_there(state: Any, command: ReportCapacity, now: int) -> Any:
        return [replace(event, at=command.clock or now) for event in report_capacity(state, command, now)]

    patches.swap(report_capacity, dated_there)
    found = breaches(result_of(jump(by, "1m", "2m")))
    assert ("S", "what follows from a word of a is dated by another clock than ours") in found


def test_a_note_that_outlives_what_it_says_is_found(patches: Patches) -> None:
    """The worker says what it runs a second after its clock is right, and beats no more."""
    text = jump("1h", "1m", "89s") + '[scheduler]\nheartbeat_interval = "20s"\n'
    assert result_of(text).passed
    patches.attribute(VirtualCluster, "clock_agrees", lambda cluster, node: True)
    assert breaches(result_of(text)) == [("Q", "the clock of a is off by 0 s, and 3600 are noted")]
