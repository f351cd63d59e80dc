"""Clusters to measure on: nodes with warm replicas, made of events as a log would hold them."""

from __future__ import annotations

import itertools

from interlock.domain import events as ev
from interlock.domain.commands import Envelope, Tick
from interlock.domain.engine import Engine
from interlock.domain.entities import LoadSpec, Scheduling
from interlock.domain.recording import Recorded
from interlock.domain.units import FOREVER, GIB, HOUR, parse_instant

START = parse_instant("2026-01-01T00:00:00Z")
NOW = START + HOUR
"""Well beyond every residency, so that idle replicas may be evicted."""
REPLICAS_PER_NODE = 5
_BUILDER = Envelope(command_id="bench-build", command=Tick(), actor="bench")


class Fleet:
    """An engine with ``nodes`` nodes of 24 GiB, each with five loaded replicas of 4 GiB, and the rows that made it so.

    Model ``m-I`` has five copies, on the nodes from I on. ``cold`` models have none: ``small`` ones of 4 GiB fit beside
    what is there, ``big`` ones of 8 GiB only in place of one replica.
    """

    def __init__(self, nodes: int, *, parallel: int = 1, cold: int = 0, epoch: int = 0) -> None:
        self.engine = Engine()
        self.engine.ledger.epoch = epoch
        self.rows: list[Recorded] = []
        self.warm = [f"m-{place}" for place in range(nodes)]
        self.small = [f"small-{place}" for place in range(cold)]
        self.big = [f"big-{place}" for place in range(cold)]
        self._count = itertools.count()
        # What is measured is the decision that is asked for, and not idle copies that leave meanwhile.
        self._take(ev.SettingsChanged(at=START, values={"scale_down_delay": FOREVER}))
        for place in range(nodes):
            self._add_node(f"node-{place:05d}")
        for name in self.warm:
            self._declare(name, 4, Scheduling(parallel=parallel))
        for name in self.small:
            self._declare(name, 4, Scheduling())
        for name in self.big:
            self._declare(name, 8, Scheduling())
        serial = itertools.count(1)
        for copy in range(REPLICAS_PER_NODE):
            for place in range(nodes):
                node = f"node-{(place + copy) % nodes:05d}"
                # With fewer nodes than copies a node holds several of one model.
                self._load(f"r-{next(serial):06d}", self.warm[place], node, copy // nodes)

    def _take(self, event: ev.Event) -> None:
        recorded = self.engine.ledger.record(event, _BUILDER, next(self._count), _BUILDER.command_id)
        self.engine.fold(recorded, event)
        self.rows.append(recorded)

    def _add_node(self, name: str) -> None:
        self._take(
            ev.NodeRegistered(
                at=START,
                node=name,
                address=f"{name}:50051",
                boot="1",
                labels={"tier": "fast"},
                pools=(24 * GIB,),
                foreign=(0,),
                ram=64 * GIB,
                max_replicas_per_model=REPLICAS_PER_NODE,
            )
        )
        self._take(ev.NodeApproved(at=START, node=name))

    def _declare(self, name: str, gib: int, scheduling: Scheduling) -> None:
        spec = LoadSpec(backend="echo", vram=gib * GIB)
        self._take(ev.ModelDeclared(at=START, model=name, spec=spec, scheduling=scheduling))
        self._take(ev.LoadInfoStored(at=START, model=name, spec=spec, source="declared"))

    def _load(self, replica: str, model: str, node: str, index: int) -> None:
        whose = {"at": START, "replica": replica, "model": model, "node": node}
        later = START + HOUR * 24
        for event in (
            ev.ReplicaReserved(**whose, index=index, revision=1, claim=((0, 4 * GIB),), silent_at=later),  # type: ignore[arg-type]  # each has its field's type
            ev.BackendInstallRequested(**whose, op=1, silent_at=later),  # type: ignore[arg-type]  # as above
            ev.BackendInstalled(**whose, address=f"{node}:9000"),  # type: ignore[arg-type]  # as above
            ev.LoadStarted(**whose, op=2, silent_at=later),  # type: ignore[arg-type]  # as above
            ev.ReplicaLoaded(**whose, evictable_at=START, address=f"{node}:9000"),  # type: ignore[arg-type]  # as above
        ):
            self._take(event)
