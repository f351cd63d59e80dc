"""A plan says what then happens: the same change, made in the simulator with workers that take no time."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from interlock.adapters.planfile import parse_change
from interlock.domain.planning import missing_copies, plan, waiting_revisions
from interlock.domain.units import MINUTE
from interlock.simulation import Scenario
from interlock.simulation.harness import Harness, Options
from interlock.simulation.reading.toml import dump

AT_ONCE = {"load_rate": "1000TiB/s", "disk": "900GiB"}


def _world(rng: random.Random) -> dict[str, Any]:
    """Nodes, models and replicas that are there already; nothing moves by itself."""
    nodes = [
        {
            "name": f"n{place}", "vram": f"{rng.choice((16, 24, 48))}GiB", "labels": {"tier": rng.choice("ab")},
            "max_replicas_per_model": rng.choice((1, 2)), **AT_ONCE,
        }
        for place in range(rng.choice((2, 3, 5)))
    ]  # fmt: skip
    return {
        "schema": 1, "name": "planned", "description": "a change is planned, then made", "seed": 1,
        "scheduler": {"min_residency": rng.choice(("0s", "30s"))}, "nodes": nodes,
        "models": [_model(rng, f"m{place}") for place in range(5)],
    }  # fmt: skip


def _model(rng: random.Random, name: str) -> dict[str, Any]:
    low = rng.choice((0, 1, 1, 2))
    return {
        "name": name, "backend": "echo", "vram": f"{rng.choice((6, 9, 14))}GiB", "disk": rng.choice(("0B", "8GiB")),
        "node_selector": rng.choice(({}, {"tier": "a"}, {"!tier": "b"})), "min_replicas": low,
        "max_replicas": rng.choice((0, low)), "priority": rng.choice((0, 0, 1)), "pinned": rng.random() < 0.1,
    }  # fmt: skip


def _change(rng: random.Random, world: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same change twice: as a plan's document, and as an operator's steps."""
    document: dict[str, Any] = {"models": [], "nodes": []}
    steps: list[dict[str, Any]] = []
    node = rng.choice(world["nodes"])["name"]
    kind = rng.choice(("drain", "labels", "budget", "slots", "remove", "none"))
    if kind == "drain":
        document["nodes"] = [{"name": node, "drain": True}]
        steps = [{"action": "drain", "node": node}]
    elif kind == "labels":
        document["nodes"] = [{"name": node, "labels": {"tier": "b"}}]
        steps = [{"action": "set-labels", "node": node, "labels": {"tier": "b"}}]
    elif kind == "budget":
        document["nodes"] = [{"name": node, "vram_budget": "50%"}]
        steps = [{"action": "set-budget", "node": node, "value": "50%"}]
    elif kind == "slots":
        document["nodes"] = [{"name": node, "max_replicas_per_model": 3}]
        steps = [{"action": "set-max-replicas", "node": node, "value": 3}]
    elif kind == "remove":
        document["nodes"] = [{"name": node, "remove": True}]
        steps = [{"action": "remove-node", "node": node}]
    at = len(steps)
    for place in rng.sample(range(7), 2):
        model = _model(rng, f"m{place}")
        document["models"].append(model)
        steps.append({"action": "declare-model" if place > 4 else "edit-model", **model})
    if rng.random() < 0.3:
        document["models"].append({"name": "m-gone", "remove": True})
        world["models"].append(_model(rng, "m-gone"))
        steps.insert(at, {"action": "remove-model", "model": "m-gone"})  # before what is declared, as a plan has it
    return document, [{"at": "2m", **step} for step in steps]


def _run(world: dict[str, Any], **more: Any) -> Harness:
    return Harness(Scenario.parse(dump({**world, **more})), Options(settle=False)).run()


def _where(harness: Harness) -> Counter[tuple[str, str]]:
    return Counter((replica.model, replica.node) for replica in harness.engine.state.replicas.values())


@pytest.mark.parametrize("seed", range(80))
def test_a_plan_says_what_the_simulator_then_does(seed: int) -> None:
    rng = random.Random(f"simulated-{seed}")
    world = _world(rng)
    document, steps = _change(rng, world)
    before = _run(world, duration="2m")
    report = plan(before.engine, parse_change(document), before.engine.ledger.time + MINUTE)
    after = _run(world, duration="12m", admin=steps)
    told = _where(before)
    told.update((one.model, one.node) for one in report.placed)
    told.subtract((one.model, one.node) for one in report.left)
    assert +told == _where(after)
    assert {one.model for one in report.unmet} | set(report.unmet_before) == {
        *missing_copies(after.engine.state),
        *waiting_revisions(after.engine.state),
    }
    assert not report.rejected
