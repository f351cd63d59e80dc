"""Any scenario under random faults of every kind, so that each rule can be tried for thousands of seeds.

What a scenario expects is counted for a world in which only its own faults happen. Under others the invariants and the
five properties must hold, and nothing else can be asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec.structs import replace

from interlock.domain.errors import UsageError
from interlock.domain.units import HOUR, SECOND, format_duration

from .reading import toml
from .reading.scenario import FAULT_KINDS, PROPERTIES, Scenario

FLAG = "--under-faults"
"""What asks for it on the command line."""
FAULTS_OF_A_KIND = 1.0
"""So many faults of each kind come on average in a run, however long it is."""
RARER = {"node-recover": 0.3, "heal": 0.3, "clock-jump": 0.3, "name-clash": 0.3, "machine-swap": 0.1}
"""What undoes other faults, and what asks much of an operator, comes more rarely."""
LENGTHS_IN_A_RUN = 20
"""A fault lasts for such a part of the time in which faults come, on average."""
REQUESTS_ADDED = 60
"""So many requests for the models come on top, so that all of them are in use while things go wrong."""


def under_faults(scenario: Scenario) -> Scenario:
    """The scenario with random faults of every kind for two thirds of its duration, and steady requests all the time.

    Then all heals, and what is left must converge. Raises UsageError for a scenario that has random faults of its own.
    """
    if scenario.random_faults is not None or scenario.by_seed:
        raise UsageError(f"{scenario.source} has random faults of its own.", cure=f"Leave out {FLAG}.")
    stop = scenario.duration * 2 // 3
    rates = {kind: round(RARER.get(kind, FAULTS_OF_A_KIND) * HOUR / stop, 3) for kind in FAULT_KINDS}
    length = f"exp {format_duration(max(1, stop // LENGTHS_IN_A_RUN))}"
    raw: dict[str, Any] = {
        **scenario.raw,
        "random_faults": {**rates, "length": length, "stop_at": format_duration(stop)},
        "expect": {"properties": list(PROPERTIES)},
    }
    if scenario.models:
        models = {model.name: 1.0 for model in scenario.models}
        steady = {"kind": "poisson", "models": models, "rate": f"{REQUESTS_ADDED * SECOND / scenario.duration}/s"}
        raw["workloads"] = [*raw.get("workloads", ()), steady]
    return replace(Scenario.parse(toml.dump(raw), scenario.source, Path(scenario.folder)), flags=(FLAG,))
