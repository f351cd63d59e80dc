"""Hunting mutants: each is run where it should show, up to its first kill, and the shortest way is its witness.

A loop that counts only when a run does not settle is hours old by then: there ``prove`` goes first, where the catalogue
names a scope that shows it in a few steps. What the scenario does not show at all is looked for scope by scope.
"""

from __future__ import annotations

import textwrap
from typing import Any

from interlock.domain.units import format_duration
from interlock.simulation.api import run
from interlock.simulation.harness import Options
from interlock.simulation.report import reproduction

from .catalogue import Mutant, activate, find

WITNESS_LENGTH = 300
STATES_PER_SCOPE = 20_000
"""So far a scope is explored for a mutant; shortest ways come first, so that most of what it can show is in these."""


def hunt(mutant: Mutant) -> dict[str, Any]:
    """Run the mutant's scenario, and explore; it is killed when its property is violated there."""
    witness, found_by, seen = "", None, list[str]()
    if mutant.scope:
        witness = _proved_in(mutant.scope, mutant)
        found_by = "prove" if witness else None
    if not witness:
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


def hunt_by_name(name: str) -> dict[str, Any]:
    """The same for the mutant of this name, which unlike a mutant can be handed to another process."""
    return hunt(find(name))


def _simulated(mutant: Mutant) -> tuple[str, list[str]]:
    """What the scenario shows of the mutant's property, or nothing; and every property that broke before."""
    seen: list[str] = []
    result = run(mutant.scenario, mutant=mutant.name, options=Options(until_broken=mutant.property))
    for violation in result.harness.invariants.violations:
        seen.append(violation.property)
        if violation.property == mutant.property:
            at = format_duration(violation.at)
            where = reproduction(result.harness.scenario, result.harness.seed, mutant.name)
            return f"at {at}: {violation.detail[:WITNESS_LENGTH]} ({where})", seen
    return "", seen


def _proved(mutant: Mutant) -> str:
    """The shortest way to the mutant's property in the first scope that shows it; nothing when none does."""
    from interlock.simulation.prove.scopes import PROTOCOL, bundled_scopes  # here, as below

    scopes = (name for name in bundled_scopes() if name != PROTOCOL)
    return next(filter(None, (_proved_in(name, mutant) for name in scopes)), "")


def _proved_in(scope: str, mutant: Mutant) -> str:
    """The shortest way to the mutant's property in this scope, or nothing."""
    from interlock.simulation.prove.report import prove  # here, because whoever only simulates needs none of it

    with activate(mutant.name):
        report = prove(scope, mutant=mutant.name, states_max=STATES_PER_SCOPE, until_broken=mutant.property)
    shown = report.counterexample
    if shown is None or shown.spurious or ("S" if shown.property == "invariant" else shown.property) != mutant.property:
        return ""
    command = f"interlock prove --scope {scope} --mutant {mutant.name}"
    return f"{shown.words}: {_told(shown.stem, shown.cycle)} ({command})"


def _told(stem: list[str], cycle: list[str]) -> str:
    """The steps of the way, each cut so that all of them have their place."""
    most = WITNESS_LENGTH // max(1, len(stem) + len(cycle))
    steps = [
        f"{number}. {textwrap.shorten(step, most, placeholder=' ...')}"
        for number, step in enumerate([*stem, *cycle], 1)
    ]
    way, again = "; ".join(steps[: len(stem)]), "; ".join(steps[len(stem) :])
    return f"{way}{'; ' * bool(stem)}and then, again and again: {again}" if cycle else way
