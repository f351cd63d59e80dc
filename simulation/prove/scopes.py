"""Reading scopes: scenario files whose ``[scope]`` says what may happen, and whose faults and steps say what else.

In a scope a request, a fault or an administrative step comes at any moment, not at its ``at``; each ``[[faults]]``
table is one more misfortune of its kind (loads that fail, and backends that die, for ever always do), and the steps
come in their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from msgspec.structs import replace

from interlock.domain import commands as cmd
from interlock.domain.errors import UnreadableFile
from interlock.domain.prefixes import marks_of
from interlock.domain.settings import Settings
from interlock.domain.units import FOREVER
from interlock.simulation.reading.scenario import BUNDLED as SCENARIOS
from interlock.simulation.reading.scenario import AdminSpec, ModelSpec, NodeSpec, Scenario
from interlock.simulation.world import NodeFacts

from .scope import AdminStep, Kind, Scope, ScopeModel, ScopeNode, Target

BUNDLED = Path(__file__).parent.parent / "scopes"
PROTOCOL = "writer-protocol"
"""The scope of the writer's protocol: a model of its own, without a file."""

_RESOURCE_OF_FAULT = {
    "node-crash": "crashes", "partition": "partitions", "process-kill": "kills", "backend-dies": "kills",
    "load-fails": "failures", "load-hangs": "hangs", "delay-messages": "delays", "duplicate-messages": "repeats",
    "writer-crash": "takeovers", "holder-crash": "holder_losses", "clients-leave": "departures",
    "worker-leaves": "goodbyes",
}  # fmt: skip


LARGEST = "three-nodes-three-models"
"""The scope that takes the longest."""


def bundled_scopes() -> list[str]:
    """The names of the bundled scopes, that of the writer's protocol last."""
    return [*sorted(path.stem for path in BUNDLED.glob("*.toml")), PROTOCOL]


def load_scope(name: str) -> Scope:
    """The scope in a file, or the bundled scope or scenario of that name; raises UnreadableFile."""
    path = Path(name)
    if not path.suffix and not path.exists():
        found = [folder / f"{name}.toml" for folder in (BUNDLED, SCENARIOS) if (folder / f"{name}.toml").exists()]
        if not found:
            cure = f"Give a file, or one of: {', '.join(bundled_scopes())}."
            raise UnreadableFile(f"no scope is named {name!r}.", cure=cure)
        path = found[0]
    return scope_of(Scenario.load(path))


def scope_of(scenario: Scenario) -> Scope:
    """What ``prove`` explores of a scenario; raises UnreadableFile for what it does not explore."""
    if scenario.workloads or scenario.random_faults:
        what = "workloads" if scenario.workloads else "random_faults"
        cure = "List [[requests]] and [[faults]]; [scope] says how many requests come."
        where = f"{scenario.source}:{scenario.lines.get(what, 1)}"
        raise UnreadableFile(f"{where}: prove does not explore {what}.", cure=cure)
    _check_that_something_happens(scenario)
    faults = _faults(scenario)
    amounts: Counter[str] = Counter(requests=scenario.scope.requests, crashes=scenario.scope.crashes)
    amounts.update(faults.amounts)
    steps = _steps(scenario) if scenario.scope.admin else ()
    amounts["admin"] = len(steps)
    kinds = dict.fromkeys(
        Kind(request.model, request.priority, request.deadline, marks_of(request.prompt), request.tenant)
        for request in scenario.requests
    )
    return Scope(
        name=scenario.name,
        description=scenario.description,
        settings=replace(Settings(), **scenario.settings),
        nodes=tuple(ScopeNode(_facts(node), node.approved, node.up) for node in scenario.nodes),
        models=tuple(ScopeModel(model.name, model.spec, model.scheduling, model.aliases) for model in scenario.models),
        replicas=scenario.replicas,
        tenants=tuple((tenant.name, tenant.limits) for tenant in scenario.tenants),
        kinds=tuple(kinds),
        steps=steps,
        holders=1 + amounts["holder_losses"],
        completions_fair=scenario.scope.completions_fair,
        resources={name: amount for name, amount in amounts.items() if amount},
        targets=tuple(faults.targets),
        doomed=tuple(faults.doomed),
        fragile=tuple(faults.fragile),
        rivals=tuple(faults.rivals),
        source=scenario.source,
        lines=scenario.lines,
        untried=tuple(_untried(scenario)),
    )


class _Faults(msgspec.Struct):
    """What a scenario's faults become: how often each resource may be used, and where; each target once, in order."""

    amounts: Counter[str] = msgspec.field(default_factory=Counter)
    targets: dict[Target, None] = {}
    doomed: dict[Target, None] = {}
    fragile: dict[Target, None] = {}
    rivals: dict[str, None] = {}


