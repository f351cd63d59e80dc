"""Models: declaring, editing, load info, scheduling, removing, and loading or unloading by hand."""

from __future__ import annotations

from msgspec.structs import replace

from . import causes, left_behind, loads, roll_outs, routing
from . import events as ev
from .commands import DeclareModel, RemoveModel, RequestLoad, RequestUnload, SetScheduling, StoreLoadInfo
from .entities import ANY_POOLS, LOADING_PHASES, MOST_POOLS, LoadSpec, Model, Phase, Scheduling, WaitKind
from .errors import Conflict, InvalidField, NotFound, Refused
from .profiles import check_profile
from .refusals import RefusalCode
from .requests import LONGEST_NAME
from .routing import Evict, Hold, Place, Refuse
from .shrinking import copies
from .state import State
from .units import LARGEST_NUMBER, LARGEST_SIZE


def find(state: State, name: str) -> Model:
    """The model of that name or alias; raises NotFound."""
    model = state.find_model(name)
    if model is None:
        raise NotFound("model", name, cure="`interlock models` lists them.")
    return model


def declare(state: State, command: DeclareModel, now: int) -> list[ev.Event]:
    """Make the model be so. What is the same already makes no event, so that applying a file twice changes nothing."""
    _check(state, command.model, command.spec, command.scheduling, command.aliases)
    model = state.models.get(command.model)
    spec = _with_known_load_info(model, command.spec)
    if model is None:
        events: list[ev.Event] = [
            ev.ModelDeclared(
                at=now,
                model=command.model,
                spec=command.spec,
                scheduling=command.scheduling,
                aliases=command.aliases,
                revision=1 + _last_revision(state, command.model),
            )
        ]
        if command.spec.backend:
            events.append(ev.LoadInfoStored(at=now, model=command.model, spec=command.spec, source="declared"))
        return events
    events = []
    if (model.scheduling, model.aliases) != (command.scheduling, command.aliases):
        events.append(
            ev.ModelSchedulingChanged(at=now, model=model.name, scheduling=command.scheduling, aliases=command.aliases)
        )
    if spec != model.declared_spec:
        return [*events, *edit(state, model, spec, now, "declared")]
    return [*events, *left_behind.by_selector(state, model, command.scheduling.selector, now)]


def _with_known_load_info(model: Model | None, spec: LoadSpec) -> LoadSpec:
    """A declaration that names no backend leaves what is known: nothing can be loaded without."""
    if model is None or spec.backend or not model.load_info_known:
        return spec
    known = model.declared_spec
    return replace(spec, backend=known.backend, options=spec.options or known.options)


def _last_revision(state: State, name: str) -> int:
    """The highest revision of which anything is left: replicas, or files on a disk.

    A model that is declared again after it was removed is another, and must not be taken for what was left of the
    first; and no new revision for what is left of one that was called off.
    """
    replicas = [state.replicas[replica].revision for replica in state.by_model.get(name, ())]
    files = [revision for model, revision in state.staged_at if model == name]
    return max((*replicas, *files), default=0)


