"""Processes that outlive whoever started them, found again: a file per process, believed only when the process fits it.

A process id alone proves nothing, since ids are reused. A process is ours when it began when the file says and its
command line holds the mark that was put there.
"""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import msgspec
import psutil

log = logging.getLogger(__name__)

_CLOCK_SLACK_S = 2.0
"""A process's start is computed from the time since boot: it moves a little when the clock is set."""


class PidFile(msgspec.Struct, frozen=True):
    """A process as written down: its id, when it began (seconds since 1970), and a word of its command line."""

    pid: int
    created: float
    mark: str


def write(path: Path, pid: int, mark: str) -> None:
    """Write down a process that runs now. Does nothing when it has ended already."""
    try:
        created = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_bytes(msgspec.json.encode(PidFile(pid, created, mark)))
    partial.replace(path)


def find(path: Path) -> psutil.Process | None:
    """The process that the file tells of, if it still runs and is the same one."""
    try:
        noted = msgspec.json.decode(path.read_bytes(), type=PidFile)
        process = psutil.Process(noted.pid)
        same = abs(process.create_time() - noted.created) <= _CLOCK_SLACK_S
        ours = any(noted.mark in word for word in process.cmdline())
    except (OSError, msgspec.DecodeError, psutil.Error):
        return None
    return process if same and ours and process.is_running() else None


def stop_all(folder: Path, *, grace_s: float = 2.0) -> int:
    """Stop every process that a file in ``folder`` tells of, remove the files, and return how many there were."""
    found = [process for path in sorted(folder.glob("*.json")) if (process := find(path)) is not None]
    for process in found:
        log.warning("stopping process %d, left over from an earlier run", process.pid)
        send(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(found, timeout=grace_s)
    for process in alive:
        send(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=grace_s)
    for path in folder.glob("*.json"):
        path.unlink(missing_ok=True)
    return len(found)


def send(process: psutil.Process, number: signal.Signals) -> None:
    """Signal that very process: psutil compares its start time first. One that has ended is fine."""
    try:
        process.send_signal(number)
    except psutil.Error as error:
        log.debug("process %d: %s", process.pid, error)


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.unlink(missing_ok=True)
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    partial.replace(path)
