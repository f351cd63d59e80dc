"""What the gateway needs from the rest of Interlock, as protocols. Commands go through ``domain.ports.CommandPort``.

A *view* is whatever describes one thing as JSON: a mapping or a msgspec struct. The gateway passes views on as they
are; where it must look inside (LocalAI's shapes), it reads the fields named here and leaves out what a view lacks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

import msgspec

from interlock.adapters.grpc.calls import Generation, Piece, Vector
from interlock.domain.planning import Change, Report

View = Mapping[str, object] | msgspec.Struct


class Sample(msgspec.Struct, frozen=True):
    """One figure for Prometheus. ``kind`` is ``gauge`` or ``counter``; samples of one name share kind and help."""

    name: str
    value: float
    labels: Mapping[str, str] = {}
    kind: str = "gauge"
    help: str = ""


class Readiness(msgspec.Struct, frozen=True):
    """Whether the cluster can serve, and if not, one plain sentence per thing that is missing."""

    ready: bool
    reasons: tuple[str, ...] = ()


class QueryPort(Protocol):
    """Read-only questions about the live state. Raises ``Unavailable`` when it cannot be reached.

    Fields that the gateway looks for, all optional but ``name`` and ``id``:

    - a node: ``name, address, status, labels, pools [{total, budget, used, reserved}], ram, disk, gpu_vendor,
      max_replicas_per_model, last_heard, clock_off`` (in µs);
    - a model: ``name, aliases, backend, node_selector, min_replicas, max_replicas, everywhere, parallel, priority,
      pinned, idle_unload, prefix_affinity, anti_affinity, anti_affinity_hard, placement, replicas, loaded,
      load_status, floor, queue``;
    - a replica: ``id, model, node, index, address, phase, in_flight, used_at, loaded_at``.
    """

    async def nodes(self) -> Sequence[View]:
        """All nodes, by name."""
        ...

    async def node(self, name: str) -> View | None:
        """One node, or None."""
        ...

    async def models(self) -> Sequence[View]:
        """All models, by name."""
        ...

    async def model(self, name: str) -> View | None:
        """One model by name or alias, or None."""
        ...

    async def replicas(self) -> Sequence[View]:
        """All replicas that exist."""
        ...

    async def requests(self) -> Sequence[View]:
        """The requests that wait or run."""
        ...

    async def request(self, request: str) -> View | None:
        """One request, also when it has ended, or None when the log knows none."""
        ...

    async def tenants(self) -> Sequence[View]:
        """The tenants that have requests, limits of their own, or were busy lately, by name."""
        ...

    async def load_status(self, model: str) -> View | None:
        """The load of a model in progress: ``state, node, progress`` (0 to 1, left out when unknown); None without."""
        ...

    async def is_taken(self, request: str) -> bool:
        """Whether any event was caused under that request id, however long ago."""
        ...

    async def settings(self) -> Mapping[str, str]:
        """Every setting as people write it."""
        ...

    async def frozen(self) -> Sequence[str]:
        """What is frozen: ``evictions``, ``reconciler``, both or nothing."""
        ...

    async def plan(self, change: Change) -> Report:
        """What would come of a change; nothing is changed by asking."""
        ...

    async def ready(self) -> Readiness:
        """Whether there is a writer, the log is reconciled with the workers, and the expected workers are there."""
        ...

    async def metrics(self) -> Sequence[Sample]:
        """The scheduler's own figures."""
        ...


class LivenessPort(Protocol):
    """Where heartbeats are heard; silence and recovery become commands there."""

    async def heard(self, node: str, boot: str) -> int | None:
        """Note a sign of life; returns in how many microseconds the next is due (``heartbeat_interval``).

        None when no such node is registered, so that the worker registers again.
        """
        ...


class AuditPort(Protocol):
    """Questions about the log. Ids, times and positions are as users write them; errors are ``InterlockError``s."""

    async def log(self, filters: Mapping[str, str]) -> View:
        """Rows that match, with a stable cursor."""
        ...

    async def why(self, subject: str, *, full: bool = False) -> View:
        """The chain of causes of a request, replica, node, model or position."""
        ...

    async def state(self, at: str) -> View:
        """The cluster as it was at a time or position."""
        ...

    async def diff(self, start: str, end: str) -> View:
        """What changed between two times or positions."""
        ...

    async def verify(self) -> View:
        """Whether the hash chain holds."""
        ...


class EventRow(msgspec.Struct, frozen=True):
    """One event as it leaves on ``/events``: ``data`` is its JSON."""

    position: int
    event: str
    data: View


class EventsPort(Protocol):
    """The live feed of events."""

    def follow(self, after: int | None) -> AsyncIterator[EventRow]:
        """Events after a position, then those to come; None begins with a recent few. Ends with the iterator."""
        ...


class BackendPort(Protocol):
    """How the gateway calls a model backend at an address that a lock named.

    Raises :class:`~interlock.domain.errors.BackendGone` when nothing there has the model and no byte came, and
    :class:`~interlock.domain.errors.BackendFailed` for everything else. A call carries the model's name and the
    replica's id, so that a recycled port cannot answer for another. Cancelling a call stops the work at the backend.
    """

    async def predict(self, address: str, model: str, wanted: Generation, *, replica: str = "") -> Piece:
        """Make the whole text."""
        ...

    def predict_stream(
        self, address: str, model: str, wanted: Generation, *, replica: str = ""
    ) -> AsyncIterator[Piece]:
        """Make the text piece by piece."""
        ...

    async def embedding(self, address: str, model: str, text: str, *, replica: str = "") -> Vector:
        """The text's vector."""
        ...
