"""How each mutant is made: a function that puts the bug in place. Its name is the mutant's, its first line tells of it.

Most wrap the rule that they spoil, so that the mutant goes on being wrong in the same way when the rule is rewritten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from interlock.domain import (
    budgets,
    causes,
    churn,
    consequences,
    engine,
    eviction,
    fairness,
    loads,
    models,
    nodes,
    parking,
    placement,
    reconcile,
    requests,
    room,
    routing,
    shrinking,
    slots,
    state,
    variant,
)
from interlock.domain import events as ev
from interlock.domain.applying import handlers, tenants
from interlock.domain.commands import Tick
from interlock.domain.entities import Lack, NodeStatus, Phase, Wait, WaitKind
from interlock.domain.explanation import Considered, Explanation
from interlock.domain.routing import Evict, Hold, Place
from interlock.domain.units import FOREVER, SECOND
from interlock.simulation import log, world, writer

from . import disk as disk_mutations
from . import floors as floor_mutations
from . import holds as hold_mutations
from . import nodes as node_mutations
from . import placement as placement_mutations
from . import prefixes as prefix_mutations
from . import recent_use as use_mutations
from .patching import Patches, Row

# --- routing --------------------------------------------------------------------------------------------------------


def selector_ignored_in_lookup(patches: Patches) -> None:
    """The lookup of a cached replica ignores the selector; a later check rejects its pick and routing begins again.

    As it was in the field: the one with the fewest requests in flight is picked, whatever its node; then a replica is
    asked for on the nodes that match, where the model stands at its cap, and nothing can be evicted there.
    """
    route = routing.route

    def looked_up_anywhere(at: Any, model: Any, now: int, prefix: Any = ()) -> Any:
        loaded = [
            replica
            for replica_id in at.by_model.get(model.name, ())
            if (replica := at.replicas[replica_id]).phase is Phase.LOADED and replica.revision == model.serving
        ]
        candidates = at.candidates(model)
        picked = min(loaded, key=lambda replica: (at.lock_count(replica.id), replica.used_at), default=None)
        if picked is None or picked.node in candidates.nodes:
            return route(at, model, now, prefix)
        again = routing.first_copy(at, model, now)
        if not isinstance(again, Hold):
            return again
        rows = [Considered(picked.node, "rejected", "selector", "no longer matches selector")]
        for name in candidates.nodes:
            rows.append(Considered(name, "rejected", "slots", "no free replica slot, evicting LRU"))
            rows.append(Considered(name, "rejected", "busy", "all models have in-flight requests"))
        return Hold(Wait(WaitKind.CAPACITY, until=now + SECOND), explain=lambda: Explanation("route", tuple(rows)))

    patches.swap(route, looked_up_anywhere)


def drain_keeps_routing(patches: Patches) -> None:
    """A draining node goes on getting requests."""

    def takes_locks(at: Any, replica: Any) -> bool:
        model = at.models.get(replica.model)
        node = at.nodes[replica.node]
        return (
            model is not None
            and replica.phase is Phase.LOADED
            and replica.revision == model.serving
            and replica.node in at.candidates(model).nodes
            and node.status in (NodeStatus.HEALTHY, NodeStatus.DRAINING)
        )

    patches.attribute(state.State, "takes_locks", takes_locks)


def stale_revision_served(patches: Patches) -> None:
    """Replicas of an older revision take locks after its successor serves."""

    def takes_locks(at: Any, replica: Any) -> bool:
        model = at.models.get(replica.model)
        return (
            model is not None
            and replica.phase is Phase.LOADED
            and replica.node in at.candidates(model).nodes
            and at.nodes[replica.node].takes_work
        )

    patches.attribute(state.State, "takes_locks", takes_locks)


def unloading_still_warm(patches: Patches) -> None:
    """A request that arrives during an unload gets the replica that is leaving."""
    pick = routing.pick_warm

    def pick_leaving(at: Any, model: Any) -> Any:
        picked = pick(at, model)
        leaving = (r for r in at.by_model.get(model.name, ()) if at.replicas[r].phase is Phase.UNLOADING)
        return picked if picked is not None else next(leaving, None)

    patches.swap(pick, pick_leaving)


def join_failed_load(patches: Patches) -> None:
    """A request waits for a load that has failed already, because its clean-up is still going on."""
    joinable = routing.joinable_load

    def join_anything(at: Any, model: Any) -> Any:
        found = joinable(at, model)
        if found is not None:
            return found
        failed = (at.replicas[r] for r in at.by_model.get(model.name, ()))
        return next((r for r in failed if r.phase is Phase.UNLOADING and r.reason == "load failed"), None)

    patches.swap(joinable, join_anything)


def growth_evicts(patches: Patches) -> None:
    """A model that is warm already evicts others for one more copy."""
    cold = routing.route_cold

    def grow_by_force(at: Any, model: Any, now: int) -> Any:
        plan = cold(at, model, now)
        if isinstance(plan, Hold) and model.name in at.warm and routing.may_grow(at, model):
            found = eviction.find_victims(at, model, now)
            if found.best is not None:
                why = routing.explain_eviction(at, model, found, found.best, now, strictly=False)
                return Evict(found.best, why)
        return plan

    patches.swap(cold, grow_by_force)


def never_fits_waits(patches: Patches) -> None:
    """A model that is larger than every node waits for room instead of being refused."""
    patches.swap(room.ever_fits, lambda at, model: True)


def ageing_forgotten(patches: Patches) -> None:
    """Priority is strict: a request waits for as long as requests of higher priority go on coming."""
    patches.swap(fairness.rank, lambda settings, arrival, priority: -priority)


def rest_of_a_review_goes_last(patches: Patches) -> None:
    """What is left of a review waits behind those of later events, and its floors behind their requests."""
    patches.swap(engine.goes_on_first, lambda command: False)


def refused_hands_on_its_turn(patches: Patches) -> None:
    """Who comes next for a model takes the turn of one that was refused, however long those for others have waited.

    What is left of a review would stand in its way, so that it goes last here, too.
    """
    rest_of_a_review_goes_last(patches)
    review = consequences.review_after

    def the_next_at_once(at: Any, event: Any, command: Any) -> Any:
        return review(at, event, Tick() if isinstance(event, ev.RequestRefused) else command)

    patches.swap(review, the_next_at_once)


def tenant_never_released(patches: Patches) -> None:
    """A request that is over goes on counting for its tenant, which is shut out for good after a while."""
    patches.swap(tenants.let_out, lambda at, tenant: None)


def tenant_counted_twice(patches: Patches) -> None:
    """A request is counted again when it gets the lock that it waited for."""
    take_in, locked = tenants.take_in, handlers.HANDLERS[ev.ReplicaLocked]

    def counted_again(at: Any, event: Any) -> None:
        known = event.request in at.requests
        locked(at, event)
        if known and event.tenant:
            take_in(at, event.tenant, event.at)

    patches.entry(handlers.HANDLERS, ev.ReplicaLocked, counted_again)


def rate_forgotten(patches: Patches) -> None:
    """A tenant's rate is told and never kept to: its instant does not move."""
    take_in = tenants.take_in

    def standing_still(at: Any, tenant: str, instant: int) -> None:
        before = at.tenants.get(tenant)
        take_in(at, tenant, instant)
        if before is not None:
            at.tenants[tenant] = before
        else:
            at.tenants.pop(tenant, None)

    patches.swap(take_in, standing_still)


