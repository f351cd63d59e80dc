"""Scenarios: what a run is made of, as frozen values. :mod:`interlock.simulation.reading.parse` reads them from TOML.

Lengths and instants are microseconds from the start of the run, sizes bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from interlock.domain.documents import parse_toml
from interlock.domain.entities import Budget, LoadSpec, Scheduling, TenantLimits
from interlock.domain.errors import UnreadableFile
from interlock.domain.units import FOREVER, GIB, MINUTE, SECOND
from interlock.simulation.prompts import Chain, Talk

from .fields import Distribution

BUNDLED = Path(__file__).parent.parent / "scenarios"
ANY = "any"
"""What is called so is not in a file: each seed chooses a scenario of its own."""
PROPERTIES = ("T", "U", "S", "Q", "W")
NODE_FAULTS = (
    "node-crash", "node-recover", "partition", "heal", "probe-timeout", "drop-messages", "duplicate-messages",
    "delay-messages", "clock-jump", "name-clash", "machine-swap", "memory-pressure", "worker-leaves",
)  # fmt: skip
REPLICA_FAULTS = ("process-kill", "backend-dies", "load-fails", "load-hangs", "slow-load")
WRITER_FAULTS = ("writer-crash", "store-stall", "store-error", "holder-crash")
CLIENT_FAULTS = ("clients-leave",)
FAULT_KINDS = NODE_FAULTS + REPLICA_FAULTS + WRITER_FAULTS + CLIENT_FAULTS
INSTANT_FAULTS = frozenset({"node-recover", "heal", "process-kill", "writer-crash", "holder-crash", "machine-swap"})
"""Faults that happen at a moment and have no length."""


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A node. Rates are bytes per second; a ``stage_rate`` of 0 means that staging takes no time."""

    name: str
    labels: dict[str, str] = {}
    pools: tuple[int, ...] = ()
    budget: Budget | None = None
    ram: int = 0
    unified: bool = False
    """Its one pool is its main memory as well."""
    disk: int | None = None
    max_replicas_per_model: int = 1
    load_rate: int = 2**30
    stage_rate: int = 0
    install_time: int = 0
    unload_time: int = 0
    progress: bool = True
    """Whether its worker tells how far a load is."""
    approved: bool = True
    up: bool = True


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A model: how it is loaded, where it may run, and how long one request takes."""

    name: str
    spec: LoadSpec = LoadSpec()
    scheduling: Scheduling = Scheduling()
    aliases: tuple[str, ...] = ()
    service_time: Distribution = Distribution("exp", 2 * SECOND)
    prefill_time: int = 0
    """What computing one block of a prompt takes, in microseconds, on top of the service time."""
    prefix_cache: int = 0
    """So many blocks of prompts does a replica keep, and computes them no second time."""


class ReplicaSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A replica that is loaded at time 0, with locks that a background holder keeps until ``busy_for`` is over."""

    model: str
    node: str
    in_flight: int = 0
    busy_for: int = FOREVER
    evictable_in: int = 0
    """For how long it is still safe from its equals."""
    busy_each: tuple[int, ...] = ()
    """How long each of the locks is kept, where they differ."""
    pools: tuple[int, ...] = ()
    """The memory pools of its node that it lies in; where it fits best when none is named."""
    line: int = 0
    """Where the file says so, for messages; 0 when no file does."""


class TenantSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant with limits of its own."""

    name: str
    limits: TenantLimits = TenantLimits()


class RequestSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Requests at fixed moments. ``deadline`` bounds the wait for a lock; 0 means the setting.

    The client hangs up ``leaves_after`` it came, whether its request waits or runs; 0: it stays to the end.
    """

    model: str
    at: int = 0
    count: int = 1
    every: int = SECOND
    service_time: Distribution | None = None
    deadline: int = 0
    priority: int = 0
    prompt: Chain = ()
    tenant: str = ""
    leaves_after: int = 0


class Bursts(msgspec.Struct, frozen=True, kw_only=True):
    """Each model of a workload, by itself, is asked for ``factor`` times as often now and then."""

    every: Distribution
    """From the end of one burst to the beginning of the next."""
    length: Distribution
    factor: float


class WorkloadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A stream of requests: ``poisson`` at ``rate`` per second over weighted ``models``, or the arrivals of a trace.

    With ``conversations`` the rate is that of conversations which begin; ``talk`` says how they are.
    """

    kind: str
    models: tuple[tuple[str, float], ...]
    rate: float = 0.0
    path: str = ""
    format: str = ""
    start: int = 0
    until: int = FOREVER
    service_time: Distribution | None = None
    deadline: int = 0
    priority: int = 0
    bursts: Bursts | None = None
    talk: Talk | None = None
    tenant: str = ""


class FaultSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Something that goes wrong. ``target`` is a node, ``pool`` one of its memory pools; ``by`` may be negative."""

    kind: str
    at: int
    target: str = ""
    model: str = ""
    length: int = 30 * SECOND
    factor: float = 10.0
    p: float = 0.3
    delay: Distribution = Distribution("exp", 2 * SECOND)
    by: int = 3600 * SECOND
    size: int = 4 * GIB
    pool: int = 0


class AdminSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator does. ``values`` are the action's own keys, read and checked."""

    action: str
    at: int
    node: str = ""
    model: str = ""
    tenant: str = ""
    values: dict[str, Any] = {}


