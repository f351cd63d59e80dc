"""Reading scenarios: every table of the file, with each key's kind, default and meaning checked."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from interlock.domain.effects import EFFECT_TYPES
from interlock.domain.entities import LoadSpec, Scheduling, TenantLimits
from interlock.domain.errors import InvalidField
from interlock.domain.memory import parse_pools
from interlock.domain.profiles import parse_placement
from interlock.domain.refusals import RefusalCode
from interlock.domain.selector import Selector, parse_selector
from interlock.domain.settings import HIGHEST_PRIORITY, SettingValue, parse_affinity, parse_idle_unload
from interlock.domain.tenants import parse_limits
from interlock.domain.units import FOREVER, GIB, HOUR, MINUTE, SECOND, parse_duration
from interlock.simulation.prompts import LONGEST_PROMPT, Talk, chain_of_parts

from .fields import Distribution, Source, Table, parse_budget, parse_byte_rate, parse_rate, real, whole, written_size
from .scenario import (
    CLIENT_FAULTS,
    FAULT_KINDS,
    INSTANT_FAULTS,
    NODE_FAULTS,
    PROPERTIES,
    REPLICA_FAULTS,
    AdminSpec,
    Bound,
    Bursts,
    Expect,
    FaultSpec,
    ModelSpec,
    NodeSpec,
    RandomFaults,
    ReplicaSpec,
    RequestSpec,
    Scenario,
    ScopeSpec,
    TenantSpec,
    WorkloadSpec,
)
from .traces import FORMATS

EXPECTED_NUMBERS = ("served", "refused", "failed", "waiting_at_end", "loads", "evictions", "cached_share")
EXPECTED_GROUPS = ("refused_as", "replicas_at_end", "effects", "served_on", "events")
SCHEDULING_KEYS = (
    "node_selector", "min_replicas", "max_replicas", "replicas", "parallel", "priority", "pinned",
    "idle_unload", "prefix_affinity",
    "anti_affinity", "anti_affinity_hard", "placement",
)  # fmt: skip


def parse_scenario(data: dict[str, Any], text: str, name: str, folder: Path) -> Scenario:
    """The scenario of a parsed file; raises UnreadableFile that names key and line."""
    top = Table(Source(name, text), data)
    schema = top.integer("schema", 1)
    if schema != 1:
        raise top.error("schema", f"{schema} is not known", "This program reads schema = 1.")
    duration = top.duration("duration", 30 * MINUTE)
    if not 0 < duration < FOREVER:
        raise top.error("duration", "must be longer than nothing, and end", 'Use "30m".')
    reader = _Reader(top, duration, folder)
    scheduler = top.table("scheduler")
    scenario = Scenario(
        name=top.text("name", Path(name).stem),
        description=top.text("description", ""),
        seed=top.integer("seed", 1),
        duration=duration,
        settings=_all_settings(scheduler) if scheduler else {},
        nodes=tuple(reader.node(table) for table in top.tables("nodes")),
        models=tuple(reader.model(table) for table in top.tables("models")),
        replicas=tuple(reader.replica(table) for table in top.tables("replicas")),
        tenants=tuple(reader.tenant(table) for table in top.tables("tenants")),
        requests=tuple(reader.request(table) for table in top.tables("requests")),
        workloads=tuple(reader.workload(table) for table in top.tables("workloads")),
        admin=tuple(reader.admin(table) for table in sorted(top.tables("admin"), key=_when)),
        faults=tuple(reader.fault(table) for table in top.tables("faults")),
        random_faults=reader.random_faults(top.table("random_faults")),
        scope=_scope(top.table("scope")),
        expect=reader.expect(top.table("expect")),
        lines=reader.lines,
        source=name,
        raw=data,
        folder=str(folder),
    )
    top.done()
    return scenario


def _all_settings(table: Table) -> dict[str, SettingValue]:
    settings = table.settings()
    table.done()
    return settings


def _scope(table: Table | None) -> ScopeSpec:
    if table is None:
        return ScopeSpec()
    scope = ScopeSpec(
        requests=table.integer("requests", 3),
        admin=table.boolean("admin", False),
        crashes=table.integer("crashes", 0),
        completions_fair=table.boolean("completions_fair", False),
    )
    table.done()
    return scope


class _Reader:
    """Reads tables that refer to each other: it knows the nodes and models named so far."""

    def __init__(self, top: Table, duration: int, folder: Path) -> None:
        self.top = top
        self.duration = duration
        self.folder = folder
        self.nodes: list[str] = []
        self.pools: dict[str, int] = {}
        """How many memory pools each of the nodes has."""
        self.models: list[str] = []
        self.declared: dict[str, ModelSpec] = {}
        """What the file has said of each model, up to the step that is being read."""
        self.tenants: list[str] = []
        self.lines: dict[str, int] = {}

    # --- what there is ----------------------------------------------------------------------------------------------

    def node(self, table: Table) -> NodeSpec:
        name = table.text("name")
        if name in self.nodes or not name:
            raise table.error("name", f"{name!r} is taken or empty", "Give each node its own name.")
        self.nodes.append(name)
        self.lines[f"node {name}"] = table.line
        ram = table.size("ram", 0)
        one = table.size("vram", ram)  # a machine without a GPU loads models into its main memory
        pools = table.take("pools", (), lambda value: _sizes(value, "pools"))
        if pools and "vram" in table:
            raise table.error("pools", "stands beside vram", "Give one of them: vram is short for one pool.")
        pools = pools or ((one,) if one else ())
        unified = table.boolean("unified", bool(ram) and "vram" not in table and "pools" not in table)
        if unified and (len(pools) != 1 or ("ram" in table and pools != (ram,))):
            cure = "Give vram or ram alone, or the same size as both; or leave unified out."
            raise table.error("unified", "asks for one memory, and more than one is given", cure)
        spec = NodeSpec(
            name=name,
            labels=table.mapping("labels", {}, _own_label),
            pools=pools,
            budget=table.take("vram_budget", None, lambda value: parse_budget(value, "vram_budget")),
            ram=one if unified else ram,
            unified=unified,
            disk=table.size("disk", None),
            max_replicas_per_model=table.integer("max_replicas_per_model", 1, least=1),
            load_rate=table.take("load_rate", 2**30, lambda value: parse_byte_rate(value, "load_rate")),
            stage_rate=table.take("stage_rate", 0, lambda value: parse_byte_rate(value, "stage_rate")),
            install_time=_finite(table, "install_time"),
            progress=table.boolean("progress", True),
            unload_time=_finite(table, "unload_time"),
            approved=table.boolean("approved", True),
            up=table.boolean("up", True),
        )
        self.pools[name] = len(spec.pools)
        table.done()
        return spec

    def model(self, table: Table, base: ModelSpec | None = None, *, named: str = "") -> ModelSpec:
        """A model; keys that are not given keep the value of ``base``."""
        name = named or table.text("name")
        if base is None and not named and (name in self.models or not name):
            raise table.error("name", f"{name!r} is taken or empty", "Give each model its own name.")
        if name not in self.models:
            self.models.append(name)
        self.lines.setdefault(f"model {name}", table.line)
        old = base or ModelSpec(name=name)
        spec = LoadSpec(
            backend=_backend(table, old.spec.backend),
            options=table.mapping("options", old.spec.options, _option),
            vram=table.size("vram", old.spec.vram),
            ram=table.size("ram", old.spec.ram),
            disk=table.size("disk", old.spec.disk),
            pools=table.take("pools", old.spec.pools, lambda value: parse_pools(value, "pools")),
        )
        model = ModelSpec(
            name=name,
            spec=spec,
            scheduling=scheduling(table, old.scheduling),
            aliases=table.texts("aliases", old.aliases),
            service_time=table.distribution("service_time", old.service_time),
            prefill_time=table.duration("prefill_time", old.prefill_time),
            prefix_cache=table.integer("prefix_cache", old.prefix_cache),
        )
        if model.prefix_cache and not model.prefill_time:
            raise table.error("prefix_cache", "saves nothing", 'Say what a block takes: prefill_time = "20ms".')
        table.done()
        if not named:
            self.declared[name] = model
        return model

    def replica(self, table: Table) -> ReplicaSpec:
        node = self._known(table, "node", self.nodes)
        each = isinstance(table.data.get("busy_for"), list)
        busy = table.take("busy_for", (), _lengths) if each else ()
        spec = ReplicaSpec(
            model=self._known(table, "model", self.models),
            node=node,
            pools=table.take("pools", (), lambda value: self._pools_of(node, value)),
            in_flight=table.integer("in_flight", len(busy)),
            busy_for=FOREVER if each else table.duration("busy_for", FOREVER),
            busy_each=busy,
            evictable_in=_finite(table, "evictable_in"),
            line=table.line,
        )
        if "busy_for" in table and not spec.in_flight:
            raise table.error("busy_for", "has no locks to keep", "Give in_flight = 1 or more, or leave it out.")
        if each and len(busy) != spec.in_flight:
            cure = "Give one length for each, or one for all of them."
            raise table.error("busy_for", f"has {len(busy)} lengths for {spec.in_flight} locks", cure)
        table.done()
        return spec

    def _pools_of(self, node: str, value: object) -> tuple[int, ...]:
        there = range(self.pools[node])
        if not isinstance(value, list) or not all(type(pool) is int and pool in there for pool in value):
            cure = f"Give numbers of pools of {node}, which has {len(there)}: [0]."
            raise InvalidField("pools", f"{value!r} are no pools of {node}", cure=cure)
        return tuple(value)

    # --- what is asked ----------------------------------------------------------------------------------------------

    def request(self, table: Table) -> RequestSpec:
        spec = RequestSpec(
            model=self._asked_for(table, "model"),
            at=self._moment(table, "at", 0),
            count=table.integer("count", 1, least=1, most=MOST_AT_ONCE),
            every=table.duration("every", SECOND),
            service_time=table.distribution("service_time", None),
            deadline=_patience(table),
            priority=_priority(table),
            prompt=chain_of_parts(table.mapping("prompt", {}, _blocks).items()),
            tenant=table.text("tenant", ""),
            leaves_after=table.duration("leaves_after", 0),
        )
        table.done()
        return spec

    def tenant(self, table: Table) -> TenantSpec:
        name = table.text("name")
        if name in self.tenants or not name:
            raise table.error("name", f"{name!r} is taken or empty", "Give each tenant its own name.")
        self.tenants.append(name)
        self.lines[f"tenant {name}"] = table.line
        spec = TenantSpec(name=name, limits=_limits(table))
        table.done()
        return spec

    def workload(self, table: Table) -> WorkloadSpec:
        kind = table.choice("kind", ("poisson", "trace", "conversations"))
        self._note_line("workloads", table)
        trace = kind == "trace"
        models = self._weights(table, needed=not trace)
        path, form, rate = "", "", 0.0
        if trace:
            form = table.choice("format", FORMATS)
            path = str(self.folder / table.text("path"))
            if not Path(path).is_file():
                raise table.error("path", f"{path!r} is no file", "Name a trace, relative to the scenario's folder.")
            if not models and form != "jsonl":
                cure = "Name a model, models or zipf: these traces name none."
                raise table.error("", "a trace without a model", cure)
        else:
            rate = table.take("rate", _REQUIRED_RATE, lambda value: parse_rate(value, "rate"))
            if rate is _REQUIRED_RATE:
                raise table.error("rate", "is missing", 'Add rate = "2/s".')
        start, until = self._moment(table, "from", 0), table.duration("until", FOREVER)
        if until <= start:
            raise table.error("until", "is not after from", "Give a later moment.")
        if start == self.duration:
            raise table.error("from", "is the end of the run", "Give an earlier moment, or a longer duration.")
        expected = rate * (min(until, self.duration) - start) / SECOND
        if expected > MOST_OF_A_WORKLOAD:
            cure = f"Lower the rate, or shorten the time: up to {MOST_OF_A_WORKLOAD:,} can be waited for."
            raise table.error("rate", f"makes about {expected:,.0f} requests", cure)
        spec = WorkloadSpec(
            kind=kind, models=models, rate=rate, path=path, format=form, start=start, until=until,
            service_time=table.distribution("service_time", None), deadline=_patience(table),
            priority=_priority(table), bursts=_bursts(table) if kind == "poisson" else None,
            talk=_talk(table) if kind == "conversations" else None,
            tenant=table.text("tenant", ""),
        )  # fmt: skip
        table.done()
        return spec

    def _weights(self, table: Table, *, needed: bool) -> tuple[tuple[str, float], ...]:
        given = [key for key in ("model", "models", "zipf") if key in table]
        if len(given) > 1 or (needed and not given):
            cure = 'Give one of: model = "a", models = { a = 0.7, b = 0.3 }, zipf = { models = 50, s = 1.1 }.'
            raise table.error(given[-1] if given else "", "needs exactly one choice of models", cure)
        table.known.append("model")
        if "model" in table:
            return ((self._asked_for(table, "model"), 1.0),)
        many = table.mapping("models", {}, lambda value, name: real(value, name, HEAVIEST))
        if "models" in table and not sum(many.values()):
            raise table.error("models", "none has a weight", "Give one of them a weight: { a = 1.0 }.")
        if "" in many:
            raise table.error("models", "one has no name", "Name each of them: { a = 0.7, b = 0.3 }.")
        zipf = table.inner("zipf")
        if zipf is None:
            return tuple(many.items())
        count, exponent = zipf.integer("models", least=1), zipf.number("s", most=STEEPEST)
        zipf.done()
        if count > len(self.models):
            cure = f"Declare more [[models]], or ask for {len(self.models)}."
            raise table.error("zipf", f"wants {count} models and {len(self.models)} are declared", cure)
        return tuple((name, 1 / rank**exponent) for rank, name in enumerate(self.models[:count], 1))

    # --- what happens -----------------------------------------------------------------------------------------------

    def fault(self, table: Table) -> FaultSpec:
        kind = table.choice("kind", FAULT_KINDS)
        self._note_line(f"fault {kind}", table)
        target = model = ""
        if kind in NODE_FAULTS:
            target = self._known(table, "target", self.nodes)
        elif kind in REPLICA_FAULTS:
            target = self._known(table, "target", self.nodes, optional=True)
            model = self._known(table, "model", self.models, optional=True)
            if not target and not model:
                raise table.error("target", "is missing", "Name a node as target, a model, or both.")
        elif kind in CLIENT_FAULTS:
            model = self._known(table, "model", self.models, optional=True)
        extra: dict[str, Any] = {}
        if kind not in INSTANT_FAULTS:
            extra["length"] = table.duration("for", 30 * SECOND)
        if kind == "slow-load":
            extra["factor"] = table.number("factor", 10.0, most=MOST_TIMES)
            if not extra["factor"]:
                raise table.error("factor", "is 0, and no load takes no time", "Give how many times as long: 10.")
        if kind in ("drop-messages", "duplicate-messages", "delay-messages", *CLIENT_FAULTS):
            extra["p"] = table.number("p", 0.3)
            if extra["p"] > 1:
                raise table.error("p", "is above 1", "Give a probability from 0 to 1.")
        if kind in ("delay-messages", "backend-dies", *CLIENT_FAULTS):
            extra["delay"] = table.distribution("delay", Distribution("exp", 2 * SECOND))
        if kind == "clock-jump":
            extra["by"] = table.take("by", 3600 * SECOND, lambda value: _signed_duration(value, "by"))
        if kind == "memory-pressure":
            extra["size"] = table.size("size", 4 * GIB)
            extra["pool"] = table.integer("pool", 0)
            if extra["pool"] >= self.pools[target]:
                cure = f"{target} has {self.pools[target]}, and the first is 0."
                raise table.error("pool", f"{extra['pool']} is no memory pool of {target}", cure)
        spec = FaultSpec(kind=kind, at=self._moment(table, "at"), target=target, model=model, **extra)
        table.done()
        return spec

    def random_faults(self, table: Table | None) -> RandomFaults | None:
        if table is None:
            return None
        self._note_line("random_faults", table)
        rates = {kind: table.number(kind) for kind in FAULT_KINDS if kind in table}
        table.known += FAULT_KINDS
        stop_at = self._moment(table, "stop_at", self.duration)
        for kind, rate in rates.items():
            if rate * stop_at / HOUR > MOST_FAULTS:
                cure = f"It is a rate per hour: give one that makes up to {MOST_FAULTS:,}."
                raise table.error(kind, f"makes about {rate * stop_at / HOUR:,.0f} faults", cure)
        length = table.distribution("length", Distribution("exp", 30 * SECOND))
        spec = RandomFaults(rates=rates, length=length, stop_at=stop_at)
        table.done()
        return spec

    def admin(self, table: Table) -> AdminSpec:
        action = table.choice("action", ACTIONS)
        at = self._moment(table, "at")
        spec = ACTIONS[action](self, table, action, at)
        table.done()
        return spec

    def _of_node(self, table: Table, action: str, at: int) -> AdminSpec:
        values: dict[str, Any] = {}
        node = self._known(table, "node", self.nodes)
        if action == "set-labels":
            values["labels"] = table.mapping("labels", None, _own_label)
            if values["labels"] is None:
                raise table.error("labels", "is missing", 'Add labels = { key = "value" }; "" removes one.')
        elif action == "set-budget":
            values["budget"] = table.take("value", None, lambda value: parse_budget(value, "value"))
            if values["budget"] is None:
                raise table.error("value", "is missing", 'Add value = "80%".')
        elif action == "drain":
            values["within"] = _patience(table)
        elif action == "set-max-replicas":
            values["slots"] = table.integer("value", least=1)
        return AdminSpec(action=action, at=at, node=node, values=values)

    def _of_model(self, table: Table, action: str, at: int) -> AdminSpec:
        key = "name" if "name" in table else "model"
        name = table.text(key)
        if action != "declare-model" and name not in self.models:
            cure = f"Declare it before that moment; there are: {', '.join(self.models) or 'none'}."
            raise table.error(key, f"no model is named {name!r}", cure)
        values: dict[str, Any] = {}
        if action in ("declare-model", "edit-model"):
            # Read for its errors now, and again over the model as it is when the time comes.
            given = dict(table.data)
            rest = Table(table.source, {k: v for k, v in given.items() if k not in _ADMIN_KEYS}, table.header,
                         table.ordinal, table.label)  # fmt: skip
            values["edit"] = lambda base: self.model(_again(rest), base, named=name)
            self.declared[name] = values["edit"](self.declared.get(name) if action == "edit-model" else None)
            table.known += list(given)
        elif action == "set-scheduling":
            if not set(table.data) - set(_ADMIN_KEYS):
                raise table.error("", "changes nothing", f"Give any of: {', '.join(SCHEDULING_KEYS)}.")
            rest = Table(table.source, dict(table.data), table.header, table.ordinal, table.label)
            # Read for its errors over what the file has said of the model so far.
            so_far = self.declared.get(name, ModelSpec(name=name))
            self.declared[name] = replace(so_far, scheduling=scheduling(table, so_far.scheduling))
            values["merge"] = lambda base: scheduling(_again(rest), base)
        elif action == "load-info":
            values["spec"] = LoadSpec(
                backend=_backend(table), options=table.mapping("options", {}, _option),
                vram=table.size("vram", 0), ram=table.size("ram", 0), disk=table.size("disk", 0),
                pools=table.take("pools", 1, lambda value: parse_pools(value, "pools")),
            )  # fmt: skip
        else:
            self.declared.pop(name, None)
        return AdminSpec(action=action, at=at, model=name, values=values)

    def _of_tenant(self, table: Table, action: str, at: int) -> AdminSpec:
        return AdminSpec(action=action, at=at, tenant=table.text("tenant"), values={"limits": _limits(table)})

    def _freeze(self, table: Table, action: str, at: int) -> AdminSpec:
        return AdminSpec(action=action, at=at, values={"what": table.choice("what", ("evictions", "reconciler"))})

    def _set(self, table: Table, action: str, at: int) -> AdminSpec:
        values = table.settings(skip=("at", "action"))
        if not values:
            raise table.error("", "sets nothing", 'Name a setting: min_residency = "1m".')
        return AdminSpec(action=action, at=at, values={"settings": values})

    # --- what is expected -------------------------------------------------------------------------------------------

    def expect(self, table: Table | None) -> Expect:
        if table is None:
            return Expect()
        numbers: dict[str, Bound] = {}
        for name in [name for name in EXPECTED_NUMBERS if name in table]:
            numbers[name] = table.take(name, Bound(), functools.partial(parse_bound, key=name))
        table.known += EXPECTED_NUMBERS
        groups = {
            name: table.mapping(name, {}, lambda value, key: parse_bound(value, key))
            for name in EXPECTED_GROUPS
            if name in table
        }
        table.known += EXPECTED_GROUPS
        known = {
            "refused_as": [str(code) for code in RefusalCode],
            "replicas_at_end": self.models,
            "effects": [effect.name for effect in EFFECT_TYPES],
            "served_on": self.nodes,
        }
        for group, bounds in groups.items():
            for key in bounds:
                if group in known and key not in known[group]:
                    raise table.error(group, f"{key!r} is not known", f"There are: {', '.join(known[group])}.")
        properties = table.texts("properties", PROPERTIES)
        if unknown := [name for name in properties if name not in PROPERTIES]:
            raise table.error("properties", f"{unknown[0]!r} is none", f"Choose from: {', '.join(PROPERTIES)}.")
        spec = Expect(
            numbers=numbers, groups=groups, quiet_after=table.duration("quiet_after", None), properties=properties
        )
        table.done()
        return spec

    # --- shared -----------------------------------------------------------------------------------------------------

    def _note_line(self, what: str, table: Table) -> None:
        """Where the first of its kind begins; looked up once, for that takes the whole text."""
        if what not in self.lines:
            self.lines[what] = table.line

    @staticmethod
    def _asked_for(table: Table, key: str) -> str:
        """The name of a model that is asked for; it need not be declared, and is refused then."""
        name = table.text(key)
        if not name:
            raise table.error(key, "is empty", "Name the model that is asked for.")
        return name

    def _known(self, table: Table, key: str, names: list[str], *, optional: bool = False) -> str:
        if optional and key not in table:
            table.known.append(key)
            return ""
        name = table.text(key)
        if name not in names:
            raise table.error(key, f"{name!r} is not declared", f"There are: {', '.join(names) or 'none'}.")
        return name

    def _moment(self, table: Table, key: str, default: int | None = None) -> int:
        """An instant within the run."""
        at = table.duration(key) if default is None else table.duration(key, default)
        if at > self.duration:
            raise table.error(key, "is after the end of the run", "Give an earlier moment, or a longer duration.")
        return at


_REQUIRED_RATE = -1.0
MOST_AT_ONCE = 1_000_000
"""What one row of requests may count: with ``every = "0s"`` all of them come in one instant."""
MOST_OF_A_WORKLOAD = 20_000_000
"""What a rate may come to: an hour or two of a computer's time."""
MOST_FAULTS = 1_000_000
MOST_TIMES = 1e6
"""So many times as long, or as often, is beyond every run."""
STEEPEST = 20.0
"""A Zipf steeper than that asks for its first model alone."""
HEAVIEST = 1e12
"""Weights beside which an ordinary one would be nothing."""
AUTOMATIC_LABELS = ("node.name", "node.replica-slots", "gpu.vram")
"""What every node's labels say by themselves; ``gpu.vendor`` may be given, as no other key says whose GPUs they are."""
_ADMIN_KEYS = ("at", "action", "model", "name")

