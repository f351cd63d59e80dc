"""Files on a node's disk: whether a model's have room there, which give way, and whose would have to.

Files that no replica uses give way to those of a model that is to be staged, and only while room is lacking.
"""

from __future__ import annotations

from .entities import Files, Model, Node, Phase, Replica
from .state import State


def staging_need(state: State, model: Model, node: Node, *, replacing: bool = False) -> int | None:
    """Bytes of disk that staging the model there takes: 0 when it is staged already; None when they are not free.

    ``replacing``: its own copies there will have left, so that the files of another edition, which they use, give way.
    """
    need = model.declared_spec.disk
    if need == 0 or (model.name, model.declared) in state.staged.get(node.name, {}):
        return 0
    free = state.disk_free(node)
    if free is None or need <= free:
        return need
    free += sum(size for _, _, size in unused_files(state, node))
    if replacing:
        free += sum(size for (name, _), size in state.staged.get(node.name, {}).items() if name == model.name)
    return need if need <= free else None


def unused_files(state: State, node: Node) -> list[Files]:
    """The files on the node's disk that no replica there uses, those first whose use ended longest ago."""
    staged = state.staged.get(node.name, {})
    return [(*key, size) for key, size in staged.items() if (node.name, key[0]) not in state.by_slot]


def files_to_drop(state: State, model: Model, node: Node) -> tuple[Files, ...]:
    """What must go from the disk so that the model can be staged there; nothing while there is room.

    As many as it takes, least recently used first; whoever of them can be spared because a later one is enough, stays.
    """
    need, free = staging_need(state, model, node), state.disk_free(node)
    lack = 0 if not need or free is None else need - free
    drops: list[Files] = []
    for files in unused_files(state, node) if lack > 0 else ():
        drops.append(files)
        lack -= files[2]
        if lack <= 0:
            break
    for files in reversed(drops.copy()):
        if lack + files[2] <= 0:
            drops.remove(files)
            lack += files[2]
    return tuple(drops)


def whose_files_would_do(state: State, model: Model, node: Node) -> list[Replica]:
    """Who would have to be unloaded there so that the model can be staged; nobody when that would not be enough.

    Of models without requests and without a pin first, then those of the largest files; as few models as it takes.
    """
    lack = model.declared_spec.disk - (state.disk_free(node) or 0) - sum(size for *_, size in unused_files(state, node))
    in_use = [
        (any(state.lock_count(user.id) for user in users), _pinned(state, name), -size, name, users)
        for (name, _), size in state.staged.get(node.name, {}).items()
        if (users := _users(state, node, name))
    ]
    taken: list[tuple[int, list[Replica]]] = []
    for _, _, less, _, users in sorted(in_use, key=lambda entry: entry[:4]):
        if lack > 0:
            taken.append((-less, users))
            lack += less
    if lack > 0:
        return []
    for entry in taken.copy():
        if lack + entry[0] <= 0:  # one that came later is enough without it
            taken.remove(entry)
            lack += entry[0]
    return [user for _, users in taken for user in users]


def _users(state: State, node: Node, model: str) -> list[Replica]:
    """The replicas there that hold the model's files; nobody while one of them is coming or going."""
    users = [state.replicas[replica] for replica in state.by_slot.get((node.name, model), {}).values()]
    return users if all(user.phase is Phase.LOADED for user in users) else []


def _pinned(state: State, name: str) -> bool:
    model = state.models.get(name)
    return model is not None and model.scheduling.pinned
