"""Steps and events in the domain's words: requests are numbered as they come, replicas called by model and node."""

from __future__ import annotations

import re

from interlock.domain import events as ev
from interlock.domain.entities import NodeStatus, Request, RequestStatus
from interlock.domain.units import FOREVER

from .actions import BUSY_FOREVER, Action
from .scope import Scope
from .situation import Situation

_EFFECTS = {
    "installing": "backend.install", "staging": "model.stage", "loading": "model.load", "unloading": "model.unload",
}  # fmt: skip


class Names:
    """What the requests of one run are called."""

    def __init__(self) -> None:
        self._requests: dict[str, int] = {}

    def of(self, request: str) -> str:
        """``request 1``, ``request 2``, in the order in which they are first spoken of."""
        number = self._requests.setdefault(request, len(self._requests) + 1)
        return f"request {number}"


def tell_action(action: Action, before: Situation, scope: Scope, names: Names) -> str:
    """What happens."""
    key = action.key
    kind, rest = str(key[0]), [str(part) for part in key[1:]]
    if kind == "arrive":
        return f"a request for {action.about[0].model} arrives"
    if kind in ("release", "hang-up", "gone", "in-vain", "report"):
        request = action.about if kind in ("release", "hang-up") else action.about[0]
        done = {
            "hang-up": "is given up by its client",
            "release": "is over", "gone": "finds its backend gone", "report": "asks again",
            "in-vain": "calls in vain, and its node's worker is asked in vain, too",
        }  # fmt: skip
        return f"{names.of(request)} {done[kind]}"
    if kind in ("answer", "fail", "delay", "repeat"):
        return _tell_answer(kind, rest, action.about[1])
    if kind == "mail":
        return f"late word arrives: {rest[1]}"
    if kind in ("timer", "pass"):
        return _tell_time(key, before, names)
    if kind == "admin":
        return scope.steps[int(rest[0])].words
    plain = {
        "crash": "{} crashes", "start": "{} starts", "cut": "{} is cut off", "heal": "{} is connected again",
        "silence": "{} has been silent for too long", "tell": "{} says what it runs",
        "kill": "the process of {} on {} dies", "takeover": "another writer takes over",
        "lose-holder": "a gateway falls silent for good", "rival": "another machine registers as {}",
        "again": "the first {} registers again", "goodbye": "{} stops what it runs and says goodbye",
    }  # fmt: skip
    return plain[kind].format(*rest)


def _tell_answer(kind: str, rest: list[str], failure: str) -> str:
    if rest[-1] == "stray":
        return f"{rest[0]} has stopped a process that the log does not know"
    model, node, _, phase = rest
    how = {
        "answer": f"failed: {failure}" if failure else "done", "fail": f"failed: {failure}",
        "delay": "done, its answer is late",
        "repeat": "done, its answer comes twice",
    }  # fmt: skip
    return f"{node} answers {_EFFECTS.get(phase, phase)} of {model}: {how[kind]}"


def _tell_time(key: tuple[str | int, ...], before: Situation, names: Names) -> str:
    what, owner = str(key[1]), str(key[2]) if len(key) > 2 else ""
    if what in ("wake", "deadline"):
        request = names.of(list(before.state.requests)[int(owner)])
        return f"the deadline of {request} passes" if what == "deadline" else f"{request} looks again at its instant"
    return {
        "silent": f"{owner} shows no progress for too long on {key[-2]}",
        "room": f"the room that {owner} leaves on {key[-2]} is waited for no longer",
        "residency": "a replica's residency ends",
        "trial": f"{owner} has run for long enough on {key[-2]}",
        "retry": f"{owner} may be loaded again", "unpark": f"the instant that {owner} is parked for has come",
        "offline": f"{owner} has been unreachable for too long", "drain": f"the drain of {owner} reaches its deadline",
        "alone": f"{owner} has been silent for so long that others would be known to be so, too",
        "mass-loss": "the grace for a silence of many nodes is over",
        "idle": f"{owner} has been idle for long",
        "tenant": f"{owner} may send one request more",
        "ageing": "a request has waited for as long as a higher priority is worth",
        "churn": f"{owner} was quiet for long enough", "window": f"an eviction on {owner} no longer counts",
    }[what]  # fmt: skip


def tell_event(event: ev.Event, names: Names) -> str:
    """What the core decided."""
    said = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(event).__name__).lower()
    parts = []
    request = getattr(event, "request", "")
    if request:
        parts.append(names.of(request))
    if model := getattr(event, "model", ""):
        parts.append(model)
    if node := getattr(event, "node", ""):
        parts.append(f"on {node}")
    for field in ("reason", "code", "lacks", "message"):
        if value := getattr(event, field, ""):
            parts.append(f"({value})")
            break
    wait = getattr(event, "wait", None)
    if wait is not None:
        parts.append(f"(waits for {wait.kind})")
    return f"{said}: {' '.join(parts)}" if parts else said


def tell_standing(situation: Situation, names: Names) -> dict[str, str]:
    """How everything stands that a step may change, by what it is: nodes with something wrong, models, requests."""
    state, said = situation.state, {}
    for name, worker in situation.workers.items():
        node = state.nodes.get(name)
        wrong = [] if worker.hears else ["down" if not worker.up else "cut off"]
        if node is not None and node.status is not NodeStatus.HEALTHY:
            wrong.append(f"counts as {node.status.value}")
        if node is not None and node.drained:
            wrong.append("draining")
        if wrong:
            said[name] = ", ".join(dict.fromkeys(wrong))
    for replica in state.replicas.values():
        locks = state.lock_count(replica.id)
        busy = f", {locks} in flight" if locks else ""
        copy = f" #{replica.index + 1}" if replica.index else ""
        said[f"{replica.model} on {replica.node}{copy}"] = f"{replica.phase.value}{busy}"
    for name, model in state.models.items():
        pauses = ["waits before its next load"] if situation.now < model.retry_at < FOREVER else []
        if model.parked is not None or pauses:
            parked = [f"parked ({model.parked.reason})"] if model.parked is not None else []
            said[name] = ", ".join([*parked, *pauses])
    for request in state.requests.values():
        if not request.id.startswith((BUSY_FOREVER, "busy-")):
            said[names.of(request.id)] = _tell_request(situation, request)
    if situation.mail:
        said["on their way"] = ", ".join(type(word).__name__ for word in situation.mail)
    return said


def _tell_request(situation: Situation, request: Request) -> str:
    if request.status is RequestStatus.LOCKED:
        replica = situation.state.replicas.get(request.replica)
        return f"served on {replica.node}" if replica is not None else "holds a replica that is gone"
    if request.status is RequestStatus.ADRIFT:
        return "has lost its replica"
    return f"waits for {request.wait.kind}" if request.wait is not None else "waits"
