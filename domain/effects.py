"""Effects: what the core asks of the outside. Each is idempotent and carries an operation id.

An effect leaves only after the events that cause it are durable; the executor adds the writer's epoch. The worker's
answer comes back as a command of :mod:`interlock.domain.commands` that quotes ``op``.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from .entities import LoadSpec


class Effect(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Base of all effects. ``op`` identifies the operation: a repeat with the same ``op`` is the same operation."""

    name: ClassVar[str] = ""
    op: str
    node: str
    boot: str = ""
    """The boot of the worker that is meant: another one of the node's name leaves it alone. Empty: any."""


class ReplicaEffect(Effect, frozen=True, kw_only=True):
    """An effect on one replica. ``address`` is where its backend process listens, once known."""

    replica: str
    model: str
    index: int
    address: str = ""
    pools: tuple[int, ...] = ()
    """The node's memory pools that are its own: for GPUs, which of them its process may see. Empty: none is claimed."""


class InstallBackend(ReplicaEffect, frozen=True, kw_only=True):
    """Start a backend process on its own port. Answered by ``ReportInstalled`` or ``ReportLoadFailed``."""

    name: ClassVar[str] = "backend.install"
    spec: LoadSpec


class StageModel(ReplicaEffect, frozen=True, kw_only=True):
    """Bring the model's files onto the node's disk. Answered by ``ReportStaged`` or ``ReportLoadFailed``."""

    name: ClassVar[str] = "model.stage"
    spec: LoadSpec
    drops: tuple[str, ...] = ()
    """Models whose files go first, unless something runs from them."""


class LoadModel(ReplicaEffect, frozen=True, kw_only=True):
    """Load the model into the backend's memory. Answered by ``ReportLoaded`` or ``ReportLoadFailed``."""

    name: ClassVar[str] = "model.load"
    spec: LoadSpec


class UnloadModel(ReplicaEffect, frozen=True, kw_only=True):
    """Free the model and stop its process, whatever it is doing. Answered by ``ReportUnloaded``."""

    name: ClassVar[str] = "model.unload"


class StopStray(Effect, frozen=True, kw_only=True):
    """Stop a process that the log does not know. Answered by ``ReportStrayStopped``."""

    name: ClassVar[str] = "backend.stop"
    process: str


EFFECT_TYPES: tuple[type[Effect], ...] = (InstallBackend, StageModel, LoadModel, UnloadModel, StopStray)
