"""What changed between two states: things that came, that went, and fields that are different."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

KEYS = {"nodes": "name", "models": "name", "replicas": "id", "requests": "id", "tenants": "name"}
"""What names a row of each kind."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One difference. ``change`` is ``added``, ``removed`` or ``changed``; then ``field`` has these values."""

    kind: str
    id: str
    change: str
    field: str = ""
    before: Any = None
    after: Any = None


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """The differences between two views as JSON data, by kind and id, in a stable order."""
    found: list[Change] = []
    for kind in sorted({*before, *after}):
        old, new = before.get(kind), after.get(kind)
        if old == new:
            continue
        if isinstance(old, list | None) and isinstance(new, list | None) and kind in KEYS:
            found += _between(kind, _by_key(kind, old or []), _by_key(kind, new or []))
        elif isinstance(old, dict) and isinstance(new, dict):
            found += _fields(kind, kind, old, new)
        else:
            found.append(Change(kind=kind, id=kind, change="changed", before=old, after=new))
    return found


def _by_key(kind: str, rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {str(row[KEYS[kind]]): row for row in rows}


def _between(kind: str, old: dict[str, dict[str, Any]], new: dict[str, dict[str, Any]]) -> list[Change]:
    found: list[Change] = []
    for name in sorted({*old, *new}):
        if name not in old:
            found.append(Change(kind=kind, id=name, change="added", after=new[name]))
        elif name not in new:
            found.append(Change(kind=kind, id=name, change="removed", before=old[name]))
        else:
            found += _fields(kind, name, old[name], new[name])
    return found


def _fields(kind: str, name: str, old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    return [
        Change(kind=kind, id=name, change="changed", field=field, before=old.get(field), after=new.get(field))
        for field in sorted({*old, *new})
        if old.get(field) != new.get(field)
    ]
