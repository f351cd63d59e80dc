"""What a node has and what is in use: memory from NVIDIA's driver where there is one, else from the system."""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil

from interlock.domain.errors import Unavailable

log = logging.getLogger(__name__)

_STAGED_AGE_S = 60.0
"""How old the figure of the staged models' size may be: it takes a walk over their files."""


class Figures(msgspec.Struct, frozen=True):
    """A node's figures in bytes. ``pools`` and ``used`` pair up; ``disk`` is what models' files may still take."""

    pools: tuple[int, ...]
    used: tuple[int, ...]
    gpu_vendor: str
    ram: int
    ram_available: int
    disk: int
    disk_total: int
    disk_available: int
    cpus: int
    unified: bool = False
    """The one pool is the main memory."""

    @property
    def vram_total(self) -> int:
        """All pools together."""
        return sum(self.pools)

    @property
    def vram_available(self) -> int:
        """What is free in all pools together."""
        return max(0, sum(self.pools) - sum(self.used))


class Meter:
    """Takes figures. ``pools``, ``ram`` and ``disk``, when given, stand for a share of the machine, unmeasured.

    A board whose GPU shares the system's memory has one pool: the system's memory. So has a machine without a GPU.
    """

    def __init__(
        self, models: Path, *, pools: tuple[int, ...] = (), ram: int | None = None, disk: int | None = None
    ) -> None:
        self._models = models
        self._given_pools = pools
        self._given_ram = ram
        self._given_disk = disk
        self._nvml = None if pools else _open_nvml()
        self._staged = (float("-inf"), 0)
        self._known: list[tuple[int, int]] = []

    def read(self, own_pids: tuple[int, ...] = ()) -> Figures:
        """The figures now. ``own_pids`` are counted as users where the pools were given, not measured."""
        memory = psutil.virtual_memory()
        ram, ram_used = memory.total, memory.total - memory.available
        if self._given_ram is not None:
            ram, ram_used = self._given_ram, min(self._given_ram, sum(_resident(pid) for pid in own_pids))
        pools, used, vendor = self._pools(ram, ram_used, own_pids)
        self._models.mkdir(parents=True, exist_ok=True)
        usage = shutil.disk_usage(self._models)
        disk = usage.free if self._given_disk is None else max(0, self._given_disk - self._staged_bytes())
        return Figures(
            pools=pools,
            used=used,
            gpu_vendor=vendor,
            ram=ram,
            ram_available=ram - ram_used,
            disk=disk,
            disk_total=usage.total,
            disk_available=usage.free,
            cpus=psutil.cpu_count() or 1,
            unified=not self._given_pools and pools == (ram,),
        )

    def devices(self, pools: tuple[int, ...]) -> tuple[str, ...]:
        """The driver's ids of the GPUs behind these pools; none where a pool is no GPU of its own."""
        found = _gpu_ids(self._nvml) if self._nvml is not None and self._measured() else []
        return tuple(found[pool] for pool in pools if pool < len(found))

    def _pools(
        self, ram: int, ram_used: int, own_pids: tuple[int, ...]
    ) -> tuple[tuple[int, ...], tuple[int, ...], str]:
        if self._given_pools:
            used = min(self._given_pools[0], sum(_resident(pid) for pid in own_pids))
            return self._given_pools, (used, *(0 for _ in self._given_pools[1:])), ""
        if self._nvml is None:
            return (ram,), (ram_used,), ""
        measured = self._measured()
        if not measured:
            return (ram,), (ram_used,), "nvidia"
        return tuple(total for total, _ in measured), tuple(used for _, used in measured), "nvidia"

    def _measured(self) -> list[tuple[int, int]]:
        self._known = _gpu_memory(self._nvml, self._known) or self._known
        return self._known

    def _staged_bytes(self) -> int:
        taken_at, size = self._staged
        if time.monotonic() - taken_at > _STAGED_AGE_S:
            size = sum(_size(Path(folder, name)) for folder, _, names in os.walk(self._models) for name in names)
            self._staged = (time.monotonic(), size)
        return size


def _open_nvml() -> Any:
    """NVIDIA's library when it is there and finds a GPU, else None."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return pynvml if pynvml.nvmlDeviceGetCount() > 0 else None
    except pynvml.NVMLError as error:
        log.debug("no NVIDIA GPU: %s", error)
        return None


def _gpu_memory(nvml: Any, known: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Total and used bytes per GPU; empty when a GPU has no memory of its own to tell of.

    One that fails now and was ``known`` before counts as full: nothing more is placed there, and the others go on.
    Raises Unavailable when nothing is known of one that fails.
    """
    measured: list[tuple[int, int]] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByIndex(index))
            measured.append((int(memory.total), int(memory.used)))
        except nvml.NVMLError as error:
            if "not supported" in str(error).lower():  # that is what boards with unified memory say
                log.debug("the GPU tells nothing of its memory: %s", error)
                return []
            if index >= len(known):
                raise Unavailable(f"GPU {index} does not tell of its memory: {error}") from error
            log.warning("GPU %d does not tell of its memory, and counts as full: %s", index, error)
            measured.append((known[index][0], known[index][0]))
    return [] if any(total == 0 for total, _ in measured) else measured


def _gpu_ids(nvml: Any) -> list[str]:
    """GPUs by their UUIDs: indices mean one thing to the driver's library and may mean another to CUDA."""
    ids = (nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(index)) for index in range(nvml.nvmlDeviceGetCount()))
    return [found.decode() if isinstance(found, bytes) else str(found) for found in ids]


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