class RandomFaults(msgspec.Struct, frozen=True, kw_only=True):
    """Faults at random: rate per virtual hour by kind, until ``stop_at``; then all heals."""

    rates: dict[str, float]
    length: Distribution = Distribution("exp", 30 * SECOND)
    stop_at: int = FOREVER


class ScopeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What ``prove`` explores of this scenario."""

    requests: int = 3
    admin: bool = False
    crashes: int = 0
    completions_fair: bool = False


class Bound(msgspec.Struct, frozen=True):
    """A number that is expected: exact when both ends are equal."""

    least: float | None = None
    most: float | None = None

    def holds(self, value: float) -> bool:
        """Whether the value is within."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        if self.least == self.most:
            return f"{self.least:g}"
        ends = [("min", self.least), ("max", self.most)]
        return " ".join(f"{name} {end:g}" for name, end in ends if end is not None)


class Expect(msgspec.Struct, frozen=True, kw_only=True):
    """What the run must bring. ``numbers`` by name; ``groups`` by name, then by key."""

    numbers: dict[str, Bound] = {}
    groups: dict[str, dict[str, Bound]] = {}
    quiet_after: int | None = None
    properties: tuple[str, ...] = PROPERTIES


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One run's world and what happens in it. ``raw`` is the file as parsed, for shrinking and writing it again."""

    name: str
    description: str = ""
    seed: int = 1
    duration: int = 30 * MINUTE
    settings: dict[str, int | str] = {}
    nodes: tuple[NodeSpec, ...] = ()
    models: tuple[ModelSpec, ...] = ()
    replicas: tuple[ReplicaSpec, ...] = ()
    tenants: tuple[TenantSpec, ...] = ()
    requests: tuple[RequestSpec, ...] = ()
    workloads: tuple[WorkloadSpec, ...] = ()
    faults: tuple[FaultSpec, ...] = ()
    admin: tuple[AdminSpec, ...] = ()
    random_faults: RandomFaults | None = None
    scope: ScopeSpec = ScopeSpec()
    expect: Expect = Expect()
    source: str = ""
    """What to call it on the command line."""
    flags: tuple[str, ...] = ()
    """What the command line needs beside that, where the scenario is not as its file says."""
    lines: dict[str, int] = {}
    """Where the file declares each ``node NAME``, ``model NAME`` and ``tenant NAME``, and has the first ``fault KIND``,
    ``workloads`` and ``random_faults``; for messages."""
    raw: dict[str, Any] = {}
    folder: str = "."
    trace: str = ""
    """The trace whose requests stand in place of the file's own."""
    by_seed: bool = False
    """Whether each seed is a scenario of its own; this is the one of :attr:`seed`."""

    @property
    def title(self) -> str:
        """What to call it where it runs with many seeds."""
        return ANY if self.by_seed else self.name

    def of_seed(self, seed: int) -> Scenario:
        """What a run with this seed runs: itself, but where each seed is a scenario of its own."""
        if not self.by_seed or seed == self.seed:
            return self
        from interlock.simulation.any_cluster import any_scenario  # here, because that module needs this one's classes

        return any_scenario(seed)

    @classmethod
    def parse(cls, text: str, name: str = "scenario", folder: Path | None = None) -> Scenario:
        """The scenario in a TOML text; raises UnreadableFile with key and line. Traces are looked for in ``folder``."""
        from .parse import parse_scenario  # here, because that module needs this one's classes

        try:
            data = parse_toml(text)
        except ValueError as error:
            cure = "See https://toml.io for how TOML is written."
            raise UnreadableFile(f"{name}: {error}.", cure=cure) from None
        return parse_scenario(data, text, name, folder or Path())

    @classmethod
    def load(cls, name: str | Path) -> Scenario:
        """The scenario in a file, or the bundled one of that name, or ``any``; raises UnreadableFile."""
        if str(name) == ANY and not Path(name).is_file():
            return cls(name=ANY, by_seed=True, seed=0).of_seed(1)
        return cls.parse(read_text(name), str(name), folder_of(name))


def read_text(name: str | Path) -> str:
    """The text of a scenario file, or of the bundled one of that name; raises UnreadableFile."""
    try:
        return _path_of(name).read_text(encoding="utf-8-sig")  # some editors begin a file with a mark of its order
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFile(f"{name}: {error}.", cure="Give a scenario file that can be read.") from None


def folder_of(name: str | Path) -> Path:
    """Where its traces are looked for; raises UnreadableFile."""
    path = _path_of(name)
    return path.parent if path.is_file() else Path()  # what comes through a pipe has no folder but the current one


def _path_of(name: str | Path) -> Path:
    path = Path(name)
    if path.suffix or path.is_file() or path.is_fifo() or path.is_char_device() or path.is_socket():
        return path
    bundled = BUNDLED / f"{name}.toml"
    if not bundled.is_file():
        known = ", ".join([ANY, *bundled_names()])
        raise UnreadableFile(f"no scenario is named {str(name)!r}.", cure=f"Give a file, or one of: {known}.")
    return bundled


def bundled_names() -> list[str]:
    """The bundled scenarios."""
    return sorted(path.stem for path in BUNDLED.glob("*.toml"))
