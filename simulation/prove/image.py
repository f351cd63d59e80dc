"""The picture: what is left of a situation when everything is taken away that no decision depends on.

Two situations with the same picture decide alike for ever, up to names. Outside the picture are: event times,
positions, versions and epochs; the ids of requests, replicas, holders and processes, which are renamed by (model, node,
index) and by order of arrival; how far away an instant lies. An instant is past, or to come, or never; equal instants
stay equal; the order of those to come is kept only where decisions compare them with each other (``evictable_at``).

Nodes and models keep their names: ties between nodes are broken by name, so decisions are not equivariant in them.
"""

from __future__ import annotations

from itertools import chain
from operator import attrgetter, itemgetter
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from interlock.domain.churn import OTHERS_KEPT, live_churn
from interlock.domain.commands import Command, WorkerLeft
from interlock.domain.entities import Churn, Model, Node, Phase, Replica, Request, RequestStatus, WaitKind
from interlock.domain.loads import operation
from interlock.domain.recent_use import past_uses, recent_uses
from interlock.domain.settings import Settings
from interlock.domain.shrinking import idle_since, idle_unload_of
from interlock.domain.state import State
from interlock.domain.tenants import limits_of
from interlock.domain.units import FOREVER
from interlock.domain.variant import passes_allowed
from interlock.simulation.world import Worker, boot_of

from .situation import Situation

PAST, NEVER = 0, -1
RIVAL_BOOT = "rival"
"""The boot of the second machine that may want a node's name."""
_ENTITIES_CACHED = 50_000
_LOCKED = RequestStatus.LOCKED
_encode = msgspec.msgpack.Encoder().encode
_encode_sorted = msgspec.msgpack.Encoder(order="deterministic").encode

REPLICA_LEFT_OUT = {
    "id": "renamed",
    "serial": "kept as the order within its model and within its node",
    "op": "a version",
    "owed": "kept per pool",
    "done": "bytes for people",
    "total": "bytes for people",
    "give_up_at": "only words of progress read it, and here none come",
    "address": "a name that the world gives",
    "reason": "words for people",
    "loaded_at": "kept in how long it is idle",
    "used_at": "kept as a rank",
    "uses": "kept as recent uses",
    "uses_at": "kept in recent uses",
    "idle_seen_at": "kept as whether it was looked at when it was due",
    "revision": "kept as declared, serving or neither",
    "retired": "kept while it is loaded",
}
REQUEST_LEFT_OUT = {
    "id": "renamed", "serial": "kept as the order",
    "arrival": "kept as the order of all who wait, and as which newcomers would go first",
    "deadline": "kept as past or to come; of a lock, which it cannot end, to come is never",
}  # fmt: skip
NODE_LEFT_OUT = {
    "address": "a name", "boot": "kept as whether the worker still runs it", "offline_at": "an instant",
    "drain_by": "an instant", "alone_at": "an instant",
    "silent_since": "kept as the order, and as whether it is as long ago as offline_after",
    "former_boots": "kept as whether the rival's is among them",
    "clock_off": "a figure for people: nothing is decided by it",
}  # fmt: skip
MODEL_LEFT_OUT = {
    "failure": "words for people", "declared": "kept as whether it serves", "serving": "kept as whether it is declared",
    "retry_at": "an instant", "churn": "kept while it is live, cycles up to those that lengthen stays",
    "parked": "kept with its instant as past or to come",
    "made_way": "kept as whether for the declared revision",
    "failures": "kept up to the number that ends the tries",
    "early_deaths": "kept up to the number that ends the tries",
}  # fmt: skip


class Picture(msgspec.Struct, frozen=True, gc=False):
    """The canonical bytes, the ids by which this situation calls what the picture numbers, and shared instants.

    Those are the instants to come that several things have, and those whose order counts.
    """

    key: bytes
    replicas: list[str]
    requests: list[str]
    shared: list[int]


