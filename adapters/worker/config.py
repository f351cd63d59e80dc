"""A worker's settings: flags first, then ``INTERLOCK_*``, then defaults. Secrets come from the environment alone."""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

import msgspec

from interlock.adapters.nats.connection import NatsConfig
from interlock.domain.errors import InvalidField
from interlock.domain.nodes import MOST_SLOTS
from interlock.domain.units import SECOND, parse_duration, parse_size, whole_number


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One worker. Lengths are seconds, sizes bytes. ``pools``, ``ram`` and ``disk`` replace what would be
    measured.

    ``host`` is where backends listen, and ``advertise`` how the control plane reaches them; ``ports`` is the range that
    they get (None: whatever the system gives). ``machine`` is this machine's identity, by default the one that ``data``
    keeps; with ``replaces`` it takes its name over from another machine that is at work. ``url`` is the control plane's
    gateway, or several with commas between: while one does not answer, another is asked.
    """

    name: str
    url: str
    nats: NatsConfig
    data: Path
    machine: str = ""
    replaces: bool = False
    token: str = ""
    labels: dict[str, str] = {}
    host: str = "127.0.0.1"
    advertise: str = ""
    ports: tuple[int, int] | None = None
    pools: tuple[int, ...] = ()
    ram: int | None = None
    disk: int | None = None
    max_replicas_per_model: int = 1
    vram_budget: str = ""
    heartbeat_s: float | None = None
    """At least so often, whatever the control plane says; None: as it says."""
    port_hold_s: float = 60.0
    start_timeout_s: float = 60.0
    stop_grace_s: float = 5.0
    hang_limit_s: float = 600.0

    def __repr__(self) -> str:
        return f"WorkerConfig(name={self.name!r}, url={self.url!r}, data={str(self.data)!r})"

    @property
    def urls(self) -> tuple[str, ...]:
        """The control plane's gateways, the preferred one first."""
        return tuple(self.url.split(","))

    @property
    def reached_at(self) -> str:
        """The host under which the control plane reaches this node's backends."""
        return self.advertise or self.host


def parse(arguments: list[str] | None = None) -> WorkerConfig:
    """Settings from a command line; raises InvalidField, and SystemExit for flags that argparse refuses."""
    given = parser().parse_args(arguments)
    if not given.name:
        raise InvalidField("--name", "is empty")
    if not given.nats:
        raise InvalidField("--nats", "no broker is named", cure="Give --nats URL, or set INTERLOCK_NATS.")
    return WorkerConfig(
        name=given.name,
        url=_urls(given.url),
        nats=NatsConfig.parse(given.nats),
        data=Path(given.data).absolute(),
        machine=given.machine,
        replaces=given.replace,
        token=os.environ.get("INTERLOCK_REGISTRATION_TOKEN", ""),
        labels=dict(_pair(text) for text in given.label),
        host=given.host,
        advertise=given.advertise,
        ports=_ports(given.ports),
        pools=tuple(parse_size(text, "--vram") for text in given.vram.split(",") if text),
        ram=parse_size(given.ram, "--ram") if given.ram else None,
        disk=parse_size(given.disk, "--disk") if given.disk else None,
        max_replicas_per_model=_slots(given.slots),
        vram_budget=given.vram_budget,
        heartbeat_s=_seconds(given.heartbeat_interval, "--heartbeat-interval") if given.heartbeat_interval else None,
        port_hold_s=_seconds(given.port_hold, "--port-hold"),
        start_timeout_s=_seconds(given.start_timeout, "--start-timeout"),
        stop_grace_s=_seconds(given.stop_grace, "--stop-grace"),
        hang_limit_s=_seconds(given.hang_limit, "--hang-limit"),
    )


