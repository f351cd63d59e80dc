"""One plain sentence for each event: what happened and why, for somebody who is tired."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from interlock.domain import events as ev
from interlock.domain.claims import format_claim
from interlock.domain.entities import Lack, Parked, Wait, WaitKind
from interlock.domain.explanation import Explanation
from interlock.domain.refusals import RefusalCode
from interlock.domain.settings import Settings, format_affinity, format_idle_unload, format_setting
from interlock.domain.units import FOREVER, format_instant, format_rate, format_size, tell_clock, tell_duration

_WAITS = {
    WaitKind.LOAD: "for a copy to load",
    WaitKind.BUSY: "because every copy, loaded or being loaded, is at its limit of requests",
    WaitKind.CAPACITY: "because there is no room, and nothing may be evicted now",
    WaitKind.LEAVING: "for the room of a replica that leaves in any case",
    WaitKind.NODES_DOWN: "because every node that it may use is down",
    WaitKind.DRAINING: "because the nodes that it may use are being drained",
    WaitKind.FROZEN: "because evictions are frozen",
    WaitKind.TURN: "for its turn, behind who came before it",
    WaitKind.CONTACT: "because its copy may be running where contact was lost, "
    "and nobody is evicted for another one yet",
    WaitKind.BACKOFF: "because it failed to come up, and the next try is due later",
}
_LACKS = {
    Lack.LOAD_INFO: "somebody says how to load it",
    Lack.NODE: "a node joins or changes that could hold it",
    Lack.CAPACITY: "room comes free",
    Lack.EDIT: "the model is edited, a node joins or changes, or one on which no load of it failed has room",
    Lack.TIME: "the time for it has come",
}

FREEZABLE = {"reconciler": "the reconciler", "evictions": "evictions"}
LEAVES = {
    "removed": "its model was removed",
    "revision": "a newer revision serves",
    "selector": "its model's selector no longer matches the node",
    "drain": "the node is being drained",
    "operator": "an operator asked for it",
    "budget": "its node is above its memory budget",
    "roll-out": "it made way for a new revision",
    "slots": "its node holds more replicas of its model than it is to",
    "scale-down": "it was idle and one copy too many",
    "ceiling": "there were more copies than max_replicas",
    "idle": "its model was idle for idle_unload",
    "load failed": "its load failed",
}


def sentence(event: ev.Event) -> str:
    """What the event says, in one sentence."""
    return _SENTENCES[type(event)](event)


def clock(instant: int) -> str:
    """The time of day of an instant, to the second, in UTC."""
    return format_instant(instant)[11:19] if 0 <= instant < FOREVER else "never"


def _because(words: str, text: str) -> str:
    return f"{words}: {text}" if text else words


def waits_for(wait: Wait) -> str:
    """What a request waits for, as the end of a sentence."""
    if wait.kind is WaitKind.LOAD and wait.on:
        return f"for {wait.on} to load"
    return _WAITS.get(wait.kind, f"for {wait.kind}")


def lacks_of(lacks: Lack) -> str:
    """What a parked wish lacks, as the end of a sentence that says until when it is parked."""
    return _LACKS.get(lacks, lacks)


def tell_parked(model: str, parked: Parked, explanation: Explanation | None) -> str:
    """That a model's wish is parked, until what; ``explanation`` is that of why it is."""
    note = f" {explanation.note}" if explanation is not None and explanation.note else ""
    return f"The wish for {model} is parked{parked_until(parked, explanation)}.{note}"


def parked_until(parked: Parked, explanation: Explanation | None) -> str:
    """For what reason a wish is parked, and until what, after a word that says that it is."""
    reason, until = f" ({parked.reason})", lacks_of(parked.lacks)
    if parked.lacks is Lack.CAPACITY and explanation is not None:
        if parked.reason is RefusalCode.FROZEN:
            until = "evictions are thawed or room comes free"
        elif other := _lacks_no_room(explanation):
            reason, until = "", other
    return f"{reason} until {until}{_by(parked.until, ' at {}')}"


