"""Seeded bugs in how many copies there are to be; made like those of :mod:`interlock.simulation.mutants.core`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from interlock.domain import consequences, eviction, fairness, loads, models, nodes, roll_outs, routing, shrinking
from interlock.domain import events as ev
from interlock.domain.entities import Model, Phase, Replica
from interlock.domain.state import State

from .patching import Patches, Row


def floor_kept_by(patches: Patches, counted: Callable[[State, Replica, Model], bool]) -> None:
    """Have other loaded replicas keep a model's floor against eviction than those that serve."""

    def most_leaving(at: State, replica: Replica, model: Model) -> int | None:
        floor = shrinking.floor_of(at, model)
        held = [at.replicas[other] for other in at.by_model.get(model.name, ())]
        keeping = sum(other.phase is Phase.LOADED and counted(at, other, model) for other in held)
        return keeping - floor if floor else None

    patches.swap(eviction._most_leaving, most_leaving)


def silent_copy_counts(patches: Patches) -> None:
    """A copy that cannot serve stands in for the one that does, which leaves after each request as one too many."""
    patches.swap(shrinking.serving_copies, shrinking.copies)


def roll_out_tried_once(patches: Patches) -> None:
    """The first load of a new revision that fails ends its roll-out, until somebody edits the model again."""
    spent = routing.is_spent

    def at_once(at: State, model: Model) -> bool:
        return spent(at, model) or (model.declared != model.serving and model.tries_failed > 0)

    patches.swap(spent, at_once)


def spent_without_a_pause(patches: Patches) -> None:
    """Where failed loads are tried again at once, they are when the tries are spent, too."""
    pause = loads.pause_after
    patches.swap(pause, lambda settings, failures: pause(settings, failures) if settings.load_backoff else 0)


def failed_floor_waits_for_a_person(patches: Patches) -> None:
    """What has failed too often is tried nowhere again, not even where no load of it has failed."""
    patches.swap(routing.is_spent, lambda at, model: model.tries_failed >= at.settings.load_attempts)


def revision_used_again(patches: Patches) -> None:
    """A model that is declared anew counts its revisions from 1, whatever a former one has left on the disks."""
    patches.swap(models._last_revision, lambda at, name: 0)


def edit_taken_back_is_one_more(patches: Patches) -> None:
    """An edit back to what serves is a new revision: the copy that serves goes, and the very same is loaded."""
    patches.swap(roll_outs.is_taken_back, lambda model, spec: False)


def takes_over_at_once(patches: Patches) -> None:
    """A revision takes over when both do not fit just now, though a copy that comes or goes will leave room."""
    patches.swap(shrinking.is_moving, lambda at, model: False)


def kept_floor_goes_first(patches: Patches) -> None:
    """A model that has a floor goes before who has waited longer, whether its floor is kept or not."""
    patches.swap(fairness.lacks_copies, shrinking.has_floor)


def spare_copy_wakes_nobody(patches: Patches) -> None:
    """Who waits for a copy that its model's floor keeps does not hear of another copy that makes it spare."""
    patches.swap(consequences.who_may_evict_elsewhere, lambda at, node, models: ())


def silent_copy_keeps_the_floor(patches: Patches) -> None:
    """The copy that serves may be evicted as long as there are others, whether those can serve or not."""
    floor_kept_by(patches, lambda at, other, model: shrinking.counts(at, other, at.candidates(model).nodes))


def evicts_in_vain(patches: Patches) -> None:
    """A model whose loads always fail makes others leave again with each request for it."""
    patches.swap(routing.is_tried_enough, lambda at, model, node: False)


def takes_over_for_nothing(patches: Patches) -> None:
    """A new revision that has no room takes over, though the old one's leaving does not give it any."""
    patches.swap(roll_outs.has_room_instead, lambda at, model, now: True)


def nobody_makes_way(patches: Patches) -> None:
    """A new revision for which there is no room takes all copies of the old one down at once."""
    patches.swap(roll_outs.who_makes_way, lambda at, model: None)


def each_makes_way(patches: Patches) -> None:
    """Where another model takes the room of the copy that made way, the next one does, until none is left."""
    patches.swap(roll_outs.has_made_way, lambda model: False)


