"""For every setting, key, fault kind and administrative action: two runs that differ in nothing else.

To add one, write a row with its key as ``test_every_key.py`` names it, the change that gives it one value, the one that
gives it another, and in ``setup`` the world in which that matters.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

from msgspec.structs import replace

from tests.simulation.worlds import Change, Row, effects, explored, told

LONG: Change = {"requests.0.service_time": "1m"}
ONE_NODE: Change = {"nodes": [{"name": "a", "vram": "24GiB"}]}
FLOOR: Change = {"models.0.min_replicas": 1}
TWO_COPIES: Change = {
    "models.0.max_replicas": 2,
    "replicas": [{"model": "m", "node": "a"}, {"model": "m", "node": "b"}],
    "scheduler.scale_down_delay": "20s",
    "requests.0.count": 1,
}
RIVALS: Change = {
    **ONE_NODE,
    "requests": [{"model": "m", "at": "1s"}, {"model": "large", "at": "12s"}, {"model": "m", "at": "60s"}],
}
"""Two models that do not fit beside each other, on one node."""
TURNS: Change = {
    **ONE_NODE,
    "nodes.0.load_rate": "8GiB/s",
    "scheduler.min_residency": "5s",
    "requests": [
        {"model": name, "at": at, "count": 12, "every": "24s", "service_time": "500ms"}
        for name, at in (("m", "1s"), ("large", "13s"))
    ],
}
"""The same two in turns, so that each evicts the other every time."""
SWEEP: Change = {
    **ONE_NODE,
    "models": [
        {"name": name, "backend": "x", "vram": vram, "service_time": "500ms"}
        for name, vram in (("m", "9GiB"), ("b", "10GiB"), ("c", "10GiB"))
    ],
    "requests": [
        {"model": "m", "at": "1s", "count": 30, "every": "4s"},
        {"model": "b", "at": "1m"},
        {"model": "c", "at": "2m"},
    ],
}
"""A small popular model, and two large ones that are asked for once."""
ONE_LEAVES: Change = {
    "nodes": [{"name": name, "vram": "24GiB", "unload_time": "20s"} for name in ("a", "b")],
    "models": [{"name": name, "backend": "x", "vram": "20GiB"} for name in ("old", "m", "new")],
    "replicas": [{"model": "old", "node": "a"}, {"model": "m", "node": "b"}],
    "admin": [{"at": "1s", "action": "remove-model", "model": "old"}],
    "requests": [{"model": "new", "at": "2s"}],
    "scheduler.min_residency": "0s",
}
"""A model is removed while a request waits for room, and another idle one could be evicted for it."""
CROWD: Change = {**ONE_NODE, "requests": [{"model": "m", "at": "1s", "count": 30, "every": "1s"}], **LONG}
"""Far more requests than the one replica can serve."""
SLOW: Change = {**ONE_NODE, "nodes.0.load_rate": "80MiB/s", "scheduler.load_silence": "30s"}
"""A load that takes 102 seconds."""
PAIR: Change = {
    **ONE_NODE,
    "requests": [
        {"model": "m", "at": "1s", "service_time": "30s"},
        {"model": "m", "at": "12s"},
        {"model": "m", "at": "13s"},
    ],
}
"""A request that runs, and two that wait behind it."""


def step(action: str, at: str = "30s", **keys: Any) -> Change:
    """One administrative step."""
    return {"admin": [{"at": at, "action": action, **keys}]}


def fault(kind: str, at: str = "15s", **keys: Any) -> Change:
    """One fault; ``for_`` is its length."""
    return {"faults": [{"kind": kind, "at": at, **{key.rstrip("_"): value for key, value in keys.items()}}]}


TENANTS: Change = {
    "models.0.parallel": 0,
    "tenants": [{"name": "t", "at_once": 9}],
    "requests": [
        {"model": "m", "at": "20s", "count": 12, "every": "3s", "service_time": "10s", "tenant": "t"},
        {"model": "m", "at": "1s"},
    ],
}
"""A tenant that has three or four requests at once, and sends one each three seconds."""
URGENT: Change = {
    **ONE_NODE,
    "tenants": [{"name": "t", "priority": 5}],
    "requests": [
        {"model": "m", "at": "1s", "service_time": "30s"},
        {"model": "m", "at": "12s", "priority": 1},
        {"model": "m", "at": "13s", "tenant": "t", "priority": 9},
    ],
}
"""A request that runs, one that waits, and one of a tenant that asks to go before it."""
DARK: Change = {
    "nodes": [{"name": name, "vram": "24GiB"} for name in ("a", "b", "c")],
    "models.1.min_replicas": 1,
    "requests.0.at": "5m",
    "requests.0.count": 1,
    "scheduler.offline_after": "30s",
    "faults": [{"kind": "partition", "at": "1m", "target": name, "for": "10m"} for name in ("a", "b")],
}
"""Two of three nodes are silent, one of them with the copy that a floor asks for."""
GROWS = step("set-scheduling", "20s", model="m", min_replicas=2)
"""A second copy is loaded, in the time of a fault."""
SQUEEZED: Change = {
    "nodes": [{"name": "a", "pools": ["24GiB", "1GiB"]}],
    "requests": [{"model": "m", "at": "1s"}, {"model": "large", "at": "50s", "deadline": "4m"}],
}
"""One node, and a model that comes late and needs nearly all of its first memory pool."""
CHATS: Change = {
    "models.0.parallel": 4,
    "models.0.prefill_time": "50ms",
    "models.0.prefix_cache": 100,
    "replicas": [{"model": "m", "node": "a"}, {"model": "m", "node": "b"}],
    "requests": [
        {"model": "m", "at": at, "count": 12, "every": "7s", "prompt": {rules: 16}}
        for at, rules in (("1s", "cook"), ("3s", "sail"), ("5s", "cook"))
    ],
}
"""Two kinds of prompts, and two replicas that could each hold one."""
GROUP: Change = {"nodes.0.vram": "48GiB", "models.1.anti_affinity": "g", "requests.1": {"model": "large", "at": "5s"}}
"""Two models that would both go to the larger node."""
UNEVEN: Change = {"nodes.0.vram": "48GiB", "nodes.1.vram": "12GiB"}
"""A node that most of is left of after one load, and one that is full with it."""

SETTINGS = [
    Row("scheduler.reconcile_interval", {"scheduler.reconcile_interval": "7s"},
        {"scheduler.reconcile_interval": "2m"},
        {**GROWS, **fault("drop-messages", "19s", target="b", p=1.0, for_="5s")}),
    Row("scheduler.min_residency", {"scheduler.min_residency": "0s"}, {"scheduler.min_residency": "1m"}, RIVALS),
    Row("scheduler.scale_down_delay", {"scheduler.scale_down_delay": "2m"}, setup=TWO_COPIES),
    Row("scheduler.idle_unload", {"scheduler.idle_unload": "30s"}),
    Row("scheduler.heartbeat_interval", {"scheduler.heartbeat_interval": "2s"}, {"scheduler.heartbeat_interval": "25s"},
        {**fault("partition", target="a", for_="3m"), "models.0.node_selector": {"node.name": "a"}}),
    Row("scheduler.unreachable_after", {"scheduler.unreachable_after": "2m"},
        setup={**fault("partition", target="a", for_="3m"), "requests.0.every": "1m", "requests.0.count": 2}),
    Row("scheduler.offline_after", {"scheduler.offline_after": "20s"},
        setup={**fault("partition", target="a", for_="5m"), **FLOOR}),
    Row("scheduler.mass_loss_share", {"scheduler.mass_loss_share": "off"}, setup=DARK),
    Row("scheduler.mass_loss_grace", {"scheduler.mass_loss_grace": "2m"}, setup=DARK),
    Row("scheduler.holder_lease", {"scheduler.holder_lease": "2m"}, setup={**fault("holder-crash"), **LONG}),
    Row("scheduler.writer_lease", {"scheduler.writer_lease": "30s"}, setup=fault("writer-crash")),
    Row("scheduler.request_deadline", {"scheduler.request_deadline": "10s"}, setup=CROWD),
    Row("scheduler.queue_limit", {"scheduler.queue_limit": 2}, setup=CROWD),
    Row("scheduler.model_queue_limit", {"scheduler.model_queue_limit": 2}, setup=CROWD),
    Row("scheduler.priority_ageing", {"scheduler.priority_ageing": "off"}, {"scheduler.priority_ageing": "1s"},
        {**PAIR, "requests.1.at": "3s", "requests.2.priority": 5}),
    Row("scheduler.tenant_limit", {"scheduler.tenant_limit": 2}, setup={**TENANTS, "tenants": []}),
    Row("scheduler.tenant_rate", {"scheduler.tenant_rate": "1/5s", "scheduler.tenant_burst": 1}, setup=TENANTS),
    Row("scheduler.tenant_burst", {"scheduler.tenant_burst": 1}, setup={**TENANTS, "scheduler.tenant_rate": "1/5s"}),
    Row("scheduler.tenant_priority", {"scheduler.tenant_priority": 5}, setup={**URGENT, "tenants": []}),
    Row("scheduler.load_silence", {"scheduler.load_silence": "20s"},
        setup=fault("load-hangs", "0s", model="m", for_="1m")),
    Row("scheduler.quiet_load_rate", {"scheduler.quiet_load_rate": "1GiB/s"},
        setup={**SLOW, "nodes.0.progress": False}),
    Row("scheduler.slowest_load_rate", {"scheduler.slowest_load_rate": "200MiB/s"},
        setup={**SLOW, "scheduler.quiet_load_rate": "1GiB/s"}),
    Row("scheduler.load_attempts", {"scheduler.load_attempts": 1},
        setup=fault("load-fails", "0s", model="m", for_="20s")),
    Row("scheduler.load_backoff", {"scheduler.load_backoff": "40s"},
        setup=fault("load-fails", "0s", model="m", for_="2s")),
    Row("scheduler.disk_margin", {"scheduler.disk_margin": "2GiB"},
        setup={**ONE_NODE, "nodes.0.disk": "9GiB", "models.0.disk": "8GiB"}),
    Row("scheduler.prefix_affinity", {"scheduler.prefix_affinity": "off"}, setup=CHATS),
    Row("scheduler.placement", {"scheduler.placement": "pack"}, setup=UNEVEN),
    Row("scheduler.placement_profiles", {"scheduler.placement_profiles": "mine: pack 1"},
        {"scheduler.placement_profiles": "mine: spread 1"}, {**UNEVEN, "scheduler.placement": "mine"}),
    Row("scheduler.recent_uses", {"scheduler.recent_uses": "off"}, setup=SWEEP),
    Row("scheduler.evictions_per_node", {"scheduler.evictions_per_node": 2}, setup=TURNS),
    Row("scheduler.eviction_window", {"scheduler.eviction_window": "20s"},
        setup={**TURNS, "scheduler.evictions_per_node": 2}),
    Row("scheduler.unload_patience", {"scheduler.unload_patience": "5s"}, setup=ONE_LEAVES),
    Row("scheduler.thrash_cycles", {"scheduler.thrash_cycles": 1}, {"scheduler.thrash_cycles": "off"}, TURNS),
    Row("scheduler.thrash_window", {"scheduler.thrash_window": "1s"},
        setup={**TURNS, "scheduler.thrash_cycles": 1, "scheduler.min_residency": "1s"}),
    Row("scheduler.longest_residency", {"scheduler.longest_residency": "10s"}, {"scheduler.longest_residency": "1m"},
        {**TURNS, "scheduler.thrash_cycles": 1}),
    Row("scheduler.growth_per_tick", {"scheduler.growth_per_tick": 2},
        setup={**CROWD, "models.0.max_replicas": 3, "nodes.0.max_replicas_per_model": 3}),
]  # fmt: skip

TOP = [
    Row("name", {"name": "another"}, look=told("scenario")),
    Row("description", {"description": "Of another day"}, look=lambda result: result.harness.scenario.description),
    Row("seed", {"seed": 7}, setup={"models.0.service_time": "exp 2s"}),
    Row("duration", {"duration": "1m"}),
]

NODES = [
    Row("nodes.name", {"nodes.0.name": "z"}),
    Row("nodes.labels", {"nodes.0.labels": {"tier": "x"}}, setup={"models.0.node_selector": {"tier": "x"}}),
    Row("nodes.vram", {"nodes.0.vram": "4GiB"}),
    Row("nodes.pools", {"nodes.0.vram": None, "nodes.0.pools": ["12GiB", "12GiB"]}, setup=RIVALS),
    Row("nodes.vram_budget", {"nodes.0.vram_budget": "25%"}),
    Row("nodes.ram", {"nodes.0.ram": "4GiB"}, {"nodes.0.ram": "9GiB"}, {"models.0.ram": "8GiB"}),
    Row(
        "nodes.unified",
        {"nodes.0.unified": True},
        {"nodes.0.ram": "24GiB", "nodes.0.vram": "24GiB"},
        {"models.0.vram": "14GiB", "models.0.ram": "14GiB"},
    ),
    Row("nodes.disk", {"nodes.0.disk": "1GiB"}, {"nodes.0.disk": "9GiB"}, {"models.0.disk": "8GiB"}),
    Row(
        "nodes.max_replicas_per_model",
        {"nodes.0.max_replicas_per_model": 2},
        setup={**CROWD, "models.0.max_replicas": 2},
    ),
    Row("nodes.load_rate", {"nodes.0.load_rate": "200MiB/s"}),
    Row("nodes.stage_rate", {"nodes.0.stage_rate": "200MiB/s"}, setup={"models.0.disk": "8GiB"}),
    Row("nodes.install_time", {"nodes.0.install_time": "9s"}),
    Row("nodes.unload_time", {"nodes.0.unload_time": "9s"}, setup=RIVALS),
    Row("nodes.progress", {"nodes.0.progress": False}, setup={**SLOW, "scheduler.quiet_load_rate": "1GiB/s"}),
    Row("nodes.approved", {"nodes.0.approved": False}),
    Row("nodes.up", {"nodes.0.up": False}),
]

MODELS = [
    Row("models.name", {"models.0.name": "another"}),
    Row("models.backend", {"models.0.backend": None}),
    Row("models.options", {"models.0.options": {"context": 4096}}, look=effects),
    Row("models.vram", {"models.0.vram": "12GiB"}),
    Row("models.ram", {"models.0.ram": "12GiB"}, {"models.0.ram": "8GiB"}, {"nodes.0.ram": "9GiB"}),
    Row("models.disk", {"models.0.disk": "8GiB"}, setup={"nodes.0.stage_rate": "1GiB/s"}),
    Row(
        "models.pools",
        {"models.0.pools": "any"},
        setup={"models.0.vram": "40GiB", "nodes.0.vram": None, "nodes.0.pools": ["24GiB", "24GiB"]},
    ),
    Row("models.aliases", {"models.0.aliases": ["chat"]}, setup={"requests.0.model": "chat"}),
    Row("models.prefill_time", {"models.0.prefill_time": "90ms"}, setup=CHATS),
    Row("models.prefix_cache", {"models.0.prefix_cache": 0}, setup=CHATS),
    Row("models.service_time", {"models.0.service_time": "5s"}),
]

SCHEDULING = [
    Row("models.node_selector", {"models.0.node_selector": {"node.name": "b"}}),
    Row("models.min_replicas", {"models.0.min_replicas": 2}),
    Row("models.max_replicas", {"models.0.max_replicas": 2}, setup=LONG),
    Row("models.replicas", {"models.0.replicas": "all"}),
    Row("models.parallel", {"models.0.parallel": 3}, setup=CROWD),
    Row("models.priority", {"models.0.priority": 1}, setup=RIVALS),
    Row("models.pinned", {"models.0.pinned": True}, setup=RIVALS),
    Row("models.idle_unload", {"models.0.idle_unload": "30s"}),
    Row("models.placement", {"models.0.placement": "pack"}, setup=UNEVEN),
    Row("models.prefix_affinity", {"models.0.prefix_affinity": "off"}, setup=CHATS),
    Row("models.anti_affinity", {"models.0.anti_affinity": "g"}, setup=GROUP),
    Row(
        "models.anti_affinity_hard",
        {"models.0.anti_affinity_hard": True},
        setup={**GROUP, "nodes": [{"name": "a", "vram": "48GiB"}], "models.0.anti_affinity": "g"},
    ),
]

REPLICAS = [
    Row("replicas.model", {"replicas.0.model": "large"}, setup={"replicas": [{"model": "m", "node": "a"}]}),
    Row("replicas.node", {"replicas.0.node": "b"}, setup={"replicas": [{"model": "m", "node": "a"}]}),
    Row("replicas.in_flight", {"replicas.0.in_flight": 1}, setup={"replicas": [{"model": "m", "node": "a"}]}),
    Row("replicas.busy_for", {"replicas.0.busy_for": "30s"},
        setup={"replicas": [{"model": "m", "node": "a", "in_flight": 1}]}),
    Row("replicas.evictable_in", {"replicas.0.evictable_in": "2m"}, {"replicas.0.evictable_in": "0s"},
        {"replicas": [{"model": "m", "node": "a"}]},
        look=lambda result: [event["data"].get("evictable_at") for event in result.events()]),
    Row("replicas.pools", {"replicas.0.pools": [1]}, {"replicas.0.pools": [0]},
        {"nodes.0.vram": None, "nodes.0.pools": ["12GiB", "16GiB"], "replicas": [{"model": "m", "node": "a"}]},
        look=lambda result: [replica.claim for replica in result.harness.engine.state.replicas.values()]),
]  # fmt: skip

REQUESTS = [
    Row("requests.model", {"requests.0.model": "large"}),
    Row("requests.at", {"requests.0.at": "9s"}),
    Row("requests.count", {"requests.0.count": 3}),
    Row("requests.every", {"requests.0.every": "7s"}),
    Row("requests.service_time", {"requests.0.service_time": "3s"}),
    Row("requests.deadline", {"requests.1.deadline": "5s"}, setup=PAIR),
    Row("requests.leaves_after", {"requests.1.leaves_after": "5s"}, setup=PAIR),
    Row("requests.prompt", {"requests.0.prompt": {"sail": 16}}, setup=CHATS),
    Row("requests.priority", {"requests.2.priority": 9}, setup=PAIR),
    Row("requests.tenant", {"requests.0.tenant": "u"}, setup={**TENANTS, "tenants.0.at_once": 2}),
    Row("tenants", {"tenants": []}, setup={**TENANTS, "tenants.0.at_once": 2}),
    Row("tenants.name", {"tenants.0.name": "u"}, setup={**TENANTS, "tenants.0.at_once": 2}),
    Row("tenants.at_once", {"tenants.0.at_once": 2}, setup=TENANTS),
    Row("tenants.rate", {"tenants.0.rate": "1/5s"}, setup={**TENANTS, "scheduler.tenant_burst": 1}),
    Row("tenants.burst", {"tenants.0.burst": 1}, setup={**TENANTS, "scheduler.tenant_rate": "1/5s"}),
    Row("tenants.priority", {"tenants.0.priority": 0}, setup=URGENT),
]

POISSON: Change = {"requests": [], "workloads": [{"kind": "poisson", "model": "m", "rate": "12/m"}]}
BUSY_POISSON: Change = {**POISSON, "workloads.0.rate": "60/m", "models.0.service_time": "5s"}
FIFTY_FIFTY: Change = {"workloads.0.model": None, "workloads.0.models": {"m": 1, "large": 1}}
ZIPF: Change = {**POISSON, "workloads.0.model": None, "workloads.0.zipf": {"models": 2, "s": 1.0}}
BURSTS: Change = {**POISSON, "workloads.0.bursts": {"every": "exp 1m", "length": "exp 30s", "factor": 6}}
TALK: Change = {**CHATS, "requests": [], "workloads": [{"kind": "conversations", "model": "m", "rate": "6/m"}]}
LINES = "".join(f'{{"at": "{second}s", "model": "m"}}\n' for second in range(1, 60, 9))
STAMPS = "".join(f'{{"timestamp": {second}500, "input_length": 9, "output_length": 9}}\n' for second in range(1, 60, 9))
TRACE: Change = {
    "requests": [],
    "workloads": [{"kind": "trace", "format": "jsonl", "path": "a.jsonl", "model": "m"}],
}
FILES = {"a.jsonl": LINES, "b.jsonl": LINES[: len(LINES) // 2 + 1].rpartition("{")[0], "stamps.jsonl": STAMPS}

WORKLOADS = [
    Row("workloads.kind", {"workloads.0": {"kind": "poisson", "rate": "12/m", "model": "m"}}, setup=TRACE, files=FILES),
    Row("workloads.model", {"workloads.0.model": "large"}, setup=POISSON),
    Row("workloads.models", FIFTY_FIFTY, setup=POISSON),
    Row("workloads.zipf", {"workloads.0.zipf": {"models": 2, "s": 1.0}, "workloads.0.model": None}, setup=POISSON),
    Row("workloads.zipf.models", {"workloads.0.zipf.models": 1}, setup=ZIPF),
    Row("workloads.zipf.s", {"workloads.0.zipf.s": 4.0}, setup=ZIPF),
    Row("workloads.rate", {"workloads.0.rate": "20/m"}, setup=POISSON),
    Row("workloads.from", {"workloads.0.from": "1m"}, setup=POISSON),
    Row("workloads.until", {"workloads.0.until": "2m"}, setup=POISSON),
    Row("workloads.service_time", {"workloads.0.service_time": "1s"}, setup=POISSON),
    Row("workloads.deadline", {"workloads.0.deadline": "3s"}, setup=BUSY_POISSON),
    Row("workloads.tenant", {"workloads.0.tenant": "t"}, setup={**POISSON, "scheduler.tenant_limit": 0}),
    Row("workloads.priority", {"workloads.0.priority": 1},
        setup={**BUSY_POISSON, "requests": [{"model": "m", "at": "10s", "count": 5}]}),
    Row("workloads.bursts", {"workloads.0.bursts": None}, setup=BURSTS),
    Row("workloads.bursts.every", {"workloads.0.bursts.every": "30s"}, setup=BURSTS),
    Row("workloads.bursts.length", {"workloads.0.bursts.length": "10s"}, setup=BURSTS),
    Row("workloads.bursts.factor", {"workloads.0.bursts.factor": 2}, setup=BURSTS),
    *(Row(f"workloads.{key}", {f"workloads.0.{key}": value}, setup=TALK)
      for key, value in {"systems": 1, "system_blocks": 2, "turns": 9, "turn_blocks": 30, "pause": "5s"}.items()),
    Row("workloads.path", {"workloads.0.path": "b.jsonl"}, setup=TRACE, files=FILES),
    Row("workloads.format", {"workloads.0.path": "stamps.jsonl", "workloads.0.format": "mooncake"}, setup=TRACE,
        files=FILES),
]  # fmt: skip

FAULTS = [
    Row("faults.at", {"faults.0.at": "40s"}, setup=fault("node-crash", target="a")),
    Row("faults.target", {"faults.0.target": "b"}, setup=fault("node-crash", target="a")),
    Row("faults.model", {"faults.0.model": "large"}, setup=fault("process-kill", model="m")),
    Row("faults.kind:node-crash", fault("node-crash", target="a", for_="20s")),
    Row("faults.node-crash.for", {"faults.0.for": "2m"}, setup=fault("node-crash", target="a")),
    Row("faults.kind:node-recover", {"faults.1": {"kind": "node-recover", "at": "40s", "target": "a"}},
        setup={"faults": [{"kind": "node-crash", "at": "15s", "target": "a", "for": "forever"}]}),
    Row("faults.kind:partition", fault("partition", target="a", for_="50s")),
    Row("faults.partition.for", {"faults.0.for": "2m"}, setup=fault("partition", target="a")),
    Row("faults.kind:heal", {"faults.1": {"kind": "heal", "at": "60s", "target": "a"}},
        setup={"faults": [{"kind": "partition", "at": "15s", "target": "a", "for": "forever"}]}),
    Row("faults.kind:process-kill", fault("process-kill", target="a")),
    Row("faults.kind:backend-dies", fault("backend-dies", "0s", model="m", for_="20s")),
    Row("faults.backend-dies.for", {"faults.0.for": "60s"}, setup=fault("backend-dies", "0s", model="m", for_="2s")),
    Row("faults.backend-dies.delay", {"faults.0.delay": "30s"},
        setup={**fault("backend-dies", "0s", model="m", delay="1s", for_="2m"), "models.0.min_replicas": 1,
               "requests": [{"model": "m", "at": "90s"}]}),
    Row("faults.kind:load-fails", fault("load-fails", "0s", model="m", for_="5s")),
    Row("faults.load-fails.for", {"faults.0.for": "20s"}, setup=fault("load-fails", "0s", model="m", for_="1s")),
    Row("faults.kind:load-hangs", fault("load-hangs", "0s", target="a", for_="5s")),
    Row("faults.load-hangs.for", {"faults.0.for": "1500ms"},
        setup=fault("load-hangs", "0s", target="a", for_="500ms")),
    Row("faults.kind:slow-load", fault("slow-load", "0s", model="m", for_="5s")),
    Row("faults.slow-load.for", {"faults.0.for": "500ms"}, setup=fault("slow-load", "0s", model="m", for_="5s")),
    Row("faults.slow-load.factor", {"faults.0.factor": 3}, setup=fault("slow-load", "0s", model="m", for_="5s")),
    Row("faults.kind:probe-timeout", fault("probe-timeout", target="a", for_="60s")),
    Row("faults.probe-timeout.for", {"faults.0.for": "2m"}, setup=fault("probe-timeout", target="a", for_="20s")),
    Row("faults.kind:drop-messages", fault("drop-messages", target="b", p=0.9, for_="60s"), setup=GROWS),
    Row("faults.drop-messages.for", {"faults.0.for": "2s"},
        setup={**GROWS, **fault("drop-messages", "19s", target="b", p=1.0, for_="60s")}),
    Row("faults.drop-messages.p", {"faults.0.p": 0.1},
        setup={**GROWS, **fault("drop-messages", target="b", p=1.0, for_="60s")}),
    Row("faults.kind:duplicate-messages", fault("duplicate-messages", target="b", p=1.0, for_="60s"), setup=GROWS),
    Row("faults.duplicate-messages.for", {"faults.0.for": "2s"},
        setup={**GROWS, **fault("duplicate-messages", target="b", p=1.0, for_="60s")}),
    Row("faults.duplicate-messages.p", {"faults.0.p": 0.01},
        setup={**GROWS, **fault("duplicate-messages", target="b", p=1.0, for_="60s")}),
    Row("faults.kind:delay-messages", fault("delay-messages", target="b", p=1.0, for_="60s"), setup=GROWS),
    Row("faults.delay-messages.for", {"faults.0.for": "2s"},
        setup={**GROWS, **fault("delay-messages", target="b", p=1.0, for_="60s")}),
    Row("faults.delay-messages.p", {"faults.0.p": 0.1},
        setup={**GROWS, **fault("delay-messages", target="b", p=1.0, for_="60s")}),
    Row("faults.delay-messages.delay", {"faults.0.delay": "5s"},
        setup={**GROWS, **fault("delay-messages", target="b", p=1.0, for_="60s")}),
    Row("faults.kind:clock-jump", fault("clock-jump", target="a", by="-1h", for_="60s")),
    Row("faults.clock-jump.for", {"faults.0.for": "2m"}, setup=fault("clock-jump", target="a", by="-1h")),
    Row("faults.clock-jump.by", {"faults.0.by": "0s"}, setup=fault("clock-jump", target="a", by="-1h")),
    Row("faults.kind:name-clash", fault("name-clash", target="a")),
    Row("faults.name-clash.for", {"faults.0.for": "2m"}, setup=fault("name-clash", target="a", for_="10s")),
    Row("faults.kind:machine-swap", fault("machine-swap", target="a")),
    Row("faults.kind:memory-pressure", fault("memory-pressure", target="a", size="12GiB", for_="2m"), setup=SQUEEZED),
    Row("faults.memory-pressure.for", {"faults.0.for": "1m"},
        setup={**SQUEEZED, **fault("memory-pressure", target="a", size="12GiB", for_="2m")}),
    Row("faults.memory-pressure.size", {"faults.0.size": "1GiB"},
        setup={**SQUEEZED, **fault("memory-pressure", target="a", size="12GiB", for_="2m")}),
    Row("faults.memory-pressure.pool", {"faults.0.pool": 1},
        setup={**SQUEEZED, **fault("memory-pressure", target="a", size="12GiB", for_="2m")}),
    Row("faults.kind:writer-crash", fault("writer-crash")),
    Row("faults.kind:store-stall", fault("store-stall", for_="10s")),
    Row("faults.store-stall.for", {"faults.0.for": "20s"}, setup=fault("store-stall", for_="10s")),
    Row("faults.kind:store-error", fault("store-error", for_="10s")),
    Row("faults.store-error.for", {"faults.0.for": "20s"}, setup=fault("store-error", for_="5s")),
    Row("faults.kind:holder-crash", fault("holder-crash", "16s"), setup=LONG),
    Row("faults.kind:worker-leaves", fault("worker-leaves", target="a")),
    Row("faults.worker-leaves.for", {"faults.0.for": "2m"}, setup={**ONE_NODE, **fault("worker-leaves", target="a")}),
    Row("faults.kind:clients-leave", fault("clients-leave", "1s", p=1.0, delay="1s", for_="60s"), setup=LONG),
    Row("faults.clients-leave.for", {"faults.0.for": "2s"},
        setup={**LONG, **fault("clients-leave", "1s", p=1.0, delay="1s", for_="60s")}),
    Row("faults.clients-leave.p", {"faults.0.p": 0.1},
        setup={**LONG, **fault("clients-leave", "1s", p=1.0, delay="1s", for_="60s")}),
    Row("faults.clients-leave.delay", {"faults.0.delay": "5s"},
        setup={**LONG, **fault("clients-leave", "1s", p=1.0, delay="1s", for_="60s")}),
]  # fmt: skip

RANDOM_WORLD: Change = {
    "random_faults": {"length": "20s", "stop_at": "5m"},
    "models.0.max_replicas": 2,
    "models.0.service_time": "8s",
    "scheduler.idle_unload": "30s",
    "requests": [{"model": name, "at": at, "count": 9, "every": "40s"} for name, at in (("m", "1s"), ("large", "11s"))],
}
"""Loads come and go all the time, so that any fault finds something to strike."""
ILL: dict[str, Change] = {
    "node-recover": {"faults": [{"kind": "node-crash", "at": "15s", "target": "a", "for": "forever"}]},
    "heal": {"faults": [{"kind": "partition", "at": "15s", "target": "a", "for": "forever"}]},
    "memory-pressure": {"models.1.vram": "22GiB"},
}
"""What a fault that mends finds broken, and a model that there is no room for beside others' memory."""
QUIET = dict.fromkeys(("probe-timeout", "duplicate-messages", "name-clash"), told("faults"))
"""Kinds that strike and must change no decision: an answer twice, a busy worker that is not dead."""
RANDOM = [
    Row("random_faults.length", {"random_faults.length": "1m"},
        setup={**RANDOM_WORLD, "random_faults.partition": 60.0}),
    Row("random_faults.stop_at", {"random_faults.stop_at": "1m"},
        setup={**RANDOM_WORLD, "random_faults.partition": 60.0}),
]  # fmt: skip