def _faults(scenario: Scenario) -> _Faults:
    found = _Faults()
    for fault in scenario.faults:
        if fault.kind == "name-clash":
            found.rivals[fault.target] = None
            continue
        resource = _RESOURCE_OF_FAULT.get(fault.kind)
        if resource is None:
            cure = f"prove explores: {', '.join(_RESOURCE_OF_FAULT)}, name-clash."
            where = f"{scenario.source}:{scenario.lines.get(f'fault {fault.kind}', 1)}"
            raise UnreadableFile(f"{where}: prove does not explore the fault {fault.kind!r}.", cure=cure)
        target = Target(resource, fault.target, fault.model)
        if fault.kind == "load-fails" and fault.length >= FOREVER:
            found.doomed[target] = None
        elif fault.kind == "backend-dies" and fault.length >= FOREVER:
            found.fragile[target] = None
        else:
            found.amounts[resource] += 1
            found.targets[target] = None
    return found


def _check_that_something_happens(scenario: Scenario) -> None:
    """Where nobody asks for anything all properties hold, and nothing is proved."""
    for what, there in (("nodes", scenario.nodes), ("models", scenario.models)):
        if not there:
            cure = f"Describe a small cluster: add [[{what}]]."
            raise UnreadableFile(f"{scenario.source}: it has no [[{what}]], and there is nothing to prove.", cure=cure)
    if scenario.scope.requests and not scenario.requests:
        count = scenario.scope.requests
        problem = f"{scenario.source}: {count} requests may come, and it has no [[requests]] that say for which model."
        raise UnreadableFile(problem, cure="Add [[requests]], or write requests = 0 under [scope].")


def _untried(scenario: Scenario) -> Iterator[str]:
    scope = scenario.scope
    if scope.admin and not scenario.admin:
        yield "no step of an operator is tried: [scope] has admin = true, and there is no [[admin]]"
    if scenario.admin and not scope.admin:
        yield "no step of an operator is tried: there are [[admin]] steps, and [scope] has no admin = true"
    known = {name for model in scenario.models for name in (model.name, *model.aliases)}
    known |= {step.model for step in scenario.admin if scope.admin}
    for name in dict.fromkeys(request.model for request in scenario.requests):
        if name not in known:
            yield f"requests for {name} are refused, and nothing else: no model and no alias is called so"


def _facts(node: NodeSpec) -> NodeFacts:
    return NodeFacts(
        name=node.name, labels=tuple(sorted(node.labels.items())), pools=node.pools, budget=node.budget, ram=node.ram,
        unified=node.unified, disk=node.disk, max_replicas_per_model=node.max_replicas_per_model,
    )  # fmt: skip


# --- administrative steps -------------------------------------------------------------------------------------------


def _steps(scenario: Scenario) -> tuple[AdminStep, ...]:
    """The operator's steps as commands, each over what the steps before it have made."""
    models = {model.name: model for model in scenario.models}
    return tuple(_step(step, models) for step in scenario.admin)


def _step(step: AdminSpec, models: dict[str, ModelSpec]) -> AdminStep:
    values = step.values
    if step.node:
        command = _ON_NODES[step.action](step)
        return AdminStep(f"an operator: {step.action} {step.node}", command)
    if step.action in ("freeze", "thaw"):
        what = values["what"]
        command = cmd.Freeze(what=what) if step.action == "freeze" else cmd.Thaw(what=what)
        return AdminStep(f"an operator: {step.action} {what}", command)
    if step.tenant:
        limited = cmd.SetTenantLimits(tenant=step.tenant, limits=values["limits"])
        return AdminStep(f"an operator limits tenant {step.tenant}", limited)
    if step.action == "set":
        return AdminStep("an operator changes settings", cmd.ChangeSettings(values=values["settings"]))
    return AdminStep(f"an operator: {step.action} {step.model}", _on_model(step, models))


def _on_model(step: AdminSpec, models: dict[str, ModelSpec]) -> cmd.Command:
    name, values = step.model, step.values
    if step.action == "remove-model":
        models.pop(name, None)
        return cmd.RemoveModel(model=name)
    if step.action == "load-info":
        return cmd.StoreLoadInfo(model=name, spec=values["spec"])
    if step.action == "set-scheduling":
        known = models.get(name, ModelSpec(name=name))  # one that was removed: the core will say so
        changed = models[name] = replace(known, scheduling=values["merge"](known.scheduling))
        return cmd.SetScheduling(model=name, scheduling=changed.scheduling)
    edited: ModelSpec = values["edit"](models.get(name))
    models[name] = edited
    return cmd.DeclareModel(model=name, spec=edited.spec, scheduling=edited.scheduling, aliases=edited.aliases)


_ON_NODES: dict[str, Callable[[AdminSpec], cmd.Command]] = {
    "set-labels": lambda step: cmd.SetNodeLabels(node=step.node, labels=step.values["labels"]),
    "drain": lambda step: cmd.DrainNode(node=step.node, within=step.values["within"]),
    "resume": lambda step: cmd.ResumeNode(node=step.node),
    "approve": lambda step: cmd.ApproveNode(node=step.node),
    "remove-node": lambda step: cmd.RemoveNode(node=step.node),
    "set-budget": lambda step: cmd.SetNodeBudget(node=step.node, budget=step.values["budget"]),
    "set-max-replicas": lambda step: cmd.SetReplicaSlots(node=step.node, max_replicas_per_model=step.values["slots"]),
}