def last_one_makes_way(patches: Patches) -> None:
    """The only copy that serves makes way for a new revision of which none has loaded yet."""

    def anybody(at: State, model: Model) -> Replica | None:
        warm = at.warm.get(model.name)
        return at.replicas[warm.order[0][3]] if warm is not None else None

    patches.swap(roll_outs.who_makes_way, anybody)


def old_copy_makes_room(patches: Patches) -> None:
    """A copy of an old revision makes room for another model, though its floor lacks a copy that serves."""
    patches.swap(eviction._leaves_for_its_floor, lambda at, replica, model: False)


def requests_before_floors(patches: Patches) -> None:
    """Room that comes free goes to whoever waits before it goes to a floor that is not kept."""
    patches.swap(fairness.floors_first, lambda at, names: [])


def floors_by_name(patches: Patches) -> None:
    """Of floors that are not kept the first by name gets the room, whatever their priority."""
    patches.swap(fairness.by_importance, lambda at, names: sorted(names))


def floors_in_order_of_loss(patches: Patches) -> None:
    """Of floors that lose their copies at once the one whose copy was there first gets the room."""
    patches.swap(consequences.floors_on, lambda at, node: [])
    patches.swap(
        nodes.most_important_first, lambda at, node: [at.replicas[replica] for replica in at.by_node.get(node, ())]
    )


def growth_beyond_demand(patches: Patches) -> None:
    """As many copies are begun at once as may be, for one request that waits."""
    patches.swap(routing.copies_wanted, lambda at, model: at.settings.growth_per_tick)


def growth_without_end(patches: Patches) -> None:
    """One more copy is tried again and again where every load of it fails."""
    grow = routing.may_grow
    patches.swap(grow, lambda at, model: grow(at, replace(model, failures=0)))


def takes_over_anywhere(patches: Patches) -> None:
    """A new revision takes over with its first copy, also where no request may go."""
    loaded = loads.loaded

    def at_once(at: State, command: Any, now: int) -> list[ev.Event]:
        events = loaded(at, command, now)
        replica = at.replicas.get(command.replica)
        model = at.models.get(replica.model) if replica is not None else None
        told = any(isinstance(event, ev.RevisionServing) for event in events)
        if events and model and replica and replica.revision == model.declared != model.serving and not told:
            return [*events, ev.RevisionServing(at=now, model=model.name, revision=model.declared)]
        return events

    patches.swap(loaded, at_once)


ROWS: tuple[Row, ...] = (
    (silent_copy_counts, "S", "silent-copy-stands-in-for-nobody", True),
    (roll_out_tried_once, "W", "roll-out-tried-again", True),
    (spent_without_a_pause, "Q", "no-pause-between-tries", True),
    (failed_floor_waits_for_a_person, "W", "floor-where-it-has-not-failed", True),
    (revision_used_again, "S", "declared-anew", True),
    (edit_taken_back_is_one_more, "S", "edit-taken-back", True),
    (takes_over_at_once, "S", "takes-over-when-it-must", True),
    (spare_copy_wakes_nobody, "W", "spare-of-its-floor", True),
    (silent_copy_keeps_the_floor, "S", "only-what-serves-keeps-a-floor", True),
    (evicts_in_vain, "S", "broken-evicts-no-more", True),
    (takes_over_for_nothing, "S", "takes-over-only-if-it-helps", True),
    (nobody_makes_way, "S", "one-makes-way", True),
    (each_makes_way, "S", "room-taken-in-a-roll-out", True),
    (last_one_makes_way, "S", "one-makes-way", True),
    (old_copy_makes_room, "S", "room-of-an-old-copy", True),
    (requests_before_floors, "W", "floors-before-requests", True),
    (floors_by_name, "W", "floors-before-requests", True),
    (floors_in_order_of_loss, "W", "floors-lost-at-once", True),
    (growth_beyond_demand, "W", "growth-in-its-measure", True),
    (growth_without_end, "S", "bad-node-spares-the-good", True),
    (takes_over_anywhere, "S", "loaded-while-silent", True),
    (kept_floor_goes_first, "W", "kept-floor-waits-its-turn", True),
)
"""As in :data:`interlock.simulation.mutants.core.ALL`."""
