"""What a decision says of itself: the nodes considered, why each was or was not taken, and what would cure a no."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

FULL_SURVEY_LIMIT = 16
"""Up to so many approved nodes an explanation lists every one; beyond, it counts them per filter."""
TOP_SCORES = 3
NEAREST_MISSES = 8


class Considered(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One node in one decision.

    ``outcome`` is ``chosen``, ``eligible`` or ``rejected``; a rejected node names its first failing ``filter``, with
    the figures in ``detail``. ``score`` is comparable within one decision only; higher is better.
    """

    node: str
    outcome: str
    filter: str = ""
    detail: str = ""
    score: float | None = None


class Explanation(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Why a decision came out as it did.

    ``step`` names the pipeline step that settled it. ``rejected`` counts nodes per filter when there are too many to
    list; then ``considered`` holds the top scores and the nearest misses only. ``chosen`` is a node or a replica.
    ``cure`` says what would turn a wait or a refusal into a yes. ``note`` says in one sentence why the chosen node is
    better than the next, where scores decided.
    """

    step: str
    considered: tuple[Considered, ...] = ()
    rejected: dict[str, int] = {}
    chosen: str = ""
    cure: str = ""
    note: str = ""


Explain = Callable[[], Explanation]
"""Makes the explanation when somebody asks for it, of the state as it was decided on."""


class Unexplained(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is decided anew at every look, and told only when it has changed: it is explained when it is told.

    ``explain`` holds for as long as the state is not changed.
    """

    explain: Explain

    @property
    def explanation(self) -> Explanation:
        """Why, made anew each time."""
        return self.explain()
