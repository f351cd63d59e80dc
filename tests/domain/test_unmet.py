"""Of which wish is told that a model has and that is not met: of its floor, and of its roll-out once that is kept."""

from __future__ import annotations

import pytest

from interlock.adapters.audit.model_standing import standing_of
from interlock.domain import commands as cmd
from interlock.domain.entities import Lack, LoadSpec, Parked, Scheduling
from interlock.domain.planning import Change, plan
from interlock.domain.refusals import RefusalCode
from interlock.domain.units import GIB
from interlock.domain.unmet import unmet_wish
from tests.domain.cluster import Cluster


def waiting(floor: int) -> Cluster:
    """One copy on one node that may hold no other, a floor of this many, and a revision that has no room there."""
    cluster = Cluster()
    cluster.node("n")
    cluster.model("beside", vram=10, min_replicas=1)
    cluster.model("m", vram=10, min_replicas=1)
    cluster.settle()
    cluster.model("m", vram=22, min_replicas=floor)
    cluster.settle()
    return cluster


def test_a_floor_comes_before_the_roll_out_and_the_roll_out_once_the_floor_is_kept() -> None:
    cluster = waiting(floor=2)
    model = cluster.state.models["m"]
    assert model.declared != model.serving
    wish = unmet_wish(cluster.state, model, None, cluster.now)
    assert wish.plan is not None
    assert wish.lacking == Parked(RefusalCode.CAPACITY_EXHAUSTED, Lack.CAPACITY)
    assert not wish.explanation.note

    cluster = waiting(floor=1)
    wish = unmet_wish(cluster.state, cluster.state.models["m"], None, cluster.now)
    assert wish.plan is None
    assert wish.explanation.note == "Revision 2 of it is to come up; revision 1 serves on."


def test_a_floor_that_is_refused_lacks_a_node() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.model("whale", vram=99, min_replicas=1)
    wish = unmet_wish(cluster.state, cluster.state.models["whale"], None, cluster.now)
    assert wish.lacking == Parked(RefusalCode.NEVER_FITS, Lack.NODE)


@pytest.mark.parametrize("floor", [1, 2])
def test_a_plan_and_an_audit_tell_of_the_same_wish(floor: int) -> None:
    cluster = waiting(floor)
    again = cmd.DeclareModel(
        model="m", spec=LoadSpec(backend="echo", vram=22 * GIB), scheduling=Scheduling(min_replicas=floor)
    )
    [planned] = plan(cluster.engine, Change(models=(again,)), cluster.now).unmet
    audited = standing_of(cluster.state, "m", cluster.now)
    assert audited is not None
    assert audited.parked is not None
    assert planned.nodes == audited.parked.considered != ()
    assert planned.cure == audited.parked.cure != ""
