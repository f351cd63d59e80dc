"""``bench gateway``: a request through a whole cluster, HTTP → lock → gRPC → release, beside its backend called alone.

The cluster is ``interlock up`` with one worker, in processes of its own, and its store waits for the disk. Both sides
ask the same backend process for the same short text, in turns, from this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp

from interlock.adapters.grpc.calls import ChatMessage, Generation
from interlock.adapters.grpc.client import BackendClient
from interlock.adapters.runtime.folder import read_endpoint
from interlock.domain.errors import InvariantBroken

from .report import Row, Scale, Tell, median, percentile, row
from .servers import running

AT_ONCE = (1, 64)
_LOAD_S, _LOOK_S = 60.0, 0.05
_CALLS = 2_000
_MODEL, _TEXT = "bench", "What does this cost?"
_BODY = {"model": _MODEL, "messages": [{"role": "user", "content": _TEXT}]}
_WANTED = Generation(messages=(ChatMessage(role="user", content=_TEXT),))

Call = Callable[[], Awaitable[None]]


def measure(scale: Scale, tell: Tell) -> list[Row]:
    """Added latency and requests a second, one at a time and many at once."""
    with tempfile.TemporaryDirectory(prefix="interlock-bench-gateway-") as folder:
        tell("gateway: starting a cluster")
        with _cluster(Path(folder), scale.store) as url:
            return asyncio.run(_measure(url, scale, tell))


@contextlib.contextmanager
def _cluster(folder: Path, store: str) -> Iterator[str]:
    """The address of a cluster that runs until the block is left; raises Unavailable when it does not start."""
    command = [sys.executable, "-m", "interlock.adapters.cli", "up", "--workers", "1", "--http", "127.0.0.1:0"]
    command += ["--data", str(folder / "data"), "--log-level", "warning", *(("--store", store) if store else ())]
    ours = {name: value for name, value in os.environ.items() if not name.startswith("INTERLOCK_")}

    def endpoint() -> str | None:
        found = read_endpoint(folder / "data")
        return found.url if found is not None else None

    with running("the cluster", command, folder / "up.log", endpoint, env=ours) as url:
        yield url


async def _measure(url: str, scale: Scale, tell: Tell) -> list[Row]:
    connector = aiohttp.TCPConnector(limit=0)
    backends = BackendClient()
    try:
        async with aiohttp.ClientSession(url, connector=connector) as http:
            replica = await _loaded(http)

            async def through() -> None:
                async with http.post("/v1/chat/completions", json=_BODY) as answer:
                    body = await answer.read()
                    if answer.status != 200:
                        raise InvariantBroken(f"The benchmark expected an answer and got {body[:200]!r}.")

            async def direct() -> None:
                await backends.predict(replica["address"], _MODEL, _WANTED, replica=replica["id"])

            rows: list[Row] = []
            for at_once in AT_ONCE:
                tell(f"gateway: {at_once} at once")
                rows += await _beside(through, direct, at_once, scale)
            return rows
    finally:
        await backends.close()


async def _loaded(http: aiohttp.ClientSession) -> dict[str, Any]:
    """The one replica of the model that is measured with, once it is loaded."""
    table = {"name": _MODEL, "backend": "echo", "vram": "1MiB", "parallel": 0, "min_replicas": 1, "max_replicas": 1}
    async with http.post("/api/models", json=table) as answer:
        answer.raise_for_status()
    async with asyncio.timeout(_LOAD_S):
        while True:
            async with http.get("/api/replicas") as answer:
                replicas: list[dict[str, Any]] = await answer.json()
            for replica in replicas:
                if (replica["model"], replica["phase"]) == (_MODEL, "loaded"):
                    return replica
            await asyncio.sleep(_LOOK_S)


async def _beside(through: Call, direct: Call, at_once: int, scale: Scale) -> list[Row]:
    """The rows of one concurrency; the two sides take turns, so that both meet the machine in the same state."""
    calls = scale.of(_CALLS, 2 * at_once)
    for call in (through, direct):
        await _timed(call, at_once, 2 * at_once)  # connections are made, and code is warm
    ours, theirs = [], []
    for _ in range(scale.runs):
        ours.append(await _timed(through, at_once, calls))
        theirs.append(await _timed(direct, at_once, calls))
    added = [
        1_000 * (percentile(mine, 0.5) - percentile(other, 0.5))
        for (mine, _), (other, _) in zip(ours, theirs, strict=True)
    ]
    rows = []
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        limit = median([1_000 * percentile(samples, share) for samples, _ in theirs])
        rows.append(
            row(f"{at_once} at once, {name}", [1_000 * percentile(s, share) for s, _ in ours], "ms", limit=limit)
        )
    if at_once == 1:
        rows.append(row("1 at once, added p50", added, "ms", bar="≤ 3 ms", holds=lambda value, _: value <= 3.0))
    else:
        rows.append(row(f"{at_once} at once, added p50", added, "ms"))
    rates = [rate for _, rate in ours]
    rows.append(row(f"{at_once} at once", rates, "requests/s", limit=median([rate for _, rate in theirs])))
    return rows


async def _timed(call: Call, at_once: int, calls: int) -> tuple[list[float], float]:
    """How long each of the calls took, in seconds, and how many there were a second."""
    samples: list[float] = []
    left = calls

    async def in_turn() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            begun = time.perf_counter()
            await call()
            samples.append(time.perf_counter() - begun)

    began = time.perf_counter()
    await asyncio.gather(*(in_turn() for _ in range(at_once)))
    return samples, len(samples) / (time.perf_counter() - began)
