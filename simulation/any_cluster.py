"""Scenarios at random: small clusters of which every key may be otherwise, so that rules meet that nobody put together.

A sweep varies what goes wrong in one scenario; here the scenario itself is what the seed chooses. Each has some of the
features only: where all are at work at once, the one that errs is hidden by the others. Nothing is expected but that
the invariants and the five properties hold.
"""

from __future__ import annotations

from random import Random
from typing import Any

from msgspec.structs import replace

from interlock.domain.units import parse_size

from .reading import toml
from .reading.scenario import ANY, FAULT_KINDS, INSTANT_FAULTS, NODE_FAULTS, REPLICA_FAULTS, Scenario

Data = dict[str, Any]

DURATION = 480
"""Seconds that a run takes before it settles; nothing is changed or goes wrong in the last third."""
CHANGES_END = DURATION * 2 // 3
PROFILES = ("default", "pack", "spread", "balance", "fast-start")
GPUS = ("8GiB", "16GiB", "24GiB", "48GiB")
TIGHT = ("10GiB", "12GiB", "16GiB", "20GiB")
SIZES = ("0GiB", "1GiB", "2GiB", "6GiB", "8GiB", "12GiB", "20GiB", "24GiB", "40GiB")

_SETTINGS: dict[str, tuple[Any, ...]] = {
    "reconcile_interval": ("5s", "30s", "2m"),
    "min_residency": ("0s", "5s", "60s"),
    "scale_down_delay": ("0s", "10s", "60s"),
    "idle_unload": ("15s", "60s"),
    "heartbeat_interval": ("5s", "10s"),
    "unreachable_after": ("12s", "30s"),
    "offline_after": ("15s", "60s"),
    "mass_loss_share": ("off", 20, 50, 100),
    "mass_loss_grace": ("30s", "2m"),
    "holder_lease": ("10s", "30s"),
    "writer_lease": ("3s", "10s"),
    "request_deadline": ("5s", "40s", "3m"),
    "queue_limit": (0, 1, 4, 100),
    "model_queue_limit": (1, 3),
    "priority_ageing": ("off", "2s", "20s"),
    "tenant_limit": (1, 3),
    "tenant_rate": ("6/m", "1/s"),
    "tenant_burst": (1, 3),
    "tenant_priority": (-1, 2),
    "load_silence": ("5s", "20s"),
    "quiet_load_rate": ("256MiB/s", "2GiB/s"),
    "slowest_load_rate": ("16MiB/s", "256MiB/s"),
    "load_attempts": (1, 2, 5),
    "load_backoff": ("0s", "5s"),
    "disk_margin": ("0GiB", "4GiB"),
    "recent_uses": ("off", 1, 8),
    "evictions_per_node": ("off", 1, 3),
    "eviction_window": ("10s", "60s"),
    "unload_patience": ("off", "5s", "60s"),
    "thrash_cycles": ("off", 1, 2),
    "thrash_window": ("10s", "60s"),
    "longest_residency": ("10s", "60s"),
    "growth_per_tick": (2, 3),
    "prefix_affinity": ("off", 1, 8),
    "placement": PROFILES,
}


def any_scenario(seed: int) -> Scenario:
    """The scenario that this seed chooses; the same one for ever, as long as this module is as it is."""
    return replace(Scenario.parse(toml.dump(any_table(seed)), ANY), by_seed=True)


def any_table(seed: int) -> Data:
    """The scenario as the table of keys that its file would have."""
    return _Maker(Random(f"{ANY}/{seed}")).scenario(seed)


