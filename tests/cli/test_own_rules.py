"""The audit and a plan on the log judge nodes with the scheduler's own rules, and say so where those are missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from interlock.adapters.store import SqliteStore
from interlock.domain import commands as cmd
from interlock.domain.own_rules import RULES, Filter
from tests.cli.conftest import Shell
from tests.domain.cluster import Cluster

ONE_MORE = '[[models]]\nname = "more"\nbackend = "echo"\nvram = "1GiB"\nmin_replicas = 1\n'


@pytest.fixture
def rule() -> Iterator[str]:
    """A rule of this process that keeps every model off every node."""
    RULES.add("nowhere", Filter(lambda model, node: False))
    yield "nowhere"
    RULES.remove("nowhere")


@pytest.fixture
def log(tmp_path: Path, rule: str) -> str:
    """The store of a cluster with that rule, and a file with a change to it."""
    cluster = Cluster()
    cluster.send(cmd.StartEpoch(epoch=1, writer="w"))
    cluster.node("n")
    cluster.send(cmd.ChangeSettings(values={"placement_profiles": f"none: only {rule}", "placement": "none"}))
    cluster.model("m")
    cluster.model("idle")
    cluster.model("kept", min_replicas=1)
    cluster.wait(60)
    cluster.request("q", "m")
    store = SqliteStore(tmp_path / "events.db", durable=False)
    store.append(cluster.log, store.take_epoch("w", 1))
    store.close()
    (tmp_path / "change.toml").write_text(ONE_MORE)
    return f"sqlite:///{tmp_path / 'events.db'}"


def package(folder: Path) -> str:
    """A path for Python with a package installed in it that brings the rule."""
    info = folder / "site" / "guest-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guest\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[interlock.placement]\nnowhere = guest:nowhere\n")
    rule = "from interlock.domain.own_rules import Filter\nnowhere = Filter(lambda model, node: False)\n"
    (folder / "site" / "guest.py").write_text(rule)
    return os.pathsep.join([str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])


def test_where_the_rules_are_installed_why_and_plan_and_whatif_judge_with_them(interlock: Shell, log: str) -> None:
    with_rules = package(interlock.folder)
    told = interlock("audit", "why", "model:idle", "--store", log, PYTHONPATH=with_rules).out
    assert "idle has no copy. A request would wait" in told
    told = interlock("audit", "why", "model:kept", "--store", log, PYTHONPATH=with_rules).out
    assert "is parked until a node passes its placement profile's own filter." in told
    planned = interlock("plan", "change.toml", "--store", log, PYTHONPATH=with_rules, status=1).out
    assert "does not pass the filter nowhere" in planned
    interlock("audit", "whatif", "--from", "1", "--set", "min_residency=1s", "--store", log, PYTHONPATH=with_rules)


def test_where_they_are_not_nothing_is_guessed_and_the_missing_rule_is_named(interlock: Shell, log: str) -> None:
    told = interlock("audit", "why", "model:idle", "--store", log).out
    assert "its placement profile none asks nowhere, not installed here" in told
    assert "The first request loads it" not in told
    told = interlock("audit", "why", "model:kept", "--store", log).out
    assert "What is in its way cannot be told here: its placement profile none asks nowhere, not installed here" in told
    planned = interlock("plan", "change.toml", "--store", log, status=2)
    assert "would be wrong without the placement rule nowhere: not installed here" in planned.err
    again = interlock("audit", "whatif", "--from", "1", "--set", "min_residency=1s", "--store", log, status=2)
    assert "without the placement rule nowhere" in again.err
