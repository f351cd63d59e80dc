"""The ranking argument for property T: every request ends after a bounded number of its own steps.

A request's own steps are the loads begun for it and its routes after a backend that was gone. Each uses up one pass;
passes only grow; a request that has used all it may is refused. So the number of passes left is a natural number that
falls on every own step, and the request ends after at most :func:`passes_allowed` of them.
"""

from __future__ import annotations


def passes_allowed(load_attempts: int) -> int:
    """How many own steps a request may take: each try of a load, and as many routes after backends that were gone."""
    return 2 * max(1, load_attempts) + 2


def passes_left(load_attempts: int, passes: int) -> int:
    """The variant: a natural number that every own step of the request lowers by one."""
    return max(0, passes_allowed(load_attempts) - passes)
