"""``up``: the whole cluster as real processes; what it serves, how it ends, and what is left when it is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from interlock.adapters.store import SqliteStore
from interlock.domain.codec import decode_event
from interlock.domain.events import ReplicaReleased, RequestCancelled
from tests.runtime.clusters import Cluster

Make = Callable[..., Cluster]
STOP_LIMIT_S = 12


async def embed(cluster: Cluster, text: str) -> list[float]:
    """One vector from the built-in model."""
    status, answer = await cluster.ask("POST", "/v1/embeddings", {"model": "embeddings", "input": text})
    assert status == 200, answer
    vector: list[float] = answer["data"][0]["embedding"]
    return vector


async def test_up_serves_real_vectors_and_ctrl_c_leaves_nothing(make_cluster: Make) -> None:
    cluster = await make_cluster().start()
    vectors = [await embed(cluster, text) for text in ("a cat sleeps", "a kitten naps", "tax law of 1998")]
    near, far = (sum(a * b for a, b in zip(vectors[0], other, strict=True)) for other in vectors[1:])
    assert near > far
    assert (await cluster.chat("echo", "hello there"))[1]["choices"][0]["message"]["content"] == "hello there"
    _, nodes = await cluster.ask("GET", "/api/nodes")
    assert {node["name"]: node["labels"]["tier"] for node in nodes} == {"orin": "slow", "thor": "fast"}
    endpoint = cluster.data / "endpoint.json"
    assert stat.S_IMODE(endpoint.stat().st_mode) == 0o600
    _, alive = await cluster.ask("GET", "/livez")
    url = f"http://127.0.0.1:{cluster.port}"
    assert json.loads(endpoint.read_text()) == {"url": url, "pid": cluster.process.pid, "run": alive["run"]}
    assert len(cluster.remember()) >= 6, "up, a broker, two workers, two backends"
    assert await cluster.stop() == 0
    await cluster.expect_gone()
    assert cluster.process.stdout is not None
    said = cluster.process.stdout.read().decode()
    assert f"http://127.0.0.1:{cluster.port}" in said
    assert said.count("\n  ") == 3
    assert not endpoint.exists()
    assert not list(cluster.data.glob("*.lock")) + list(cluster.data.glob("*.lease"))
    assert "Traceback" not in cluster.log()


async def _refused_until_it_is_gone(cluster: Cluster) -> list[tuple[int, Any, str]]:
    """What those are told who come while the cluster stops."""
    told: list[tuple[int, Any, str]] = []
    async with asyncio.timeout(STOP_LIMIT_S):
        while True:
            try:
                body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
                async with cluster.http.post("/v1/chat/completions", json=body) as answer:
                    told.append((answer.status, await answer.json(), answer.headers.get("Retry-After", "")))
            except aiohttp.ClientError:
                return told
            await asyncio.sleep(0.1)


async def test_ctrl_c_answers_everybody_who_is_there(make_cluster: Make, tmp_path: Path) -> None:
    (tmp_path / "short.toml").write_text('[gateway]\ndrain_limit = "3s"\n')
    cluster = await make_cluster(workers="1", config=str(tmp_path / "short.toml")).start()
    for name, delay_ms in (("slow", 1_500), ("endless", 600_000)):
        await cluster.declare(name, backend="echo", vram="1MiB", max_replicas=1, options={"delay_ms": delay_ms})
    assert (await cluster.chat("slow", "warm up"))[0] == 200
    endless = asyncio.create_task(cluster.chat("endless"))
    await cluster.until("/api/requests", lambda rows: [row["status"] for row in rows] == ["locked"])
    slow = asyncio.create_task(cluster.chat("slow", "last words"))
    await cluster.until("/api/requests", lambda rows: len(rows) == 2 and {row["status"] for row in rows} == {"locked"})
    waiting = asyncio.create_task(cluster.chat("slow"))
    await cluster.until("/api/requests", lambda rows: len(rows) == 3)
    cluster.remember()
    os.killpg(cluster.process.pid, signal.SIGINT)
    status, answer = await asyncio.wait_for(waiting, 2)
    assert (status, answer["error"]["type"], answer["error"]["code"]) == (503, "unavailable", "gateway_stops")
    told = await _refused_until_it_is_gone(cluster)
    assert told
    assert {(status, answer["error"]["code"], after) for status, answer, after in told} == {(503, "gateway_stops", "1")}
    assert (await slow)[1]["choices"][0]["message"]["content"] == "last words"
    assert (await endless)[1]["error"]["code"] == "gateway_stops"
    assert await asyncio.wait_for(asyncio.to_thread(cluster.process.wait), STOP_LIMIT_S) == 0
    await cluster.expect_gone()
    assert "Traceback" not in cluster.log()
    store = SqliteStore(cluster.data / "events.db", read_only=True)
    ends = [decode_event(row.topic, row.state) for row in store.read(0)]
    store.close()
    assert [event.reason for event in ends if isinstance(event, RequestCancelled)] == ["the gateway stopped"]
    released = [(event.model, event.outcome, event.detail) for event in ends if isinstance(event, ReplicaReleased)]
    assert released[1:] == [("slow", "served", ""), ("endless", "cancelled", "the gateway stopped")]


async def test_a_broker_that_dies_is_started_again_and_cold_models_load(make_cluster: Make) -> None:
    cluster = await make_cluster().start()
    (broker,) = (process for process in cluster.remember() if process.name() == "nats-server")
    broker.kill()
    status, answer = await cluster.chat("echo", "hello again")
    assert status == 200, answer
    assert broker.pid not in {process.pid for process in cluster.remember() if process.name() == "nats-server"}
    assert "the broker ended" in cluster.log()
    assert await cluster.stop() == 0
    await cluster.expect_gone()


async def test_after_kill_9_of_everything_up_works_again(make_cluster: Make) -> None:
    cluster = await make_cluster().start()
    await embed(cluster, "before")
    cluster.kill_all()
    await cluster.ended()
    again = await make_cluster().start()
    assert len(await embed(again, "after")) == 256
    await cluster.expect_gone()
    assert await again.stop() == 0
    await again.expect_gone()


async def test_after_kill_9_of_the_control_plane_alone_orphans_are_stopped(make_cluster: Make) -> None:
    cluster = await make_cluster().start()
    await embed(cluster, "before")
    cluster.remember()
    cluster.process.kill()
    again = await make_cluster().start()
    assert len(await embed(again, "after")) == 256
    await cluster.expect_gone()
    assert await again.stop() == 0


async def test_a_worker_that_dies_comes_back_and_its_requests_are_served(make_cluster: Make) -> None:
    cluster = await make_cluster(workers="1").start()
    await embed(cluster, "before")
    worker = next(one for one in cluster.remember() if "--name" in one.cmdline() and "orin" in one.cmdline())
    worker.kill()
    await cluster.until("/api/replicas", lambda replicas: all(one["phase"] != "loaded" for one in replicas), 40)
    status = 503
    async with asyncio.timeout(30):
        while status != 200:
            status, _ = await cluster.chat("echo")
    assert len(await embed(cluster, "after")) == 256


async def test_a_model_that_an_operator_removed_stays_removed(make_cluster: Make) -> None:
    cluster = await make_cluster(workers="0").start()
    assert (await cluster.ask("DELETE", "/api/models/echo"))[0] in (200, 204)
    await cluster.declare("embeddings", backend="embeddings", vram="64MiB", parallel=3)
    await cluster.stop()
    again = await make_cluster(workers="0").start()
    _, models = await again.ask("GET", "/api/models")
    assert [(model["name"], model["parallel"]) for model in models] == [("embeddings", 3)]


async def expect_refusal(cluster: Cluster, words: str, code: int = 3, **more: Any) -> None:
    """It ends by itself with that status, with these words and no traceback, and leaves nothing running."""
    cluster.launch(**more)
    cluster.remember()
    assert await cluster.ended() == code, cluster.log()[-2000:]
    assert words in cluster.log()
    assert "Traceback" not in cluster.log()
    await cluster.expect_gone()


async def test_a_second_up_on_the_same_folder_is_refused(make_cluster: Make) -> None:
    first = await make_cluster(workers="0").start()
    await expect_refusal(make_cluster(workers="0"), "runs in")
    assert (await first.ask("GET", "/readyz"))[0] == 200
    assert (first.data / "endpoint.json").exists()


async def test_a_port_in_use_is_refused(make_cluster: Make) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        await expect_refusal(make_cluster(http=f"127.0.0.1:{taken.getsockname()[1]}", workers="0"), "listens on")


async def test_a_folder_that_cannot_be_written_is_refused(make_cluster: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    await expect_refusal(make_cluster(workers="0"), "cannot be written", data=str(tmp_path / "file" / "data"))


async def test_a_database_that_is_down_is_refused(make_cluster: Make) -> None:
    await expect_refusal(make_cluster(store="postgresql://nobody@127.0.0.1:1/none", workers="0"), "error:")


async def test_a_broker_that_is_down_is_refused(make_cluster: Make) -> None:
    await expect_refusal(make_cluster(nats="nats://127.0.0.1:1", workers="0"), "no NATS broker")


async def test_a_full_disk_is_refused(make_cluster: Make) -> None:
    await expect_refusal(make_cluster(file_limit=20_000, workers="0"), "error:")


async def test_wrong_settings_are_refused_by_name(make_cluster: Make) -> None:
    await expect_refusal(make_cluster(http="nonsense", workers="0"), "http", code=2)


async def test_settings_that_the_cluster_would_not_take_are_refused_by_name(make_cluster: Make, tmp_path: Path) -> None:
    (tmp_path / "near.toml").write_text('min_residency = "2m"\nplacement = "near"\n')
    await expect_refusal(
        make_cluster(config=str(tmp_path / "near.toml")),
        "error: placement: no placement profile is named 'near'",
        code=2,
    )


async def test_sigterm_while_it_starts_leaves_nothing(make_cluster: Make) -> None:
    cluster = make_cluster().launch()
    while not (cluster.data / "nats").exists():
        assert cluster.process.poll() is None, cluster.log()
        await asyncio.sleep(0.01)
    cluster.remember()
    os.killpg(cluster.process.pid, signal.SIGTERM)
    assert await cluster.ended() == 0, cluster.log()[-2000:]
    await cluster.expect_gone()
