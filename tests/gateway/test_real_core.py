"""The gateway over the real core: what clients, workers and operators do to each other through HTTP alone."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from interlock.adapters.http.app import build_app, serve_http
from interlock.adapters.http.config import GatewayConfig
from interlock.domain.errors import BackendFailed
from tests.gateway.conftest import Cluster
from tests.gateway.core import CoreScheduler

GIB = 2**30
WORKER = {
    "name": "thor", "address": "h", "boot": "b-1", "pools": [24 * GIB], "used": [0], "ram": 64 * GIB,
    "disk": 900 * GIB, "labels": {"tier": "fast"}, "running": [],
}  # fmt: skip


@pytest.fixture
async def core() -> AsyncIterator[tuple[Cluster, CoreScheduler]]:
    """One worker that has joined, and a model ``m`` that may run anywhere."""
    one, scheduler = Cluster(), CoreScheduler()
    config = GatewayConfig(auto_approve=True, show_node=True)
    one.app = build_app(scheduler, scheduler, one.backends, config, liveness=scheduler)
    one.server = await serve_http(one.app, "127.0.0.1", 0)
    one.connect()
    await one.ask("POST", "/api/node/register", json=WORKER)
    await one.ask("PUT", "/api/models/m", json={"backend": "echo", "vram": "9GiB", "aliases": ["gpt"]})
    yield one, scheduler
    await one.stop()


Core = tuple[Cluster, CoreScheduler]


async def test_the_first_request_loads_the_model_and_the_next_is_warm(core: Core) -> None:
    cluster, scheduler = core
    for _ in range(2):
        status, answer, headers = await cluster.chat("gpt")
        assert (status, answer["model"], headers["X-Interlock-Node"]) == (200, "m", "thor")
    await scheduler.until_idle()
    assert scheduler.events.count("LoadStarted") == 1
    assert scheduler.events.count("ReplicaLocked") == scheduler.events.count("ReplicaReleased") == 2


async def test_views_of_the_real_state_are_shown(core: Core) -> None:
    cluster, _ = core
    await cluster.chat()
    _, nodes, _ = await cluster.ask("GET", "/api/nodes")
    thor = nodes[0]
    assert (thor["id"], thor["status"], thor["model_count"], thor["total_vram"]) == ("thor", "healthy", 1, 24 * GIB)
    assert thor["available_vram"] == 15 * GIB
    _, models, _ = await cluster.ask("GET", "/api/nodes/thor/models")
    assert [(model["model_name"], model["state"]) for model in models] == [("m", "loaded")]
    _, status, _ = await cluster.ask("GET", "/api/models/gpt/load-status")
    assert status == {"model": "m", "state": "loaded", "replicas": 1}
    status_code, _, _ = await cluster.ask("GET", "/api/models")
    assert status_code == 200


async def test_an_unload_is_answered_with_how_the_model_is_and_what_becomes_of_it(core: Core) -> None:
    cluster, scheduler = core
    status, told, _ = await cluster.ask("POST", "/api/models/gpt/unload")
    assert (status, told) == (
        202,
        {"model": "m", "state": "absent", "message": "Nothing of model m is loaded."},
    )
    await cluster.chat()
    await scheduler.until_idle()
    _, told, _ = await cluster.ask("POST", "/api/models/m/unload")
    assert (told["state"], told["message"]) == ("absent", "Model m is being unloaded.")
    _, told, _ = await cluster.ask("GET", "/api/models/m/load-status")
    assert "message" not in told


@pytest.mark.parametrize(
    ("table", "status", "code"),
    [
        ({"backend": "echo", "vram": "90GiB"}, 422, "never_fits"),
        ({"backend": "echo", "node_selector": {"tier": "none"}}, 422, "no_node_matches"),
        ({}, 422, "load_info_missing"),
    ],
)
async def test_what_can_never_be_served_is_refused_at_once(core: Core, table: Any, status: int, code: str) -> None:
    cluster, scheduler = core
    await cluster.ask("PUT", "/api/models/q", json=table)
    got, answer, _ = await cluster.chat("q")
    assert (got, answer["error"]["code"], answer["error"]["type"]) == (status, code, "misconfigured")
    assert not scheduler.engine.state.requests


async def test_a_model_that_nobody_declared_is_unknown(core: Core) -> None:
    status, answer, _ = await core[0].chat("nobody")
    assert (status, answer["error"]["code"]) == (404, "unknown_model")


async def test_a_backend_that_is_gone_is_loaded_anew_and_the_request_served(core: Core) -> None:
    cluster, scheduler = core
    await cluster.chat()
    cluster.backends.gone.add(cluster.backends.calls[0])
    status, _, _ = await cluster.chat()
    assert status == 200
    await scheduler.until_idle()
    assert scheduler.events.count("ReplicaLost") == 1
    assert scheduler.events.count("LoadStarted") == 2


async def test_a_request_whose_every_backend_is_gone_ends(core: Core) -> None:
    cluster, scheduler = core
    cluster.backends.gone |= {f"r-{n:06}:1" for n in range(1, 100)}
    await cluster.ask("PATCH", "/api/settings", json={"load_backoff": "0s"})  # nobody has the core tick here
    status, answer, _ = await cluster.chat()
    assert (status, answer["error"]["code"]) in ((502, "backend_failed"), (503, "capacity_exhausted"))
    assert len(cluster.backends.calls) == scheduler.events.count("ReplicaLost") <= 10
    await scheduler.until_idle()


async def test_a_load_that_fails_is_told_in_the_backends_words(core: Core) -> None:
    cluster, scheduler = core
    scheduler.failing.add("m")
    await cluster.ask("PATCH", "/api/settings", json={"load_attempts": 1})
    status, answer, _ = await cluster.chat()
    assert (status, answer["error"]["code"]) == (502, "load_failed")
    assert "the weights are torn" in answer["error"]["message"]
    assert not scheduler.engine.state.requests


async def test_after_many_clients_of_every_kind_the_core_holds_nothing(core: Core) -> None:
    cluster, scheduler = core
    chance = random.Random(5)
    cluster.backends.breaks["r-000001:1"] = (1, BackendFailed("midway"))

    async def one() -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": "a b c"}], "stream": chance.random() < 0.5}
        request = asyncio.create_task(cluster.ask_raw(body))
        if chance.random() < 0.4:
            await asyncio.wait((request,), timeout=chance.random() / 20)
            request.cancel()
        await asyncio.gather(request, return_exceptions=True)

    await asyncio.gather(*(one() for _ in range(100)))
    await scheduler.until_idle()
    assert scheduler.events.count("ReplicaLocked") == scheduler.events.count("ReplicaReleased") >= 40
    assert all(not scheduler.engine.state.lock_count(replica) for replica in scheduler.engine.state.replicas)


async def test_a_load_that_goes_on_is_told_when_the_clients_deadline_has_passed(core: Core) -> None:
    cluster, scheduler = core
    scheduler.deaf.add("m")
    asking = asyncio.create_task(cluster.chat(headers={"X-Interlock-Deadline": "50ms"}))
    while not asking.done():
        await asyncio.sleep(0.01)
        scheduler.tick()
    status, answer, headers = asking.result()
    assert (status, answer["error"]["code"]) == (503, "loading")
    assert int(headers["Retry-After"]) >= 1
    assert answer["error"]["loading"]["node"] == "thor"
    assert "eta" not in answer["error"]["loading"]


async def test_an_id_that_lives_already_is_told_apart_by_the_core(core: Core) -> None:
    cluster, scheduler = core
    cluster.backends.stalls["r-000001:1"] = 0
    first = asyncio.create_task(cluster.chat(headers={"X-Request-Id": "one"}))
    await cluster.backends.stalled.wait()
    _, shown, _ = await cluster.ask("GET", "/api/requests/one")
    assert (shown["status"], shown["model"]) == ("locked", "m")
    first.cancel()
    await scheduler.until_idle()
    assert scheduler.events[-1] == "ReplicaReleased"


async def test_a_drained_node_takes_no_work_until_it_is_resumed(core: Core) -> None:
    cluster, scheduler = core
    await cluster.ask("POST", "/api/nodes/thor/drain")
    waiting = asyncio.create_task(cluster.chat())
    while not scheduler.engine.state.requests:
        await asyncio.sleep(0)
    status, _, _ = await cluster.ask("POST", "/api/nodes/thor/resume")
    assert status == 200
    status, _, _ = await waiting
    assert status == 200
    await scheduler.until_idle()


async def test_operators_mistakes_come_back_as_the_core_says_them(core: Core) -> None:
    cluster, _ = core
    for method, path, code in (
        ("POST", "/api/nodes/ghost/drain", 404),
        ("DELETE", "/api/models/nobody", 404),
        ("POST", "/api/replicas/r-999999/evict", 404),
        ("POST", "/api/locks/nosuch/release", 404),
    ):
        status, answer, _ = await cluster.ask(method, path)
        assert status == code, answer


async def test_chats_that_share_a_long_system_prompt_go_to_the_same_replica(core: Core) -> None:
    cluster, scheduler = core
    await cluster.ask("POST", "/api/node/register", json=WORKER | {"name": "orin", "address": "o", "boot": "b-2"})
    await cluster.ask("PUT", "/api/models/m", json={"backend": "echo", "vram": "9GiB", "replicas": "all"})
    await scheduler.until_idle()

    async def node_of(*texts: str) -> str:
        messages = [{"role": role, "content": text} for role, text in zip(("system", "user"), texts, strict=True)]
        _, _, headers = await cluster.ask(
            "POST", "/v1/chat/completions", json={"model": "m", "messages": messages}
        )  # fmt: skip
        return str(headers["X-Interlock-Node"])

    rules, others = "Set no conflicting route. " * 80, "Answer in Latin. " * 120
    assert {await node_of("", f"q{number}") for number in range(4)} == {"orin", "thor"}, "short ones take turns"
    assert len({await node_of(rules, f"question {number}") for number in range(5)}) == 1
    assert len({await node_of(others, f"question {number}") for number in range(5)}) == 1
    await cluster.ask("PUT", "/api/models/m", json={"backend": "echo", "replicas": "all", "prefix_affinity": "off"})
    assert {await node_of(rules, f"question {number}") for number in range(4)} == {"orin", "thor"}


async def test_a_plan_over_http_changes_nothing_and_says_what_would_come(core: Core) -> None:
    cluster, scheduler = core
    position = scheduler.engine.ledger.position
    models = [
        {"name": "new", "backend": "echo", "vram": "9GiB", "min_replicas": 1},
        {"name": "huge", "backend": "echo", "vram": "999GiB"},
    ]
    status, told, _ = await cluster.ask("POST", "/api/plan", json={"models": models, "scheduler": {"queue_limit": 7}})
    assert (status, told["holds"], told["complete"]) == (200, False, True)
    assert [(line["model"], line["node"], line["when"]) for line in told["placed"]] == [("new", "thor", "now")]
    assert [(line["model"], line["outcome"], line["code"]) for line in told["on_demand"]] == [
        ("huge", "refused", "never_fits")
    ]
    assert [line["why"] for line in told["changed"]] == ["queue_limit: 1000 → 7", "is declared", "is declared"]
    assert told["summary"] == "1 placed; no place for: huge."
    assert scheduler.engine.ledger.position == position == told["position"]
    assert {model["name"] for model in (await cluster.ask("GET", "/api/models"))[1]} == {"m"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body"),
        ({"model": []}, "model"),
        ({"models": [{"name": "m", "vrm": 1}]}, "models[0].vrm"),
        ({"models": [{"name": "m", "remove": True, "vram": 1}]}, "models[0].vram"),
        ({"models": [{"name": "m"}, {"name": "m", "remove": True}]}, "models[1].name"),
        ({"nodes": [{"name": "thor", "vram": "much"}]}, "nodes[0].vram"),
        ({"nodes": [{"name": "thor", "remove": True, "drain": True}]}, "nodes[0].remove"),
        ({"nodes": [{"name": "thor", "approved": False}]}, "nodes[0].approved"),
        ({"nodes": [{"name": "thor", "max_replicas_per_model": 0}]}, "nodes[0].max_replicas_per_model"),
        ({"nodes": [{"name": "thor", "labels": {"a": 1}}]}, "nodes[0].labels"),
        ({"nodes": [{"name": "thor", "pools": ["1GiB"], "vram": "1GiB"}]}, "nodes[0].pools"),
        ({"nodes": [{"name": "thor", "drain": "yes"}]}, "nodes[0].drain"),
        ({"nodes": [{"name": "thor", "deadline": "1m"}]}, "nodes[0].deadline"),
        ({"nodes": [{"name": "thor", "drain": True, "deadline": 3}]}, "nodes[0].deadline"),
        ({"scheduler": {"min_residency": "soon"}}, "scheduler.min_residency"),
        ({"scheduler": {"speed": 1}}, "scheduler.speed"),
    ],
)
async def test_a_plan_with_a_wrong_key_is_refused_by_its_name(core: Core, body: object, field: str) -> None:
    status, told, _ = await core[0].ask("POST", "/api/plan", json=body)
    assert (status, told["error"]["param"]) == (400, field)


async def test_every_kind_of_change_is_told_in_words(core: Core) -> None:
    cluster, scheduler = core
    await cluster.ask(
        "POST", "/v1/chat/completions", json={"model": "m", "messages": [{"role": "user", "content": "a"}]}
    )
    await scheduler.until_idle()

    async def told(document: dict[str, Any], kind: str = "changed") -> list[str]:
        _, plan, _ = await cluster.ask("POST", "/api/plan", json=document)
        return [line["why"] for line in plan[kind]]

    thor = {"name": "thor", "labels": {"tier": "", "room": "a"}, "vram_budget": "50%", "max_replicas_per_model": 2}
    assert sorted(await told({"nodes": [{**thor, "vram": "48GiB", "disk": "800GiB"}]})) == [
        "budget: 100% → 50%",
        "disk: 900GiB → 800GiB",
        "label room: none → a",
        "label tier: fast → none",
        "max_replicas_per_model: 1 → 2",
        "pools: 24GiB → 48GiB",
    ]
    [drained] = await told({"nodes": [{"name": "thor", "drain": True, "deadline": "10m"}]})
    assert re.fullmatch(r"is drained; what is left there at ..:..:.. UTC is taken away", drained)
    assert await told({"nodes": [{"name": "thor", "drain": True}]}) == ["is drained"]
    [at_once] = await told({"nodes": [{"name": "thor", "drain": True, "deadline": "0s"}]})
    assert at_once.startswith("is drained; what is left there at ")
    assert await told({"nodes": [{"name": "thor", "drain": True}]}, "unloaded") == [
        "r-000001: the node is being drained"
    ]
    assert await told({"nodes": [{"name": "thor", "remove": True}]}) == ["is removed"]
    assert await told({"nodes": [{"name": "thor", "remove": True}]}, "unloaded") == [
        "r-000001: it is lost: its node was removed"
    ]
    assert await told({"nodes": [{"name": "odin", "drain": True}]}, "rejected") == ["No node named 'odin'."]
    assert await told({"models": [{"name": "m", "remove": True}]}) == ["is removed"]
    model = {"name": "m", "backend": "echo", "vram": "9GiB", "idle_unload": "10m", "node_selector": {"room": "a"}}
    assert await told({"models": [model]}) == [
        "idle_unload: default → 10m", "node_selector: none → room=a", "aliases: gpt → none"
    ]  # fmt: skip
    assert await told({"scheduler": {"idle_unload": "10m"}}, "unloaded") == [
        "r-000001: its model was idle for idle_unload"
    ]
    assert await told({"models": [{**model, "backend": "other"}]}, "on_demand") == [
        "a request would be refused: no approved node matches its selector (thor: wants room a, has none)"
    ]


async def test_a_second_machine_of_a_name_is_refused_with_a_cure_unless_it_says_that_it_replaces_the_first(
    core: Core,
) -> None:
    cluster, scheduler = core
    first = WORKER | {"name": "orin", "boot": "o-1", "machine": "board-1"}
    assert (await cluster.ask("POST", "/api/node/register", json=first))[0] == 201
    second = first | {"boot": "o-2", "machine": "board-2", "address": "elsewhere"}
    status, answer, _ = await cluster.ask("POST", "/api/node/register", json=second)
    assert status == 409
    assert "another machine is at work as orin" in answer["error"]["message"]
    assert "--replace" in answer["error"]["message"]
    assert (await cluster.ask("POST", "/api/node/register", json=second | {"replaces": True}))[0] == 201
    assert (await cluster.ask("POST", "/api/node/register", json=first))[0] == 409, "the first does not take it back"
    assert scheduler.events.count("NodeRegistered") == 3


async def test_a_drain_over_http_has_its_deadline_and_says_when_the_node_is_empty(core: Core) -> None:
    cluster, scheduler = core
    await cluster.ask("POST", "/api/nodes/thor/drain", json={"deadline": "10m"})
    _, thor, _ = await cluster.ask("GET", "/api/nodes/thor")
    assert (thor["status"], thor["emptied"]) == ("draining", True)
    assert scheduler.events.count("NodeDrained") == 1
    status, answer, _ = await cluster.ask("POST", "/api/nodes/thor/drain", json={"deadline": "soon"})
    assert (status, "deadline" in answer["error"]["message"]) == (400, True)
