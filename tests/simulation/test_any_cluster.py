"""Scenarios at random hold all that every run must hold, and leave out nothing that a scenario can say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from interlock.adapters.cli import app
from interlock.domain.errors import UsageError
from interlock.domain.settings import Settings
from interlock.simulation import Scenario
from interlock.simulation.any_cluster import any_table
from interlock.simulation.api import run
from interlock.simulation.arrivals import with_trace
from interlock.simulation.mutants.catalogue import activate
from interlock.simulation.reading.parse import ACTIONS, SCHEDULING_KEYS
from interlock.simulation.reading.scenario import FAULT_KINDS, PROPERTIES
from interlock.simulation.sweep import sweep
from interlock.simulation.under_faults import under_faults

SOME = range(1, 81)
MANY = range(1, 10_001)
CHOSEN = [any_table(seed) for seed in range(1, 600)]


def rows(table: str) -> list[dict[str, Any]]:
    return [row for data in CHOSEN for row in data.get(table, ())]


def test_whatever_is_chosen_holds_all_properties() -> None:
    data = sweep(Scenario.load("any"), SOME, processes=1)
    assert not data["failures"]
    assert data["scenario"] == "any"
    assert data["requests"] > 50 * len(SOME)


@pytest.mark.soak
def test_ten_thousand_that_are_chosen_hold_all_properties_and_leave_no_event_refusal_or_fault_out() -> None:
    data = sweep(Scenario.load("any"), MANY)
    assert not data["failures"]
    assert not [name for name, count in data["coverage"]["event_types"].items() if not count]
    assert not [kind for kind, row in data["coverage"]["faults"].items() if not row["effective"]]
    never = {code for code, count in data["coverage"]["refusals"].items() if not count}
    assert never <= {"backend_failed"}, "that takes backends which die one after the other under one request"


def test_a_seed_chooses_the_same_scenario_each_time_and_another_seed_another() -> None:
    first, again, other = (run("any", seed=seed).report for seed in (7, 7, 8))
    assert first["log_hash"] == again["log_hash"] != other["log_hash"]
    assert first["seed"] == 7
    assert (first["scenario"], first["reproduce"]) == ("any-7", "interlock simulate any --seed 7")


def test_every_setting_action_fault_and_wish_of_a_model_is_chosen_by_some_seed() -> None:
    settings = {key for data in CHOSEN for key in data["scheduler"]}
    assert {*Settings.__struct_fields__} - settings == {"placement_profiles"}  # those have scenarios of their own
    assert {step["action"] for step in rows("admin")} == set(ACTIONS)
    assert {*FAULT_KINDS} == {kind for data in CHOSEN for kind in data.get("random_faults", ()) if kind in FAULT_KINDS}
    assert {fault["kind"] for fault in rows("faults")} == {*FAULT_KINDS} - {"machine-swap", "name-clash"}
    assert {key for model in rows("models") for key in model} >= set(SCHEDULING_KEYS)


def test_a_run_that_fails_can_be_shrunk_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / "smallest.toml"
    mutant = "residency-ignored"
    with activate(mutant):
        failing = next(seed for seed in SOME if not run("any", seed=seed).passed)
    assert app.run(["simulate", "any", "--seed", str(failing), "--mutant", mutant, "--shrink", str(file)]) == 1
    assert len(file.read_text(encoding="utf-8")) < len(json.dumps(any_table(failing)))
    assert app.run(["simulate", str(file), "--mutant", mutant]) == 1
    assert app.run(["simulate", str(file)]) == 0


def test_it_has_requests_and_faults_of_its_own() -> None:
    chosen = Scenario.load("any")
    with pytest.raises(UsageError, match="faults of its own"):
        under_faults(replace(chosen, random_faults=None))
    with pytest.raises(UsageError, match="its own requests"):
        with_trace(chosen, "some.jsonl")
    assert chosen.expect.properties == PROPERTIES


def test_a_file_of_that_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("any").write_text('name = "mine"', encoding="utf-8")
    assert Scenario.load("any").name == "mine"
