"""Sweeps: a few seeds of each scenario always, many when there is time."""

from __future__ import annotations

import pytest

from interlock.domain.errors import UsageError
from interlock.domain.events import EVENT_TYPES
from interlock.domain.refusals import RefusalCode
from interlock.simulation import Scenario
from interlock.simulation.api import run
from interlock.simulation.reading.scenario import FAULT_KINDS, bundled_names
from interlock.simulation.sweep import summary_text, sweep
from interlock.simulation.under_faults import under_faults

RARE = {"RequestCancelled", "LoadInfoStored", "StrayFound", "StrayStopped", "NodeWentOffline"}
WITH_FAULTS_OF_THEIR_OWN = [name for name in bundled_names() if Scenario.load(name).random_faults is not None]
LONG = {"fifty-models-a-day", "half-the-cluster-gone", "half-the-cluster-silent"}
"""Scenarios that take seconds for a seed."""
RULES = sorted({*bundled_names()} - {*WITH_FAULTS_OF_THEIR_OWN} - LONG)


def test_the_mixed_scenario_holds_under_a_few_seeds() -> None:
    data = sweep(Scenario.load("mixed"), range(1, 4), processes=1, until=600_000_000)
    broken = [failure for failure in data["failures"] if not failure["why"][0].startswith("expected")]
    assert not broken


def test_what_no_seed_has_shown_is_named_refusals_too() -> None:
    data = sweep(Scenario.load("larger-than-any-node"), range(1, 3), processes=1)
    refusals = data["coverage"]["refusals"]
    assert set(refusals) == set(RefusalCode)
    assert {code for code, count in refusals.items() if count} == {"never_fits"}
    (never,) = [line for line in summary_text(data).splitlines() if line.startswith("never seen")]
    assert {*RefusalCode} - {word.strip(",") for word in never.split()} == {"never_fits"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_mixed_scenario_holds_and_covers_everything_under_many_seeds() -> None:
    data = sweep(Scenario.load("mixed"), range(1, 121))
    assert not data["failures"]
    coverage = data["coverage"]
    assert all(coverage["faults"][kind]["effective"] for kind in FAULT_KINDS)
    never = {name for name in EVENT_TYPES if not coverage["event_types"][name]}
    assert never <= RARE, never


def test_a_few_seeds_of_the_short_one_bring_every_refusal_and_every_fault() -> None:
    data = sweep(Scenario.load("mixed-short"), range(1, 61), processes=1)
    assert not data["failures"]
    assert all(data["coverage"]["refusals"][code] for code in RefusalCode)
    assert all(data["coverage"]["faults"][kind]["effective"] for kind in FAULT_KINDS)


@pytest.mark.parametrize("name", RULES)
def test_what_a_rule_promises_holds_while_everything_goes_wrong(name: str) -> None:
    scenario = under_faults(Scenario.load(name))
    result = run(scenario)
    assert result.passed, result.report["violations"][:3]
    assert len(result.report["faults"]) >= 8
    assert result.report["requests"]["submitted"] >= 20
    assert result.report["reproduce"] == f"interlock simulate {name} --under-faults --seed {scenario.seed}"


def test_a_bug_that_faults_bring_out_is_found_in_a_scenario_that_passes_with_it() -> None:
    scenario = Scenario.load("orin-thor")
    assert run(scenario, mutant="holder-never-lost").passed
    data = sweep(under_faults(scenario), range(1, 41), mutant="holder-never-lost", processes=1)
    assert data["failures"]
    assert data["failures"][0]["replay"].endswith("--mutant holder-never-lost")


def test_random_faults_of_its_own_are_left_as_they_are() -> None:
    with pytest.raises(UsageError, match="random faults of its own"):
        under_faults(Scenario.load("mixed"))


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", sorted({*RULES, *WITH_FAULTS_OF_THEIR_OWN} - {"mixed"}))
def test_each_rule_holds_under_ten_thousand_seeds(name: str) -> None:
    scenario = Scenario.load(name)
    asked = scenario if name in WITH_FAULTS_OF_THEIR_OWN else under_faults(scenario)
    assert not sweep(asked, range(1, 10_001))["failures"]


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_the_mixed_scenario_holds_under_a_thousand_seeds() -> None:
    assert not sweep(Scenario.load("mixed"), range(1, 1_001))["failures"]
