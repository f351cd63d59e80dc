"""Readers of request traces: the public formats of Azure's LLM inference traces and Mooncake, and a plain one of ours.

Each reader yields arrivals in the file's order, with times from the first one on.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from interlock.domain.errors import InterlockError, InvalidField, UnreadableFile
from interlock.domain.units import MILLISECOND, parse_duration

from .fields import Distribution, parse_distribution
from .prompts import Chain, chain_of


class Arrival(msgspec.Struct, frozen=True):
    """One request of a trace. ``at`` in microseconds from the trace's start; what the trace does not say is empty."""

    at: int
    model: str = ""
    service_time: Distribution | None = None
    deadline: int = 0
    priority: int = 0
    prompt: Chain = ()


def read_trace(path: str, form: str) -> list[Arrival]:
    """The arrivals of a trace, sorted by time; raises UnreadableFile with the line."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            arrivals = list(_READERS[form](file, path))
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFile(f"{path}: {error}.", cure="Give a trace that can be read.") from None
    return sorted(arrivals, key=lambda arrival: arrival.at)


def guess_format(path: str) -> str:
    """The format of a trace file by its name and first line."""
    if path.endswith(".csv"):
        return "azure-llm"
    try:
        with Path(path).open(encoding="utf-8") as file:
            first = file.readline()
    except (OSError, UnicodeDecodeError):
        return "jsonl"
    return "mooncake" if '"timestamp"' in first else "jsonl"


def _bad(path: str, line: int, problem: object, cure: str) -> UnreadableFile:
    return UnreadableFile(f"{path}:{line}: {problem}.", cure=cure)


def _azure(file: Any, path: str) -> Iterator[Arrival]:
    """``TIMESTAMP,ContextTokens,GeneratedTokens``; time stamps with up to seven digits of a second."""
    rows = csv.DictReader(file)
    first: datetime | None = None
    for row in rows:
        stamp = {(key or "").strip().lower(): value for key, value in row.items()}.get("timestamp")
        try:
            text = (stamp or "").strip()
            whole, _, fraction = text.partition(".")
            moment = datetime.fromisoformat(f"{whole}.{fraction[:6].ljust(6, '0')}")
        except ValueError:
            cure = "It needs a column TIMESTAMP such as 2023-11-16 18:15:46.6805900."
            raise _bad(path, rows.line_num, f"{stamp!r} is no time stamp", cure) from None
        first = first or moment
        length = moment - first
        yield Arrival(length.days * 86_400_000_000 + length.seconds * 1_000_000 + length.microseconds)


def _lines(file: Any, path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise _bad(path, number, f"no JSON: {error}", "Write one JSON object a line.") from None
        if not isinstance(row, dict):
            raise _bad(path, number, "no JSON object", "Write one JSON object a line.")
        yield number, row


def _mooncake(file: Any, path: str) -> Iterator[Arrival]:
    """``{"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]}``."""
    for number, row in _lines(file, path):
        stamp = row.get("timestamp")
        if isinstance(stamp, bool) or not isinstance(stamp, int | float) or stamp < 0:
            raise _bad(path, number, f"timestamp is {stamp!r}", "Give milliseconds from the start.")
        ids = row.get("hash_ids", [])
        if not isinstance(ids, list) or not all(type(one) is int for one in ids):
            raise _bad(path, number, "hash_ids is no list of numbers", "Give one whole number for each block.")
        yield Arrival(round(stamp * MILLISECOND), prompt=chain_of(ids))


def _jsonl(file: Any, path: str) -> Iterator[Arrival]:
    """``{"at": "1.5s", "model": "a"}``, and optionally ``service_time``, ``deadline`` and ``priority``."""
    known = {"at", "model", "service_time", "deadline", "priority"}
    for number, row in _lines(file, path):
        if unknown := sorted(set(row) - known):
            raise _bad(path, number, f"{unknown[0]} is no key here", f"Known keys: {', '.join(sorted(known))}.")
        try:
            priority = row.get("priority", 0)
            if not isinstance(priority, int) or not isinstance(row.get("model", ""), str):
                raise InvalidField("priority" if not isinstance(priority, int) else "model", "is of the wrong kind")
            service = row.get("service_time")
            yield Arrival(
                parse_duration(row.get("at", ""), "at"),
                row.get("model", ""),
                None if service is None else parse_distribution(service, "service_time"),
                parse_duration(row["deadline"], "deadline") if "deadline" in row else 0,
                priority,
            )
        except InterlockError as error:
            raise _bad(path, number, error.message.rstrip("."), error.cure) from None


_READERS: dict[str, Callable[[Any, str], Iterator[Arrival]]] = {
    "azure-llm": _azure,
    "mooncake": _mooncake,
    "jsonl": _jsonl,
}
FORMATS = tuple(_READERS)
