"""``interlock doctor``: one line for each thing that Interlock depends on, with the cure where one is missing."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from .options import Place, as_json, from_file, reads_store
from .output import print_json

_NEEDED_PYTHON = (3, 11)
_LEAST_FREE = 100 * 2**20
"""Bytes. A log on a disk with less is about to stop the cluster."""


class Check:
    """One dependency: whether it is as it should be, what was found, and what cures it."""

    def __init__(self, name: str, ok: bool, detail: str, cure: str = "") -> None:
        self.name, self.ok, self.detail, self.cure = name, ok, detail, cure

    def line(self) -> str:
        """The check for people."""
        cure = f" {self.cure}" if self.cure and not self.ok else ""
        return f"{'OK' if self.ok else 'FAIL':<4}  {self.name:<18}  {self.detail}{cure}"


@click.command(epilog="Example: interlock doctor --store postgresql://db.example/interlock --nats nats://broker:4222")
@click.option("--nats", envvar="INTERLOCK_NATS", metavar="URL", help="The broker; without it our own is looked for.")
@click.option("--http", envvar="INTERLOCK_HTTP", metavar="HOST:PORT", help="Where to listen; default 127.0.0.1:8700.")
@reads_store
@as_json
def doctor(place: Place, nats: str | None, http: str | None, json_: bool) -> int:
    """Check Python, the store, the broker, backends, the port, the data folder, GPU driver, nodes' clocks and settings.

    Prints one OK or FAIL line for each; exits 1 when one fails.
    """
    file = from_file("nats", "http")
    nats, http = nats or file.get("nats"), http or file.get("http")
    checks = [
        _guarded("python", _python),
        _guarded("store", lambda: _store(place)),
        _guarded("chain head", lambda: _chain_head(place)),
        _guarded("clocks", lambda: _clocks(place)),
        _guarded("settings", lambda: _settings(place)),
        _guarded("data folder", lambda: _data_folder(place.data)),
        _guarded("broker", lambda: _broker(nats)),
        *_backends(),
        _guarded("port", lambda: _port(http or "127.0.0.1:8700", place.data)),
        _guarded("nvml", _nvml),
    ]
    holds = all(check.ok for check in checks)
    if json_:
        print_json({"holds": holds, "checks": [vars(check) for check in checks]})
    else:
        for check in checks:
            click.echo(check.line())
    return 0 if holds else 1


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    """One broken dependency must not hide the others."""
    try:
        return look()
    except Exception as error:
        message = str(getattr(error, "message", "") or error).splitlines()[0]
        return Check(name, False, message, str(getattr(error, "cure", "")))


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check(
        "python", sys.version_info[:2] >= _NEEDED_PYTHON, f"{version} at {sys.executable}", "Use 3.11 or newer."
    )


def _will_be_made(place: Place) -> bool:
    """Whether the store is an embedded one that the first start makes."""
    from interlock.adapters.store import is_postgres, sqlite_path

    return not is_postgres(place.log) and not sqlite_path(place.log).exists()


def _store(place: Place) -> Check:
    from interlock.adapters.store import open_store, sqlite_path
    from interlock.domain.units import format_size

    if _will_be_made(place):
        return Check("store", True, f"{place.log}: none yet; the first start makes it")
    store = open_store(place.log, read_only=True)
    try:
        kind = "SQLite" if store.dialect == "sqlite" else "PostgreSQL"
        found = f"{kind}, schema version {store.schema_version}, {store.head().position} events"
        if store.dialect != "sqlite":
            return Check("store", True, found)
        free = _free(sqlite_path(place.log).absolute().parent)
        told = f"{found}, {format_size(free)} free on its disk"
        return Check("store", free >= _LEAST_FREE, f"{told}.", "Free space there: without it nothing is decided.")
    finally:
        store.close()


def _chain_head(place: Place) -> Check:
    """The digest of the last event, made again from the one before it; the whole chain is ``audit verify``'s."""
    from interlock.adapters.store import chain, open_store

    if _will_be_made(place):
        return Check("chain head", True, "an empty log")
    store = open_store(place.log, read_only=True)
    try:
        position = store.head().position
        rows = list(store.sealed_rows(max(0, position - 2)))
        if len(rows) < 2:
            bad = chain.verify(rows)
        else:
            bad = chain.verify(rows[1:], after=rows[0][0], previous=rows[0][-1])
    finally:
        store.close()
    if bad is not None:
        cure = "Run `interlock audit verify`; restore the store from a backup."
        return Check("chain head", False, f"position {bad} was altered.", cure)
    digest = rows[-1][-1].hex()[:16] if rows else "-"
    return Check("chain head", True, f"position {position}, digest {digest}")