ACTIONS: dict[str, Callable[[_Reader, Table, str, int], AdminSpec]] = {
    **dict.fromkeys(
        ("set-labels", "drain", "resume", "approve", "remove-node", "set-budget", "set-max-replicas"),
        _Reader._of_node,
    ),
    **dict.fromkeys(("set-scheduling", "declare-model", "edit-model", "remove-model", "load-info"), _Reader._of_model),
    **dict.fromkeys(("freeze", "thaw"), _Reader._freeze),
    "set": _Reader._set,
    "set-tenant-limits": _Reader._of_tenant,
}


def _when(table: Table) -> int:
    """When a step is taken: steps are read in that order, each over what those before it have made.

    One whose moment cannot be read comes first, and its reading says what is wrong.
    """
    try:
        return parse_duration(table.data.get("at", ""))
    except InvalidField:
        return -1


def _limits(table: Table) -> TenantLimits:
    """A tenant's own limits; what is not given is as the settings say."""
    # Each is read by itself, so that the one that is wrong is named with its line.
    return TenantLimits(
        at_once=table.take("at_once", None, lambda value: parse_limits({"at_once": value}).at_once),
        rate=table.take("rate", None, lambda value: parse_limits({"rate": value}).rate),
        burst=table.take("burst", None, lambda value: parse_limits({"burst": value}).burst),
        priority=table.take("priority", None, lambda value: parse_limits({"priority": value}).priority),
    )


