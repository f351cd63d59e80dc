"""Seeded bugs in where prompts go; made like those of :mod:`interlock.simulation.mutants.core`."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from interlock.domain import affinity, loads, prefixes

from .patching import Patches, Row


def affinity_over_load(patches: Patches) -> None:
    """A prompt goes to the replica that holds most of it, however busy that one is."""
    match = affinity.match

    def whatever_its_load(at: Any, model: Any, marks: Any) -> Any:
        found = match(at, model, marks)
        full = found is not None and 0 < model.scheduling.parallel <= at.lock_count(found.replica)
        return found if found is None or full else replace(found, taken=True)

    patches.swap(match, whatever_its_load)


def prefix_kept_after_loss(patches: Patches) -> None:
    """A replica that has left goes on counting as a holder of prompts."""
    patches.attribute(prefixes.PrefixIndex, "forget", lambda index, replica: None)


def first_holder_taken(patches: Patches) -> None:
    """A prompt goes to whoever holds its first block, and not to whoever holds most of it."""
    match = affinity.match
    patches.swap(match, lambda at, model, marks: match(at, model, marks[:1]))


def prompt_forgotten_while_waiting(patches: Patches) -> None:
    """A request that has waited gets its lock without its prompt: nobody knows where the conversation is."""
    grants = loads.grants

    def without_prompts(*args: Any) -> Any:
        return [replace(event, prefix=()) for event in grants(*args)]

    patches.swap(grants, without_prompts)


ROWS: tuple[Row, ...] = (
    (affinity_over_load, "S", "hot-prefix-spreads", True),
    (prefix_kept_after_loss, "S", "prefix-forgotten-with-its-replica", True),
    (prompt_forgotten_while_waiting, "S", "conversations-under-faults", True),
    (first_holder_taken, "S", "prefix-forgotten-with-its-replica", True),
)
"""As in :data:`interlock.simulation.mutants.core.ALL`."""
