"""Model tables, as a scenario's ``[[models]]``, a file for ``interlock models apply`` and ``/api/models`` write them.

The keys are those of ``MODEL_KEYS``, as docs/operations.md explains them. Anything else is refused by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from interlock.domain.commands import DeclareModel
from interlock.domain.documents import parse_toml
from interlock.domain.entities import Budget, LoadSpec, Scheduling
from interlock.domain.errors import InvalidField, UnreadableFile
from interlock.domain.memory import parse_pools
from interlock.domain.profiles import parse_placement
from interlock.domain.selector import parse_selector
from interlock.domain.settings import parse_affinity, parse_idle_unload
from interlock.domain.units import MIB, parse_share, parse_size

SPEC_KEYS = ("backend", "options", "vram", "ram", "pools", "disk")
SCHEDULING_KEYS = (
    "node_selector", "min_replicas", "max_replicas", "replicas", "parallel", "priority", "pinned",
    "idle_unload", "prefix_affinity",
    "anti_affinity", "anti_affinity_hard", "placement",
)  # fmt: skip
MODEL_KEYS = ("name", *SPEC_KEYS, *SCHEDULING_KEYS, "aliases")
_NAME = re.compile(r"[^\s\x00-\x1f\x7f*>]{1,200}")


def parse_model(table: Mapping[str, object], field: str = "") -> DeclareModel:
    """The command that makes a model be as the table says.

    ``field`` is where the table stands, put before each key in errors. Raises InvalidField that names the key.
    """
    at = f"{field}." if field else ""
    refuse_unknown(table, MODEL_KEYS, field)
    return DeclareModel(
        model=parse_name(table.get("name"), f"{at}name"),
        spec=parse_spec({key: table[key] for key in SPEC_KEYS if key in table}, field),
        scheduling=parse_scheduling({key: table[key] for key in SCHEDULING_KEYS if key in table}, field),
        aliases=tuple(
            parse_name(alias, f"{at}aliases[{place}]")
            for place, alias in enumerate(_list(table.get("aliases", []), f"{at}aliases"))
        ),
    )


def parse_spec(table: Mapping[str, object], field: str = "") -> LoadSpec:
    """How a model is loaded, from the keys ``backend``, ``options``, ``vram``, ``ram``, ``pools`` and ``disk``."""
    at = f"{field}." if field else ""
    backend = table.get("backend", "")
    if not isinstance(backend, str) or ("backend" in table and not backend.strip()):
        cure = "Name a backend, or leave the key out when none is known."
        raise InvalidField(f"{at}backend", f"{backend!r} is not a backend's name", cure=cure)
    options = table.get("options", {})
    if not isinstance(options, Mapping):
        raise InvalidField(f"{at}options", f"{options!r} is not a table")
    for key, value in options.items():
        if not isinstance(value, str | int | float | bool):
            raise InvalidField(f"{at}options.{key}", f"{value!r} is not text, a number, true or false")
        if isinstance(value, float) and not math.isfinite(value):  # JSON has no word for it, so it is told here
            raise InvalidField(f"{at}options.{key}", f"{value} is no number that a log can keep")
    return LoadSpec(
        backend=backend,
        options=dict(options),
        vram=_size(table.get("vram", 0), f"{at}vram"),
        ram=_size(table.get("ram", 0), f"{at}ram"),
        disk=_size(table.get("disk", 0), f"{at}disk"),
        pools=parse_pools(table.get("pools", 1), f"{at}pools"),
    )


def parse_scheduling(table: Mapping[str, object], field: str = "") -> Scheduling:
    """Where and how often a model may run; keys that are left out have their defaults."""
    at = f"{field}." if field else ""
    refuse_unknown(table, SCHEDULING_KEYS, field)
    selector = table.get("node_selector", {})
    if not isinstance(selector, Mapping):
        raise InvalidField(f"{at}node_selector", f"{selector!r} is not a table", cure='Write { label = "value" }.')
    everywhere = "replicas" in table
    if everywhere and table["replicas"] != "all":
        cure = 'Write replicas = "all", or min_replicas and max_replicas.'
        raise InvalidField(f"{at}replicas", f'{table["replicas"]!r} is not "all"', cure=cure)
    least = _count(table.get("min_replicas", 0), f"{at}min_replicas")
    most = _count(table.get("max_replicas", 0), f"{at}max_replicas")
    if everywhere and (least or most):
        raise InvalidField(f"{at}replicas", "stands instead of min_replicas and max_replicas", cure="Keep one of them.")
    if 0 < most < least:
        raise InvalidField(f"{at}max_replicas", f"{most} is less than min_replicas", cure="0 means no ceiling.")
    hard = _flag(table.get("anti_affinity_hard", False), f"{at}anti_affinity_hard")
    group = _text(table.get("anti_affinity", ""), f"{at}anti_affinity")
    if hard and not group:
        cure = 'Name one: anti_affinity = "NAME".'
        raise InvalidField(f"{at}anti_affinity_hard", "stands without a group", cure=cure)
    return Scheduling(
        selector=parse_selector(selector, f"{at}node_selector"),
        min_replicas=least,
        max_replicas=most,
        everywhere=everywhere,
        parallel=_count(table.get("parallel", 1), f"{at}parallel"),
        priority=_whole(table.get("priority", 0), f"{at}priority"),
        pinned=_flag(table.get("pinned", False), f"{at}pinned"),
        idle_unload=parse_idle_unload(table.get("idle_unload"), f"{at}idle_unload"),
        prefix_affinity=parse_affinity(table.get("prefix_affinity", "default"), f"{at}prefix_affinity"),
        anti_affinity=group,
        anti_affinity_hard=hard,
        placement=parse_placement(table.get("placement", ""), f"{at}placement"),
    )


def parse_budget(value: object, field: str) -> Budget:
    """A limit on a node's memory: ``"80%"`` or ``"100GiB"``; empty text is no limit."""
    if value == "":
        return Budget()
    if (percent := parse_share(value, field)) is not None:
        return Budget(percent=percent)
    size = _size(value, field)
    if size == 0:
        raise InvalidField(field, "no memory at all", cure='Use a share, "80%", or a size, "100GiB".')
    return Budget(size=size)


