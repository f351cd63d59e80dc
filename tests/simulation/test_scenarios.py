"""Every bundled scenario passes, and the mutant that brings its failure back makes it fail."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace

from interlock.domain import consequences, decide, engine, parking, reconcile, routing, state
from interlock.domain.applying import changes, handlers
from interlock.domain.errors import NotFound
from interlock.simulation.api import run
from interlock.simulation.harness import Options
from interlock.simulation.mutants import core as mutations
from interlock.simulation.mutants.catalogue import MUTANTS, SCOPES, activate, find
from interlock.simulation.mutants.hunt import hunt
from interlock.simulation.reading.scenario import bundled_names

SHORT = [name for name in bundled_names() if not name.startswith(("mixed", "fifty-models"))]


@pytest.mark.parametrize("name", SHORT)
def test_a_bundled_scenario_brings_what_it_expects(name: str) -> None:
    result = run(name)
    broken = [row for row in result.report["expectations"] if not row["holds"]]
    assert result.passed, (broken, result.harness.invariants.violations)
    assert result.harness.scenario.expect.numbers or result.harness.scenario.expect.groups


@pytest.mark.parametrize("name", list(MUTANTS))
def test_a_mutant_is_killed_by_its_property(name: str) -> None:
    row = hunt(MUTANTS[name])
    assert row["killed"], row["witness"]


def test_what_the_scenario_does_not_show_is_looked_for_by_exploring() -> None:
    """A forgotten wake-up, hunted where nobody ever waits."""
    elsewhere = replace(MUTANTS["wakeup-forgotten"], scenario="larger-than-any-node")
    row = hunt(elsewhere)
    assert (row["killed"], row["found_by"]) == (True, "prove")
    assert "interlock prove --scope" in row["witness"]
    assert hunt(MUTANTS["wakeup-forgotten"])["found_by"] == "simulate"


@pytest.mark.parametrize("name", SCOPES)
def test_a_loop_is_shown_by_its_few_steps_and_by_its_scenario_as_well(name: str) -> None:
    """What goes on for ever is known in the simulation only after the hours in which it might have settled."""
    mutant = MUTANTS[name]
    row = hunt(mutant)
    assert (row["killed"], row["found_by"]) == (True, "prove")
    assert f"(interlock prove --scope {mutant.scope} --mutant {name})" in row["witness"]
    assert len(re.findall(r"\b\d\. ", row["witness"])) <= 6
    violations = run(mutant.scenario, mutant=name).harness.invariants.violations
    assert mutant.property in {violation.property for violation in violations}


def test_a_hunt_that_no_scope_ends_goes_on_in_the_scenario() -> None:
    elsewhere = replace(MUTANTS["stray-ignored"], scope="impossible")
    row = hunt(elsewhere)
    assert (row["killed"], row["found_by"]) == (True, "simulate")
    assert "is an orphan" in row["witness"]


def test_a_run_ends_at_the_first_violation_of_the_property_that_is_asked_for() -> None:
    killed = MUTANTS["drain-keeps-routing"]
    whole = run(killed.scenario, mutant=killed.name).harness
    short = run(killed.scenario, mutant=killed.name, options=Options(until_broken=killed.property)).harness
    assert short.invariants.violations == whole.invariants.violations[:1]
    assert short.log.length < whole.log.length
    other = run(killed.scenario, mutant=killed.name, options=Options(until_broken="T")).harness
    assert other.log_hash == whole.log_hash


def test_there_are_as_many_mutants_as_promised_and_every_scenario_has_one() -> None:
    assert len(MUTANTS) >= 24
    without = set(SHORT) - {mutant.scenario for mutant in MUTANTS.values()}
    assert not without


def test_a_mutant_leaves_no_trace() -> None:
    """Everything it touched is the very object that was there before, also when the run breaks off."""

    def picture() -> list[object]:
        modules = (changes, consequences, decide, engine, reconcile, routing, mutations.requests, mutations.loads)
        held = [value for module in modules for value in vars(module).values()]
        tables = [*decide._RULES.values(), *handlers.HANDLERS.values(), *parking.CURES.values()]
        return [*held, *tables, *vars(state.State).values(), *vars(engine.Engine).values()]

    before = picture()
    for name in MUTANTS:
        with pytest.raises(KeyError), activate(name):
            raise KeyError
    after = picture()
    assert len(before) == len(after)
    assert all(old is new for old, new in zip(before, after, strict=True))


def test_an_unknown_mutant_is_named_with_those_that_there_are() -> None:
    with pytest.raises(NotFound, match="selector-ignored-in-lookup"):
        find("gremlin")
