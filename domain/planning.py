"""Planning: what a change of models, nodes or settings would place, evict, unload and park, before anybody makes it.

The change is rehearsed on a fork (:mod:`interlock.domain.rehearsal`), and so is its absence. What both bring is no
consequence of the change, and is left out. The engine that is asked is not touched, and nothing is recorded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec

from . import commands as cmd
from . import events as ev
from . import routing
from .aliases import turns
from .causes import LoadCause
from .claims import in_pools, total
from .engine import Engine
from .entities import Budget, Lack, Model, Node, NodeStatus, Phase, RequestStatus, WaitKind
from .explanation import Considered
from .nodes import available_disk
from .refusals import RefusalCode
from .rehearsal import Noted, Rehearsal, Step
from .requests import CODES_OF_WAITS
from .roll_outs import roll_out
from .room import Filter, fits_when_empty, has_its_copy
from .routing import BEGINS_LOAD, Evict, Hold, Place, Plan, Refuse
from .selector import format_selector
from .settings import Settings
from .shrinking import copies, floor_of, idle_unload_of
from .state import State
from .units import DAY, FOREVER, SECOND
from .unmet import unmet_wish

UNFINISHED = "unfinished"
"""The reason that stands in for a refusal's: the rehearsal was cut short before the floor's turn."""

# --- What is asked --------------------------------------------------------------------------------------------------


class NodeChange(msgspec.Struct, frozen=True, kw_only=True):
    """A new node, or a change to a known one. What is None, empty or 0 stays as it is.

    A new node needs ``pools`` or ``ram``.
    """

    node: str
    pools: tuple[int, ...] = ()
    ram: int = 0
    disk: int | None = None
    labels: dict[str, str] = {}
    budget: Budget | None = None
    slots: int = 0
    approve: bool = False
    drain: bool | None = None
    within: int = 0
    """With a drain: so long after it what is left there is taken away; 0 sets no deadline."""
    remove: bool = False


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody thinks of doing: settings, then nodes, then models taken out, then models as they are to be."""

    settings: dict[str, int | str] = {}
    nodes: tuple[NodeChange, ...] = ()
    models: tuple[cmd.DeclareModel, ...] = ()
    removed: tuple[str, ...] = ()


def commands_of(change: Change, state: State) -> Iterator[cmd.Command]:
    """The commands that make the change, in order; read as they are decided, since each depends on those before.

    What is taken out goes first: its name and its aliases may be taken by others of the same change.
    """
    if change.settings:
        yield cmd.ChangeSettings(values=change.settings)
    for node in change.nodes:
        yield from _commands_of_node(node, state)
    for model in change.removed:
        yield cmd.RemoveModel(model=model)
    yield from (turn.command for turn in turns(change.models, state.aliases))


def _commands_of_node(change: NodeChange, state: State) -> Iterator[cmd.Command]:
    name = change.node
    if change.remove:
        yield cmd.RemoveNode(node=name)
        return
    known = state.nodes.get(name)
    # A machine without a GPU has its main memory as its one pool, and so has a board with one memory.
    alone = known is None or known.unified
    pools = change.pools or ((change.ram,) if change.ram and alone else ())
    new = known is None and bool(pools)
    if new:
        yield cmd.RegisterNode(
            node=name, boot="planned", labels=change.labels, pools=pools, disk=change.disk, approve=True,
            ram=change.ram, budget=change.budget, max_replicas_per_model=change.slots or 1,
            unified=not change.pools,
        )  # fmt: skip
    elif known is None:
        # Of a node that nobody knows, this says so.
        yield cmd.SetNodeLabels(node=name, labels=change.labels)
        return
    elif change.labels:
        yield cmd.SetNodeLabels(node=name, labels=change.labels)
    if known is not None and (change.pools or change.ram or change.disk is not None):
        taken = available_disk(state, name, 0) or 0
        free = max(0, change.disk - taken) if change.disk is not None else None
        # Other pools than before: what others use of them is not known.
        unused = (0,) * len(pools) if len(pools) != len(known.pools) else ()
        yield cmd.ReportCapacity(node=name, pools=pools, used=unused, disk=free, ram=change.ram)
    if change.budget is not None and not new:
        yield cmd.SetNodeBudget(node=name, budget=change.budget)
    if change.slots and not new:
        yield cmd.SetReplicaSlots(node=name, max_replicas_per_model=change.slots)
    if change.approve and not new:
        yield cmd.ApproveNode(node=name)
    if change.drain is not None:
        yield cmd.DrainNode(node=name, within=change.within) if change.drain else cmd.ResumeNode(node=name)