_Slot = tuple[str, str, int]
_Standing = tuple[Replica, _Slot, int, int]
"""A replica; its slot; its number; since when it is idle if it is loaded, else -1."""
_Asked = tuple[Request, int, str, str, int, int, str | None, int, int]
"""A request; its number; its holder, replica, passes and deadline; the replica that it waits for, None when it does not
wait, and until when; its number where it waits for its turn alone."""
_Kept = tuple[Model | Node, int, bool]
"""A model or a node; its number; whether there are instants or boots to be told beside it."""
_At_work = tuple[Worker, int, str, tuple[tuple[str, bool], ...]]
"""A worker; its number; its boot as it names it; for each process its replica, and whether it is loaded."""
_Entity = TypeVar("_Entity")


class Vocabulary:
    """Numbers for the names, claims and unchanging parts that occur in one exploration.

    Entities are frozen, and most steps change one or two of them: what a picture reads of one is kept by its identity.
    """

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}
        self._settings: Settings | None = None
        self._settings_number = 0
        self.nodes: dict[int, _Kept] = {}
        self.models: dict[int, _Kept] = {}
        self.replicas: dict[int, _Standing] = {}
        self.requests: dict[int, _Asked] = {}
        self.workers: dict[int, _At_work] = {}
        """What is known of entities, by identity; each is kept with what is known of it, so that none is another's."""

    def number(self, thing: object) -> int:
        """The same number for equal things."""
        found = self._numbers.get(thing)
        if found is None:
            found = self._numbers[thing] = len(self._numbers)
        return found

    def of_settings(self, settings: Settings) -> int:
        """A number for the settings, which are the same object nearly always."""
        if settings is not self._settings:
            self._settings, self._settings_number = settings, self.number(settings)
        return self._settings_number

    def of_node(self, node: Node) -> _Kept:
        """The node, and a number for all of it that is no instant and no boot."""
        plain = replace(
            node, offline_at=0, drain_by=0, boot="", former_boots=(), silent_since=0, address="",
            alone_at=0,
        )  # fmt: skip
        more = node.offline_at < FOREVER or node.drained or RIVAL_BOOT in node.former_boots
        return _keep(self.nodes, node, (node, self.number(_encode_sorted(plain)), more))

    def of_model(self, model: Model, load_attempts: int) -> _Kept:
        """The model, and a number for all of it that is no instant and no version."""
        parked = model.parked and replace(model.parked, until=0)
        apart = model.declared != model.serving
        plain = replace(
            model, declared=1 + apart, serving=1, parked=parked, failures=min(model.failures, load_attempts),
            early_deaths=min(model.early_deaths, load_attempts + 1),
            made_way=1 + apart if model.made_way == model.declared else 0, failure="", retry_at=0, churn=None,
        )  # fmt: skip
        more = model.retry_at != 0 or parked is not None or model.churn is not None
        return _keep(self.models, model, (model, self.number(_encode_sorted(plain)), more))

    def of_replica(self, replica: Replica) -> _Standing:
        """The replica, its slot, and a number for all of it that is no instant and no relation."""
        slot = slot_of(replica)
        fixed = (
            slot, replica.claim, replica.disk, replica.phase, replica.owed_in, replica.held, replica.tries,
            replica.used_at > 0, replica.phase is Phase.LOADED and replica.trial_until != 0,
        )  # fmt: skip
        since = idle_since(replica) if replica.phase is Phase.LOADED else -1
        return _keep(self.replicas, replica, (replica, slot, self.number(fixed), since))

    def of_request(self, request: Request) -> _Asked:
        """The request, a number for all of it that is no instant and no relation, and what else a picture reads."""
        known = self.requests.get(id(request))
        if known is not None:
            return known
        wait = request.wait if request.status is RequestStatus.QUEUED else None
        fixed = (request.model, request.priority, request.prefix, request.tenant, request.status)
        on, until = (wait.on, wait.until) if wait is not None else (None, NEVER)
        kind = None if wait is None else wait.kind
        read = (
            request, self.number((*fixed, kind)), request.holder, request.replica, request.passes, request.deadline, on,
            until, self.number((*fixed, WaitKind.TURN)),
        )  # fmt: skip
        return _keep(self.requests, request, read)

    def of_worker(self, worker: Worker) -> _At_work:
        """The worker, a number for what it is by itself, its boot as it names it, and what it runs."""
        number = self.number((worker.name, worker.up, worker.cut, worker.staged))
        runs = tuple([(process.replica, process.loaded) for process in worker.processes])
        return _keep(self.workers, worker, (worker, number, boot_of(worker), runs))