def _clocks(place: Place) -> Check:
    """What the log's end knows of the clocks of the nodes that are there."""
    from interlock.adapters.audit.service import AuditService
    from interlock.adapters.store import open_store
    from interlock.domain.units import tell_clock

    if _will_be_made(place):
        return Check("clocks", True, "no node has told its own yet")
    store = open_store(place.log, read_only=True)
    try:
        nodes = [node for node in AuditService(store).state("head").nodes if node.status != "offline"]
    finally:
        store.close()
    wrong = [f"{node.name} is {tell_clock(node.clock_off)}" for node in nodes if node.clock_off]
    if not wrong:
        return Check("clocks", True, f"no clock of {len(nodes)} nodes is known to be off")
    cure = "Its logs and certificates mislead: let chrony or another NTP client set the clock of that machine"
    alike = "; of the control plane's own, should all be off alike" if len(wrong) > 1 else ""
    return Check("clocks", False, f"{', '.join(wrong)}.", f"{cure}{alike}.")


def _settings(place: Place) -> Check:
    """The cluster's settings at the log's end; those that hardly go together are told of, and are no fault."""
    from interlock.adapters.audit.service import AuditService
    from interlock.adapters.store import open_store
    from interlock.domain.settings import doubts

    if _will_be_made(place):
        return Check("settings", True, "none yet but the defaults")
    store = open_store(place.log, read_only=True)
    try:
        found = doubts(AuditService(store).settings())
    finally:
        store.close()
    return Check("settings", True, " ".join(found) or "they go together")


def _data_folder(data: Path) -> Check:
    folder = data if data.exists() else next(parent for parent in data.absolute().parents if parent.exists())
    if not folder.is_dir():
        return Check("data folder", False, f"{folder} is not a folder.", "Name another with --data.")
    if not os.access(folder, os.W_OK | os.X_OK):
        return Check("data folder", False, f"{folder} cannot be written.", "Give this user the right, or use --data.")
    free = _free(folder)
    return Check("data folder", free >= _LEAST_FREE, f"{folder.resolve()}, {free / 2**30:.1f} GiB free", "Free some.")


def _free(folder: Path) -> int:
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize


def _broker(nats: str | None) -> Check:
    from interlock.adapters.nats import broker, connection

    if not nats:
        return Check("broker", True, f"our own: {broker.find_binary()}")

    async def look() -> str:
        client = await connection.connect(connection.NatsConfig.parse(nats), "doctor", timeout_s=3.0)
        version = str(client.connected_server_version)
        await connection.close(client)
        return version

    return Check("broker", True, f"NATS {asyncio.run(look())} answers")


def _backends() -> Iterator[Check]:
    from interlock.adapters.backends.registry import installed

    found = installed()
    if not found:
        yield Check("backends", False, "none is installed.", "Install Interlock again: pip install --force-reinstall .")
    for name, entry in found.items():
        try:
            entry.load()
            yield Check(f"backend {name}", True, entry.value)
        except ImportError as error:
            cure = f"pip install 'interlock[{name}]'"
            yield Check(f"backend {name}", False, f"cannot be imported: {error}.", cure)


def _port(http: str, data: Path) -> Check:
    from interlock.domain.units import whole_number

    from .client import running_in

    host, _, text = http.rpartition(":")
    port = whole_number(text, most=65535)
    if port is None:
        return Check("port", False, f"{http!r} is not HOST:PORT.", "Use --http 127.0.0.1:8700.")
    running = running_in(data)
    if running is not None:
        found = f"a cluster runs in {data}, at {running.url}"
        lacks = running.lacks()
        return Check("port", not lacks, f"{found}, and is not ready: {' '.join(lacks)}" if lacks else found)
    host = host.strip("[]") or "127.0.0.1"
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return Check("port", False, f"{http}: {error.strerror}.", "Choose another port with --http HOST:PORT.")
    return Check("port", True, f"{http} is free")


def _nvml() -> Check:
    """A machine without a GPU is no fault; a driver that is there and does not answer is one."""
    try:
        import pynvml
    except ImportError:
        return Check("nvml", True, "not installed (pip install 'interlock[nvml]' where there are NVIDIA GPUs)")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if os.path.exists("/dev/nvidiactl"):
            return Check("nvml", False, f"the driver does not answer: {error}.", "Mend the driver's installation.")
        return Check("nvml", True, "no NVIDIA driver here; workers measure the machine's memory")
    count = pynvml.nvmlDeviceGetCount()
    pynvml.nvmlShutdown()
    return Check("nvml", True, f"{count} GPUs")