# --- What is answered -----------------------------------------------------------------------------------------------


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the change itself makes different: ``what`` of a ``setting``, ``node`` or ``model``.

    ``before`` is None where it is new, ``after`` where it is gone. Values as the core counts them.
    """

    kind: str
    name: str
    what: str
    before: object = None
    after: object = None


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the change that would be rejected as it stands."""

    command: str
    name: str
    code: str
    message: str
    cure: str = ""


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """A replica that would be loaded. ``cause`` is the wish behind it; ``evicts`` are the models that make room.

    ``replica`` is the id that it would get if nothing else happened before. ``beside``: others serve meanwhile.
    """

    model: str
    node: str
    replica: str
    memory: int
    cause: LoadCause
    evicts: tuple[str, ...]
    step: Step
    after: int
    beside: bool = False


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """A replica that would go: ``evicted``, ``unloaded``, ``given up`` or ``lost``, and the core's ``reason``.

    ``beneficiary`` is the model that it makes room for, ``in_flight`` how many requests it serves at the beginning.
    """

    replica: str
    model: str
    node: str
    kind: str
    reason: str
    beneficiary: str
    memory: int
    in_flight: int
    step: Step
    after: int


class Unmet(msgspec.Struct, frozen=True, kw_only=True):
    """A floor that could not be kept in the end, or a revision that does not come up: why, and what would cure it.

    ``missing`` is how many copies the floor lacks, ``revision`` the one that does not come up; 0 when that is not so.
    """

    model: str
    missing: int
    revision: int
    reason: str
    lacks: Lack
    cure: str
    nodes: tuple[Considered, ...]


class FirstRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a first request for a model without a floor would meet: one that was asked for, or that the change hurts.

    ``outcome`` is ``warm``, ``load``, ``evict``, ``wait`` (``node`` and ``evicts`` then say what it would get once no
    request runs and no residency does), or ``refused`` (``code`` is one of the refusals).
    """

    model: str
    outcome: str
    node: str = ""
    evicts: tuple[str, ...] = ()
    code: str = ""
    cure: str = ""
    nodes: tuple[Considered, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What would come of a change. Each list in the order in which things would happen.

    ``at`` and ``position`` say on which state it was thought through. ``running`` requests and loads ``under_way`` were
    taken to end well. ``unmet_before`` are wishes outside the change that are not met without it either. ``shaky`` are
    models of the plan whose last loads failed: how many in a row, and the backend's words. ``silent`` nodes cannot be
    reached, and stay as they are. ``refused`` counts, by model and code, the requests that would be refused,
    and says whether they run now or wait.
    ``held`` are replicas that would go if the reconciler were not frozen.
    ``cut_after`` is how far (µs) it was thought through when there was too much to do, and ``cut_in`` the step; None
    when to the end.
    """

    at: int
    position: int
    changed: tuple[Changed, ...]
    rejected: tuple[Rejection, ...]
    placed: tuple[Placed, ...]
    left: tuple[Left, ...]
    unmet: tuple[Unmet, ...]
    first_requests: tuple[FirstRequest, ...]
    refused: tuple[tuple[str, str, int, bool], ...]
    unmet_before: tuple[str, ...]
    running: int
    under_way: int
    shaky: tuple[tuple[str, int, str], ...]
    silent: tuple[str, ...]
    cut_after: int | None
    cut_in: Step | None
    held: tuple[Left, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether all that was asked for could be, nobody would be refused, and nothing else would lose its place."""
        if self.cut_in is Step.NOW:
            return False  # not even what happens at once is known
        homeless = any(first.outcome == "refused" for first in self.first_requests)
        return not (self.rejected or self.unmet or self.refused or self.held or homeless)


# --- Planning -------------------------------------------------------------------------------------------------------


def plan(engine: Engine, change: Change, now: int) -> Report:
    """What would come of the change if it were made at ``now``; the engine is left as it is.

    Under a frozen reconciler it is rehearsed thawed, too: what goes only there is held back by the freeze.
    """
    report = _rehearsed(engine, change, now)
    if "reconciler" not in engine.state.frozen:
        return report
    thawed = engine.fork()
    thawed.handle(cmd.Envelope(command_id="rehearsal-thaw", command=cmd.Thaw(what="reconciler")), now)
    gone, parked = {one.replica for one in report.left}, {one.model for one in report.unmet}
    held = [
        one for one in _rehearsed(thawed, change, now).left
        if one.kind == "unloaded" and one.replica not in gone and one.model not in parked
    ]  # fmt: skip
    return msgspec.structs.replace(report, held=tuple(held))


def _rehearsed(engine: Engine, change: Change, now: int) -> Report:
    before = engine.state
    made, without = Rehearsal(engine.fork(), now), Rehearsal(engine.fork(), now)
    rejected = tuple(dict.fromkeys(_rejected(made, change)))  # of two turns of one model it is told once
    changed = (*_settings_changed(before, made.engine.state), *_nodes_changed(before, made.engine.state, change))
    changed = (*changed, *_models_changed(before, made.engine.state, change))
    made.settle()
    without.settle()
    asked = [command.model for command in change.models if command.model in made.engine.state.models]
    at_once = {name: _first_plan(made.engine.state, name, made.now) for name in asked}
    made.end_requests()
    without.end_requests()
    ended, ended_without = made.engine.state.fork(), without.engine.state.fork()
    length = max(patience(made.engine.state, made.began), patience(without.engine.state, made.began))
    made.pass_time(length)
    without.pass_time(length)
    cuts = [one.cut_after for one in (made, without) if one.cut_after is not None]
    until = min(cuts) if cuts else length
    unmet, unmet_before = _unmet(made, without, set(asked))
    placed, left = _placed(made, without, until), _left(before, made, without, until)
    soon = {one.model for one in left if one.step is not Step.LATER}
    later = {one.model for one in left} - soon
    homeless = {one.model: one for one in _homeless(made.engine.state, ended_without, soon)}
    homeless |= {one.model: one for one in _homeless(made.engine.state, without.engine.state, later)}
    first_requests = [homeless.pop(one.model, one) for one in _first_requests(ended, without.engine.state, at_once)]
    return Report(
        at=made.began,
        position=engine.ledger.position,
        changed=changed,
        rejected=rejected,
        placed=placed,
        left=left,
        unmet=unmet,
        first_requests=(*first_requests, *homeless.values()),
        refused=_refused(before, made, without),
        unmet_before=unmet_before,
        running=sum(map(len, before.locks.values())),
        under_way=sum(map(len, before.loading.values())),
        shaky=tuple(_shaky(before, [*asked, *(one.model for one in placed)])),
        silent=tuple(sorted(n.name for n in before.nodes.values() if n.status is NodeStatus.UNREACHABLE)),
        cut_after=until if cuts else None,
        cut_in=min(
            (one.cut_in for one in (made, without) if one.cut_in is not None), key=list(Step).index, default=None
        ),
    )


def _rejected(made: Rehearsal, change: Change) -> Iterator[Rejection]:
    """Send the commands; what is rejected changes nothing, and is told."""
    for command in commands_of(change, made.engine.state):
        reply = made.send(command)
        if isinstance(reply, cmd.Rejected):
            name = getattr(command, "node", "") or getattr(command, "model", "")
            yield Rejection(
                command=type(command).__name__, name=name, code=reply.code, message=reply.message, cure=reply.cure
            )


def patience(state: State, now: int) -> int:
    """For how long things can still follow from a change by themselves: until the last drain's deadline at least."""
    settings = state.settings
    lengths = [settings.min_residency, settings.scale_down_delay, settings.load_backoff]
    lengths += [idle_unload_of(state, model) for model in state.models.values()]
    deadlines = [node.drain_by - now for node in state.nodes.values() if node.drained and node.drain_by < FOREVER]
    return max(min(DAY, max((length for length in lengths if length < FOREVER), default=0)), *deadlines, 0) + SECOND


# --- The change itself ----------------------------------------------------------------------------------------------


def _settings_changed(before: State, after: State) -> Iterator[Changed]:
    for name in Settings.__struct_fields__:
        old, new = getattr(before.settings, name), getattr(after.settings, name)
        if old != new:
            yield Changed(kind="setting", name=name, what=name, before=old, after=new)


def _nodes_changed(before: State, after: State, change: Change) -> Iterator[Changed]:
    for name in dict.fromkeys(node.node for node in change.nodes):
        old, new = _facts_of_node(before.nodes.get(name)), _facts_of_node(after.nodes.get(name))
        yield from _differences("node", name, old, new)


def _models_changed(before: State, after: State, change: Change) -> Iterator[Changed]:
    for name in dict.fromkeys([*(command.model for command in change.models), *change.removed]):
        old, new = _facts_of_model(before.models.get(name)), _facts_of_model(after.models.get(name))
        yield from _differences("model", name, old, new)


def _differences(kind: str, name: str, old: dict[str, object], new: dict[str, object]) -> Iterator[Changed]:
    """What differs; of something that is new or gone as a whole, only that."""
    if not old or not new:
        if old or new:
            what = "declared" if kind == "model" else "known"
            yield Changed(kind=kind, name=name, what=what, before=bool(old) or None, after=bool(new) or None)
        return
    for what in dict.fromkeys([*old, *new]):
        if old.get(what) != new.get(what):
            yield Changed(kind=kind, name=name, what=what, before=old.get(what), after=new.get(what))


_FACTS = ("status", "approved", "drained", "drain_by", "pools", "ram", "disk", "budget", "max_replicas_per_model")
"""What a change can make different of a known node, beside its labels."""


def _facts_of_node(node: Node | None) -> dict[str, object]:
    if node is None:
        return {}
    labels = {f"label {key}": value for key, value in sorted(node.labels.items())}
    return {**{name: getattr(node, name) for name in _FACTS}, **labels}


def _facts_of_model(model: Model | None) -> dict[str, object]:
    if model is None:
        return {}
    scheduling = {name: getattr(model.scheduling, name) for name in model.scheduling.__struct_fields__}
    scheduling["node_selector"] = format_selector(scheduling.pop("selector"))
    return {**msgspec.structs.asdict(model.declared_spec), **scheduling, "aliases": model.aliases}


# --- Replicas that come ---------------------------------------------------------------------------------------------


def _born(run: Rehearsal, until: int) -> list[Placed]:
    """The replicas that were reserved in this run and are there in the end, or would be but for idleness later."""
    loaded = {noted.event.replica for noted in run.noted if isinstance(noted.event, ev.ReplicaLoaded)}
    gone = {replica for replica, noted in _departures(run).items() if noted.step is not Step.LATER or not _idle(noted)}
    victims = {
        noted.event.replica: noted.event.model for noted in run.noted if isinstance(noted.event, ev.ReplicaEvicted)
    }
    return [
        Placed(
            model=event.model,
            node=event.node,
            replica=event.replica,
            memory=total(in_pools(event.claim)),
            cause=event.cause,
            evicts=tuple(victims[victim] for victim in event.victims),
            step=noted.step,
            after=noted.after,
            beside=event.replica in run.beside,
        )
        for noted in run.noted
        if isinstance(event := noted.event, ev.ReplicaReserved)
        and noted.after <= until
        and event.replica in loaded
        and event.replica not in gone
    ]


def _idle(noted: Noted) -> bool:
    return isinstance(noted.event, ev.UnloadRequested) and noted.event.reason in ("idle", "scale-down")


def _placed(made: Rehearsal, without: Rehearsal, until: int) -> tuple[Placed, ...]:
    """What is placed for the change's sake: not what would be, on the same node and no later, without it too."""
    anyway: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for one in _born(without, until):
        anyway.setdefault((one.model, one.node), []).append(_moment(one))
    placed = []
    for one in _born(made, until):
        same = anyway.get((one.model, one.node))
        if same and same[0] <= _moment(one):
            del same[0]
        else:
            placed.append(one)
    return tuple(placed)


def _moment(one: Placed | Noted) -> tuple[int, int]:
    return list(Step).index(one.step), one.after


# --- Replicas that go -----------------------------------------------------------------------------------------------

_DEPARTURES: dict[type[ev.Event], str] = {
    ev.ReplicaEvicted: "evicted",
    ev.UnloadRequested: "unloaded",
    ev.ReplicaLoadFailed: "given up",
    ev.ReplicaLost: "lost",
}


def _departures(run: Rehearsal) -> dict[str, Noted]:
    """The event with which each replica began to go."""
    found: dict[str, Noted] = {}
    for noted in run.noted:
        if type(noted.event) in _DEPARTURES:
            found.setdefault(noted.event.replica, noted)  # type: ignore[attr-defined]  # all four have a replica
    return found


def _left(before: State, made: Rehearsal, without: Rehearsal, until: int) -> tuple[Left, ...]:
    anyway = _departures(without)
    left = []
    for replica_id, noted in _departures(made).items():
        replica = before.replicas.get(replica_id)
        if replica is None or replica.phase is Phase.UNLOADING or noted.after > until:
            continue
        same = anyway.get(replica_id)
        if same is not None and type(same.event) is type(noted.event) and _moment(same) <= _moment(noted):
            continue
        left.append(
            Left(
                replica=replica_id,
                model=replica.model,
                node=replica.node,
                kind=_DEPARTURES[type(noted.event)],
                reason=getattr(noted.event, "reason", ""),
                beneficiary=getattr(noted.event, "beneficiary_model", ""),
                memory=total(in_pools(replica.claim)),
                in_flight=before.lock_count(replica_id),
                step=noted.step,
                after=noted.after,
            )
        )
    return tuple(left)


# --- Wishes that are not met ----------------------------------------------------------------------------------------


def missing_copies(state: State) -> dict[str, int]:
    """The models whose floor is not kept, and by how many copies."""
    short = {name: floor_of(state, model) - copies(state, model) for name, model in sorted(state.models.items())}
    return {name: missing for name, missing in short.items() if missing > 0}


def waiting_revisions(state: State) -> dict[str, int]:
    """The models whose declared revision does not serve, and which that is."""
    return {name: model.declared for name, model in sorted(state.models.items()) if model.declared != model.serving}


def _unmet(made: Rehearsal, without: Rehearsal, asked: set[str]) -> tuple[tuple[Unmet, ...], tuple[str, ...]]:
    """The wishes that are not met in the end: those asked for or hurt by the change, and those that are so anyway."""
    state, other = made.engine.state, without.engine.state
    missing, missing_anyway = missing_copies(state), missing_copies(other)
    waiting, waiting_anyway = waiting_revisions(state), waiting_revisions(other)
    unmet, before = [], []
    for name in sorted({**missing, **waiting}):
        hurt = missing.get(name, 0) > missing_anyway.get(name, 0)
        hurt = hurt or (name in waiting and waiting[name] != waiting_anyway.get(name))
        if name in asked or hurt:
            unmet.append(_unmet_wish(made, state.models[name], missing.get(name, 0), waiting.get(name, 0)))
        else:
            before.append(name)
    return tuple(unmet), tuple(before)


def _unmet_wish(made: Rehearsal, model: Model, missing: int, revision: int) -> Unmet:
    """Why the floor is not kept; of a model whose floor is, why the revision does not come up."""
    state, now = made.engine.state, made.now
    frozen = "reconciler" in state.frozen
    wish = unmet_wish(state, model, None if frozen else model.parked, now)
    could = _would_come_up(state, model, now) if wish.plan is None else isinstance(wish.plan, BEGINS_LOAD)
    reason, lacks, cure = wish.lacking.reason.value, wish.lacking.lacks, wish.explanation.cure
    if could:  # it could be met, and is not: the reconciler is frozen, or the rehearsal was cut short
        reason, lacks = (RefusalCode.FROZEN.value, Lack.THAW) if frozen else (UNFINISHED, Lack.TIME)
        cure = "" if frozen else cure
    if frozen:  # nothing is tried before it is thawed, and what was parked before may lack another thing by now
        lacks, cure = Lack.THAW, f"`interlock thaw reconciler`. {cure}".strip()
    nodes = _with_copies(state, model, wish.explanation.considered)
    return Unmet(
        model=model.name, missing=missing, revision=revision, reason=reason, lacks=lacks, cure=cure, nodes=nodes
    )


def _would_come_up(state: State, model: Model, now: int) -> bool:
    """Whether the reconciler would do something for the declared revision, if it looked at it now, but park it."""
    events = roll_out(state, model, now)
    return bool(events) and not any(isinstance(event, ev.ModelParked) for event in events)


def _with_copies(state: State, model: Model, nodes: tuple[Considered, ...]) -> tuple[Considered, ...]:
    """Of a model that is to run on every candidate: a node that has its copy lacks no slot, but nothing at all."""
    has = {
        row.node for row in nodes if row.filter == Filter.SLOTS and has_its_copy(state, model, state.nodes[row.node])
    }
    copy = {"filter": Filter.COPY.value, "detail": "has its copy"}
    return tuple(msgspec.structs.replace(row, **copy) if row.node in has else row for row in nodes)


def _shaky(before: State, names: list[str]) -> Iterator[tuple[str, int, str]]:
    for name in dict.fromkeys(names):
        model = before.models.get(name)
        if model is not None and model.tries_failed:
            yield name, model.tries_failed, model.failure


def _refused(before: State, made: Rehearsal, without: Rehearsal) -> tuple[tuple[str, str, int, bool], ...]:
    ran = {request.id for request in before.requests.values() if request.status is not RequestStatus.QUEUED}

    def count(run: Rehearsal) -> Counter[tuple[str, str, bool]]:
        refusals = [noted.event for noted in run.noted if isinstance(noted.event, ev.RequestRefused)]
        return Counter((event.model, event.code, event.request in ran) for event in refusals)

    more = count(made) - count(without)
    return tuple((model, code, times, running) for (model, code, running), times in sorted(more.items()))


# --- First requests -------------------------------------------------------------------------------------------------


def _first_plan(state: State, name: str, now: int) -> Plan | None:
    """Where a request would go; None for a model whose floor speaks for it."""
    model = state.models[name]
    return None if floor_of(state, model) > 0 else routing.route(state, model, now)


def _first_requests(ended: State, without: State, at_once: dict[str, Plan | None]) -> tuple[FirstRequest, ...]:
    """What first requests would meet: for the models that were asked for, and for others that the change hurts."""
    asked = {name: first for name, first in at_once.items() if first is not None and name in ended.models}
    found = [_first_request(ended, name, first) for name, first in asked.items()]
    for name, model in sorted(ended.models.items()):
        if name in at_once or floor_of(ended, model) > 0 or name not in without.models:
            continue
        if _hopeless(ended, model) and not _hopeless(without, without.models[name]):
            found.append(_first_request(ended, name, routing.route(ended, model, FOREVER)))
    return tuple(found)


def _homeless(state: State, without: State, lost: set[str]) -> Iterator[FirstRequest]:
    """Models without a floor that lose copies by the change, and of which no other would come for a request.

    ``without`` is how it would be without the change when they lose them.
    """
    for name in sorted(lost):
        model, as_it_was = state.models.get(name), without.models.get(name)
        if model is None or as_it_was is None or floor_of(state, model) > 0:
            continue
        first = _first_request(state, name, routing.route(state, model, FOREVER))
        if first.outcome != "refused":
            continue
        if _first_request(without, name, routing.route(without, as_it_was, FOREVER)).outcome != "refused":
            yield first


def _hopeless(state: State, model: Model) -> bool:
    """Whether no candidate could ever hold it that is not being drained; a cheap look, since every model is asked."""
    candidates = [state.nodes[name] for name in state.candidates(model).nodes]
    return not any(fits_when_empty(state, model, node) for node in candidates if not node.drained)


def _first_request(ended: State, name: str, first: Plan) -> FirstRequest:
    outcome, found = "", first
    if isinstance(first, Hold) and first.wait.kind is not WaitKind.BUSY:
        # Nothing may be evicted now: what if no request ran any more, and no residency either?
        outcome, found = "wait", routing.route(ended, ended.models[name], FOREVER)
    why = found.explanation
    if isinstance(found, Place | Evict):
        victims = found.eviction.victims if isinstance(found, Evict) else ()
        node = found.eviction.node if isinstance(found, Evict) else found.room.node
        evicts = tuple(ended.replicas[victim].model for victim in victims)
        return FirstRequest(model=name, outcome=outcome or ("evict" if victims else "load"), node=node, evicts=evicts)
    if isinstance(found, Refuse):
        return FirstRequest(model=name, outcome="refused", code=found.code.value, cure=why.cure, nodes=why.considered)
    if isinstance(found, Hold) and found.wait.kind is not WaitKind.BUSY:
        code = CODES_OF_WAITS.get(found.wait.kind, RefusalCode.CAPACITY_EXHAUSTED).value
        return FirstRequest(model=name, outcome="refused", code=code, cure=why.cure, nodes=why.considered)
    node = next((row.node for row in why.considered if row.outcome == "chosen"), "")
    return FirstRequest(model=name, outcome="warm", node=node)