# --- eviction -------------------------------------------------------------------------------------------------------


def evict_outside_candidates(patches: Patches) -> None:
    """Victims are looked for on every node, not on the model's candidates."""
    find = eviction.find_victims

    def everywhere(at: Any, model: Any, now: int, *, strictly: bool = False) -> Any:
        search = find(at, model, now, strictly=strictly)
        for node in at.nodes.values():
            if search.best is None and node.takes_work:
                eviction._weigh_node(at, model, node, now, search, strictly=strictly)
        return search

    patches.swap(find, everywhere)


def floor_counts_excluded(patches: Patches) -> None:
    """A floor counts replicas on nodes that the selector excludes."""
    floor_mutations.floor_kept_by(patches, lambda at, other, model: True)


def floor_forgotten_after_edit(patches: Patches) -> None:
    """A model that was edited is no longer kept at its floor: what leaves with the old revision is not replaced."""
    keep = reconcile.keep_floor

    def once(at: Any, model: Any, command: Any, now: int) -> Any:
        return keep(at, model, command, now) if model.declared == 1 else []

    patches.swap(keep, once)


def cold_before_warm(patches: Patches) -> None:
    """A replica that has come free goes to a cold model, while its own model's requests wait for it."""
    let_go, why_not, review = requests.let_go, eviction.why_barred, reconcile.review

    def keeps_nothing(at: Any, request: Any, outcome: str, detail: str, now: int) -> Any:
        return let_go(at, request, outcome, detail, now)[:1]

    def own_count_for_nothing(at: Any, replica: Any, beneficiary: Any, *, strictly: bool) -> str:
        why = why_not(at, replica, beneficiary, strictly=strictly)
        return "" if why == "its own requests wait for it" else why

    def cold_first(at: Any, command: Any, now: int) -> Any:
        names = tuple(sorted(command.models, key=lambda name: name in at.warm))
        for name in names:
            if name not in at.warm and (events := reconcile.review_model(at, name, command, now)):
                return events, names
        return review(at, command, now)

    patches.swap(let_go, keeps_nothing)
    patches.swap(why_not, own_count_for_nothing)
    patches.swap(review, cold_first)


