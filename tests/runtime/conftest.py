"""Seats in memory and whole clusters, stopped at the end of each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.clusters import Cluster
from tests.runtime.rig import Rig
from tests.store.conftest import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]


@pytest.fixture
async def make_rig() -> AsyncIterator[Callable[..., Rig]]:
    """Makes rigs; all are stopped afterwards."""
    made: list[Rig] = []

    def make(*arguments: Any, **settings: Any) -> Rig:
        made.append(Rig(*arguments, **settings))
        return made[-1]

    yield make
    for rig in made:
        await rig.stop()


@pytest.fixture
async def rig(make_rig: Callable[..., Rig]) -> Rig:
    """A seat that leads, with one node and one model of no limit in parallel."""
    one = await make_rig().lead()
    await one.node("thor")
    await one.model("m")
    return one


@pytest.fixture
async def make_cluster(tmp_path: Path) -> AsyncIterator[Callable[..., Cluster]]:
    """Makes clusters on one data folder; nothing of them is left afterwards."""
    made: list[Cluster] = []

    def make(**options: Any) -> Cluster:
        made.append(Cluster(tmp_path / "data", **options))
        return made[-1]

    yield make
    for cluster in made:
        await cluster.close()
