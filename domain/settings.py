"""The cluster's settings: what they mean, their defaults, and how they are written.

Settings that decisions depend on live in the state and change by a ``SettingsChanged`` event, so that a replay of the
log decides as the live scheduler did.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from .errors import InvalidField, InvalidSetting
from .profiles import parse_placement, parse_profiles
from .units import (
    FOREVER,
    GIB,
    MIB,
    MINUTE,
    SECOND,
    format_duration,
    format_rate,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
    whole_number,
)

HIGHEST_PRIORITY = 1000
"""No request has a priority above this, or below its negative: beyond, ageing would take longer than anybody waits."""

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
    mass_loss_share: int = 50
    """The share of all nodes, in percent, whose silence within ``offline_after`` is not believed; "off": always is."""
    mass_loss_grace: int = 30 * MINUTE
    """How long the silence of that many nodes is not believed; never less than until the first would be offline."""
    holder_lease: int = 30 * SECOND
    """How long a silent gateway keeps its locks."""
    writer_lease: int = 3 * SECOND
    """How long a silent writer keeps the cluster."""
    request_deadline: int = 5 * MINUTE
    """How long a request waits for a lock when it names no deadline of its own."""
    queue_limit: int = 1000
    """How many requests may wait at once in the whole cluster."""
    model_queue_limit: int = FOREVER
    """How many requests may wait for one model, so that one that is stuck leaves the others room in the queue."""
    priority_ageing: int = 1 * MINUTE
    """How much waiting one point of a request's priority is worth; off: higher priority always goes first."""
    tenant_limit: int = FOREVER
    """How many requests of one tenant may wait or run at once, unless it has a limit of its own."""
    tenant_rate: int = 0
    """The time from one of a tenant's requests to the next, in the long run; 0 means no limit."""
    tenant_burst: int = 10
    """How many requests a tenant that was quiet may send at once under ``tenant_rate``."""
    tenant_priority: int = 0
    """The highest priority that a tenant's requests may have; a higher one that is asked for counts as this."""
    load_silence: int = 5 * MINUTE
    """How long a load may show no progress before it counts as failed; longer where ``quiet_load_rate`` says so."""
    quiet_load_rate: int = 64 * MIB
    """The bytes a second that a load is trusted to move while it shows no progress."""
    slowest_load_rate: int = 4 * MIB
    """The bytes a second that a load which shows progress must move on average, beyond one ``load_silence``."""
    load_attempts: int = 3
    """How many times a model's load is tried in a row before its waiters are refused."""
    load_backoff: int = 1 * SECOND
    """The pause after the first failed load of a model; it doubles with every further one, up to five minutes."""
    disk_margin: int = GIB
    """How much of a node's disk staging leaves free."""
    recent_uses: int = 255
    """Up to so many of the requests that a replica has served lately protect it from making room; "off": none does, and
    only its size and the moment of its last use count."""
    evictions_per_node: int = 12
    """How many evictions a node takes within ``eviction_window``; "off" sets no bound."""
    eviction_window: int = 1 * MINUTE
    """How long an eviction counts against the node's bound."""
    unload_patience: int = 30 * SECOND
    """How long a load waits for the room of a replica that leaves in any case, rather than evict somebody; "off": it
    does not wait."""
    thrash_cycles: int = 3
    """After so many evictions in a row for the same few models, each followed by a load of the evicted one, replicas of
    it stay longer, twice as long with every further one; "off": they never do."""
    thrash_window: int = 2 * MINUTE
    """How soon after its eviction a load of the same model counts as a cycle."""
    longest_residency: int = 4 * MINUTE
    """The longest that replicas stay for that; less than ``request_deadline``, so that whoever waits gets a turn."""
    growth_per_tick: int = 1
    """How many loads of further copies one model may have in progress at once."""
    prefix_affinity: int = 4
    """How many more requests in flight a replica may have that holds the whole prompt; "off" ignores prompts."""
    placement: str = "default"
    """The placement profile of every model that names none."""
    placement_profiles: str = ""
    """The operators' own placement profiles: ``"NAME: SCORE WEIGHT, ...; NAME: ..."``."""


