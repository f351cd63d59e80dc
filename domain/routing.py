"""Route: where a request goes, as one decision. Filters first, then scores; the steps are those of the design.

The functions here only look: they return a plan, which :mod:`interlock.domain.requests` and
:mod:`interlock.domain.reconcile` turn into events. The model's candidate set is resolved once, and every step uses it.
"""

from __future__ import annotations

from functools import partial

import msgspec

from . import affinity, contact, eviction, placement, scoring
from .churn import explain_bound
from .cures import cure_of_no_room, lacks_a_larger_node
from .entities import Model, NodeStatus, Replica, Wait, WaitKind
from .eviction import Eviction, Search
from .explanation import Considered, Explanation, Unexplained
from .placement import Choice, Room
from .refusals import RefusalCode
from .room import ever_fits
from .room_to_come import RoomToCome, room_to_come
from .scoring import AVOIDED, Standing, why_best
from .shrinking import copies
from .state import State
from .survey import noted, room_verdict, survey, survey_warm
from .units import FOREVER, format_instant
from .who_stays import notes_elsewhere, notes_there

TIE_SCAN, TIE_SCAN_LARGE = 16, 2
"""So many replicas that tie on locks and recency are compared by free memory; fewer in a large cluster, where each one
reaches into memory that no cache holds."""
LARGE_NODES = 64


class Lock(msgspec.Struct, frozen=True, gc=False):
    """Lock this replica."""

    replica: str
    explanation: Explanation


class Join(Unexplained, frozen=True, gc=False):
    """Wait for a load that is in progress."""

    replica: str


class Place(msgspec.Struct, frozen=True, gc=False):
    """Reserve this room and load there."""

    room: Room
    explanation: Explanation


class Evict(msgspec.Struct, frozen=True, gc=False):
    """Evict these victims, and reserve what they leave, in one step."""

    eviction: Eviction
    explanation: Explanation


class Hold(Unexplained, frozen=True, gc=False):
    """Wait."""

    wait: Wait


class Refuse(Unexplained, frozen=True, gc=False):
    """Say no. ``retry_after`` in microseconds; 0 when trying again is pointless.

    With ``whole_tenant``, all that the tenant sends until then gets this answer, unless its limits change.
    """

    code: RefusalCode
    message: str
    retry_after: int = 0
    whole_tenant: bool = False


Plan = Lock | Join | Place | Evict | Hold | Refuse
BEGINS_LOAD = (Place, Evict)
KEEPS_WAITING = (Join, Hold)
"""For ``isinstance``: tuples, since a union that is written out where it is asked for is made anew each time."""


def route(state: State, model: Model, now: int, prefix: tuple[int, ...] = ()) -> Plan:
    """Steps 1 to 7 for one request for this model. ``prefix`` are the marks of its prompt."""
    if not state.candidates(model).nodes:
        return no_node_matches(state, model)
    if prefix:
        return _route_by_prefix(state, model, now, prefix)
    replica = pick_warm(state, model)
    if replica is not None:
        node = state.replicas[replica].node
        return Lock(replica, survey_warm(state, model, "warm", chosen=replica, node=node))
    return route_cold(state, model, now)


def _route_by_prefix(state: State, model: Model, now: int, prefix: tuple[int, ...]) -> Plan:
    """Step 2 for a request that says how its prompt begins: the replica that holds most of it, unless too busy."""
    match = affinity.match(state, model, prefix)
    replica = match.replica if match is not None and match.taken else pick_warm(state, model)
    if replica is None:
        return route_cold(state, model, now)
    why = survey_warm(state, model, "warm", chosen=replica, node=state.replicas[replica].node)
    return Lock(replica, why if match is None else noted(why, match.note, state.lock_count(replica)))


