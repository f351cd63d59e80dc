"""Workers join and beat, operators look after nodes, on LocalAI's paths."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from interlock.domain import commands as c
from interlock.domain.entities import Budget
from interlock.domain.units import FOREVER, GIB, SECOND
from tests.gateway.conftest import Cluster

LOCALAI = {
    "name": "orin", "node_type": "backend", "address": "10.0.0.7:50051", "http_address": "10.0.0.7:50050",
    "total_vram": 64 * GIB, "available_vram": 60 * GIB, "total_ram": 64 * GIB, "available_ram": 50 * GIB,
    "total_disk": 900, "available_disk": 500, "gpu_vendor": "nvidia", "gpu_compute_capability": "8.7",
    "labels": {"tier": "slow"}, "version": "v3", "vram_budget": "80%",
}  # fmt: skip
OURS = {
    **LOCALAI, "name": "thor", "boot": "b-1", "pools": [24, 24], "used": [1, 2], "disk": 700, "ram": 90,
    "running": [{"process": "p-1", "replica": "r-000001", "model": "m", "index": 0, "address": "10.0.0.8:1"}],
}  # fmt: skip


async def register(cluster: Cluster, body: dict[str, Any]) -> Any:
    status, answer, _ = await cluster.ask("POST", "/api/node/register", json=body)
    assert status == 201, answer
    return answer


async def test_localais_worker_joins_with_one_pool_and_waits_for_approval(cluster: Cluster) -> None:
    answer = await register(cluster, LOCALAI)
    assert (answer["id"], answer["name"], answer["status"], answer["node_type"]) == (
        "orin",
        "orin",
        "pending",
        "backend",
    )
    command = cluster.scheduler.of(c.RegisterNode)[0]
    assert (command.pools, command.used, command.disk) == ((64 * GIB,), (4 * GIB,), 500)
    assert (command.labels, command.budget, command.approve) == ({"tier": "slow"}, Budget(percent=80), False)
    assert cluster.scheduler.sent[-1].actor == "worker:orin"


async def test_our_worker_tells_pools_boot_and_what_it_runs(cluster: Cluster) -> None:
    await register(cluster, OURS)
    command = cluster.scheduler.of(c.RegisterNode)[0]
    assert (command.pools, command.used, command.disk, command.ram, command.boot) == ((24, 24), (1, 2), 700, 90, "b-1")
    assert command.running[0].replica == "r-000001"


async def test_a_worker_without_a_gpu_serves_from_its_main_memory(cluster: Cluster) -> None:
    await register(cluster, {"name": "cpu", "address": "h", "total_ram": 8 * GIB})
    assert cluster.scheduler.of(c.RegisterNode)[0].pools == (8 * GIB,)


async def test_workers_are_approved_at_once_where_that_is_configured(bare: Cluster) -> None:
    await bare.start(auto_approve=True)
    assert (await register(bare, LOCALAI))["status"] == "healthy"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"), ({"name": "models"}, "name"), ({"name": "a b"}, "name"), ({"name": "a>"}, "name"),
        ({"name": "register"}, "name"), ({"name": "."}, "name"), ({"name": ".."}, "name"),
        ({"address": ""}, "address"), ({"node_type": "agent"}, "node_type"), ({"vram_budget": "200%"}, "vram_budget"),
        ({"total_vram": -1}, "total_vram"), ({"total_vram": 2**61}, "total_vram"),
        ({"total_vram": 0, "total_ram": -1}, "total_ram"),
        ({"pools": [-1]}, "pools[0]"), ({"pools": [1], "used": [1, 2]}, "used"), ({"total_ram": "much"}, "total_ram"),
    ],
)  # fmt: skip
async def test_a_registration_that_cannot_be_is_refused_by_field(
    cluster: Cluster, change: dict[str, Any], field: str
) -> None:
    status, answer, _ = await cluster.ask("POST", "/api/node/register", json={**LOCALAI, **change})
    assert (status, answer["error"]["param"]) == (400, field)
    assert cluster.scheduler.decided == []


async def test_a_heartbeat_brings_figures_and_processes_with_room_for_its_way_here(cluster: Cluster) -> None:
    await register(cluster, OURS)
    beat = {"boot": "b-1", "pools": [24, 24], "used": [3, 4], "disk": 600, "ram": 80, "running": [], "leaving": False}
    status, _, _ = await cluster.ask("POST", "/api/node/thor/heartbeat", json=beat)
    assert status == 200
    running = cluster.scheduler.of(c.ReportRunning)[0]
    assert cluster.scheduler.of(c.ReportCapacity) == [
        c.ReportCapacity(node="thor", pools=(24, 24), used=(3, 4), disk=600, ram=80, sent_at=running.asked_at)
    ]
    assert (running.node, running.boot, running.running) == ("thor", "b-1", ())
    assert 9 * SECOND < time.time_ns() // 1000 - running.asked_at < 60 * SECOND


async def test_what_a_workers_clock_shows_is_handed_on_with_room_for_its_way_here(cluster: Cluster) -> None:
    shown = 1_900_000_000_000_000
    before = time.time_ns() // 1000
    await register(cluster, OURS | {"clock": shown})
    await cluster.ask("POST", "/api/node/thor/heartbeat", json={"boot": "b-1", "clock": shown + 1})
    told = [cluster.scheduler.of(c.RegisterNode)[0], cluster.scheduler.of(c.ReportCapacity)[0]]
    assert [command.clock - shown for command in told] == [0, 1]
    assert all(8 * SECOND < before - command.sent_at <= 10 * SECOND for command in told)
    assert (told[1].pools, told[1].used) == ((), ()), "a heartbeat without figures leaves them as they are"


@pytest.mark.parametrize("shown", [0, -1, 2**62, 10**30])
async def test_a_clock_that_shows_no_time_counts_as_not_told_and_nobody_is_refused_for_it(
    cluster: Cluster, shown: int
) -> None:
    await register(cluster, OURS | {"clock": shown})
    status, _, _ = await cluster.ask("POST", "/api/node/thor/heartbeat", json={"boot": "b-1", "clock": shown})
    assert status == 200
    assert cluster.scheduler.of(c.RegisterNode)[0].clock == 0
    assert cluster.scheduler.of(c.ReportCapacity) == []


async def test_localais_heartbeat_with_free_memory_only_is_counted_from_the_nodes_total(cluster: Cluster) -> None:
    await register(cluster, LOCALAI)
    await cluster.ask("POST", "/api/node/orin/heartbeat", json={"available_vram": 10 * GIB})
    assert cluster.scheduler.of(c.ReportCapacity)[0].used == (54 * GIB,)


CPU = {"name": "cpu", "address": "h", "total_vram": 0, "total_ram": 8 * GIB, "available_ram": 6 * GIB}


async def test_where_memory_is_main_memory_what_is_free_of_that_counts(cluster: Cluster) -> None:
    await register(cluster, CPU)
    command = cluster.scheduler.of(c.RegisterNode)[0]
    assert (command.pools, command.used, command.unified) == ((8 * GIB,), (2 * GIB,), True)
    # LocalAI's worker sends this where there is no GPU.
    await cluster.ask("POST", "/api/node/cpu/heartbeat", json={"available_vram": 0, "available_ram": 5 * GIB})
    report = cluster.scheduler.of(c.ReportCapacity)[0]
    assert (report.pools, report.used, report.disk) == ((8 * GIB,), (3 * GIB,), None)


@pytest.mark.parametrize(
    ("beat", "disk", "ram"),
    [
        ({"total_disk": 900, "available_disk": 100}, 100, 0), ({"disk": 80}, 80, 0), ({"total_ram": 9}, None, 9),
        ({"available_ram": 5 * GIB, "total_disk": 900, "available_disk": 1}, 1, 0),
    ],
)  # fmt: skip
async def test_disk_and_main_memory_count_also_where_a_heartbeat_says_nothing_of_a_gpu_s(
    cluster: Cluster, beat: dict[str, int], disk: int | None, ram: int
) -> None:
    await register(cluster, OURS)
    await cluster.ask("POST", "/api/node/thor/heartbeat", json=beat)
    report = cluster.scheduler.of(c.ReportCapacity)[0]
    assert (report.pools, report.used) == ((), ()), "what is known of its pools stays"
    assert (report.disk, report.ram) == (disk, ram)


async def test_a_bare_heartbeat_is_a_sign_of_life_and_no_command(cluster: Cluster) -> None:
    await register(cluster, LOCALAI)
    status, answer, _ = await cluster.ask("POST", "/api/node/orin/heartbeat")
    assert (status, answer) == (200, {"message": "heartbeat received", "heartbeat_interval": "10s"})
    assert cluster.scheduler.kinds() == ["RegisterNode"]


async def test_a_worker_that_nobody_knows_is_told_to_register(cluster: Cluster) -> None:
    status, answer, _ = await cluster.ask("POST", "/api/node/ghost/heartbeat", json={})
    assert (status, answer["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/api/node/orin", None),
        ("POST", "/api/node/orin/deregister", None),
        ("POST", "/api/node/orin/heartbeat", {"leaving": True}),
    ],
)
async def test_a_worker_says_goodbye(cluster: Cluster, method: str, path: str, body: Any) -> None:
    await register(cluster, LOCALAI)
    status, _, _ = await cluster.ask(method, path, json=body)
    assert status == 200
    assert cluster.scheduler.of(c.WorkerLeft) == [c.WorkerLeft(node="orin")]


async def test_a_worker_that_drains_itself_is_no_operator_that_wants_it_empty(cluster: Cluster) -> None:
    await register(cluster, LOCALAI)
    assert (await cluster.ask("POST", "/api/node/orin/drain"))[0] == 200
    assert cluster.scheduler.of(c.DrainNode) == [c.DrainNode(node="orin", by_worker=True)]


async def test_a_goodbye_says_of_which_boot_it_is(cluster: Cluster) -> None:
    await register(cluster, OURS)
    await cluster.ask("POST", f"/api/node/{OURS['name']}/heartbeat", json={"leaving": True, "boot": "b7"})
    assert cluster.scheduler.of(c.WorkerLeft) == [c.WorkerLeft(node=OURS["name"], boot="b7")]


async def test_nodes_are_shown_with_localais_fields_beside_ours(cluster: Cluster) -> None:
    await register(cluster, OURS)
    cluster.scheduler.node_table["node-of-r1"] = {"name": "node-of-r1", "status": "healthy"}
    _, nodes, _ = await cluster.ask("GET", "/api/nodes")
    assert [node["id"] for node in nodes] == ["thor", "node-of-r1"]
    thor = nodes[0]
    assert (thor["total_vram"], thor["available_vram"], thor["labels"]) == (48, 48, {"tier": "slow"})
    assert [node["model_count"] for node in nodes] == [0, 1]
    _, one, _ = await cluster.ask("GET", "/api/nodes/thor")
    assert one == thor


async def test_what_is_loaded_is_shown_per_node_and_for_all(cluster: Cluster) -> None:
    cluster.scheduler.node_table["node-of-r1"] = {"name": "node-of-r1"}
    expected = {
        "id": "r1", "node_id": "node-of-r1", "model_name": "m", "replica_index": 0, "address": "", "state": "loaded",
        "in_flight": 0,
    }  # fmt: skip
    for path in ("/api/nodes/node-of-r1/models", "/api/node/node-of-r1/models"):
        _, models, _ = await cluster.ask("GET", path)
        assert models == [expected]
    _, everything, _ = await cluster.ask("GET", "/api/nodes/models")
    assert [replica["id"] for replica in everything] == ["r1", "r2"]


@pytest.mark.parametrize(
    ("method", "path", "body", "command"),
    [
        ("POST", "drain", None, c.DrainNode(node="orin")),
        ("POST", "drain", {"deadline": "10m"}, c.DrainNode(node="orin", within=600_000_000)),
        ("POST", "drain", {"deadline": "0s"}, c.DrainNode(node="orin", within=1)),
        ("POST", "drain", {"deadline": "forever"}, c.DrainNode(node="orin", within=FOREVER)),
        ("POST", "resume", None, c.ResumeNode(node="orin")),
        ("POST", "approve", None, c.ApproveNode(node="orin")),
        ("PUT", "vram-budget", {"value": "80%"}, c.SetNodeBudget(node="orin", budget=Budget(percent=80))),
        ("PUT", "vram-budget", {"value": "9GiB"}, c.SetNodeBudget(node="orin", budget=Budget(size=9 * GIB))),
        ("PUT", "vram-budget", {"value": ""}, c.SetNodeBudget(node="orin", budget=Budget())),
        ("DELETE", "vram-budget", None, c.SetNodeBudget(node="orin", budget=None)),
        ("DELETE", "max-replicas", None, c.SetReplicaSlots(node="orin", max_replicas_per_model=None)),
        ("DELETE", "max-replicas-per-model", None, c.SetReplicaSlots(node="orin", max_replicas_per_model=None)),
        ("PUT", "max-replicas", {"value": 3}, c.SetReplicaSlots(node="orin", max_replicas_per_model=3)),
        ("PUT", "max-replicas-per-model", {"value": 2}, c.SetReplicaSlots(node="orin", max_replicas_per_model=2)),
        ("PATCH", "labels", {"rack": "7"}, c.SetNodeLabels(node="orin", labels={"rack": "7"})),
        ("PUT", "labels", {"rack": "7"}, c.SetNodeLabels(node="orin", labels={"tier": "", "rack": "7"})),
        ("DELETE", "labels/tier", None, c.SetNodeLabels(node="orin", labels={"tier": ""})),
    ],
)
async def test_an_operators_change_becomes_its_command(
    cluster: Cluster, method: str, path: str, body: Any, command: c.Command
) -> None:
    await register(cluster, LOCALAI)
    status, answer, _ = await cluster.ask(method, f"/api/nodes/orin/{path}", json=body)
    assert status in (200, 204), answer
    assert cluster.scheduler.decided[1:] == [command]
    status, answer, _ = await cluster.ask(method, f"/api/nodes/ghost/{path}", json=body)
    assert (status, answer["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "POST"])
async def test_labels_go_back_as_they_came_with_the_automatic_ones_among_them(cluster: Cluster, method: str) -> None:
    await register(cluster, LOCALAI)
    shown = cluster.scheduler.node_table["orin"]["labels"]
    shown |= {"node.name": "orin", "gpu.vram": "48GB"}
    _, got, _ = await cluster.ask("GET", "/api/nodes/orin/labels")
    status, answer, _ = await cluster.ask(method, "/api/nodes/orin/labels", json={**got, "rack": "7"})
    assert (status, answer["rack"]) == (200, "7")
    assert cluster.scheduler.of(c.SetNodeLabels) == [c.SetNodeLabels(node="orin", labels={"tier": "slow", "rack": "7"})]
    status, answer, _ = await cluster.ask(method, "/api/nodes/orin/labels", json={**got, "gpu.vram": "80GB+"})
    assert (status, answer["error"]["param"]) == (400, "gpu.vram")


async def test_a_node_is_taken_out(cluster: Cluster) -> None:
    await register(cluster, LOCALAI)
    await cluster.ask("DELETE", "/api/nodes/orin")
    status, _, _ = await cluster.ask("GET", "/api/nodes/orin")
    assert status == 404


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("vram-budget", {"value": "0%"}, "value"), ("vram-budget", {"value": "lots"}, "value"),
        ("vram-budget", {"value": "80%", "for": "all"}, "for"), ("max-replicas", {"value": 0}, "value"),
        ("max-replicas", {"value": "2"}, "value"), ("max-replicas", {}, "value"),
        ("labels", {"node.name": "x"}, "node.name"), ("labels", {"rack": 7}, "rack"),
    ],
)  # fmt: skip
async def test_an_operators_mistake_is_named(cluster: Cluster, path: str, body: Any, field: str) -> None:
    await register(cluster, LOCALAI)
    status, answer, _ = await cluster.ask("PUT", f"/api/nodes/orin/{path}", json=body)
    assert (status, answer["error"]["param"]) == (400, field)


async def test_scheduling_is_set_in_localais_words_and_ours_stay(cluster: Cluster) -> None:
    table = {"backend": "echo", "parallel": 4, "priority": 2, "pinned": True, "idle_unload": "10m"}
    table |= {"prefix_affinity": 7}
    await cluster.ask("PUT", "/api/models/q", json=table)
    body = {"model_name": "q", "node_selector": {"tier": "fast"}, "min_replicas": 1, "max_replicas": 2}
    status, answer, _ = await cluster.ask("POST", "/api/nodes/scheduling", json=body)
    assert status == 200
    assert json.loads(answer["node_selector"]) == {"tier": "fast"}
    scheduling = cluster.scheduler.of(c.SetScheduling)[0].scheduling
    assert (scheduling.min_replicas, scheduling.max_replicas, scheduling.everywhere) == (1, 2, False)
    assert (scheduling.parallel, scheduling.priority, scheduling.pinned) == (4, 2, True)
    assert scheduling.idle_unload == 600_000_000
    assert (scheduling.prefix_affinity, answer["prefix_affinity"]) == (7, 7)
    _, listed, _ = await cluster.ask("GET", "/api/nodes/scheduling")
    assert [one["model_name"] for one in listed] == ["m", "q"]
    await cluster.ask("POST", "/api/nodes/scheduling", json={"model_name": "q", "spread_all": True})
    _, one, _ = await cluster.ask("GET", "/api/nodes/scheduling/q")
    assert (one["spread_all"], one["parallel"]) == (True, 4)
    apart = {"anti_affinity": "g", "anti_affinity_hard": True}
    await cluster.ask("POST", "/api/nodes/scheduling", json={"model_name": "q", **apart})
    await cluster.ask("POST", "/api/nodes/scheduling", json={"model_name": "q", "min_replicas": 1})
    _, one, _ = await cluster.ask("GET", "/api/nodes/scheduling/q")
    assert {key: one[key] for key in apart} == apart
    assert (await cluster.ask("DELETE", "/api/nodes/scheduling/q"))[0] == 204
    _, one, _ = await cluster.ask("GET", "/api/nodes/scheduling/q")
    assert (one["spread_all"], one["node_selector"]) == (False, "{}")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"model_name": "m", "route_colour": "x"}, "route_colour"),
        ({"model_name": "m", "min_replicas": 3, "max_replicas": 2}, "max_replicas"),
        ({"model_name": "m", "spread_all": True, "min_replicas": 1}, "replicas"),
        ({"min_replicas": 1}, "model_name"),
    ],
)
async def test_a_scheduling_that_cannot_be_is_refused_by_field(cluster: Cluster, body: Any, field: str) -> None:
    status, answer, _ = await cluster.ask("POST", "/api/nodes/scheduling", json=body)
    assert (status, answer["error"]["param"]) == (400, field)


async def test_how_localai_spreads_requests_is_taken_and_changes_nothing(cluster: Cluster) -> None:
    localai = {"route_policy": "prefix_cache", "balance_abs_threshold": 2, "balance_rel_threshold": 1.5}
    body = {"model_name": "m", "min_replicas": 1, "min_prefix_match": 0.3, **localai}
    status, answer, _ = await cluster.ask("POST", "/api/nodes/scheduling", json=body)
    assert (status, answer["min_replicas"], answer["prefix_affinity"]) == (200, 1, "default")