def _spoil_victims(patches: Patches, forgive: Callable[[str, Any, Any, Any], str]) -> None:
    why_not = eviction.why_barred

    def spoiled(at: Any, replica: Any, beneficiary: Any, *, strictly: bool) -> str:
        return forgive(why_not(at, replica, beneficiary, strictly=strictly), at, replica, beneficiary)

    patches.swap(why_not, spoiled)


def residency_ignored(patches: Patches) -> None:
    """A replica may be evicted the moment it has loaded."""
    patches.swap(eviction.is_resident, lambda model, replica, beneficiary, now: False)


def priority_inverted(patches: Patches) -> None:
    """Higher priority is evicted for lower, and not the other way round."""

    def inverted(why: str, at: Any, replica: Any, beneficiary: Any) -> str:
        its = at.models.get(replica.model)
        if why.startswith("priority"):
            return ""
        if not why and its is not None and its.scheduling.priority < beneficiary.scheduling.priority:
            return "priority"
        return why

    _spoil_victims(patches, inverted)


def pin_ignored(patches: Patches) -> None:
    """A pinned model is evicted like any other."""
    _spoil_victims(patches, lambda why, at, replica, model: "" if why == "pinned" else why)


def loading_as_victim(patches: Patches) -> None:
    """A load in progress may be a victim."""
    _spoil_victims(patches, lambda why, at, replica, model: "" if why == Phase.LOADING.value else why)


def evicts_all_it_can(patches: Patches) -> None:
    """One load evicts everything on a node that may go, not the smallest set that makes room."""
    weigh = eviction._weigh_sets

    def all_of_them(at: Any, model: Any, node: Any, possible: Any, disk: int, now: int, search: Any) -> None:
        ground = eviction.ground_of(at, model, node, disk)
        if not eviction.weigh_set(at, model, ground, tuple(possible), search):
            weigh(at, model, node, possible, disk, now, search)

    patches.swap(weigh, all_of_them)


def node_bound_ignored(patches: Patches) -> None:
    """However many evictions a node has just seen, it sees the next at once."""
    patches.swap(churn.evictable_from, lambda at, counted, victims: 0)


