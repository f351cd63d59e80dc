"""Hunting mutants: each is run where it should show, and what finds it first is its witness.

What the mutant's scenario does not show is looked for by ``prove``, scope by scope, the small ones first.
"""

from __future__ import annotations

from typing import Any

from interlock.domain.units import format_duration
from interlock.simulation.api import run
from interlock.simulation.report import reproduction

from .catalogue import Mutant, activate, find

WITNESS_LENGTH = 300
STATES_PER_SCOPE = 20_000
"""So far a scope is explored for a mutant; shortest ways come first, so that most of what it can show is in these."""


def hunt(mutant: Mutant) -> dict[str, Any]:
    """Run the mutant's scenario, then explore; it is killed when its property is violated there."""
    witness, seen = _simulated(mutant)
    found_by = "simulate" if witness else None
    if not witness and mutant.core:
        witness = _proved(mutant)
        found_by = "prove" if witness else None
    if not witness:
        others = f"only {', '.join(sorted(set(seen)))} broke" if seen else "no property broke"
        witness = f"{others} in {mutant.scenario}, and no scope shows it"
    return {
        "name": mutant.name,
        "killed": found_by is not None,
        "property": mutant.property,
        "found_by": found_by,
        "witness": witness,
        "description": mutant.description,
    }


def hunt_named(name: str) -> dict[str, Any]:
    """The same for the mutant of that name: what another process can be told."""
    return hunt(find(name))


def _simulated(mutant: Mutant) -> tuple[str, list[str]]:
    """What the scenario shows of the mutant's property, or nothing; and every property that broke before."""
    seen: list[str] = []
    result = run(mutant.scenario, mutant=mutant.name)
    for violation in result.harness.invariants.violations:
        seen.append(violation.property)
        if violation.property == mutant.property:
            at = format_duration(violation.at)
            where = reproduction(result.harness.scenario, result.harness.seed, mutant.name)
            return f"at {at}: {violation.detail[:WITNESS_LENGTH]} ({where})", seen
    return "", seen


def _proved(mutant: Mutant) -> str:
    """The shortest way to the mutant's property in the first scope that shows it first."""
    from interlock.simulation.prove.report import prove  # here, because whoever only simulates needs none of it
    from interlock.simulation.prove.scopes import PROTOCOL, bundled_scopes, load_scope

    wanted = mutant.property
    for name in bundled_scopes():
        if name == PROTOCOL:
            continue
        scope = load_scope(name)
        with activate(mutant.name):
            report = prove(scope, mutant=mutant.name, states_max=STATES_PER_SCOPE)
        shown = report.counterexample
        if shown is None or shown.spurious or ("S" if shown.property == "invariant" else shown.property) != wanted:
            continue
        way = "; ".join([*shown.stem, *(f"and again: {step}" for step in shown.cycle)])
        return f"{way[-WITNESS_LENGTH:]} (interlock prove --scope {name} --mutant {mutant.name})"
    return ""
