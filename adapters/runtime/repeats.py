"""Which commands may be repeats that the ledger has forgotten, so that only those are looked up in the store.

The ledger remembers the replies to the last few thousand commands. An id that has left it may come again when an answer
was lost; a fresh one must not cost a question to the store. A Bloom filter in two generations tells most of them apart:
what it does not know is fresh, but for a while after a takeover, when anything may be a repeat of the former term's.
"""

from __future__ import annotations

_BITS = 1 << 24
_MASK = _BITS - 1
_GENERATION_IDS = 1_000_000


class Repeats:
    """Ids of decided commands. It may take a fresh id for a known one (1.5 %), never the other way round.

    It forgets an id after one to two million others.
    """

    def __init__(self) -> None:
        self._young, self._old = bytearray(_BITS // 8), bytearray(0)
        self._count = 0

    def add(self, command_id: str) -> None:
        """Remember an id."""
        if self._count >= _GENERATION_IDS:
            self._young, self._old, self._count = bytearray(_BITS // 8), self._young, 0
        self._count += 1
        digest = hash(command_id)
        for place in (digest & _MASK, digest >> 24 & _MASK):
            self._young[place >> 3] |= 1 << (place & 7)

    def may_know(self, command_id: str) -> bool:
        """Whether the id may have been added."""
        digest = hash(command_id)
        first, second = digest & _MASK, digest >> 24 & _MASK
        return any(
            bits and bits[first >> 3] >> (first & 7) & 1 and bits[second >> 3] >> (second & 7) & 1
            for bits in (self._young, self._old)
        )
