"""Hunting mutants: each is run where it should show, and what finds it first is its witness."""

from __future__ import annotations

from typing import Any

from interlock.domain.units import format_duration

from .api import run
from .mutants import Mutant
from .report import reproduction

WITNESS_LENGTH = 300


def hunt(mutant: Mutant) -> dict[str, Any]:
    """Run the mutant's scenario; it is killed when its property is violated there, and none is without it."""
    found_by = witness = None
    seen: list[str] = []
    result = run(mutant.scenario, mutant=mutant.name)
    for violation in result.harness.invariants.violations:
        seen.append(violation.property)
        if violation.property == mutant.property:
            found_by = "simulate"
            at = format_duration(violation.at)
            where = reproduction(result.harness.scenario, result.harness.seed, mutant.name)
            witness = f"at {at}: {violation.detail[:WITNESS_LENGTH]} ({where})"
            break
    if witness is None:
        others = f"only {', '.join(sorted(set(seen)))} broke" if seen else "no property broke"
        witness = f"{others} in {mutant.scenario}"
    return {
        "name": mutant.name,
        "killed": found_by is not None,
        "property": mutant.property,
        "found_by": found_by,
        "witness": witness,
        "description": mutant.description,
    }
