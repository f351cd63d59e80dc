"""``serve``: several on one PostgreSQL and one broker; one leads, the others are warm, and nobody notices."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from interlock.adapters.nats.broker import Broker
from tests.runtime.clusters import Cluster

pytestmark = pytest.mark.xdist_group("postgres")

Serve = Callable[[str], Cluster]


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    """The broker of one test."""
    made = Broker(tmp_path / "nats")
    yield made
    await made.stop()


@pytest.fixture
async def serve(tmp_path: Path, postgres_url: str, broker: Broker) -> AsyncIterator[Serve]:
    """Makes ``serve`` processes on one database and one broker."""
    nats = await broker.start()
    host = nats.url.removeprefix("nats://")
    url = f"nats://{nats.user}:{nats.password}@{host}"
    made: list[Cluster] = []

    def make(name: str) -> Cluster:
        made.append(Cluster(tmp_path / name, "serve", store=postgres_url, nats=url))
        return made[-1]

    yield make
    for cluster in made:
        await cluster.close()


async def leader_of(clusters: list[Cluster]) -> Cluster:
    """The one that leads, by its own figures."""
    async with asyncio.timeout(20):
        while True:
            for cluster in clusters:
                async with cluster.http.get("/metrics") as answer:
                    if "interlock_leader 1" in await answer.text():
                        return cluster
            await asyncio.sleep(0.05)


async def test_a_standby_passes_on_what_it_is_asked_and_takes_over_when_the_leader_is_killed(serve: Serve) -> None:
    pair = [await serve(name).start() for name in ("one", "two")]
    leader = await leader_of(pair)
    standby = next(one for one in pair if one is not leader)
    await standby.declare("m", backend="echo", vram="1GiB")
    assert [model["name"] for model in (await standby.ask("GET", "/api/models"))[1]] == ["m"]
    status, answer = await standby.chat("m")
    assert (status, answer["error"]["code"]) == (422, "no_node_matches")
    change = {
        "nodes": [{"name": "h100", "vram": "80GiB"}],
        "models": [{"name": "m", "backend": "echo", "vram": "1GiB"}],
    }
    plans = [(await one.ask("POST", "/api/plan", change))[1] for one in (standby, leader)]
    assert [[(line["node"], line["outcome"]) for line in plan["on_demand"]] for plan in plans] == [
        [("h100", "load")]
    ] * 2
    assert plans[0]["position"] == plans[1]["position"]
    leader.process.send_signal(signal.SIGKILL)
    await leader.ended()
    assert await leader_of([standby]) is standby
    await standby.ready()
    status, answer = await standby.chat("m")
    assert (status, answer["error"]["code"]) == (422, "no_node_matches")
    assert len(await standby.events("EpochStarted")) == 2
    assert await standby.stop() == 0
    await standby.expect_gone()
    assert "Traceback" not in standby.log() + leader.log()


async def test_a_clean_stop_hands_over_at_once(serve: Serve) -> None:
    pair = [await serve(name).start() for name in ("one", "two")]
    leader = await leader_of(pair)
    standby = next(one for one in pair if one is not leader)
    assert await leader.stop() == 0
    stopped_at = asyncio.get_running_loop().time()
    await leader_of([standby])
    assert asyncio.get_running_loop().time() - stopped_at < 2.0, "the lease of three seconds was not given back"


async def test_without_the_broker_a_standby_says_that_no_writer_answers_and_is_not_ready(
    serve: Serve, broker: Broker
) -> None:
    pair = [await serve(name).start() for name in ("one", "two")]
    leader = await leader_of(pair)
    standby = next(one for one in pair if one is not leader)
    await standby.declare("m", backend="echo", vram="1GiB")
    await broker.stop()
    async with asyncio.timeout(20):  # twice writer_patience, which is ten seconds
        status, answer = await standby.chat("m")
        assert (status, answer["error"]["code"]) == (503, "no_writer")
        status, answer = await standby.ask("GET", "/readyz")
        assert (status, "broker" in str(answer)) == (503, True)
    assert (await leader.chat("m"))[1]["error"]["code"] == "no_node_matches", "who leads needs no broker for that"


async def test_serve_needs_a_broker(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "data", "serve").launch()
    try:
        assert await cluster.ended() == 2
        assert "--nats" in cluster.log()
    finally:
        await cluster.close()
