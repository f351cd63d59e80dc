"""Changes that several events share: an entity is put or dropped, and every index follows."""

from __future__ import annotations

from bisect import bisect_left

from msgspec.structs import replace

from interlock.domain.claims import less, overlap, total
from interlock.domain.entities import Model, Node, Phase, Replica, Request, RequestStatus, merged_labels
from interlock.domain.fairness import queue_key
from interlock.domain.state import State
from interlock.domain.timers import arm_idle_of
from interlock.domain.units import FOREVER

from .tenants import let_out


def put_node(state: State, node: Node) -> None:
    """Replace a node, with its labels merged anew."""
    node = replace(node, labels=merged_labels(node))
    state.nodes[node.name] = node
    state.index_node(node)
    state.index_contact(node)


def put_replica(state: State, replica: Replica) -> None:
    """Replace a replica whose phase, address or operation changed."""
    state.replicas[replica.id] = replica
    if replica.phase is Phase.UNLOADING:
        state.prefixes.forget(replica.id)
    state.index_phase(replica)
    state.index_warm(replica)
    state.index_group(replica)
    if replica.silent_at < FOREVER:
        state.set_timer(replica.silent_at, "silent", replica.id)


def drop_replica(state: State, replica: Replica) -> None:
    """Nothing is left of the replica: free its memory, slot and disk reservation, and pay its beneficiary."""
    del state.replicas[replica.id]
    state.prefixes.forget(replica.id)
    for index, key in ((state.by_node, replica.node), (state.by_model, replica.model)):
        members = index[key]
        del members[replica.id]
        if not members:
            del index[key]
    slots = state.by_slot[replica.node, replica.model]
    del slots[replica.index]
    if not slots:
        del state.by_slot[replica.node, replica.model]
    loads = state.loading.get(replica.model)
    if loads is not None and loads.pop(replica.id, 0) is None and not loads:
        del state.loading[replica.model]
    state.transit.pop(replica.id, None)
    state.leaving.pop(replica.id, None)
    state.idle_timers.pop(replica.id, None)
    state.unindex_warm(replica)
    state.index_group(replica, gone=True)
    state.commit(replica.node, replica.present, -1)
    unstage(state, replica)
    state.unused_from_now(replica.node, replica.model, replica.revision)
    state.awaited.pop(replica.id, None)
    pay_beneficiary(state, replica)
    state.index_free(replica.node)
    arm_idle_of(state, replica.model)


def free_victims(state: State, replica: Replica, room_by: int) -> None:
    """The load that its victims leave for has ended: what they leave is room for anybody, waited for until then."""
    for victim in state.awaited.pop(replica.id, ()):
        put_replica(state, replace(state.replicas[victim], beneficiary="", room_by=room_by))


def pay_beneficiary(state: State, victim: Replica) -> None:
    """The victim's memory goes to the load that it made room for, as far as that load is still owed any."""
    waiting = state.awaited.get(victim.beneficiary)
    if waiting is None:
        return
    del waiting[victim.id]
    beneficiary = state.replicas[victim.beneficiary]
    paid = beneficiary.owed_in if not waiting else overlap(beneficiary.owed_in, victim.claim)
    owed_in = less(beneficiary.owed_in, paid)
    state.replicas[beneficiary.id] = replace(beneficiary, owed=total(owed_in), owed_in=owed_in)
    state.commit(beneficiary.node, paid, +1)
    if not waiting:
        del state.awaited[victim.beneficiary]


def unstage(state: State, replica: Replica) -> None:
    """Give back the disk of a staging that did not finish; what was staged stays for the next load."""
    count_disk(state, replica.node, -replica.disk_coming)
    if replica.phase in (Phase.RESERVED, Phase.INSTALLING):
        for model, revision, size in replica.drops:  # nothing was asked of the worker yet: they are there still
            if (model, revision) not in state.staged.get(replica.node, {}):
                state.stage(replica.node, model, revision, size)
                count_disk(state, replica.node, size)


def stay_after_all(state: State, node: str, model: str) -> None:
    """The model's files were brought again, or found there still: they give way to nobody who was to get their room.

    Whoever drops them from now on has them in a reservation of its own.
    """
    for replica_id in state.by_node.get(node, ()):
        replica = state.replicas[replica_id]
        drops = tuple(files for files in replica.drops if files[0] != model)
        if drops != replica.drops:
            state.replicas[replica_id] = replace(replica, drops=drops)
            count_disk(state, node, state.replicas[replica_id].disk_coming - replica.disk_coming)


def count_disk(state: State, node: str, size: int) -> None:
    """Count bytes in use on the node's disk, or in negative, bytes that are not any more."""
    if not size:
        return
    state.disk_used[node] = state.disk_used.get(node, 0) + size
    if not state.disk_used[node]:
        del state.disk_used[node]


def drop_locks(state: State, replica: Replica) -> None:
    """The replica no longer serves: its requests are adrift until their holder reports."""
    for request_id in state.locks.pop(replica.id, ()):
        request = state.requests[request_id]
        state.requests[request_id] = replace(request, status=RequestStatus.ADRIFT, replica="")


def leave_queue(state: State, request: Request) -> None:
    """Take a request out of its model's queue."""
    queue = state.queues[request.model]
    del queue[bisect_left(queue, queue_key(state, request))]
    if not queue:
        del state.queues[request.model]


def end_request(state: State, request: Request) -> None:
    """Forget a request that is over."""
    del state.requests[request.id]
    if request.tenant:
        let_out(state, request.tenant)
    held = state.by_holder[request.holder]
    del held[request.id]
    if not held:
        del state.by_holder[request.holder]


def put_request(state: State, request: Request) -> None:
    """Replace a request."""
    state.requests[request.id] = request
    held = state.by_holder.get(request.holder)
    if held is None:
        held = state.by_holder[request.holder] = {}
    held[request.id] = None


def put_model(state: State, model: Model) -> None:
    """Replace a model."""
    state.models[model.name] = model
    if model.scheduling.everywhere:
        state.everywhere[model.name] = None
    else:
        state.everywhere.pop(model.name, None)
