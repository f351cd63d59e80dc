"""Traces of conversations: prompts that begin alike, laid over the times and sizes of requests that were recorded.

The public trace of Azure says when requests came and how long they were, and not what was in them. Here each request
goes on with a conversation whose length it fits, or begins a new one under one of a few system prompts. What comes out
has Mooncake's format. ``python -m interlock.simulation.conversations [SIZES.csv] > trace.jsonl``; without a file, times
and sizes are drawn from distributions like that trace's.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import count
from random import Random

import msgspec

from .reading.traces import read_trace

TOKENS_PER_BLOCK = 64
SYSTEM_TOKENS = (256, 512, 128, 768, 320, 640, 192, 384)
"""Lengths of the system prompts, the most common one first."""
LONGEST_QUESTION = 512
LONGEST_PAUSE = 600_000_000
"""A conversation that has been silent for so many microseconds is over."""
OPEN_MOST = 2_000


class Sized(msgspec.Struct, frozen=True):
    """One request: when it came, in microseconds, and its length and its answer's in tokens."""

    at: int
    asked: int
    answered: int


class _Talk:
    """A conversation that may go on: the blocks of its last prompt, and how long it is with the answer."""

    __slots__ = ("at", "blocks", "tokens")

    def __init__(self, at: int, blocks: list[int], tokens: int) -> None:
        self.at, self.blocks, self.tokens = at, blocks, tokens


def recorded(path: str) -> Iterator[Sized]:
    """The requests of a file with the columns TIMESTAMP, ContextTokens and GeneratedTokens."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        for arrival, row in zip(read_trace(path, "azure-llm"), csv.DictReader(file), strict=False):
            yield Sized(arrival.at, int(row["ContextTokens"]), int(row["GeneratedTokens"]))


def drawn(seed: int, requests: int, rate: float) -> Iterator[Sized]:
    """Requests like those of Azure's conversations in 2023: a median of 1,020 tokens asked and of 129 answered."""
    rng, at = Random(f"sizes/{seed}"), 0.0
    for _ in range(requests):
        at += rng.expovariate(rate)
        asked = min(8_000, max(16, round(1_020 * rng.lognormvariate(0.0, 0.8))))
        yield Sized(round(at * 1e6), asked, min(1_000, max(1, round(129 * rng.lognormvariate(0.0, 1.0)))))


def over(requests: Iterable[Sized], seed: int) -> Iterator[dict[str, object]]:
    """Rows in Mooncake's format: the requests, each in a conversation. One seed gives the same rows."""
    rng, fresh = Random(f"conversations/{seed}"), count(1)
    systems = [[next(fresh) for _ in range(tokens // TOKENS_PER_BLOCK)] for tokens in SYSTEM_TOKENS]
    weights = [1 / rank for rank in range(1, len(systems) + 1)]
    talks: list[_Talk] = []
    for request in requests:
        talks = [talk for talk in talks if request.at - talk.at <= LONGEST_PAUSE][-OPEN_MOST:]
        fitting = [talk for talk in talks if 0 < request.asked - talk.tokens <= LONGEST_QUESTION]
        talk = rng.choice(fitting) if fitting and rng.random() < 0.8 else None
        if talk is None:
            talk = _Talk(request.at, list(rng.choices(systems, weights)[0]), 0)
            talks.append(talk)
        length = request.asked // TOKENS_PER_BLOCK
        known = talk.blocks[: min(length, len(talk.blocks))]
        talk.blocks = known + [next(fresh) for _ in range(length - len(known))]
        talk.at, talk.tokens = request.at, request.asked + request.answered
        yield {
            "timestamp": request.at // 1000, "input_length": request.asked, "output_length": request.answered,
            "hash_ids": talk.blocks,
        }  # fmt: skip


def main() -> None:
    """Write a trace to standard output."""
    given = recorded(sys.argv[1]) if len(sys.argv) > 1 else drawn(1, 19_366, 5.5)
    for row in over(given, 1):
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
