"""Registering with the control plane and beating, over HTTP; the JSON is described in this package's README."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

from interlock.domain.errors import InvalidField, Unavailable
from interlock.domain.units import SECOND, parse_duration

from .config import WorkerConfig
from .figures import Figures, Meter
from .supervisor import Supervisor

log = logging.getLogger(__name__)

_HEARTBEAT_S = 10.0
"""From one heartbeat to the next until the control plane has said."""
_SHORTEST_S = 0.05
"""However often it asks."""
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
_CALL_TIMEOUT_S = 10.0
_GOODBYE_TIMEOUT_S = 3.0
_QUOTED_CHARS = 512
_FAILURES = (aiohttp.ClientError, TimeoutError, OSError, Unavailable, msgspec.DecodeError)


class _Unregistered(Unavailable):
    """The control plane does not know this boot of this node."""


class _Refused(Unavailable):
    """Another worker has this node's name."""


class Registration:
    """Keeps this node known to the control plane. ``node_id`` is what it is called there, once registered."""

    def __init__(
        self,
        config: WorkerConfig,
        supervisor: Supervisor,
        meter: Meter,
        *,
        on_refused: Callable[[], Awaitable[None]] | None = None,
        on_registered: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._config = config
        self._on_refused, self._on_registered = on_refused, on_registered
        self._supervisor = supervisor
        self._meter = meter
        self._session: aiohttp.ClientSession | None = None
        self._urls = list(config.urls)
        """The gateway that answered last comes first."""
        self._nudged = asyncio.Event()
        self._interval_s = config.heartbeat_s or _HEARTBEAT_S
        self.node_id = ""

    async def register(self) -> str:
        """Register, trying again with longer and longer pauses for ever; returns the node's id there.

        While another worker has the name, this one takes no orders and runs nothing: they are meant for the other.
        """
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                answer = await self._post("/api/node/register", await self._registration())
            except _FAILURES as error:
                if isinstance(error, _Refused) and self._on_refused is not None:
                    await self._on_refused()
                log.warning("not registered at %s (%s); again in %.0f s", self._config.url, _words(error), pause_s)
                # Jitter, so that a cluster's workers do not all come back at the same moment.
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                continue
            self.node_id = str(answer.get("id") or self._config.name)
            self._heed(answer)
            log.info("registered as %s (%s)", self.node_id, answer.get("status", ""))
            if self._on_registered is not None:
                await self._on_registered(self.node_id)
            return self.node_id

    async def beat(self) -> None:
        """Send one heartbeat; registers again when the control plane does not know us. A failure is only logged."""
        try:
            self._heed(await self._post(self._heartbeat_path, await self._heartbeat()))
        except _Unregistered:
            log.warning("the control plane does not know this node any more: registering again")
            await self.register()
        except _FAILURES as error:
            log.warning("heartbeat failed: %s", _words(error))

    async def beat_for_ever(self) -> None:
        """A heartbeat at each interval, and at once after a nudge."""
        while True:
            # Not wait_for: before Python 3.12 it forgets a cancellation that comes with a nudge.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._nudged.wait()
            self._nudged.clear()
            await self.beat()

    def _heed(self, answer: dict[str, Any]) -> None:
        """Beat as often as the cluster's setting asks, which an operator may change, and never less than our own."""
        with contextlib.suppress(KeyError, InvalidField):  # another control plane than ours does not say
            told_s = parse_duration(answer["heartbeat_interval"]) / SECOND
            self._interval_s = max(_SHORTEST_S, min(told_s, self._config.heartbeat_s or told_s))

    def nudge(self) -> None:
        """Something changed that the control plane should hear of now."""
        self._nudged.set()

    async def say_goodbye(self) -> None:
        """Tell that all is stopped and nothing follows; a control plane that does not answer finds out by itself."""
        if not self.node_id:
            return
        try:
            body = await self._heartbeat(leaving=True)
            await self._post(self._heartbeat_path, body, timeout_s=_GOODBYE_TIMEOUT_S)
        except _FAILURES as error:
            log.warning("could not say goodbye: %s", _words(error))

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    @property
    def _heartbeat_path(self) -> str:
        return f"/api/node/{quote(self.node_id, safe='')}/heartbeat"

    async def _post(self, path: str, body: dict[str, Any], *, timeout_s: float = _CALL_TIMEOUT_S) -> dict[str, Any]:
        """What the first gateway that answers says, in turn; raises what the last one of them failed with."""
        if self._session is None:
            headers = {"Authorization": f"Bearer {self._config.token}"} if self._config.token else {}
            self._session = aiohttp.ClientSession(headers=headers)
        for _ in self._urls[1:]:
            try:
                return await self._post_to(self._session, self._urls[0], path, body, timeout_s)
            except (_Unregistered, _Refused):
                raise
            except _FAILURES as error:
                log.warning("%s does not serve (%s): asking %s", self._urls[0], _words(error), self._urls[1])
                self._urls.append(self._urls.pop(0))
        return await self._post_to(self._session, self._urls[0], path, body, timeout_s)

    async def _post_to(
        self, session: aiohttp.ClientSession, url: str, path: str, body: dict[str, Any], timeout_s: float
    ) -> dict[str, Any]:
        async with session.post(
            url + path,
            data=msgspec.json.encode(body | {"clock": time.time_ns() // 1000}),  # as late as can be: it is compared
            headers={"Content-Type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        ) as response:
            content = await response.content.read(1 << 20)
            if response.status in (404, 409) and path.endswith("/heartbeat"):
                raise _Unregistered("this node is not registered.")
            if response.status >= 300:
                words = " ".join(content[:_QUOTED_CHARS].decode(errors="replace").split())
                if response.status == 409:
                    raise _Refused(f"HTTP status 409: {words}")
                raise Unavailable(f"HTTP status {response.status}: {words}")
        answer = msgspec.json.decode(content or b"{}")
        return answer if isinstance(answer, dict) else {}

    async def _registration(self) -> dict[str, Any]:
        config = self._config
        figures = await self._figures()
        body: dict[str, Any] = {
            "name": config.name,
            "node_type": "backend",
            "address": config.reached_at,
            "total_ram": figures.ram,
            "unified": figures.unified,
            "cpu_logical_cores": figures.cpus,
            "labels": config.labels,
            "max_replicas_per_model": config.max_replicas_per_model,
            "version": metadata.version("interlock"),
            "machine": config.machine or kept_identity(config.data),
            "replaces": config.replaces,
            **self._both(figures),
        }
        if config.vram_budget:
            body["vram_budget"] = config.vram_budget
        if config.token:
            body["token"] = config.token
        return body

    async def _heartbeat(self, *, leaving: bool = False) -> dict[str, Any]:
        return self._both(await self._figures()) | {"leaving": leaving}

    def _both(self, figures: Figures) -> dict[str, Any]:
        """What registration and heartbeat have in common. ``running`` is taken last: it must not be older than sent."""
        return {
            "total_vram": figures.vram_total,
            "available_vram": figures.vram_available,
            "available_ram": figures.ram_available,
            "total_disk": figures.disk_total,
            "available_disk": figures.disk_available,
            "gpu_vendor": figures.gpu_vendor,
            "boot": self._supervisor.boot,
            "pools": list(figures.pools),
            "used": list(figures.used),
            "ram": figures.ram,
            "disk": figures.disk,
            "running": [
                {
                    "process": running.process,
                    "replica": running.replica,
                    "model": running.model,
                    "index": running.index,
                    "address": running.address,
                }
                for running in self._supervisor.running()
            ],
        }

    async def _figures(self) -> Figures:
        # In a thread: a driver may take its time, and orders are to be answered meanwhile.
        return await asyncio.to_thread(self._meter.read, self._supervisor.pids())


def kept_identity(data: Path) -> str:
    """This machine's identity as the worker's folder keeps it, made when there is none yet."""
    path = data / "machine"
    try:
        known = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        known = ""
    if not known:
        known = f"m-{secrets.token_hex(8)}"
        data.mkdir(parents=True, exist_ok=True)
        path.write_text(known, encoding="utf-8")
    return known


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