_LEAST = {
    "queue_limit": 0, "load_attempts": 1, "growth_per_tick": 1, "prefix_affinity": 0, "mass_loss_share": 0,
    "tenant_limit": 0, "tenant_burst": 1, "model_queue_limit": 0, "recent_uses": 0,
    "evictions_per_node": 0, "thrash_cycles": 0,
    "tenant_priority": -HIGHEST_PRIORITY,
}  # fmt: skip
"""The settings that are numbers, and the least that each may be."""
_LONGEST = {"unload_patience": 60 * MINUTE}
"""The settings that are lengths with an end to them, and the most that each may be."""
_CAN_BE_OFF = frozenset({"idle_unload", "priority_ageing", "tenant_limit", "model_queue_limit"})
_RATES = frozenset({"quiet_load_rate", "slowest_load_rate"})
_SIZES = frozenset({"disk_margin"})
_OFF_AT_ZERO = frozenset(
    {"prefix_affinity", "mass_loss_share", "evictions_per_node", "thrash_cycles", "recent_uses", "unload_patience"}
)


_TEXTS: dict[str, Callable[[object], str]] = {"placement": parse_placement, "placement_profiles": parse_profiles}


_FORMER_DEFAULTS: tuple[dict[str, SettingValue], ...] = ({"evictions_per_node": 8},)
"""Each time that defaults were changed, first to last: which, and what they were before."""
DEFAULTS = len(_FORMER_DEFAULTS)
"""Today's defaults, by the number of changes. A log says with which it began, and an old one keeps its own."""


def born_with(defaults: int) -> Settings:
    """The settings of a cluster whose log began with these defaults."""
    former: dict[str, SettingValue] = {}
    for values in reversed(_FORMER_DEFAULTS[defaults:]):
        former |= values
    return msgspec.structs.replace(Settings(), **former)


def parse_setting(name: str, value: object) -> SettingValue:
    """One setting's value as the core counts it."""
    known = Settings.__struct_fields__
    if name not in known:
        raise InvalidSetting(f"no setting is named {name!r}.", cure=f"The settings are: {', '.join(known)}.")
    if name in _TEXTS:
        return _TEXTS[name](value)
    if value == "off" and name in _OFF_AT_ZERO:
        return 0
    if value == "off" and name in _CAN_BE_OFF:
        return FOREVER
    if name in _LEAST:
        return parse_count(value, name, _LEAST[name])
    if name == "tenant_rate":
        return parse_rate(value, name)  # type: ignore[arg-type]  # parse_rate names what is not text
    if name in _RATES:
        return _parse_rate(value, name)
    if name in _SIZES:
        return parse_size(value, name)  # type: ignore[arg-type]  # parse_size names what is not text
    length = parse_duration(value, name)  # type: ignore[arg-type]  # parse_duration names what is not text
    if length > _LONGEST.get(name, FOREVER):
        cure = f'Give {format_duration(_LONGEST[name])} or less, or "off": a worker may hang.'
        raise InvalidSetting(f"{name}: {value!r} is too long.", cure=cure)
    return length


def parse_count(value: object, name: str, least: int = 0) -> int:
    """A whole number that is not below ``least``, as a number or as text; raises InvalidSetting."""
    number = value if isinstance(value, int) and not isinstance(value, bool) else None
    if isinstance(value, str):
        number = whole_number(value, least)
    if number is None or not least <= number < FOREVER:
        cure = f"Give {least} or more."
        raise InvalidSetting(f"{name}: {value!r} is not a whole number that it can have.", cure=cure)
    return number


def _parse_rate(value: object, name: str) -> int:
    """Bytes a second, as in ``"64MiB/s"`` or, the same, ``"64MiB"``."""
    text = value.strip().removesuffix("/s") if isinstance(value, str) else value
    rate = parse_size(text, name)  # type: ignore[arg-type]  # parse_size names what is not text
    if rate < 1:
        raise InvalidSetting(f"{name}: {value!r} moves nothing.", cure='Give a rate, as in "64MiB/s".')
    return rate


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
    if value >= FOREVER and name in _CAN_BE_OFF:
        return "off"
    if name in _OFF_AT_ZERO and not value:
        return "off"
    if name in _LEAST:
        return str(value)
    if name in _SIZES or name in _RATES:
        text = format_size(value)
        exact = text if parse_size(text) == value else f"{value}B"
        return f"{exact}/s" if name in _RATES else exact
    return format_rate(value) if name == "tenant_rate" else format_duration(value)


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