class _Maker:
    """Chooses one scenario. ``traits`` are the features that this one has."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.nodes = [f"n{number}" for number in range(1, random.choice((1, 2, 2, 3, 3, 4, 5)) + 1)]
        self.models = [f"m{number}" for number in range(1, random.choice((1, 2, 3, 3, 4, 5)) + 1)]
        features = (
            "disk", "ram", "pools", "selectors", "floors", "everywhere", "priorities", "pins", "groups", "tenants",
            "prompts", "idle", "admin", "edits", "faults", "slots", "ceilings", "profiles", "settings", "impatient",
            "warm", "accidents", "hang-ups", "bursts", "tight", "broken", "moves",
        )  # fmt: skip
        share = random.choice((0.15, 0.3, 0.5))
        self.traits = {feature for feature in features if random.random() < share}

    def scenario(self, seed: int) -> Data:
        data: Data = {
            "schema": 1,
            "name": f"{ANY}-{seed}",
            "description": "Chosen at random: " + ", ".join(sorted(self.traits)),
            "seed": seed,
            "duration": f"{DURATION}s",
            "scheduler": self.settings(),
            "nodes": [self.node(name) for name in self.nodes],
            "models": [self.model(name) for name in self.models],
        }
        data["replicas"] = self.replicas(data)
        data["requests"], data["workloads"] = self.requests(), self.workloads()
        if "tenants" in self.traits:
            data["tenants"] = [{"name": "guests", **self.limits()}]
        if {"admin", "edits", "moves"} & self.traits:
            data["admin"] = [self.step() for _ in range(self.random.randint(1, 8))]
        if "faults" in self.traits:
            data["random_faults"] = self.random_faults()
        accidents = self.accidents() if "accidents" in self.traits else []
        if broken := [*accidents, *self.broken()]:
            data["faults"] = broken
        return data

    def has(self, feature: str, share: float = 0.5) -> bool:
        """Whether this one of the things that may have the feature has it."""
        return feature in self.traits and self.random.random() < share

    def instant(self) -> str:
        return f"{self.random.randrange(0, CHANGES_END)}s"

    def settings(self) -> Data:
        some = self.random.uniform(0.0, 0.5) if "settings" in self.traits else 0.1
        return {key: self.random.choice(values) for key, values in _SETTINGS.items() if self.random.random() < some}

    # --- machines ---------------------------------------------------------------------------------------------------

    def node(self, name: str) -> Data:
        choose = self.random.choice
        node: Data = {"name": name, "load_rate": choose(("512MiB/s", "1GiB/s", "4GiB/s"))}
        if self.has("pools"):
            node["pools"] = [choose(GPUS)] * choose((2, 2, 4))
        elif "tight" in self.traits:
            node["vram"] = "24GiB"
        elif self.has("ram", 0.3):
            node["ram"] = choose(GPUS)  # one memory
        else:
            node["vram"] = choose(GPUS)
            if "ram" in self.traits:
                node["ram"] = choose(GPUS)
        if self.has("disk"):
            node |= {"disk": choose(("16GiB", "40GiB", "100GiB")), "stage_rate": choose(("1GiB/s", "4GiB/s"))}
        if {"selectors", "moves"} & self.traits:
            node["labels"] = {"tier": choose(("fast", "slow"))}
        if self.has("slots"):
            node["max_replicas_per_model"] = choose((2, 3))
        if self.has("settings", 0.2):
            node["vram_budget"] = choose(("60%", "80%", "6GiB"))
        node["install_time"], node["unload_time"] = choose(("0s", "2s")), choose(("0s", "3s", "10s"))
        if self.has("admin", 0.15):
            node[choose(("approved", "up"))] = False
        return node

    # --- models -----------------------------------------------------------------------------------------------------

    def model(self, name: str) -> Data:
        choose = self.random.choice
        vram = choose(TIGHT if "tight" in self.traits else SIZES)
        model: Data = {"name": name, "vram": vram, "service_time": choose(("exp 1s", "2s", "exp 8s"))}
        if self.random.random() > 0.05:
            model["backend"] = choose(("echo", "llama-cpp"))
        if self.has("disk", 0.7):
            model["disk"] = choose(SIZES)
        if self.has("ram"):
            model["ram"] = choose(SIZES)
        if self.has("pools"):
            model["pools"] = choose((2, 4, "any"))
        if self.has("prompts"):
            model |= {"prefill_time": "20ms", "prefix_cache": choose((4, 64))}
            model |= {"prefix_affinity": choose((0, 1, "off"))} if self.has("settings") else {}
        return model | self.scheduling()

    def scheduling(self) -> Data:
        choose = self.random.choice
        keys: Data = {"parallel": choose((1, 1, 2, 4, 0))}
        if self.has("selectors"):
            keys["node_selector"] = choose((*self.tiers(), {"node.name": [self.nodes[0]]}))
        if self.has("everywhere", 0.4):
            keys["replicas"] = "all"
        else:
            keys |= {"min_replicas": choose((1, 1, 2))} if self.has("floors") else {}
            keys |= {"max_replicas": choose((2, 3))} if self.has("ceilings") else {}
        if self.has("priorities"):
            keys["priority"] = choose((-3, 1, 5))
        if self.has("pins", 0.2):
            keys["pinned"] = True
        if self.has("groups"):
            keys |= {"anti_affinity": "apart", "anti_affinity_hard": choose((True, False))}
        if self.has("idle"):
            keys["idle_unload"] = choose(("off", "10s", "40s"))
        if self.has("profiles"):
            keys["placement"] = choose(PROFILES)
        return keys

    def replicas(self, data: Data) -> list[Data]:
        """Some that are loaded from the start, each alone on a node that surely has room for it."""
        rows: list[Data] = []
        for node in data["nodes"] if "warm" in self.traits else ():
            model = self.random.choice(data["models"])
            if _surely_fits(model, node):
                busy = self.random.choice(({}, {"in_flight": 1, "busy_for": "90s"}))
                rows.append({"model": model["name"], "node": node["name"], **busy})
        return rows

    @staticmethod
    def tiers() -> tuple[Data, ...]:
        return {"tier": "fast"}, {"!tier": "slow"}, {}

    # --- who asks ---------------------------------------------------------------------------------------------------

    def requests(self) -> list[Data]:
        choose = self.random.choice
        rows: list[Data] = []
        for _ in range(self.random.randint(1, 4)):
            row: Data = {"model": choose(self.models), "at": self.instant(), **self.asking()}
            row |= {"leaves_after": choose(("1s", "15s"))} if self.has("hang-ups") else {}
            rows.append(row | {"count": choose((1, 2, 6)), "every": choose(("0s", "500ms", "5s"))})
        return rows

    def workloads(self) -> list[Data]:
        weights = {model: self.random.choice((0.2, 1.0, 3.0)) for model in self.models}
        rate = self.random.choice((0.05, 0.2, 0.6, 1.2))
        rows: list[Data] = [
            {
                "kind": "poisson",
                "models": weights,
                "rate": f"{rate}/s",
                "until": f"{CHANGES_END + 60}s",
                **self.asking(),
            }
        ]
        if "bursts" in self.traits:
            rows[0]["bursts"] = {"every": "exp 60s", "length": "exp 10s", "factor": self.random.choice((5, 20))}
        if "prompts" in self.traits:
            rows.append({"kind": "conversations", "models": weights, "rate": "0.05/s", "until": f"{CHANGES_END}s"})
        return rows

    def asking(self) -> Data:
        choose = self.random.choice
        keys: Data = {}
        if self.has("impatient"):
            keys["deadline"] = choose(("1s", "10s", "30s", "2m"))
        if self.has("priorities"):
            keys["priority"] = choose((-2, 1, 4))
        if self.has("tenants"):
            keys["tenant"] = choose(("guests", "others"))
        return keys

    def limits(self) -> Data:
        limits: Data = {"at_once": self.random.choice((1, 2, 5)), "rate": self.random.choice(("12/m", "off"))}
        return {key: value for key, value in limits.items() if self.random.random() < 0.6}

    # --- what is changed, and what goes wrong ------------------------------------------------------------------------

    def step(self) -> Data:
        of_models = ("set-scheduling", "edit-model", "edit-model", "remove-model", "declare-model", "load-info")
        of_nodes = ("drain", "resume", "approve", "remove-node", "set-budget", "set-max-replicas", "set-labels")
        others = ("freeze", "thaw", "set", "set-tenant-limits")
        kinds = [
            *(of_models if "edits" in self.traits else ()),
            *((*of_nodes, *others) if "admin" in self.traits else ()),
            *(("set-scheduling", "set-labels") if "moves" in self.traits else ()),
        ]
        action = self.random.choice(kinds)
        step: Data = {"at": self.instant(), "action": action}
        if action in of_models:
            return step | self.change(action)
        if action in of_nodes:
            return step | {"node": self.random.choice(self.nodes)} | self.of_node(action)
        if action == "set":
            key = self.random.choice(sorted(_SETTINGS))
            return step | {key: self.random.choice(_SETTINGS[key])}
        if action == "set-tenant-limits":
            return step | {"tenant": "guests", **self.limits()}
        return step | {"what": self.random.choice(("evictions", "reconciler"))}

    def of_node(self, action: str) -> Data:
        choose = self.random.choice
        if action == "drain":
            return choose(({}, {"deadline": "5s"}))
        if action == "set-budget":
            return {"value": choose(("50%", "100%", "8GiB"))}
        if action == "set-max-replicas":
            return {"value": choose((1, 2))}
        return {"labels": {"tier": choose(("fast", "slow", ""))}} if action == "set-labels" else {}

    def change(self, action: str) -> Data:
        choose = self.random.choice
        name = choose(self.models)
        if action == "declare-model":
            return self.model(f"new{self.random.randint(1, 99)}") | {"backend": "echo"}
        if action == "load-info":
            return {"model": name, "backend": "echo", "vram": choose(SIZES)}
        if action == "edit-model":
            return {"model": name, **choose(({"vram": choose(SIZES)}, {"options": {"context": choose((1, 2))}}))}
        if action == "set-scheduling":
            moved = {"node_selector": choose((*self.tiers(), {"node.name": [choose(self.nodes)]}))}
            return {"model": name, **(moved if self.has("moves") else self.scheduling())}
        return {"model": name}

    def accidents(self) -> list[Data]:
        """Some things go wrong at their moments; what mends a node finds it broken."""
        faults = [self.accident() for _ in range(self.random.randint(1, 4))]
        broken_by = {"heal": "partition", "node-recover": "node-crash"}
        mended = [fault for fault in faults if fault["kind"] in broken_by]
        return faults + [
            {"at": "0s", "kind": broken_by[fault["kind"]], "target": fault["target"], "for": "forever"}
            for fault in mended
        ]

    def accident(self) -> Data:
        """One that goes wrong at its moment."""
        kind = self.random.choice([kind for kind in FAULT_KINDS if kind not in ("machine-swap", "name-clash")])
        fault: Data = {"at": self.instant(), "kind": kind}
        if kind in NODE_FAULTS:
            fault["target"] = self.random.choice(self.nodes)
        elif kind in REPLICA_FAULTS:
            fault |= self.random.choice(
                ({"target": self.random.choice(self.nodes)}, {"model": self.random.choice(self.models)})
            )
        if kind not in INSTANT_FAULTS:
            fault["for"] = self.random.choice(("2s", "20s", "90s"))
        return fault

    def broken(self) -> list[Data]:
        """A model that loads nowhere, or a machine on which nothing loads, for long."""
        where = self.random.choice(
            ({"target": self.random.choice(self.nodes)}, {"model": self.random.choice(self.models)})
        )
        length = self.random.choice(("60s", "150s", "10m"))
        fault = {"at": self.random.choice(("0s", "30s", "90s")), "kind": "load-fails", **where, "for": length}
        return [fault] if "broken" in self.traits else []

    def random_faults(self) -> Data:
        share = self.random.choice((0.15, 0.4))
        kinds = [kind for kind in FAULT_KINDS if self.random.random() < share] or ["process-kill"]
        rates: Data = {}
        for kind in kinds:
            rare = 3.0 if kind in ("machine-swap", "name-clash", "clock-jump") else 20.0
            rates[kind] = rare if kind in INSTANT_FAULTS else self.random.choice((rare / 2, rare * 2))
        length = self.random.choice(("exp 5s", "exp 20s"))
        return rates | {"length": length, "stop_at": f"{CHANGES_END}s"}


def _surely_fits(model: Data, node: Data) -> bool:
    """Whether the node has room for the model and may run it, as far as that is plain."""
    intricate = {"ram", "disk", "pools", "node_selector", "anti_affinity"} & model.keys()
    if intricate or "backend" not in model or "vram" not in node or "vram_budget" in node or not node.get("up", True):
        return False
    return parse_size(model["vram"]) <= parse_size(node["vram"])
