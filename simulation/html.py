"""The page that shows a run: one self-contained HTML file with everything that happened, over time.

This module gathers what the page draws; ``page.html`` beside it draws it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from interlock.domain import events as ev
from interlock.domain.codec import decode_event
from interlock.domain.effects import Effect
from interlock.domain.explanation import Explanation
from interlock.domain.units import FOREVER, SECOND

from .api import Result
from .clock import START

DECISIONS_KEPT = 20_000
"""Of more decisions, the warm ones are left out of the page first."""
_TEMPLATE = Path(__file__).with_name("page.html")


def page(result: Result) -> str:
    """The page of a run."""
    story = Story()
    for row in result.harness.rows:
        story.take(row.position, decode_event(row.topic, row.state))
    data = {**story.data(result), "report": {k: v for k, v in result.report.items() if k != "violations"}}
    # "</script" would end the element that the data stands in, and "<!--<script" keep its own end from ending it.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return _TEMPLATE.read_text(encoding="utf-8").replace("{{DATA}}", text)


class Story:
    """What happened, by node and by time. Times are seconds from the start."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}
        self.replicas: dict[str, dict[str, Any]] = {}
        self.locks: dict[str, str] = {}
        self.waiting: dict[str, None] = {}
        self.queue: list[list[float]] = [[0.0, 0]]
        self.decisions: list[dict[str, Any]] = []
        self.settings: list[dict[str, Any]] = []

    def take(self, position: int, event: ev.Event) -> None:
        """One event of the log, in order."""
        at = round((event.at - START) / SECOND, 6)
        if isinstance(event, ev.NodeEvent):
            self._node(at, event)
        elif isinstance(event, ev.ReplicaEvent):
            self._replica(at, event)
        self._requests(at, event)
        explanation = getattr(event, "explanation", None)
        if explanation is not None:
            self.decisions.append(_decision(at, position, event, explanation))

    def _node(self, at: float, event: ev.NodeEvent) -> None:
        node = self.nodes.setdefault(event.node, {"name": event.node, "replicas": [], "states": []})
        words = {
            ev.NodeBecameUnreachable: "silent", ev.NodeWentOffline: "offline", ev.NodeDrainStarted: "draining",
            ev.NodeRemoved: "removed", ev.NodeRecovered: "", ev.NodeResumed: "", ev.NodeRegistered: "",
        }  # fmt: skip
        state = words.get(type(event))
        if state is None:
            return
        if node["states"] and node["states"][-1][1] is None:
            node["states"][-1][1] = at
        if state:
            node["states"].append([at, None, state])

    def _replica(self, at: float, event: ev.ReplicaEvent) -> None:
        phases = {
            ev.ReplicaReserved: "reserved", ev.BackendInstallRequested: "installing", ev.StagingStarted: "staging",
            ev.LoadStarted: "loading", ev.ReplicaLoaded: "loaded", ev.ReplicaEvicted: "evicted",
            ev.UnloadRequested: "unloading", ev.UnloadConfirmed: "gone", ev.ReplicaLost: "lost",
            ev.ReplicaLoadFailed: "failed",
        }  # fmt: skip
        phase = phases.get(type(event))
        if phase is None:
            return
        replica = self.replicas.get(event.replica)
        if replica is None:
            replica = {"id": event.replica, "model": event.model, "segments": [], "locks": [], "end": ""}
            self.replicas[event.replica] = replica
            node = self.nodes.setdefault(event.node, {"name": event.node, "replicas": [], "states": []})
            node["replicas"].append(replica)
        segments = replica["segments"]
        if segments and segments[-1][1] is None:
            segments[-1][1] = at
        reason = str(getattr(event, "reason", "") or getattr(event, "cause", "") or "")
        if isinstance(event, ev.ReplicaEvicted):
            reason = f"for {event.beneficiary} of {event.beneficiary_model}"
        ended = phase == "gone" or bool(getattr(event, "gone", False))
        if phase in ("lost", "failed"):
            replica["end"] = f"{phase}: {reason}"
            self._drop_locks(at, event.replica)
        if not ended:
            segments.append([at, None, "unloading" if phase in ("lost", "failed") else phase, reason])

    def _drop_locks(self, at: float, replica: str) -> None:
        for request in [request for request, held in self.locks.items() if held == replica]:
            del self.locks[request]
        self.replicas[replica]["locks"].append([at, 0])

    def _requests(self, at: float, event: ev.Event) -> None:
        if isinstance(event, ev.ReplicaLocked):
            self.locks[event.request] = event.replica
            self._count_locks(at, event.replica)
            self._leave(at, event.request)
        elif isinstance(event, ev.ReplicaReleased | ev.CallWentUnanswered):
            self.locks.pop(event.request, None)
            self._count_locks(at, event.replica)
        elif isinstance(event, ev.RequestQueued):
            if event.request not in self.waiting:
                self.waiting[event.request] = None
                self.queue.append([at, len(self.waiting)])
        elif isinstance(event, ev.RequestCancelled | ev.RequestRefused):
            self._leave(at, event.request)

    def _count_locks(self, at: float, replica: str) -> None:
        if replica in self.replicas:
            held = sum(1 for where in self.locks.values() if where == replica)
            self.replicas[replica]["locks"].append([at, held])

    def _leave(self, at: float, request: str) -> None:
        if request in self.waiting:
            del self.waiting[request]
            self.queue.append([at, len(self.waiting)])

    def data(self, result: Result) -> dict[str, Any]:
        """Everything that the page draws."""
        harness = result.harness
        decisions = self.decisions
        if len(decisions) > DECISIONS_KEPT:
            decisions = [decision for decision in decisions if decision["step"] not in ("warm", "granted")]
        end = max(harness.duration, harness.clock.elapsed if not result.passed else 0) / SECOND
        parallel = {m.name: m.scheduling.parallel for m in harness.engine.state.models.values()}
        return {
            "name": harness.scenario.name,
            "description": harness.scenario.description,
            "end": end,
            "duration": harness.duration / SECOND,
            "nodes": list(self.nodes.values()),
            "parallel": parallel,
            "queue": self.queue,
            "effects": [_effect_row(at, effect) for at, effect in harness.effect_times],
            "faults": [
                [start / SECOND, (min(until, FOREVER) / SECOND) if until < FOREVER else end, kind, target]
                for start, until, kind, target in harness.faults.history
            ],
            "admin": [[at / SECOND, action, target] for at, action, target in harness.operators.history],
            "violations": [
                {"at": v.at / SECOND, "property": v.property, "detail": v.detail, "position": v.position}
                for v in harness.invariants.violations
            ],
            "decisions": decisions[:DECISIONS_KEPT],
        }


def _effect_row(at: int, effect: Effect) -> list[Any]:
    replica, model = getattr(effect, "replica", ""), getattr(effect, "model", "")
    return [round(at / SECOND, 6), effect.name, effect.node, replica, model]


def _decision(at: float, position: int, event: ev.Event, explanation: Explanation) -> dict[str, Any]:
    """One explained decision, in the order in which it was made."""
    rows = [[row.node, row.outcome, row.filter, row.detail, row.score] for row in explanation.considered]
    return {
        "at": at,
        "position": position,
        "event": type(event).__name__,
        "model": getattr(event, "model", ""),
        "request": getattr(event, "request", ""),
        "replica": getattr(event, "replica", ""),
        "node": getattr(event, "node", ""),
        "step": explanation.step,
        "chosen": explanation.chosen,
        "cure": explanation.cure,
        "rows": rows,
        "rejected": explanation.rejected,
    }
