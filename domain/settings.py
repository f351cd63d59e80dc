"""The cluster's settings: what they mean, their defaults, and how they are written.

Settings that decisions depend on live in the state and change by a ``SettingsChanged`` event, so that a replay of the
log decides as the live scheduler did.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from .errors import InvalidField, InvalidSetting
from .profiles import parse_placement, parse_profiles
from .units import FOREVER, GIB, MINUTE, SECOND, format_duration, format_size, parse_duration, parse_size

SettingValue = int | str
"""A setting as the core counts it: a number, or text."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every setting of the core. Lengths in microseconds; FOREVER means off."""

    reconcile_interval: int = 30 * SECOND
    """How often the reconciler looks at growth, shrinking and what the workers say they run."""
    min_residency: int = 30 * SECOND
    """How long a freshly loaded replica is safe from eviction by a model of the same or lower priority."""
    scale_down_delay: int = 5 * MINUTE
    """How long a replica above the floor must be idle before the reconciler removes it."""
    idle_unload: int = FOREVER
    """How long a model must be idle before its last copy goes too."""
    heartbeat_interval: int = 10 * SECOND
    """How often a worker reports."""
    unreachable_after: int = 30 * SECOND
    """How long a silent node stays healthy."""
    offline_after: int = 10 * MINUTE
    """How long a node stays unreachable before what it ran counts as lost."""
    holder_lease: int = 30 * SECOND
    """How long a silent gateway keeps its locks."""
    writer_lease: int = 3 * SECOND
    """How long a silent writer keeps the cluster."""
    request_deadline: int = 5 * MINUTE
    """How long a request waits for a lock when it names no deadline of its own."""
    queue_limit: int = 1000
    """How many requests may wait at once in the whole cluster."""
    priority_ageing: int = 1 * MINUTE
    """How much waiting one point of a request's priority is worth; off: higher priority always goes first."""
    load_silence: int = 5 * MINUTE
    """How long a load may show no progress before it counts as failed."""
    load_attempts: int = 3
    """How many times a model's load is tried in a row before its waiters are refused."""
    load_backoff: int = 1 * SECOND
    """The pause after the first failed load of a model; it doubles with every further one, up to five minutes."""
    disk_margin: int = GIB
    """How much of a node's disk staging leaves free."""
    growth_per_tick: int = 1
    """How many loads of further copies one model may have in progress at once."""
    prefix_affinity: int = 4
    """How many more requests in flight a replica may have that holds the whole prompt; "off" ignores prompts."""
    placement: str = "default"
    """The placement profile of every model that names none."""
    placement_profiles: str = ""
    """The operators' own placement profiles: ``"NAME: SCORE WEIGHT, ...; NAME: ..."``."""


_COUNTS = frozenset({"queue_limit", "load_attempts", "growth_per_tick", "prefix_affinity"})
_SIZES = frozenset({"disk_margin"})
_CAN_BE_OFF = frozenset({"idle_unload", "priority_ageing"})
_OFF_AT_ZERO = frozenset({"prefix_affinity"})


_TEXTS: dict[str, Callable[[object], str]] = {"placement": parse_placement, "placement_profiles": parse_profiles}


def parse_setting(name: str, value: object) -> SettingValue:
    """One setting's value as the core counts it."""
    known = Settings.__struct_fields__
    if name not in known:
        raise InvalidSetting(f"no setting is named {name!r}.", cure=f"The settings are: {', '.join(known)}.")
    if name in _TEXTS:
        return _TEXTS[name](value)
    if value == "off" and name in _OFF_AT_ZERO:
        return 0
    if name in _COUNTS:
        digits = value if isinstance(value, int) and not isinstance(value, bool) else None
        if isinstance(value, str) and value.isdigit():
            digits = int(value)
        if digits is None or digits < (0 if name == "queue_limit" or name in _OFF_AT_ZERO else 1):
            raise InvalidSetting(f"{name}: {value!r} is not a whole number that it can have.", cure="Give 1 or more.")
        return digits
    if value == "off" and name in _CAN_BE_OFF:
        return FOREVER
    if name in _SIZES:
        return parse_size(value, name)  # type: ignore[arg-type]  # parse_size names what is not text
    return parse_duration(value, name)  # type: ignore[arg-type]  # parse_duration names what is not text


def parse_idle_unload(value: object, field: str = "idle_unload") -> int | None:
    """A model's own ``idle_unload``: a length, ``off`` for never, ``default`` or nothing for the cluster's setting."""
    if value is None or value == "default":
        return None
    if value == "off":
        return FOREVER
    length = parse_duration(value, field)  # type: ignore[arg-type]  # parse_duration names what is not text
    if length < SECOND:
        raise InvalidField(field, f"{value!r} is shorter than a second", cure='Give "1s" or more, "off" or "default".')
    return length


def format_idle_unload(value: int | None) -> str:
    """A model's own ``idle_unload`` as :func:`parse_idle_unload` reads it back."""
    return "default" if value is None else format_setting("idle_unload", value)


def format_setting(name: str, value: SettingValue) -> str:
    """A setting's value as :func:`parse_setting` reads it back."""
    if isinstance(value, str):
        return value
    if name in _OFF_AT_ZERO and not value:
        return "off"
    if name in _COUNTS:
        return str(value)
    if name in _SIZES:
        text = format_size(value)
        return text if parse_size(text) == value else f"{value}B"
    return "off" if value >= FOREVER and name in _CAN_BE_OFF else format_duration(value)


def parse_affinity(value: object, field: str = "prefix_affinity") -> int | None:
    """A model's own ``prefix_affinity``: a number, ``off``, ``default`` or nothing for the cluster's setting."""
    if value is None or value == "default":
        return None
    if value == "off":
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidField(field, f"{value!r} is not a number of requests", cure='Give 0 or more, "off" or "default".')
    return value


def format_affinity(value: int | None) -> int | str:
    """A model's own ``prefix_affinity`` as :func:`parse_affinity` reads it back."""
    return "default" if value is None else value or "off"
