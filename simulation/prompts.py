"""Prompts in virtual time: what they are made of, what a replica's prefix cache saves of them, and conversations.

A prompt is the chain of its blocks' hashes, each of which covers all before it, as in a backend's prefix cache. What is
not in the cache of the replica that serves it is computed, which takes the model's ``prefill_time`` a block.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import accumulate
from random import Random
from zlib import crc32

import msgspec

Chain = tuple[int, ...]
"""A prompt: one hash a block."""
_MASK = 2**64 - 1
LONGEST_PROMPT = 8192
"""Blocks; a scenario that asks for more has a mistake in it."""


def link(before: int, block: int) -> int:
    """The hash of a block that follows what ``before`` covers."""
    mixed = (before * 0x9E3779B97F4A7C15 + block + 1) & _MASK
    mixed = ((mixed ^ (mixed >> 31)) * 0xBF58476D1CE4E5B9) & _MASK
    return mixed ^ (mixed >> 29)


def chain_of(blocks: Iterable[int], before: Chain = ()) -> Chain:
    """The prompt that has these blocks after those of ``before``."""
    linked = accumulate(blocks, link, initial=before[-1] if before else 0)
    next(linked)
    return (*before, *linked)


def chain_of_parts(parts: Iterable[tuple[str, int]]) -> Chain:
    """The prompt that is made of named parts, each so many blocks long: ``[("rules", 8), ("question 7", 2)]``."""
    return chain_of(crc32(f"{name}/{block}".encode()) for name, length in parts for block in range(length))


class PrefixCache:
    """What one replica has computed and still keeps: so many blocks, the least recently used leaving first."""

    __slots__ = ("_blocks", "_room")

    def __init__(self, room: int) -> None:
        self._room = room
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def serve(self, prompt: Chain) -> int:
        """Serve a prompt; returns how many of its first blocks were there already."""
        blocks = self._blocks
        hits = next((place for place, block in enumerate(prompt) if block not in blocks), len(prompt))
        for block in reversed(prompt):  # its end is to leave before its beginning, without which it is worth nothing
            blocks[block] = None
            blocks.move_to_end(block)
        while len(blocks) > self._room:
            blocks.popitem(last=False)
        return hits


class Talk(msgspec.Struct, frozen=True, kw_only=True):
    """How conversations are: ``systems`` different system prompts of so many blocks, the first the most common.

    A conversation has ``turns`` turns on average; each adds ``turn_blocks`` blocks on average, the answer before and
    the next question, and comes ``pause`` microseconds after the one before, on average.
    """

    systems: int = 8
    system_blocks: int = 24
    turns: float = 5.0
    turn_blocks: float = 6.0
    pause: int = 20_000_000


def conversation(talk: Talk, rng: Random) -> Iterator[tuple[int, Chain]]:
    """The turns of one conversation: the pause before each, and its prompt."""
    weights = [1 / (number + 1) for number in range(talk.systems)]
    system = rng.choices(range(talk.systems), weights)[0]
    prompt = chain_of_parts([(f"system {system}", talk.system_blocks)])
    pause = 0
    while True:
        added = 1 + round(rng.expovariate(1.0) * max(0.0, talk.turn_blocks - 1))
        prompt = chain_of((rng.getrandbits(32) for _ in range(added)), prompt)[:LONGEST_PROMPT]
        yield pause, prompt
        if rng.random() * talk.turns < 1:
            return
        pause = round(rng.expovariate(1.0) * talk.pause)
