"""What a wait, or a refusal, for a full disk says of a cure: whom to unload, so that their files may give way."""

from __future__ import annotations

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.commands import Waiting
from interlock.domain.units import GIB
from tests.domain.cluster import Cluster, check_invariants


def full_disk(**sizes: int) -> tuple[Cluster, dict[str, str]]:
    """A node with plenty of memory, whose disk is full with the files of loaded models; and their replicas."""
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0, "request_deadline": 60_000_000}))
    cluster.node("only", vram=200, disk=(sum(sizes.values()) + 1) * GIB, slots=2)
    for name, size in sizes.items():
        cluster.model(name, vram=1, disk=size, pinned=name == "pinned")
    return cluster, {name: cluster.loaded(name) for name in sizes}


def cure_of(cluster: Cluster, model: str, disk: int) -> str:
    cluster.model(model, vram=1, disk=disk)
    assert isinstance(cluster.request(f"for-{model}", model), Waiting)
    return cluster.events[-1].explanation.cure


def test_a_wait_for_a_full_disk_says_whom_to_unload() -> None:
    cluster, ids = full_disk(large=60, kept=40)
    assert cure_of(cluster, "new", 50) == (
        f"Disk on only or another candidate: unload {ids['large']} of large, whose files give way then "
        "(`interlock replicas evict ID`); a larger disk, or less `disk` for new, if it takes less."
    )
    cluster.send(cmd.EvictReplica(replica=ids["large"]))
    cluster.settle()
    assert sorted(name for name, _ in cluster.state.staged["only"]) == ["kept", "new"], "it does what it says"
    assert cluster.state.requests["for-new"].replica
    check_invariants(cluster)


def test_a_refusal_for_a_full_disk_says_the_same() -> None:
    cluster, ids = full_disk(large=60, kept=40)
    cluster.model("new", vram=1, disk=50)
    cluster.request("r", "new")
    cluster.wait(61)
    refused = next(event for event in cluster.events if isinstance(event, ev.RequestRefused))
    assert f"unload {ids['large']} of large" in refused.explanation.cure


def test_who_is_busy_or_pinned_is_named_last_and_nobody_whose_files_would_not_be_needed() -> None:
    cluster, ids = full_disk(pinned=30, busy=40, idle=20, small=5)
    cluster.request("r", "busy")
    assert f"unload {ids['idle']} of idle, whose" in cure_of(cluster, "fits-for-one", 20)
    assert f"unload {ids['idle']} of idle, {ids['small']} of small, whose" in cure_of(cluster, "for-two", 25)
    assert f"unload {ids['pinned']} of pinned, whose" in cure_of(cluster, "for-the-pinned", 30)
    named = ", ".join(f"{ids[name]} of {name}" for name in ("idle", "pinned", "busy"))
    assert f"unload {named}, whose" in cure_of(cluster, "for-most", 80)


def test_all_the_copies_that_hold_the_files_are_named_a_few_of_many() -> None:
    cluster = Cluster()
    cluster.node("only", vram=200, disk=51 * GIB, slots=6)
    cluster.model("many", vram=1, disk=50)
    ids = [cluster.loaded("many") for _ in range(6)]
    named = ", ".join(f"{replica} of many" for replica in ids[:4])
    assert f"unload {named} and 2 more, whose" in cure_of(cluster, "new", 10)


def test_where_unloading_would_not_be_enough_nobody_is_named() -> None:
    cluster, _ = full_disk(large=60)
    cluster.node("roomy", vram=1, disk=500 * GIB)
    cluster.model("filler", vram=1, pinned=True, selector={"node.name": "roomy"})
    cluster.loaded("filler")
    cure = cure_of(cluster, "new", 100)
    assert cure == "Disk on only or another candidate: a larger disk, or less `disk` for new, if it takes less."


def test_files_of_a_load_that_is_on_its_way_are_nobodys_to_unload() -> None:
    cluster, ids = full_disk(large=60, kept=40)
    cluster.send(cmd.RequestLoad(model="large"))
    assert f"unload {ids['kept']} of kept, whose" in cure_of(cluster, "new", 20)
