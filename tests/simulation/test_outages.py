"""Each fault does what it does for its length, whatever else is wrong at the same time."""

from __future__ import annotations

import pytest

from interlock.domain.units import SECOND
from interlock.simulation import Scenario
from interlock.simulation.api import Result, run

WORLD = """
duration = "10m"
[[nodes]]
name = "n"
vram = "24GiB"
[[models]]
name = "m"
backend = "echo"
vram = "1GiB"
parallel = 0
service_time = "1s"
[[replicas]]
model = "m"
node = "n"
"""


def fault(kind: str, at: str, length: str = "", **more: object) -> str:
    row = f'[[faults]]\nkind = "{kind}"\nat = "{at}"\n' + (f'for = "{length}"\n' if length else "")
    return row + "".join(f"{key} = {value!r}\n" for key, value in more.items())


def node_fault(kind: str, at: str, length: str = "") -> str:
    return fault(kind, at, length, target="n")


def step(action: str, at: str) -> str:
    return f'[[admin]]\naction = "{action}"\nat = "{at}"\nnode = "n"\n'


def asked_at(*moments: str) -> str:
    return "".join(f'[[requests]]\nmodel = "m"\nat = "{at}"\ndeadline = "10s"\n' for at in moments)


def run_of(text: str, seed: int = 1) -> Result:
    result = run(Scenario.parse(WORLD + text), seed=seed)
    assert result.passed, result.report["violations"]
    return result


@pytest.mark.parametrize(("begins", "ends"), [("node-crash", "node-recover"), ("partition", "heal")])
def test_the_end_of_an_outage_that_was_ended_early_does_not_end_the_next_one(begins: str, ends: str) -> None:
    outages = node_fault(begins, "10s", "60s") + node_fault(ends, "20s") + node_fault(begins, "30s", "5m")
    result = run_of(outages + asked_at("25s", "100s", "320s", "345s"))
    assert result.report["requests"]["served"] == 2
    assert [(start, end) for start, end, kind, _ in result.harness.faults.history if kind == begins] == [
        (10 * SECOND, 20 * SECOND),
        (30 * SECOND, 330 * SECOND),
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [("node-crash", "node-crash"), ("node-crash", "worker-leaves"), ("worker-leaves", "node-crash"),
     ("partition", "partition")],
)  # fmt: skip
def test_an_outage_that_begins_in_another_one_lasts_as_long_as_it_says(first: str, second: str) -> None:
    result = run_of(node_fault(first, "10s", "20s") + node_fault(second, "20s", "5m") + asked_at("60s", "310s", "340s"))
    assert result.report["requests"]["served"] == 1
    assert sum(row["effective"] for row in result.report["faults"].values()) == 2


def test_an_outage_within_a_longer_one_changes_nothing() -> None:
    result = run_of(
        node_fault("node-crash", "10s", "5m") + node_fault("worker-leaves", "20s", "20s") + asked_at("60s", "5m20s")
    )
    assert result.report["requests"]["served"] == 1
    assert result.report["faults"]["worker-leaves"]["effective"] == 0


def test_another_machine_is_not_kept_down_or_cut_off_by_what_was_wrong_with_the_first_and_may_fail_itself() -> None:
    old = node_fault("partition", "10s", "5m") + node_fault("node-crash", "15s", "2m")
    new = node_fault("node-crash", "2m10s", "5m")
    result = run_of(old + node_fault("machine-swap", "30s") + new + asked_at("60s", "2m5s", "140s", "4m", "7m30s"))
    assert result.report["requests"]["served"] == 3


def test_a_fault_on_a_machine_that_is_off_has_no_length() -> None:
    off = WORLD.replace('vram = "24GiB"', 'vram = "24GiB"\nup = false').partition("[[replicas]]")[0]
    result = run(Scenario.parse(off + node_fault("node-crash", "10s", "1m")))
    assert result.report["faults"]["node-crash"] == {"fired": 1, "effective": 0}
    assert result.harness.faults.history == [(10 * SECOND, 10 * SECOND, "node-crash", "n")]
    assert result.harness.faults.last_end == 10 * SECOND


def test_a_node_that_was_removed_while_it_was_down_stays_away() -> None:
    result = run_of(node_fault("node-crash", "10s", "1m") + step("remove-node", "30s") + asked_at("100s"))
    assert result.report["requests"]["refused"] == {"no_node_matches": 1}


def test_a_node_that_was_removed_while_it_was_down_stays_away_when_all_heals() -> None:
    healed = '[random_faults]\nholder-crash = 0.0\nstop_at = "2m"\n'
    result = run_of(node_fault("node-crash", "10s", "forever") + step("remove-node", "30s") + asked_at("3m") + healed)
    assert result.report["requests"]["refused"] == {"no_node_matches": 1}


@pytest.mark.parametrize("action", ["approve", "resume"])
def test_an_operators_word_does_not_start_a_machine_that_has_crashed(action: str) -> None:
    result = run_of(node_fault("node-crash", "10s", "5m") + step(action, "30s") + asked_at("100s", "320s"))
    assert result.report["requests"]["served"] == 1