ADMIN = [
    Row("admin.at", {"admin.0.at": "1m"}, setup=step("drain", node="a")),
    Row("admin.node", {"admin.0.node": "b"}, setup=step("drain", node="a")),
    Row("admin.model", {"admin.0.model": "large"}, setup=step("remove-model", model="m")),
    Row("admin.name", {"admin.0.name": "large"}, setup=step("remove-model", name="m")),
    Row("admin.action:set-labels", step("set-labels", node="a", labels={"tier": ""}),
        setup={"nodes.0.labels": {"tier": "x"}, "models.0.node_selector": {"tier": "x"}}),
    Row("admin.set-labels.labels", {"admin.0.labels": {"zone": "z"}},
        setup={"models.0.node_selector": {"!tier": "x"}, **step("set-labels", node="a", labels={"tier": "x"})}),
    Row("admin.action:drain", step("drain", node="a")),
    Row("admin.drain.deadline", {"admin.0.deadline": "10s"}, setup={**step("drain", "15s", node="a"), **LONG}),
    Row("admin.action:resume", {"admin.1": {"at": "1m", "action": "resume", "node": "a"}},
        setup={"nodes": ONE_NODE["nodes"], "admin": [{"at": "30s", "action": "drain", "node": "a"}]}),
    Row("admin.action:approve", step("approve", node="a"), setup={"nodes.0.approved": False, **FLOOR, **LONG}),
    Row("admin.action:remove-node", step("remove-node", node="a"),
        setup=step("drain", "20s", node="a")),
    Row("admin.action:set-tenant-limits", step("set-tenant-limits", tenant="t", at_once=1), setup=TENANTS),
    Row("admin.set-tenant-limits.tenant", {"admin.0.tenant": "u"},
        setup={**TENANTS, **step("set-tenant-limits", tenant="t", at_once=1)}),
    Row("admin.set-tenant-limits.at_once", {"admin.0.at_once": 2},
        setup={**TENANTS, **step("set-tenant-limits", tenant="t", at_once=1)}),
    Row("admin.set-tenant-limits.rate", {"admin.0.rate": "1/5s"},
        setup={**TENANTS, **step("set-tenant-limits", tenant="t", burst=1)}),
    Row("admin.set-tenant-limits.burst", {"admin.0.burst": 1},
        setup={**TENANTS, **step("set-tenant-limits", tenant="t", rate="1/5s")}),
    Row("admin.set-tenant-limits.priority", {"admin.0.priority": 9},
        setup={**URGENT, **step("set-tenant-limits", "10s", tenant="t", at_once=9)}),
    Row("admin.action:set-budget", step("set-budget", "500ms", node="a", value="4GiB")),
    Row("admin.set-budget.value", {"admin.0.value": "90%"},
        setup={**ONE_NODE, **step("set-budget", "500ms", node="a", value="4GiB")}),
    Row("admin.action:set-max-replicas", step("set-max-replicas", node="a", value=2),
        setup={**CROWD, "models.0.max_replicas": 2}),
    Row("admin.set-max-replicas.value", {"admin.0.value": 3},
        setup={**CROWD, "models.0.max_replicas": 3, **step("set-max-replicas", node="a", value=2)}),
    Row("admin.action:set-scheduling", step("set-scheduling", model="m", min_replicas=2)),
    Row("admin.action:declare-model", step("declare-model", name="n", backend="echo", min_replicas=1)),
    Row("admin.action:edit-model", step("edit-model", model="m", vram="9GiB")),
    Row("admin.action:remove-model", step("remove-model", model="m")),
    Row("admin.action:load-info", step("load-info", model="m", backend="echo"),
        setup={"models.0.backend": None, **FLOOR}),
    Row("admin.load-info.backend", {"admin.0.backend": "other"}, look=effects,
        setup=step("load-info", "500ms", model="m", backend="echo", vram="8GiB")),
    Row("admin.load-info.options", {"admin.0.options": {"context": 9}}, look=effects,
        setup=step("load-info", "500ms", model="m", backend="echo", vram="8GiB")),
    Row("admin.load-info.ram", {"admin.0.ram": "9GiB"}, {"admin.0.ram": "4GiB"},
        {**step("load-info", "500ms", model="m", backend="echo", vram="8GiB"), "nodes.0.ram": "8GiB"}),
    Row("admin.load-info.vram", {"admin.0.vram": "9GiB"},
        setup=step("load-info", "500ms", model="m", backend="echo", vram="8GiB")),
    Row("admin.load-info.disk", {"admin.0.disk": "9GiB"},
        setup={**step("load-info", "500ms", model="m", backend="echo", vram="8GiB"), "nodes.0.disk": "4GiB"}),
    Row("admin.load-info.pools", {"admin.0.pools": "any"},
        setup={**step("load-info", "500ms", model="m", backend="echo", vram="40GiB"), "nodes.0.vram": None,
               "nodes.0.pools": ["24GiB", "24GiB"]}),
    Row("admin.action:freeze", step("freeze", "5s", what="evictions"), setup=RIVALS),
    Row("admin.freeze.what", {"admin.0.what": "reconciler"},
        setup={**RIVALS, **step("freeze", "5s", what="evictions")}),
    Row("admin.action:thaw", {"admin.1": {"at": "50s", "action": "thaw", "what": "evictions"}},
        setup={**RIVALS, "admin": [{"at": "5s", "action": "freeze", "what": "evictions"}]}),
    Row("admin.thaw.what", {"admin.1.what": "reconciler"},
        setup={**RIVALS, "admin": [{"at": "5s", "action": "freeze", "what": "evictions"},
                                   {"at": "50s", "action": "thaw", "what": "evictions"}]}),
    Row("admin.action:set", step("set", "5s", min_residency="2m"), setup=RIVALS),
]  # fmt: skip