def _lengths(value: object) -> tuple[int, ...]:
    """A list of durations."""
    return tuple(parse_duration(one, "busy_for") for one in value) if isinstance(value, list) else ()


def _again(table: Table) -> Table:
    return Table(table.source, table.data, table.header, table.ordinal, table.label)


def scheduling(table: Table, old: Scheduling) -> Scheduling:
    """Where and how often a model may run: the keys that are given, over those that were."""
    everywhere = old.everywhere
    bounds = "min_replicas" in table or "max_replicas" in table
    if "replicas" in table:
        table.choice("replicas", ("all",))
        if bounds:
            raise table.error("replicas", "stands beside min_replicas or max_replicas", "Give one or the other.")
        everywhere = True
    elif bounds:
        everywhere = False
    table.known.append("replicas")
    least = table.integer("min_replicas", 0 if everywhere else old.min_replicas)
    most = table.integer("max_replicas", 0 if everywhere else old.max_replicas)
    if most and least > most:
        raise table.error("min_replicas", f"{least} is above max_replicas", "Raise max_replicas, or 0 for no ceiling.")
    group = table.text("anti_affinity", old.anti_affinity)
    hard = table.boolean("anti_affinity_hard", old.anti_affinity_hard)
    if hard and not group:
        raise table.error("anti_affinity_hard", "stands without a group", 'Name one: anti_affinity = "NAME".')
    return Scheduling(
        selector=_selector(table, old),
        min_replicas=least,
        max_replicas=most,
        everywhere=everywhere,
        parallel=table.integer("parallel", old.parallel),
        priority=table.integer("priority", old.priority, least=None),
        pinned=table.boolean("pinned", old.pinned),
        idle_unload=table.take("idle_unload", old.idle_unload, parse_idle_unload),
        prefix_affinity=table.take("prefix_affinity", old.prefix_affinity, parse_affinity),
        anti_affinity=group,
        anti_affinity_hard=hard,
        placement=table.take("placement", old.placement, parse_placement),
    )