def thrash_unnoticed(patches: Patches) -> None:
    """What is evicted and loaded again and again stays no longer than anything else, and goes again at once."""
    patches.swap(churn.stay, lambda at, replica, cycles: at.settings.min_residency)


def many_taken_for_a_cycle(patches: Patches) -> None:
    """Whatever is evicted and loaded again counts as a cycle, whoever it made room for."""
    after = churn.churn_after_eviction

    def counted(at: Any, victim: Any, beneficiary: str, now: int) -> Any:
        found = after(at, victim, beneficiary, now)
        old = churn.live_churn(at.models.get(victim.model), now)
        if found is None or old is None:
            return found
        return replace(found, evicted=True, cycles=old.cycles, since=old.since)

    patches.swap(after, counted)


def evict_and_reserve_apart(patches: Patches) -> None:
    """Evicting and reserving what becomes free are two steps: whoever comes between them takes it."""
    settle = requests.settle

    def only_evict(at: Any, model: Any, request: Any, plan: Any, now: int, cause: str = "") -> Any:
        if not isinstance(plan, Evict):
            return settle(at, model, request, plan, now, cause)
        gone = [
            loads.evict_for(at, at.replicas[victim], "", model.name, plan.explanation, now)
            for victim in plan.eviction.victims
        ]
        return [*gone, requests._queued(request, Wait(WaitKind.CAPACITY), plan.explanation, now)]

    patches.swap(settle, only_evict)


# --- requests and locks ---------------------------------------------------------------------------------------------


def unbounded_retry(patches: Patches) -> None:
    """A request that was sent to a backend that is gone is routed again for ever."""
    patches.swap(variant.passes_left, lambda load_attempts, passes: 1)


def backends_gone_told_as_no_room(patches: Patches) -> None:
    """A request whose backends have died until its own steps were used up is told that there is no room."""
    patches.swap(requests.needs_own_load, lambda at, model, plan: False)


def load_not_reserved(patches: Patches) -> None:
    """A load that is done is not kept for those who waited for it."""
    loaded, grant, advance = loads.loaded, reconcile._grant, requests.advance

    def unclaimed(at: Any, command: Any, now: int) -> Any:
        return [event for event in loaded(at, command, now) if not isinstance(event, ev.ReplicaLocked)]

    def not_after_a_load(at: Any, model: Any, cause: str, now: int) -> Any:
        return [] if cause.endswith(" loaded") else grant(at, model, cause, now)

    def nor_by_advancing(at: Any, model: Any, request: Any, now: int, cause: str, **how: Any) -> Any:
        return [] if cause.endswith(" loaded") else advance(at, model, request, now, cause, **how)

    patches.swap(advance, nor_by_advancing)
    patches.swap(loaded, unclaimed)
    patches.swap(grant, not_after_a_load)


def counter_not_lease(patches: Patches) -> None:
    """Requests in flight are counted up and down, and a lost gateway's are never counted down."""
    released = handlers.HANDLERS[ev.ReplicaReleased]

    def miscounted(at: Any, event: Any) -> None:
        released(at, event)
        if event.outcome == "holder lost" and event.replica in at.replicas:
            at.locks.setdefault(event.replica, {})[event.request] = None
            at.index_warm(at.replicas[event.replica])

    patches.swap(released, miscounted)


def double_release(patches: Patches) -> None:
    """A release frees the lock of another request on the same replica, too."""
    let_go = requests.let_go

    def twice(at: Any, request: Any, outcome: str, detail: str, now: int) -> Any:
        events = let_go(at, request, outcome, detail, now)
        others = [other for other in at.locks.get(request.replica, ()) if other != request.id]
        if not others:
            return events
        replica = at.replicas[request.replica]
        freed = ev.ReplicaReleased(
            at=now, replica=replica.id, model=replica.model, node=replica.node, request=others[0], outcome=outcome
        )
        return [*events, freed]

    patches.swap(let_go, twice)