def _keep(known: dict[int, _Entity], entity: object, read: _Entity) -> _Entity:
    if len(known) > _ENTITIES_CACHED:
        known.clear()
    known[id(entity)] = read
    return read


class _Instants:
    """Instants by class: past, never, or a number that equal ones share."""

    __slots__ = ("classes", "now", "shared")

    def __init__(self, now: int, ordered: list[int]) -> None:
        self.now = now
        self.classes = {instant: number for number, instant in enumerate(ordered, start=1)} if ordered else {}
        self.shared: list[int] = []

    def of(self, instant: int) -> int:
        if instant <= self.now:
            return PAST
        if instant >= FOREVER:
            return NEVER
        classes = self.classes
        if instant in classes:
            self.shared.append(instant)
            return classes[instant]
        found = classes[instant] = len(classes) + 1
        return found


def slot_of(replica: Replica) -> tuple[str, str, int]:
    """What a replica is called by: no two live ones share it."""
    return (replica.model, replica.node, replica.index)


def take(situation: Situation, words: Vocabulary) -> Picture:
    """The picture of a situation."""
    state, now = situation.engine.state, situation.now
    known = words.replicas
    ordered = [known.get(id(replica)) or words.of_replica(replica) for replica in state.replicas.values()]
    if len(ordered) > 1:
        ordered.sort(key=_by_slot)
    places = {entry[0].id: place for place, entry in enumerate(ordered)}
    safe = [entry[0].evictable_at for entry in ordered if entry[0].evictable_at > now]
    instants = _Instants(now, sorted(set(safe)) if len(safe) > 1 else safe)
    row: list[int] = []
    _add_replicas(row, state, ordered, places, instants, words)
    _add_requests(row, state, places, instants, words)
    if state.queues:
        _add_order(row, situation, instants)
    if state.tenants:
        _add_tenants(row, state, instants, words)
    _add_models(row, state, instants, words)
    _add_nodes(row, state, instants, words)
    _add_rest(row, state, words, instants)
    if state.prefixes.held:
        _add_prefixes(row, state, places, words)
    _add_workers(row, situation.workers, state, places, words)
    if situation.mail:
        _add_mail(row, situation.mail, state, places, words)
    if state.locks:
        _add_deadlines_of_locks(row, state, instants)
    return Picture(_encode(row), list(places), list(state.requests), instants.shared)


def alike_before(situation: Situation, picture: Picture, words: Vocabulary) -> dict[int, int]:
    """Requests that wait just like the one that arrived right before them: place to place.

    Nothing in the picture tells such two apart but their deadlines, which nothing else shares, and their order, in
    which nobody is between them: exchanging them gives the same picture. So whatever happens to one may happen to the
    other, and leads to the same: unless the core itself is wrong about what a picture leaves out, such as its timers,
    which is judged in each state.
    """
    state, now = situation.engine.state, situation.now
    if situation.priorities:
        return {}
    found: dict[int, int] = {}
    last: tuple[object, ...] | None = None
    for place, request in enumerate(state.requests.values()):
        _, number, holder, replica, passes, deadline, on, until, in_line = words.of_request(request)
        told = None
        if on is not None and deadline > now and deadline not in picture.shared:
            if waits_its_turn(state, request):
                number, on = in_line, ""
            told = (number, holder, replica, passes, on, until)
            if told == last:
                found[place] = place - 1
        last = told
    return found