def parser() -> argparse.ArgumentParser:
    """The worker's flags."""

    def setting(name: str, default: str = "") -> str:
        return os.environ.get(f"INTERLOCK_{name}", default)

    made = argparse.ArgumentParser(
        prog="interlock worker",
        description="Run model backends on this machine for an Interlock control plane.",
        epilog="example: interlock worker --name orin --url http://10.0.0.1:8700 --nats nats://10.0.0.1:4222 "
        "--data /var/lib/interlock --label tier=slow. Secrets: INTERLOCK_REGISTRATION_TOKEN, INTERLOCK_NATS_USER, "
        "INTERLOCK_NATS_PASSWORD, INTERLOCK_NATS_CREDENTIALS.",
    )
    made.add_argument("--name", default=setting("NODE_NAME", platform.node()), help="the node's name")
    made.add_argument(
        "--url",
        default=setting("URL", "http://127.0.0.1:8700"),
        help="the control plane: one gateway, or several with commas between",
    )
    made.add_argument("--nats", default=setting("NATS"), help="the broker: nats://host:port")
    made.add_argument("--data", default=setting("DATA", "./.interlock/worker"), help="the worker's own folder")
    made.add_argument("--machine", default=setting("MACHINE"), help="this machine's identity (default: kept in --data)")
    made.add_argument("--replace", action="store_true", help="take the name over from another machine that is at work")
    made.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="a label; may be repeated")
    made.add_argument("--host", default=setting("WORKER_HOST", "127.0.0.1"), help="where backends listen")
    made.add_argument("--advertise", default=setting("ADVERTISE"), help="the host under which they are reached")
    made.add_argument("--ports", default=setting("PORTS"), metavar="LOW-HIGH", help="their ports (default: any)")
    made.add_argument("--vram", default=setting("VRAM"), help="memory pools instead of measured ones: 24GiB,24GiB")
    made.add_argument("--ram", default=setting("RAM"), help="main memory instead of the measured one: 64GiB")
    made.add_argument("--disk", default=setting("DISK"), help="disk for models instead of the measured one: 900GiB")
    made.add_argument("--vram-budget", default=setting("VRAM_BUDGET"), help="what models may use: 80%% or 100GiB")
    made.add_argument("--slots", default=setting("MAX_REPLICAS_PER_MODEL", "1"), help="replicas of one model")
    made.add_argument(
        "--heartbeat-interval", default=setting("HEARTBEAT_INTERVAL"),
        help="at least so often, as in 2s (default: as the control plane says)",
    )  # fmt: skip
    made.add_argument("--port-hold", default=setting("PORT_HOLD", "60s"), help="how long a used port is not used again")
    made.add_argument("--start-timeout", default=setting("START_TIMEOUT", "60s"), help="for a backend to listen")
    made.add_argument("--stop-grace", default=setting("STOP_GRACE", "5s"), help="from asking a process to killing it")
    made.add_argument(
        "--hang-limit", default=setting("HANG_LIMIT", "10m"),
        help="a backend that answers nothing and does nothing for so long is killed (forever: never)",
    )  # fmt: skip
    return made


def _seconds(text: str, field: str) -> float:
    return parse_duration(text, field) / SECOND


def _urls(text: str) -> str:
    urls = [url.strip().rstrip("/") for url in text.split(",")]
    if "" in urls:
        cure = "Give http://host:port, or several with commas between."
        raise InvalidField(
            "--url", f"{text!r} names no gateway" if len(urls) == 1 else f"{text!r}: one is empty", cure=cure
        )
    return ",".join(urls)


def _pair(text: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not found or not key:
        raise InvalidField("--label", f"{text!r} is not KEY=VALUE")
    return key, value


def _slots(text: str) -> int:
    slots = whole_number(text.strip(), 0, MOST_SLOTS)
    if slots is None:
        cure = f"Give 1 to {MOST_SLOTS}; the environment's is INTERLOCK_MAX_REPLICAS_PER_MODEL."
        raise InvalidField("--slots", f"{text[:40]!r} is no number of replicas", cure=cure)
    return max(1, slots)


def _ports(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    low, high = (whole_number(port, 1, 65535) for port in text.partition("-")[::2])
    if low is None or high is None or low > high:
        raise InvalidField("--ports", f"{text!r} is not LOW-HIGH")
    return low, high
