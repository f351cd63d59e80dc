"""Changing a cluster that does not run: as the writer of its embedded store, for as long as that takes."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from interlock.adapters.audit.rebuild import engine_at
from interlock.adapters.store import SqliteStore, is_postgres, open_store, sqlite_path
from interlock.domain.commands import AnyReply, Command, Envelope, Rejected, StartEpoch
from interlock.domain.engine import Engine, Outcome
from interlock.domain.errors import (
    Conflict,
    InterlockError,
    LeaseHeld,
    NoWriter,
    Refused,
    StoreUnavailable,
    UsageError,
)
from interlock.domain.recording import Recorded

from .options import Place

if TYPE_CHECKING:
    from interlock.adapters.store.postgres import PostgresStore

    from .cluster import Explain

_LEASE_US = 30_000_000


def decide_here(place: Place, commands: Sequence[Command], actor: str, explain: Explain | None = None) -> list[Outcome]:
    """Decide the commands on the embedded store and keep their events; nothing is kept when one is rejected.

    ``explain`` adds to the rejection of a command, by its place, what only the caller knows.

    Raises NoWriter when the store is not an embedded one, or when somebody else writes it, and the rejection otherwise.
    """
    if is_postgres(place.log):
        raise NoWriter(
            "no cluster was named, and only an embedded store can be changed without one.",
            cure="Give --url, or set INTERLOCK_URL.",
        )
    path = sqlite_path(place.log)
    if not path.is_file():
        raise StoreUnavailable(
            f"no cluster runs, and there is no event store at {path}.",
            cure="Start one with `interlock up`, make one with `interlock migrate`, or name it with --data or --url.",
        )
    store = open_store(place.log)
    assert isinstance(store, SqliteStore)
    try:
        with _leading(store) as epoch:
            engine = engine_at(store, store.head().position)
            return _decide(store, engine, epoch, commands, actor, explain)
    finally:
        store.close()


@contextmanager
def _leading(store: SqliteStore) -> Iterator[int]:
    owner = f"interlock command {os.getpid()} on {socket.gethostname()}"
    try:
        epoch = store.take_epoch(owner, _LEASE_US)
    except LeaseHeld as error:
        raise NoWriter(
            f"the store has a writer that cannot be reached from here: {error.message}",
            cure="Name its cluster with --url, or stop it.",
        ) from error
    try:
        yield epoch
    finally:
        store.release_epoch(epoch)


def _decide(
    store: SqliteStore | PostgresStore, engine: Engine, epoch: int, commands: Sequence[Command], actor: str,
    explain: Explain | None,
) -> list[Outcome]:  # fmt: skip
    run = uuid.uuid4().hex[:16]
    started = _handle(engine, StartEpoch(epoch=epoch, writer=actor), f"epoch-{epoch}", actor, run)
    outcomes = []
    for place, command in enumerate(commands):
        try:
            outcomes.append(_handle(engine, command, f"{run}-{place}", actor, run))
        except InterlockError as error:
            if explain is not None:
                explain(error, place, False)
            raise
    rows: list[Recorded] = [row for outcome in (started, *outcomes) for row in outcome.recorded]
    store.append(rows, epoch)
    return outcomes


def _handle(engine: Engine, command: Command, command_id: str, actor: str, run: str) -> Outcome:
    envelope = Envelope(command_id=command_id, command=command, actor=actor, correlation_id=run)
    outcome = engine.handle(envelope, time.time_ns() // 1000)
    if isinstance(outcome.reply, Rejected):
        raise rejected(outcome.reply)
    return outcome


def rejected(reply: AnyReply) -> InterlockError:
    """The error that a rejection means, with its code."""
    assert isinstance(reply, Rejected)
    kinds = {"invalid": UsageError, "conflict": Conflict, "not_found": InterlockError}
    if reply.code not in kinds:
        return Refused(reply.code, reply.message, cure=reply.cure)
    error = kinds[reply.code](reply.message, cure=reply.cure)
    error.code = reply.code
    return error
