"""A plan on clusters of real processes: the command line asks it, it changes nothing, and then it comes true."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.runtime.clusters import Cluster

Make = Callable[..., Cluster]

MODELS = """
[[models]]
name = "kept"
backend = "echo"
vram = "1GiB"
min_replicas = 1
node_selector = { tier = "fast" }
"""
DRAIN = '\n[[nodes]]\nname = "thor"\ndrain = true\n'


async def interlock(cluster: Cluster, *arguments: str, status: int = 0) -> Any:
    """One command line on the cluster's data folder; its JSON."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INTERLOCK_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "interlock.adapters.cli", *arguments, "--json", "--data", str(cluster.data),
        stdout=asyncio.subprocess.PIPE, cwd=cluster.data.parent, env=environment,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == status, out
    return json.loads(out)


async def test_what_is_planned_on_a_running_cluster_changes_nothing_and_then_comes_true(
    make_cluster: Make, tmp_path: Path
) -> None:
    cluster = await make_cluster().start()
    file = tmp_path / "models.toml"
    file.write_text(MODELS)
    told = await interlock(cluster, "plan", str(file))
    assert [(line["model"], line["node"]) for line in told["placed"]] == [("kept", "thor")]
    assert "kept" not in {model["name"] for model in (await cluster.ask("GET", "/api/models"))[1]}
    await interlock(cluster, "models", "apply", str(file))
    replicas = await cluster.until("/api/replicas", lambda rows: any(row["phase"] == "loaded" for row in rows))
    assert [(row["model"], row["node"]) for row in replicas] == [("kept", "thor")]
    file.write_text(MODELS + DRAIN)
    told = await interlock(cluster, "plan", str(file), status=1)
    assert [(line["model"], line["reason"]) for line in told["unloaded"]] == [("kept", "drain")]
    assert [(line["model"], line["missing"], line["reason"]) for line in told["parked"]] == [
        ("kept", 1, "capacity_exhausted")
    ]
    assert [line["why"] for line in told["changed"]] == ["is drained"]
    assert (await cluster.ask("GET", "/api/nodes/thor"))[1]["status"] == "healthy"
    assert await cluster.stop() == 0
