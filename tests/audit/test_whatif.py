"""``audit whatif``: a recorded stretch again, as it was and with something changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from interlock.adapters.audit.whatif import Stretch, WhatIf, stretch, what_if
from interlock.adapters.cli.auditing import audit
from interlock.adapters.store import open_store
from interlock.domain.errors import InvalidField, InvalidSetting
from interlock.simulation import Scenario, run
from interlock.simulation.reading.scenario import bundled_names
from interlock.simulation.store import write_events

BEGINNING = "2026-01-01T00:00:00Z"
"""Virtual time 0: what a scenario begins with is there already."""
ONE_MODEL = """
[[nodes]]
name = "n"
vram = "24GiB"
[[models]]
name = "m"
backend = "echo"
vram = "9GiB"
"""
TAKES_LONG = {
    "mixed", "fifty-models-a-day", "conversations-under-faults", "half-the-cluster-gone", "half-the-cluster-silent",
    "hot-prefix-spreads", "fashion-changes", "daily-sweep", "evictions-bounded", "many-share-a-card",
}  # fmt: skip
MADE_EXACTLY = (
    "all-follows-the-nodes", "anti-affinity", "budget-lowered", "busy-is-not-dead", "clients-hang-up", "clock-off",
    "cut-off-under-traffic", "dead-worker-mid-load", "evict-reload-cycle", "floor-elsewhere",
    "foreign-memory", "idle-models-leave", "late-success", "load-as-victim", "load-given-up", "one-memory-board",
    "orin-thor",
    "priorities", "ram-runs-out", "stale-revision", "staged-files-give-way",
    "two-gpus-one-model", "victim-elsewhere", "warm-before-cold", "working-set-above-capacity",
)  # fmt: skip


def recorded(folder: Path, name: str, seed: int | None = None) -> Path:
    """The log of a scenario's run, in a store. What the scenario begins with is there before time 0."""
    result = run(Scenario.load(name), seed=seed)
    return write_events(result.harness.rows, folder / "log.db")


def part(path: Path, begin: str = "", until: str = "head") -> Stretch:
    store = open_store(str(path), read_only=True)
    try:
        before = [row.position for row in store.read(0) if row.actor == "scenario"]
        return stretch(store, begin or str(before[-1]), until)
    finally:
        store.close()


def same_but(path: Path, settings: dict[str, str], policy: dict[str, Any] | None = None) -> WhatIf:
    return what_if(part(path), settings, policy or {})


@pytest.mark.parametrize("name", MADE_EXACTLY)
def test_what_was_recorded_comes_about_again(tmp_path: Path, name: str) -> None:
    found = same_but(recorded(tmp_path, name), {})
    was, again = found.recorded, found.as_it_was
    assert (again.loads, again.evictions) == (was.loads, was.evictions)
    assert again.requests == was.requests
    assert again.refused == was.refused
    assert again.wait_seconds["mean"] == pytest.approx(was.wait_seconds["mean"], rel=0.1, abs=0.5)
    assert found.first_difference is None, "nothing was changed"


UNEVEN = """
schema = 1
name = "uneven"
duration = "5m"
[[nodes]]
name = "n"
vram = "12GiB"
load_rate = "1234567890B/s"
stage_rate = "987654321B/s"
[[models]]
name = "m"
backend = "echo"
vram = "9GiB"
disk = "9GiB"
[[models]]
name = "other"
backend = "echo"
vram = "9GiB"
[[requests]]
model = "m"
at = "10s"
service_time = "10s"
[[requests]]
model = "other"
at = "1m"
"""


def test_a_clock_that_was_off_is_off_again_for_as_long_as_that_was_known(tmp_path: Path) -> None:
    faults = part(recorded(tmp_path, "clock-off")).recorded.tables["faults"]
    told = [(row["kind"], row["target"], row["by"], row["for"]) for row in faults]
    assert told == [("clock-jump", "ahead", "1h", "3m50s"), ("clock-jump", "behind", "-1h", "3m50s")]