def pick_warm(state: State, model: Model) -> str | None:
    """Step 2: among the replicas that may be locked, fewest locks, least recently used, most free memory; or None."""
    warm = state.warm.get(model.name)
    if warm is None:
        return None
    order, parallel = warm.order, model.scheduling.parallel
    # Item by item: to take a key apart would reach for all that it holds, wherever in memory that lies.
    head = order[0]
    locks, used_at, first = head[0], head[1], head[3]
    if parallel and locks >= parallel:
        return None
    if len(order) == 1 or order[1][1] != used_at or order[1][0] != locks:
        return first
    # Of those on one node the oldest stands first, and stays the first.
    room = state.candidates(model).keys
    roomiest = room[head[4]]
    for key in order[1 : TIE_SCAN if len(state.nodes) <= LARGE_NODES else TIE_SCAN_LARGE]:
        if key[1] != used_at or key[0] != locks:
            break
        if room[key[4]] < roomiest:
            first, roomiest = key[3], room[key[4]]
    return first


def route_cold(state: State, model: Model, now: int) -> Plan:
    """Steps 3 to 7: no warm replica has room."""
    if not model.load_info_known and not state.by_model.get(model.name):
        return load_info_missing(state, model)
    loading = joinable_load(state, model)
    warm = state.warm.get(model.name)
    if warm is None:
        if loading is not None:
            return Join(loading.id, explain=lambda: explain_room(state, model, "join", loading.node, chosen=loading.id))
        return first_copy(state, model, now)
    until = FOREVER
    if may_grow(state, model):
        choice = placement.choose(state, model)
        if choice is not None and model.retry_at <= now:
            return Place(choice.room, explain_choice(state, model, "place", choice))
        if choice is not None:
            until = model.retry_at  # its last growth load failed: nothing else may come to try again
    return Hold(Wait(WaitKind.BUSY, until=until), explain=lambda: _explain_busy(state, model))


def _explain_busy(state: State, model: Model) -> Explanation:
    cure = "A release, or a higher `parallel` or `max_replicas`."
    if model.scheduling.scales and is_spent(state, model):
        cure = f"A release, or an edit: one more copy has failed to come up, the last time with: {model.failure}"
    return survey_warm(state, model, "queue", cure=cure)


def joinable_load(state: State, model: Model) -> Replica | None:
    """Step 3: the oldest load in progress that will serve this model's requests; None when there is none."""
    loads = state.loading.get(model.name)
    if loads is None:
        return None
    candidates = state.candidates(model).nodes
    for replica_id in loads:
        replica = state.replicas[replica_id]
        serves = replica.revision in (model.declared, model.serving)
        if serves and replica.node in candidates and state.nodes[replica.node].takes_work:
            return replica
    return None


def may_grow(state: State, model: Model) -> bool:
    """Step 4: whether a model that is already warm may have one more copy now."""
    scheduling = model.scheduling
    if not scheduling.scales or not model.load_info_known or contact.holds_back(state, model):
        return False
    loading = len(state.loading.get(model.name, ()))
    if loading and loading >= min(state.settings.growth_per_tick, copies_wanted(state, model)):
        return False
    if is_spent(state, model):
        return False  # one more copy is a wish: where it fails, those that serve go on
    return not scheduling.max_replicas or copies(state, model) < scheduling.max_replicas


