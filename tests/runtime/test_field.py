"""What went wrong in the field, through the real gateway, with real workers and backends."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.clusters import Cluster

Make = Callable[..., Cluster]

WORKERS = """
[[workers]]
name = "agx-orin-slow"
labels = { tier = "slow" }
vram = "10GiB"

[[workers]]
name = "nvidia-thor"
labels = { tier = "fast" }
vram = "10GiB"
"""


@pytest.fixture
async def field(make_cluster: Make, tmp_path: Path) -> Cluster:
    """Two workers with ten GiB each; one copy of a model per node."""
    (tmp_path / "workers.toml").write_text(WORKERS)
    (tmp_path / "interlock.toml").write_text('show_node = true\n[scheduler]\nmin_residency = "0s"\n')
    return await make_cluster(workers=str(tmp_path / "workers.toml")).start()


async def counts(cluster: Cluster, *events: str) -> dict[str, int]:
    """How many events of each class the log holds."""
    return {event: len(await cluster.events(event)) for event in events}


async def test_200_requests_for_a_model_not_loaded_yet_are_one_install_and_one_load(field: Cluster) -> None:
    await field.declare("qwen", backend="echo", vram="9GiB", parallel=0, options={"load_ms": 300})
    results = await asyncio.gather(*(field.chat("qwen", f"word-{number}") for number in range(200)))
    assert {status for status, _ in results} == {200}
    words = [answer["choices"][0]["message"]["content"] for _, answer in results]
    assert words == [f"word-{number}" for number in range(200)]
    seen = await counts(field, "BackendInstallRequested", "LoadStarted", "ReplicaLoaded", "ReplicaReserved")
    assert set(seen.values()) == {1}, seen


async def test_two_models_that_do_not_fit_together_end_with_at_most_one_eviction_a_load(field: Cluster) -> None:
    selector = {"tier": "fast"}
    for name in ("a", "b"):
        await field.declare(name, backend="echo", vram="9GiB", node_selector=selector, options={"delay_ms": 5})
    models = [("a", "b")[number % 2] for number in range(24)]
    results = await asyncio.gather(*(field.chat(model) for model in models))
    ends = Counter(status if status == 200 else answer["error"]["code"] for status, answer in results)
    assert set(ends) <= {200, "capacity_exhausted", "loading"}, ends
    assert ends[200] >= 2, "each is served at least once"
    seen = await counts(field, "ReplicaEvicted", "ReplicaReserved")
    assert seen["ReplicaEvicted"] <= seen["ReplicaReserved"], seen


async def test_the_incident(field: Cluster) -> None:
    """Loaded on both boards, the selector then leaves one out: requests go to the other and nowhere else, and end."""
    await field.declare("qwen3-8b", backend="echo", vram="9GiB", replicas="all", options={"delay_ms": 400})
    loaded = await field.until(
        "/api/replicas", lambda replicas: len([one for one in replicas if one["phase"] == "loaded"]) == 2
    )
    assert {one["node"] for one in loaded} == {"agx-orin-slow", "nvidia-thor"}
    status, answer = await field.ask(
        "POST", "/api/nodes/scheduling", {"model_name": "qwen3-8b", "node_selector": {"tier": "fast"}}
    )
    assert status == 200, answer
    nodes: list[str] = []

    async def ask() -> int:
        body = {"model": "qwen3-8b", "messages": [{"role": "user", "content": "hi"}]}
        async with field.http.post("/v1/chat/completions", json=body) as reply:
            nodes.append(reply.headers["X-Interlock-Node"])
            return reply.status

    assert await asyncio.gather(*(ask() for _ in range(6))) == [200] * 6
    assert set(nodes) == {"nvidia-thor"}
    await field.until("/api/replicas", lambda replicas: {one["node"] for one in replicas} == {"nvidia-thor"})
    seen = await counts(field, "ReplicaEvicted", "ReplicaReserved", "RequestRefused", "RequestQueued")
    assert seen["ReplicaEvicted"] == seen["RequestRefused"] == 0
    assert seen["ReplicaReserved"] == 2, "no further copy was tried"
    assert seen["RequestQueued"] <= 12, "each waits for a release, and does not loop"


async def test_a_floor_without_load_info_parks_and_loads_by_itself_once_it_is_known(field: Cluster) -> None:
    await field.declare("never-served", vram="1GiB", min_replicas=1)
    parked = await field.until("/api/models/never-served", lambda model: model["parked"] != "")
    assert (parked["parked"], parked["lacks"]) == ("load_info_missing", "load info")
    await field.ask("POST", "/api/nodes/nvidia-thor/labels", {"a": "b"})
    await field.ask("POST", "/api/nodes/nvidia-thor/labels", {"a": "c"})
    seen = await counts(field, "ModelParked", "BackendInstallRequested", "ReplicaReserved")
    assert seen == {"ModelParked": 1, "BackendInstallRequested": 0, "ReplicaReserved": 0}
    await field.declare("never-served", backend="echo", vram="1GiB", min_replicas=1)
    await field.until("/api/models/never-served", lambda model: model["loaded"] == 1 and model["parked"] == "")
    assert (await field.chat("never-served"))[0] == 200


async def test_a_failed_load_says_why_in_the_backend_s_own_words(field: Cluster) -> None:
    options: dict[str, Any] = {"fail": "load", "message": "CUDA out of memory"}
    await field.declare("broken", backend="echo", vram="1GiB", options=options)
    status, answer = await field.chat("broken")
    assert status == 502, answer
    assert answer["error"]["code"] == "load_failed"
    assert "CUDA out of memory" in answer["error"]["message"]


async def test_a_finished_request_is_answered_from_the_log_and_the_feed_shows_its_events(field: Cluster) -> None:
    feed = await field.http.get("/events", params={"after": "0"})
    await field.declare("m", backend="echo", vram="1GiB")
    assert (await field.chat("m", headers={"X-Request-Id": "mine-1"}))[0] == 200
    released = (await field.events("ReplicaReleased"))[0]
    _, view = await field.ask("GET", f"/api/requests/{released['data']['request']}")
    assert (view["status"], view["outcome"], view["model"]) == ("ended", "served", "m")
    async with asyncio.timeout(10):
        async for line in feed.content:
            if line.strip() == b"event: ReplicaReleased":
                break
    feed.close()
    status, _ = await field.ask("GET", "/api/requests/never-was")
    assert status == 404


async def test_chats_that_share_a_long_system_prompt_go_to_one_of_two_real_backends(field: Cluster) -> None:
    await field.declare("chat", backend="echo", vram="9GiB", replicas="all", parallel=8)
    await field.until("/api/replicas", lambda found: len([one for one in found if one["phase"] == "loaded"]) == 2)
    rules = {"role": "system", "content": "Set no conflicting route. " * 80}
    for number in range(4):
        messages = [rules, {"role": "user", "content": f"word-{number}"}]
        status, _ = await field.ask("POST", "/v1/chat/completions", {"model": "chat", "messages": messages})
        assert status == 200
    locks = [row["data"] for row in await field.events("ReplicaLocked")]
    assert len({lock["node"] for lock in locks}) == 1
    assert all("conflicting" not in str(lock) for lock in locks), "the log holds hashes, and nothing of the prompt"
    _, told = await field.ask("GET", f"/api/audit/why/{locks[-1]['request']}")
    assert "it holds 8 of 8 blocks of its prompt" in str(told)
