"""Answers: what a worker says when it has done what an effect asked."""

from __future__ import annotations

from .commands import Command, ReportInstalled, ReportLoaded, ReportStaged, ReportStrayStopped, ReportUnloaded
from .effects import Effect, InstallBackend, LoadModel, ReplicaEffect, StageModel, StopStray
from .errors import InvariantBroken


def done(effect: Effect, address: str = "") -> Command:
    """The answer to an effect that went well; ``address`` is where a backend that was installed listens."""
    if isinstance(effect, StopStray):
        return ReportStrayStopped(node=effect.node, process=effect.process)
    if not isinstance(effect, ReplicaEffect):
        raise InvariantBroken(f"No worker can do {type(effect).__name__}.")
    if isinstance(effect, InstallBackend):
        return ReportInstalled(replica=effect.replica, op=effect.op, address=address)
    if isinstance(effect, StageModel):
        return ReportStaged(replica=effect.replica, op=effect.op)
    if isinstance(effect, LoadModel):
        return ReportLoaded(replica=effect.replica, op=effect.op)
    return ReportUnloaded(replica=effect.replica, op=effect.op)