def holder_never_lost(patches: Patches) -> None:
    """A gateway that has died keeps its locks for ever."""
    patches.swap(requests.lose_holder, lambda at, command, now: [])


def wakeup_forgotten(patches: Patches) -> None:
    """A replica that has become idle wakes nobody who waits for its room."""
    patches.swap(consequences._RULES[ev.ReplicaReleased], lambda at, event: None)


def overload_sticks(patches: Patches) -> None:
    """The mark of an overload is never cleared: once the queue was full, it counts as full."""
    length = requests.queue_length
    full = [0]

    def high_water(at: Any) -> int:
        full[0] = max(full[0], length(at))
        return full[0]

    patches.swap(length, high_water)


def deadline_forgotten(patches: Patches) -> None:
    """A request that waits has no timer for its deadline."""
    _without_timer(patches, "deadline")


def alarm_never_set(patches: Patches) -> None:
    """The core does not say when it has something to do next, so that no timer ever rings."""
    patches.attribute(engine.Engine, "next_wakeup", lambda self: None)


def _without_timer(patches: Patches, forgotten: str) -> None:
    set_timer = state.State.set_timer

    def some(at: Any, instant: int, kind: str, owner: str) -> None:
        if kind != forgotten:
            set_timer(at, instant, kind, owner)

    patches.attribute(state.State, "set_timer", some)


# --- loads ----------------------------------------------------------------------------------------------------------


def death_in_a_load_forgotten(patches: Patches) -> None:
    """A process that dies during its load is lost like any other: it is started again at once, for ever."""

    def lost(at: Any, command: Any, now: int) -> Any:
        replica = at.replicas.get(command.replica)
        reserved = replica is None or replica.phase is Phase.RESERVED
        return [] if reserved else loads.lose(at, replica, command.reason, now, gone=True)

    patches.swap(loads.died, lost)


def silence_unwatched(patches: Patches) -> None:
    """Nobody notices that a worker has stopped answering in the middle of a load."""
    _without_timer(patches, "silent")


def give_up_leaves_running(patches: Patches) -> None:
    """A load that the control plane gives up on goes on running on its worker."""
    give_up = loads.give_up

    def abandoned(at: Any, replica: Any, reason: str, now: int, retry_at: int = 0, *, gone: bool = False) -> Any:
        events = give_up(at, replica, reason, now, retry_at, gone=gone)
        return [replace(e, gone=True) if isinstance(e, ev.ReplicaLoadFailed) else e for e in events]

    patches.swap(give_up, abandoned)


def restart_forgets_failures(patches: Patches) -> None:
    """A new writer starts with the counters of failed loads at zero."""
    fold = engine.Engine.fold

    def forgetful(self: Any, recorded: Any, event: Any = None) -> Any:
        done = fold(self, recorded, event)
        if isinstance(done, ev.ReplicaLoadFailed) and done.model in self.state.models:
            model = self.state.models[done.model]
            self.state.models[done.model] = replace(model, failures=0, retry_at=0)
        return done

    patches.attribute(engine.Engine, "fold", forgetful)


def declare_always_edits(patches: Patches) -> None:
    """Declaring a model again makes a new revision though nothing is different, and everything is loaded anew."""
    declare = models.declare

    def restless(at: Any, command: Any, now: int) -> Any:
        events = declare(at, command, now)
        model = at.models.get(command.model)
        if model is not None and command.spec == model.declared_spec:
            events = [*events, *models.edit(at, model, command.spec, now, "declared")]
        return events

    patches.swap(declare, restless)


# --- the reconciler -------------------------------------------------------------------------------------------------