SCOPE_WORLD: Change = {**ONE_NODE, "models": [{"name": "m", "backend": "echo", "vram": "8GiB"}],
                       "requests": [{"model": "m", "at": "1s"}], "duration": "1m"}  # fmt: skip
SCOPE = [
    Row("scope.requests", {"scope.requests": 2}, {"scope.requests": 1}, SCOPE_WORLD, explored),
    Row("scope.admin", {"scope.admin": True}, {},
        {**SCOPE_WORLD, "scope.requests": 1, **step("drain", "30s", node="a")}, explored),
    Row("scope.crashes", {"scope.crashes": 1}, {}, {**SCOPE_WORLD, "scope.requests": 1}, explored),
    Row("scope.completions_fair", {"scope.completions_fair": True}, {}, {**SCOPE_WORLD, "scope.requests": 1}, explored),
]  # fmt: skip


def _expect(key: str, holds: Any, fails: Any) -> Row:
    return Row(f"expect.{key}", {f"expect.{key}": holds}, {f"expect.{key}": fails}, look=told("verdict"))


EXPECT = [
    _expect("served", 20, 3),
    _expect("refused", 0, 1),
    _expect("failed", 0, 1),
    _expect("waiting_at_end", 0, 1),
    _expect("loads", 1, 2),
    _expect("evictions", 0, 1),
    Row("expect.cached_share", {"expect.cached_share": {"min": 0.2}}, {"expect.cached_share": {"max": 0.1}}, CHATS,
        told("verdict")),
    _expect("refused_as", {"never_fits": 0}, {"never_fits": 1}),
    _expect("replicas_at_end", {"m": 1}, {"m": 2}),
    _expect("effects", {"model.load": 1}, {"model.load": 2}),
    _expect("served_on", {"a": 20}, {"b": 20}),
    _expect("events", {"ReplicaLoaded": 1}, {"ReplicaLoaded": 2}),
    Row("expect.quiet_after", {"expect.quiet_after": "2m"}, {"expect.quiet_after": "1s"}, GROWS, told("verdict")),
    Row("expect.properties", {"expect.properties": ["T"]}, {"expect.properties": ["T", "U"]},
        look=lambda result: [row["name"] for row in result.report["expectations"]]),
]  # fmt: skip


def _as_a_step(row: Row, action: str) -> Row:
    """The same difference, made by an operator in the run's first moments."""
    key = row.key.removeprefix("models.")

    def moved(change: Change) -> Change:
        rest = dict(change)
        value = rest.pop(f"models.0.{key}")
        return {**rest, **step(action, "1ms", model="m", **{key: value})}

    return Row(f"admin.{action}.{key}", moved(row.one), row.other, row.setup, row.look, row.files)


ROWS = list(
    chain(
        SETTINGS, TOP, NODES, MODELS, SCHEDULING, REPLICAS, REQUESTS, WORKLOADS, RANDOM, ADMIN, SCOPE, EXPECT,
        (replace(row, look=next((look for kind, look in QUIET.items() if kind in row.key), None)) for row in FAULTS),
        (_as_a_step(row, "set-scheduling") for row in SCHEDULING),
    )
)  # fmt: skip