def test_how_fast_a_node_was_is_measured_and_not_what_the_log_rounds_it_down_to(tmp_path: Path) -> None:
    path = write_events(run(Scenario.parse(UNEVEN)).harness.rows, tmp_path / "log.db")
    (node,) = part(path).recorded.tables["nodes"]
    assert float(node["load_rate"].removesuffix("B/s")) == pytest.approx(1_234_567_890, rel=1e-6)
    assert float(node["stage_rate"].removesuffix("B/s")) == pytest.approx(987_654_321, rel=1e-6)
    assert not [words for words in part(path).recorded.left_out if "speeds" in words]


def test_a_speed_that_only_the_rounded_log_knows_is_named(tmp_path: Path) -> None:
    path = write_events(run(Scenario.parse(UNEVEN)).harness.rows, tmp_path / "log.db")
    late = part(path, "2026-01-01T00:04:00Z", "2026-01-01T00:05:00Z")
    (node,) = late.recorded.tables["nodes"]
    assert 1_234_567_890 * 7 / 8 < float(node["load_rate"].removesuffix("B/s")) < 1_234_567_890
    assert {count for words, count in late.recorded.left_out.items() if "speeds" in words} == {1}


@pytest.mark.parametrize("name", sorted(set(bundled_names()) - TAKES_LONG))
def test_a_stretch_can_begin_anywhere(tmp_path: Path, name: str) -> None:
    path = recorded(tmp_path, name, seed=3)
    with_all = part(path)
    middle = (with_all.start + with_all.end) // 2
    later = what_if(part(path, _iso(middle)), {}, {})
    assert later.as_it_was == later.changed
    assert later.as_it_was.requests == later.recorded.requests


def _iso(instant: int) -> str:
    from interlock.domain.units import format_instant

    return format_instant(instant)


@pytest.mark.parametrize("seed", range(1, 5))
def test_a_stretch_with_every_kind_of_fault_comes_about_nearly_as_it_was(tmp_path: Path, seed: int) -> None:
    found = same_but(recorded(tmp_path, "mixed-short", seed), {})
    was, again = found.recorded, found.as_it_was
    assert again.requests == was.requests
    assert abs(again.loads - was.loads) <= 0.2 * was.loads + 2
    assert abs(again.served - was.served) <= 0.1 * was.served


def test_a_change_shows_in_the_figures_and_in_the_first_decision_that_differs(tmp_path: Path) -> None:
    found = same_but(recorded(tmp_path, "working-set-above-capacity"), {"min_residency": "2m"})
    assert found.changed.loads < found.as_it_was.loads
    assert found.changed.wait_seconds["mean"] > found.as_it_was.wait_seconds["mean"]
    first = found.first_difference
    assert first is not None
    assert found.start < first.time < found.end
    assert first.as_it_was != first.changed


def test_times_are_told_as_the_record_has_them(tmp_path: Path) -> None:
    path = recorded(tmp_path, "working-set-above-capacity")
    late = what_if(part(path, "2026-01-01T00:03:00Z"), {"min_residency": "2m"}, {})
    assert late.start == "2026-01-01T00:03:00.000000Z"
    assert late.first_difference is not None
    assert late.first_difference.time > late.start
    assert late.first_difference.time < late.end


def test_a_policy_brings_one_node_more(tmp_path: Path) -> None:
    path = recorded(tmp_path, "working-set-above-capacity")
    found = same_but(path, {}, {"nodes": [{"name": "spare", "vram": "80GiB"}]})
    assert found.as_it_was.evictions > 0
    assert found.changed.evictions == 0


