"""Prompt prefixes: the marks that a request brings, and the bounded index of which replica served them.

A prompt is cut into blocks, and each block's hash covers all that comes before it. The *marks* of a request are the
hashes at the depths in :data:`DEPTHS`: dense where prompts begin, and never more than a factor of 3/2 apart, so that
the longest prompt has two dozen. Two requests that share a mark share their prompts up to its depth.

The index is a hint and nothing rests on it: when it is wrong, a prompt is computed anew. That is why 32 bits are enough
for a mark, why holders may be forgotten, and why it does not ask a replica what its cache holds.
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from collections.abc import Sequence

DEPTHS = (
    1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096,
)  # fmt: skip
"""The depths of a request's marks, in blocks; what a prompt has beyond the last is not told apart."""
MARK_BITS = 32
MARKS_PER_REPLICA = 2048
"""So many marks of one replica are remembered: those of some hundreds of conversations."""
MARKS_IN_ALL = 131_072
"""So many in the whole cluster; beyond, the replica that served a prefix longest ago forgets its oldest."""
HOLDERS_PER_MARK = 16
"""So many holders of one mark are remembered: what more of them hold is not hard to find."""

Holders = tuple[str, ...]
"""Ids of replicas, ascending."""
Holding = tuple[str, OrderedDict[int, None], Holders]
"""A replica's model, its marks, and itself as the only holder: one tuple for all the marks that nobody else holds."""


def marks_of(chain: Sequence[int]) -> tuple[int, ...]:
    """The marks of a prompt with this chain of block hashes, each of which covers all before it."""
    return tuple(chain[depth - 1] & (2**MARK_BITS - 1) for depth in DEPTHS if depth <= len(chain))


class PrefixIndex:
    """What replicas hold of prompts: ``held`` per replica, ``holders`` per model and mark, ``count`` marks in all.

    The replica used longest ago stands first in ``held``, and the mark used longest ago first among its marks; those go
    first when a bound is reached. ``holders`` follows from ``held``: ascending, so that it does not depend on history.
    """

    __slots__ = ("count", "held", "holders")

    def __init__(self) -> None:
        self.count = 0
        self.held: OrderedDict[str, Holding] = OrderedDict()
        self.holders: dict[str, dict[int, Holders]] = {}

    def fork(self) -> PrefixIndex:
        """An independent copy."""
        copy = PrefixIndex()
        if self.held:
            copy.count = self.count
            copy.held = OrderedDict(
                (replica, (model, marks.copy(), alone)) for replica, (model, marks, alone) in self.held.items()
            )
            copy.holders = {model: marks.copy() for model, marks in self.holders.items()}
        return copy

    def note(self, model: str, replica: str, marks: Sequence[int]) -> None:
        """The replica serves a prompt with these marks, and holds it from now on."""
        holding = self.held.get(replica)
        if holding is None:
            holding = self.held[replica] = (model, OrderedDict(), (replica,))
        else:
            self.held.move_to_end(replica)
        by_mark = self.holders.get(model)
        if by_mark is None:
            by_mark = self.holders[model] = {}
        _, held, alone = holding
        for mark in reversed(marks):  # the deepest is the first to be forgotten again: more prompts share the others
            if mark in held:
                held.move_to_end(mark)
            else:
                held[mark] = None
                self.count += 1
                known = by_mark.get(mark)
                by_mark[mark] = alone if known is None else self._with(known, replica, mark)
        while len(held) > MARKS_PER_REPLICA:
            self._drop(replica, next(iter(held)))
        while self.count > MARKS_IN_ALL:
            oldest = next(iter(self.held))
            self._drop(oldest, next(iter(self.held[oldest][1])))

    def forget(self, replica: str) -> None:
        """The replica leaves, and its cache with it."""
        holding = self.held.get(replica)
        if holding is not None:
            for mark in tuple(holding[1]):
                self._drop(replica, mark)

    def _with(self, known: Holders, replica: str, mark: int) -> Holders:
        """One holder more; when there are too many, the first is forgotten."""
        holders = list(known)
        if len(holders) >= HOLDERS_PER_MARK:
            self._unhold(holders.pop(0), mark)
        insort(holders, replica)
        return tuple(holders)

    def _drop(self, replica: str, mark: int) -> None:
        """The replica no longer holds the mark."""
        model = self._unhold(replica, mark)
        by_mark = self.holders[model]
        known = by_mark[mark]
        if len(known) > 1:
            left = tuple(holder for holder in known if holder != replica)
            by_mark[mark] = self.held[left[0]][2] if len(left) == 1 else left
            return
        del by_mark[mark]
        if not by_mark:
            del self.holders[model]

    def _unhold(self, replica: str, mark: int) -> str:
        model, held, _ = self.held[replica]
        del held[mark]
        self.count -= 1
        if not held:
            del self.held[replica]
        return model