def empty_backend_scaleup(patches: Patches) -> None:
    """A floor is raised without load info: the worker is asked for a backend with an empty name, again and again."""
    first_copy = routing.first_copy

    def doomed(at: Any, model: Any, now: int, *, strictly: bool = False, waits: bool = True) -> Any:
        if model.load_info_known or not strictly:
            return first_copy(at, model, now, strictly=strictly, waits=waits)
        if model.retry_at > now:
            return Hold(Wait(WaitKind.BACKOFF, until=model.retry_at), explain=lambda: Explanation("backoff"))
        room = placement.find_room(at, model)
        if room is None:
            return Hold(Wait(WaitKind.CAPACITY), explain=lambda: Explanation("queue"))
        return Place(room, Explanation("place"))

    patches.swap(first_copy, doomed)
    patches.entry(parking.CURES, Lack.TIME, parking.CURES[Lack.CAPACITY])
    patches.swap(reconcile._lacking_for_floor, _always_parked_until(reconcile._lacking_for_floor))


def _always_parked_until(lacking: Callable[..., Any]) -> Callable[..., Any]:
    def until(at: Any, model: Any, plan: Any, now: int, *, cured: bool = False) -> Any:
        wish = lacking(at, model, plan, now, cured=cured)
        if isinstance(plan, Hold) and plan.wait.until < FOREVER:
            return replace(wish, lacks=Lack.TIME, until=plan.wait.until)
        return wish

    return until


def unpark_on_anything(patches: Patches) -> None:
    """Any change at all un-parks a model, whatever it lacks, and its doomed load is tried again."""

    def eager(at: Any, model: Any, command: Any, now: int, *, below: bool) -> Any:
        plan = routing.first_copy(at, replace(model, retry_at=0), now, strictly=True)
        if not below or not isinstance(plan, Place | Evict):
            return []
        unparked = ev.ModelUnparked(at=now, model=model.name, cause=command.cause)
        return [unparked, *loads.begin(at, model, plan, now, causes.of_floor(model.name, command.cause))]

    patches.swap(reconcile._unpark, eager)


def parked_until_edit(patches: Patches) -> None:
    """A wish parked for a failed load stays parked when the model has loaded after all: only an edit frees it."""
    unpark = reconcile._unpark

    def strict(at: Any, model: Any, command: Any, now: int, *, below: bool) -> Any:
        if below and model.parked.lacks is Lack.EDIT and command.change not in parking.CURES[Lack.EDIT]:
            return []
        return unpark(at, model, command, now, below=below)

    patches.swap(unpark, strict)


def floor_evicts_equals(patches: Patches) -> None:
    """A floor evicts replicas of the same priority: two floors on one slot throw each other out for ever."""
    first_copy = routing.first_copy

    def greedy(at: Any, model: Any, now: int, *, strictly: bool = False, waits: bool = True) -> Any:
        return first_copy(at, model, now, strictly=False, waits=waits)

    patches.swap(first_copy, greedy)
    spare = eviction.spare_of_floor
    patches.swap(spare, lambda at, replica, model, leaving=1: True)


def up_and_down_in_one_tick(patches: Patches) -> None:
    """What removes copies wants one less than what adds them: it takes away what has just come up."""

    def one_less(at: Any, model: Any, now: int) -> Any:
        warm = at.warm.get(model.name)
        idle = warm.idle() if warm is not None else None
        floor = shrinking.floor_of(at, model)
        if not idle or at.waiting(model.name) or floor < 1 or shrinking.copies(at, model) < floor:
            return None
        return at.replicas[idle[0][3]], "scale-down"

    patches.swap(shrinking.surplus, one_less)


def scale_down_at_once(patches: Patches) -> None:
    """A copy above the floor goes as soon as it is idle for a moment."""
    surplus = shrinking.surplus

    def impatient(at: Any, model: Any, now: int) -> Any:
        return surplus(at, model, now + at.settings.scale_down_delay)

    patches.swap(surplus, impatient)


def ttl_ignored(patches: Patches) -> None:
    """A model's own ``idle_unload`` changes nothing: the cluster's setting holds for all."""
    patches.swap(shrinking.idle_unload_of, lambda at, model: at.settings.idle_unload)


# --- nodes ----------------------------------------------------------------------------------------------------------


