"""The data folder: one cluster at a time in it, and ``endpoint.json``, by which the command line finds that cluster."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec

from interlock.adapters.worker import pidfiles
from interlock.domain.errors import StoreUnavailable, Unavailable

ENDPOINT = "endpoint.json"


class AlreadyRunning(Unavailable):
    """Another cluster uses the data folder."""


class Endpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a running cluster can be reached, and with which token; the file is its owner's alone to read.

    ``run`` is what its gateway says of itself at ``/livez``: after a ``kill -9`` another's may have the same address.
    """

    url: str
    pid: int
    run: str = ""
    admin_token: str = ""


class DataFolder:
    """A data folder that this process has for itself, from :meth:`claim` to :meth:`release`, or to its death."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: int | None = None

    def claim(self) -> None:
        """Make the folder and take it; raises AlreadyRunning, and StoreUnavailable when it cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreUnavailable(
                f"the data folder {self.path} cannot be written: {error.strerror}.",
                cure="Make it writable, or name another with --data.",
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            known = read_endpoint(self.path)
            where = f" at {known.url}, process {known.pid}" if known is not None else ""
            cure = "Stop it first, or give this one a folder of its own with --data."
            raise AlreadyRunning(f"a cluster runs in {self.path} already{where}.", cure=cure) from None
        self._lock = lock
        # What an earlier run has left, when it was killed, leads nowhere.
        self._endpoint.unlink(missing_ok=True)

    def announce(self, endpoint: Endpoint) -> None:
        """Write where the cluster can be reached."""
        pidfiles.write_secret(self._endpoint, msgspec.json.encode(endpoint))

    def release(self) -> None:
        """Remove what was announced, and give the folder free; does nothing when it was not claimed."""
        if self._lock is None:
            return
        self._endpoint.unlink(missing_ok=True)
        (self.path / "up.lock").unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = None

    @property
    def _endpoint(self) -> Path:
        return self.path / ENDPOINT


def read_endpoint(data: Path) -> Endpoint | None:
    """The endpoint that a cluster in this folder has announced; None when there is none. It may have died since."""
    try:
        return msgspec.json.decode((data / ENDPOINT).read_bytes(), type=Endpoint)
    except (OSError, msgspec.DecodeError):
        return None