def _check(state: State, name: str, spec: LoadSpec, scheduling: Scheduling, aliases: tuple[str, ...]) -> None:
    if not name or len(name) > LONGEST_NAME:
        raise InvalidField("name", "is empty or too long", cure=f"Give 1 to {LONGEST_NAME} characters.")
    if unprintable := [one for one in (name, *aliases) if not one.isprintable()]:
        cure = "Use characters that can be printed."
        raise InvalidField("name", f"{unprintable[0]!r} holds a character that no name has", cure=cure)
    for field in ("vram", "ram", "disk"):
        if not 0 <= getattr(spec, field) <= LARGEST_SIZE:
            raise InvalidField(field, f"{getattr(spec, field)} is no size in bytes that a machine has")
    for key, value in spec.options.items():
        if isinstance(value, int | float) and not -LARGEST_NUMBER <= value <= LARGEST_NUMBER:  # so it is not NaN either
            raise InvalidField(f"options.{key}", f"{value} is no number that a log can keep")
    if not ANY_POOLS <= spec.pools <= MOST_POOLS:
        cure = f'Give 1 to {MOST_POOLS}, or "any" for as few as it takes.'
        raise InvalidField("pools", f"{spec.pools} is no number of pools that a model can be split over", cure=cure)
    for field in ("min_replicas", "max_replicas", "parallel", "prefix_affinity"):
        if not 0 <= (getattr(scheduling, field) or 0) <= LARGEST_NUMBER:
            raise InvalidField(field, f"{getattr(scheduling, field)} is negative or too large", cure="Give 0 or more.")
    if scheduling.idle_unload is not None and scheduling.idle_unload <= 0:
        raise InvalidField("idle_unload", "is no length above 0", cure='Give "1s" or more, "off" or "default".')
    if scheduling.max_replicas and scheduling.min_replicas > scheduling.max_replicas:
        cure = "Raise max_replicas, or set it to 0 for no ceiling."
        raise InvalidField("min_replicas", f"{scheduling.min_replicas} is above max_replicas", cure=cure)
    if len(scheduling.anti_affinity) > LONGEST_NAME:
        raise InvalidField("anti_affinity", "is too long", cure=f"Give at most {LONGEST_NAME} characters.")
    if scheduling.anti_affinity_hard and not scheduling.anti_affinity:
        raise InvalidField("anti_affinity_hard", "stands without a group", cure='Name one: anti_affinity = "NAME".')
    if scheduling.placement:
        check_profile(scheduling.placement, state.settings.placement_profiles)
    if twice := [alias for place, alias in enumerate(aliases) if alias in aliases[:place]]:
        raise InvalidField("aliases", f"{twice[0]!r} is given twice", cure="Give it once.")
    for alias in aliases:
        owner = state.aliases.get(alias, name)
        if owner != name or (alias in state.models and alias != name):
            raise InvalidField("aliases", f"{alias!r} names another model already", cure="Choose another alias.")
    if name in state.aliases and name not in state.models:
        raise InvalidField("name", f"{name!r} is an alias of {state.aliases[name]}", cure="Choose another name.")


def edit(state: State, model: Model, spec: LoadSpec, now: int, source: str) -> list[ev.Event]:
    """A new revision. It serves at once when no replica of the old one lives; else the reconciler rolls it out.

    The first load info that is known for a model is no edit: it mends the revision that nothing could load. Nor is what
    serves already: that takes an edit back, and nothing is loaded anew for it.
    """
    if not model.load_info_known and not state.by_model.get(model.name):
        return [ev.LoadInfoStored(at=now, model=model.name, spec=spec, source=source)]
    if roll_outs.is_taken_back(model, spec):
        return roll_outs.call_off(state, model, now)
    revision = 1 + max(model.declared, _last_revision(state, model.name))
    events: list[ev.Event] = [ev.RevisionDeclared(at=now, model=model.name, revision=revision, spec=spec)]
    if spec.backend and not model.load_info_known:
        events.append(ev.LoadInfoStored(at=now, model=model.name, spec=spec, source=source))
    live = [state.replicas[replica] for replica in state.by_model.get(model.name, ())]
    for replica in live:
        if replica.phase in LOADING_PHASES:
            events += loads.give_up(state, replica, "its revision was superseded while it loaded", now)
    if not any(replica.phase is Phase.LOADED and replica.revision == model.serving for replica in live):
        events.append(ev.RevisionServing(at=now, model=model.name, revision=revision))
    return events


def set_scheduling(state: State, command: SetScheduling, now: int) -> list[ev.Event]:
    """Where and how often it may run."""
    model = find(state, command.model)
    _check(state, model.name, model.declared_spec, command.scheduling, model.aliases)
    if model.scheduling == command.scheduling:
        return []
    changed = ev.ModelSchedulingChanged(at=now, model=model.name, scheduling=command.scheduling, aliases=model.aliases)
    return [changed, *left_behind.by_selector(state, model, command.scheduling.selector, now)]


def store_load_info(state: State, command: StoreLoadInfo, now: int) -> list[ev.Event]:
    """How the model can be loaded, told after it was declared; its needs stay unless they are given too."""
    model = find(state, command.model)
    if not command.spec.backend:
        raise InvalidField("backend", "is empty", cure="Name the backend that loads the model.")
    old = model.declared_spec
    given = command.spec
    pools = given.pools if given.vram else old.pools
    needs = {field: getattr(given, field) or getattr(old, field) for field in ("vram", "ram", "disk")}
    spec = replace(given, pools=pools, **needs)
    return edit(state, model, spec, now, "operator") if spec != old else []