def _add_models(row: list[int], state: State, instants: _Instants, words: Vocabulary) -> None:
    known, attempts = words.models, state.settings.load_attempts
    # In order of name, so that a state that was restored has the same picture.
    for name in sorted(state.models):
        model = state.models[name]
        _, number, more = known.get(id(model)) or words.of_model(model, attempts)
        row.append(number)
        if more:
            _add_pauses(row, state, model, instants, words)
        if state.past_uses and (past := past_uses(state, name)):
            row.append(-1_000 - past)
    if state.settings.recent_uses:
        row.append(state.evicted_in_turnover)


def _add_pauses(row: list[int], state: State, model: Model, instants: _Instants, words: Vocabulary) -> None:
    """Until when the model is not loaded, is parked, or is remembered to come and go."""
    if model.retry_at:
        row.append(instants.of(model.retry_at))
    if model.parked is not None:
        row.append(instants.of(model.parked.until))
    if model.churn is not None and (churn := live_churn(model, instants.now)) is not None:
        cycles = min(churn.cycles, state.settings.thrash_cycles)
        row += (-churn.evicted - 2, cycles, instants.of(churn.until))
        row += (words.number(other) for other in _others(churn, state))


def _add_nodes(row: list[int], state: State, instants: _Instants, words: Vocabulary) -> None:
    known = words.nodes
    for name in sorted(state.nodes):
        node = state.nodes[name]
        _, number, more = known.get(id(node)) or words.of_node(node)
        row.append(number)
        if more:
            if node.offline_at < FOREVER:
                row.append(instants.of(node.offline_at))
            if node.drained:
                row.append(instants.of(node.drain_by))
            if RIVAL_BOOT in node.former_boots:
                row.append(-2)
        if state.evictions:
            counted = [instants.of(until) for until in state.evictions.get(name, ()) if until > instants.now]
            if counted:
                row += (-100 - len(counted), *counted)


def _others(churn: Churn, state: State) -> tuple[str, ...]:
    """For whom a model made room; in which order matters only where not all of them are remembered."""
    return churn.others if len(state.models) > OTHERS_KEPT + 1 else tuple(sorted(churn.others))


_by_slot = itemgetter(1)


def _add_replicas(
    row: list[int],
    state: State,
    ordered: list[_Standing],
    places: dict[str, int],
    instants: _Instants,
    words: Vocabulary,
) -> None:
    now, settings, models = instants.now, state.settings, state.models
    row.append(len(ordered))
    loaded = [entry for entry in ordered if entry[3] >= 0]
    uses = sorted({entry[0].used_at for entry in loaded}) if loaded else []
    idle = sorted({entry[3] for entry in loaded}) if loaded else []
    for replica, _, number, since in ordered:
        model = models.get(replica.model)
        row.append(number)
        if model is not None:
            serving, makes_way = replica.revision == model.serving, replica.retired and since >= 0
            row.append((replica.revision == model.declared) + 2 * serving + 4 * makes_way)
        if replica.drops:  # where nothing was asked of the worker yet, they come back to the books with its end
            row.append(words.number(("drops", *(_files(state, *files) for files in replica.drops))))
        if since >= 0:
            row += (instants.of(replica.evictable_at), uses.index(replica.used_at), idle.index(since))
            if replica.trial_until:
                row.append(replica.trial_until > now)
            if settings.recent_uses:
                row.append(recent_uses(state, replica))
            for delay in (settings.scale_down_delay, idle_unload_of(state, model) if model else FOREVER):
                row.append((since + delay <= now) + 2 * (replica.idle_seen_at >= since + delay))
            continue
        row.append(instants.of(replica.silent_at))
        if replica.phase is Phase.UNLOADING:
            row.append(instants.of(replica.room_by))
        if replica.beneficiary:
            row.append(places.get(replica.beneficiary, -1))
            row.append(replica.id in state.awaited.get(replica.beneficiary, ()))
    if len(ordered) > 1:
        _add_ages(row, state, places)


