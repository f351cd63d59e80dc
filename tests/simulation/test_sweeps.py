"""Sweeps of the mixed scenario: a few seeds always, many when there is time."""

from __future__ import annotations

import pytest

from interlock.domain.events import EVENT_TYPES
from interlock.simulation import Scenario
from interlock.simulation.reading.scenario import FAULT_KINDS, read_text
from interlock.simulation.sweep import sweep

RARE = {"RequestCancelled", "LoadInfoStored", "StrayFound", "StrayStopped", "NodeWentOffline"}


def test_the_mixed_scenario_holds_under_a_few_seeds() -> None:
    text = read_text("mixed")
    data = sweep(Scenario.parse(text, "mixed"), text, range(1, 4), processes=1, until=600_000_000)
    broken = [failure for failure in data["failures"] if not failure["why"][0].startswith("expected")]
    assert not broken


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_mixed_scenario_holds_and_covers_everything_under_many_seeds() -> None:
    text = read_text("mixed")
    data = sweep(Scenario.parse(text, "mixed"), text, range(1, 121))
    assert not data["failures"]
    coverage = data["coverage"]
    assert all(coverage["faults"][kind]["effective"] for kind in FAULT_KINDS)
    never = {name for name in EVENT_TYPES if not coverage["event_types"][name]}
    assert never <= RARE, never


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_the_dense_mixed_scenario_holds_under_ten_thousand_seeds() -> None:
    text = read_text("mixed-short")
    assert not sweep(Scenario.parse(text, "mixed-short"), text, range(1, 10_001))["failures"]


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_the_mixed_scenario_holds_under_a_thousand_seeds() -> None:
    text = read_text("mixed")
    assert not sweep(Scenario.parse(text, "mixed"), text, range(1, 1_001))["failures"]