def _lacks_no_room(explanation: Explanation) -> str:
    """What a wish lacks for which room on the nodes that it may use would do nothing; empty where it would."""
    if explanation.step == "never fits":
        return _LACKS[Lack.NODE]
    filters = {row.filter.partition(":")[0] for row in explanation.considered} - {"approval", "selector"}
    if not filters and explanation.rejected.get("health"):
        filters = {"health"}
    return next((words for those, words in _NO_ROOM if filters and filters <= those), "")


_NO_ROOM = (
    ({"drain", "health"}, "a node that it may use takes work again"),
    ({"slots", "copy", "drain", "health"}, "one of its nodes may hold one more copy, or another node joins"),
    ({"own", "drain", "health"}, "a node passes its placement profile's own filter"),
)
"""Filters that no room helps past: where no candidate gets beyond these, what helps instead."""


def tell_wait(wait: Wait) -> str:
    """What a request waits for, and when it looks again by itself."""
    words = waits_for(wait)
    return words if wait.until >= FOREVER else f"{words}; it looks again at {clock(wait.until)}"


def _by(instant: int, words: str) -> str:
    """What is said of an instant; nothing of one that never comes."""
    return words.format(clock(instant)) if 0 <= instant < FOREVER else ""


def _pools(sizes: tuple[int, ...]) -> str:
    return " + ".join(map(format_size, sizes)) or "no memory of its own"


