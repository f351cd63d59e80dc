"""What an operator is told who unloads a model: whether there is anything to unload, and who will load it again.

The very words that ``POST /api/models/{name}/unload`` answers and ``interlock models unload`` prints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def told_unload(model: Mapping[str, Any], frozen: Sequence[str]) -> str:
    """What becomes of the model whose view, as it was before, this is; ``frozen`` is what is."""
    leaves = bool(model.get("loaded") or model.get("load_status"))
    if leaves or "replicas" not in model:
        what = f"Model {model['name']} is being unloaded."
    elif model["replicas"]:
        what = f"What there is of model {model['name']} is being unloaded already."
    else:
        what = f"Nothing of model {model['name']} is loaded."
    return f"{what} {_who_loads(model, frozen)}".strip()


def _who_loads(model: Mapping[str, Any], frozen: Sequence[str]) -> str:
    """Who will have it loaded all the same, and what would keep it away; empty when nobody will."""
    floor, waiting = model.get("floor") or 0, model.get("queue") or 0
    when = "again" if model.get("replicas") else "as soon as it can"
    if floor and "reconciler" in frozen:
        when = f"{when}, once the reconciler is thawed"
    if floor and model.get("everywhere"):
        return f'Its `replicas = "all"` will load it {when}: declare it without that to keep it away.'
    if floor:
        return f"Its floor of {floor} will load it {when}: set `min_replicas` to 0 to keep it away."
    if waiting:
        return f"{waiting} request{' that waits' if waiting == 1 else 's that wait'} for it will load it {when}."
    return ""