def _add_ages(row: list[int], state: State, places: dict[str, int]) -> None:
    """The order of age, where rules look at it: among those of one model, and among those on one node.

    Who waits for room on its way waits for the oldest that leaves, wherever it is; any may be one of those later.
    """
    if state.settings.unload_patience:
        row += [places[replica.id] for replica in sorted(state.replicas.values(), key=attrgetter("serial"))]
    for group in (state.by_model, state.by_node):
        several = [[places[replica] for replica in members] for members in group.values() if len(members) > 1]
        for members in sorted(several, key=min):  # in which order groups came about is of no account
            row += members


def _add_requests(row: list[int], state: State, places: dict[str, int], instants: _Instants, words: Vocabulary) -> None:
    holders: dict[str, int] = {}
    most = passes_allowed(state.settings.load_attempts) + 1
    known, of_instant, place_of, now = words.requests, instants.of, places.get, instants.now
    row.append(len(state.requests))
    for request in state.requests.values():  # in order of arrival
        read = known.get(id(request)) or words.of_request(request)
        _, number, holder, replica, passes, deadline, on, until, in_line = read
        if on is not None and waits_its_turn(state, request):
            number, on = in_line, None
        row += (
            number, holders.setdefault(holder, len(holders)), place_of(replica, -1), passes if passes < most else most,
            NEVER if request.status is _LOCKED and deadline > now else of_instant(deadline),
        )  # fmt: skip
        if on is not None:
            row += (place_of(on, -1), NEVER if until >= FOREVER else of_instant(until))


def _add_deadlines_of_locks(row: list[int], state: State, instants: _Instants) -> None:
    """Those that come with something else: a deadline ends no lock, but if the lock is lost it may have passed."""
    for request in state.requests.values():
        if request.status is _LOCKED:
            row.append(instants.of(request.deadline) if request.deadline in instants.classes else NEVER)


def waits_its_turn(state: State, request: Request) -> bool:
    """Whether no decision reads what a waiting request waits for: others of its model go first.

    Nobody looks at it before its turn, and then it is decided what it waits for. What is read before, or at its turn:
    an instant that it named, the room of a replica that leaves, and the load that it began while that goes on.
    """
    wait, queue = request.wait, state.queues.get(request.model)
    if wait is None or not queue or wait.until < FOREVER or wait.kind is WaitKind.LEAVING:
        return False
    return queue[0][2] != request.id and wait.on not in state.loading.get(request.model, ())


def _add_order(row: list[int], situation: Situation, instants: _Instants) -> None:
    """In which order those who wait go first, of whatever model; and up to when a newcomer would go before each."""
    state = situation.state
    waiting = sorted(chain.from_iterable(state.queues.values()))
    if len(waiting) > 1:
        serials = [entry[1] for entry in waiting]
        if serials != sorted(serials):  # somebody has overtaken another
            numbers = {request: number for number, request in enumerate(state.requests)}
            row.append(-9)
            row += [numbers[entry[2]] for entry in waiting]
    if situation.priorities:
        for _, _, request_id in waiting:
            row += [instants.of(instant) for instant in aged_at(situation, state.requests[request_id])]


def _add_tenants(row: list[int], state: State, instants: _Instants, words: Vocabulary) -> None:
    for name in sorted(state.tenants):
        row.append(words.number((name, state.tenants[name].limits)))
        row += [instants.of(instant) for instant in admitted_at(state, name)]


def admitted_at(state: State, tenant: str) -> list[int]:
    """The instants from which on the tenant may send one request more, and one more again, up to a burst."""
    known, limits = state.tenants[tenant], limits_of(state, tenant)
    return [known.due - place * limits.rate for place in range(limits.burst)] if limits.rate and known.due else []