def test_a_policy_changes_how_a_model_is_scheduled_and_a_later_edit_of_the_same_does_not_undo_it(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log.db"
    result = run(
        Scenario.parse(
            """
            [[nodes]]
            name = "n"
            vram = "24GiB"
            max_replicas_per_model = 2
            [[models]]
            name = "m"
            backend = "echo"
            vram = "9GiB"
            [[admin]]
            at = "1m"
            action = "set-scheduling"
            model = "m"
            min_replicas = 1
            """
        )
    )
    found = same_but(write_events(result.harness.rows, log), {}, {"models": [{"name": "m", "min_replicas": 2}]})
    assert (found.recorded.loads, found.as_it_was.loads, found.changed.loads) == (1, 1, 2)


def test_a_setting_that_an_operator_changed_later_stays_as_it_is_asked_for(tmp_path: Path) -> None:
    result = run(
        Scenario.parse(
            ONE_MODEL
            + """
            [[requests]]
            model = "m"
            at = "1s"
            [[admin]]
            at = "30s"
            action = "set"
            idle_unload = "off"
            """
        )
    )
    path = write_events(result.harness.rows, tmp_path / "log.db")
    log = part(path, "", _iso(part(path).start + 10 * 60 * 1_000_000))
    found = what_if(log, {"idle_unload": "1m"}, {})
    assert found.first_difference is not None
    assert "UnloadRequested" in _names(found) or "idle" in found.first_difference.changed


def _names(found: WhatIf) -> str:
    return str(found.first_difference)


@pytest.mark.parametrize(
    ("settings", "policy", "error", "words"),
    [
        ({"min_residncy": "1m"}, {}, InvalidSetting, "no setting is named"),
        ({"min_residency": "soon"}, {}, InvalidField, "min_residency"),
        ({}, {"modles": []}, InvalidField, "modles"),
        ({}, {"models": [{"name": "nobody"}]}, InvalidField, "was not declared then"),
        ({}, {"models": [{"pinned": True}]}, InvalidField, "models.name"),
        ({}, {"nodes": [{"name": "spare", "vrm": "1GiB"}]}, InvalidField, "vrm"),
        ({}, {"models": "code"}, InvalidField, "models: 'code' are no tables"),
        ({}, {"models": ["code"]}, InvalidField, "are no tables"),
        ({}, {"scheduler": 3}, InvalidField, "scheduler: 3 is no table"),
        ({}, {"models": [{"name": "qwen3-8b", "min_replicas": "two"}]}, InvalidField, "the change: "),
    ],
)
def test_a_change_that_cannot_be_made_is_refused_by_name(
    tmp_path: Path, settings: dict[str, str], policy: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        same_but(recorded(tmp_path, "orin-thor"), settings, policy)


# --- the command ------------------------------------------------------------------------------------------------------


def whatif(*args: str) -> Any:
    return CliRunner().invoke(audit, ["whatif", *args], standalone_mode=False)


def test_the_command_prints_three_columns_and_what_differs_first(tmp_path: Path) -> None:
    path = recorded(tmp_path, "working-set-above-capacity")
    result = whatif("--store", str(path), "--from", BEGINNING, "--set", "min_residency=2m")
    assert result.exception is None
    assert "RECORDED  RUN AGAIN  CHANGED" in result.stdout
    assert "The first decision that differs is at 2026-01-01T00:0" in result.stdout


def test_as_json_it_is_one_document(tmp_path: Path) -> None:
    path = recorded(tmp_path, "orin-thor")
    found = json.loads(whatif("--store", str(path), "--from", BEGINNING, "--set", "load_attempts=2", "--json").stdout)
    assert set(found) == {"start", "end", "recorded", "as_it_was", "changed", "first_difference", "left_out"}
    assert found["recorded"]["requests"] == found["changed"]["requests"]


def test_the_stretch_can_be_written_as_a_scenario_that_runs(tmp_path: Path) -> None:
    path, scenario = recorded(tmp_path, "orin-thor"), tmp_path / "incident.toml"
    result = whatif("--store", str(path), "--from", BEGINNING, "--scenario", str(scenario))
    assert result.exception is None
    assert run(scenario).report["loads"] == run("orin-thor").report["loads"]


def test_a_scenario_that_is_only_written_is_told_as_one_document(tmp_path: Path) -> None:
    path = recorded(tmp_path, "orin-thor")
    file = tmp_path / "stretch.toml"
    document = json.loads(whatif("--store", str(path), "--from", "1", "--scenario", str(file), "--json").stdout)
    assert document["scenario"] == str(file)
    assert "left_out" in document
    assert Scenario.load(file)


def test_a_policy_is_a_file(tmp_path: Path) -> None:
    path, policy = recorded(tmp_path, "working-set-above-capacity"), tmp_path / "policy.toml"
    policy.write_text('[scheduler]\nmin_residency = "2m"\n', encoding="utf-8")
    found = json.loads(whatif("--store", str(path), "--from", BEGINNING, "--policy", str(policy), "--json").stdout)
    assert found["changed"]["loads"] < found["as_it_was"]["loads"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--from", BEGINNING), "Say what is to be other"),
        (("--from", BEGINNING, "--set", "min_residency"), "write KEY=VALUE"),
        (("--from", "99999", "--set", "min_residency=1m"), "beyond the end"),
        (("--from", "head", "--set", "min_residency=1m"), "is not after"),
        (("--from", BEGINNING, "--policy", "nowhere.toml"), "nowhere.toml"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_its_cure(tmp_path: Path, args: tuple[str, ...], words: str) -> None:
    result = whatif("--store", str(recorded(tmp_path, "orin-thor")), *args)
    assert words in str(result.exception)


def test_what_holds_at_the_beginning_holds_for_the_first_decision(tmp_path: Path) -> None:
    """Evictions are frozen, and a floor waits for room."""
    result = run(
        Scenario.parse(
            """
            [scheduler]
            min_residency = "0s"
            [[nodes]]
            name = "n"
            vram = "24GiB"
            [[models]]
            name = "low"
            backend = "echo"
            vram = "20GiB"
            [[models]]
            name = "high"
            backend = "echo"
            vram = "20GiB"
            priority = 5
            [[replicas]]
            model = "low"
            node = "n"
            [[admin]]
            at = "5s"
            action = "freeze"
            what = "evictions"
            [[admin]]
            at = "10s"
            action = "set-scheduling"
            model = "high"
            min_replicas = 1
            [[requests]]
            model = "low"
            at = "50s"
            count = 5
            """
        )
    )
    path = write_events(result.harness.rows, tmp_path / "log.db")
    found = what_if(part(path, "2026-01-01T00:00:30Z"), {"growth_per_tick": "2"}, {})
    assert (found.as_it_was.evictions, found.as_it_was.served) == (0, 5)


def test_a_model_that_is_declared_again_later_keeps_what_the_policy_says_of_it(tmp_path: Path) -> None:
    result = run(
        Scenario.parse(
            ONE_MODEL
            + """
            [[admin]]
            at = "10s"
            action = "remove-model"
            model = "m"
            [[admin]]
            at = "20s"
            action = "declare-model"
            model = "m"
            backend = "echo"
            vram = "9GiB"
            [[requests]]
            model = "m"
            at = "1m"
            """
        )
    )
    path = write_events(result.harness.rows, tmp_path / "log.db")
    found = same_but(path, {}, {"models": [{"name": "m", "vram": "12GiB"}]})
    assert (found.recorded.loads, found.as_it_was.loads, found.changed.loads) == (1, 1, 1)
    assert (found.changed.refused, found.changed.waiting) == ({}, 1), "it is larger, and loads longer"


def test_edits_that_take_something_away_and_aliases_are_repeated(tmp_path: Path) -> None:
    result = run(
        Scenario.parse(
            """
            [[nodes]]
            name = "n"
            vram = "24GiB"
            [[models]]
            name = "m"
            backend = "echo"
            vram = "20GiB"
            aliases = ["chat"]
            [[models]]
            name = "other"
            backend = "echo"
            vram = "20GiB"
            [[admin]]
            at = "10s"
            action = "edit-model"
            model = "m"
            vram = "0B"
            aliases = []
            [[admin]]
            at = "20s"
            action = "declare-model"
            model = "chat"
            backend = "echo"
            [[requests]]
            model = "other"
            at = "30s"
            [[requests]]
            model = "m"
            at = "1m"
            [[requests]]
            model = "chat"
            at = "2m"
            """
        )
    )
    found = same_but(write_events(result.harness.rows, tmp_path / "log.db"), {})
    assert (found.as_it_was.served, found.as_it_was.loads) == (found.recorded.served, found.recorded.loads) == (3, 3)
    assert not [words for words in found.left_out if words.startswith("steps")]


def test_neither_a_file_nor_the_log_itself_is_written_over(tmp_path: Path) -> None:
    path = recorded(tmp_path, "orin-thor")
    result = whatif("--store", str(path), "--from", "1", "--scenario", str(path))
    assert "is there already" in str(result.exception)
    exported = CliRunner().invoke(audit, ["export", "--store", str(path), "-o", str(path)], standalone_mode=False)
    assert "is an event store" in str(exported.exception)
    assert part(path).recorded.counts.requests > 0
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    looped = CliRunner().invoke(audit, ["export", "--store", str(path), "-o", str(loop)], standalone_mode=False)
    assert "loop" in str(looped.exception)
    assert not isinstance(looped.exception, RuntimeError)
