"""The cluster's settings: what they mean, their defaults, and how they are written.

Settings that decisions depend on live in the state and change by a ``SettingsChanged`` event, so that a replay of the
log decides as the live scheduler did.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from .errors import InvalidField, InvalidSetting
from .profiles import parse_placement, parse_profiles
from .setting_kinds import ByteRate, Count, Kind, Length, RequestRate, Size, Text, declared
from .units import FOREVER, GIB, MIB, MINUTE, SECOND, parse_duration

HIGHEST_PRIORITY = 1000
"""No request has a priority above this, or below its negative: beyond, ageing would take longer than anybody waits."""

SHORTEST_BEAT = SECOND // 10
"""What happens again and again, and how long somebody may be silent, is no shorter."""

SettingValue = int | str
"""A setting as the core counts it: a number, or text."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every setting of the core, each with its kind. Lengths in microseconds; FOREVER means off."""

    reconcile_interval: Annotated[int, Length(least=SHORTEST_BEAT)] = 30 * SECOND
    """How often the reconciler looks at growth, shrinking and what the workers say they run."""
    min_residency: Annotated[int, Length()] = 30 * SECOND
    """How long a freshly loaded replica is safe from eviction by a model of the same or lower priority."""
    scale_down_delay: Annotated[int, Length()] = 5 * MINUTE
    """How long a replica above the floor must be idle before the reconciler removes it."""
    idle_unload: Annotated[int, Length(off=FOREVER)] = FOREVER
    """How long a model must be idle before its last copy goes too."""
    heartbeat_interval: Annotated[int, Length(least=SHORTEST_BEAT)] = 10 * SECOND
    """How often a worker reports."""
    unreachable_after: Annotated[int, Length(least=SHORTEST_BEAT)] = 30 * SECOND
    """How long a silent node stays healthy."""
    offline_after: Annotated[int, Length()] = 10 * MINUTE
    """How long a node stays unreachable before what it ran counts as lost."""
    mass_loss_share: Annotated[int, Count(off=0, most=100)] = 50
    """The share of all nodes, in percent, whose silence within ``offline_after`` is not believed; "off": always is."""
    mass_loss_grace: Annotated[int, Length()] = 30 * MINUTE
    """How long the silence of that many nodes is not believed; never less than until the first would be offline."""
    holder_lease: Annotated[int, Length(least=SHORTEST_BEAT)] = 30 * SECOND
    """How long a silent gateway keeps its locks."""
    writer_lease: Annotated[int, Length(least=SHORTEST_BEAT)] = 3 * SECOND
    """How long a silent writer keeps the cluster."""
    request_deadline: Annotated[int, Length()] = 5 * MINUTE
    """How long a request waits for a lock when it names no deadline of its own."""
    queue_limit: Annotated[int, Count()] = 1000
    """How many requests may wait at once in the whole cluster."""
    model_queue_limit: Annotated[int, Count(off=FOREVER)] = FOREVER
    """How many requests may wait for one model, so that one that is stuck leaves the others room in the queue."""
    priority_ageing: Annotated[int, Length(off=FOREVER)] = 1 * MINUTE
    """How much waiting one point of a request's priority is worth; off: higher priority always goes first."""
    tenant_limit: Annotated[int, Count(off=FOREVER)] = FOREVER
    """How many requests of one tenant may wait or run at once, unless it has a limit of its own."""
    tenant_rate: Annotated[int, RequestRate()] = 0
    """The time from one of a tenant's requests to the next, in the long run; 0 means no limit."""
    tenant_burst: Annotated[int, Count(least=1)] = 10
    """How many requests a tenant that was quiet may send at once under ``tenant_rate``."""
    tenant_priority: Annotated[int, Count(least=-HIGHEST_PRIORITY, most=HIGHEST_PRIORITY)] = 0
    """The highest priority that a tenant's requests may have; a higher one that is asked for counts as this."""
    load_silence: Annotated[int, Length()] = 5 * MINUTE
    """How long a load may show no progress before it counts as failed; longer where ``quiet_load_rate`` says so."""
    quiet_load_rate: Annotated[int, ByteRate()] = 64 * MIB
    """The bytes a second that a load is trusted to move while it shows no progress."""
    slowest_load_rate: Annotated[int, ByteRate()] = 4 * MIB
    """The bytes a second that a load which shows progress must move on average, beyond one ``load_silence``."""
    load_attempts: Annotated[int, Count(least=1)] = 3
    """How many times a model's load is tried in a row before its waiters are refused."""
    load_backoff: Annotated[int, Length()] = 1 * SECOND
    """The pause after the first failed load of a model; it doubles with every further one, up to five minutes."""
    disk_margin: Annotated[int, Size()] = GIB
    """How much of a node's disk staging leaves free."""
    recent_uses: Annotated[int, Count(off=0)] = 255
    """Up to so many of the requests that a replica has served lately protect it from making room; "off": none does, and
    only its size and the moment of its last use count."""
    evictions_per_node: Annotated[int, Count(off=0)] = 12
    """How many evictions a node takes within ``eviction_window``; "off" sets no bound."""
    eviction_window: Annotated[int, Length()] = 1 * MINUTE
    """How long an eviction counts against the node's bound."""
    unload_patience: Annotated[int, Length(off=0, most=60 * MINUTE, reason="a worker may hang")] = 30 * SECOND
    """How long a load waits for the room of a replica that leaves in any case, rather than evict somebody; "off": it
    does not wait."""
    thrash_cycles: Annotated[int, Count(off=0)] = 3
    """After so many evictions in a row for the same few models, each followed by a load of the evicted one, replicas of
    it stay longer, twice as long with every further one; "off": they never do."""
    thrash_window: Annotated[int, Length()] = 2 * MINUTE
    """How soon after its eviction a load of the same model counts as a cycle."""
    longest_residency: Annotated[int, Length()] = 4 * MINUTE
    """The longest that replicas stay for that; less than ``request_deadline``, so that whoever waits gets a turn."""
    growth_per_tick: Annotated[int, Count(least=1)] = 1
    """How many loads of further copies one model may have in progress at once."""
    prefix_affinity: Annotated[int, Count(off=0)] = 4
    """How many more requests in flight a replica may have that holds the whole prompt; "off" ignores prompts."""
    placement: Annotated[str, Text(parse_placement)] = "default"
    """The placement profile of every model that names none."""
    placement_profiles: Annotated[str, Text(parse_profiles)] = ""
    """The operators' own placement profiles: ``"NAME: SCORE WEIGHT, ...; NAME: ..."``."""


KINDS: dict[str, Kind] = declared(Settings)
"""How each setting is read and written."""

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
    return KINDS[name].parse(value, name)


def doubts(settings: Settings) -> list[str]:
    """What is allowed and hardly meant: settings that make sense each, and not together. A sentence each, with a cure.

    Nothing refuses them: logs and configurations that have them must go on.
    """
    if not settings.thrash_cycles or settings.longest_residency < settings.request_deadline:
        return []
    stays, waits = (format_setting(name, getattr(settings, name)) for name in ("longest_residency", "request_deadline"))
    return [
        f"longest_residency ({stays}) is not less than request_deadline ({waits}): while models evict each other again "
        "and again, who waits may be refused before it gets a turn. Lower longest_residency, or raise request_deadline."
    ]


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
    return value if isinstance(value, str) else KINDS[name].format(value)


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