def _talk(table: Table) -> Talk:
    usual = Talk()
    return Talk(
        systems=table.integer("systems", usual.systems, least=1),
        system_blocks=table.integer("system_blocks", usual.system_blocks, most=LONGEST_PROMPT),
        turns=max(1.0, table.number("turns", usual.turns)),
        turn_blocks=max(1.0, table.number("turn_blocks", usual.turn_blocks, most=LONGEST_PROMPT)),
        pause=table.duration("pause", usual.pause),
    )


def _blocks(value: object, key: str) -> int:
    length = whole(value, key, least=1)
    if length > LONGEST_PROMPT:
        raise InvalidField(key, f"{length} blocks are too many", cure=f"Give {LONGEST_PROMPT} at most.")
    return length


def _selector(table: Table, old: Scheduling) -> Selector:
    if "node_selector" not in table:
        table.known.append("node_selector")
        return old.selector

    def read(value: Any) -> Selector:
        if not isinstance(value, dict):
            raise InvalidField("node_selector", f"{value!r} is not a table", cure='Use { tier = "fast" }.')
        return parse_selector(value)

    return table.take("node_selector", (), read)


def parse_bound(value: object, key: str) -> Bound:
    """A number, or ``{ min = , max = }``; raises InvalidField."""
    if isinstance(value, dict):
        if not value or set(value) - {"min", "max"}:
            raise InvalidField(key, f"{value!r} is no bound", cure="Give { min = 1 }, { max = 2 } or both.")
        ends = {name: real(end, f"{key}.{name}") for name, end in value.items()}
        if ends.get("min", 0.0) > ends.get("max", float("inf")):
            raise InvalidField(key, "min is above max", cure="No number is both; give a lower min or a higher max.")
        return Bound(ends.get("min"), ends.get("max"))
    number = real(value, key)
    return Bound(number, number)


