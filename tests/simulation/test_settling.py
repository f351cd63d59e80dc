"""After its duration a run settles: it is given as long as what was promised takes, and no longer."""

from __future__ import annotations

import pytest

from interlock.domain.units import MINUTE
from interlock.simulation import Scenario
from interlock.simulation.api import Result, run
from interlock.simulation.clock import Clock
from interlock.simulation.harness import Options
from interlock.simulation.settling import LONGEST, PATIENCE, Settling
from tests.simulation.support import result_of

WORLD = """
schema = 1
name = "patient"
duration = "10m"
[[nodes]]
name = "n1"
vram = "24GiB"
load_rate = "{rate}"
[[models]]
name = "keeper"
backend = "echo"
vram = "20GiB"
{keeper}
[[models]]
name = "late"
backend = "echo"
vram = "20GiB"
service_time = "1s"
[[replicas]]
model = "keeper"
node = "n1"
[[requests]]
model = "late"
at = "1m"
{request}
"""


def run_of(more: str = "", *, keeper: str = "", request: str = "", rate: str = "1GiB/s") -> Result:
    return run(Scenario.parse(WORLD.format(keeper=keeper, request=request, rate=rate) + more))


@pytest.mark.parametrize(
    ("more", "world"),
    [
        ("", {"keeper": "pinned = true", "request": 'deadline = "7h"'}),
        ("", {"keeper": "pinned = true", "request": 'deadline = "400d"'}),
        (
            '[[requests]]\nmodel = "keeper"\nat = "1s"\nservice_time = "9h"',
            {"request": 'deadline = "12h"'},
        ),
        ('[scheduler]\nmin_residency = "8h"\nrequest_deadline = "10h"', {}),
        ('[scheduler]\nrequest_deadline = "8h"', {"keeper": "pinned = true"}),
        ('[scheduler]\nidle_unload = "3d"', {}),
        ("", {"rate": "512KiB/s", "request": 'deadline = "2d"'}),
        (
            '[scheduler]\nload_silence = "8h"\n[[faults]]\nkind = "load-hangs"\nat = "1s"\n'
            'target = "n1"\nmodel = "late"\nfor = "forever"',
            {"request": 'deadline = "7d"'},
        ),
    ],
    ids=["pinned", "more-than-a-year", "long-service", "residency", "setting", "idle", "slow-load", "silence"],
)
def test_what_is_promised_for_a_later_hour_may_come(more: str, world: dict[str, str]) -> None:
    result = run_of(more, **world)
    assert result.passed, result.harness.invariants.violations
    assert result.harness.gateways.counts()[0] == 0


def test_many_long_services_one_after_another_are_waited_for() -> None:
    queue = '[[requests]]\nmodel = "late"\nat = "2m"\ncount = 20\nevery = "1s"\nservice_time = "3h"\ndeadline = "9d"'
    result = run_of(queue, request='deadline = "9d"')
    assert result.passed, result.harness.invariants.violations
    assert result.harness.gateways.counts()[0] == 0


def test_patience_ends_where_things_are_done_for_ever() -> None:
    patience, deeds, rounds = Settling(waiting=1, deeds=0), 0, 0
    while not patience.over:
        deeds, rounds = deeds + 1, rounds + 1
        patience.passed(patience.step(30_000_000), waiting=1, deeds=deeds, promised=True)
    assert patience.length == PATIENCE
    assert rounds == PATIENCE // 30_000_000


def test_patience_ends_where_nothing_is_promised() -> None:
    patience = Settling(waiting=1, deeds=0)
    while not patience.over:
        patience.passed(patience.step(30_000_000), waiting=1, deeds=0, promised=False)
    assert patience.length == PATIENCE


def test_a_request_that_ends_its_wait_makes_patience_whole_again() -> None:
    patience = Settling(waiting=2, deeds=0)
    patience.passed(PATIENCE - 1, waiting=2, deeds=1, promised=True)
    patience.passed(1, waiting=1, deeds=2, promised=True)
    assert not patience.over
    patience.passed(PATIENCE, waiting=2, deeds=3, promised=True)
    assert patience.over


def test_no_run_is_followed_for_ever_though_each_step_promises_another() -> None:
    patience, rounds = Settling(waiting=1, deeds=0), 0
    while not patience.over:
        rounds += 1
        patience.passed(patience.step(30_000_000), waiting=1, deeds=0, promised=True)
    assert patience.length >= LONGEST
    assert rounds < 2_000


def test_time_passes_on_an_empty_agenda_and_is_told_apart_from_one_where_something_is_left() -> None:
    clock, happened = Clock(), list[int]()
    assert [clock.run(until) for until in (10, 20, 30)] == [False, False, False]
    clock.after(5, happened.append, 35)
    clock.after(10, happened.append, 40)
    assert clock.run(40)
    assert happened == [35], "what is due at the very end is left for later"
    assert clock.run(41)
    assert happened == [35, 40]
    assert not clock.run(50)
    assert clock.elapsed == 50


STALLS = (
    '[[replicas]]\nmodel = "late"\nnode = "n2"\nin_flight = 1\nbusy_for = "forever"\n'
    '[[nodes]]\nname = "n2"\nvram = "24GiB"\n'
)