def budget_ignored_on_shrink(patches: Patches) -> None:
    """A budget that was lowered keeps new loads away, and what is loaded already stays above it for ever."""
    patches.swap(budgets.leaves_for_budget, lambda at, node: None)


def slots_ignored_on_shrink(patches: Patches) -> None:
    """Slots that were lowered keep new copies away, and those that are loaded already stay above them for ever."""
    patches.swap(slots.leaves_for_slots, lambda at, replica: False)


def all_forgets_the_newcomer(patches: Patches) -> None:
    """A model that is to run on every candidate is not looked at when a node joins."""
    review = consequences.review_after

    def but_those(at: Any, event: Any, command: Any) -> Any:
        found = review(at, event, command)
        if found is None or not isinstance(event, ev.NodeRegistered | ev.NodeApproved):
            return found
        models = tuple(name for name in found.models if name not in at.everywhere)
        return replace(found, models=models) if models else None

    patches.swap(review, but_those)


def span_counted_once(patches: Patches) -> None:
    """A model that lies in two pools counts in the first of them alone."""
    commit = state.State.commit

    def in_the_first(self: Any, node: str, claim: Any, sign: int) -> None:
        commit(self, node, claim[:1], sign)

    patches.attribute(state.State, "commit", in_the_first)


def busy_taken_for_dead(patches: Patches) -> None:
    """A replica that is busy, and so is slow to answer, counts as lost."""
    report = nodes.report_running

    def impatient(at: Any, command: Any, now: int) -> Any:
        quick = tuple(process for process in command.running if not at.lock_count(process.replica))
        return report(at, replace(command, running=quick), now)

    patches.swap(report, impatient)


def unreachable_is_lost(patches: Patches) -> None:
    """A node that is silent for a moment counts as gone at once, with all that runs there."""

    def gone(at: Any, command: Any, now: int) -> Any:
        node = at.nodes.get(command.node)
        if node is None or not node.takes_work:
            return []
        return nodes.went_offline(at, node, now)

    patches.swap(nodes.silence, gone)


def stray_ignored(patches: Patches) -> None:
    """A process that the log does not know is left running."""
    patches.swap(nodes._strays, lambda at, node, running, now, lost=(): [])


# --- around the core ------------------------------------------------------------------------------------------------


def epoch_unchecked(patches: Patches) -> None:
    """Store and workers take what a replaced writer still sends."""
    append, begin = log.Log.append, world.begin

    def unfenced(self: Any, batch: Any, epoch: int) -> None:
        append(self, batch, self.epoch)

    patches.attribute(log.Log, "append", unfenced)
    patches.attribute(world, "begin", lambda worker, effect, epoch: begin(worker, effect, max(epoch, worker.epoch)))


def effect_before_commit(patches: Patches) -> None:
    """Effects leave as soon as they are decided, before their cause is durable."""
    when_durable = writer.Writer._when_durable

    def at_once(self: Any, sent: Any, outcome: Any) -> None:
        self._send(outcome.effects)
        when_durable(self, sent, replace(outcome, effects=()))

    patches.attribute(writer.Writer, "_when_durable", at_once)


def model_name_unchecked(patches: Patches) -> None:
    """A call does not name its model, and a port that is used again answers for another one."""
    call = world.call

    def whoever_listens(worker: Any, address: str, model: str) -> str:
        process = world.listening_at(worker, address)
        if worker.hears and process is not None and process.loaded:
            return ""
        return call(worker, address, model)

    patches.attribute(world, "call", whoever_listens)


