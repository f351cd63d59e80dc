"""Contact with many nodes lost at once: rather our own network than all of them, so that nothing is moved in haste.

While it is suspected no node counts as offline, and a model that has a copy on a silent node neither grows nor evicts
for another one. It is over when enough of the nodes speak again, or when ``mass_loss_grace`` has passed: then the nodes
that are still silent go offline one after the other, a reconcile interval apart.

A node whose worker did not answer when a call had failed there is found silent before its time, and others may be so
too. And when contact is back with the first nodes, the others may follow in a moment. For ``unreachable_after`` a model
that has a copy on such a node evicts nobody either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from . import events as ev
from .entities import Model, Node, NodeStatus
from .settings import Settings
from .state import State
from .units import FOREVER, SECOND

FEWEST_NODES = 3
"""In a smaller cluster half of the nodes are one, and that one may well be down."""
ANSWER_PATIENCE = 2 * SECOND
"""How long a worker may take to say what it runs once a call has failed on its node; after that it counts as silent."""


def heartbeat_of(state: State, name: str, boot: str) -> Node | None:
    """The node that beats here. ``boot`` is "" for a worker that names none, as LocalAI's do.

    None when the worker must register first: it is not known, was known under another boot, or has said goodbye.
    """
    node = state.nodes.get(name)
    return None if node is None or node.left or (boot and boot != node.boot) else node


def heartbeats_every(settings: Settings) -> int:
    """How often a worker is to be heard: never so rarely that its node would count as silent between two heartbeats."""
    return min(settings.heartbeat_interval, settings.unreachable_after // 3)


def suspected(state: State) -> bool:
    """Whether contact with many nodes was lost at once, and what is behind it is not known yet."""
    return state.mass_loss_until > 0


def silence_of_many(state: State, node: Node, now: int) -> list[ev.Event]:
    """The node falls silent: the event that says that it is one of too many, if it is the one that makes them so."""
    if suspected(state) or not node.approved:
        return []
    silent, total = _recently_silent(state, now) + 1, _in_contact(state)
    if not _too_many(state, silent, total):
        return []
    settings = state.settings
    grace = max(settings.mass_loss_grace, settings.offline_after + settings.reconcile_interval)
    return [ev.MassLossSuspected(at=now, silent=silent, of=total, until=now + grace)]


def contact_is_back(state: State, names: Iterable[str], now: int) -> list[ev.Event]:
    """The end of the suspicion, if with these nodes enough of them have spoken again."""
    if not suspected(state):
        return []
    heard = [name for name in names if name in state.silent]
    return _over_without(state, heard, _in_contact(state), now, "contact is back") if heard else []


def many_no_longer(state: State, gone: Node, now: int) -> list[ev.Event]:
    """The end of the suspicion, if without this node, which leaves the cluster, too few are silent for it."""
    if not suspected(state) or gone.name not in state.approved:
        return []
    total = _in_contact(state) - (gone.name not in state.offline)
    return _over_without(state, (gone.name,), total, now, f"{gone.name} is gone")


def _over_without(state: State, names: Iterable[str], total: int, now: int, reason: str) -> list[ev.Event]:
    """The end of the suspicion, unless without these nodes there are still too many silent ones of so many in all."""
    if _too_many(state, _recently_silent(state, now, without=names), total):
        return []
    return [ev.MassLossOver(at=now, reason=reason, alone_at=_alone_at(state, now, total))]


def grace_is_over(state: State, now: int) -> list[ev.Event]:
    """The nodes that are still silent are taken to be gone, one by one."""
    return [ev.MassLossOver(at=now, reason="mass_loss_grace has passed")]


def postponed(state: State, node: Node, now: int) -> list[ev.Event]:
    """The node would count as offline now; while contact with many is lost it gets a later turn of its own."""
    if not suspected(state):
        return []
    offline_at = state.mass_loss_until + state.mass_loss_turns * state.settings.reconcile_interval
    return [ev.NodeOfflinePostponed(at=now, node=node.name, offline_at=offline_at)]


def has_silent_copy(state: State, model: Model) -> bool:
    """Whether the model has a copy that may well be running where nobody can be heard."""
    return any(True for _ in _silent_nodes(state, model))


def holds_back(state: State, model: Model) -> bool:
    """Whether the model is not to be moved now: it may be where contact was lost."""
    return suspected(state) and has_silent_copy(state, model)


def held_back_until(state: State, model: Model, now: int) -> int:
    """Until when nobody is to be evicted for the model, which may run where nobody is heard; 0 when it may be moved."""
    if holds_back(state, model):
        return FOREVER
    until = max((node.alone_at for node in _silent_nodes(state, model)), default=0)
    return until if until > now else 0


def alone_at(state: State, now: int) -> int:
    """When a node that is silent now is known to be so alone: until then another may be found silent, or be heard."""
    return _alone_at(state, now, _in_contact(state))


def _alone_at(state: State, now: int, total: int) -> int:
    if not state.settings.mass_loss_share or total < FEWEST_NODES:
        return 0
    return now + state.settings.unreachable_after


def _silent_nodes(state: State, model: Model) -> Iterator[Node]:
    """The silent nodes of the model's copies, one for each copy."""
    nodes = (state.nodes[state.replicas[replica].node] for replica in state.by_model.get(model.name, ()))
    return (node for node in nodes if node.status is NodeStatus.UNREACHABLE)


def _too_many(state: State, silent: int, total: int) -> bool:
    share = state.settings.mass_loss_share
    return share > 0 and total >= FEWEST_NODES and 100 * silent >= share * total


def _in_contact(state: State) -> int:
    """Approved nodes that are not known to be gone."""
    return len(state.approved) - len(state.offline)


def _recently_silent(state: State, now: int, without: Iterable[str] = ()) -> int:
    """Nodes that fell silent within ``offline_after``; one that has been silent for longer is not part of this."""
    count = 0
    for name in reversed(state.silent):
        if state.nodes[name].silent_since + state.settings.offline_after <= now:
            break
        count += name not in without
    return count
