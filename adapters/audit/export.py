"""The log in other people's formats: JSON lines, CSV, CloudEvents, Parquet; with fields blacked out where asked."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import msgspec

from interlock.adapters.cloudevents import cloud_event
from interlock.domain.errors import ChainBroken, InvalidField, UsageError
from interlock.domain.events import EVENT_TYPES
from interlock.domain.recording import Recorded
from interlock.domain.units import format_instant

from .rebuild import ASK_VERIFY
from .rows import altered, event_name, payload

REDACTED = "[redacted]"
COLUMNS = (
    "position", "time", "stream", "version", "event", "topic", "event_id", "epoch", "actor", "command_id",
    "correlation_id", "causation_id", "request_id", "data",
)  # fmt: skip
_PARQUET_ROWS = 10_000


def check_fields(redact: Sequence[str], log: Iterable[Recorded]) -> None:
    """Raise InvalidField for a name that neither a column nor any event has, nor a table in one of ``log``'s events.

    What is to be hidden and is misspelt would be written out. The log is read only for names that no class has.
    """
    known = {*COLUMNS, *_fields_of_events()}
    missing = dict.fromkeys(name for name in redact if name not in known)
    events = iter(log)
    while missing and (recorded := next(events, None)) is not None:
        for name in missing.keys() & _keys(payload(recorded)):
            del missing[name]
    if missing:
        problem = f"{next(iter(missing))[:40]!r} is no column and no field of an event"
        raise InvalidField("redact", problem, cure=f"There are: {', '.join(sorted(known))}.")


@lru_cache(maxsize=1)
def _fields_of_events() -> frozenset[str]:
    """The names of all fields that events have, and what lies in them has."""
    names: set[str] = set()
    left: list[Any] = list(msgspec.inspect.multi_type_info(EVENT_TYPES.values()))
    while left:
        kind = left.pop()
        if isinstance(kind, msgspec.inspect.StructType):
            names.update(field.encode_name for field in kind.fields)
            left += [field.type for field in kind.fields]
        for inner in ("types", "item_types"):
            left += getattr(kind, inner, ())
        left += [getattr(kind, inner) for inner in ("item_type", "value_type") if hasattr(kind, inner)]
    return frozenset(names)


def _keys(data: Any) -> set[str]:
    if isinstance(data, dict):
        return {*data, *(key for value in data.values() for key in _keys(value))}
    return {key for item in data for key in _keys(item)} if isinstance(data, list) else set()


def records(log: Iterable[Recorded], redact: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Events as plain records; ``redact`` names columns, and fields at any depth of ``data``, to black out."""
    hidden = frozenset(redact)
    for recorded in log:
        if altered(recorded):
            problem = f"position {recorded.position} holds a text that is no Unicode, and cannot be exported."
            raise ChainBroken(problem, cure=ASK_VERIFY)
        record = msgspec.structs.asdict(recorded)
        del record["state"]
        record["time"] = format_instant(recorded.time)
        record["event"] = event_name(recorded.topic)
        record["data"] = payload(recorded)
        yield {
            name: REDACTED if name in hidden else _blacken(record[name], hidden) if name == "data" else record[name]
            for name in COLUMNS
        }


def _blacken(data: Any, hidden: frozenset[str]) -> Any:
    if not hidden:
        return data
    if isinstance(data, dict):
        return {key: REDACTED if key in hidden else _blacken(value, hidden) for key, value in data.items()}
    return [_blacken(item, hidden) for item in data] if isinstance(data, list) else data


def write(form: str, rows: Iterable[dict[str, Any]], out: IO[bytes]) -> int:
    """Write records in one of the formats of :mod:`~interlock.adapters.audit.formats`; returns how many.

    Raises UsageError when a library that it takes is missing.
    """
    return _WRITERS[form](rows, out)


def check(form: str, path: Path | None, redact: Sequence[str] = ()) -> None:
    """Raise UsageError when this format cannot be written there, or without this, before anything is read."""
    if form == "cloudevents" and "event_id" in redact:
        cure = "Leave it, or choose jsonl, csv or parquet."
        raise InvalidField("redact", "a CloudEvent is told from others by its event_id", cure=cure)
    if form == "parquet":
        _parquet()
        if path is None:
            raise UsageError("Parquet goes into a file.", cure="Add --output FILE.")


def _jsonl(rows: Iterable[dict[str, Any]], out: IO[bytes]) -> int:
    count = 0
    for row in rows:
        out.write(msgspec.json.encode(row) + b"\n")
        count += 1
    return count


def _cloudevents(rows: Iterable[dict[str, Any]], out: IO[bytes]) -> int:
    count = 0
    for row in rows:
        place = row["position"]
        sequence = place if isinstance(place, str) else str(place).zfill(20)
        if row["time"] == REDACTED:
            row["time"] = ""  # it may be left out, and nothing but a time may stand there
        out.write(msgspec.json.encode(cloud_event(row, row["data"], sequence=sequence)) + b"\n")
        count += 1
    return count


def _csv(rows: Iterable[dict[str, Any]], out: IO[bytes]) -> int:
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    try:
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        count = 0
        for row in rows:
            writer.writerow([*(row[name] for name in COLUMNS[:-1]), _text(row["data"])])
            count += 1
        return count
    finally:
        # The stream below is the caller's to close.
        text.detach()


def _text(data: Any) -> str:
    return data if isinstance(data, str) else msgspec.json.encode(data).decode()


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        cure = "Install it: pip install 'interlock[parquet]'; or choose jsonl, csv or cloudevents."
        raise UsageError("Parquet needs the library pyarrow, which is not installed.", cure=cure) from None
    return pyarrow, pyarrow.parquet


def _parquet_file(rows: Iterable[dict[str, Any]], out: IO[bytes]) -> int:
    arrow, parquet = _parquet()
    numbers = ("position", "version", "epoch")
    redacted_numbers: set[str] = set()
    batch: list[dict[str, Any]] = []
    writer: Any = None
    count = 0

    def flush() -> None:
        nonlocal writer
        if writer is None:
            redacted_numbers.update(name for name in numbers if batch and batch[0][name] == REDACTED)
            kinds = {
                n: arrow.int64() if n in numbers and n not in redacted_numbers else arrow.string() for n in COLUMNS
            }
            writer = parquet.ParquetWriter(out, arrow.schema(kinds.items()))
        writer.write_table(arrow.Table.from_pylist(batch, schema=writer.schema))
        batch.clear()

    for row in rows:
        count += 1
        batch.append({**row, "data": _text(row["data"])})
        if len(batch) == _PARQUET_ROWS:
            flush()
    flush()
    assert writer is not None
    writer.close()
    return count


_WRITERS: dict[str, Callable[[Iterable[dict[str, Any]], IO[bytes]], int]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet_file,
    "cloudevents": _cloudevents,
}