ALL: tuple[Row, ...] = (
    (selector_ignored_in_lookup, "T", "orin-thor", True),
    (empty_backend_scaleup, "Q", "orin-thor", True),
    (evict_outside_candidates, "S", "victim-elsewhere", True),
    (floor_counts_excluded, "S", "floor-elsewhere", True),
    (floor_forgotten_after_edit, "W", "rollout-under-faults", True),
    (evict_and_reserve_apart, "S", "victim-revived", True),
    (load_not_reserved, "U", "evicted-before-first-request", True),
    (unbounded_retry, "T", "many-backends-gone", True),
    (backends_gone_told_as_no_room, "T", "backends-die-one-after-another", True),
    (busy_taken_for_dead, "S", "busy-is-not-dead", True),
    (counter_not_lease, "S", "frontend-killed", True),
    (wakeup_forgotten, "W", "idle-wakes-the-waiting", True),
    (residency_ignored, "S", "working-set-above-capacity", True),
    (priority_inverted, "S", "priorities", True),
    (unpark_on_anything, "Q", "doomed-floor", True),
    (parked_until_edit, "W", "loads-after-all", True),
    (double_release, "S", "in-flight-after-churn", True),
    (holder_never_lost, "W", "frontend-killed", True),
    (stale_revision_served, "S", "stale-revision", True),
    (drain_keeps_routing, "S", "drain-under-load", True),
    (join_failed_load, "W", "failed-load-cleaned-up", True),
    (up_and_down_in_one_tick, "Q", "planner-and-applier", True),
    (growth_evicts, "S", "autoscaler-swings", True),
    (epoch_unchecked, "S", "two-leaders", False),
    (effect_before_commit, "S", "store-stalls", False),
    (loading_as_victim, "S", "load-as-victim", True),
    (never_fits_waits, "W", "larger-than-any-node", True),
    (floor_evicts_equals, "S", "floors-above-capacity", True),
    (unloading_still_warm, "S", "request-during-unload", True),
    (overload_sticks, "U", "overload-clears", True),
    (evicts_all_it_can, "S", "one-load-evicts-one", True),
    (pin_ignored, "S", "pinned-stays", True),
    (declare_always_edits, "S", "same-options-again", True),
    (scale_down_at_once, "S", "autoscaler-swings", True),
    (restart_forgets_failures, "S", "restart-keeps-counters", True),
    (death_in_a_load_forgotten, "S", "dies-while-it-loads", True),
    (silence_unwatched, "W", "dead-worker-mid-load", True),
    (stray_ignored, "Q", "orphans-after-partition", True),
    (unreachable_is_lost, "S", "brief-mass-silence", True),
    (give_up_leaves_running, "Q", "load-given-up", True),
    (deadline_forgotten, "W", "deadline-wakes", True),
    (alarm_never_set, "W", "deadline-wakes", True),
    (ageing_forgotten, "W", "patient-request-served", True),
    (refused_hands_on_its_turn, "W", "turn-not-handed-on", True),
    (rest_of_a_review_goes_last, "W", "floors-of-a-machine-that-begins-anew", True),
    (cold_before_warm, "U", "warm-before-cold", True),
    (budget_ignored_on_shrink, "Q", "budget-lowered", True),
    (slots_ignored_on_shrink, "Q", "slots-lowered", True),
    (all_forgets_the_newcomer, "W", "all-follows-the-nodes", True),
    (span_counted_once, "S", "two-gpus-one-model", True),
    (tenant_never_released, "U", "noisy-tenant", True),
    (tenant_counted_twice, "U", "tenant-waits-its-turn", True),
    (rate_forgotten, "S", "noisy-tenant", True),
    (model_name_unchecked, "S", "port-used-again", False),
    (ttl_ignored, "S", "idle-models-leave", True),
    (node_bound_ignored, "S", "evictions-bounded", True),
    (thrash_unnoticed, "S", "evict-reload-cycle", True),
    (many_taken_for_a_cycle, "S", "many-share-a-card", True),
    *disk_mutations.ROWS,
    *floor_mutations.ROWS,
    *hold_mutations.ROWS,
    *node_mutations.ROWS,
    *placement_mutations.ROWS,
    *prefix_mutations.ROWS,
    *use_mutations.ROWS,
)
"""Each mutant with the property that must kill it, the scenario that shows it, and whether it is in the core."""