def aged_at(situation: Situation, request: Request) -> list[int]:
    """The instants from which on a newcomer of each higher priority no longer goes before the request."""
    ageing = situation.state.settings.priority_ageing
    if ageing >= FOREVER:
        return []
    return [request.arrival + (p - request.priority) * ageing for p in situation.priorities if p > request.priority]


def _files(state: State, name: str, revision: int, size: int) -> tuple[str, bool, bool, int]:
    """Files on a disk: of which model, and whether they are of a revision that it still has, or of its newest."""
    model = state.models.get(name)
    if model is None:
        return (name, False, False, size)
    return (name, revision in (model.declared, model.serving), revision == model.declared, size)


def _add_rest(row: list[int], state: State, words: Vocabulary, instants: _Instants) -> None:
    if state.silent:
        for name in state.silent:  # in the order in which they fell silent, in which they are silent for long
            recent = state.nodes[name].silent_since + state.settings.offline_after > instants.now
            row.append(words.number(("silent", name, recent)))
            row.append(instants.of(state.nodes[name].alone_at))
    if state.mass_loss_until:
        row += (-3, instants.of(state.mass_loss_until), state.mass_loss_turns)
    row.append(words.of_settings(state.settings))
    row.append(words.number(tuple(sorted(state.frozen))) if state.frozen else -1)
    for node in sorted(state.staged):
        staged, files = state.staged[node], []
        for (name, revision), size in staged.items():
            files.append(_files(state, name, revision, size))
        known = state.nodes.get(node)
        in_order = known is not None and known.disk is not None  # who gives way first matters where it may be full
        row.append(words.number((node, tuple(files if in_order else sorted(files)))))
    if state.strays:
        found = ((stray.node, stray.model) for stray in state.strays.values())
        row.append(words.number(("strays", tuple(sorted(found)))))


def _add_prefixes(row: list[int], state: State, places: dict[str, int], words: Vocabulary) -> None:
    """Which replica holds which marks. Not the order of their use: it counts from thousands of marks on."""
    held = ((places.get(replica, -1), tuple(sorted(marks))) for replica, (_, marks, _) in state.prefixes.held.items())
    for place, marks in sorted(held):
        row += (place, words.number(("prefix", marks)))


def _add_workers(
    row: list[int], workers: dict[str, Worker], state: State, places: dict[str, int], words: Vocabulary
) -> None:
    known, nodes = words.workers, state.nodes
    for worker in workers.values():
        _, number, boot, runs = known.get(id(worker)) or words.of_worker(worker)
        node = nodes.get(worker.name)
        row += (number, node is not None and node.boot == boot)
        unknown = False
        for replica, is_loaded in runs:
            place = places.get(replica)
            if place is None:
                unknown = True
            else:
                row.append(2 * place + is_loaded)
        if unknown or not worker.gone.isdisjoint(places):
            _add_remains(row, worker, state, places, words)


def _add_remains(row: list[int], worker: Worker, state: State, places: dict[str, int], words: Vocabulary) -> None:
    """Processes of replicas that are gone, and replicas whose processes are."""
    unknown = [process for process in worker.processes if process.replica not in places]
    gone = [places[replica] for replica in worker.gone if replica in places]
    found = sorted((process.model, (worker.name, process.id) in state.strays) for process in unknown)
    row.append(words.number((tuple(found), tuple(sorted(gone)))))


def _add_mail(
    row: list[int], mail: tuple[Command, ...], state: State, places: dict[str, int], words: Vocabulary
) -> None:
    row.append(-len(mail))
    for command in mail:
        replica = state.replicas.get(getattr(command, "replica", ""))
        op = getattr(command, "op", "")
        request = getattr(command, "request", "")
        row += (
            words.number(type(command).__name__),
            places[replica.id] if replica is not None else -1,
            replica is not None and operation(replica) == op,
            list(state.requests).index(request) if request in state.requests else -1,
        )
        if isinstance(command, WorkerLeft):
            node = state.nodes.get(command.node)
            row += (words.number(("goodbye", command.node)), node is not None and node.boot == command.boot)
