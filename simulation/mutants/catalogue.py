"""Mutants: seeded bugs, each with the property that must kill it and the scenario that shows it.

They are put into the core from outside and taken out again without a trace; production code knows nothing of them.
:mod:`interlock.simulation.mutants.core` says how each is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from interlock.domain.errors import NotFound, UsageError

from . import core as mutations
from .patching import Make, Patches


class Mutant(msgspec.Struct, frozen=True):
    """One seeded bug. ``scenario`` is the bundled one that kills it, and passes without it.

    ``core``: it is put into the core, so that ``prove`` may look for it too; else into the protocol around it.
    ``scope`` is one that shows it by a way of a few steps, where the scenario goes on for hours before it is judged.
    """

    name: str
    property: str
    description: str
    scenario: str
    make: Make
    core: bool = True
    scope: str = ""


SCOPES = {
    "up-and-down-in-one-tick": "clients-and-goodbyes",
    "unpark-on-anything": "doomed-floor",
    "spent-without-a-pause": "no-pause-between-tries",
    "stray-ignored": "cut-off",
    "give-up-leaves-running": "loads-after-all",
}
"""Mutants that break what is judged when a run has settled, and where exploring shows them."""


def _all() -> Iterator[Mutant]:
    for make, prop, scenario, core in mutations.ALL:
        assert make.__doc__ is not None
        name = make.__name__.replace("_", "-")
        yield Mutant(name, prop, make.__doc__.split("\n")[0], scenario, make, core, SCOPES.get(name, ""))


MUTANTS: dict[str, Mutant] = {mutant.name: mutant for mutant in _all()}
"""Every mutant by its name."""


def find(name: str) -> Mutant:
    """The mutant of that name; raises NotFound with the names that there are."""
    mutant = MUTANTS.get(name)
    if mutant is None:
        raise NotFound("mutant", name, cure=f"There are: {', '.join(MUTANTS)}.")
    return mutant


def find_as_asked(name: str) -> Mutant:
    """The mutant that a person named; raises UsageError: a name that is wrong is no answer to what was asked."""
    try:
        return find(name)
    except NotFound as unknown:
        raise UsageError(unknown.message, cure=unknown.cure) from None


@contextmanager
def activate(name: str | None) -> Iterator[None]:
    """Put the mutant in place while the block runs; nothing for None. Raises NotFound when there is no such mutant."""
    if name is None:
        yield
        return
    patches = Patches()
    try:
        find(name).make(patches)
        yield
    finally:
        patches.undo()
