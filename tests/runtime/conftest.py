"""Seats in memory, stopped at the end of each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.runtime.rig import Rig


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