def _labels(labels: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" if value else f"no {key}" for key, value in sorted(labels.items())) or "none"


# --- Nodes ----------------------------------------------------------------------------------------------------------


def _registered(e: ev.NodeRegistered) -> str:
    where = f" from {e.address}" if e.address else ""
    if e.replaced:
        return (
            f"Another machine{where} took the name of node {e.node}, with {_pools(e.pools)}; it must be approved anew."
        )
    one = ", for models and the rest of the machine alike" if e.unified else ""
    return f"Node {e.node} registered{where} with {_pools(e.pools)}{one}."


def _capacity(e: ev.NodeCapacityChanged) -> str:
    others = f", {_pools(e.foreign)} of it used by others" if any(e.foreign) else ""
    ram = f", and {format_size(e.ram)} of main memory" if e.ram and e.pools != (e.ram,) else ""
    return f"Node {e.node} reports {_pools(e.pools)}{others}{ram}."


def _clock(e: ev.NodeClockOff) -> str:
    if not e.off:
        return f"The clock of node {e.node} is right again."
    return f"The clock of node {e.node} is {tell_clock(e.off)}: its own logs mislead. Nothing is decided by it."


def _budget(e: ev.NodeBudgetSet) -> str:
    share = f"{format_size(e.budget.size)} per pool" if e.budget.size else f"{e.budget.percent}%"
    lifted = ", as its worker says: the operator's limit is lifted" if e.lifted else ""
    return f"Models may use {share} of the memory of node {e.node}{lifted}."


def _slots(e: ev.NodeReplicaSlotsSet) -> str:
    lifted = ", as its worker says: the operator's number is lifted" if e.lifted else ""
    return f"Node {e.node} may hold {e.max_replicas_per_model} replicas of one model{lifted}."


def _unreachable(e: ev.NodeBecameUnreachable) -> str:
    how = f": a call failed there ({e.call}), and its worker, when it was asked, did not answer" if e.call else ""
    until = _by(e.offline_at, "; what it runs counts as lost at {} unless it speaks before")
    return f"Node {e.node} fell silent{how}{until}."


def _postponed(e: ev.NodeOfflinePostponed) -> str:
    return f"Node {e.node} is silent with many others: it counts as offline{_by(e.offline_at, ' at {}')}, not now."


def _mass_loss(e: ev.MassLossSuspected) -> str:
    return (
        f"{e.silent} of {e.of} nodes fell silent at once, which is rather our own network: nothing is moved"
        f"{_by(e.until, ' until {}')} unless they speak again."
    )


def _offline(e: ev.NodeWentOffline) -> str:
    return _because(f"Node {e.node} went offline and all that ran there is lost", e.reason) + "."


def _drain_started(e: ev.NodeDrainStarted) -> str:
    limit = _by(e.drain_by, ", and what is busy at {} is taken away")
    whose = " by its worker, which is about to stop" if e.by_worker else ""
    return f"Node {e.node} is being drained{whose}: no new work, and what is idle leaves{limit}."


def _drain_enforced(e: ev.NodeDrainEnforced) -> str:
    left = f"{e.replicas} replicas with {e.requests} requests in flight"
    return f"The deadline of node {e.node}'s drain has come: {left} are taken away."


def _stray(e: ev.StrayFound) -> str:
    what = f" with {e.model}" if e.model else ""
    return f"Node {e.node} runs a process {e.process}{what} that the log does not know; it is being stopped."


# --- Models and their requests --------------------------------------------------------------------------------------


def _declared(e: ev.ModelDeclared) -> str:
    how = f"for the backend {e.spec.backend}" if e.spec.backend else "without saying how to load it"
    ram = f", and {format_size(e.spec.ram)} of main memory" if e.spec.ram else ""
    return f"Model {e.model} was declared {how}, needing {format_size(e.spec.vram)} of memory{ram}."


def _scheduling(e: ev.ModelSchedulingChanged) -> str:
    copies = "one copy per node" if e.scheduling.everywhere else f"at least {e.scheduling.min_replicas} copies"
    ceiling = f", at most {e.scheduling.max_replicas}" if e.scheduling.max_replicas else ""
    pinned = ", pinned" if e.scheduling.pinned else ""
    if e.scheduling.idle_unload is not None:
        pinned += f", idle_unload {format_idle_unload(e.scheduling.idle_unload)}"
    if e.scheduling.prefix_affinity is not None:
        pinned += f", prefix_affinity {format_affinity(e.scheduling.prefix_affinity)}"
    group = e.scheduling.anti_affinity
    apart = f", {'never' if e.scheduling.anti_affinity_hard else 'rather not'} beside others of group {group}"
    if e.scheduling.placement:
        pinned += f", placed by the profile {e.scheduling.placement}"
    told = f"{copies}{ceiling}, priority {e.scheduling.priority}{pinned}{apart if group else ''}"
    return f"The scheduling of {e.model} changed: {told}."


def _load_info(e: ev.LoadInfoStored) -> str:
    return f"It is known how to load {e.model}: with {e.spec.backend} (from: {e.source})."


def _parked(e: ev.ModelParked) -> str:
    return tell_parked(e.model, Parked(e.reason, e.lacks, e.until), e.explanation)


def _queued(e: ev.RequestQueued) -> str:
    priority = f" of priority {e.priority}" if e.priority else ""
    return f"Request {e.request}{priority} waits {tell_wait(e.wait)}{_by(e.deadline, ', until {} at the latest')}."


def _cancelled(e: ev.RequestCancelled) -> str:
    began = e.reason.endswith("after its replica was lost")
    return f"Request {e.request} ended{'' if began else ' before it was served'}: {e.reason}."


def _refused(e: ev.RequestRefused) -> str:
    again = f" Trying again may help in {tell_duration(e.retry_after)}." if e.retry_after else ""
    others = f" Whatever else {e.tenant} sends until then gets this answer, without an event." if e.whole_tenant else ""
    return f"Request {e.request} was refused ({e.code}): {e.message.rstrip('.')}.{again}{others}"


def _thrashing(e: ev.ThrashingDetected) -> str:
    for_whom = f" for {' and '.join(e.others)}" if e.others else ""
    times = f"{e.cycles} times in {tell_duration(e.at - e.since)}"
    stays = f"it now stays at least {tell_duration(e.evictable_at - e.at)}"
    return (
        f"{e.model} was evicted{for_whom} and loaded again {times}: {stays} each time, and whoever wants its room "
        "waits for as long; more memory, a floor or a pin would end this."
    )


# --- Replicas -------------------------------------------------------------------------------------------------------


def _reserved(e: ev.ReplicaReserved) -> str:
    room = format_claim(e.claim)
    victims = f", once {', '.join(e.victims)} made room" if e.victims else ""
    told = _because(f"{room} on node {e.node} were reserved for {e.model} as {e.replica}{victims}", e.cause) + "."
    if e.drops:
        names = ", ".join(dict.fromkeys(name for name, _, _ in e.drops))
        told += f" The files of {names}, which nothing there uses, give way to its own on the disk."
    note = e.explanation.note if e.explanation is not None else ""
    return f"{told} {note}" if note else told


def _staging(e: ev.StagingStarted) -> str:
    return f"Node {e.node} was asked to bring the files of {e.model} onto its disk for {e.replica}."


def _progressed(e: ev.LoadProgressed) -> str:
    done = f" ({e.done * 100 // e.total}%)" if e.total else ""
    return f"The load of {e.model} as {e.replica} moves on{done}."


def _load_failed(e: ev.ReplicaLoadFailed) -> str:
    return f"The load of {e.model} as {e.replica} on node {e.node} ended without a copy: {e.reason}."


def _locked(e: ev.ReplicaLocked) -> str:
    return _because(f"Request {e.request} got {e.replica} of {e.model} on node {e.node}", e.cause) + "."


def _released(e: ev.ReplicaReleased) -> str:
    detail = f" ({e.detail})" if e.detail else ""
    return f"Request {e.request} let go of {e.replica}: {e.outcome}{detail}."


def _unanswered(e: ev.CallWentUnanswered) -> str:
    detail = f" ({e.detail})" if e.detail else ""
    return (
        f"Request {e.request} called {e.replica} of {e.model} in vain{detail}: node {e.node} is silent, so the copy is "
        f"kept, and the request is routed again."
    )


def _evicted(e: ev.ReplicaEvicted) -> str:
    beneficiary = f"{e.beneficiary_model} ({e.beneficiary})"
    return f"{e.replica} of {e.model} on node {e.node} was evicted to make room for {beneficiary}."


def _unload(e: ev.UnloadRequested) -> str:
    tries = f", attempt {e.tries}" if e.tries > 1 else ""
    return f"Node {e.node} was asked to unload {e.replica} of {e.model}{tries}: {LEAVES.get(e.reason, e.reason)}."


def _lost(e: ev.ReplicaLost) -> str:
    rest = "" if e.gone else "; its node is asked to clean up"
    told = f"{e.replica} of {e.model} on node {e.node} no longer serves: {e.reason}{rest}."
    if not e.early:
        return told
    if not e.retry_at:
        return f"{told} It had served nobody yet."
    again = format_instant(e.retry_at)[11:19]
    return f"{told} It had served nobody yet, like the one before it: none is tried again before {again}."


def _proved(e: ev.ReplicaProved) -> str:
    died = f"the {e.deaths} copies that were lost before they had count"
    if e.deaths == 1:
        died = "the copy that was lost before it had counts"
    return f"{e.replica} of {e.model} has answered its first call: {died} no longer."


# --- Scheduler ------------------------------------------------------------------------------------------------------


def _settings(e: ev.SettingsChanged) -> str:
    known = Settings.__struct_fields__
    told = (f"{name} = {format_setting(name, v) if name in known else v}" for name, v in sorted(e.values.items()))
    return f"Settings changed: {', '.join(told)}."


def _holder(e: ev.HolderLost) -> str:
    return f"Gateway run {e.holder} fell silent; its {e.requests} requests end now."


def _tenant_limits(e: ev.TenantLimitsSet) -> str:
    own, told = e.limits, []
    if own.at_once is not None:
        told.append("any number of requests at once" if own.at_once >= FOREVER else f"{own.at_once} requests at once")
    if own.rate is not None:
        told.append(f"{format_rate(own.rate)} in the long run" if own.rate else "any rate")
    if own.burst is not None:
        told.append(f"{own.burst} in a burst")
    if own.priority is not None:
        told.append(f"a priority of at most {own.priority}")
    return f"Tenant {e.tenant} may have {', '.join(told) or 'what the settings say'} from now on."


_SENTENCES: dict[type[ev.Event], Callable[[Any], str]] = {
    ev.NodeRegistered: _registered,
    ev.NodeApproved: lambda e: f"Node {e.node} was approved and may take work.",
    ev.NodeLabelsChanged: lambda e: f"The operator's labels of node {e.node} are now: {_labels(e.labels)}.",
    ev.NodeCapacityChanged: _capacity,
    ev.NodeClockOff: _clock,
    ev.NodeBudgetSet: _budget,
    ev.NodeReplicaSlotsSet: _slots,
    ev.NodeBecameUnreachable: _unreachable,
    ev.NodeOfflinePostponed: _postponed,
    ev.NodeRecovered: lambda e: f"Node {e.node} speaks again.",
    ev.NodeDrainStarted: _drain_started,
    ev.NodeDrainEnforced: _drain_enforced,
    ev.NodeDrained: lambda e: f"Node {e.node} is empty: its drain is complete, and it may be switched off.",
    ev.NodeResumed: lambda e: f"The drain of node {e.node} is over.",
    ev.NodeWentOffline: _offline,
    ev.NodeRemoved: lambda e: f"Node {e.node} was taken out of the cluster.",
    ev.StrayFound: _stray,
    ev.StrayStopped: lambda e: f"The unknown process {e.process} on node {e.node} is gone.",
    ev.ModelDeclared: _declared,
    ev.ModelSchedulingChanged: _scheduling,
    ev.RevisionDeclared: lambda e: (
        f"Model {e.model} is to be as it serves, in revision {e.revision}: revision {e.called_off} is called off."
        if e.called_off
        else f"Model {e.model} was edited: revision {e.revision} is to be brought up."
    ),
    ev.RevisionServing: lambda e: f"Revision {e.revision} of {e.model} serves from now on.",
    ev.LoadInfoStored: _load_info,
    ev.ModelParked: _parked,
    ev.ModelUnparked: lambda e: f"The wish for {e.model} is no longer parked: {e.cause}.",
    ev.ModelRemoved: lambda e: f"Model {e.model} was taken out; its copies leave when idle.",
    ev.ThrashingDetected: _thrashing,
    ev.RequestQueued: _queued,
    ev.RequestWoken: lambda e: f"Request {e.request} is looked at again: {e.cause}.",
    ev.RequestCancelled: _cancelled,
    ev.RequestRefused: _refused,
    ev.ReplicaReserved: _reserved,
    ev.BackendInstallRequested: lambda e: f"Node {e.node} was asked to start a backend for {e.replica} of {e.model}.",
    ev.BackendInstalled: lambda e: f"The backend of {e.replica} runs on node {e.node} and answers at {e.address}.",
    ev.StagingStarted: _staging,
    ev.LoadStarted: lambda e: f"The backend of {e.replica} was asked to load {e.model}.",
    ev.LoadProgressed: _progressed,
    ev.ReplicaLoaded: lambda e: f"{e.replica} of {e.model} is loaded on node {e.node} and can serve.",
    ev.ReplicaLoadFailed: _load_failed,
    ev.ReplicaLocked: _locked,
    ev.ReplicaReleased: _released,
    ev.CallWentUnanswered: _unanswered,
    ev.ReplicaFoundIdle: lambda e: f"{e.replica} of {e.model} on node {e.node} has long been idle, and is kept.",
    ev.ReplicaRetired: lambda e: f"{e.replica} on node {e.node} takes no new requests and makes way: {e.cause}.",
    ev.ReplicaEvicted: _evicted,
    ev.HoldReleased: lambda e: f"What was held free for {e.replica} is held no longer: {e.reason}.",
    ev.UnloadRequested: _unload,
    ev.UnloadConfirmed: lambda e: f"{e.replica} of {e.model} is gone from node {e.node}: its memory is free.",
    ev.ReplicaLost: _lost,
    ev.ReplicaProved: _proved,
    ev.EpochStarted: lambda e: f"Writer {e.writer} took over as epoch {e.epoch}.",
    ev.HolderLost: _holder,
    ev.MassLossSuspected: _mass_loss,
    ev.MassLossOver: lambda e: _because("The silence of many nodes is held back no longer", e.reason) + ".",
    ev.SettingsChanged: _settings,
    ev.TenantLimitsSet: _tenant_limits,
    ev.Frozen: lambda e: f"An operator froze {FREEZABLE.get(e.what, e.what)}.",
    ev.Thawed: lambda e: f"An operator thawed {FREEZABLE.get(e.what, e.what)}.",
}
"""Every event class and its sentence; a test proves that none is missing."""
