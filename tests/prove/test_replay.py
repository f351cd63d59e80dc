"""Simulation and exploration agree: what prove finds under a mutant, simulate sees in the same way."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from interlock.simulation.mutants.catalogue import activate
from interlock.simulation.prove import prove
from interlock.simulation.prove.counterexample import explain_lasso
from interlock.simulation.prove.cycles import find_lassos
from interlock.simulation.prove.explore import Exploration
from interlock.simulation.prove.replay import Replayed, Script, play, scenario_of, write_script
from interlock.simulation.prove.scopes import load_scope
from interlock.simulation.prove.start import begin


def script_of(mutant: str, scope: str) -> tuple[str, Script]:
    """The property that prove finds broken under the mutant, and the script of its counterexample."""
    loaded = load_scope(scope)
    with activate(mutant):
        shown = prove(loaded, mutant=mutant).counterexample
        assert shown is not None
        assert not shown.spurious
        script = write_script(loaded, shown)
    assert script is not None
    return "S" if shown.property == "invariant" else shown.property, script


def played(script: Script, mutant: str | None) -> Replayed:
    with activate(mutant):
        return play(script)


LASSOS = [
    ("selector-ignored-in-lookup", "orin-thor", "T"),
    ("empty-backend-scaleup", "orin-thor", "Q"),
    ("empty-backend-scaleup", "reconciler", "Q"),
    ("unpark-on-anything", "doomed-floor", "Q"),
    ("up-and-down-in-one-tick", "reconciler", "Q"),
]
"""Every cycle that prove finds in the scopes of the short run, and that can happen."""


@pytest.mark.parametrize(("mutant", "scope", "broken"), LASSOS)
def test_every_lasso_replays_in_the_simulator_and_breaks_the_same_property(
    mutant: str, scope: str, broken: str
) -> None:
    name, script = script_of(mutant, scope)
    assert name == broken
    assert script.rounds >= 3
    seen = played(script, mutant)
    assert seen.diverged == ""
    assert seen.broken[broken]
    if broken == "Q":
        assert seen.virtual_seconds > 6 * 3600
        assert seen.effects_at_the_end > 10
    real = played(script, None)
    assert real.diverged, "without the mutant the way is not even possible"
    assert real.broken == {}


def test_the_loop_of_the_incident_is_told_in_its_own_words() -> None:
    _, script = script_of("selector-ignored-in-lookup", "orin-thor")
    (told,) = played(script, "selector-ignored-in-lookup").broken["T"]
    assert "no longer matches selector" in told
    assert "no free replica slot, evicting LRU" in told
    assert "all models have in-flight requests" in told


@pytest.mark.parametrize(
    ("mutant", "scope", "broken"),
    [
        ("busy-taken-for-dead", "cut-off", "S"),
        ("deadline-forgotten", "two-models-one-slot", "W"),
        ("declare-always-edits", "impossible", "S"),
        ("evict-and-reserve-apart", "two-models-one-slot", "S"),
        ("give-up-leaves-running", "orin-thor", "Q"),
        ("hold-forgotten", "two-models-one-slot", "S"),
        ("join-failed-load", "orin-thor", "W"),
        ("scale-down-at-once", "growth", "S"),
        ("silence-unwatched", "two-models-one-slot", "W"),
        ("stray-ignored", "cut-off", "Q"),
        ("unbounded-retry", "backend-gone", "T"),
        ("unloading-still-warm", "backend-gone", "S"),
        ("unreachable-is-lost", "cut-off", "S"),
        ("wakeup-forgotten", "two-models-one-slot", "W"),
    ],
)
def test_a_way_without_a_cycle_replays_too(mutant: str, scope: str, broken: str) -> None:
    name, script = script_of(mutant, scope)
    seen = played(script, mutant)
    assert (name, seen.diverged) == (broken, "")
    assert seen.broken[broken]
    assert played(script, None).broken == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutant", "scope", "broken"),
    [
        ("disk-unchecked", "impossible", "S"),
        ("evict-outside-candidates", "orin-thor", "S"),
        ("growth-evicts", "growth", "S"),
        ("load-not-reserved", "orin-thor", "W"),
        ("loading-as-victim", "two-models-one-slot", "S"),
        ("never-fits-waits", "impossible", "W"),
        ("residency-ignored", "two-models-one-slot", "S"),
        ("counter-not-lease", "holder-lost-against-release", "S"),
        ("double-release", "holder-lost-against-release", "S"),
        ("drain-keeps-routing", "drain-during-load", "S"),
        ("stale-revision-served", "revision-under-load", "S"),
        ("floor-counts-excluded", "drain-during-load", "S"),
        ("holder-never-lost", "holder-lost-against-release", "W"),
        ("pin-ignored", "reconciler", "S"),
        ("call-believed", "mass-loss", "S"),
        ("moved-in-the-dark", "mass-loss", "S"),
    ],
)
def test_longer_ways_replay_too(mutant: str, scope: str, broken: str) -> None:
    test_a_way_without_a_cycle_replays_too(mutant, scope, broken)


def test_a_script_that_the_harness_cannot_follow_is_said_to_diverge() -> None:
    _, script = script_of("silence-unwatched", "two-models-one-slot")
    assert "was expected" in played(replace(script, cues=[]), None).diverged
    nobody = replace(script, cues=[replace(script.cues[0], key=("answer", "nobody", "solo", 0, "loading"))])
    assert "not possible" in played(nobody, None).diverged


def test_what_real_durations_rule_out_has_no_script() -> None:
    loaded = load_scope("two-floors")
    # What would slow the cycle down is off.
    slow = {"evictions_per_node": 0, "thrash_cycles": 0, "recent_uses": 0, "unload_patience": 0}
    loaded = replace(loaded, settings=replace(loaded.settings, **slow))
    with activate("floor-evicts-equals"):
        shown = prove(loaded, mutant="floor-evicts-equals").counterexample
        assert shown is not None
        assert shown.spurious
        assert write_script(loaded, shown) is None


@pytest.mark.slow
@pytest.mark.parametrize(("mutant", "scope"), [(mutant, scope) for mutant, scope, _ in LASSOS])
def test_the_other_cycles_under_the_same_mutant_replay_too(mutant: str, scope: str) -> None:
    loaded = load_scope(scope)
    with activate(mutant):
        exploration = Exploration(loaded, begin(loaded)).run(20_000, lambda exploration: bool(find_lassos(exploration)))
        lassos = [explain_lasso(exploration, lasso) for lasso in find_lassos(exploration)]
        for shown in [shown for shown in lassos if not shown.spurious]:
            script = write_script(loaded, shown)
            assert script is not None
            seen = play(script)
            assert seen.diverged == ""
            assert seen.broken[shown.property]


def test_a_scope_becomes_a_scenario_with_the_same_world() -> None:
    scope = load_scope("cut-off")
    scenario = scenario_of(scope, 5)
    assert [node.name for node in scenario.nodes] == [node.facts.name for node in scope.nodes]
    assert [model.scheduling for model in scenario.models] == [model.scheduling for model in scope.models]
    assert scenario.duration == 5
    assert scenario.settings