def copies_wanted(state: State, model: Model) -> int:
    """Copies for those who wait, as many as they would keep busy at once; the one who asks now counts among them."""
    waiting = max(1, len(state.waiting(model.name)))
    return -(-waiting // max(1, model.scheduling.parallel))


def is_spent(state: State, model: Model) -> bool:
    """Whether its loads have failed as often as they may, so that a person has to look.

    As long as they failed on fewer nodes than that it may be the nodes, and room where none has failed says otherwise.
    """
    if model.tries_failed < state.settings.load_attempts:
        return False
    choice = placement.choose(state, model)
    return choice is None or is_tried_enough(state, model, choice.room.node)


def is_tried_enough(state: State, model: Model, node: str) -> bool:
    """Whether its loads have failed as often as they may, this node among those, or on as many nodes."""
    attempts, tried_on = state.settings.load_attempts, model.tried_on
    return model.tries_failed >= attempts and (len(tried_on) >= attempts or node in tried_on)


def first_copy(state: State, model: Model, now: int, *, strictly: bool = False, waits: bool = True) -> Plan:
    """Steps 4 to 7 for a model without a live replica: place, evict, or say what stands in the way.

    ``strictly`` lets it evict only replicas of lower priority, as floors must. Who ``waits`` waits for room that is on
    its way, too; an operator's load is now or not at all.
    """
    if not model.load_info_known:
        return load_info_missing(state, model)
    if model.retry_at > now:
        return _failed_lately(state, model, now)
    choice = placement.choose(state, model)
    if choice is not None:
        return Place(choice.room, explain_choice(state, model, "place", choice))
    coming = room_to_come(state, model, now) if waits else None
    if coming is not None:
        wait = Wait(WaitKind.LEAVING, coming.replica, coming.until)
        return Hold(wait, explain=lambda: _explain_room_to_come(state, model, coming))
    search = eviction.find_victims(state, model, now, strictly=strictly)
    if search.best is not None:
        if is_tried_enough(state, model, search.best.node):  # it may take free room: what leaves would leave in vain
            return _tries_spent(state, model, now, "It makes nobody leave any more.")
        if "evictions" in state.frozen:
            thaw = "`interlock thaw evictions`."
            return Hold(Wait(WaitKind.FROZEN), explain=lambda: explain_room(state, model, "evict", "", cure=thaw))
        if until := contact.held_back_until(state, model, now):
            cure = "Contact with its node, or the end of mass_loss_grace; `interlock nodes remove` for what is gone."
            return Hold(
                Wait(WaitKind.CONTACT, until=until), explain=lambda: explain_room(state, model, "evict", "", cure=cure)
            )
        return Evict(search.best, explain_eviction(state, model, search, search.best, now, strictly=strictly))
    if not ever_fits(state, model):
        return never_fits(state, model)
    return Hold(
        _what_to_wait_for(state, model, search.safe_until),
        explain=lambda: explain_no_room(state, model, search, now, strictly=strictly),
    )


def _failed_lately(state: State, model: Model, now: int) -> Plan:
    """The model's last load failed: wait for the next try, or refuse when its tries are spent."""
    if is_spent(state, model):
        return _tries_spent(state, model, now)
    explain = partial(explain_room, state, model, "backoff", "", cure=MEND)
    return Hold(Wait(WaitKind.BACKOFF, until=model.retry_at), explain=explain)


MEND = "Mend what the backend reports, or edit the model."


def tries_in_words(model: Model) -> str:
    """How often in a row the model failed to come up."""
    if model.early_deaths < 2:
        return f"Loading {model.name} failed {model.failures} times"
    died = f"{model.early_deaths} copies of {model.name} in a row were lost before they had served anybody"
    if not model.failures:
        return died
    return f"{died}, and {model.failures} {'load' if model.failures == 1 else 'loads'} failed since"


def _tries_spent(state: State, model: Model, now: int, besides: str = "") -> Refuse:
    message = f"{tries_in_words(model)}; the backend said: {model.failure}"
    cure = f"{MEND} `interlock models load {model.name}` tries again." if besides else MEND
    explain = partial(explain_room, state, model, "backoff", "", cure=cure)
    message = f"{message} {besides}" if besides else message
    return Refuse(RefusalCode.LOAD_FAILED, message, max(0, model.retry_at - now), explain=explain)


def _what_to_wait_for(state: State, model: Model, safe_until: int) -> Wait:
    candidates = state.candidates(model)
    if not candidates.open:
        statuses = {state.nodes[name].status for name in candidates.nodes}
        return Wait(WaitKind.DRAINING if NodeStatus.DRAINING in statuses else WaitKind.NODES_DOWN)
    return Wait(WaitKind.CAPACITY, until=safe_until)


def explain_room(
    state: State, model: Model, step: str, node: str, *, chosen: str = "", cure: str = "", whole: bool = False
) -> Explanation:
    """The survey of room for one more replica; ``node`` is the one taken, or empty."""
    verdict = room_verdict(state, model, node)
    return survey(state, model, step, verdict, chosen=chosen or node, node=node, cure=cure, whole=whole)


def explain_choice(state: State, model: Model, step: str, choice: Choice) -> Explanation:
    """The survey of room with what each score gave to the nodes that were compared, and a sentence that sums it up."""
    plain = explain_room(state, model, step, choice.room.node)
    if not choice.standings:
        return _with_what_is_avoided(state, model, plain, choice)
    standings = {standing.room.node: standing for standing in choice.standings}
    rows = tuple([_with_scores(row, standings.get(row.node)) for row in plain.considered])
    note = why_best(model, choice.profile, choice.standings)
    return msgspec.structs.replace(plain, considered=rows, note=note)


def _with_what_is_avoided(state: State, model: Model, plain: Explanation, choice: Choice) -> Explanation:
    """Without scores: what is avoided on each node, and why a roomier one was not taken."""
    if placement.avoids_nothing(state, model):
        return plain
    mine = placement.avoided(state, model, choice.room.node)
    rows, note = [], ""
    for row in plain.considered:
        rank = placement.avoided(state, model, row.node) if row.outcome != "rejected" else 0
        if rank:
            details = [row.detail, *(f"avoided: {words}" for bit, words in AVOIDED if rank & bit)]
            row = msgspec.structs.replace(row, detail="; ".join(details))
        if rank > mine and not note:
            why = next(words for bit, words in AVOIDED if rank & bit > mine & bit)
            note = f"{choice.room.node} was chosen for {model.name} rather than {row.node}: {why}."
        rows.append(row)
    return msgspec.structs.replace(plain, considered=tuple(rows), note=note) if note or mine else plain


def _with_scores(row: Considered, standing: Standing | None) -> Considered:
    if standing is None:
        return row if row.outcome == "rejected" else msgspec.structs.replace(row, score=None)
    parts = " + ".join(f"{name} {value}×{weight}" for name, value, weight in standing.parts)
    avoided = [f"avoided: {words}" for bit, words in AVOIDED if standing.avoided & bit]
    detail = "; ".join([row.detail, *avoided, parts])
    return msgspec.structs.replace(row, detail=detail, score=float(standing.total))


def explain_no_room(
    state: State, model: Model, search: Search, now: int, *, strictly: bool, whole: bool = False
) -> Explanation:
    """Why nobody can make room: per candidate, what keeps each replica there; ``whole`` as in an eviction's."""
    step = "never fits" if strictly and lacks_a_larger_node(state, model) else "queue"
    plain = explain_room(state, model, step, "", cure=cure_of_no_room(state, model), whole=whole)
    rows = []
    for row in plain.considered:
        if row.filter in ("memory", "ram", "disk", "anti_affinity"):
            kept = [
                f"{state.replicas[replica].model}: {why}"
                for replica in state.by_node.get(row.node, ())
                if (why := eviction.why_not_victim(state, state.replicas[replica], model, now, strictly=strictly))
            ]
            over = search.bounded.get(row.node)
            bound = [explain_bound(state, *over)] if over is not None else []
            most = None if whole else MOST_NOTES
            row = msgspec.structs.replace(row, detail="; ".join([row.detail, *bound, *kept[:most]]))
        rows.append(row)
    return msgspec.structs.replace(plain, considered=tuple(rows))


def _explain_room_to_come(state: State, model: Model, coming: RoomToCome) -> Explanation:
    """Who leaves in any case, and until when that is waited for."""
    who, until = f"{state.replicas[coming.replica].model} ({coming.replica})", format_instant(coming.until)
    cure = f"{who} to leave {coming.node}, as it is asked to: for that {model.name} waits until {until} at the latest."
    return explain_room(state, model, "queue", "", cure=f"{cure} `unload_patience` sets how long.")


MOST_NOTES = 8
"""So many replicas of a node are told of; where it makes room, those that leave first."""


def explain_eviction(
    state: State, model: Model, search: Search, chosen: Eviction, now: int, *, strictly: bool, whole: bool = False
) -> Explanation:
    """For whom, and why these victims: the other replicas on the node with what kept each, or its reload cost.

    And why this node, where others would have done about as well. ``whole`` tells of every node and every replica
    there, and is for audits.
    """
    plain = explain_room(state, model, "evict", chosen.node, whole=whole)
    standings = {standing.room.node: standing for standing in search.standings}
    open_nodes = state.candidates(model).keys
    rows = []
    for row in plain.considered:
        notes: list[str] = []
        if row.outcome == "chosen":
            most = None if whole else MOST_NOTES
            notes = notes_there(state, model, chosen, now, strictly=strictly, most=most)
        elif whole and row.node in open_nodes:
            notes = notes_elsewhere(state, model, row.node, search, now, strictly=strictly)
        if notes:
            row = msgspec.structs.replace(row, detail="; ".join([row.detail, *notes]))
        if row.node in standings:
            row = _with_scores(row, standings[row.node])
        rows.append(row)
    return msgspec.structs.replace(plain, considered=tuple(rows), note=_why_there(state, model, search))


def _why_there(state: State, model: Model, search: Search) -> str:
    """Why this node makes room, where another would have been cheaper or about as cheap; empty when none would."""
    spurned, cost = search.spurned, search.cost
    if spurned is not None and spurned[1:] < cost[1:] and not cost[0]:
        return f"{cost[-1]} makes room for {model.name} rather than {spurned[-1]}: it failed to come up there."
    if len(search.standings) > 1:
        best, rival = search.standings[:2]
        if (best.avoided, best.total) != (rival.avoided, rival.total):
            return why_best(model, scoring.profile_of(state, model), search.standings, "makes room")
    return ""


# --- refusals that no waiting cures ---------------------------------------------------------------------------------


def no_node_matches(state: State, model: Model) -> Refuse:
    """Step 1: the candidate set is empty."""
    cure = "Approve or label a node, or change the model's node_selector."
    message = f"No approved node matches the selector of {model.name}."
    return Refuse(
        RefusalCode.NO_NODE_MATCHES, message, explain=partial(explain_room, state, model, "candidates", "", cure=cure)
    )


def load_info_missing(state: State, model: Model) -> Refuse:
    """Nothing is known about how to load it."""
    cure = f"Declare the backend of {model.name}: `interlock models apply FILE`."
    message = f"Nothing is known about how to load {model.name}."
    return Refuse(
        RefusalCode.LOAD_INFO_MISSING, message, explain=partial(explain_room, state, model, "load info", "", cure=cure)
    )


def never_fits(state: State, model: Model) -> Refuse:
    """Step 7: too large for every candidate, even alone there."""
    needs = "vram, ram or disk" if model.declared_spec.ram else "vram or disk"
    cure = f"Add a larger node, raise a budget, or lower the model's {needs}."
    message = f"Model {model.name} does not fit on any of its candidates, even alone."
    return Refuse(
        RefusalCode.NEVER_FITS, message, explain=partial(explain_room, state, model, "never fits", "", cure=cure)
    )


def no_such_model(name: str) -> Refuse:
    """Step 1: the name is neither a model's nor an alias."""
    cure = f"Declare it: `interlock models apply FILE` with a model named {name!r}."
    return Refuse(
        RefusalCode.UNKNOWN_MODEL,
        f"No model or alias is named {name!r}.",
        explain=partial(Explanation, "model", cure=cure),
    )
