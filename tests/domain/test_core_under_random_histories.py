"""Whatever happens in whatever order, the core's invariants hold and the log replays to the live state."""

from __future__ import annotations

import random

import pytest

from interlock.domain import commands as cmd
from interlock.domain.entities import ANY_POOLS, Budget, LoadSpec, Phase
from interlock.domain.selector import parse_selector
from interlock.domain.units import FOREVER, GIB
from tests.domain.cluster import Cluster, check_invariants, check_replay

NODES = ("a", "b", "c")
MODELS = ("m1", "m2", "m3", "m4")
POOLS = ((10,), (20,), (30,), (30,), (9, 12), (20, 6), (10, 10, 10))
SPANS = (1, 1, 1, 2, ANY_POOLS)


def _start(rng: random.Random) -> Cluster:
    cluster = Cluster()
    settings = {
        "min_residency": rng.choice((0, 0, 30_000_000)), "queue_limit": 30,
        "scale_down_delay": rng.choice((1_000_000, 300_000_000)), "idle_unload": rng.choice((FOREVER, 60_000_000)),
    }  # fmt: skip
    cluster.send(cmd.ChangeSettings(values=settings))
    for name in NODES:
        disk = rng.choice((None, 40, 15))
        cluster.node(
            name, pools=_pools(rng), slots=rng.choice((1, 2)), labels={"tier": rng.choice("xy")},
            disk=disk and disk * GIB, ram=rng.choice((0, 16, 24)) * GIB,
        )  # fmt: skip
    for name in MODELS:
        needs = {"vram": rng.choice((5, 9, 12)), "disk": rng.choice((0, 8)), "pools": rng.choice(SPANS)}
        needs["ram"] = rng.choice((0, 0, 6, 10))
        cluster.model(name, **needs, **_scheduling(rng))
    return cluster


def _pools(rng: random.Random) -> tuple[int, ...]:
    return tuple(size * GIB for size in rng.choice(POOLS))


def _scheduling(rng: random.Random) -> dict[str, object]:
    selector = rng.choice(({}, {}, {"tier": "x"}, {"!tier": "y"}, {"node.name": ["a", "b"]}))
    low = rng.choice((0, 0, 1, 2))
    group = rng.choice(("", "", "g"))
    return {
        "placement": rng.choice(("", "", "pack", "spread", "balance", "fast-start")),
        "anti_affinity": group, "anti_affinity_hard": bool(group) and rng.random() < 0.5,
        "selector": selector, "min_replicas": low, "max_replicas": rng.choice((0, low, 3)) if low else 0,
        "parallel": rng.choice((0, 1, 1, 2)), "priority": rng.choice((0, 0, 1)), "pinned": rng.random() < 0.1,
        "everywhere": rng.random() < 0.1,
    }  # fmt: skip


def _step(cluster: Cluster, rng: random.Random, n: int) -> None:
    state = cluster.state
    kind = rng.random()
    node, model = rng.choice(NODES), rng.choice(MODELS)
    requests, replicas = list(state.requests), list(state.replicas)
    if kind < 0.28:
        holder = rng.choice(("g1", "g2"))
        prefix = tuple(range(1, rng.choice((1, 1, 3, 6)))) + ((rng.randrange(10, 20),) if rng.random() < 0.5 else ())
        cluster.request(f"r{n}", model, holder, priority=rng.choice((0, 0, 1)), prefix=prefix)
    elif kind < 0.46 and requests:
        cluster.release(rng.choice(requests))
    elif kind < 0.74 and cluster.effects:
        effect = rng.choice(cluster.effects)
        if rng.random() < 0.15 and effect.name != "model.unload" and effect.name != "backend.stop":
            cluster.fail(effect)
        else:
            cluster.answer(effect)
    elif kind < 0.80:
        cluster.wait(rng.choice((0.5, 2, 31, 301)))
    elif kind < 0.82 and requests:
        cluster.send(cmd.CancelRequest(request=rng.choice(requests)))
    elif kind < 0.84 and replicas:
        replica = state.replicas[rng.choice(replicas)]
        cluster.send(cmd.ReportReplicaDied(replica=replica.id, reason="killed"))
    elif kind < 0.87:
        held = [r for r in state.requests.values() if r.replica]
        if held:
            request = rng.choice(held)
            cluster.send(cmd.ReportBackendGone(request=request.id, replica=request.replica, detail="UNAVAILABLE"))
    elif kind < 0.88:
        cluster.send(cmd.LoseHolder(holder=rng.choice(("g1", "g2"))))
    else:
        _admin(cluster, rng, node, model, n)
    recent = rng.choice(cluster.log[-50:])
    repeat = cmd.Envelope(command_id=recent.command_id, command=cmd.Thaw(what="evictions"))
    assert cluster.engine.handle(repeat, cluster.now).repeated


