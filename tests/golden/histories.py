"""Golden histories: logs that an earlier program wrote, and the state that they must still fold to.

``NAME.jsonl`` holds the stored rows, ``NAME.json`` the state after them. A file that is here is never written again: an
old log must read the same for ever. ``python -m tests.golden.histories NAME`` adds one from today's story.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from interlock.domain.engine import Engine
from interlock.domain.recording import Recorded
from interlock.domain.snapshots import SCHEMA, encode_cluster, image_of_state
from interlock.domain.state import State
from tests.golden.story import tell

FOLDER = Path(__file__).parent


class Outcome(msgspec.Struct, frozen=True):
    """What a history folds to: its state as data, and the digest of its canonical bytes under that snapshot schema."""

    schema: str
    digest: str
    state: dict[str, Any]


def names() -> list[str]:
    """The histories that are kept."""
    return sorted(path.stem for path in FOLDER.glob("*.jsonl"))


def read_rows(name: str) -> list[Recorded]:
    """The stored rows of a history."""
    lines = (FOLDER / f"{name}.jsonl").read_bytes().splitlines()
    return [_from_line(msgspec.json.decode(line)) for line in lines]


def read_outcome(name: str) -> Outcome:
    """What a history folded to when it was added."""
    return msgspec.json.decode((FOLDER / f"{name}.json").read_bytes(), type=Outcome)


def outcome_of(state: State) -> Outcome:
    """The outcome that a state is."""
    data = msgspec.json.decode(msgspec.json.encode(image_of_state(state)))
    return Outcome(SCHEMA, hashlib.sha256(encode_cluster(state)).hexdigest(), data)


def add(name: str, rows: Iterable[Recorded], folder: Path = FOLDER) -> None:
    """Keep a history under a new name; raises FileExistsError when there is one of that name."""
    kept = list(rows)
    outcome = outcome_of(Engine().replay(kept).state)
    with (folder / f"{name}.jsonl").open("xb") as file:
        file.writelines(msgspec.json.encode(_to_line(row)) + b"\n" for row in kept)
    with (folder / f"{name}.json").open("xb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(outcome), indent=1) + b"\n")


def _to_line(row: Recorded) -> dict[str, Any]:
    return {**msgspec.structs.asdict(row), "state": row.state.decode()}


def _from_line(line: dict[str, Any]) -> Recorded:
    return Recorded(**{**line, "state": line["state"].encode()})


if __name__ == "__main__":
    add(sys.argv[1], (row for outcome in tell().outcomes for row in outcome.recorded))
