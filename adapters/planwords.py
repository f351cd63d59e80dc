"""A plan in words: the report of :mod:`interlock.domain.planning` with a sentence for each thing that would happen.

The very document that ``POST /api/plan`` answers and ``interlock plan --json`` prints; the table shows the same lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from interlock.adapters.audit.sentences import LEAVES
from interlock.domain import causes
from interlock.domain.entities import Budget
from interlock.domain.errors import sentences
from interlock.domain.explanation import Considered
from interlock.domain.planning import UNFINISHED, Changed, FirstRequest, Left, Placed, Rejection, Report, Unmet
from interlock.domain.refusals import RefusalCode
from interlock.domain.rehearsal import Step
from interlock.domain.room import Filter
from interlock.domain.settings import format_idle_unload, format_setting
from interlock.domain.units import FOREVER, format_instant, format_size, tell_duration

_WHY_NOT = {
    RefusalCode.NEVER_FITS: "it does not fit on any of its candidates, even alone",
    RefusalCode.NO_NODE_MATCHES: "no approved node matches its selector",
    RefusalCode.LOAD_INFO_MISSING: "nobody has said how to load it",
    RefusalCode.CAPACITY_EXHAUSTED: "its candidates have no room, and nothing there may be evicted for it",
    RefusalCode.FROZEN: "what it needs is frozen",
    RefusalCode.LOAD_FAILED: "its loads have failed",
    UNFINISHED: "the plan was cut short before its turn",
}
_CLOSED: dict[tuple[str, ...], str] = {
    ("drain",): "the nodes that it may use are being drained",
    ("health",): "the nodes that it may use are down",
}
"""What stands in the way where no candidate takes work, by the filters that they do not pass."""
_DRAINED_OR_DOWN = "the nodes that it may use are being drained or down"
_NOTHING = {"disk": "unknown", "idle_unload": "default"}
"""What the absence of a value means, where it is not "none"."""
_NEAREST = 3
"""So many nodes a sentence names; all of them are in the document."""


class ChangeLine(msgspec.Struct, frozen=True, kw_only=True):
    """What the change itself makes different, of a ``setting``, ``node`` or ``model``."""

    kind: str
    name: str
    what: str
    before: str | None
    after: str | None
    why: str


class RejectedLine(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the change that would be rejected as it stands."""

    command: str
    name: str
    code: str
    why: str
    cure: str


class PlacedLine(msgspec.Struct, frozen=True, kw_only=True):
    """A replica that would be loaded; ``evicts`` are the models that make room for it."""

    model: str
    node: str
    replica: str
    memory: int
    evicts: list[str]
    step: str
    after: int
    when: str
    why: str


class LeftLine(msgspec.Struct, frozen=True, kw_only=True):
    """A replica that would go; an evicted one makes room for ``beneficiary``. ``in_flight`` is counted now."""

    replica: str
    model: str
    node: str
    kind: str
    reason: str
    beneficiary: str
    memory: int
    in_flight: int
    step: str
    after: int
    when: str
    why: str


class ParkedLine(msgspec.Struct, frozen=True, kw_only=True):
    """A model of which so many copies would be missing in the end, or whose ``revision`` would not come up; else 0."""

    model: str
    missing: int
    revision: int = 0
    reason: str
    lacks: str
    why: str
    cure: str
    considered: list[Considered]


class OnDemandLine(msgspec.Struct, frozen=True, kw_only=True):
    """What a first request for a model without a floor would meet.

    ``outcome`` is ``warm``, ``load``, ``evict``, ``wait`` or ``refused``.
    """

    model: str
    outcome: str
    node: str
    evicts: list[str]
    code: str
    why: str
    cure: str
    considered: list[Considered]