def _admin(cluster: Cluster, rng: random.Random, node: str, model: str, n: int) -> None:
    slots = rng.choice((1, 2))
    choices = [
        lambda: cluster.send(cmd.ReportSilence(node=node)),
        lambda: cluster.send(cmd.ReportHeard(node=node, boot=_boot(cluster, node))),
        lambda: cluster.node(node, pools=_pools(rng), boot=f"boot-{n}", slots=slots, ram=rng.choice((0, 24)) * GIB),
        lambda: cluster.send(cmd.DrainNode(node=node)) if node in cluster.state.nodes else None,
        lambda: cluster.send(cmd.ResumeNode(node=node)),
        lambda: cluster.send(cmd.SetNodeLabels(node=node, labels={"tier": rng.choice(("x", "y", ""))})),
        lambda: cluster.send(cmd.SetNodeBudget(node=node, budget=Budget(rng.choice((50, 100))))),
        lambda: cluster.model(model, vram=rng.choice((5, 9, 12)), pools=rng.choice(SPANS), **_scheduling(rng)),
        lambda: cluster.send(cmd.StoreLoadInfo(model=model, spec=LoadSpec(backend=rng.choice(("echo", "x"))))),
        lambda: cluster.send(cmd.SetScheduling(model=model, scheduling=_parsed(rng))),
        lambda: cluster.send(cmd.RemoveModel(model=model)),
        lambda: cluster.send(cmd.SetReplicaSlots(node=node, max_replicas_per_model=slots)),
        lambda: cluster.send(cmd.RemoveNode(node=node)),
        lambda: cluster.send(cmd.RequestLoad(model=model)),
        lambda: cluster.send(cmd.RequestUnload(model=model)),
        lambda: cluster.send(cmd.Freeze(what=rng.choice(("evictions", "reconciler")))),
        lambda: cluster.send(cmd.Thaw(what="evictions")),
        lambda: cluster.send(cmd.Thaw(what="reconciler")),
        lambda: cluster.send(cmd.StartEpoch(epoch=cluster.engine.ledger.epoch + 1, writer="w")),
        lambda: cluster.send(cmd.ReportCapacity(node=node, used=(rng.randrange(30) * GIB, rng.randrange(9) * GIB))),
        lambda: cluster.send(cmd.ReportCapacity(node=node, ram=rng.choice((12, 24)) * GIB)),
        lambda: cluster.send(cmd.ReportRunning(node=node, boot=_boot(cluster, node), asked_at=cluster.now, running=())),
        lambda: cluster.send(cmd.ReportRunning(
            node=node, boot=_boot(cluster, node), asked_at=cluster.now, running=(cmd.Running(process=f"p{n}"),)
        )),
    ]  # fmt: skip
    rng.choice(choices)()


def _boot(cluster: Cluster, node: str) -> str:
    known = cluster.state.nodes.get(node)
    return known.boot if known else ""


def _parsed(rng: random.Random):
    from interlock.domain.entities import Scheduling

    fields = _scheduling(rng)
    return Scheduling(selector=parse_selector(fields.pop("selector")), **fields)


@pytest.mark.parametrize("seed", range(40))
def test_invariants_hold_and_the_log_replays(seed: int) -> None:
    rng = random.Random(seed)
    cluster = _start(rng)
    for n in range(150):
        reserved = cluster.state.reservations
        _step(cluster, rng, n)
        check_invariants(cluster)
        if cluster.state.reservations > reserved:
            _check_budgets_where_reserved(cluster)
    check_replay(cluster)


def _check_budgets_where_reserved(cluster: Cluster) -> None:
    """A reservation never takes a pool above its budget; a budget that was lowered may leave one above it."""
    newest = max(cluster.state.replicas.values(), key=lambda replica: replica.serial)
    node = cluster.state.nodes[newest.node]
    owed = dict(newest.owed_in)
    for pool, size in newest.claim:
        if size > owed.get(pool, 0):
            assert cluster.state.committed[node.name][pool] <= node.limits.get(pool, FOREVER)


@pytest.mark.parametrize("seed", range(40))
def test_once_faults_stop_every_request_ends_and_effects_cease(seed: int) -> None:
    """Properties Q and W: workers answer, clients release, time passes; then nothing waits and nothing is asked."""
    rng = random.Random(1000 + seed)
    cluster = _start(rng)
    for n in range(120):
        _step(cluster, rng, n)
    for node in NODES:
        if node in cluster.state.nodes:
            cluster.send(cmd.ReportHeard(node=node, boot=_boot(cluster, node)))
    for _ in range(60):
        cluster.settle()
        for request in [r.id for r in cluster.state.requests.values() if r.status != "queued"]:
            cluster.release(request)
        cluster.wait(60)
    assert not cluster.state.requests, cluster.state.requests
    assert not cluster.effects
    moving = [r for r in cluster.state.replicas.values() if r.phase is not Phase.LOADED]
    assert not moving, moving
    cluster.forget()
    cluster.wait(24 * 3600)
    assert not cluster.events
    check_replay(cluster)
