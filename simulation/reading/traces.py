"""Readers of request traces: the public formats of Azure's LLM inference traces and Mooncake, and a plain one of ours.

Each reader yields arrivals in the file's order, with times from the first one on.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from interlock.domain.errors import InterlockError, InvalidField, UnreadableFile
from interlock.domain.units import FOREVER, MILLISECOND, parse_duration
from interlock.simulation.prompts import Chain, chain_of

from .fields import Distribution, parse_distribution


class Arrival(msgspec.Struct, frozen=True):
    """One request of a trace. ``at`` in microseconds from the trace's start; what the trace does not say is empty."""

    at: int
    model: str = ""
    service_time: Distribution | None = None
    deadline: int = 0
    priority: int | None = None
    prompt: Chain = ()


def read_trace(path: str, form: str) -> list[Arrival]:
    """The arrivals of a trace, sorted by time; raises UnreadableFile with the line, and for a trace of nothing."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            arrivals = sorted(_READERS[form](file, path), key=lambda arrival: arrival.at)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnreadableFile(f"{path}: {error}.", cure="Give a trace that can be read.") from None
    if not arrivals:
        raise UnreadableFile(f"{path}: holds no requests.", cure=f"Give a trace in the format {form}, with requests.")
    early = min(0, arrivals[0].at)
    return [replace(arrival, at=arrival.at - early) for arrival in arrivals] if early else arrivals


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
    """``TIMESTAMP,ContextTokens,GeneratedTokens``; time stamps with any digits of a second, and a zone or none."""
    rows = csv.DictReader(file)
    first: datetime | None = None
    for row in rows:
        stamp = {(key or "").strip().lower(): value for key, value in row.items()}.get("timestamp")
        try:
            moment = _moment((stamp or "").strip())
        except ValueError:
            cure = "It needs a column TIMESTAMP such as 2023-11-16 18:15:46.6805900."
            raise _bad(path, rows.line_num, f"{stamp!r} is no time stamp", cure) from None
        first = first or moment
        length = moment - first
        yield Arrival(length.days * 86_400_000_000 + length.seconds * 1_000_000 + length.microseconds)


def _moment(text: str) -> datetime:
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)?", text)
    if found is None:
        raise ValueError(text)  # told with its line by the caller
    whole, fraction, zone = found.groups(default="")
    offset = "+00:00" if zone in ("", "Z") else zone
    return datetime.fromisoformat(f"{whole}.{fraction[:6].ljust(6, '0')}{offset}")


def _lines(file: Any, path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _bad(path, number, f"no JSON: {error}", "Write one JSON object a line.") from None
        if not isinstance(row, dict):
            raise _bad(path, number, "no JSON object", "Write one JSON object a line.")
        yield number, row


def _mooncake(file: Any, path: str) -> Iterator[Arrival]:
    """``{"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]}``."""
    for number, row in _lines(file, path):
        stamp = row.get("timestamp")
        if isinstance(stamp, bool) or not isinstance(stamp, int | float) or not 0 <= stamp < FOREVER / MILLISECOND:
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
            priority = row.get("priority")
            if priority is not None and type(priority) is not int:
                raise InvalidField("priority", "is no whole number", cure="Give 0, 1, ...")
            if not isinstance(row.get("model", ""), str):
                raise InvalidField("model", "is not text", cure="Give a model's name.")
            service = row.get("service_time")
            yield Arrival(
                parse_duration(row.get("at", ""), "at"),
                row.get("model", ""),
                None if service is None else parse_distribution(service, "service_time"),
                max(1, parse_duration(row["deadline"], "deadline")) if "deadline" in row else 0,
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