@pytest.mark.parametrize("arrival", ["1m", "9m59s"], ids=["while-it-runs", "as-it-ends"])
def test_a_run_with_work_to_do_and_nothing_that_will_ever_happen_has_stalled(arrival: str) -> None:
    """The request may wait for longer than a run has patience: nothing else would tell that nobody will wake it."""
    text = WORLD.format(keeper="pinned = true", request='deadline = "7h"', rate="1GiB/s") + STALLS
    scenario = Scenario.parse(text.replace('at = "1m"', f'at = "{arrival}"'))
    assert run(scenario).passed
    stalled = run(scenario, mutant="alarm-never-set").report
    wanted = ("W", "nothing will ever happen, and 1 requests wait: q-000001")
    assert [(row["property"], row["detail"]) for row in stalled["violations"]] == [wanted]
    assert stalled["verdict"] == "fail"


def test_what_is_asked_for_at_the_moment_of_the_end_happens_and_is_counted() -> None:
    """A request of its own, the last of a row, a fault and an operator's step."""
    text = (
        'duration = "10s"\n[[nodes]]\nname = "n"\nvram = "24GiB"\n'
        '[[models]]\nname = "m"\nbackend = "echo"\nvram = "1GiB"\nparallel = 0\nservice_time = "1s"\n'
        '[[replicas]]\nmodel = "m"\nnode = "n"\n'
        '[[requests]]\nmodel = "m"\nat = "10s"\n[[requests]]\nmodel = "m"\ncount = 11\nevery = "1s"\n'
        '[[admin]]\nat = "10s"\naction = "drain"\nnode = "n"\n'
        '[[faults]]\nat = "10s"\nkind = "node-crash"\ntarget = "n"\n'
    )
    result = run(Scenario.parse(text))
    assert result.passed, result.harness.invariants.violations
    assert result.report["requests"]["submitted"] == 12
    assert result.report["faults"] == {"node-crash": {"fired": 1, "effective": 1}}
    assert result.report["coverage"]["event_types"]["NodeDrainStarted"] == 1


JUDGED = ("settling", "log_hash", "state_hash", "wall_seconds", "properties", "invariants", "violations", "verdict")
GOES_ON = (
    '[[requests]]\nmodel = "late"\nat = "9m"\nservice_time = "20m"\n'
    '[[faults]]\nkind = "probe-timeout"\nat = "9m"\ntarget = "n1"\nfor = "30m"\n'
    '[[requests]]\nmodel = "keeper"\nat = "9m59s"\ndeadline = "1h"\n'
)
"""Much is under way at the end of the duration, and ends in settling."""


def test_no_count_goes_on_while_the_run_settles() -> None:
    scenario = Scenario.parse(WORLD.format(keeper="", request="", rate="256MiB/s") + GOES_ON)
    settled, stopped = (run(scenario, options=Options(settle=settle)) for settle in (True, False))
    assert settled.harness.settled_for > 0
    assert settled.harness.faults.effective != stopped.harness.faults.effective
    for name in stopped.report.keys() - JUDGED:
        assert settled.report[name] == stopped.report[name], name


def test_what_a_run_that_was_cut_short_would_have_come_to_does_not_happen_while_it_settles() -> None:
    later = (
        '[[faults]]\nkind = "node-crash"\nat = "5m"\ntarget = "n1"\n'
        '[[admin]]\naction = "drain"\nat = "6m"\nnode = "n1"\n'
    )
    text = WORLD.format(keeper="", request='service_time = "20m"\ndeadline = "1h"', rate="64MiB/s") + later
    result = run(Scenario.parse(text), until=2 * MINUTE)
    assert result.passed, result.report["violations"]
    assert result.harness.settled_for > 4 * MINUTE
    assert not result.harness.faults.history
    assert not result.harness.operators.history


QUIET = """
duration = "30m"
[[nodes]]
name = "n"
vram = "24GiB"
labels = { tier = "x" }
[[models]]
name = "m"
backend = "echo"
vram = "16GiB"
service_time = "1s"
node_selector = { tier = "x" }
[[requests]]
model = "m"
[expect]
quiet_after = "1m"
"""
LEAVES = '[[admin]]\nat = "10m"\naction = "set-labels"\nnode = "n"\nlabels = { tier = "" }\n'
IS_EVICTED = (
    '[[models]]\nname = "other"\nbackend = "echo"\nvram = "16GiB"\nservice_time = "1s"\n'
    '[[requests]]\nmodel = "other"\nat = "10m"\n'
)


@pytest.mark.parametrize(
    ("more", "late"),
    [
        ("", "none"),
        (LEAVES, "1 effects, model.unload first"),
        ('[scheduler]\nidle_unload = "5m"\n', "1 effects, model.unload first"),
        (IS_EVICTED, "none"),
    ],
    ids=["nothing", "a-step", "idle", "another-request"],
)
def test_what_was_loaded_for_a_request_is_no_longer_for_it_once_it_is_there(more: str, late: str) -> None:
    (row,) = [row for row in run(Scenario.parse(QUIET + more)).report["expectations"] if row["name"] == "quiet_after"]
    assert (row["got"], row["holds"]) == (late, late == "none")


def test_what_a_run_that_is_cut_short_leaves_out_does_not_come_while_it_settles() -> None:
    dark = '[[faults]]\nat = "30s"\nkind = "partition"\ntarget = "a"\nfor = "5m"\n'
    step = '[[admin]]\nat = "2m"\naction = "drain"\nnode = "b"\n'
    later = f'[[faults]]\nat = "2m"\nkind = "process-kill"\nmodel = "m"\n{step}'
    result = result_of(dark + later, until=MINUTE)
    assert set(result.report["faults"]) == {"partition"}
    assert "NodeDrainStarted" not in {row["event"] for row in result.events()}
