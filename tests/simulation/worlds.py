"""Worlds that differ in one key: a small cluster as a table of keys, changes of it, and what a run did."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec

from interlock.simulation import Scenario
from interlock.simulation.api import Result, run
from interlock.simulation.prove import prove
from interlock.simulation.prove.scopes import scope_of
from interlock.simulation.reading import toml

Change = dict[str, Any]
"""Values by path: ``nodes.0.vram``. None takes the key away."""

WORLD: dict[str, Any] = {
    "duration": "6m",
    "nodes": [{"name": "a", "vram": "24GiB"}, {"name": "b", "vram": "24GiB"}],
    "models": [
        {"name": "m", "backend": "echo", "vram": "8GiB", "service_time": "2s"},
        {"name": "large", "backend": "echo", "vram": "20GiB", "service_time": "2s"},
    ],
    "requests": [{"model": "m", "at": "1s", "count": 20, "every": "5s"}],
}
TOLD = ("Node", "Model", "Revision", "LoadInfo", "Settings", "Tenant")
"""Events that say what somebody has set, or how a machine came: a run that differs in these alone has not changed."""
FOUND = ("NodeBecameUnreachable", "NodeWentOffline", "NodeClockOff")
"""Those of them that say what the core has found out by itself."""
FACTS = ("model", "node", "request", "reason", "code", "index", "attempt", "what", "off")


class Row(msgspec.Struct, frozen=True):
    """A key, and two runs that differ in nothing else. ``look`` says what must differ, the behaviour when not given."""

    key: str
    one: Change
    other: Change = {}
    setup: Change = {}
    look: Callable[[Result], object] | None = None
    files: dict[str, str] = {}


def world(*changes: Change) -> dict[str, Any]:
    """The small cluster after the changes."""
    data = deepcopy(WORLD)
    for change in changes:
        for path, value in change.items():
            _put(data, path.split("."), value)
    return data


def _put(data: Any, path: list[str], value: Any) -> None:
    *way, last = path
    for step in way:
        if isinstance(data, list):
            data = data[int(step)]
        else:
            data = data.setdefault(step, {})
    if isinstance(data, list):
        data[int(last) : int(last) + 1] = [deepcopy(value)]
    elif value is None:
        del data[last]
    else:
        data[last] = deepcopy(value)


def scenario_of(folder: Path, row: Row, change: Change) -> Scenario:
    """A row's world with one of its two values."""
    for name, text in row.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return Scenario.parse(toml.dump(world(row.setup, change)), "world", folder)


def result_of_change(folder: Path, row: Row, change: Change) -> Result:
    """The run of a row's world with one of its two values."""
    return run(scenario_of(folder, row, change))


def behaviour(result: Result) -> list[object]:
    """What was decided and sent, when and about whom; not what was configured, and no explanation."""
    rows: list[object] = []
    for event in result.events():
        if not event["event"].startswith(TOLD) or event["event"] in FOUND:
            facts = tuple(str(event["data"].get(name)) for name in FACTS)
            rows.append((event["seconds"], event["event"], *facts))
    sent = [(at, effect.name) for at, effect in result.harness.effect_times]
    ends = {name: result.report[name] for name in ("requests", "served_on", "unloads", "wait_seconds")}
    return [*rows, *sent, ends]


def effects(result: Result) -> list[object]:
    """Each effect with all that it carries."""
    return [msgspec.to_builtins(effect) for _, effect in result.harness.effect_times]


def told(*names: str) -> Callable[[Result], object]:
    """Parts of the report."""
    return lambda result: [result.report[name] for name in names]


def explored(result: Result) -> object:
    """What ``prove`` finds in the run's scenario, read as a scope."""
    report = prove(scope_of(result.harness.scenario))
    return [report.states, report.edges, report.fairness]
