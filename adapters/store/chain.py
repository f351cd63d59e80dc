"""The hash chain over the log: every stored column of every event, each digest built on the one before it.

This module works on raw rows and imports nothing of Interlock, so that ``audit verify`` can check a log that the
running program could not even decode. A row is the tuple of a log's stored columns, in this order::

    position, stream, version, topic, state, event_id, time, epoch,
    actor, command_id, correlation_id, causation_id, request_id, digest

``digest(n) = SHA-256(digest(n-1) || header || texts || state)``, and ``digest(0)`` is 32 zero bytes. The header is
thirteen big-endian numbers: position, version, time and epoch (8 bytes each, signed), then the lengths of stream,
topic, event_id, actor, command_id, correlation_id, causation_id and request_id in code points and of state in bytes (4
bytes each). The texts follow in the order of their lengths, in UTF-8. Lengths go first, so no two different rows give
the same bytes.

What a chain alone cannot see is a tail that was cut off, or a log rewritten from some point to its end with fresh
digests. An *anchor*, a position and its digest kept somewhere else, detects both.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GENESIS = bytes(32)
"""The digest before the first event."""

COLUMNS = (
    "position",
    "stream",
    "version",
    "topic",
    "state",
    "event_id",
    "time",
    "epoch",
    "actor",
    "command_id",
    "correlation_id",
    "causation_id",
    "request_id",
)
"""The columns that the chain covers, in the order of a row; the digest itself follows them."""

Row = tuple[Any, ...]
"""One event's stored columns in the order of :data:`COLUMNS`; a *sealed* row has its digest as last item."""

_HEADER = struct.Struct(">4q9I")
_ANCHOR_FORMAT = "interlock-anchor-1"


@dataclass(frozen=True)
class Anchor:
    """A position of the log and the digest (hex) that stood there when the anchor was written."""

    position: int
    digest: str


@dataclass(frozen=True)
class Finding:
    """What a check of the chain found: how far it got, and the first bad position with what is wrong there."""

    checked: int
    position: int
    digest: str
    bad_position: int | None = None
    problem: str = ""

    @property
    def holds(self) -> bool:
        """Whether every row checked out."""
        return self.bad_position is None


def digest(previous: bytes, row: Row) -> bytes:
    """The digest of ``row`` on top of ``previous``.

    Raises ``TypeError``, ``struct.error`` or ``UnicodeEncodeError`` for a row that cannot stand in a log (a missing
    value, a number beyond 64 bits, a text that is no Unicode).
    """
    position, stream, version, topic, state, event_id, time, epoch = row[:8]
    actor, command_id, correlation_id, causation_id, request_id = row[8:13]
    text = "".join((stream, topic, event_id, actor, command_id, correlation_id, causation_id, request_id))
    header = _HEADER.pack(
        position,
        version,
        time,
        epoch,
        len(stream),
        len(topic),
        len(event_id),
        len(actor),
        len(command_id),
        len(correlation_id),
        len(causation_id),
        len(request_id),
        len(state),
    )
    return hashlib.sha256(b"".join((previous, header, text.encode(), state))).digest()


def digests(previous: bytes, rows: Iterable[Row]) -> Iterator[bytes]:
    """The digests of consecutive rows on top of ``previous``."""
    for row in rows:
        previous = digest(previous, row)
        yield previous


def verify(rows: Iterable[Row], *, after: int = 0, previous: bytes = GENESIS) -> int | None:
    """The first bad position of sealed ``rows`` in order of position, or None when the chain holds.

    ``after`` and ``previous`` are the position and digest that the first row builds on.
    """
    return check(rows, after=after, previous=previous).bad_position


def check(rows: Iterable[Row], *, after: int = 0, previous: bytes = GENESIS, anchors: Iterable[Anchor] = ()) -> Finding:
    """Check sealed ``rows`` and the anchors that lie in them, and say what is wrong at the first bad position.

    An anchor beyond the last row means that the tail was cut: the first missing position is reported. One before
    ``after`` is not looked at, since its row is not here.
    """
    expected = after
    wanted: dict[int, set[str]] = {}
    for anchor in anchors:
        if anchor.position >= after:
            wanted.setdefault(anchor.position, set()).add(anchor.digest.lower())
    if wanted.get(after, set()) - {previous.hex()}:
        return Finding(0, after, previous.hex(), after, _OTHER_ANCHOR)
    for row in rows:
        expected += 1
        problem = _problem(row, expected, previous)
        if not problem and wanted.get(expected, set()) - {row[-1].hex()}:
            problem = _OTHER_ANCHOR
        if problem:
            bad = min(expected, row[0]) if isinstance(row[0], int) else expected
            return Finding(expected - 1 - after, expected - 1, previous.hex(), bad, problem)
        previous = row[-1]
    end = Finding(expected - after, expected, previous.hex())
    if wanted and max(wanted) > expected:
        problem = f"the log ends at {expected}, and an anchor knows position {max(wanted)}: its tail was cut"
        return Finding(end.checked, end.position, end.digest, expected + 1, problem)
    return end


_OTHER_ANCHOR = "the digest differs from the anchor's"


def _problem(row: Row, expected: int, previous: bytes) -> str:
    """What is wrong with one row, or nothing."""
    if len(row) != len(COLUMNS) + 1:
        return f"the row has {len(row)} columns instead of {len(COLUMNS) + 1}"
    if row[0] != expected:
        return f"position {row[0]} stands where {expected} belongs"
    try:
        wanted = digest(previous, row)
    except (TypeError, ValueError, struct.error) as problem:
        return f"a stored value is none that Interlock writes: {problem}"
    if row[-1] != wanted:
        return "the stored values do not give the stored digest"
    return ""


def write_anchor(path: Path, anchor: Anchor) -> None:
    """Write ``anchor`` to ``path`` as JSON, whole or not at all.

    Raises ``OSError`` when the folder cannot be written.
    """
    document = {"format": _ANCHOR_FORMAT, "position": anchor.position, "digest": anchor.digest}
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(document, file)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def read_anchor(path: Path) -> Anchor:
    """The anchor in ``path``. Raises ``OSError``, or ``ValueError`` with a sentence when the file is no anchor."""
    try:
        document = json.loads(path.read_bytes())
        if document["format"] != _ANCHOR_FORMAT:
            raise ValueError(f"its format is {document['format']!r}")  # this module imports no errors
        digest = bytes.fromhex(document["digest"])
        anchor = Anchor(int(document["position"]), digest.hex())
        if anchor.position < 0 or len(digest) != len(GENESIS):
            raise ValueError("its position or digest is out of range")  # this module imports no errors
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as problem:
        raise ValueError(f"{path} is not an anchor file of Interlock: {problem}") from problem  # as above
    return anchor