def _bursts(table: Table) -> Bursts | None:
    given = table.inner("bursts")
    if given is None:
        return None
    bursts = Bursts(
        every=given.distribution("every"),
        length=given.distribution("length"),
        factor=given.number("factor", most=MOST_TIMES),
    )
    given.done()
    if not 0 < bursts.every.length < FOREVER or not 0 < bursts.length.length < FOREVER:
        raise table.error("bursts", "a length is nothing or endless", 'Use every = "exp 30m", length = "exp 3m".')
    if bursts.factor <= 1:
        raise table.error("bursts", "factor is not above 1", "Use factor = 8.")
    return bursts


def _sizes(value: object, key: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise InvalidField(key, f"{value!r} is no list of sizes", cure='Use ["24GiB", "24GiB"].')
    return tuple(written_size(item, key) for item in value)


def _backend(table: Table, *default: str) -> str:
    backend = table.text("backend", *default)
    if "backend" in table and not backend:
        raise table.error("backend", "is empty", "Name one, or leave it out: then nothing is known of how to load it.")
    return backend


def _patience(table: Table) -> int:
    """How long somebody waits; 0 when nothing is said, and the shortest wait there is for ``"0s"``."""
    return max(1, table.duration("deadline")) if "deadline" in table else table.duration("deadline", 0)


def _priority(table: Table) -> int:
    return table.integer("priority", 0, least=-HIGHEST_PRIORITY, most=HIGHEST_PRIORITY)


def _own_label(value: object, key: str) -> str:
    name = key.removeprefix("labels.")
    if name in AUTOMATIC_LABELS:
        raise InvalidField(key, "this label is automatic", cure=f"Choose another than {', '.join(AUTOMATIC_LABELS)}.")
    if not isinstance(value, str):
        raise InvalidField(key, f"{value!r} is not text", cure='Labels are text: { tier = "fast" }.')
    return value


def _option(value: object, key: str) -> str | int | float | bool:
    if not isinstance(value, str | int | float | bool):
        raise InvalidField(key, f"{value!r} is no option", cure="Give text, a number, true or false.")
    return value


def _signed_duration(value: object, key: str) -> int:
    if isinstance(value, str) and value.startswith("-"):
        return -parse_duration(value[1:], key)
    return parse_duration(value, key)  # type: ignore[arg-type]  # parse_duration names what is not text


def _finite(table: Table, key: str) -> int:
    length = table.duration(key, 0)
    if length >= FOREVER:
        raise table.error(key, "never ends", 'Use "5s"; the fault load-hangs is for what never answers.')
    return length


__all__ = ["parse_bound", "parse_scenario", "scheduling", "whole"]
