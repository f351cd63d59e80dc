"""A scope: a small cluster, the requests that may come, and how much of each misfortune there is to be.

What may happen only so often is a *resource*; everything else may happen whenever it is possible.
"""

from __future__ import annotations

import msgspec

from interlock.domain.commands import Command, DeclareModel
from interlock.domain.entities import LoadSpec, Scheduling, TenantLimits
from interlock.domain.settings import Settings
from interlock.simulation.reading.scenario import ReplicaSpec
from interlock.simulation.world import NodeFacts

RESOURCES = (
    "requests", "admin", "crashes", "partitions", "kills", "failures", "hangs", "delays", "repeats", "takeovers",
    "holder_losses", "departures", "goodbyes",
)  # fmt: skip
"""What a scope bounds: requests that arrive, administrative steps; crashed and cut-off nodes; replicas whose process
dies; loads that fail, and operations that hang until their silence is noticed; answers that come late, or twice;
writers that take over; gateways that fall silent; clients that hang up; workers that say goodbye."""


class Kind(msgspec.Struct, frozen=True):
    """Requests that are alike; ``deadline`` is how long they wait, in microseconds (0: as the setting says)."""

    model: str
    priority: int = 0
    deadline: int = 0
    prefix: tuple[int, ...] = ()
    """The marks of its prompt."""
    tenant: str = ""


class ScopeNode(msgspec.Struct, frozen=True):
    """A node, and how it is at the beginning."""

    facts: NodeFacts
    approved: bool = True
    up: bool = True


class ScopeModel(msgspec.Struct, frozen=True):
    """A model as it is declared at the beginning."""

    name: str
    spec: LoadSpec
    scheduling: Scheduling = Scheduling()
    aliases: tuple[str, ...] = ()

    @property
    def declaration(self) -> DeclareModel:
        """The command that declares it."""
        return DeclareModel(model=self.name, spec=self.spec, scheduling=self.scheduling, aliases=self.aliases)


class Target(msgspec.Struct, frozen=True):
    """What a misfortune may hit; an empty name is any."""

    resource: str
    node: str = ""
    model: str = ""


class AdminStep(msgspec.Struct, frozen=True):
    """What an operator does, in words and as the command."""

    words: str
    command: Command


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """All that an exploration starts from."""

    name: str
    description: str = ""
    settings: Settings = Settings()
    nodes: tuple[ScopeNode, ...] = ()
    models: tuple[ScopeModel, ...] = ()
    replicas: tuple[ReplicaSpec, ...] = ()
    tenants: tuple[tuple[str, TenantLimits], ...] = ()
    kinds: tuple[Kind, ...] = ()
    steps: tuple[AdminStep, ...] = ()
    holders: int = 1
    completions_fair: bool = False
    resources: dict[str, int] = {}
    """How much there is of each; what is not named there is none of."""
    targets: tuple[Target, ...] = ()
    """What each may hit; a resource that is not named there may hit anything."""
    doomed: tuple[Target, ...] = ()
    """Loads that fail always."""
    fragile: tuple[Target, ...] = ()
    """Copies that die before they have served anybody, as often as there is one."""
    rivals: tuple[str, ...] = ()
    """Nodes whose name a second machine wants, again and again."""
    source: str = ""
    """What its file is called in messages."""
    lines: dict[str, int] = {}
    """Where the file declares each ``node NAME``, ``model NAME`` and ``tenant NAME``."""
    untried: tuple[str, ...] = ()
    """What ``[scope]`` asks for or leaves out so that it is not tried, in words: nobody shall think that it was."""

    def amount(self, resource: str) -> int:
        """How much there is of a resource."""
        return self.resources.get(resource, 0)

    def is_doomed(self, node: str, model: str) -> bool:
        """Whether loads of the model on the node fail always."""
        return _is_among(self.doomed, node, model)

    def is_fragile(self, node: str, model: str) -> bool:
        """Whether copies of the model on the node die young, again and again."""
        return _is_among(self.fragile, node, model)

    def may_hit(self, resource: str, node: str, model: str = "") -> bool:
        """Whether this misfortune may befall that node, and that model there: not where there is none of it."""
        if not self.amount(resource):
            return False
        anywhere = True
        for target in self.targets:
            if target.resource == resource:
                if target.node in ("", node) and (not model or target.model in ("", model)):
                    return True
                anywhere = False
        return anywhere


def _is_among(targets: tuple[Target, ...], node: str, model: str) -> bool:
    return any(target.node in ("", node) and target.model in ("", model) for target in targets)