def test_a_machine_that_was_taken_out_comes_back_when_it_is_approved() -> None:
    result = run_of(step("remove-node", "30s") + step("approve", "1m") + asked_at("100s"))
    assert result.report["requests"]["served"] == 1


def waits_of(result: Result) -> list[float]:
    """How long each request waited, in seconds, rounded down."""
    return [wait // SECOND for wait in result.harness.tally.waits]


@pytest.mark.parametrize("seed", range(1, 5))
def test_a_stall_that_begins_while_nobody_leads_keeps_everybody_from_taking_over_for_its_length(seed: int) -> None:
    """The crash is at 10s or 11s, the lease lapses three seconds later."""
    stall = fault("writer-crash", "10s") + fault("store-stall", "12s", "2m")
    result = run_of(stall + asked_at("9s", "20s"), seed=seed)
    assert waits_of(result) == [0, 112]
    assert result.report["faults"]["store-stall"]["effective"] >= 1


@pytest.mark.parametrize("seed", range(1, 5))
def test_a_writer_whose_store_hangs_can_die_and_what_it_decided_dies_with_it(seed: int) -> None:
    trouble = fault("store-stall", "10s", "2m") + fault("writer-crash", "11s")
    result = run_of(trouble + asked_at("10s500ms", "4m"), seed=seed)
    assert result.report["faults"]["writer-crash"]["effective"] == 1
    assert result.report["coverage"]["event_types"]["EpochStarted"] >= 1
    assert waits_of(result) in ([3, 0], [119, 0]), "cut off alone, or nobody could take over"


@pytest.mark.parametrize("seed", range(1, 9))
def test_each_of_two_stalls_lasts_as_long_as_it_says(seed: int) -> None:
    """Whether one of them strikes a single writer, which is replaced after three seconds, or everybody."""
    asked = asked_at("11s", "21s", "5m")
    longer_later = fault("store-stall", "10s", "1m") + fault("store-stall", "20s", "4m")
    assert waits_of(run_of(longer_later + asked, seed)) in ([2, 2, 0], [2, 239, 0], [249, 239, 0])
    longer_first = fault("store-stall", "10s", "4m") + fault("store-stall", "20s", "1m")
    assert waits_of(run_of(longer_first + asked, seed)) in ([2, 2, 0], [2, 59, 0], [239, 229, 0])


def test_a_writer_that_was_replaced_in_a_stall_for_everybody_is_still_refused_when_its_commits_arrive() -> None:
    """It is replaced when the store answers again, and what it had decided comes after that."""
    for seed in range(1, 9):
        stalls = fault("store-stall", "10s", "1m") + fault("store-stall", "11s", "2m")
        result = run_of(stalls + asked_at("10s500ms", "4m"), seed=seed)
        assert not result.harness.broken_by


@pytest.mark.parametrize("kind", ["store-stall", "store-error"])
@pytest.mark.parametrize("seed", range(1, 5))
def test_a_store_that_never_answers_again_is_no_defect_of_what_waits_for_it(kind: str, seed: int) -> None:
    """But for a stall that strikes one writer alone: another takes over, and all is judged."""
    result = run_of(fault(kind, "10s", "forever") + asked_at("15s"), seed)
    if result.report["requests"]["served"]:
        assert kind == "store-stall"
        assert not result.harness.unsettled
    else:
        assert result.report["requests"]["waiting"] == 1
        assert result.report["properties"]["Q"]["detail"] == "judged only while it ran: the store never answers again"


def test_a_store_that_would_never_answer_again_does_when_all_heals() -> None:
    healed = "[random_faults]\nholder-crash = 0.0\n"
    for kind in ("store-stall", "store-error"):
        result = run_of(fault(kind, "10s", "forever") + asked_at("15s") + healed)
        assert not result.harness.unsettled
        assert not any(call.waits for call in result.harness.gateways.live.values())


@pytest.mark.parametrize("p", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("kind", ["drop-messages", "delay-messages"])
def test_a_node_whose_messages_never_again_arrive_as_they_should_may_count_as_silent(kind: str, p: float) -> None:
    late = {"delay": "exp 1m"} if kind == "delay-messages" else {}
    floor = '[[models]]\nname = "kept"\nbackend = "echo"\nvram = "1GiB"\nmin_replicas = 2\n'
    other = '[[nodes]]\nname = "o"\nvram = "24GiB"\n'
    for seed in range(1, 4):
        run_of(other + floor + fault(kind, "5s", "forever", target="n", p=p, **late) + asked_at("1m", "5m"), seed)


def test_a_load_that_several_faults_slow_down_beyond_every_length_never_ends() -> None:
    slow = "".join(fault("slow-load", "0s", "forever", target="n", factor=1e6) for _ in range(60))
    fresh = '[[models]]\nname = "fresh"\nbackend = "echo"\nvram = "1GiB"\n[[requests]]\nmodel = "fresh"\nat = "1s"\n'
    still = WORLD.replace('vram = "24GiB"', 'vram = "24GiB"\nprogress = false')
    result = run(Scenario.parse(still + slow + fresh))
    assert result.report["requests"]["served"] == 0
