"""Ways to choose victims, compared: each is put in place from outside, asked for the same, and leaves no trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from interlock.adapters.cli import app
from interlock.domain import eviction
from interlock.domain.errors import NotFound, UnreadableFile
from interlock.domain.units import HOUR, MINUTE
from interlock.simulation import Scenario
from interlock.simulation.api import run
from interlock.simulation.arrivals import with_trace
from interlock.simulation.compare import FromText, compare, table
from interlock.simulation.policies import POLICIES, in_place

CROWDED = """
duration = "20m"
[scheduler]
min_residency = "5s"
evictions_per_node = "off"         # the choice alone is compared here, not what slows all of them down
thrash_cycles = "off"
""" + "".join(f"""
[[nodes]]
name = "{name}"
vram = "{vram}GiB"
""" for name, vram in (("large", 32), ("small", 20))) + "".join(f"""
[[models]]
name = "m{number}"
backend = "echo"
vram = "{size}GiB"
parallel = 4
service_time = "exp 2s"
""" for number, size in enumerate((8, 11, 5, 3, 9, 16, 7, 6))) + """
[[workloads]]
kind = "poisson"
rate = "30/m"
zipf = { models = 8, s = 0.8 }
bursts = { every = "exp 5m", length = "exp 1m", factor = 6 }
"""  # fmt: skip


def test_every_policy_is_asked_for_the_same_and_brings_something_else() -> None:
    data = compare(FromText(CROWDED, "crowded", "."), list(POLICIES), range(1, 3), processes=1)
    for seed in (1, 2):
        assert len({row["submitted"] for row in data["runs"] if row["seed"] == seed}) == 1
    medians = {row["policy"]: row["median"] for row in data["policies"]}
    assert len({(row["loads"], row["loaded_gib"], row["wait_mean_s"]) for row in medians.values()}) == len(POLICIES)
    assert medians["never"]["evictions"] == 0
    assert medians["never"]["refused"] > medians["ours"]["refused"]
    assert medians["largest"]["loaded_gib"] > medians["cheapest"]["loaded_gib"]
    assert all(row["spread"]["loads"][0] <= row["median"]["loads"] <= row["spread"]["loads"][1]
               for row in data["policies"])  # fmt: skip


def test_no_policy_breaks_a_rule_of_the_core() -> None:
    """Whoever may not be a victim is none under any order, and nobody leaves who was not needed."""
    data = compare(FromText(CROWDED, "crowded", "."), list(POLICIES), range(5, 6), processes=1)
    assert {row["policy"]: row["broken"] for row in data["policies"]} == {name: [] for name in POLICIES}


def test_a_policy_leaves_no_trace_and_the_same_seed_draws_the_same_lots() -> None:
    held = (eviction.find_victims, eviction._weigh_sets)
    once, again = (
        compare(FromText(CROWDED, "crowded", "."), ["random"], range(3, 4), processes=1) for _ in range(2)
    )  # fmt: skip
    assert once["runs"] == again["runs"]
    with pytest.raises(KeyError), in_place("lru", 1):
        raise KeyError
    assert (eviction.find_victims, eviction._weigh_sets) == held


def test_an_unknown_policy_is_named_with_those_that_there_are() -> None:
    with pytest.raises(NotFound, match="clairvoyant"):
        compare(FromText(CROWDED, "crowded", "."), ["clairvoyant"], range(1))


def test_the_table_is_markdown_with_one_row_a_policy() -> None:
    data = compare(FromText(CROWDED, "crowded", "."), ["ours", "never"], range(1, 3), until=5 * MINUTE, processes=1)
    lines = table(data).splitlines()
    assert len(lines) == 4
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| ours", "| never"]
    assert len({line.count("|") for line in lines}) == 1


def test_the_command_prints_one_document(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "crowded.toml"
    file.write_text(CROWDED, encoding="utf-8")
    arguments = ["compare", str(file), "--policies", "ours,lru", "--seeds", "2", "--until", "5m", "--json"]
    assert app.run(arguments) == 0
    data = json.loads(capfd.readouterr().out)
    assert [row["policy"] for row in data["policies"]] == ["ours", "lru"]
    assert len(data["runs"]) == 4
    assert app.run(["compare", str(file), "--policies", "clairvoyant"]) == 2
    assert "ours, lru" in capfd.readouterr().err


def test_the_bundled_day_is_a_fifth_more_than_fits_and_holds_all_properties() -> None:
    day = Scenario.load("fifty-models-a-day")
    wanted = sum(model.spec.vram for model in day.models)
    there_is = sum(sum(node.pools) for node in day.nodes)
    assert (len(day.models), len(day.nodes)) == (50, 12)
    assert 1.19 < wanted / there_is < 1.22
    result = run(day, until=HOUR)
    assert result.passed, result.harness.invariants.violations
    assert result.report["evictions"] > 10


def test_a_traces_requests_are_spread_as_the_scenarios_workloads_spread_theirs(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = "".join(f"2023-11-16 18:{second // 60:02}:{second % 60:02}.0,10,10\n" for second in range(600))
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows, encoding="utf-8")
    spread = with_trace(Scenario.parse(CROWDED), str(trace))
    (workload,) = spread.workloads
    weights = dict(workload.models)
    assert weights["m0"] == pytest.approx(weights["m1"] * 2**0.8)
    result = run(spread)
    assert result.report["requests"]["submitted"] == 600
    asked = [request.model for request in result.harness.gateways.arrived]
    assert asked.count("m0") > asked.count("m7") > 0


# --- bursts ---------------------------------------------------------------------------------------------------------


def test_bursts_bring_more_requests_at_uneven_times() -> None:
    """Six times as many for a sixth of the time: half as many again and more, in clusters."""

    def arrivals(text: str) -> list[tuple[int, str]]:
        harness = run(Scenario.parse(text), seed=4).harness
        return [(request.at, request.model) for request in harness.gateways.arrived]

    calm = arrivals(CROWDED.replace("bursts =", "#"))
    bursty = arrivals(CROWDED)
    assert len(bursty) > 1.3 * len(calm)

    def unevenness(rows: list[tuple[int, str]]) -> float:
        per_minute = [sum(1 for at, model in rows if at // MINUTE == m and model == "m0") for m in range(20)]
        mean = sum(per_minute) / 20
        return sum((count - mean) ** 2 for count in per_minute) / 20 / mean

    assert unevenness(bursty) > 2 * unevenness(calm)


@pytest.mark.parametrize(
    ("bursts", "words"),
    [
        ('{ every = "exp 5m", length = "exp 1m" }', "factor: is missing"),
        ('{ every = "exp 5m", length = "exp 1m", factor = 1 }', "factor is not above 1"),
        ('{ every = "0s", length = "exp 1m", factor = 2 }', "a length is nothing"),
        ('{ every = "exp 5m", length = "exp 1m", factor = 2, often = true }', "often: is no key here"),
    ],
)
def test_bursts_that_make_no_sense_are_refused_with_their_line(bursts: str, words: str) -> None:
    text = CROWDED.replace('{ every = "exp 5m", length = "exp 1m", factor = 6 }', bursts)
    with pytest.raises(UnreadableFile, match=words):
        Scenario.parse(text)
