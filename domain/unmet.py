"""Which of a model's wishes is not met, and why: its floor comes first, and then the roll-out of its declared revision.

Whoever tells of it asks here, a plan of what will be and an audit of what is, so that both speak of the same wish.
"""

from __future__ import annotations

import msgspec

from .entities import Lack, Model, Parked
from .explanation import Explanation
from .reconcile import floor_plan
from .refusals import RefusalCode
from .roll_outs import explain_parked, lacking_for_roll_out
from .routing import Plan, Refuse
from .shrinking import below_floor
from .state import State


class UnmetWish(msgspec.Struct, frozen=True):
    """Why a wish is not met at an instant, and what it lacks.

    ``plan`` is how the floor could be kept then, which may be that it can; None where the wish is a roll-out.
    """

    lacking: Parked
    explanation: Explanation
    plan: Plan | None = None


def unmet_wish(state: State, model: Model, parked: Parked | None, now: int) -> UnmetWish:
    """The wish that comes first of those that are not met; ``parked`` is what it is known to lack, if that is known."""
    if model.declared != model.serving and not below_floor(state, model):
        lacking = parked or lacking_for_roll_out(state, model, now)
        return UnmetWish(lacking, explain_parked(state, model, lacking, now))
    plan = floor_plan(state, model, now)
    return UnmetWish(parked or _lacking(plan), plan.explanation, plan)


def _lacking(plan: Plan) -> Parked:
    """What a floor lacks that nobody has parked yet."""
    if isinstance(plan, Refuse):
        return Parked(plan.code, Lack.NODE)
    return Parked(RefusalCode.CAPACITY_EXHAUSTED, Lack.CAPACITY)