def parse_name(value: object, field: str) -> str:
    """A model's name: 1 to 200 characters, none of them a space, a control, ``*`` or ``>``."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        problem = "missing" if value is None else f"{value!r} is not a name"
        raise InvalidField(field, problem, cure="Use 1 to 200 characters without spaces, * and >.")
    return value


def refuse_unknown(table: Mapping[str, object], known: Sequence[str], field: str = "") -> None:
    """Raise InvalidField for the first key that is not known."""
    for key in table:
        if key not in known:
            at = f"{field}." if field else ""
            raise InvalidField(f"{at}{key}", "no such key", cure=f"The keys are: {', '.join(known)}.")


def refuse_twice(key: str, tables: Sequence[Mapping[str, object]]) -> None:
    """Raise InvalidField for the first name that a table before has: which of the two counts, nobody has said."""
    seen = set()
    for place, table in enumerate(tables):
        name = table.get("name")
        if name in seen:
            raise InvalidField(f"{key}[{place}].name", f"{name!r} stands there twice", cure="Keep one of them.")
        seen.add(name)


def read_models(path: Path) -> list[DeclareModel]:
    """The models that a file declares: TOML with ``[[models]]``, or JSON with a ``models`` list.

    Raises UnreadableFile that names the file, and the key and the line where they are known.
    """
    text, document = read_document(path, "Give a TOML file with [[models]] tables.")
    tables = document.get("models") if isinstance(document, dict) else None
    if (
        not isinstance(document, dict)
        or not isinstance(tables, list)
        or not all(isinstance(one, dict) for one in tables)
    ):
        raise UnreadableFile(f"{path}: it has no [[models]] tables.", cure="Write one [[models]] table per model.")
    for key in document:
        if key != "models":
            line = line_of(text, rf"(\[+\s*)?\"?{re.escape(key)}\"?\s*[=\].]")
            raise UnreadableFile(f"{path}{line}: {key}: no such key.", cure="It holds [[models]] tables only.")
    try:
        for place, table in enumerate(tables):
            if "remove" in table:
                name, problem = table.get("name", "NAME"), "only a plan's file takes models out"
                cure = (
                    f"`interlock models remove {name}` does it; do that first, as plans do, if others take its aliases."
                )
                raise InvalidField(f"models[{place}].remove", problem, cure=cure)
        models = [parse_model(table, f"models[{place}]") for place, table in enumerate(tables)]
        refuse_twice("models", tables)
    except InvalidField as error:
        raise UnreadableFile(f"{path}{line_of_field(text, error.field)}: {error.message}.", cure=error.cure) from None
    return models


def read_document(path: Path, cure: str) -> tuple[str, object]:
    """A file's text, and what it says as TOML, or as JSON if its name ends so; raises UnreadableFile with that cure."""
    try:
        text = path.read_text(encoding="utf-8")
        return text, json.loads(text) if path.suffix == ".json" else parse_toml(text)
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableFile(f"{path}: {error}.", cure=cure) from None


def line_of_field(text: str, field: str) -> str:
    """``:LINE`` of the key that an error names, or of its table; empty if neither can be found."""
    named = re.match(r"(\w+)(?:\[(\d+)\])?(?:\.([^.\[]+))?", field)
    if named is None:
        return ""
    header, key = named[1], named[3]
    place = int(named[2]) if named[2] else 0 if key else -1
    table = line_of(text, rf"(\[+\s*)?\"?{re.escape(header)}\"?\s*[=\].]", place, header)
    return (line_of(text, rf"\"?{re.escape(key)}\"?\s*[=.:]", place, header) if key else "") or table


def line_of(text: str, pattern: str, place: int = -1, header: str = "models") -> str:
    """``:LINE`` of the first line that begins with ``pattern``, in the ``place``-th table of that header, or anywhere.

    Empty if there is none.
    """
    table = -1
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(rf"\s*\[+\s*{header}\s*\]", line):
            table += 1
        if place in (-1, table) and re.match(rf"\s*{pattern}", line):
            return f":{number}"
    return ""


def _size(value: object, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidField(field, f"{value!r} is not a size", cure='Use a number and a unit: "64GiB".')
    if type(value) is int and 0 < value < MIB:
        # Whole numbers are bytes, as programs write them; one so small is a person's who left out the unit.
        cure = f'Write it as text: "{value}GiB".'
        raise InvalidField(field, f"{value} would be {value} bytes", cure=cure)
    return parse_size(value, field)


def _whole(value: object, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**31) <= value < 2**31:
        raise InvalidField(field, f"{value!r} is not a whole number")
    return value


def _count(value: object, field: str) -> int:
    if (count := _whole(value, field)) < 0:
        raise InvalidField(field, f"{count} is less than 0")
    return count


def _flag(value: object, field: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidField(field, f"{value!r} is not true or false")
    return value


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise InvalidField(field, f"{value!r} is not text")
    return value


def _list(value: object, field: str) -> list[object]:
    if not isinstance(value, list):
        raise InvalidField(field, f"{value!r} is not a list")
    return value