class RefusedLine(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that would be refused: they wait now, or are ``running`` and would lose their replica."""

    model: str
    code: str
    requests: int
    running: bool
    why: str


class PlanDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What would come of a change. ``holds``: all that was asked for could be, nobody would be refused, and nothing
    else would lose its place.

    ``position`` and ``time`` are those of the state that it was thought through on, ``notes`` what it assumes.
    ``held`` are replicas that would go, and stay as long as the reconciler is frozen.
    ``after`` counts microseconds, ``memory`` bytes. ``complete`` is false when there was too much to think through.
    """

    holds: bool
    summary: str
    position: int
    time: str
    changed: list[ChangeLine]
    rejected: list[RejectedLine]
    placed: list[PlacedLine]
    evicted: list[LeftLine]
    unloaded: list[LeftLine]
    parked: list[ParkedLine]
    on_demand: list[OnDemandLine]
    refused: list[RefusedLine]
    notes: list[str]
    complete: bool
    held: list[LeftLine] = []


def document(report: Report) -> PlanDocument:
    """The report with its sentences."""
    left = [_left(line) for line in report.left]
    return PlanDocument(
        holds=report.holds,
        summary=summary(report),
        position=report.position,
        time=format_instant(report.at),
        changed=[_changed(line, report.changed) for line in report.changed if not _is_implied(line, report.changed)],
        rejected=[_rejected(line) for line in report.rejected],
        placed=[_placed(line) for line in report.placed],
        evicted=[line for line in left if line.kind == "evicted"],
        unloaded=[line for line in left if line.kind != "evicted"],
        parked=[_parked(line) for line in report.unmet],
        on_demand=[_on_demand(line) for line in report.first_requests],
        refused=[_turned_away(*line) for line in report.refused],
        notes=list(_notes(report)),
        complete=report.cut_after is None,
        held=[_held(line) for line in report.held],
    )


def summary(report: Report) -> str:
    """The whole plan in one line."""
    evicted = sum(line.kind == "evicted" for line in report.left)
    counts = {"placed": len(report.placed), "evicted": evicted, "unloaded": len(report.left) - evicted}
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    if not told and report.holds:
        return "No replica would come or go." if report.changed else "Nothing would change."
    told = told or "no replica would come or go"
    told = f"{told[:1].upper()}{told[1:]}; {'; '.join(_against(report))}"
    return f"{told.removesuffix('; ')}."


def _against(report: Report) -> Iterator[str]:
    """What stands against the plan, each in a few words; that nothing does."""
    if report.rejected:
        yield f"{len(report.rejected)} of the changes would be rejected"
    failing = [line.model for line in report.unmet]
    failing += [line.model for line in report.first_requests if line.outcome == "refused"]
    if failing:
        yield f"no place for: {', '.join(failing)}"
    if report.held:
        stays = "copy stays" if len(report.held) == 1 else "copies stay"
        yield f"{len(report.held)} {stays} as long as the reconciler is frozen"
    if report.refused:
        yield f"{_count(sum(requests for _, _, requests, _ in report.refused), 'request')} would be refused"
    if report.holds:
        yield "all have their place"


def rows(plan: Mapping[str, object] | PlanDocument) -> Iterator[Sequence[object]]:
    """The lines of the table, what is wrong first: what, which, where, when, why."""
    told: PlanDocument = plan if isinstance(plan, PlanDocument) else msgspec.convert(plan, PlanDocument)
    for bad in told.rejected:
        yield "REJECT", bad.name, "", "", sentences(bad.why, bad.cure)
    for parked in told.parked:
        yield "PARK", parked.model, "", "", f"{parked.why}. {parked.cure}".strip()
    for first in told.on_demand:
        if first.outcome == "refused":
            yield "REFUSE", first.model, "", "on demand", f"{first.why}. {first.cure}".strip()
    for refused in told.refused:
        since = "running now" if refused.running else "waiting now"
        yield "REFUSE", refused.model, "", since, f"{refused.why} ({refused.code})"
    for held in told.held:
        yield "HOLD", held.model, held.node, held.when, held.why
    for changed in told.changed:
        yield "change", changed.name, "", "now", changed.why
    for placed in told.placed:
        yield "place", placed.model, placed.node, placed.when, placed.why
    for left in (*told.evicted, *told.unloaded):
        yield {"evicted": "evict", "lost": "LOSE"}.get(left.kind, "unload"), left.model, left.node, left.when, left.why
    for first in told.on_demand:
        if first.outcome != "refused":
            yield "serve", first.model, first.node, "on demand", first.why


# --- Sentences ------------------------------------------------------------------------------------------------------


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _when(step: Step, after: int) -> str:
    if step is Step.LATER:
        return f"after {tell_duration(after)}"
    return "now" if step is Step.NOW else "when idle"


def _placed(line: Placed) -> PlacedLine:
    request, revision = causes.requester(line.cause), causes.revision_of(line.cause)
    if causes.is_of_floor(line.cause):
        since = causes.floor_since(line.cause, line.model)
        why = f"its floor asks for it{f', since {since}' if since else ''}"
    elif revision is not None:
        before = "beside the one that serves" if line.beside else "alone: the one before it takes no more requests"
        why = f"revision {revision} comes up {before}"
    else:
        why = f"request {request} waits for it" if request is not None else line.cause
    room = f"; {', '.join(line.evicts)} makes room" if line.evicts else ""
    return PlacedLine(
        model=line.model, node=line.node, replica=line.replica, memory=line.memory, evicts=list(line.evicts),
        step=line.step.value, after=line.after, when=_when(line.step, line.after), why=f"{why}{room}",
    )  # fmt: skip


def _left(line: Left) -> LeftLine:
    requests = _count(line.in_flight, "running request")
    if line.kind == "evicted":
        why = f"{line.replica} makes room for {line.beneficiary}"
    elif line.kind == "unloaded":
        why = f"{line.replica}: {LEAVES.get(line.reason, line.reason)}"
    else:
        word = "its load is given up" if line.kind == "given up" else "it is lost"
        why = f"{line.replica}: {word}: {line.reason}"
    if line.in_flight:
        why += f"; {requests} would break" if line.kind == "lost" else f"; {requests} may end first"
    return LeftLine(
        replica=line.replica, model=line.model, node=line.node, kind=line.kind, reason=line.reason,
        beneficiary=line.beneficiary, memory=line.memory, in_flight=line.in_flight, step=line.step.value,
        after=line.after, when=_when(line.step, line.after), why=why,
    )  # fmt: skip


def _held(line: Left) -> LeftLine:
    why = f"{line.replica} would go ({LEAVES.get(line.reason, line.reason)}), and stays: `interlock thaw reconciler`."
    return msgspec.structs.replace(_left(line), when="when thawed", why=why)


def _why_not(code: str, considered: Sequence[Considered]) -> str:
    """The reason, and what stands in the way on the nodes that might have done: on those that lack a copy first.

    Where it has its copy none is missing, and a node that its selector leaves out might not have done.
    """
    missing = [row for row in considered if row.filter and row.filter != "approval"]
    nearest = [row for row in missing if row.filter not in ("selector", Filter.COPY)]
    nearest.sort(key=lambda row: row.filter == Filter.SLOTS)
    misses = [f"{row.node}: {row.detail or row.filter}" for row in nearest or missing]
    if len(misses) > _NEAREST:
        misses = [*misses[:_NEAREST], f"and {len(misses) - _NEAREST} more"]
    told = _reason(code, considered)
    return f"{told} ({'; '.join(misses)})" if misses else told


def _reason(code: str, considered: Sequence[Considered]) -> str:
    """The reason alone: that there is no room is said only where a candidate takes work.

    Where there are too many nodes to list them all, those that take none are not listed.
    """
    stopped = {row.filter for row in considered} - {"approval", "selector"}
    if code in (RefusalCode.CAPACITY_EXHAUSTED, RefusalCode.DRAINING) and stopped <= {"drain", "health"}:
        return _CLOSED.get(tuple(stopped), _DRAINED_OR_DOWN)
    return _WHY_NOT.get(code, code)


def _parked(line: Unmet) -> ParkedLine:
    lacking = []
    if line.missing:
        lacking.append(f"{_count(line.missing, 'copy').replace('copys', 'copies')} missing")
    if line.revision:
        lacking.append(f"revision {line.revision} does not take the place of the one that serves")
    return ParkedLine(
        model=line.model, missing=line.missing, revision=line.revision, reason=line.reason, lacks=line.lacks,
        why=f"{', and '.join(lacking)}: {_why_not(line.reason, line.nodes)}", cure=line.cure,
        considered=list(line.nodes),
    )  # fmt: skip


def _on_demand(line: FirstRequest) -> OnDemandLine:
    room = f", evicting {', '.join(line.evicts)}" if line.evicts else ""
    why = {
        "warm": "a request is served by the copy that is there",
        "load": f"a first request would load it{room}",
        "evict": f"a first request would load it{room}",
        "wait": f"a first request would wait until busy or fresh copies may go, then load it{room}",
        "refused": f"a request would be refused: {_why_not(line.code, line.nodes)}",
    }[line.outcome]
    return OnDemandLine(
        model=line.model, outcome=line.outcome, node=line.node, evicts=list(line.evicts), code=line.code, why=why,
        cure=line.cure, considered=list(line.nodes),
    )  # fmt: skip


def _rejected(line: Rejection) -> RejectedLine:
    message = line.message[:1].upper() + line.message[1:]
    return RejectedLine(command=line.command, name=line.name, code=line.code, why=message, cure=line.cure)


def _turned_away(model: str, code: str, requests: int, running: bool) -> RefusedLine:
    why = f"{_count(requests, 'waiting request')} would be refused"
    if running:
        whose = "its replica" if requests == 1 else "their replicas"
        why = f"{_count(requests, 'running request')} would lose {whose}, and be refused"
    return RefusedLine(model=model, code=code, requests=requests, running=running, why=why)


def _notes(report: Report) -> Iterator[str]:
    yield "Every load is taken to succeed, and no further request to come in."
    if report.running:
        yield f"{_count(report.running, 'request')} running now: taken to end."
    if report.under_way:
        yield f"{_count(report.under_way, 'load')} under way: taken to succeed, and not listed."
    for model, failures, words in report.shaky:
        last = f"{model}: its last {_count(failures, 'attempt')} failed ({words})"
        yield f"{last}; here the next one is taken to succeed."
    if report.silent:
        yield f"Cannot be reached, and left as they are: {', '.join(report.silent)}."
    if report.unmet_before:
        names = ", ".join(report.unmet_before)
        yield f"Parked with or without this change: {names}. `interlock audit why model:NAME` says why."
    if report.cut_after is not None:
        ahead = f"the next {tell_duration(report.cut_after)}" if report.cut_after else "what happens at once"
        yield f"There is more to think through than a plan may: it covers {ahead}, and that perhaps in part."


# --- What changes ---------------------------------------------------------------------------------------------------


def _is_implied(line: Changed, lines: Sequence[Changed]) -> bool:
    """Whether another line says the same: a drain its node's status, a figure the label that is made of it."""
    if line.what.startswith(("label node.", "label gpu.")):
        return True
    drains = {one.name for one in lines if one.kind == "node" and one.what == "drained"}
    return line.kind == "node" and line.what in ("status", "drain_by") and line.name in drains


def _changed(line: Changed, lines: Sequence[Changed]) -> ChangeLine:
    before, after = (None if value is None else _value(line, value) for value in (line.before, line.after))
    if line.what in ("known", "declared"):
        new, gone = ("joins", "is removed") if line.what == "known" else ("is declared", "is removed")
        why = new if line.after else gone
    elif line.what == "drained":
        ends = [one.after for one in lines if (one.kind, one.name, one.what) == ("node", line.name, "drain_by")]
        limit = f"; what is left there at {_instant(ends[0])[11:19]} UTC is taken away" if line.after and ends else ""
        why = f"is drained{limit}" if line.after else "is resumed"
    else:
        why = f"{line.what}: {before or _NOTHING.get(line.what, 'none')} → {after or _NOTHING.get(line.what, 'none')}"
    return ChangeLine(kind=line.kind, name=line.name, what=line.what, before=before, after=after, why=why)


def _instant(value: object) -> str:
    return format_instant(value) if isinstance(value, int) and value < FOREVER else "none"


def _value(line: Changed, value: object) -> str:
    if line.kind == "setting" and isinstance(value, int):
        return format_setting(line.name, value)
    if line.what == "drain_by":
        return _instant(value)
    if line.what == "idle_unload" and isinstance(value, int):
        return format_idle_unload(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Budget):
        return f"{format_size(value.size)} per pool" if value.size else f"{value.percent}%"
    if line.what in ("vram", "disk", "ram") and isinstance(value, int):
        return format_size(value)
    if line.what == "pools" and isinstance(value, tuple):
        return " + ".join(format_size(size) for size in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={item}" for key, item in value.items()) or "none"
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
