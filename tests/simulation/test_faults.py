"""Every admin action does what it says; runs with many faults settle; and strangers' scenarios get their verdicts.

That every kind of fault changes something, and nothing breaks, ``test_every_key.py`` shows.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from interlock.domain.errors import UnreadableFile
from interlock.simulation import Scenario
from interlock.simulation.api import run
from interlock.simulation.store import write_events
from interlock.simulation.under_faults import under_faults
from tests.simulation.support import result_of

STRANGERS = Path(__file__).parent / "strangers"
VERDICTS = set(STRANGERS.glob("*.toml")) - {STRANGERS / "misspelt-key.toml"}
FOUND = (Path(__file__).parent / "found").glob("*.toml")

LOADS = '[[requests]]\nmodel = "m"\nat = "1s"\ncount = 40\nevery = "2s"\n'


def fault(kind: str, at: str = "15s", **more: object) -> str:
    rows = "".join(f'{key.rstrip("_")} = "{value}"\n' for key, value in more.items() if key != "p")
    rows += f"p = {more['p']}\n" if "p" in more else ""
    return f'[[faults]]\nkind = "{kind}"\nat = "{at}"\n{rows}'


@pytest.mark.parametrize(
    ("step", "event"),
    [
        ('action = "set-scheduling"\nmodel = "m"\nparallel = 2', "ModelSchedulingChanged"),
        ('action = "set-labels"\nnode = "a"\nlabels = { tier = "x" }', "NodeLabelsChanged"),
        ('action = "drain"\nnode = "a"', "NodeDrainStarted"),
        ('action = "remove-node"\nnode = "b"', "NodeRemoved"),
        ('action = "set-budget"\nnode = "a"\nvalue = "80%"', "NodeBudgetSet"),
        ('action = "set-max-replicas"\nnode = "a"\nvalue = 3', "NodeReplicaSlotsSet"),
        ('action = "declare-model"\nname = "n"\nbackend = "echo"', "ModelDeclared"),
        ('action = "edit-model"\nmodel = "m"\nvram = "9GiB"', "RevisionDeclared"),
        ('action = "remove-model"\nmodel = "m"', "ModelRemoved"),
        ('action = "load-info"\nmodel = "m"\nbackend = "other"', "RevisionDeclared"),
        ('action = "freeze"\nwhat = "evictions"', "Frozen"),
        ('action = "set"\nmin_residency = "1s"', "SettingsChanged"),
    ],
)
def test_an_admin_action_is_taken(step: str, event: str) -> None:
    result = result_of(f'[[admin]]\nat = "1m"\n{step}\n')
    assert result.report["coverage"]["event_types"][event] == 1
    assert not result.report["rejected_steps"]
    assert result.passed, result.harness.invariants.violations


def test_resume_thaw_and_approve_undo_what_went_before() -> None:
    steps = [
        'action = "drain"\nnode = "a"', 'action = "resume"\nnode = "a"', 'action = "freeze"\nwhat = "reconciler"',
        'action = "thaw"\nwhat = "reconciler"', 'action = "approve"\nnode = "late"',
    ]  # fmt: skip
    late = '[[nodes]]\nname = "late"\nvram = "24GiB"\napproved = false\n'
    text = "".join(f'[[admin]]\nat = "{number}m"\n{step}\n' for number, step in enumerate(steps, 1))
    result = result_of(late + text)
    seen = result.report["coverage"]["event_types"]
    assert {"NodeResumed", "Thawed", "NodeApproved"} <= seen.keys()
    assert result.passed, result.harness.invariants.violations


def test_a_settled_run_has_no_orphans_and_the_same_seed_gives_the_same_log() -> None:
    text = LOADS + '[random_faults]\nprocess-kill = 60.0\npartition = 30.0\nwriter-crash = 30.0\nstop_at = "10m"\n'
    first, second, other = (result_of(text, seed=seed) for seed in (5, 5, 6))
    assert first.passed, first.harness.invariants.violations
    assert first.report["log_hash"] == second.report["log_hash"]
    assert first.report["log_hash"] != other.report["log_hash"]


def test_a_writer_that_dies_while_its_store_hangs_takes_nothing_with_it_into_the_next_term() -> None:
    """What it had decided and not stored is decided again by its successor, and stored once."""
    text = fault("store-stall", "14s", for_="20s") + fault("writer-crash", "13s500ms") + fault("store-error", "50s")
    for seed in range(1, 9):
        result = result_of(text + LOADS, seed=seed)
        assert result.passed, (seed, result.harness.invariants.violations)


def test_memory_that_others_took_is_theirs_until_they_give_it_back_and_no_longer() -> None:
    """Heartbeats go on until the figures are right, though old ones arrive long after the last fault is over."""
    text = fault("memory-pressure", target="a", size="20GiB", for_="1m")
    late = fault("delay-messages", target="a", for_="61s", delay="exp 1m", p=0.5)
    changes = []
    for seed in range(1, 11):
        result = result_of(text + late + LOADS, seed=seed)
        assert result.passed, result.harness.invariants.violations
        assert result.harness.engine.state.nodes["a"].foreign == (0,), seed
        changes.append(result.report["coverage"]["event_types"].get("NodeCapacityChanged", 0))
    assert max(changes) > 2, "some old figures came after newer ones"
    assert max(changes) < 20, "and did not go to and fro for ever"


def test_a_stray_process_counts_as_others_memory_until_it_is_stopped_and_then_no_more() -> None:
    """The node was silent for so long that its replica counted as lost; its process is there when it comes back."""
    text = fault("partition", target="a", for_="10m") + '[scheduler]\noffline_after = "1m"\n' + LOADS
    result = result_of('[[replicas]]\nmodel = "m"\nnode = "a"\n' + text)
    assert result.passed, result.harness.invariants.violations
    assert "StrayStopped" in result.report["coverage"]["event_types"]
    assert all(not any(node.foreign) for node in result.harness.engine.state.nodes.values())


def test_a_pool_that_the_node_does_not_have_cannot_be_squeezed() -> None:
    with pytest.raises(UnreadableFile, match="1 is no memory pool of a"):
        Scenario.parse(
            '[[nodes]]\nname = "a"\nvram = "9GiB"\n[[faults]]\nkind = "memory-pressure"\nat = "1s"\n'
            'target = "a"\npool = 1\n',
            "test",
        )


@pytest.mark.parametrize("path", sorted(VERDICTS), ids=lambda path: path.stem)
def test_a_scenario_by_somebody_who_never_saw_the_code_gets_the_verdict_it_deserves(path: Path) -> None:
    """The first word of its description is the verdict."""
    wanted = Scenario.load(path).description.partition(":")[0]
    assert run(Scenario.load(path)).verdict == wanted


@pytest.mark.parametrize("path", sorted(FOUND), ids=lambda path: path.stem)
def test_what_a_seed_has_found_stays_mended(path: Path) -> None:
    """Seeds of large scenarios, shrunk; each says what was wrong."""
    result = run(Scenario.load(path))
    assert result.passed, result.harness.invariants.violations


def test_a_strangers_slip_is_refused_with_its_line_and_the_keys_that_there_are() -> None:
    slip = STRANGERS / "misspelt-key.toml"
    with pytest.raises(UnreadableFile, match=r"misspelt-key\.toml:8: nodes\[0\]\.memory: .* vram"):
        Scenario.load(slip)


@pytest.mark.parametrize("name", ["hold-kept", "one-load-evicts-one", "drain-under-load", "room-made-for-nobody"])
def test_what_happens_under_faults_is_a_log_that_a_real_store_takes(tmp_path: Path, name: str) -> None:
    """Loads that others made room for end in every way here, and each stream's versions follow each other."""
    for seed in range(1, 6):
        rows = run(under_faults(Scenario.load(name)), seed=seed).harness.rows
        assert write_events(rows, tmp_path / f"{seed}.db").exists()


def test_random_faults_of_nodes_need_nodes() -> None:
    result = run(Scenario.parse('duration = "1h"\n[random_faults]\nnode-crash = 9.0\nstore-stall = 9.0\n'))
    assert result.passed
    assert set(result.report["faults"]) == {"store-stall"}