def remove(state: State, command: RemoveModel, now: int) -> list[ev.Event]:
    """Take it out: its waiting requests are refused, its loads given up; its replicas leave when idle.

    Raises Conflict for an alias: who says one means what they call by it, and that may be another model by now.
    """
    model = find(state, command.model)
    if model.name != command.model:
        cure = f"Name the model to take it out: {model.name}. An edit without the alias takes that away alone."
        raise Conflict(f"{command.model!r} is an alias of {model.name}, and no model.", cure=cure)
    events: list[ev.Event] = []
    refusal = routing.no_such_model(model.name)
    for _, _, request in state.waiting(model.name):
        events.append(
            ev.RequestRefused(
                at=now, model=model.name, request=request, code=refusal.code.value,
                message=f"Model {model.name} was removed while the request waited.",
                tenant=state.requests[request].tenant, explanation=refusal.explanation,
            )
        )  # fmt: skip
    for replica in state.by_model.get(model.name, ()):
        if state.replicas[replica].phase in LOADING_PHASES:
            events += loads.give_up(state, state.replicas[replica], "its model was removed", now)
    return [*events, ev.ModelRemoved(at=now, model=model.name)]


def load(state: State, command: RequestLoad, now: int) -> list[ev.Event]:
    """One more replica now, if there is room or somebody may make room; raises Refused with the reason otherwise.

    Raises Conflict at the model's ceiling.
    """
    model = find(state, command.model)
    ceiling = model.scheduling.max_replicas
    if ceiling and copies(state, model) >= ceiling:
        cure = "Raise `max_replicas`, or set it to 0 for no ceiling; else the copy would leave again as one too many."
        raise Conflict(f"{model.name} has {copies(state, model)} replicas; its max_replicas is {ceiling}.", cure=cure)
    if not state.candidates(model).nodes:
        plan: routing.Plan = routing.no_node_matches(state, model)
    else:
        plan = routing.first_copy(state, replace(model, retry_at=0, failures=0, early_deaths=0), now, waits=False)
    if isinstance(plan, Place | Evict):
        unparked = [ev.ModelUnparked(at=now, model=model.name, cause="an operator loads it")] if model.parked else []
        return [*unparked, *loads.begin(state, model, plan, now, causes.OPERATOR)]
    why = plan.explanation
    if isinstance(plan, Refuse):
        raise Refused(plan.code.value, plan.message, cure=why.cure)
    rows = "; ".join(f"{row.node}: {row.filter} ({row.detail})" for row in why.considered if row.filter)
    kind = plan.wait.kind if isinstance(plan, Hold) else WaitKind.CAPACITY
    code = RefusalCode.FROZEN if kind is WaitKind.FROZEN else RefusalCode.CAPACITY_EXHAUSTED
    what = _NO_ROOM.get(kind, "No room for {}").format(model.name)
    raise Refused(code.value, f"{what} now. {rows}", cure=why.cure)


_CLOSED = "None of the nodes that {} may use takes work"
_NO_ROOM = {
    WaitKind.FROZEN: "Evictions are frozen, and without one there is no room for {}",
    WaitKind.DRAINING: _CLOSED,
    WaitKind.NODES_DOWN: _CLOSED,
}
"""Why no load can begin, by what a request would wait for, where that is not room alone."""


def unload(state: State, command: RequestUnload, now: int) -> list[ev.Event]:
    """Every replica of the model leaves now; refused while one is busy."""
    model = find(state, command.model)
    replicas = [state.replicas[replica] for replica in state.by_model.get(model.name, ())]
    busy = [replica.id for replica in replicas if state.lock_count(replica.id)]
    if busy:
        cure = "Wait until they end, or drain the nodes: replicas leave when idle."
        raise Conflict(f"{', '.join(busy)} of {model.name} have requests in flight.", cure=cure)
    events: list[ev.Event] = []
    for replica in replicas:
        if replica.phase in LOADING_PHASES:
            events += loads.give_up(state, replica, "an operator unloads the model", now)
        elif replica.phase is Phase.LOADED:
            events.append(loads.unload(state, replica, "operator", now))
    return events
