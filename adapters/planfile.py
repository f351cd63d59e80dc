"""A change to be planned, as a file or the body of ``POST /api/plan`` writes it.

``[[models]]`` as ``interlock models apply`` reads them, or ``name`` and ``remove = true``; ``[scheduler]`` with
settings; ``[[nodes]]`` with a new node, or what is to change of a known one. Anything else is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interlock.domain.commands import DeclareModel
from interlock.domain.errors import InvalidField, InvalidSetting, UnreadableFile
from interlock.domain.planning import Change, NodeChange
from interlock.domain.settings import parse_setting
from interlock.domain.units import parse_limit, parse_size

from .modelfile import (
    line_of_field,
    parse_budget,
    parse_model,
    parse_name,
    read_document,
    refuse_twice,
    refuse_unknown,
)

PLAN_KEYS = ("scheduler", "nodes", "models")
NODE_KEYS = (
    "name", "vram", "pools", "ram", "disk", "labels", "vram_budget", "max_replicas_per_model", "approved", "drain",
    "deadline", "remove",
)  # fmt: skip
_CURE = "Give a TOML file with [[models]], [[nodes]] or [scheduler]."


def parse_change(document: Mapping[str, object]) -> Change:
    """The change that a document describes; raises InvalidField that names the key."""
    refuse_unknown(document, PLAN_KEYS)
    if not document:
        raise InvalidField("body", "names no change", cure=_CURE)
    models: list[DeclareModel] = []
    removed: list[str] = []
    tables = _tables(document, "models")
    for place, table in enumerate(tables):
        field = f"models[{place}]"
        if "remove" in table:
            removed += _removed(table, field)
        else:
            models.append(parse_model(table, field))
    nodes = [_node(table, f"nodes[{place}]") for place, table in enumerate(_tables(document, "nodes"))]
    refuse_twice("models", tables)
    refuse_twice("nodes", _tables(document, "nodes"))
    return Change(
        settings=_settings(document.get("scheduler", {})), nodes=tuple(nodes), models=tuple(models),
        removed=tuple(removed),
    )  # fmt: skip


def read_change(path: Path) -> tuple[dict[str, Any], Change]:
    """What a file says, as it is and understood; raises UnreadableFile that names the file, the key and the line."""
    text, document = read_document(path, _CURE)
    if not isinstance(document, dict):
        raise UnreadableFile(f"{path}: it is not a table.", cure=_CURE)
    try:
        return document, parse_change(document)
    except InvalidField as error:
        raise UnreadableFile(f"{path}{line_of_field(text, error.field)}: {error.message}.", cure=error.cure) from None


def _settings(table: object) -> dict[str, int | str]:
    if not isinstance(table, Mapping):
        raise InvalidField("scheduler", f"{table!r} is not a table", cure='Write settings: { min_residency = "1m" }.')
    values = {}
    for name, value in table.items():
        try:
            values[name] = parse_setting(name, value)
        except (InvalidSetting, InvalidField) as error:
            problem = error.message.removeprefix(f"{name}: ").rstrip(".")
            raise InvalidField(f"scheduler.{name}", problem, cure=error.cure) from None
    return values


def _removed(table: Mapping[str, object], field: str) -> list[str]:
    refuse_unknown(table, ("name", "remove"), field)
    name = parse_name(table.get("name"), f"{field}.name")
    return [name] if _flag(table, "remove", field) else []


def _node(table: Mapping[str, object], field: str) -> NodeChange:
    refuse_unknown(table, NODE_KEYS, field)
    name = parse_name(table.get("name"), f"{field}.name")
    if _flag(table, "remove", field) and set(table) != {"name", "remove"}:
        raise InvalidField(f"{field}.remove", "stands with other changes", cure="A node that goes needs only its name.")
    if table.get("approved") is False:
        raise InvalidField(
            f"{field}.approved", "an approval cannot be taken back", cure="Drain the node: drain = true."
        )
    if "deadline" in table and not _flag(table, "drain", field):
        raise InvalidField(f"{field}.deadline", "is a drain's", cure="Give drain = true with it, or leave it out.")
    slots = table.get("max_replicas_per_model", 0)
    if isinstance(slots, bool) or not isinstance(slots, int) or slots < ("max_replicas_per_model" in table):
        raise InvalidField(f"{field}.max_replicas_per_model", f"{slots!r} is not a whole number, 1 or more")
    return NodeChange(
        node=name,
        pools=_pools(table, field),
        ram=_size(table["ram"], f"{field}.ram") if "ram" in table else 0,
        disk=_size(table["disk"], f"{field}.disk") if "disk" in table else None,
        labels=_labels(table.get("labels", {}), f"{field}.labels"),
        budget=parse_budget(table["vram_budget"], f"{field}.vram_budget") if "vram_budget" in table else None,
        slots=slots,
        approve=_flag(table, "approved", field),
        drain=_flag(table, "drain", field) if "drain" in table else None,
        within=parse_limit(table["deadline"], f"{field}.deadline") if "deadline" in table else 0,  # type: ignore[arg-type]  # parse_limit names what is not text
        remove=_flag(table, "remove", field),
    )


def _pools(table: Mapping[str, object], field: str) -> tuple[int, ...]:
    if "pools" not in table:
        return (_size(table["vram"], f"{field}.vram"),) if "vram" in table else ()
    pools = table["pools"]
    if "vram" in table or not isinstance(pools, list) or not pools:
        raise InvalidField(f"{field}.pools", "is a list of sizes, instead of vram", cure='Write ["24GiB", "24GiB"].')
    return tuple(_size(pool, f"{field}.pools[{place}]") for place, pool in enumerate(pools))


def _size(value: object, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidField(field, f"{value!r} is not a size", cure='Use a number and a unit: "64GiB".')
    return parse_size(value, field)


def _labels(value: object, field: str) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for text in value.values()):
        raise InvalidField(field, f"{value!r} is not a table of texts", cure='Write { tier = "fast" }; "" removes one.')
    return dict(value)


def _flag(table: Mapping[str, object], key: str, field: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise InvalidField(f"{field}.{key}", f"{value!r} is not true or false")
    return value


def _tables(document: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    tables = document.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
        raise InvalidField(key, "is not a list of tables", cure=f"Write one [[{key}]] table for each.")
    return tables
