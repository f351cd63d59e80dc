"""Seeded bugs in how many copies there are to be; made like those of :mod:`interlock.simulation.mutants.core`."""

from __future__ import annotations

from interlock.domain import consequences, fairness, models, routing, shrinking
from interlock.domain.entities import Model
from interlock.domain.state import State

from .patching import Patches, Row


def silent_copy_counts(patches: Patches) -> None:
    """A copy that cannot serve stands in for the one that does, which leaves after each request as one too many."""
    patches.swap(shrinking.serving_copies, shrinking.copies)


def roll_out_tried_once(patches: Patches) -> None:
    """The first load of a new revision that fails ends its roll-out, until somebody edits the model again."""
    spent = routing.is_spent

    def at_once(at: State, model: Model) -> bool:
        return spent(at, model) or (model.declared != model.serving and model.failures > 0)

    patches.swap(spent, at_once)


def failed_floor_waits_for_a_person(patches: Patches) -> None:
    """What has failed too often is tried nowhere again, not even where no load of it has failed."""
    patches.swap(routing.is_spent, lambda at, model: model.failures >= at.settings.load_attempts)


def revision_used_again(patches: Patches) -> None:
    """A model that is declared anew counts its revisions from 1, whatever a former one has left on the disks."""
    patches.swap(models._last_revision, lambda at, name: 0)


def takes_over_at_once(patches: Patches) -> None:
    """A revision takes over when both do not fit just now, though a copy that comes or goes will leave room."""
    patches.swap(shrinking.is_moving, lambda at, model: False)


def kept_floor_goes_first(patches: Patches) -> None:
    """A model that has a floor goes before who has waited longer, whether its floor is kept or not."""
    patches.swap(fairness.lacks_copies, shrinking.has_floor)


def spare_copy_wakes_nobody(patches: Patches) -> None:
    """Who waits for a copy that its model's floor keeps does not hear of another copy that makes it spare."""
    patches.swap(consequences.who_may_evict_elsewhere, lambda at, node, models: ())


ROWS: tuple[Row, ...] = (
    (silent_copy_counts, "S", "silent-copy-stands-in-for-nobody", True),
    (roll_out_tried_once, "W", "roll-out-tried-again", True),
    (failed_floor_waits_for_a_person, "W", "floor-where-it-has-not-failed", True),
    (revision_used_again, "S", "declared-anew", True),
    (takes_over_at_once, "S", "takes-over-when-it-must", True),
    (spare_copy_wakes_nobody, "W", "spare-of-its-floor", True),
    (kept_floor_goes_first, "W", "kept-floor-waits-its-turn", True),
)
"""As in :data:`interlock.simulation.mutants.core.ALL`."""
